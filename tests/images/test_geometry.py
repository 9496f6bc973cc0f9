from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.errors import SizeError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import (
    Sizing,
    alpha_to_result,
    attention_from_network,
    from_network,
    place,
    to_network,
)

if TYPE_CHECKING:
    from ugatit_batch.frames import Pixels

RULE = SizeRule(multiple=4, minimum=8)


def noise(width: int, height: int) -> Pixels:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 500), (500, 3), (7, 9), (64, 64), (61, 47)])
def test_native_gives_back_the_same_pixels(width: int, height: int) -> None:
    pixels = noise(width, height)
    placement = place(width, height, Sizing(square=False, side=None), RULE)
    given = to_network(Image.fromarray(pixels), placement)
    assert given.shape == (placement.network[1], placement.network[0], 3)
    assert given.flags.writeable
    RULE.check(*given.shape[:2])
    assert np.array_equal(np.asarray(from_network(given, placement)), pixels)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 500), (500, 3), (300, 200)])
def test_square_has_its_side_and_the_result_its_size(
    fit: Literal["pad", "crop", "stretch"], width: int, height: int
) -> None:
    placement = place(width, height, Sizing(square=True, side=64, fit=fit), RULE)
    given = to_network(Image.fromarray(noise(width, height)), placement)
    assert given.shape == (64, 64, 3)
    side = min(width, height)
    assert from_network(given, placement).size == ((side, side) if fit == "crop" else (width, height))


def test_crop_takes_the_centre() -> None:
    pixels = np.zeros((64, 100, 3), np.uint8)
    pixels[:, 18:82] = 200
    placement = place(100, 64, Sizing(square=True, side=64, fit="crop"), RULE)
    assert placement.crop == (18, 0, 82, 64)
    assert (to_network(Image.fromarray(pixels), placement) == 200).all()


def test_padding_reflects() -> None:
    pixels = noise(6, 8)
    placement = place(6, 8, Sizing(square=False, side=None), RULE)
    given = to_network(Image.fromarray(pixels), placement)
    assert placement.offset == (1, 0)
    assert np.array_equal(given[:, 0], pixels[:, 1])
    assert np.array_equal(given[:, -1], pixels[:, -2])


def test_a_longest_side_limits_and_comes_back() -> None:
    placement = place(400, 100, Sizing(square=False, side=200), RULE)
    assert placement.scaled == (200, 50)
    assert placement.network == (200, 52)
    assert placement.result == (400, 100)


def test_output_size_network_leaves_the_result_small() -> None:
    placement = place(400, 100, Sizing(square=True, side=64, output="network"), RULE)
    assert placement.result == (64, 16)
    given = to_network(Image.fromarray(noise(400, 100)), placement)
    assert from_network(given, placement).size == (64, 16)


def test_a_size_the_network_does_not_take() -> None:
    with pytest.raises(SizeError, match="64×64"):
        place(30, 30, Sizing(square=True, side=64), SizeRule(fixed=(32, 32)))


@pytest.mark.parametrize("width", range(1, 1200, 7))
def test_a_scaled_decode_never_reaches_over_its_edge(width: int) -> None:
    placement = place(width, width + 3, Sizing(square=True, side=16, fit="crop"), RULE)
    drafted = Image.new("RGB", (-(-width // 8), -(-(width + 3) // 8)), (10, 20, 30))
    assert (to_network(drafted, placement) == (10, 20, 30)).all()


def test_alpha_follows_the_crop() -> None:
    alpha = Image.new("L", (20, 10), 0)
    alpha.paste(255, (5, 0, 15, 10))
    placement = place(20, 10, Sizing(square=True, side=64, fit="crop"), RULE)
    result = alpha_to_result(alpha, placement)
    assert result.size == (10, 10)
    assert result.getextrema() == (255, 255)


def test_attention_lies_over_its_picture() -> None:
    attention = np.zeros((16, 16), np.float32)
    attention[:8] = 5
    placement = place(64, 32, Sizing(square=True, side=64), RULE)
    placed = attention_from_network(attention, placement)
    assert placed.shape == (32, 64)
    assert placed.dtype == np.float32
    assert (placed[:13] == 5).all()
    assert (placed[19:] == 0).all()
