"""A network that inverts colours, tiny random models, and small pictures."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ugatit_batch.bundle import Bundle, GeneratorConfig, WorkingSize, save_bundle
from ugatit_batch.errors import MemoryLacksError
from ugatit_batch.frames import SizeRule, Translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Direction, Weights
    from ugatit_batch.frames import Batch, Pixels

TINY = GeneratorConfig(channels=4, residual_blocks=1, light=True, image_size=32)

TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What was done to an upright picture that now has this EXIF orientation."""


def never(_: Pixels) -> bool:
    return False


class InvertingTranslator:
    """Inverts colours; the attention is the mean of the channels at a quarter of the size.

    Args:
        batch_size: what it asks for.
        ahead: how many batches it takes before it gives the first one back.
        refuses: whether a batch fails, asked when the batch is taken.
        breaks: the same, asked when the batch's turn to be given back has come.
        before: called with each batch that is worked on.
    """

    precision = "fp32"

    def __init__(
        self,
        batch_size: int = 1,
        *,
        ahead: int = 0,
        refuses: Callable[[Pixels], bool] = never,
        breaks: Callable[[Pixels], bool] = never,
        before: Callable[[Pixels], object] = never,
        rule: SizeRule | None = None,
    ) -> None:
        self.size_rule = rule or SizeRule()
        self.batch_size = batch_size
        self.shapes: list[tuple[int, ...]] = []
        self.ahead, self._refuses, self._breaks, self._before = ahead, refuses, breaks, before

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        held: deque[Batch] = deque()
        for batch in batches:
            if self._refuses(batch.pixels):
                while held:
                    yield self._invert(held.popleft())
                raise MemoryLacksError("this batch is refused")
            held.append(batch)
            if len(held) > self.ahead:
                yield self._invert(held.popleft())
        while held:
            yield self._invert(held.popleft())

    def _invert(self, batch: Batch) -> Translated:
        self._before(batch.pixels)
        if self._breaks(batch.pixels):
            raise MemoryLacksError("this batch is broken")
        self.shapes.append(batch.pixels.shape)
        attention = batch.pixels[:, ::4, ::4].mean(-1).astype(np.float32)
        return Translated(255 - batch.pixels, attention)


class UnchangingTranslator(InvertingTranslator):
    """Gives every picture back as it is."""

    def _invert(self, batch: Batch) -> Translated:
        translated = super()._invert(batch)
        return Translated(batch.pixels, translated.attention)


def random_weights(config: GeneratorConfig, seed: int) -> Weights:
    """Weights with which what comes out depends on what goes in, as after a training."""
    import torch

    from ugatit_training.generator import Generator

    generator = torch.Generator().manual_seed(seed)
    network = Generator(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("rho"):
                parameter.uniform_(0.2, 0.8, generator=generator)
            elif parameter.ndim > 1:
                spread = parameter[0].numel() ** -0.5
                parameter.normal_(0, spread, generator=generator)
    return {name: value.numpy() for name, value in network.state_dict().items()}


def make_model(
    folder: Path,
    config: GeneratorConfig = TINY,
    working: WorkingSize | None = None,
    directions: tuple[Direction, ...] = ("a2b", "b2a"),
) -> Bundle:
    """A model of random weights in `folder`, of that folder's name."""
    bundle = Bundle(
        name=folder.name,
        domains=("photo", "ink"),
        generator=config,
        working_size=working or WorkingSize("square", config.image_size),
        directions={},
        sources=("drawn at random",),
    )
    weights = {direction: random_weights(config, seed) for seed, direction in enumerate(directions)}
    return save_bundle(bundle, weights, folder)


def full(config: GeneratorConfig = TINY) -> GeneratorConfig:
    """The same shape as a full generator, which takes one size only."""
    return dataclasses.replace(config, light=False)


def colours(width: int, height: int, seed: int = 0) -> Pixels:
    """Smooth colours in which left and right, and above and below, can be told apart.

    Each seed has its own shape: a network with instance normalisation does not see its colours alone.
    """
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    blue = 128 + 127 * np.sin((x * (1 + seed % 7) + y * (1 + seed // 7 % 7)) / 9 + seed)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def paint(path: Path, width: int = 24, height: int = 16, seed: int = 0) -> Path:
    """A small picture in a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours(width, height, seed)).save(path)
    return path


def pixels_of(path: Path) -> Pixels:
    """A picture file's colours, uint8 H×W×3."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder by their relative names, without the journal."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".ugatit-batch.sqlite")
    }
