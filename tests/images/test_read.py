from __future__ import annotations

import os
import struct
import sys
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from ugatit_batch.errors import PictureError, SizeError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images import read
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.read import PICTURE_SUFFIXES, open_picture

from ..fakes import TURNED
from .support import pixels_of, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture

# Pillow warns of damaged files; outside of tests `picture.py` keeps that from the terminal.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("png", {}),
    ("webp", {"lossless": True}),
    ("tiff", {}),
    ("tif", {"compression": "tiff_lzw"}),
    ("bmp", {}),
    ("ppm", {}),
    ("tga", {}),
    ("tga", {"compression": "tga_rle"}),
    ("jp2", {}),
    ("qoi", {}),
]
LOSSY: list[tuple[str, dict[str, Any]]] = [
    ("jpg", {}),
    ("jpeg", {"progressive": True}),
    ("webp", {}),
    ("avif", {}),
    ("gif", {}),
]


def animation(path: Path, **options: Any) -> list[Image.Image]:
    """Four frames in which a square walks."""
    frames = []
    for index in range(4):
        frame = Image.new("RGB", (32, 24), (20, 60, 120))
        frame.paste((250, 200, 30), (index * 8, 4, index * 8 + 8, 12))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 80, 120, 200], **options)
    return frames


@pytest.mark.parametrize(("suffix", "options"), LOSSLESS)
def test_lossless_formats_give_their_pixels(
    tmp_path: Path, noise: Pixels, opened: Callable[..., Picture], suffix: str, options: dict[str, Any]
) -> None:
    picture = opened(save(tmp_path / f"a.{suffix}", noise, **options))
    assert np.array_equal(pixels_of(picture), noise)
    assert picture.size == (56, 40)
    assert picture.frame_count == 1
    assert picture.notes == []
    assert f".{suffix}" in PICTURE_SUFFIXES


@pytest.mark.parametrize(("suffix", "options"), LOSSY)
def test_lossy_formats_come_close(
    tmp_path: Path, photo: Pixels, opened: Callable[..., Picture], suffix: str, options: dict[str, Any]
) -> None:
    picture = opened(save(tmp_path / f"a.{suffix}", photo, **options))
    assert np.abs(pixels_of(picture).astype(int) - photo).mean() < 6


