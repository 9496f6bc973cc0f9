"""From a checkpoint to a model that can be used."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ugatit_batch import __version__
from ugatit_batch.bundle import DIRECTIONS, Bundle, save_bundle
from ugatit_batch.errors import BundleError, UsageError
from ugatit_training.checkpoint import DAMAGED
from ugatit_training.run_folder import read_config, read_info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ugatit_batch.bundle import Direction

Storage = Literal["fp16", "fp32"]
Weights = Literal["raw", "ema"]
"""The generators as trained, or their moving average, which runs with `ema` above 0 keep beside them."""
_STORAGE = {"fp16": np.float16, "fp32": np.float32}


def is_own_checkpoint(path: Path) -> bool:
    """Whether a path lies in a run folder, as the checkpoints of `train` do."""
    return path.suffix == ".pt" and (path.parent.parent / "run.json").is_file()


def write_model(
    checkpoint: Path,
    name: str,
    folder: Path,
    directions: Sequence[Direction] = DIRECTIONS,
    storage: Storage = "fp16",
    weights: Weights | None = None,
) -> Bundle:
    """Make a model out of a checkpoint of a run.

    Args:
        checkpoint: `RUN/checkpoints/step-NNNNNNNN.pt`; the run folder tells the rest.
        name: of the model.
        folder: where it goes.
        directions: which of its generators.
        storage: type of the weights on disk.
        weights: which of them; None: the average where there is one.

    Raises:
        UsageError: the average is asked for, and the run keeps none.
        BundleError: the checkpoint is damaged.
        ConfigError: the run folder is damaged.
        DiskFullError, OutputError: the model cannot be written.
    """
    run = checkpoint.parent.parent
    info = read_info(run / "run.json")
    config = read_config(run)
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        step = int(state["step"])
        average = state.get("ema")
        weights = weights or ("ema" if average else "raw")
        if weights == "ema" and not average:
            raise UsageError(f"{checkpoint}: its run keeps no moving average of the generators", "use raw")
        networks: Mapping[str, torch.Tensor] = state["ema" if weights == "ema" else "networks"]
        arrays = {d: _weights(networks, d, storage) for d in directions}
    except DAMAGED as error:
        raise BundleError(f"{checkpoint}: damaged checkpoint: {error}", "use an older one") from error
    bundle = Bundle(
        name=name,
        domains=info.domains,
        generator=config.generator(),
        working_size=config.working_size(),
        directions={},
        training={
            "program": f"ugatit-batch {__version__}",
            "run": info.mark,
            "step": step,
            "weights": weights,
            "pictures": dict(zip(("a", "b"), info.pictures, strict=True)),
            "config": asdict(config),
            **({"initial": dict(info.initial)} if info.initial else {}),
        },
        sources=info.sources,
        licence=info.licence,
    )
    return save_bundle(bundle, arrays, folder)


def _weights(
    networks: Mapping[str, torch.Tensor], direction: Direction, storage: Storage
) -> dict[str, NDArray[np.floating[Any]]]:
    prefix = f"{direction}."
    found = {
        name.removeprefix(prefix): tensor.float().numpy().astype(_STORAGE[storage])
        for name, tensor in networks.items()
        if name.startswith(prefix)
    }
    if not found:
        raise KeyError(f"no generator {direction}")
    return found
