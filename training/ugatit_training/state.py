"""All that a training changes: networks, optimisers, the average. Equal in every process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ugatit_training.distributed import ALONE
from ugatit_training.ema import Average
from ugatit_training.model import UGATIT, Optimizers, build_networks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from ugatit_batch.bundle import Direction
    from ugatit_training.config import TrainConfig
    from ugatit_training.distributed import World
    from ugatit_training.generator import Generator


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint brings back."""

    networks: UGATIT
    optimizers: Optimizers
    average: Average | None
    """Of the generators, where the run keeps one; in the main process only."""

    @property
    def best_generators(self) -> list[Generator]:
        """A → B and B → A as the finished model will have them: the average where there is one."""
        return (self.average or self.networks).generators()


def new_state(
    config: TrainConfig,
    device: torch.device,
    world: World = ALONE,
    initial: Mapping[Direction, Mapping[str, Tensor]] | None = None,
) -> TrainingState:
    """The state before the first step, in training mode on a device; seeds torch's global generator.

    Args:
        config: of the run.
        device: of this process.
        world: its processes.
        initial: weights that generators start from instead of N(0, 0.02).
    """
    torch.manual_seed(config.seed)
    networks = build_networks(config)
    for direction, weights in (initial or {}).items():
        getattr(networks, direction).load_state_dict(weights)
    networks = networks.to(device)
    average = Average(networks, config.ema) if config.ema and world.main else None
    return TrainingState(networks, Optimizers(networks, config), average)


def copy_from_main(state: TrainingState, world: World) -> None:
    """Give every process the main one's networks and optimisers."""
    if world.size == 1:
        return
    world.copy(state.networks.state_dict().values())
    for optimizer in (state.optimizers.generators, state.optimizers.discriminators):
        taken = world.share([float(s["step"]) for s in optimizer.state.values()] if world.main else None)
        if not taken:
            continue
        if not world.main:
            _prepare(optimizer, taken)
        world.copy(_moments(optimizer))


def _prepare(optimizer: torch.optim.Adam, taken: list[float]) -> None:
    """Adam's state as after some steps, with moments yet to be filled in."""
    moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), torch.zeros_like)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    on_device = bool(optimizer.defaults["fused"] or optimizer.defaults["capturable"])
    for parameter, step in zip(parameters, taken, strict=True):
        device = parameter.device if on_device else None
        optimizer.state[parameter] = {"step": torch.tensor(step, device=device)} | {
            name: zeros(parameter, memory_format=torch.preserve_format) for name, zeros in moments.items()
        }


def _moments(optimizer: torch.optim.Adam) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield optimizer.state[parameter]["exp_avg"]
            yield optimizer.state[parameter]["exp_avg_sq"]
