"""Starting a run from a finished model's generators (`--init-from`); the discriminators start anew.

The generators' shape is the model's, whatever the recipe says. Once a run has a checkpoint, that decides
everything, and the model itself need not be there any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ugatit_batch.bundle import DIRECTIONS
from ugatit_batch.errors import BundleError, ConfigError, ModelNotFoundError
from ugatit_batch.models import find_model
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.generator import Generator
from ugatit_training.run_folder import read_config, read_info

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ugatit_batch.bundle import Bundle, Direction, GeneratorConfig
    from ugatit_training.config import TrainConfig


@dataclass(frozen=True)
class Start:
    """Where a run's generators come from."""

    record: Mapping[str, str]
    """For `run.json`: `model`, its name, and for each of its directions the digest."""
    shape: GeneratorConfig
    """Of the generators."""
    bundle: Bundle | None
    """The model; None where the run's own checkpoint has taken its place."""


def find_start(name: str, models_dir: Path, run: Path) -> Start:
    """The model that a run is to start from, or the run's checkpoint where it has started already.

    Args:
        name: a model's name, or the path of a bundle folder.
        models_dir: the user's models folder.
        run: the run's folder, which need not exist.

    Raises:
        ModelNotFoundError: there is no such model.
        BundleError: it is there, but damaged.
        ConfigError: its generators cannot be trained here, or the run folder is damaged.
    """
    started = (run / "run.json").is_file() and bool(list_checkpoints(run / "checkpoints"))
    if started:
        before = read_info(run / "run.json").initial
        if before.get("model") == name:
            return Start(before, read_config(run).generator(), None)
    try:
        bundle = find_model(name, models_dir)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"--init-from {name}: no such model", error.hint) from error
    _check_trainable(bundle)
    record: dict[str, str] = {direction: bundle.digest(direction) for direction in bundle.directions}
    return Start({"model": bundle.name, **record}, bundle.generator, None if started else bundle)


def _check_trainable(bundle: Bundle) -> None:
    shape = bundle.generator
    older = "as the authors' PyTorch program before"
    reasons = (
        (not shape.style_relu, f"its γ and β come without ReLU, {older} 7 August 2019"),
        (not shape.decoder_skip, f"its decoder blocks do not add their input, {older} 27 August 2019"),
        (shape.variance == "nested", f"its variance is nested, {older} 27 August 2019"),
    )
    for untrainable, reason in reasons:
        if untrainable:
            raise ConfigError(
                f"--init-from {bundle.name}: such generators can be used, but not trained here: {reason}",
                "start from another model, or leave --init-from out",
            )


def shape_overrides(start: Start, config: TrainConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that have to be others for its generators to have the model's shape.

    Args:
        start: where they come from.
        config: as recipe and options have it.
        given: the fields that options named; these are not replaced.

    Raises:
        ConfigError: an option contradicts the model.
    """
    shape = start.shape
    wanted: dict[str, Any] = {
        name: getattr(shape, name) for name in ("channels", "residual_blocks", "light", "norm", "variance")
    }
    in_discriminators = config.cam in ("both", "discriminator")
    wanted["cam"] = {
        (True, True): "both",
        (True, False): "generator",
        (False, True): "discriminator",
        (False, False): "none",
    }[shape.attention, in_discriminators]
    if not shape.light:
        # A full generator has one size, and the working size of a light recipe does not fit it.
        wanted |= {"image_size": shape.image_size, "working_mode": "square"}
        if config.light:
            wanted["working_side"] = 0
    changed = {name: value for name, value in wanted.items() if getattr(config, name) != value}
    for name, value in changed.items():
        if name in given:
            raise ConfigError(
                f"{name} = {given[name]} contradicts --init-from {start.record['model']}, "
                f"whose generators have {name} = {value}",
                f"leave {name} out, or start from another model",
            )
    return changed


def initial_weights(bundle: Bundle, config: TrainConfig) -> dict[Direction, dict[str, Tensor]]:
    """The model's weights for a run's generators, float32 on the CPU; a direction it lacks is left out.

    Raises:
        BundleError: they are damaged, or do not fit the shape that the model's manifest tells.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Generator(config.generator()).state_dict().items()}
    found: dict[Direction, dict[str, Tensor]] = {}
    for direction in DIRECTIONS:
        if direction in bundle.directions:
            tensors = {n: torch.from_numpy(a).float() for n, a in bundle.weights(direction).items()}
            if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
                raise BundleError(
                    f"{bundle.path}: damaged model: the weights of {direction} do not fit bundle.json",
                    "import or train the model again, or copy it anew",
                )
            found[direction] = tensors
    return found


def missing_directions(start: Start) -> list[Direction]:
    """Those whose generator starts anew."""
    return [direction for direction in DIRECTIONS if direction not in start.record]
