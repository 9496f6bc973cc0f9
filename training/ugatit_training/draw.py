"""What one training step is given: pictures, and the random numbers it needs.

The step itself draws nothing. That makes a resumed run the undisturbed one whatever it uses, and lets a CUDA
graph replay the step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

AUGMENTED = 6
"""Batches a step that DiffAugment changes: real A, fake A, real B, fake B; then fake A and fake B again."""


@dataclass(frozen=True)
class Draw:
    """The input of one step; every tensor's first axis is the pictures."""

    a: Tensor
    """N×3×S×S in [-1, 1], pictures of domain A."""
    b: Tensor
    """The same of domain B."""
    augment: Tensor | None = None
    """N×6×7 in [0, 1): random numbers of DiffAugment, for each of AUGMENTED."""
    replay: Tensor | None = None
    """int64, N×2×2: for the fakes of A and of B, a slot of the pool and what to do with it (`ReplayPool`)."""

    def split(self, parts: int) -> list[Draw]:
        """Equal parts, one behind the other."""
        pieces = [
            [None] * parts if value is None else value.chunk(parts)
            for value in (getattr(self, f.name) for f in fields(self))
        ]
        return [Draw(*piece) for piece in zip(*pieces, strict=True)]
