"""The six networks of a run, their optimisers, and the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ugatit_training.discriminator import GLOBAL_STRIDED, LOCAL_STRIDED, Discriminator, fitting_depth
from ugatit_training.generator import Generator
from ugatit_training.replay_pool import ReplayPool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ugatit_training.config import TrainConfig


class DomainDiscriminators(nn.Module):
    """The local and the global discriminator of one domain."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        width, size = config.discriminator_channels, config.image_size
        attention = config.cam in ("both", "discriminator")
        self.local_, self.global_ = (
            Discriminator(width, fitting_depth(depth, size), attention=attention)
            for depth in (LOCAL_STRIDED, GLOBAL_STRIDED)
        )


class UGATIT(nn.Module):
    """Two generators and two discriminators a direction."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.a2b = Generator(config.generator())
        self.b2a = Generator(config.generator())
        self.a = DomainDiscriminators(config)
        self.b = DomainDiscriminators(config)
        self.replay = ReplayPool(config) if config.replay_pool else None
        for generator in self.generators():
            generator.checkpoint_activations = config.checkpoint_activations

    def generators(self) -> list[Generator]:
        """A → B, B → A."""
        return [self.a2b, self.b2a]

    def discriminators(self) -> list[nn.Module]:
        """All four."""
        return [self.a, self.b]


def build_networks(config: TrainConfig) -> UGATIT:
    """The networks before the first step, in training mode and in the config's memory format."""
    networks = UGATIT(config).train()
    if config.channels_last:
        # One by one: the pool of fakes has an axis too many for this format.
        for network in (*networks.generators(), *networks.discriminators()):
            network.to(memory_format=torch.channels_last)
    return networks


class Optimizers:
    """Adam (0.5, 0.999) for the generators, and one for the discriminators (section 4.2)."""

    def __init__(self, networks: UGATIT, config: TrainConfig) -> None:
        device = next(networks.parameters()).device
        # A CUDA graph reads the rate where it lies; a number would be recorded with it.
        self._shared = torch.tensor(0.0, device=device) if config.cuda_graphs else None
        self.generators = self._adam(networks.generators(), config)
        self.discriminators = self._adam(networks.discriminators(), config)
        self.set_learning_rate(config.learning_rate)

    def set_learning_rate(self, rate: float) -> None:
        """Of both optimisers."""
        self.learning_rate = rate
        if self._shared is not None:
            self._shared.fill_(rate)
        for optimizer in (self.generators, self.discriminators):
            for group in optimizer.param_groups:
                group["lr"] = rate if self._shared is None else self._shared

    def _adam(self, networks: Iterable[nn.Module], config: TrainConfig) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.parameters()]
        kernels = [p for p in parameters if _is_kernel(p)]
        rest = [p for p in parameters if not _is_kernel(p)]
        return torch.optim.Adam(
            [
                {"params": kernels, "weight_decay": config.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=config.learning_rate if self._shared is None else self._shared,
            betas=(0.5, 0.999),
            fused=config.fused_adam or None,  # False would turn PyTorch's own default off, too
            capturable=self._shared is not None,
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
