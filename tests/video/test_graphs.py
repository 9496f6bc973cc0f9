from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from av.filter import Graph
from av.video.frame import VideoFrame
from PIL import Image

from ugatit_batch.errors import FilmError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Placement, Sizing, place, to_network
from ugatit_batch.video.colour import depth_of, is_rgb, tag
from ugatit_batch.video.graphs import FromNetwork, ToNetwork
from ugatit_batch.video.info import Colour, FilmInfo, Turn

from .film_makers import picture, planes_of, to_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ugatit_batch.frames import Pixels

UNIT = Fraction(1, 25)
OWN_SIZE = Sizing(square=False, side=None)
SQUARE = Sizing(square=True, side=64)
BT601, BT709, BT2020 = Colour(6, 1, 6, 6), Colour(1, 1, 1, 1), Colour(9, 1, 9, 14)
PQ, HLG = Colour(9, 1, 9, 16), Colour(9, 1, 9, 18)


def film(
    pix_fmt: str = "yuv420p", colour: Colour = BT709, size: tuple[int, int] = (96, 64), turn: Turn = "none"
) -> FilmInfo:
    return FilmInfo(
        Path("film.mp4"),
        0,
        *size,
        turn,
        Fraction(1),
        Colour(0, 2, 1, 13) if is_rgb(pix_fmt) else colour,
        pix_fmt,
        depth_of(pix_fmt),
        UNIT,
        Fraction(25),
        None,
        None,
    )


def there_and_back(
    frame: VideoFrame, info: FilmInfo, placement: Placement, size: tuple[int, int]
) -> VideoFrame:
    pixels, _ = ToNetwork(info, placement)(frame)
    return FromNetwork(placement, info.colour, info.pix_fmt, size, UNIT)(pixels, 0, 1)


def worst(one: VideoFrame, other: VideoFrame) -> list[int]:
    """The largest difference of each plane, where both are."""
    found = []
    for a, b in zip(planes_of(one), planes_of(other), strict=True):
        height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
        found.append(int(np.abs(a[:height, :width] - b[:height, :width]).max()))
    return found


def flat(pix_fmt: str, values: tuple[int, ...], size: tuple[int, int] = (32, 32)) -> VideoFrame:
    """A frame of one colour, given in the format's own numbers."""
    frame = VideoFrame(*size, pix_fmt)
    kind = np.uint16 if depth_of(pix_fmt) > 8 else np.uint8
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, value, kind).tobytes())
    return frame


@pytest.mark.parametrize("colour", [BT601, BT709, BT2020, Colour(1, 2, 1, 1), Colour(5, 2, 5, 6)], ids=str)
@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuvj420p"],
)
def test_pictures_of_the_networks_own_size_come_through(pix_fmt: str, colour: Colour) -> None:
    colour = replace(colour, range=2) if pix_fmt.startswith("yuvj") else colour
    info = film(pix_fmt, colour)
    frame = to_format(picture(7), pix_fmt, colour)
    # Away from what 8-bit RGB can say exactly.
    even = np.array([0xFE, 0xFF] if info.depth > 8 else [0xFE, 0xFE], np.uint8)
    for plane in frame.planes[1:]:
        numbers = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, 2)
        plane.update((numbers & even).tobytes())

    back = there_and_back(frame, info, place(96, 64, OWN_SIZE, SizeRule()), (96, 64))

    luma, *chroma = worst(frame, back)
    level = 1 << (info.depth - 8)
    assert luma <= level
    assert max(chroma) <= 2 * level
    assert (back.format.name, back.width, back.height) == (pix_fmt, 96, 64)
    tags = (back.colorspace, back.color_range, back.color_primaries, back.color_trc)
    assert tags == (colour.matrix, colour.range, colour.primaries, colour.transfer)


def test_what_comes_back_carries_its_time() -> None:
    placement = place(96, 64, OWN_SIZE, SizeRule())
    frame = FromNetwork(placement, BT709, "yuv420p", (96, 64), Fraction(1, 90000))(picture(0), 12345, 77)

    assert (frame.pts, frame.time_base, frame.duration) == (12345, Fraction(1, 90000), 77)
    assert frame.pict_type == 0


