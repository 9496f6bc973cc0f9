"""A folder of some two hundred small picture files of every kind, good and bad."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

from ..fakes import TURNED, colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = (24, 16)


def upright(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(colours(*size, seed))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def oriented(orientation: int, kind: str) -> bytes:
    """A picture that is `upright()` once its orientation is applied."""
    image, method = upright(), TURNED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    fine: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    return _encoded(
        image if method is None else image.transpose(method), kind, exif=exif, **fine.get(kind, {})
    )


def _animation(kind: str, frames: int) -> bytes:
    first, *others = (upright(seed) for seed in range(frames))
    return _encoded(
        first, kind, save_all=True, append_images=others, duration=[100, 50, 200][:frames], loop=2
    )


def _alpha(mode: str) -> Image.Image:
    image = upright().convert(mode.rstrip("A"))
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def _good() -> Iterator[tuple[str, bytes]]:
    for orientation in TURNED:
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
            yield f"orientation/{orientation}.{suffix}", oriented(orientation, kind)
    modes = {
        "cmyk.jpg": ("JPEG", upright().convert("CMYK")),
        "cmyk.tif": ("TIFF", upright().convert("CMYK")),
        "grey.jpg": ("JPEG", upright().convert("L")),
        "grey.png": ("PNG", upright().convert("L")),
        "bit.png": ("PNG", upright().convert("1")),
        "bit.tiff": ("TIFF", upright().convert("1")),
        "palette.png": ("PNG", upright().quantize(16)),
        "windows.bmp": ("BMP", upright().quantize(16)),
        "still.gif": ("GIF", upright().quantize(16)),
        "sixteen.png": ("PNG", Image.fromarray(colours(*SIZE)[..., 0].astype(np.uint16) * 257)),
        "sixteen.tif": ("TIFF", Image.fromarray(colours(*SIZE)[..., 0].astype(np.uint16) * 257)),
        "alpha.png": ("PNG", _alpha("RGBA")),
        "alpha.webp": ("WEBP", _alpha("RGBA")),
        "alpha.tif": ("TIFF", _alpha("RGBA")),
        "grey alpha.png": ("PNG", _alpha("LA")),
        "lab.tif": ("TIFF", Image.new("LAB", SIZE, (120, 140, 90))),
        "photo.avif": ("AVIF", upright()),
        "like a jp2.jp2": ("JPEG2000", upright()),
        "like a ppm.ppm": ("PPM", upright()),
        "like a tga.tga": ("TGA", upright()),
        "one.png": ("PNG", upright(size=(1, 1))),
        "one.jpg": ("JPEG", upright(size=(1, 1))),
        "wide.png": ("PNG", upright(size=(61, 1))),
        "tall.png": ("PNG", upright(size=(3, 59))),
        "odd.webp": ("WEBP", upright(size=(37, 23))),
        "large.jpg": ("JPEG", upright(size=(300, 200))),
    }
    for name, (kind, image) in modes.items():
        yield f"kinds/{name}", _encoded(image, kind)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "kinds/profile.png", _encoded(upright(), "PNG", icc_profile=profile)
    yield "kinds/really a png.jpg", _encoded(upright(), "PNG")
    for kind, suffix in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png")):
        yield f"moving/three.{suffix}", _animation(kind, 3)
    for name in (
        "日本/猫 と 犬.png",
        "Ünï/cödé/ä.jpg",
        "-leading/-dash.webp",
        "a b/ c .png",
        "😀.jpg",
        "x" * 240 + ".png",
    ):
        yield (
            name,
            _encoded(
                upright(), {"g": "JPEG", "p": "WEBP"}.get(name[-1:] if name[-3:] != "png" else "", "PNG")
            ),
        )
    for number in range(120):
        suffix, kind = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))[number % 3]
        size = (24 - number % 2 * 4, 16 + number % 5 * 4)
        yield f"many/{number % 7}/{number:03}.{suffix}", _encoded(upright(number, size), kind)


def _bad() -> Iterator[tuple[str, bytes]]:
    whole = {
        "jpg": _encoded(upright(size=(96, 96)), "JPEG"),
        "png": _encoded(upright(size=(96, 96)), "PNG"),
        "webp": _encoded(upright(size=(96, 96)), "WEBP"),
        "tif": _encoded(upright(size=(96, 96)), "TIFF"),
        "gif": _animation("GIF", 3),
    }
    for suffix, content in whole.items():
        yield f"bad/cut.{suffix}", content[: len(content) * 2 // 3]
        yield f"bad/empty.{suffix}", b""
    yield "bad/text.jpg", b"this is no picture at all\n" * 10
    yield "many/3/zeros.png", bytes(1000)


def make_mixed_folder(folder: Path) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Write the files.

    Returns:
        The size, upright, that each good file's output must have, and the names of the bad ones.
    """
    good, bad = dict(_good()), dict(_bad())
    sizes = {}
    for name, content in (good | bad).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name in good:
            with Image.open(io.BytesIO(content)) as image:
                sizes[name] = SIZE if name.startswith("orientation/") else image.size
    (folder / "notes.txt").write_text("left alone")
    (folder / ".hidden.jpg").write_bytes(b"not looked at")
    return sizes, set(bad)
