from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.errors import PictureError
from ugatit_batch.images.read import check_header

from .support import save

NOISE = np.random.default_rng(7).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "avif", "gif", "tif", "bmp", "tga", "ppm", "jp2", "qoi"]
)
def test_a_header_that_opens(tmp_path: Path, suffix: str) -> None:
    check_header(save(tmp_path / f"a.{suffix}", NOISE))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_nothing_is_decoded(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / f"a.{suffix}", NOISE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("was decoded"))
    check_header(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "gif", "tif", "bmp", "tga", "jp2", "qoi"])
def test_every_cut_is_an_error_or_opens(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", NOISE)
    data = path.read_bytes()
    errors = 0
    for length in [*range(40), *range(40, len(data), max(1, len(data) // 25))]:
        path.write_bytes(data[:length])
        try:
            check_header(path)
        except PictureError as error:
            errors += 1
            assert str(path) in error.message  # noqa: PT017
            assert error.hint  # noqa: PT017
    assert errors >= 8


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"no picture " * 90, "not a picture"), (bytes(999), "not a")]
)
def test_no_picture(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=message):
        check_header(path)


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such file"):
        check_header(tmp_path / "a.png")
    with pytest.raises(PictureError, match="not a file"):
        check_header(tmp_path)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", NOISE)
    monkeypatch.setattr("ugatit_batch.images.read.PIXEL_LIMIT", 160 * 120 - 1)
    with pytest.raises(PictureError, match="million pixels"):
        check_header(path)


@pytest.mark.skipif(sys.platform != "linux", reason="a file there whose reading fails")
def test_a_disk_that_does_not_read() -> None:
    with pytest.raises(PictureError, match="is cut short or damaged"):
        check_header(Path("/proc/self/mem"))
