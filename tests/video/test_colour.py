from __future__ import annotations

import pytest

from ugatit_batch.video.colour import depth_of, has_alpha, is_rgb, primaries_name, unreadable_matrix
from ugatit_batch.video.info import Colour


@pytest.mark.parametrize(
    ("pix_fmt", "rgb", "depth", "alpha"),
    [
        ("yuv420p", False, 8, False),
        ("yuv444p12le", False, 12, False),
        ("yuva444p10le", False, 10, True),
        ("gbrp", True, 8, False),
        ("gbrap16le", True, 16, True),
        ("rgba", True, 8, True),
        ("pal8", True, 8, True),
        ("gray10le", False, 10, False),
        ("ya8", False, 8, True),
        ("p010le", False, 10, False),
        ("xyz12le", True, 12, False),
    ],
)
def test_what_a_format_holds(pix_fmt: str, rgb: bool, depth: int, alpha: bool) -> None:
    assert (is_rgb(pix_fmt), depth_of(pix_fmt), has_alpha(pix_fmt)) == (rgb, depth, alpha)


def test_matrices_that_cannot_be_read_have_names() -> None:
    assert [unreadable_matrix(Colour(matrix, 1, 1, 1)) for matrix in (0, 1, 5, 6, 9)] == [None] * 5
    assert unreadable_matrix(Colour(8, 1, 1, 1)) == "YCgCo"
    assert unreadable_matrix(Colour(99, 1, 1, 1)) == "matrix 99"


def test_unknown_primaries_of_hdr_are_those_of_bt2020() -> None:
    assert primaries_name(Colour(9, 1, 9, 16)) == "bt2020"
    assert primaries_name(Colour(9, 1, 12, 16)) == "smpte432"
    assert primaries_name(Colour(9, 1, 77, 16)) == "bt2020"
