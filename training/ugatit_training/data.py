"""Two unpaired folders of pictures as one stream of draws.

Draw number k is a function of the seed and k alone (which pictures, which crop, mirrored or not), so that a
resumed run sees exactly what an undisturbed one would, whatever the number of worker processes.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ugatit_batch.errors import DatasetError, PictureError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.read import PICTURE_SUFFIXES, open_picture
from ugatit_training.diff_augment import NUMBERS
from ugatit_training.distributed import ALONE
from ugatit_training.draw import AUGMENTED, Draw
from ugatit_training.replay_pool import decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_training.config import TrainConfig
    from ugatit_training.distributed import World


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
    for inner, outer in ((source, target), (target, source)):
        if outer.resolve() in inner.resolve().parents:
            raise DatasetError(
                f"{inner} lies in {outer}: its pictures would be in both domains",
                "give two folders beside one another",
            )
    return Domains(_pictures(source), _pictures(target))


def list_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures below a folder, by their suffix and sorted by path; hidden files are none."""
    return tuple(
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _pictures(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder",
            "a data set has the folders trainA and trainB; or give --source DIR and --target DIR",
        )
    found = list_pictures(folder)
    if not found:
        raise DatasetError(f"{folder}: no picture in it", "put the training pictures there")
    return found


class Draws(Dataset[tuple[Tensor, Tensor] | DatasetError]):
    """Draw k: one augmented picture of A and one of B, uint8, 3×S×S each (section 4.2).

    An unreadable picture gives a DatasetError as the draw: raised in a worker process, it would reach the
    user as that process's traceback.
    """

    def __init__(self, domains: Domains, config: TrainConfig, count: int) -> None:
        self.domains = domains
        self.config = config
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: int) -> tuple[Tensor, Tensor] | DatasetError:
        try:
            return self._draw(0, self.domains.a, draw), self._draw(1, self.domains.b, draw)
        except DatasetError as error:
            return error

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


_OWN_SIZE = Sizing(square=False, side=None)
_ANY_SIZE = SizeRule(multiple=1, minimum=1)


def open_rgb(path: Path) -> Image.Image:
    """A training picture, upright, sRGB, as `translate` will read its like; the first frame of an animation.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return Image.fromarray(next(open_picture(path, _OWN_SIZE, _ANY_SIZE).frames()))
    except PictureError as error:
        raise DatasetError(error.message, f"{error.hint}; or take it out of the folder") from error


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


def draws(
    domains: Domains, config: TrainConfig, start: int, device: torch.device, world: World = ALONE
) -> Iterator[Draw]:
    """The inputs of all steps from `start` (the number of steps already taken) to the end of the run.

    A step takes `batch_size · accumulate` pictures of each domain in every process: one stretch of the one
    stream of draws, of which each process has its part.

    Raises:
        DatasetError: a picture cannot be read.
    """
    count = config.batch_size * config.accumulate
    every = count * world.size
    loader: DataLoader[tuple[Tensor, Tensor] | DatasetError] = DataLoader(
        Draws(domains, config, config.steps * every),
        batch_size=count,
        sampler=_Stretches(start, config.steps, count, every, world.rank * count),
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
        # A worker's start must not draw from the global generator, which belongs to the checkpoint.
        generator=torch.Generator(),
        prefetch_factor=4 if config.workers else None,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_parent,
    )
    for step, batch in enumerate(loader, start):
        if isinstance(batch, DatasetError):
            raise batch
        first = step * every + world.rank * count
        a, b = (to_network(pixels, device) for pixels in batch)
        if config.channels_last:
            a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
        augment = _noise(config, first, count) if config.diff_augment else None
        replay = None
        if config.replay_pool:
            seed = (config.seed, 2, 1, world.rank)
            replay = torch.from_numpy(decide(config.replay_pool, seed, step * count, count))
        yield Draw(a, b, *(None if x is None else x.to(device, non_blocking=True) for x in (augment, replay)))


class _Stretches(Sampler[int]):
    """A process's part of every step: `count` draws from `offset` on, in each stretch of `every`."""

    def __init__(self, start: int, end: int, count: int, every: int, offset: int) -> None:
        self._steps = range(start, end)
        self._count, self._every, self._offset = count, every, offset

    def __len__(self) -> int:
        return len(self._steps) * self._count

    def __iter__(self) -> Iterator[int]:
        for step in self._steps:
            first = step * self._every + self._offset
            yield from range(first, first + self._count)


def _noise(config: TrainConfig, first: int, count: int) -> Tensor:
    """The random numbers of DiffAugment for some draws: N×6×7."""
    numbers = [
        np.random.default_rng([config.seed, 2, 0, draw]).random((AUGMENTED, NUMBERS), np.float32)
        for draw in range(first, first + count)
    ]
    return torch.from_numpy(np.stack(numbers))


def _collate(draws: list[tuple[Tensor, Tensor] | DatasetError]) -> tuple[Tensor, Tensor] | DatasetError:
    errors = [draw for draw in draws if isinstance(draw, DatasetError)]
    if errors:
        return errors[0]
    a, b = default_collate(draws)
    return a, b


def _leave_signals_to_parent(_worker: int) -> None:
    """Ctrl-C, and the SIGTERM that `timeout` sends, go to the whole process group; only the run answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def to_network(pixels: Tensor, device: torch.device) -> Tensor:
    """N×3×H×W, uint8 to float32 in [-1, 1] on the device."""
    return pixels.to(device, non_blocking=True).float().div_(127.5).sub_(1.0)
