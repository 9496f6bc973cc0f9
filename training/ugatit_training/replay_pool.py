"""A pool of earlier fakes (Shrivastava et al., 2017; 50 in CycleGAN): the discriminators' long memory.

Off by default: it is not part of U-GAT-IT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ugatit_training.config import TrainConfig

PASS, FILL, SWAP = range(3)


class ReplayPool(nn.Module):
    """The pools of both domains. What happens is decided outside (`decide`), so that a step draws nothing."""

    pictures: Tensor
    """2×P×3×S×S in [-1, 1]: fakes of A, fakes of B."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        side = config.image_size
        self.register_buffer("pictures", torch.zeros(2, config.replay_pool, 3, side, side), persistent=False)

    @torch.no_grad()
    def exchange(self, domain: int, fakes: Tensor, decisions: Tensor) -> Tensor:
        """Show the discriminators new fakes or old ones.

        Args:
            domain: 0 for fakes of A, 1 for those of B.
            fakes: N×3×S×S, detached.
            decisions: int64, N×2: a slot, no two equal, and PASS (show the fake), FILL (show it and keep it)
                or SWAP (show the one in the slot and keep the fake).

        Returns:
            N×3×S×S.
        """
        slots, action = decisions.unbind(1)
        pool = self.pictures[domain]
        old = pool[slots]
        action = action.view(-1, 1, 1, 1)
        pool[slots] = torch.where(action == PASS, old, fakes.to(pool.dtype))
        return torch.where(action == SWAP, old.to(fakes.dtype), fakes)


def decide(size: int, seed: Sequence[int], first: int, count: int) -> NDArray[np.int64]:
    """What to do with `count` fakes of each domain.

    The pool fills with the first fakes; from then on half of what is shown comes from it.

    Args:
        size: of the pool.
        seed: of the run and the process.
        first: how many fakes a domain have been made before.
        count: at most `size`.

    Returns:
        count×2×2: for fakes of A and of B, slot and action.
    """
    decisions = np.zeros((count, 2, 2), np.int64)
    for domain in range(2):
        rng = np.random.default_rng([*seed, domain, first])
        decisions[:, domain, 0] = rng.permutation(size)[:count]
        decisions[:, domain, 1] = np.where(rng.random(count) < 0.5, SWAP, PASS)
        filling = first + np.arange(count) < size
        if filling.any():
            # Slots in order while the pool fills, and none of them a second time in this batch.
            order = np.arange(first, first + count) % size
            decisions[:, domain, 0] = order
            decisions[:, domain, 1] = np.where(filling, FILL, decisions[:, domain, 1])
    return decisions
