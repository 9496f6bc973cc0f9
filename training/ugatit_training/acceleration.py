"""How a step is computed on its device: compiled, recorded, in TF32."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from ugatit_batch.errors import ConfigError
from ugatit_training.cuda_graph import GraphedStep
from ugatit_training.distributed import ALONE
from ugatit_training.players import make_players
from ugatit_training.step import train_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from ugatit_training.config import TrainConfig
    from ugatit_training.distributed import World
    from ugatit_training.draw import Draw
    from ugatit_training.state import TrainingState


def check_device(config: TrainConfig, device: torch.device, world: World = ALONE) -> None:
    """Refuse what a device cannot do.

    Raises:
        ConfigError: naming the field that asks for it.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise ConfigError(f"cuda_graphs = true: {device} is no NVIDIA GPU", "cuda_graphs = false")
    if config.cuda_graphs and world.size > 1:
        raise ConfigError(
            f"cuda_graphs = true: there are {world.size} processes, and a graph holds one",
            "cuda_graphs = false",
        )
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision = bf16: this GPU does not have it", "precision = fp32")


def make_step(state: TrainingState, config: TrainConfig, world: World = ALONE) -> Callable[[Draw], Tensor]:
    """The step as the config wants it computed; it updates `state` and returns the losses.

    A call raises ConfigError where the networks are to be compiled and cannot be.
    """
    players = make_players(state.networks, config, distributed=world.size > 1)

    def step(draw: Draw) -> Tensor:
        with _explain_compiler() if config.compile else contextlib.nullcontext():
            return train_step(state.networks, players, state.optimizers, draw, config)

    taken = GraphedStep(step) if config.cuda_graphs else step
    average = state.average
    if average is None:
        return taken

    def averaged(draw: Draw) -> Tensor:
        losses = taken(draw)
        average.update()
        return losses

    return averaged


@contextlib.contextmanager
def _explain_compiler() -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise ConfigError(
            f"compile = true: PyTorch cannot compile the networks here: {reason}",
            "compile = false; or install a C++ compiler, and on a GPU Triton",
        ) from error


@contextlib.contextmanager
def float32_products(config: TrainConfig) -> Iterator[None]:
    """TF32 on or off for convolutions and matrix products on CUDA, and afterwards as it was before."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = config.tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one, whose streams are recorded and waited for."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def peak(device: torch.device) -> int | None:
    """The most bytes that have been allocated on a GPU since the program began."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
