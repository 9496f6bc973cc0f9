from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.images.headers import bits_per_channel, is_cut_short, is_heic


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG2000", "PPM"])
def test_bits_of_deep_grey(kind: str) -> None:
    deep = Image.fromarray(np.full((8, 8), 40000, np.uint16))
    assert bits_per_channel(encoded(deep, kind)) == 16
    assert bits_per_channel(encoded(Image.new("L", (8, 8)), kind)) == 8


@pytest.mark.parametrize("kind", ["AVIF", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_bits_of_other_formats(kind: str) -> None:
    assert bits_per_channel(encoded(Image.new("RGB", (8, 8)), kind)) == 8


@pytest.mark.parametrize(
    ("head", "bits"),
    [
        (b"P6\n# made by 3 hands 65535\n8 8\n65535\n", 16),
        (b"P5 8 8 1023 ", 10),
        (b"P3 8 8", 8),
        (b"\0\0\0\x14ftypavif\0\0\0\0miaf" + b"\0\0\0\x10pixi\0\0\0\0\x03\x0a\x0a\x0a", 10),
        (b"\x89PNG\r\n\x1a\n", 8),
        (b"", 8),
    ],
)
def test_bits(head: bytes, bits: int) -> None:
    assert bits_per_channel(head) == bits


def test_heic() -> None:
    assert is_heic(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert is_heic(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic")
    assert not is_heic(encoded(Image.new("RGB", (8, 8)), "AVIF"))
    assert not is_heic(b"\0\0\0\x18ftypisom\0\0\0\0isommp42")
    assert not is_heic(b"")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_every_cut_is_seen(kind: str) -> None:
    frames = [Image.effect_noise((20, 20), 90).convert("RGB") for _ in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], loop=0, comment=b"x" * 300)
    assert not is_cut_short(data)
    assert not is_cut_short(data + b"behind the end")
    for length in range(12, len(data) - 1):
        assert is_cut_short(data[:length])


def test_other_formats_are_not_judged() -> None:
    assert not is_cut_short(encoded(Image.new("RGB", (8, 8)), "PNG")[:20])
