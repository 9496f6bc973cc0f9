from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_batch.errors import DatasetError
from ugatit_training.data import draws, find_domains, open_rgb

from .tiny import CPU, tiny, with_workers

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.draw import Draw

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


def quarters() -> Image.Image:
    """Red and green above, blue and grey below; 24 wide, 16 high."""
    image = Image.new("RGB", (24, 16), GREY)
    image.paste(RED, (0, 0, 12, 8))
    image.paste(GREEN, (12, 0, 24, 8))
    image.paste(BLUE, (0, 8, 12, 16))
    return image


def assert_close(path: Path, expected: Image.Image, tolerance: int = 3) -> None:
    opened = open_rgb(path)
    assert opened.mode == "RGB"
    assert opened.size == expected.size
    difference = np.asarray(opened).astype(int) - np.asarray(expected.convert("RGB")).astype(int)
    assert np.abs(difference).max() <= tolerance


def test_rgb_is_untouched(tmp_path: Path) -> None:
    quarters().save(tmp_path / "p.png")
    assert_close(tmp_path / "p.png", quarters(), 0)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = quarters().convert(mode)
    image.save(tmp_path / "p.png")
    assert_close(tmp_path / "p.png", image.convert("RGB"), 0)


def test_alpha_is_dropped_and_colours_stay(tmp_path: Path) -> None:
    image = quarters()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "p.png")
    assert_close(tmp_path / "p.png", quarters(), 0)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 255]))
    assert_close(tmp_path / "p.png", quarters())
    image.save(tmp_path / "p.gif", transparency=0)
    assert_close(tmp_path / "p.gif", quarters())


def test_cmyk(tmp_path: Path) -> None:
    image = quarters().convert("CMYK")
    image.save(tmp_path / "p.tif")
    assert_close(tmp_path / "p.tif", quarters())
    image.save(tmp_path / "p.jpg", quality=100, subsampling=0)
    assert_close(tmp_path / "p.jpg", quarters(), 12)


def test_16_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 24 * 16).reshape(16, 24)
    Image.fromarray(shades.astype(np.uint16)).save(tmp_path / "p.png")
    assert_close(tmp_path / "p.png", Image.fromarray((shades / 257).round().astype(np.uint8)), 1)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(
    tmp_path: Path, suffix: str, orientation: int, stored: Image.Transpose
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"p.{suffix}"
    lossless = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True}
    quarters().transpose(stored).save(path, exif=exif, **lossless)
    assert_close(path, quarters(), 12)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [quarters(), Image.new("RGB", (24, 16), BLUE)]
    frames[0].save(tmp_path / "p.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert_close(tmp_path / "p.webp", quarters())


# Unreadable files


def damage(path: Path, how: str) -> None:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a picture", "utf-8")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@with_workers
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["empty", "text", "cut short"])
def test_an_unreadable_picture_is_named(folders: tuple[Path, Path], how: str, workers: int) -> None:
    bad = folders[1] / "3.png"
    damage(bad, how)
    with pytest.raises(DatasetError) as caught:
        list(draws(find_domains(*folders), tiny(workers=workers, batch_size=2), 0, CPU))
    error = caught.value
    assert error.message.startswith(f"{bad}: ")
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)
    assert "take it out of the folder" in error.hint


@with_workers
@pytest.mark.parametrize("workers", [0, 2])
def test_draws_before_an_unreadable_picture_are_not_lost(folders: tuple[Path, Path], workers: int) -> None:
    config = tiny(workers=workers)
    whole = list(draws(find_domains(*folders), config, 0, CPU))
    damage(folders[0] / "4.png", "text")
    seen: list[Draw] = []
    with pytest.raises(DatasetError):
        seen.extend(draws(find_domains(*folders), config, 0, CPU))
    assert 0 < len(seen) < 5
    assert all(
        torch.equal(one.a, other.a) and torch.equal(one.b, other.b)
        for one, other in zip(seen, whole, strict=False)
    )


def test_a_picture_that_disappears_is_named(folders: tuple[Path, Path]) -> None:
    domains = find_domains(*folders)
    shutil.rmtree(folders[0])
    with pytest.raises(DatasetError, match=r"trainA.*there is no such file"):
        list(draws(domains, tiny(), 0, CPU))
