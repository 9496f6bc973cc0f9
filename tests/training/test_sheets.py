from __future__ import annotations

import numpy as np
import pytest

from ugatit_batch.images.sidecars import overlay
from ugatit_training.sheets import Looked, attention_sheet, contact_sheet, levels, sheet

from ..fakes import colours

SIDE, GAP, HEADER = 128, 6, 24
PITCH = SIDE + GAP


def cells(image: object, columns: int, rows: int) -> list[list[np.ndarray]]:
    """The pictures of a sheet of 128² ones."""
    page = np.asarray(image)
    assert page.shape == (HEADER + PITCH * rows, GAP + PITCH * columns, 3)
    return [
        [
            page[HEADER + y * PITCH : HEADER + y * PITCH + SIDE, GAP + x * PITCH : GAP + x * PITCH + SIDE]
            for x in range(columns)
        ]
        for y in range(rows)
    ]


def looked(index: int, *maps: str) -> Looked:
    """A picture with a map for each network that has one: a slope of its own direction."""
    y, x = np.mgrid[0:8, 0:8].astype(np.float32)
    slopes = {"generator": x + index, "local": y - 20, "global_": x + y}
    return Looked(
        colours(SIDE, SIDE, index), colours(SIDE, SIDE, index + 50), **{name: slopes[name] for name in maps}
    )


def test_the_attention_of_three_networks_lies_over_what_each_saw() -> None:
    pairs = [looked(index, "generator", "local", "global_") for index in range(3)]
    for row, one in zip(cells(attention_sheet(pairs), 5, 3), pairs, strict=True):
        assert one.generator is not None
        assert one.local is not None
        assert one.global_ is not None
        np.testing.assert_array_equal(row[0], one.source)
        np.testing.assert_array_equal(row[1], overlay(one.source, levels(one.generator, SIDE)))
        np.testing.assert_array_equal(row[2], overlay(one.result, levels(one.local, SIDE)))
        np.testing.assert_array_equal(row[3], overlay(one.result, levels(one.global_, SIDE)))
        np.testing.assert_array_equal(row[4], one.result)


@pytest.mark.parametrize("maps", [("generator",), ("local", "global_")])
def test_networks_without_attention_have_no_column(maps: tuple[str, ...]) -> None:
    one = looked(0, *maps)
    row = cells(attention_sheet([one]), 2 + len(maps), 1)[0]
    under = one.source if maps == ("generator",) else one.result
    attention = getattr(one, maps[0])
    np.testing.assert_array_equal(row[1], overlay(under, levels(attention, SIDE)))
    np.testing.assert_array_equal(row[-1], one.result)


def test_without_any_attention_there_is_no_sheet() -> None:
    assert attention_sheet([looked(0)]) is None


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 2, 1), (4, 8, 1), (6, 8, 2)])
def test_a_contact_sheet_has_four_pairs_across(count: int, columns: int, rows: int) -> None:
    pairs = [looked(index) for index in range(count)]
    found = [cell for row in cells(contact_sheet(pairs), columns, rows) for cell in row]
    expected = [picture for one in pairs for picture in (one.source, one.result)]
    for cell, picture in zip(found, expected, strict=False):
        np.testing.assert_array_equal(cell, picture)
    for cell in found[len(expected) :]:
        assert (cell == 255).all()


def test_titles_stand_above_their_columns() -> None:
    page = np.asarray(sheet(["source", "", "result"], [[colours(SIDE, SIDE)] * 3], SIDE))
    ink = np.asarray((page[:HEADER] < 128).any(axis=(0, 2)))
    columns = [ink[GAP + x * PITCH : GAP + (x + 1) * PITCH].any() for x in range(3)]
    assert columns == [True, False, True]


@pytest.mark.parametrize(("side", "largest", "cell"), [(32, 256, 128), (200, 256, 200), (256, 192, 192)])
def test_cells_are_large_enough_to_see_and_not_larger_than_asked(side: int, largest: int, cell: int) -> None:
    page = sheet(["one"], [[colours(side, side)]], largest)
    assert page.size == (cell + 2 * GAP, HEADER + cell + GAP)


def test_small_pictures_are_enlarged_without_blur() -> None:
    page = np.asarray(sheet(["one"], [[colours(32, 32)]], 256))
    np.testing.assert_array_equal(page[HEADER : HEADER + 128 : 4, GAP : GAP + 128 : 4], colours(32, 32))


def test_levels_span_the_maps_own_range_also_below_0() -> None:
    slope = np.linspace(-7, -5, 16, dtype=np.float32)[None].repeat(16, 0)
    found = levels(slope, 64)
    assert found.shape == (64, 64)
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == 255).all()
    assert (np.diff(found[10].astype(int)) >= 0).all()


def test_flat_and_broken_maps_do_not_divide_by_0() -> None:
    for flat in (np.zeros((4, 4)), np.full((4, 4), 1e6) + np.random.default_rng(0).uniform(0, 0.1, (4, 4))):
        assert (levels(flat.astype(np.float32), 16) == 0).all()
    broken = np.array([[np.nan, 1], [2, np.inf]], np.float32)
    assert levels(broken, 16).max() == 255
