"""The six networks of a run, their optimisers, and the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ugatit_training.discriminator import GLOBAL_STRIDED, LOCAL_STRIDED, Discriminator, fitting_depth
from ugatit_training.generator import Generator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ugatit_training.config import TrainConfig


class DomainDiscriminators(nn.Module):
    """The local and the global discriminator of one domain."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        width, size = config.discriminator_channels, config.image_size
        self.local_ = Discriminator(width, fitting_depth(LOCAL_STRIDED, size))
        self.global_ = Discriminator(width, fitting_depth(GLOBAL_STRIDED, size))


class UGATIT(nn.Module):
    """Two generators and two discriminators a direction."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.a2b = Generator(config.generator())
        self.b2a = Generator(config.generator())
        self.a = DomainDiscriminators(config)
        self.b = DomainDiscriminators(config)

    def generators(self) -> list[Generator]:
        """A → B, B → A."""
        return [self.a2b, self.b2a]

    def discriminators(self) -> list[nn.Module]:
        """All four."""
        return [self.a, self.b]


class Optimizers:
    """Adam (0.5, 0.999) for the generators, and one for the discriminators (section 4.2)."""

    def __init__(self, networks: UGATIT, config: TrainConfig) -> None:
        self.generators = _adam(networks.generators(), config)
        self.discriminators = _adam(networks.discriminators(), config)
        self.learning_rate = config.learning_rate

    def set_learning_rate(self, rate: float) -> None:
        """Of both optimisers."""
        self.learning_rate = rate
        for optimizer in (self.generators, self.discriminators):
            for group in optimizer.param_groups:
                group["lr"] = rate


def _adam(networks: Iterable[nn.Module], config: TrainConfig) -> torch.optim.Adam:
    parameters = [p for network in networks for p in network.parameters()]
    kernels = [p for p in parameters if _is_kernel(p)]
    rest = [p for p in parameters if not _is_kernel(p)]
    return torch.optim.Adam(
        [{"params": kernels, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.5, 0.999),
        fused=True,
    )


def _is_kernel(parameter: Tensor) -> bool:
    """Convolution and FC kernels; ρ, γ, β and biases have one axis and are not decayed."""
    return parameter.ndim >= 2


def learning_rate(step: int, config: TrainConfig) -> float:
    """At 1-based `step`: constant up to the middle of the run, then straight down to 0."""
    half = config.steps / 2
    if step <= half:
        return config.learning_rate
    return config.learning_rate * (config.steps - step) / half
