"""An exponential moving average of the generators, beside them and never fed back.

Off by default: it is not part of U-GAT-IT. A model of a run that keeps one is made of it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ugatit_training.generator import Generator
    from ugatit_training.model import UGATIT


class Average:
    """Averages of both generators' weights.

    Args:
        networks: whose generators are averaged; the average starts as their copy.
        decay: share of the average that stays a step, in (0, 1).
    """

    def __init__(self, networks: UGATIT, decay: float) -> None:
        self._networks = networks
        self.a2b, self.b2a = (
            copy.deepcopy(generator).requires_grad_(False) for generator in networks.generators()
        )
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def generators(self) -> list[Generator]:
        """A → B, B → A."""
        return [self.a2b, self.b2a]

    @torch.no_grad()
    def update(self) -> None:
        """Take the generators' weights in, after a step."""
        pairs = zip(self.generators(), self._networks.generators(), strict=True)
        for average, generator in pairs:
            self._update(list(average.parameters()), list(generator.parameters()), torch.tensor(0))

    def state_dict(self) -> dict[str, Tensor]:
        """Under the names that the generators have among the networks: `a2b.…` and `b2a.…`."""
        return {
            f"{name}.{key}": value
            for name, generator in (("a2b", self.a2b), ("b2a", self.b2a))
            for key, value in generator.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            RuntimeError: the names or shapes are others.
        """
        for name, generator in (("a2b", self.a2b), ("b2a", self.b2a)):
            own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            generator.load_state_dict(own)
