"""How a step calls the six networks: as they are, compiled, or wrapped for several processes."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from ugatit_training.config import TrainConfig
    from ugatit_training.discriminator import DiscriminatorOutput
    from ugatit_training.generator import GeneratorOutput
    from ugatit_training.model import UGATIT, DomainDiscriminators


class GeneratorCall(Protocol):
    """A generator as the step sees it."""

    def __call__(self, x: Tensor, /) -> GeneratorOutput:
        """Args: x N×3×S×S in [-1, 1]."""


class Judge(Protocol):
    """A discriminator as the step sees it."""

    def __call__(self, x: Tensor, passes: int = 1, /) -> DiscriminatorOutput:
        """Args: x N×3×S×S in [-1, 1], of so many passes one behind the other."""


@dataclass(frozen=True)
class Players:
    """The networks, ready to be called; `frozen_…` for the generators' half, where judges do not learn."""

    a2b: GeneratorCall
    b2a: GeneratorCall
    judges_a: tuple[Judge, Judge]
    judges_b: tuple[Judge, Judge]
    frozen_a: tuple[Judge, Judge]
    frozen_b: tuple[Judge, Judge]
    wrapped: tuple[DistributedDataParallel, ...] = ()

    @contextlib.contextmanager
    def keep_gradients(self) -> Iterator[None]:
        """Add gradients up here without exchanging them between processes."""
        with contextlib.ExitStack() as stack:
            for network in self.wrapped:
                stack.enter_context(network.no_sync())
            yield


def make_players(networks: UGATIT, config: TrainConfig, *, distributed: bool = False) -> Players:
    """Compile and wrap as the config says.

    Args:
        networks: on their device, in training mode.
        config: `compile` says whether each network is compiled when it is first called.
        distributed: whether torch.distributed is running, and gradients are averaged over its processes.
    """
    wrapped: list[DistributedDataParallel] = []

    def learning(network: nn.Module) -> nn.Module:
        network = called(network)
        if not distributed:
            return network
        with warnings.catch_warnings():
            # Newer versions of PyTorch have another name for the option, which older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            # Buffers are singular vectors: equal everywhere, since each process iterates on equal weights.
            wrapped.append(DistributedDataParallel(network, broadcast_buffers=False))
        return wrapped[-1]

    def called(network: nn.Module) -> nn.Module:
        if not config.compile:
            return network
        return cast("nn.Module", torch.compile(network, dynamic=False))

    def judges(domain: DomainDiscriminators) -> tuple[tuple[Judge, Judge], tuple[Judge, Judge]]:
        pair = (domain.local_, domain.global_)
        trained = tuple(learning(judge) for judge in pair)
        frozen = tuple(called(judge) for judge in pair) if distributed else trained
        return cast("tuple[tuple[Judge, Judge], tuple[Judge, Judge]]", (trained, frozen))

    a2b, b2a = (cast("GeneratorCall", learning(generator)) for generator in networks.generators())
    (judges_a, frozen_a), (judges_b, frozen_b) = judges(networks.a), judges(networks.b)
    return Players(a2b, b2a, judges_a, judges_b, frozen_a, frozen_b, tuple(wrapped))
