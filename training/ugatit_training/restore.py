"""The networks of a run, as one of its checkpoints holds them: generators and discriminators, to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ugatit_batch.errors import BundleError
from ugatit_training.checkpoint import DAMAGED, list_checkpoints
from ugatit_training.finish import is_own_checkpoint
from ugatit_training.model import UGATIT
from ugatit_training.run_folder import read_config, read_info

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.run_folder import RunInfo


@dataclass(frozen=True)
class Restored:
    """A checkpoint and the run it belongs to."""

    networks: UGATIT
    """On the CPU, in evaluation mode, without gradients; the generators as the finished model has them."""
    weights: Literal["raw", "ema"]
    """Whether they are as trained, or their moving average."""
    info: RunInfo
    step: int
    run: Path
    """The run's folder."""


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint behind a path: a checkpoint of a run itself, or the newest of a run folder.

    Returns:
        None where the path is neither.

    Raises:
        BundleError: a run folder without a checkpoint.
    """
    if is_own_checkpoint(path) and path.is_file():
        return path
    if not (path / "run.json").is_file():
        return None
    found = list_checkpoints(path / "checkpoints")
    if not found:
        raise BundleError(f"{path}: a run without a checkpoint", "let it train until its first one")
    return found[-1].path


def restore_networks(checkpoint: Path) -> Restored:
    """Read all six networks of a run.

    Args:
        checkpoint: `RUN/checkpoints/step-NNNNNNNN.pt`.

    Raises:
        BundleError: the checkpoint is damaged.
        ConfigError: the run folder is damaged.
    """
    run = checkpoint.parent.parent
    info = read_info(run / "run.json")
    config = read_config(run)
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step, weights, average = int(state["step"]), dict(state["networks"]), state.get("ema") or {}
        if not average.keys() <= weights.keys():
            raise ValueError("its average is one of other networks")
        with torch.device("meta"):
            networks = UGATIT(config)
        networks.load_state_dict(weights | average, assign=True)
    except DAMAGED as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BundleError(f"{checkpoint}: damaged checkpoint: {reason[0]}", "use an older one") from error
    networks.eval().requires_grad_(False)
    return Restored(networks, "ema" if average else "raw", info, step, run)
