"""Pictures with next to nothing in them, where normalisation makes a pattern of rounding.

The bundled model sees them: its widest layers go by Winograd's algorithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_batch.frames import Batch
from ugatit_batch.models import bundled_models_dir, find_model
from ugatit_engines.torch_engine import TorchTranslator, load_generator
from ugatit_engines.winograd import WinogradConv

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels
    from ugatit_engines.devices import Precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ink() -> Bundle:
    return find_model("ink", bundled_models_dir())


def levels(bundle: Bundle, pixels: Pixels, precision: Precision) -> float:
    """The largest distance from the generator as it was trained."""
    translator = TorchTranslator(bundle, "a2b", CPU, precision)
    modules = list(translator._generator.modules())
    assert any(isinstance(module, WinogradConv) for module in modules) == (precision == "fp32")
    (found,) = translator.translate(iter([Batch(pixels)]))
    with torch.inference_mode():
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        plain = load_generator(bundle, "a2b")(x).image.add(1).mul(127.5).round().clamp(0, 255)
    return float(np.abs(found.pixels - plain.permute(0, 2, 3, 1).numpy()).max())


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1), ("bf16", 3)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (13, 77, 200)])
def test_one_colour_stays_one_colour(
    ink: Bundle, precision: Precision, most: int, colour: tuple[int, int, int]
) -> None:
    assert levels(ink, np.full((1, 128, 160, 3), colour, np.uint8), precision) <= most


def test_a_small_mark_on_a_white_page(ink: Bundle) -> None:
    pixels = np.full((1, 256, 256, 3), 255, np.uint8)
    pixels[0, 100:110, 100:110] = 250
    assert levels(ink, pixels, "fp32") <= 2


def test_two_shades_that_nobody_can_tell_apart(ink: Bundle) -> None:
    pixels = np.full((1, 128, 128, 3), 100, np.uint8)
    pixels[0, :, 64:] = 101
    assert levels(ink, pixels, "fp32") <= 2