@pytest.mark.parametrize("pix_fmt", ["gbrp", "gbrp10le"])
def test_rgb_films_keep_their_numbers(pix_fmt: str) -> None:
    info = film(pix_fmt)
    frame = to_format(picture(3), pix_fmt, info.colour)

    back = there_and_back(frame, info, place(96, 64, OWN_SIZE, SizeRule()), (96, 64))

    assert worst(frame, back) == [0, 0, 0]
    assert (back.colorspace, back.color_range) == (0, 2)


def test_grey_and_packed_formats_are_read() -> None:
    placement = place(32, 32, OWN_SIZE, SizeRule())
    grey = flat("gray", (128,))
    pixels, _ = ToNetwork(film("gray", Colour(6, 2, 6, 6), (32, 32)), placement)(grey)
    assert np.abs(pixels.astype(int) - 128).max() <= 1

    packed = to_format(np.full((32, 32, 3), 90, np.uint8), "uyvy422", BT709)
    pixels, _ = ToNetwork(film("uyvy422", BT709, (32, 32)), placement)(packed)
    assert np.abs(pixels.astype(int) - 90).max() <= 1


@pytest.mark.parametrize("colour", [BT709, BT601, Colour(1, 2, 1, 1), Colour(6, 2, 6, 6)], ids=str)
def test_the_films_own_matrix_and_range_are_used(colour: Colour) -> None:
    frame = flat("yuv420p", (80, 134, 196))
    placement = place(32, 32, OWN_SIZE, SizeRule())

    pixels, _ = ToNetwork(film("yuv420p", colour, (32, 32)), placement)(frame)

    luma, blue, red = (80 - 16) / 219, (134 - 128) / 224, (196 - 128) / 224
    if colour.range == 2:
        luma, blue, red = 80 / 255, (134 - 128) / 255, (196 - 128) / 255
    share_red, share_blue = (0.2126, 0.0722) if colour.matrix == 1 else (0.299, 0.114)
    r, b = luma + 2 * (1 - share_red) * red, luma + 2 * (1 - share_blue) * blue
    g = (luma - share_red * r - share_blue * b) / (1 - share_red - share_blue)
    exact = np.clip(np.array([r, g, b]) * 255, 0, 255)
    assert np.abs(pixels.reshape(-1, 3) - exact).max() <= 1.5


@pytest.mark.parametrize("turn", get_args(Turn))
@pytest.mark.parametrize("fit", ["whole", "crop"])
def test_pictures_are_turned_upright(turn: Turn, fit: str) -> None:
    stored = picture(20, 96, 64)
    upright = stored[:, ::-1] if turn.startswith("flip") else stored
    quarters = {"right": 3, "half": 2, "left": 1}.get(turn.removeprefix("flip_"), 0)
    upright = np.ascontiguousarray(np.rot90(upright, quarters))
    height, width = upright.shape[:2]
    info = film("gbrp", size=(width, height), turn=turn)
    sizing = Sizing(square=True, side=64, fit="crop") if fit == "crop" else OWN_SIZE
    placement = place(width, height, sizing, SizeRule())

    pixels, _ = ToNetwork(info, placement)(to_format(stored, "gbrp", info.colour))

    left, top, right, bottom = placement.crop
    assert np.array_equal(pixels, upright[top:bottom, left:right])


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(97, 65), (65, 97), (200, 120)])
def test_scaling_and_reflection_are_those_of_pictures(fit: str, size: tuple[int, int]) -> None:
    pixels = picture(5, *size)
    placement = place(*size, replace(SQUARE, fit=fit), SizeRule())  # type: ignore[arg-type]
    expected = to_network(Image.fromarray(pixels), placement).astype(int)

    given, _ = ToNetwork(film("yuv444p", size=size), placement)(to_format(pixels, "yuv444p", BT709))

    assert given.shape == expected.shape == (64, 64, 3)
    assert given.dtype == np.uint8
    assert given.flags.owndata
    assert np.abs(given - expected).mean() < 1.5
    assert np.abs(given - expected).max() < 12


