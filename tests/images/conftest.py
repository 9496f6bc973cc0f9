from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.read import open_picture
from ugatit_batch.images.write import Encoding, write_picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture

    Open = Callable[..., Picture]
    Translate = Callable[..., tuple[Image.Image, list[str]]]

RULE = SizeRule(multiple=4, minimum=8)
NATIVE = Sizing(square=False, side=None)


@pytest.fixture
def opened() -> Open:
    """Open a picture at its own size."""

    def call(path: Path, sizing: Sizing = NATIVE) -> Picture:
        return open_picture(path, sizing, RULE)

    return call


@pytest.fixture
def translate() -> Translate:
    """Pass a picture through a network that gives back what it gets, or its negative."""

    def call(
        source: Path,
        target: Path,
        encoding: Encoding = Encoding(),  # noqa: B008
        sizing: Sizing = NATIVE,
        *,
        invert: bool = False,
    ) -> tuple[Image.Image, list[str]]:
        picture = open_picture(source, sizing, RULE)
        given = [255 - frame if invert else frame for frame in picture.frames()]
        notes = picture.notes + write_picture(picture, given, target, encoding)
        assert not [path for path in target.parent.iterdir() if ".partial" in path.name]
        return Image.open(io.BytesIO(target.read_bytes())), notes

    return call


@pytest.fixture
def photo() -> Pixels:
    """Smooth colours with an orientation that can be told, 40 high and 56 wide."""
    y, x = np.mgrid[0:40, 0:56]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y], axis=-1).astype(np.uint8)


@pytest.fixture
def noise() -> Pixels:
    """Nothing that a lossy step would leave as it is, 40 high and 56 wide."""
    return np.random.default_rng(7).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def _s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1, for a display."""
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\5made\0" + bytes(79), b"cprt": b"text\0\0\0\0none\0\0\0\0", **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += padded
    white = _s15(0.9642) + _s15(1.0) + _s15(0.8249)
    header = bytearray(128)
    struct.pack_into(
        ">I4sI4s4s4s", header, 0, 128 + len(table + body), b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ "
    )
    header[36:40] = b"acsp"
    header[68:80] = white
    return bytes(header) + table + body


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + _s15(x) + _s15(y) + _s15(z)


@pytest.fixture(scope="session")
def wide_icc() -> bytes:
    """A profile with the primaries of Adobe RGB (1998) and gamma 2.2."""
    return _icc(
        b"RGB ",
        {
            b"wtpt": _xyz(0.9642, 1.0, 0.8249),
            b"rXYZ": _xyz(0.60974, 0.31111, 0.01947),
            b"gXYZ": _xyz(0.20528, 0.62567, 0.06087),
            b"bXYZ": _xyz(0.14919, 0.06322, 0.74457),
            **{name: _curve(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")},
        },
    )


@pytest.fixture(scope="session")
def swapped_icc() -> bytes:
    """A profile whose red is sRGB's green and the other way round, with gamma 2.2."""
    return _icc(
        b"RGB ",
        {
            b"wtpt": _xyz(0.9642, 1.0, 0.8249),
            b"rXYZ": _xyz(0.38515, 0.71687, 0.09708),
            b"gXYZ": _xyz(0.43607, 0.22249, 0.01392),
            b"bXYZ": _xyz(0.14307, 0.06061, 0.71410),
            **{name: _curve(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")},
        },
    )


@pytest.fixture(scope="session")
def grey_icc() -> bytes:
    """A grey profile with linear values."""
    return _icc(b"GRAY", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"kTRC": _curve(1.0)})
