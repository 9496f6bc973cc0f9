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

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.model import UGATIT, Optimizers

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
    folder: Path, step: int, networks: UGATIT, optimizers: Optimizers, keep: int
) -> Checkpoint:
    """Write a checkpoint, whole or not at all, then delete all but the newest `keep`.

    Raises:
        DiskFullError, OutputError: it could not be written; the older ones stay.
    """
    path = folder / f"step-{step:08d}.pt"
    device = next(networks.parameters()).device
    state = {
        "step": step,
        "networks": networks.state_dict(),
        "generators": optimizers.generators.state_dict(),
        "discriminators": optimizers.discriminators.state_dict(),
        "random": torch.get_rng_state(),
        "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    with replacing(path) as partial:
        torch.save(state, partial)
    for stale in list_checkpoints(folder)[:-keep]:
        stale.path.unlink()
    return Checkpoint(path, step)


def load_checkpoint(checkpoint: Checkpoint, networks: UGATIT, optimizers: Optimizers) -> int:
    """Bring networks, optimisers and random states back; return how many steps had been taken.

    Raises:
        DatasetError: the file cannot be read, is damaged, or belongs to other networks.
        MemoryLacksError: the device has no room for it.
    """
    device = next(networks.parameters()).device
    try:
        # To the CPU first: a second copy of everything on a GPU may be one too many.
        state: dict[str, Any] = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
        networks.load_state_dict(state["networks"])
        optimizers.generators.load_state_dict(state["generators"])
        optimizers.discriminators.load_state_dict(state["discriminators"])
        torch.set_rng_state(state["random"])
        # A run that moves between a CPU and a GPU has no state to go on with, and its steps draw nothing.
        if device.type == "cuda" and state["random_device"] is not None:
            torch.cuda.set_rng_state(state["random_device"], device)
        return int(state["step"])
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
