from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ugatit_batch.errors import PictureError
from ugatit_batch.images.colour import NOTE_16_BIT, NOTE_CMYK, NOTE_PROFILE

from .support import pixels_of, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture

# Pillow warns of damaged files; outside of tests `picture.py` keeps that from the terminal.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def test_grey_palette_and_one_bit(tmp_path: Path, noise: Pixels, opened: Callable[..., Picture]) -> None:
    grey = Image.fromarray(noise[..., 0])
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(pixels_of(opened(tmp_path / "grey.png")), np.asarray(grey.convert("RGB")))
    bits = grey.point([0] * 128 + [255] * 128).convert("1")
    for suffix in ("png", "tiff", "pbm"):
        bits.save(tmp_path / f"bits.{suffix}")
        assert np.array_equal(pixels_of(opened(tmp_path / f"bits.{suffix}")), np.asarray(bits.convert("RGB")))
    palette = Image.fromarray(noise).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    picture = opened(tmp_path / "palette.png")
    assert np.array_equal(pixels_of(picture), np.asarray(palette.convert("RGB")))
    alpha = picture.alpha(0)
    assert alpha is not None
    assert np.array_equal(np.asarray(alpha) == 0, np.asarray(palette) == 3)


@pytest.mark.parametrize("suffix", ["png", "tiff", "jp2", "pgm"])
def test_16_bit_grey(tmp_path: Path, opened: Callable[..., Picture], suffix: str) -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    picture = opened(tmp_path / f"a.{suffix}")
    assert np.array_equal(pixels_of(picture)[..., 1], np.arange(256).reshape(16, 16))
    assert picture.notes == [NOTE_16_BIT]


def png_16_bit(colours: Any, kind: int) -> bytes:
    """A PNG of 16 bits a channel, from big-endian H×W×C values."""
    height, width = colours.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_png_of_several_channels(
    tmp_path: Path, opened: Callable[..., Picture], kind: int, channels: int
) -> None:
    values = np.random.default_rng(1).integers(0, 256, (9, 8, channels))
    path = tmp_path / "a.png"
    path.write_bytes(png_16_bit(values * 257, kind))
    picture = opened(path)
    assert picture.notes == [NOTE_16_BIT]
    (_, y) = picture.placement.offset
    seen = pixels_of(picture)[y : y + 9]
    assert np.array_equal(seen, values[..., :3] if channels >= 3 else values[..., [0, 0, 0]])
    alpha = picture.alpha(0)
    assert (alpha is not None) is (channels in (2, 4))
    if alpha is not None:
        assert np.array_equal(np.asarray(alpha), values[..., -1])


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_rgb_tiff(tmp_path: Path, opened: Callable[..., Picture], order: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (8, 8, 3))
    data = (values * 257).astype(f"{order}u2").tobytes()
    bits_at = 8 + 2 + 9 * 12 + 4

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        packed = (
            struct.pack(f"{order}H", value) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        )
        return struct.pack(f"{order}HHI", tag, kind, count) + packed.ljust(4, b"\0")

    entries = [
        entry(256, 3, 1, 8),
        entry(257, 3, 1, 8),
        entry(258, 3, 3, bits_at),
        entry(259, 3, 1, 1),
        entry(262, 3, 1, 2),
        entry(273, 4, 1, bits_at + 6),
        entry(277, 3, 1, 3),
        entry(278, 3, 1, 8),
        entry(279, 4, 1, len(data)),
    ]
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 9)
    tail = struct.pack(f"{order}I", 0) + struct.pack(f"{order}HHH", 16, 16, 16) + data
    (tmp_path / "a.tif").write_bytes(header + b"".join(entries) + tail)
    picture = opened(tmp_path / "a.tif")
    assert np.array_equal(pixels_of(picture), values)
    assert picture.notes == [NOTE_16_BIT]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_32_bit_pictures_are_refused(tmp_path: Path, opened: Callable[..., Picture], mode: str) -> None:
    Image.new(mode, (16, 16)).save(tmp_path / "a.tiff")
    with pytest.raises(PictureError, match=r"a\.tiff.*32-bit"):
        opened(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path: Path, opened: Callable[..., Picture], suffix: str) -> None:
    colours = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for index, (ink, expected) in enumerate(colours.items()):
        Image.new("CMYK", (16, 16), ink).save(tmp_path / f"{index}.{suffix}")
        picture = opened(tmp_path / f"{index}.{suffix}")
        assert np.abs(pixels_of(picture).astype(int) - expected).max() <= 2
        assert picture.notes == [NOTE_CMYK]


def test_adobes_inverted_cmyk_jpeg(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    data = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(data, "JPEG")
    whole = data.getvalue()
    assert b"Adobe" in whole
    (tmp_path / "a.jpg").write_bytes(whole)
    assert np.abs(pixels_of(opened(tmp_path / "a.jpg")).astype(int) - (255, 0, 0)).max() <= 2


def test_lab_and_ycbcr_tiff(tmp_path: Path, photo: Pixels, opened: Callable[..., Picture]) -> None:
    image = Image.fromarray(photo)
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.save(tmp_path / "lab.tiff")
    image.convert("YCbCr").save(tmp_path / "ycbcr.tiff")
    for name in ("lab", "ycbcr"):
        assert np.abs(pixels_of(opened(tmp_path / f"{name}.tiff")).astype(int) - photo).mean() < 3


def test_profiles(
    tmp_path: Path, photo: Pixels, opened: Callable[..., Picture], swapped_icc: bytes, grey_icc: bytes
) -> None:
    picture = opened(save(tmp_path / "a.png", photo, icc_profile=swapped_icc))
    assert picture.profile.icc == swapped_icc
    bright = photo.min(axis=-1) > 40
    assert np.abs(pixels_of(picture)[..., [1, 0, 2]].astype(int) - photo)[bright].max() <= 8
    broken = opened(save(tmp_path / "b.png", photo, icc_profile=swapped_icc[:150]))
    assert broken.notes == [NOTE_PROFILE]
    assert np.array_equal(pixels_of(broken), photo)
    Image.new("L", (16, 16), 55).save(tmp_path / "c.png", icc_profile=grey_icc)
    grey = opened(tmp_path / "c.png")
    assert grey.profile.icc is None
    assert grey.notes == []
    assert np.abs(pixels_of(grey).astype(int) - 128).max() <= 2
