"""DiffAugment (Zhao et al., 2020): differentiable augmentation of all that the discriminators see.

Colour, translation and cutout with that paper's strengths. Off by default: it is not part of U-GAT-IT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBERS = 7
"""Random numbers a picture: brightness, saturation, contrast; shift down, right; hole down, right."""
_SHIFT = 1 / 8
_HOLE = 1 / 2


def diff_augment(x: Tensor, noise: Tensor, kinds: Sequence[str]) -> Tensor:
    """Augment pictures.

    Args:
        x: N×3×H×W in [-1, 1].
        noise: N×7 in [0, 1).
        kinds: any of color, translation, cutout.

    Returns:
        N×3×H×W in x's type; colours can leave [-1, 1], as in that paper.
    """
    if "color" in kinds:
        x = _color(x, noise[:, :3])
    if "translation" in kinds:
        x = _translate(x, noise[:, 3:5])
    if "cutout" in kinds:
        x = _cut_out(x, noise[:, 5:7])
    return x


def _color(x: Tensor, noise: Tensor) -> Tensor:
    """Brightness ±0.5, saturation × 0 to 2, contrast × 0.5 to 1.5."""
    brightness, saturation, contrast = noise.to(x.dtype)[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (saturation * 2) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _translate(x: Tensor, noise: Tensor) -> Tensor:
    """Up to an eighth of each side; what comes in is 0."""
    rows, row_inside = _shifted(x.shape[2], noise[:, 0])
    columns, column_inside = _shifted(x.shape[3], noise[:, 1])
    picture = torch.arange(len(x), device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    return (moved * inside[..., None].to(x.dtype)).permute(0, 3, 1, 2)


def _shifted(size: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of `size` places comes from, and whether that lies inside: both N×size."""
    reach = int(size * _SHIFT + 0.5)
    shift = (noise * (2 * reach + 1)).floor().long() - reach
    source = torch.arange(size, device=noise.device)[None] + shift[:, None]
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def _cut_out(x: Tensor, noise: Tensor) -> Tensor:
    """A grey square of half the side; its middle lies anywhere in the picture."""
    covered = []
    for axis, size in enumerate(x.shape[2:]):
        hole = int(size * _HOLE + 0.5)
        first = (noise[:, axis] * (size + (1 - hole % 2))).floor().long() - hole // 2
        place = torch.arange(size, device=x.device)[None]
        covered.append((place >= first[:, None]) & (place < first[:, None] + hole))
    whole = ~(covered[0][:, :, None] & covered[1][:, None, :])
    return x * whole[:, None].to(x.dtype)
