from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageCms

from ugatit_batch.images.colour import (
    NOTE_16_BIT,
    NOTE_CMYK,
    NOTE_PROFILE,
    choose_profile,
    from_srgb,
    split,
    to_srgb,
)

if TYPE_CHECKING:
    from ugatit_batch.frames import Pixels


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def test_swapped_primaries_swap_the_channels(photo: Pixels, swapped_icc: bytes) -> None:
    image = Image.fromarray(photo)
    profile = choose_profile(swapped_icc, "RGB")
    seen = np.asarray(to_srgb(image, profile)).astype(int)
    assert profile.icc == swapped_icc
    assert profile.notes == ()
    bright = photo.min(axis=-1) > 40
    assert np.abs(seen[..., [1, 0, 2]] - photo)[bright].max() <= 8


def test_a_wide_profile_makes_colours_stronger_and_comes_back(wide_icc: bytes) -> None:
    muted = np.random.default_rng(1).integers(110, 150, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(muted)
    profile = choose_profile(wide_icc, "RGB")
    seen = to_srgb(image, profile)
    assert difference(seen, image) > 4
    assert difference(from_srgb(seen, profile), image) <= 2


def test_srgb_itself_is_left_alone(photo: Pixels) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = choose_profile(icc, "RGB")
    image = Image.fromarray(photo)
    assert profile.icc == icc
    assert to_srgb(image, profile) is image
    assert from_srgb(image, profile) is image


def test_a_grey_profile_is_read_and_not_written(grey_icc: bytes) -> None:
    image = Image.new("L", (4, 4), 55)
    profile = choose_profile(grey_icc, "L")
    red, green, blue = to_srgb(image, profile).getpixel((0, 0))  # type: ignore[misc]
    # A linear 55/255 is 0.216, which sRGB encodes as 0.503.
    assert abs(red - 128) <= 2
    assert abs(green - red) <= 1
    assert abs(blue - red) <= 1
    assert profile.icc is None
    assert profile.notes == ()


def test_an_rgb_profile_on_a_grey_picture(swapped_icc: bytes) -> None:
    profile = choose_profile(swapped_icc, "L")
    assert profile.icc == swapped_icc
    assert (
        difference(to_srgb(Image.new("L", (4, 4), 128), profile), Image.new("RGB", (4, 4), (128,) * 3)) <= 2
    )


@pytest.mark.parametrize("cut", [4, 100, 131, 200, 400])
def test_a_damaged_profile_is_said_and_left_out(swapped_icc: bytes, cut: int) -> None:
    profile = choose_profile(swapped_icc[:cut], "RGB")
    assert profile.icc is None
    assert profile.notes == (NOTE_PROFILE,)
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    assert to_srgb(image, profile) is image


def test_a_profile_of_another_space_is_left_out(grey_icc: bytes, swapped_icc: bytes) -> None:
    assert choose_profile(grey_icc, "RGB").notes == (NOTE_PROFILE,)
    assert choose_profile(swapped_icc, "CMYK").notes == (NOTE_PROFILE,)


def test_no_profile() -> None:
    assert choose_profile(None, "RGB").notes == ()
    assert to_srgb(Image.new("L", (2, 2), 9), choose_profile(b"", "L")).getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_alpha_is_taken_away(mode: str) -> None:
    alpha = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    image = Image.new("RGB" if "RGB" in mode or mode == "PA" else "L", (8, 8), 0)
    image.putalpha(alpha)
    if mode == "PA":
        palette = Image.new("P", (8, 8), 0)
        palette.putpalette([10, 20, 30])
        palette.putalpha(alpha)
        image = palette
    elif mode.endswith("a"):
        image = image.convert(mode)
    assert image.mode == mode
    planes = split(image)
    assert planes.colours.mode in ("L", "RGB")
    assert planes.alpha is not None
    assert np.array_equal(np.asarray(planes.alpha), np.asarray(alpha))
    if mode == "PA":
        assert planes.colours.getpixel((0, 0)) == (10, 20, 30)


def test_colours_below_clear_pixels_stay() -> None:
    planes = split(Image.new("RGBA", (2, 2), (10, 200, 30, 0)))
    assert planes.colours.getpixel((0, 0)) == (10, 200, 30)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_palette_with_a_clear_entry(transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([9, 8, 7, 100, 110, 120])
    image.info["transparency"] = transparency
    planes = split(image)
    assert np.asarray(planes.colours).tolist() == [[[9, 8, 7], [100, 110, 120]]]
    assert planes.alpha is not None
    assert np.asarray(planes.alpha).tolist() == [[255, 0]]


def test_a_clear_colour() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    image.info["transparency"] = (4, 5, 6)
    planes = split(image)
    assert planes.alpha is not None
    assert np.asarray(planes.alpha).tolist() == [[255, 0]]
    assert planes.colours.getpixel((1, 0)) == (4, 5, 6)


@pytest.mark.parametrize("order", ["<", ">", "="])
def test_16_bit_grey_of_every_byte_order(order: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], "<u2")
    mode = {"<": "I;16", ">": "I;16B", "=": "I;16B" if sys.byteorder == "big" else "I;16"}[order]
    kind = "<u2" if mode == "I;16" else ">u2"
    image = Image.frombytes(mode, (4, 1), values.astype(kind).tobytes())
    planes = split(image)
    assert np.asarray(planes.colours).tolist() == [[0, 1, 128, 255]]
    assert planes.notes == (NOTE_16_BIT,)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_no_known_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        split(Image.new(mode, (2, 2)))


def test_cmyk_is_noted() -> None:
    assert split(Image.new("CMYK", (2, 2))).notes == (NOTE_CMYK,)


def test_lab_becomes_rgb() -> None:
    planes = split(Image.new("LAB", (2, 2), (255, 128, 128)))
    assert planes.colours.mode == "RGB"
    assert int(np.asarray(planes.colours).min()) >= 252


def test_one_bit_and_ycbcr() -> None:
    assert split(Image.new("1", (2, 2), 1)).colours.getpixel((0, 0)) == 255
    colours = split(Image.new("RGB", (2, 2), (200, 40, 60)).convert("YCbCr")).colours
    assert difference(colours, Image.new("RGB", (2, 2), (200, 40, 60))) <= 2


def test_one_transform_in_many_threads(wide_icc: bytes) -> None:
    profile = choose_profile(wide_icc, "RGB")
    images = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 90, 3), dtype=np.uint8))
        for seed in range(4)
    ]
    alone = [np.asarray(to_srgb(image, profile)) for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(30):
            if not np.array_equal(np.asarray(to_srgb(images[index], profile)), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
