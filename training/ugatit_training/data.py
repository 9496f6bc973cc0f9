"""Two unpaired folders of pictures as one stream of draws.

Draw number k is a function of the seed and k alone (which pictures, which crop, mirrored or not), so that a
resumed run sees exactly what an undisturbed one would, whatever the number of worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ugatit_batch.errors import DatasetError
from ugatit_batch.images.read import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.config import TrainConfig


@dataclass(frozen=True)
class Domains:
    """The training pictures of both domains, sorted by path."""

    a: tuple[Path, ...]
    b: tuple[Path, ...]


def find_domains(source: Path, target: Path) -> Domains:
    """List the pictures below two folders.

    Raises:
        DatasetError: a folder is missing or has no picture, or both are the same folder.
    """
    if source.exists() and target.exists() and source.samefile(target):
        raise DatasetError(f"{source}: source and target are the same folder", "give two folders")
    return Domains(_pictures(source), _pictures(target))


def _pictures(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder",
            "a data set has the folders trainA and trainB; or give --source DIR and --target DIR",
        )
    found = tuple(
        sorted(
            p
            for p in folder.rglob("*")
            if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".") and p.is_file()
        )
    )
    if not found:
        raise DatasetError(f"{folder}: no picture in it", "put the training pictures there")
    return found


class Draws(Dataset[tuple[Tensor, Tensor]]):
    """Draw k: one augmented picture of A and one of B, uint8, 3×S×S each (section 4.2)."""

    def __init__(self, domains: Domains, config: TrainConfig) -> None:
        self.domains = domains
        self.config = config

    def __len__(self) -> int:
        return self.config.steps * self.config.batch_size

    def __getitem__(self, draw: int) -> tuple[Tensor, Tensor]:
        return self._draw(0, self.domains.a, draw), self._draw(1, self.domains.b, draw)

    def _draw(self, domain: int, paths: tuple[Path, ...], draw: int) -> Tensor:
        epoch, position = divmod(draw, len(paths))
        path = paths[_order(self.config.seed, domain, epoch, len(paths))[position]]
        rng = np.random.default_rng([self.config.seed, domain, 1, draw])
        pixels = np.array(augment(open_rgb(path), self.config, rng))
        return torch.from_numpy(pixels).permute(2, 0, 1)


@lru_cache(maxsize=4)
def _order(seed: int, domain: int, epoch: int, count: int) -> list[int]:
    """The order of one pass over a folder."""
    return np.random.default_rng([seed, domain, 0, epoch]).permutation(count).tolist()  # type: ignore[no-any-return]


def open_rgb(path: Path) -> Image.Image:
    """A training picture, upright, RGB.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}", "repair it or take it out") from error


def augment(image: Image.Image, config: TrainConfig, rng: np.random.Generator) -> Image.Image:
    """Mirror at random, resize, cut a random square of `image_size`."""
    size = config.image_size
    if rng.random() < config.flip:
        image = ImageOps.mirror(image)
    if config.crop_scale is None:
        image = image.resize((config.load_size, config.load_size), Image.Resampling.BILINEAR)
        left, top = rng.integers(0, config.load_size - size + 1, 2).tolist()
        return image.crop((left, top, left + size, top + size))
    side = min(image.size) * rng.uniform(*config.crop_scale)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def loader(domains: Domains, config: TrainConfig, start: int, pin: bool) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of draws from step `start` (the number of steps already taken) to the end of the run."""
    return DataLoader(
        Draws(domains, config),
        batch_size=config.batch_size,
        sampler=range(start * config.batch_size, config.steps * config.batch_size),
        num_workers=config.workers,
        pin_memory=pin,
        # A worker's start must not draw from the global generator, which belongs to the checkpoint.
        generator=torch.Generator(),
        prefetch_factor=4 if config.workers else None,
        persistent_workers=config.workers > 0,
    )


def to_network(pixels: Tensor, device: torch.device) -> Tensor:
    """N×3×H×W, uint8 to float32 in [-1, 1] on the device."""
    return pixels.to(device, non_blocking=True).float().div_(127.5).sub_(1.0)
