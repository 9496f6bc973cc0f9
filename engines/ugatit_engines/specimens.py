"""Pictures and a model to measure with, where the user's own are not asked for.

Nothing here looks like anything; it only costs what real pictures and models cost.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from ugatit_batch.bundle import DIRECTIONS, Bundle, WorkingSize, save_bundle
from ugatit_training.generator import Generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_batch.frames import Pixels

_QUALITY = 90  # of the JPEG files, as cameras and phones write them
_LARGEST_SIDE = 16384
# In units of 8-bit levels; with these a file takes about 2 bits a pixel, as photographs do.
_CONTRAST, _COLOUR, _GRAIN = 45.0, 18.0, 6.0
# Keeps most of tanh's input between -1 and 1, so that results take as much room in a file as photographs do.
_OUTPUT_CONTRAST = 0.3


def texture(side: int, rng: np.random.Generator) -> Pixels:
    """One picture with the spectrum of a photograph: noise at every scale, stronger where it is coarser.

    Args:
        side: in pixels.
        rng: what is in it.

    Returns:
        uint8, side×side×3, RGB.
    """
    light, colour = _clouds(side, rng), np.stack([_clouds(side, rng) for _ in range(3)], axis=-1)
    grain = rng.normal(0, _GRAIN, (side, side, 1))
    levels = 128 + _CONTRAST * light[..., None] + _COLOUR * colour + grain
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _clouds(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """side×side, mean about 0 and deviation 1."""
    total = np.zeros((side, side), np.float32)
    for octave in range(int(math.log2(side))):
        cells = 2 ** (octave + 1)
        noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) / cells
    total -= total.mean()
    total /= total.std()
    return total


def write_pictures(folder: Path, count: int, side: int, *, suffix: str = ".jpg", seed: int = 0) -> list[Path]:
    """Write `count` different pictures of side×side pixels; return their paths in order.

    Args:
        folder: must exist.
        count: above 0.
        side: 16 to 16384.
        suffix: `.jpg` (quality 90) or a lossless format's.
        seed: of what is in them.
    """
    if not 16 <= side <= _LARGEST_SIDE:
        raise ValueError(f"a side of 16 to {_LARGEST_SIDE} pixels, not {side}")
    rng = np.random.default_rng(seed)
    # Few are drawn: turning and shifting gives the others for less, and decoders do not notice.
    drawn = [texture(side, rng) for _ in range(min(count, 8))]
    paths = []
    for index in range(count):
        path = folder / f"picture-{index:05}{suffix}"
        pixels = np.roll(np.rot90(drawn[index % 8], index // 8), index // 32, axis=1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=_QUALITY)
        paths.append(path)
    return paths


def write_random_bundle(folder: Path, config: GeneratorConfig, *, seed: int = 0) -> Bundle:
    """Write a model of both directions with random weights, under which activations keep their range.

    A light one takes pictures in their own size.

    Raises:
        DiskFullError, OutputError: it could not be written.
    """
    weights = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for direction in DIRECTIONS:
            generator = Generator(config)
            _widen(generator)
            weights[direction] = {name: t.numpy() for name, t in generator.state_dict().items()}
    size = WorkingSize("native", _LARGEST_SIDE) if config.light else WorkingSize("square", config.image_size)
    bundle = Bundle("random", ("A", "B"), config, size, {})
    return save_bundle(bundle, weights, folder)


@torch.no_grad()
def _widen(generator: Generator) -> None:
    """Weights of deviation 1/√inputs; the 0.02 that training starts from gives nearly grey results."""
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.div_(module.weight.std() * math.sqrt(module.weight[0].numel()))
    generator.out.weight.mul_(_OUTPUT_CONTRAST)