@pytest.mark.parametrize(("suffix", "options"), LOSSLESS + LOSSY)
def test_every_cut_is_an_error_or_the_whole_picture(
    tmp_path: Path, noise: Pixels, opened: Callable[..., Picture], suffix: str, options: dict[str, Any]
) -> None:
    path = save(tmp_path / f"a.{suffix}", noise, **options)
    data, whole = path.read_bytes(), pixels_of(opened(path))
    errors = 0
    for length in [0, 1, 7, 12, 20, 30, *range(40, len(data), max(1, len(data) // 25)), len(data) - 1]:
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(pixels_of(opened(path)), whole)
        except PictureError as error:
            errors += 1
            assert str(path) in error.message  # noqa: PT017
            assert error.hint  # noqa: PT017
    assert errors >= 25


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_every_cut_of_an_animation_is_an_error_or_whole(
    tmp_path: Path, opened: Callable[..., Picture], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    animation(path)
    data, whole = path.read_bytes(), np.stack(list(opened(path).frames()))
    errors = 0
    for length in range(0, len(data), max(1, len(data) // 50)):
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(np.stack(list(opened(path).frames())), whole)
        except PictureError as error:
            errors += 1
            assert str(path) in error.message  # noqa: PT017
    assert errors >= 40


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"this is no picture, whatever its name says " * 30, "not a picture"),
        (bytes(3000), "not a picture"),
    ],
)
def test_no_picture(
    tmp_path: Path, opened: Callable[..., Picture], suffix: str, content: bytes, message: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=message) as caught:
        opened(path)
    assert str(path) in caught.value.message


def test_missing_folder_pipe_and_loop(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    with pytest.raises(PictureError, match="no such file"):
        opened(tmp_path / "missing.png")
    with pytest.raises(PictureError, match="is not a file"):
        opened(tmp_path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(PictureError, match=r"loop\.png: cannot be opened"):
        opened(tmp_path / "loop.png")
    with pytest.raises(PictureError, match="cannot be opened"):
        opened(tmp_path / ("n" * 300 + ".png"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(PictureError, match="is not a file"):
            opened(tmp_path / "pipe.png")


def test_a_file_that_may_not_be_read(
    tmp_path: Path, photo: Pixels, opened: Callable[..., Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", photo)

    def refuse(self: Path, mode: str = "r") -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match="may not be read"):
        opened(path)


@pytest.mark.parametrize("name", ["-a b.png", "写真 ñ.png", "é" * 123 + ".png", "a\nb.png", "no suffix"])
def test_names(tmp_path: Path, noise: Pixels, opened: Callable[..., Picture], name: str) -> None:
    path = save(tmp_path / name, noise, format="PNG")
    assert np.array_equal(pixels_of(opened(path)), noise)


def test_the_content_decides_and_not_the_suffix(
    tmp_path: Path, noise: Pixels, opened: Callable[..., Picture]
) -> None:
    picture = opened(save(tmp_path / "from a messenger.jpg", noise, format="WEBP", lossless=True))
    assert np.array_equal(pixels_of(picture), noise)
    assert picture.format == "WEBP"


def png_of_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(16384, 16385), (30000, 30000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb(tmp_path: Path, opened: Callable[..., Picture], size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(*size))
    with pytest.raises(PictureError, match="more than 268 million pixels"):
        opened(path)


def test_a_size_between_pillows_limits_and_ours(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_of_size(11000, 11000))
    with pytest.raises(PictureError, match="cut short or damaged"):
        opened(path)


def test_a_size_the_network_does_not_take_names_the_file(tmp_path: Path, photo: Pixels) -> None:
    path = save(tmp_path / "a.png", photo)
    with pytest.raises(SizeError, match=r"a\.png: 64×64"):
        open_picture(path, Sizing(square=True, side=64), SizeRule(fixed=(32, 32)))


HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_heic_without_its_library(
    tmp_path: Path, opened: Callable[..., Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    read._register_heif.cache_clear()
    (tmp_path / "IMG_0001.HEIC").write_bytes(HEIC_HEAD)
    with pytest.raises(PictureError, match="pillow-heif") as caught:
        opened(tmp_path / "IMG_0001.HEIC")
    assert "ugatit-batch[heif]" in caught.value.hint
    read._register_heif.cache_clear()


def test_heic(tmp_path: Path, photo: Pixels, opened: Callable[..., Picture]) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture = opened(save(tmp_path / "a.heic", photo, quality=95))
    assert picture.format == "HEIF"
    assert np.abs(pixels_of(picture).astype(int) - photo).mean() < 6
    path = tmp_path / "a.heic"
    data = path.read_bytes()
    for length in range(24, len(data) - 1, len(data) // 10):
        path.write_bytes(data[:length])
        with pytest.raises(PictureError, match=r"a\.heic"):
            opened(path)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The pixels as a camera stores them, for this orientation."""
    method = TURNED[orientation]
    return image if method is None else image.transpose(method)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_orientation_of_colours_and_alpha(
    tmp_path: Path, noise: Pixels, opened: Callable[..., Picture], orientation: int, suffix: str
) -> None:
    image = Image.fromarray(noise)
    image.putalpha(Image.fromarray(noise[..., 1]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "kept"
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    turned(image, orientation).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    picture = opened(tmp_path / f"a.{suffix}")
    assert picture.size == (56, 40)
    assert np.array_equal(pixels_of(picture), noise)
    alpha = picture.alpha(0)
    assert alpha is not None
    assert np.array_equal(np.asarray(alpha), noise[..., 1])
    result = Image.Exif()
    result.load(picture.metadata.exif or b"")
    assert result.get(ExifTags.Base.Orientation, 1) == 1
    assert result[ExifTags.Base.Artist] == "kept"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [None, 8])
def test_orientation_of_a_jpeg(
    tmp_path: Path, photo: Pixels, opened: Callable[..., Picture], orientation: int, side: int | None
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned(Image.fromarray(photo), orientation).save(tmp_path / "a.jpg", exif=exif, quality=97)
    picture = opened(tmp_path / "a.jpg", Sizing(square=False, side=side))
    assert picture.size == (56, 40)
    expected = Image.fromarray(photo).resize(picture.placement.scaled, Image.Resampling.LANCZOS)
    (x, y), (width, height) = picture.placement.offset, picture.placement.scaled
    seen = pixels_of(picture)[y : y + height, x : x + width]
    assert np.abs(seen.astype(int) - np.asarray(expected)).mean() < 5


def test_damaged_exif_is_left_out_and_said(
    tmp_path: Path, photo: Pixels, opened: Callable[..., Picture]
) -> None:
    good = Image.Exif()
    good[ExifTags.Base.Artist] = "somebody with a long name"
    for index, exif in enumerate([b"Exif\0\0rubbish", b"Exif\0\0" + good.tobytes()[6:-12], b"Exif\0\0II*\0"]):
        picture = opened(save(tmp_path / f"{index}.jpg", photo, exif=exif))
        assert picture.notes == ["the EXIF data was damaged and was left out"]
        assert picture.metadata.exif is None
        assert picture.size == (56, 40)


def test_a_large_jpeg_is_decoded_smaller(
    tmp_path: Path, opened: Callable[..., Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = np.mgrid[0:602, 0:901]
    pixels = np.stack([x // 4, y // 3, (x + y) // 6], axis=-1).astype(np.uint8)
    path = save(tmp_path / "a.jpg", pixels, quality=95)
    sizes: list[tuple[int, int]] = []
    original = Image.Image.resize

    def spy(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        sizes.append(self.size)
        return original(self, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    picture = opened(path, Sizing(square=True, side=64, fit="crop"))
    assert sizes == [(226, 151)]
    assert picture.size == (901, 602)
    assert picture.placement.result == (602, 602)
    whole = Image.fromarray(pixels).crop(picture.placement.crop)
    expected = original(whole, (64, 64), Image.Resampling.LANCZOS)
    assert np.abs(pixels_of(picture).astype(int) - np.asarray(expected)).max() <= 6
    sizes.clear()
    opened(path, Sizing(square=False, side=500))
    assert sizes == [(901, 602)]


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif"])
def test_tiny_pictures(
    tmp_path: Path, opened: Callable[..., Picture], size: tuple[int, int], suffix: str
) -> None:
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / f"a.{suffix}")
    for sizing in (Sizing(square=False, side=None), Sizing(square=True, side=32)):
        frame = pixels_of(opened(tmp_path / f"a.{suffix}", sizing))
        assert np.abs(frame.astype(int) - (200, 100, 50)).max() <= 8


@pytest.mark.parametrize(
    ("suffix", "options", "plays"),
    [
        ("gif", {}, 1),
        ("gif", {"loop": 0}, 0),
        ("gif", {"loop": 3}, 4),
        ("webp", {"loop": 3, "lossless": True}, 3),
        ("png", {"loop": 3}, 3),
        ("avif", {}, 0),
    ],
)
def test_animations(
    tmp_path: Path, opened: Callable[..., Picture], suffix: str, options: dict[str, Any], plays: int
) -> None:
    frames = animation(tmp_path / f"a.{suffix}", **options)
    picture = opened(tmp_path / f"a.{suffix}")
    assert picture.frame_count == 4
    assert picture.plays == plays
    for _ in range(2):
        seen = list(picture.frames())
        assert picture.durations == [40, 80, 120, 200]
        for given, expected in zip(seen, frames, strict=True):
            error = np.abs(given.astype(int) - np.asarray(expected)).mean()
            assert error <= (4 if suffix == "avif" else 0)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_frames_are_composed_as_shown(tmp_path: Path, opened: Callable[..., Picture], suffix: str) -> None:
    frames = []
    for index in range(3):
        frame = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        frame.paste((250, 0, 0, 255), (index * 4, 0, index * 4 + 4, 8))
        frame.putpixel((index * 4 + 1, 2), (0, 0, 0, 0))
        frames.append(frame)
    options = {"lossless": True} if suffix == "webp" else {"disposal": 2 if suffix == "gif" else 1}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=50, **options)
    picture = opened(tmp_path / f"a.{suffix}")
    seen = list(picture.frames())
    for index, frame in enumerate(frames):
        alpha = picture.alpha(index)
        assert alpha is not None
        assert np.array_equal(np.asarray(alpha), np.asarray(frame)[..., 3])
        shown = np.asarray(frame)[..., 3] == 255
        assert (seen[index][shown] == (250, 0, 0)).all()


def test_a_default_image_is_no_frame(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    shown = [Image.new("RGB", (16, 16), (0, value, 0)) for value in (50, 100)]
    Image.new("RGB", (16, 16), (255, 0, 0)).save(
        tmp_path / "a.png", save_all=True, append_images=shown, default_image=True, duration=[70, 90]
    )
    picture = opened(tmp_path / "a.png")
    assert [int(frame[0, 0, 1]) for frame in picture.frames()] == [50, 100]
    assert picture.durations == [70, 90]


def test_an_animation_that_is_too_much(
    tmp_path: Path, opened: Callable[..., Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    animation(tmp_path / "a.gif")
    monkeypatch.setattr(read, "ANIMATION_LIMIT", 4 * 32 * 24 - 1)
    with pytest.raises(PictureError, match="4 frames of 32×24") as caught:
        opened(tmp_path / "a.gif")
    assert "film" in caught.value.hint


def test_a_frame_damaged_behind_the_first(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    animation(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    at = data.rindex(b"fdAT")
    (tmp_path / "a.png").write_bytes(data[: at + 8] + bytes(10) + data[at + 18 :])
    picture = opened(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"a\.png: is damaged at frame 4"):
        list(picture.frames())


def test_pages_and_mpo(tmp_path: Path, photo: Pixels, opened: Callable[..., Picture]) -> None:
    image = Image.fromarray(photo)
    image.save(tmp_path / "a.tiff", save_all=True, append_images=[image.rotate(90)] * 2)
    picture = opened(tmp_path / "a.tiff")
    assert picture.notes == ["only the first of 3 pages was translated"]
    assert np.array_equal(pixels_of(picture), photo)
    image.save(tmp_path / "b.jpg", format="MPO", save_all=True, append_images=[image], quality=95)
    picture = opened(tmp_path / "b.jpg")
    assert (picture.format, picture.frame_count, picture.notes) == ("MPO", 1, [])
    assert opened(tmp_path / "b.jpg", Sizing(square=True, side=8)).size == (56, 40)


def test_many_threads_read_what_one_reads(
    tmp_path: Path, opened: Callable[..., Picture], wide_icc: bytes
) -> None:
    paths = []
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for suffix in ("jpg", "png", "webp"):
            paths.append(save(tmp_path / f"{seed}.{suffix}", pixels, icc_profile=wide_icc))
        animation(tmp_path / f"{seed}.gif")
        paths.append(tmp_path / f"{seed}.gif")
    alone = [np.stack(list(opened(path).frames())) for path in paths]
    wrong: list[Path] = []

    def work(first: int) -> None:
        for index in [*range(first, len(paths)), *range(first)]:
            if not np.array_equal(np.stack(list(opened(paths[index]).frames())), alone[index]):
                wrong.append(paths[index])

    threads = [threading.Thread(target=work, args=(number * 4,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
