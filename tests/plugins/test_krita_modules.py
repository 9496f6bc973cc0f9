"""What the Krita plug-in does with bytes, without a Krita."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

import ugatit_plugins

PACKAGE = Path(ugatit_plugins.__file__).parent


def _module(name: str) -> Any:
    """A file of Krita's plug-in that needs no Krita."""
    path = PACKAGE / "krita" / "ugatit" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"krita_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pixels_in_kritas_order() -> None:
    pixels = _module("pixels")
    rng = np.random.default_rng(0)
    bgra = rng.integers(0, 256, (5, 7, 4), np.uint8)

    rgb = pixels.rgb_of(bgra.tobytes())

    assert rgb == bgra[..., [2, 1, 0]].tobytes()
    assert pixels.bgra_of(rgb, bgra[..., 3].tobytes()) == bgra.tobytes()
    assert pixels.grey_of(b"\x01\x02") == b"\x01\x01\x01\x02\x02\x02"


def test_what_is_not_clear_is_cut_out() -> None:
    pixels = _module("pixels")
    alpha = np.zeros((6, 8), np.uint8)
    assert pixels.opaque_box(alpha.tobytes(), 8) == (0, 0, 0, 0)
    alpha[2, 3] = alpha[4, 1] = 1

    box = pixels.opaque_box(alpha.tobytes(), 8)

    assert box == (1, 2, 3, 3)
    assert pixels.cut(alpha.tobytes(), 8, box) == alpha[2:5, 1:4].tobytes()
    assert pixels.cut(alpha.tobytes(), 8, (0, 0, 8, 6)) == alpha.tobytes()


def test_opacity_through_opacity() -> None:
    product = _module("pixels").product
    first, second = np.mgrid[0:256, 0:256].astype(np.uint8)

    found = np.frombuffer(product(first.tobytes(), second.tobytes()), np.uint8).reshape(256, 256)

    assert np.array_equal(found, np.floor(first.astype(float) * second / 255 + 0.5).astype(np.uint8))
    full = b"\xff" * 256
    assert product(full, bytes(range(256))) == product(bytes(range(256)), full) == bytes(range(256))


def test_models_are_remembered() -> None:
    offer = _module("offer")
    told = [
        {
            "name": "ink",
            "directions": [
                {"reverse": False, "source": "photo", "target": "ink"},
                {"reverse": True, "source": "ink", "target": "photo"},
            ],
            "size": {"mode": "native", "side": 1024},
            "attention": True,
            "bundled": True,
        }
    ]

    kept = offer.remembered(offer.to_text(told))

    assert kept == offer.models_of(told)
    assert kept[0].directions == ((False, "photo → ink"), (True, "ink → photo"))
    for useless in ("", "{}", "[1]", '[{"name": "ink"}]', "hello"):
        assert offer.remembered(useless) == []
