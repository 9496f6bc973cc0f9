"""Checkpoints of a run: everything that a resumed run needs to be the undisturbed one.

Tensors, numbers and strings only, so that reading never executes a pickle.
"""

from __future__ import annotations

import pickle
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ugatit_batch.atomic import replacing
from ugatit_batch.errors import DatasetError, MemoryLacksError
from ugatit_training.distributed import ALONE
from ugatit_training.state import copy_from_main

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ugatit_training.distributed import World
    from ugatit_training.state import TrainingState

_NAME = re.compile(r"step-(\d{8})\.pt")
DAMAGED = (
    *(RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError),
    *(pickle.UnpicklingError, struct.error),
)
"""Everything that a damaged file is known to raise while it is read and taken apart."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk."""

    path: Path
    step: int
    """Steps that had been taken."""


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The whole checkpoints in a folder, oldest first."""
    found = [(p, _NAME.fullmatch(p.name)) for p in folder.glob("step-*.pt")]
    return sorted((Checkpoint(p, int(m[1])) for p, m in found if m), key=lambda c: c.step)


def save_checkpoint(
    folder: Path, step: int, state: TrainingState, keep: int, world: World = ALONE
) -> Checkpoint | None:
    """Write a checkpoint, whole or not at all, then delete all but the newest `keep`.

    Every process of a training calls this; the main one writes, and alone gets an answer.

    Raises:
        DiskFullError, OutputError: it could not be written; the older ones stay.
    """
    pool = state.networks.replay
    pools = [] if pool is None else world.gather(pool.pictures.cpu())
    if not world.main:
        return None
    path = folder / f"step-{step:08d}.pt"
    content = {
        "step": step,
        "networks": state.networks.state_dict(),
        "generators": state.optimizers.generators.state_dict(),
        "discriminators": state.optimizers.discriminators.state_dict(),
        "ema": None if state.average is None else state.average.state_dict(),
        "replay": pools,
    }
    with replacing(path) as partial:
        torch.save(content, partial)
    for stale in list_checkpoints(folder)[:-keep]:
        stale.path.unlink()
    return Checkpoint(path, step)


def resume(folder: Path, state: TrainingState, world: World = ALONE) -> int:
    """Bring the newest checkpoint of a folder back into every process of a training.

    Only the main process reads: the others need not see its disk.

    Returns:
        How many steps had been taken; 0 where there is no checkpoint.

    Raises:
        DatasetError: the file cannot be read, is damaged, or belongs to other networks or, where they have
            replay pools, to another number of processes.
        MemoryLacksError: the device has no room for it.
    """
    pools: list[Tensor] = []
    taken: tuple[int, int] | None = None
    if world.main:
        try:
            checkpoints = list_checkpoints(folder)
            step, pools = _load(checkpoints[-1], state) if checkpoints else (0, [])
            taken = step, len(pools)
        finally:
            taken = world.share(taken)
    else:
        taken = world.share(None)
    if taken is None:
        raise DatasetError("process 0 could not read its checkpoint", "see what it says")
    step, count = taken
    pool = state.networks.replay
    if step and pool is not None:
        if count != world.size:
            raise DatasetError(
                f"{folder}: the run has the replay pools of {count} processes, not {world.size}",
                f"go on with {count} processes, or use another --name",
            )
        pool.pictures.copy_(world.share(pools if world.main else None)[world.rank])
    copy_from_main(state, world)
    return step


def _load(checkpoint: Checkpoint, state: TrainingState) -> tuple[int, list[Tensor]]:
    """Steps taken and replay pools; the rest goes into `state`."""
    networks, optimizers = state.networks, state.optimizers
    device = next(networks.parameters()).device
    try:
        # To the CPU first: a second copy of everything on a GPU may be one too many.
        content: dict[str, Any] = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
        networks.load_state_dict(content["networks"])
        for name in ("generators", "discriminators"):
            optimizer: torch.optim.Adam = getattr(optimizers, name)
            optimizer.load_state_dict(_with_own_settings(content[name], optimizer))
            _lay_out_as_parameters(optimizer)
        if state.average is not None:
            state.average.load_state_dict(content["ema"])
        pool, pools = networks.replay, list(content["replay"])
        if pool is not None and any(saved.shape != pool.pictures.shape for saved in pools):
            raise ValueError("its replay pools are of another size")
        return int(content["step"]), pools
    except torch.OutOfMemoryError as error:
        raise MemoryLacksError(f"{device}: no room for {checkpoint.path}", "free some GPU memory") from error
    except OSError as error:
        raise DatasetError(
            f"{checkpoint.path}: cannot be read: {error.strerror or error}", "check the file and its disk"
        ) from error
    except DAMAGED as error:
        raise DatasetError(
            f"{checkpoint.path}: damaged checkpoint: {error}",
            "move that file away: the same command goes on from the one before",
        ) from error


def _lay_out_as_parameters(optimizer: torch.optim.Adam) -> None:
    """Give moments their parameters' strides, which are others after a change of `channels_last`.

    Fused Adam and the exchange between processes go through memory, not through indices.
    """
    for parameter, entry in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            own = torch.empty_like(parameter, memory_format=torch.preserve_format)
            entry[name] = own.copy_(entry[name])


def _with_own_settings(saved: Mapping[str, Any], optimizer: torch.optim.Adam) -> dict[str, Any]:
    """An optimiser's saved moments with this run's settings: `fused` and the like may change on resuming."""
    groups = optimizer.state_dict()["param_groups"]
    if [g["params"] for g in groups] != [g["params"] for g in saved["param_groups"]]:
        raise ValueError("the optimisers are those of other networks")
    return {"state": saved["state"], "param_groups": groups}
