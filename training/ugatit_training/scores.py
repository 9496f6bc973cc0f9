"""From test pictures to KID: read, translate, extract features, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ugatit_training.data import open_rgb, to_network
from ugatit_training.kid import Score, composite_mean, composite_weighted, kid, kid_paper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ugatit_batch.frames import Pixels
    from ugatit_training.features import FeatureNetwork
    from ugatit_training.generator import Generator
    from ugatit_training.kid import Protocol

PAPER_SIDE = 299
"""To which `kid-paper` resizes every picture first."""


def measure(
    generator: Generator,
    features: FeatureNetwork,
    protocols: Sequence[Protocol],
    sources: Sequence[Path],
    targets: Sequence[Path],
    batch_size: int,
    progress: Callable[[int], object],
) -> dict[str, Score]:
    """KID of one generator, in batches; only features are kept in memory.

    Args:
        generator: in evaluation mode.
        features: the feature network.
        protocols: which of them.
        sources: pictures to translate, at the generator's training size.
        targets: pictures to compare with, at that size for `kid`.
        batch_size: pictures at once.
        progress: called with the number of pictures done since the last call.

    Returns:
        `kid`; `kid-paper` (of fakes and targets), `kid-paper-source` (of fakes and sources) and the
        composites `kid-paper-mean` and `kid-paper-weighted`.

    Raises:
        DatasetError: a picture cannot be read, there are too few, or the feature network cannot take them.
        EnvironmentLacksError: torch-fidelity is not installed.
    """
    device, side = device_of(generator), generator.config.image_size
    sets: dict[str, list[NDArray[np.float32]]] = {}

    def add(name: str, pixels: Iterable[Pixels]) -> None:
        batch = torch.from_numpy(np.stack(list(pixels))).permute(0, 3, 1, 2).contiguous()
        sets.setdefault(name, []).append(features.extract(batch))

    plain, paper = "kid" in protocols, "kid-paper" in protocols
    for paths in _batches(sources, batch_size):
        images = [open_rgb(path) for path in paths]
        fakes = _translate(generator, torch.stack([to_tensor(square(i, side)) for i in images]), device)
        if plain:
            add("fake", fakes)
        if paper:
            add("paper fake", [square(Image.fromarray(fake), PAPER_SIDE) for fake in fakes])
            add("paper source", [square(image, PAPER_SIDE) for image in images])
        progress(len(paths))
    for paths in _batches(targets, batch_size):
        images = [open_rgb(path) for path in paths]
        if plain:
            add("target", [square(image, side) for image in images])
        if paper:
            add("paper target", [square(image, PAPER_SIDE) for image in images])
        progress(len(paths))
    arrays = {name: np.concatenate(parts) for name, parts in sets.items()}
    scores = {"kid": kid(arrays["fake"], arrays["target"])} if plain else {}
    if paper:
        target = kid_paper(arrays["paper fake"], arrays["paper target"])
        source = kid_paper(arrays["paper fake"], arrays["paper source"])
        scores |= {
            "kid-paper": target,
            "kid-paper-source": source,
            "kid-paper-mean": composite_mean(target, source),
            "kid-paper-weighted": composite_weighted(target, source),
        }
    return scores


def _translate(generator: Generator, pictures: Tensor, device: torch.device) -> Pixels:
    return to_pixels(generator(to_network(pictures, device)).image)


def to_pixels(images: Tensor) -> Pixels:
    """N×3×H×W in [-1, 1] to uint8 N×H×W×3."""
    values = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return values.permute(0, 2, 3, 1).cpu().numpy()


def square(image: Image.Image, side: int) -> Pixels:
    """The whole picture as a square, bilinear, as training resizes; uint8, side×side×3."""
    return np.array(image.resize((side, side), Image.Resampling.BILINEAR))


def to_tensor(pixels: Pixels) -> Tensor:
    """H×W×3 seen as 3×H×W."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def device_of(network: nn.Module) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
