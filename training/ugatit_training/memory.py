"""How much memory a training needs, worked out before its first step.

One real step runs on tensors without data (`memory_trace`), from the state that every step but the first
starts from: the optimisers have their moments, the gradients of the step before are still there. Whatever the
config asks for is followed, but for `compile` and `cuda_graphs`: what runs is PyTorch's own kernels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ugatit_batch.errors import ConfigError, MemoryLacksError
from ugatit_training.config import paper_load_size
from ugatit_training.diff_augment import NUMBERS
from ugatit_training.draw import AUGMENTED, Draw
from ugatit_training.ema import Average
from ugatit_training.memory_trace import Ledger, Traced, trace_module, traced
from ugatit_training.model import Optimizers, build_networks
from ugatit_training.players import make_players
from ugatit_training.step import LOSS_NAMES, train_step

if TYPE_CHECKING:
    from torch import Tensor

    from ugatit_training.config import TrainConfig

GIB = 2**30
CUDA_ALLOWANCE = GIB
"""On top of a GPU's tensors: the CUDA context (some 0.5 GiB), workspaces of cuDNN and cuBLAS, gaps between
blocks. A round figure from other networks, not measured with these; it is only told, and no training is
refused on its account."""
_CERTAIN = 0.9
"""Share of the need below which free memory is surely too little. Predictions are tested to be within a tenth
of what a step takes; a training that may fit is let go."""
_TRACED_PARTS = 3
"""Of a step with more parts so many are traced: a further one adds its pictures and losses, nothing else."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at the fullest moment of a step."""

    weights: int
    """Of all networks with their buffers, the averaged generators and the replay pool."""
    gradients: int
    """Of those parameters that have one at that moment."""
    optimizer: int
    """Adam's two moments."""
    activations: int
    """Everything else: what the backward pass waits for, temporary results, the pictures."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": self.optimizer,
            "activations": self.activations,
        }
        return f"{gib(self.total)} ({', '.join(f'{k} {gib(v)}' for k, v in parts.items())})"


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def need(config: TrainConfig, device_type: str = "cuda") -> MemoryNeed:
    """What the tensors of a training take. Allocates nothing and draws no random number.

    One process alone: among several, DistributedDataParallel keeps a second copy of the gradients.

    Args:
        config: of the run.
        device_type: where it will run; Adam that is not fused works on all parameters at once on `cuda`.

    Raises:
        MemoryLacksError: a tensor would be larger than PyTorch can count.
    """
    at_once = device_type == "cuda" and not config.fused_adam
    parts = min(config.accumulate, _TRACED_PARTS)
    plain = dataclasses.replace(config, cuda_graphs=False, compile=False, accumulate=parts)
    try:
        found = _trace_step(plain, at_once=at_once)
    except (RuntimeError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            raise
        raise MemoryLacksError(
            f"a training step with batch_size = {config.batch_size}, image_size = {config.image_size} and "
            f"channels = {config.channels} has tensors too large to be counted",
            "use smaller numbers",
        ) from error
    losses = (config.accumulate - parts) * len(LOSS_NAMES) * torch.float32.itemsize
    more = _drawn(config) - _drawn(plain) + losses
    return dataclasses.replace(found, activations=found.activations + more)


def _drawn(config: TrainConfig) -> int:
    """Bytes of what a step is given, as `_draw` makes it."""
    size = 2 * 3 * config.image_size**2 * torch.float32.itemsize
    if config.diff_augment:
        size += AUGMENTED * NUMBERS * torch.float32.itemsize
    if config.replay_pool:
        size += 2 * 2 * torch.int64.itemsize
    return config.batch_size * config.accumulate * size


@functools.lru_cache(maxsize=32)
def _trace_step(config: TrainConfig, *, at_once: bool) -> MemoryNeed:
    with torch.device("meta"):
        networks = build_networks(config)
    average = Average(networks, config.ema) if config.ema else None
    ledger = Ledger()
    trace_module(networks, ledger)
    averaged = [] if average is None else [*average.a2b.parameters(), *average.b2a.parameters()]
    kept = [traced(x, ledger) for x in averaged]
    weights = ledger.rest

    optimizers = Optimizers(networks, config)
    for optimizer in (optimizers.generators, optimizers.discriminators):
        _take_moments(optimizer, ledger, at_once=at_once)
    moments = ledger.rest - weights
    for parameter in networks.parameters():
        parameter.register_post_accumulate_grad_hook(_book_gradient)  # type: ignore[no-untyped-call]
        parameter.grad = traced(parameter.detach(), ledger)
        _book_gradient(parameter)

    ledger.peak = (0, 0)
    train_step(networks, make_players(networks, config), optimizers, _draw(config, ledger), config)
    gradients, rest = ledger.peak
    del kept
    return MemoryNeed(weights, gradients, moments, rest - weights - moments)


def _take_moments(optimizer: torch.optim.Adam, ledger: Ledger, *, at_once: bool) -> None:
    for group in optimizer.param_groups:
        group["foreach"] = at_once
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(1.0),
                "exp_avg": traced(parameter.detach(), ledger),
                "exp_avg_sq": traced(parameter.detach(), ledger),
            }


def _book_gradient(parameter: Tensor) -> None:
    if isinstance(parameter.grad, Traced):
        parameter.grad.block.becomes_gradient()


def _draw(config: TrainConfig, ledger: Ledger) -> Draw:
    count, side = config.batch_size * config.accumulate, config.image_size
    layout = torch.channels_last if config.channels_last else torch.contiguous_format

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.empty(count, *shape, dtype=dtype, device="meta")
        return traced(made.contiguous(memory_format=layout) if made.ndim == 4 else made, ledger)

    return Draw(
        a=empty(3, side, side),
        b=empty(3, side, side),
        augment=empty(AUGMENTED, NUMBERS) if config.diff_augment else None,
        replay=empty(2, 2, dtype=torch.int64) if config.replay_pool else None,
    )


def statement(config: TrainConfig, device: torch.device, free: int) -> str:
    """What a training needs, and what there is, in a line.

    Args:
        config: of the run.
        device: where it will run.
        free: bytes that could be taken there now.
    """
    text = f"memory: a step needs {need(config, device.type)}"
    if device.type == "cuda":
        text += f", and about {gib(CUDA_ALLOWANCE)} for CUDA itself"
    return f"{text}; {gib(free)} are free on {device}"


def check(config: TrainConfig, device: torch.device, free: int) -> str:
    """Before the first step: say what it needs, or that it cannot fit.

    What a compiled step keeps is not known, and can be much less; there, only weights, gradients and moments
    decide whether it is let go.

    Args:
        config: of the run.
        device: where it will run.
        free: bytes that could be taken there now.

    Returns:
        `statement`.

    Raises:
        MemoryLacksError: it needs more than is free, by more than the prediction can be wrong; with changes
            that make it fit.
    """
    wanted = need(config, device.type)
    allowance = CUDA_ALLOWANCE if device.type == "cuda" else 0
    certain = wanted.total - wanted.activations if config.compile else int(_CERTAIN * wanted.total)
    if certain <= free:
        return statement(config, device, free)
    others: list[tuple[str, int]] = []
    for words, changed in _savings(config, device):
        if _drawn(changed) <= free:
            others.append((words, need(changed, device.type).total))
    fitting = [f"{words} ({gib(size)})" for words, size in others if size / _CERTAIN + allowance <= free]
    hint = f"what fits: {'; '.join(fitting)}"
    if not others:
        hint = f"the pictures of a step alone take {gib(_drawn(config))}: fewer of them, or smaller ones"
    elif not fitting:
        words, size = min(others, key=lambda other: other[1])
        hint = f"free some, or take another device: even with {words} it needs {gib(size)}"
    raise MemoryLacksError(f"a training step needs {wanted}, and {gib(free)} are free on {device}", hint)


class _Change(NamedTuple):
    words: str
    values: dict[str, Any]


def _savings(config: TrainConfig, device: torch.device) -> list[tuple[str, TrainConfig]]:
    """Changes that save memory, those first that change the result least: options and config."""
    pictures, smaller = config.batch_size * config.accumulate, config.image_size // 8 * 4
    again = _Change("--set checkpoint_activations=true", {"checkpoint_activations": True})
    single = _Change(f"--batch-size 1 --set accumulate={pictures}", {"batch_size": 1, "accumulate": pictures})
    half = _Change("--precision bf16", {"precision": "bf16"})
    light = _Change("--set light=true", {"light": True})
    size = {"image_size": smaller, "load_size": paper_load_size(smaller)}
    ways = [[again], [single], [single, again], [half, again], [light], [light, again]]
    found: list[tuple[str, TrainConfig]] = []
    for way in [*ways, [_Change(f"--size {smaller}", size)]]:
        if half in way and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            continue
        new = [change for change in way if change.values.items() - dataclasses.asdict(config).items()]
        with contextlib.suppress(ConfigError):  # accumulation needs joined passes; 32 pixels are the least
            changed = config
            for change in new:
                changed = dataclasses.replace(changed, **change.values)
            if changed not in [config, *(other for _, other in found)]:
                found.append((" ".join(change.words for change in new), changed))
    return found
