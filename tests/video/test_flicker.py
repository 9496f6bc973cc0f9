from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ugatit_batch.video.flicker import Flicker, grid

from ..fakes import colours

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ugatit_batch.frames import Pixels


def flicker_of(film: Iterable[Pixels], cuts: Iterable[int] = ()) -> Flicker:
    flicker = Flicker()
    for index, pixels in enumerate(film):
        flicker.add(grid(pixels), index in cuts)
    return flicker


def flat(level: float, size: tuple[int, int] = (40, 60)) -> Pixels:
    return np.full((*size, 3), level, np.uint8)


def noisy(count: int, size: tuple[int, int] = (40, 60), seed: int = 0) -> list[Pixels]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def test_a_still_does_not_flicker() -> None:
    assert flicker_of([colours(60, 40)] * 5).figure == 0


def test_light_that_grows_steadily_does_not_flicker() -> None:
    assert flicker_of(flat(20 + 3 * t) for t in range(50)).figure == 0


@pytest.mark.parametrize("step", [1, 10])
def test_what_alternates_counts_twice_its_step(step: int) -> None:
    assert flicker_of(flat(100 + step * (t % 2)) for t in range(9)).figure == 2 * step


def test_one_flash_is_what_it_is() -> None:
    # 0, 0, 6, 0, 0: second differences of 6, 12 and 6 in one of three colours.
    film = [flat(0) for _ in range(5)]
    film[2][..., 1] = 6
    assert flicker_of(film).figure == pytest.approx((6 + 12 + 6) / 3 / 3)


def test_it_is_the_second_difference_of_mean_colours() -> None:
    film = noisy(6, (32, 48))
    means = np.stack([one.reshape(16, 2, 16, 3, 3).mean((1, 3)) for one in film])
    expected = np.abs(means[:-2] - 2 * means[1:-1] + means[2:]).mean()
    assert flicker_of(film).figure == pytest.approx(expected, abs=4 / 256)


def test_strokes_that_move_count_little() -> None:
    stripes = np.zeros((64, 96 + 8, 3), np.uint8)
    stripes[:, ::2] = 200
    moving = [stripes[:, t % 2 : t % 2 + 96] for t in range(8)]
    assert np.abs(moving[0].astype(int) - moving[1]).mean() == 200
    assert flicker_of(moving).figure == 0


@pytest.mark.parametrize(
    ("size", "cells"), [((3, 5), (3, 5)), ((17, 100), (16, 16)), ((1080, 1920), (16, 16))]
)
def test_any_size_has_a_grid(size: tuple[int, int], cells: tuple[int, int]) -> None:
    pixels = np.broadcast_to(np.array([10, 20, 30], np.uint8), (*size, 3))
    means = grid(pixels)
    assert means.shape == (*cells, 3)
    assert np.array_equal(means[-1, -1], np.array([10, 20, 30]) * 256)
    assert (means == means[0, 0]).all()


def test_every_part_of_a_large_picture_is_looked_at() -> None:
    large = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = large.repeat(1024 // 16, axis=0).repeat(1920 // 16, axis=1)
    assert np.array_equal(grid(pixels), large.astype(int) * 256)


def test_a_cut_is_no_flicker() -> None:
    film = [flat(20)] * 4 + [flat(220)] * 4
    assert flicker_of(film, [4]).figure == 0
    whole = flicker_of(film).figure
    assert whole is not None
    assert whole > 50


def test_a_scene_begins_anew_behind_a_cut() -> None:
    film = noisy(9)
    together, first, second = flicker_of(film, [4]), flicker_of(film[:4]), flicker_of(film[4:])
    assert first.figure is not None
    assert second.figure is not None
    assert together.figure == pytest.approx((2 * first.figure + 3 * second.figure) / 5)


def test_a_change_of_size_is_a_cut() -> None:
    film = [flat(20, (8, 8))] * 3 + [flat(220, (8, 12))] * 3
    assert flicker_of(film).figure == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_three_pictures_it_takes(count: int) -> None:
    assert flicker_of(noisy(count)).figure is None


def test_scenes_of_two_pictures_say_nothing() -> None:
    assert flicker_of(noisy(8), [2, 4, 6]).figure is None


@pytest.mark.parametrize("done", range(8))
def test_it_goes_on_where_it_was_left(done: int) -> None:
    film, cuts = noisy(8), {5}
    flicker = flicker_of(film[:done], cuts)
    again = Flicker.from_state(json.loads(json.dumps(flicker.state())))
    for index in range(done, 8):
        again.add(grid(film[index]), index in cuts)
    undisturbed = flicker_of(film, cuts)
    assert again.figure == undisturbed.figure
    assert again.state() == undisturbed.state()