def test_an_odd_crop_of_subsampled_chroma_is_exact() -> None:
    pixels = picture(5, 98, 64)
    placement = place(98, 64, replace(SQUARE, fit="crop"), SizeRule())
    assert placement.crop[0] % 2 == 1

    given, _ = ToNetwork(film("yuv420p", size=(98, 64)), placement)(to_format(pixels, "yuv420p", BT709))

    left, top, right, bottom = placement.crop
    assert np.abs(given - pixels[top:bottom, left:right].astype(int)).max() <= 4


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_odd_sizes_come_back_with_their_last_row_and_column_repeated(pix_fmt: str) -> None:
    info = film(pix_fmt, size=(97, 65))
    frame = to_format(picture(7, 97, 65), pix_fmt, BT709)

    back = there_and_back(frame, info, place(97, 65, OWN_SIZE, SizeRule()), (98, 66))

    luma, *chroma = worst(frame, back)
    level = 1 << (info.depth - 8)
    assert luma <= level
    assert max(chroma) <= 2 * level
    rows = planes_of(back)[0]
    assert rows.shape == (66, 98)
    assert np.abs(rows[:, 97] - rows[:, 96]).max() <= level
    assert np.abs(rows[65] - rows[64]).max() <= level


def test_scaled_results_of_odd_size_are_widened_too() -> None:
    placement = place(97, 65, SQUARE, SizeRule())
    pixels = np.ascontiguousarray(picture(9, 64, 64))

    frame = FromNetwork(placement, BT709, "yuv420p", (98, 66), UNIT)(pixels, 0, 1)

    luma = planes_of(frame)[0]
    assert luma.shape == (66, 98)
    assert np.abs(luma[:, 97] - luma[:, 96]).max() <= 1
    (x, y), (width, height) = placement.offset, placement.scaled
    image = Image.fromarray(pixels[y : y + height, x : x + width])
    expected = np.asarray(image.resize((97, 65), Image.Resampling.LANCZOS))
    wanted = planes_of(to_format(expected, "yuv444p", BT709))[0]
    assert np.abs(luma[:65, :97] - wanted).mean() < 1


def test_only_sizes_larger_by_one_are_taken() -> None:
    placement = place(97, 65, OWN_SIZE, SizeRule())
    with pytest.raises(ValueError, match="larger by one"):
        FromNetwork(placement, BT709, "yuv420p", (100, 66), UNIT)


def test_a_film_that_changes_size_and_format_goes_on() -> None:
    convert = ToNetwork(film("yuv420p"), place(96, 64, SQUARE, SizeRule()))
    first, _ = convert(to_format(picture(5), "yuv420p", BT709))

    for size, pix_fmt in (((192, 128), "yuv420p"), ((96, 64), "yuv444p10le"), ((48, 32), "gbrp")):
        colour = Colour(0, 2, 1, 13) if pix_fmt == "gbrp" else BT709
        large = Image.fromarray(picture(5)).resize(size, Image.Resampling.BICUBIC)
        given, cut = convert(to_format(np.asarray(large), pix_fmt, colour))
        assert given.shape == first.shape
        assert np.abs(given.astype(int) - first).mean() < 2
        assert not cut


def test_scenes_are_found_and_the_first_picture_starts_one() -> None:
    convert = ToNetwork(film("gbrp"), place(96, 64, OWN_SIZE, SizeRule()))
    shots = [picture(k) for k in range(5)] + [255 - picture(k) for k in range(5)]

    cuts = [convert(to_format(pixels, "gbrp", film("gbrp").colour))[1] for pixels in shots]

    assert cuts == [True] + [False] * 4 + [True] + [False] * 4


@pytest.mark.parametrize("colour", [PQ, HLG])
def test_hdr_is_tone_mapped_and_not_washed_out(colour: Colour) -> None:
    """Grey steps of 0 to 1000 nits keep their order; black stays black, white is bright, darks are dark.

    The last patch is red of BT.709 at 100 nits.
    """
    signal = _pq if colour is PQ else _hlg
    nits = np.array([0.0, 1, 10, 100, 203, 1000])
    red = signal(np.array([0.6274, 0.0691, 0.0164]) * 100)
    luma = float(red @ [0.2627, 0.678, 0.0593])
    lumas = [*(signal(nits) * 876 + 64), luma * 876 + 64]
    frame = VideoFrame(32 * 7, 32, "yuv420p10le")
    blues, reds = [512.0] * 7, [512.0] * 7
    blues[6] += (red[2] - luma) / 1.8814 * 896
    reds[6] += (red[0] - luma) / 1.4746 * 896
    for plane, codes, width in zip(frame.planes, (lumas, blues, reds), (32, 16, 16), strict=True):
        row = np.zeros(plane.line_size // 2, np.uint16)
        row[: 7 * width] = np.repeat(np.round(codes), width)
        plane.update(np.resize(row, plane.buffer_size // 2).tobytes())

    placement = place(32 * 7, 32, OWN_SIZE, SizeRule())
    pixels, _ = ToNetwork(film("yuv420p10le", colour, (32 * 7, 32)), placement)(frame)

    patches = pixels[16, 16::32].astype(int)
    assert np.ptp(patches[:6], axis=1).max() <= 4
    black, darkest, dark, grey, paper, bright = levels = [int(patch.mean()) for patch in patches[:6]]
    assert levels == sorted(levels)
    assert black <= 6
    assert 5 <= darkest <= 45
    assert 35 <= dark <= 85
    assert 95 <= grey <= 160
    assert 130 <= paper <= 200
    assert 180 <= bright <= 255
    assert patches[6, 0] > 90
    assert patches[6, 1:].max() < patches[6, 0] / 2


def test_what_no_filter_takes_is_a_film_error() -> None:
    info = film("yuv420p", Colour(14, 1, 9, 16))
    with pytest.raises(FilmError, match=r"film\.mp4.*could not be converted"):
        ToNetwork(info, place(96, 64, OWN_SIZE, SizeRule()))(to_format(picture(0), "yuv420p", BT709))


def test_threads_do_not_change_the_result() -> None:
    pixels = picture(11, 200, 120)
    placement = place(200, 120, SQUARE, SizeRule())
    given: list[Pixels] = []
    back: list[NDArray[np.int64]] = []
    for threads in (1, 3):
        found, _ = ToNetwork(film(size=(200, 120)), placement, threads)(to_format(pixels, "yuv420p", BT709))
        given.append(found)
        frame = FromNetwork(placement, BT709, "yuv420p", (200, 120), UNIT, threads)(found, 0, 1)
        back.append(planes_of(frame)[0])

    assert np.array_equal(given[0], given[1])
    assert np.array_equal(back[0], back[1])


def test_reading_does_not_need_the_frames_own_tags() -> None:
    """The film's tags count, so that a frame without any is read like its neighbours."""
    placement = place(96, 64, OWN_SIZE, SizeRule())
    bare, tagged = (to_format(picture(4), "yuv420p", BT601) for _ in range(2))
    tag(bare, Colour(2, 0, 2, 2))
    tag(tagged, BT601)
    info = film("yuv420p", BT601)

    assert np.array_equal(ToNetwork(info, placement)(bare)[0], ToNetwork(info, placement)(tagged)[0])


def _pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """SMPTE ST 2084: absolute luminance to signal, 0 to 1."""
    powered = np.power(nits / 10000, 0.1593017578125)
    signal: NDArray[np.float64] = np.power(
        (0.8359375 + 18.8515625 * powered) / (1 + 18.6875 * powered), 78.84375
    )
    return signal


def _hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R BT.2100: luminance of grey on a display of 1000 nits to signal, 0 to 1."""
    scene = np.power(np.maximum(nits, 0) / 1000, 1 / 1.2)
    low = np.sqrt(3 * scene)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-6)) + 0.55991073
    return np.where(scene <= 1 / 12, low, high)


def test_filters_that_films_need_are_built_in() -> None:
    for name in ("scdet", "fillborders", "pad", "transpose", "crop", "scale"):
        assert Graph().add(name, {"pad": "8:8", "crop": "8:8"}.get(name)).name
