"""Whether an engine fits a model, a machine and a run; all of it is known before any work on a GPU."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import (
    DeviceError,
    EngineDamagedError,
    EngineLibraryError,
    EngineUnfitError,
    UsageError,
)
from ugatit_batch.frames import SizeRule
from ugatit_batch.models import default_models_dir, is_bundled
from ugatit_engines.profiles import choose_profile
from ugatit_engines.tensorrt_library import (
    TURING,
    fits_portable,
    install_hint,
    name_capability,
    rtx_runs_on,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.images.geometry import Sizing
    from ugatit_engines.engine_files import FoundEngine
    from ugatit_engines.engine_record import EnginePrecision, EngineRecord
    from ugatit_engines.machine import Gpu, Machine
    from ugatit_engines.tensorrt_library import Flavor


@dataclass(frozen=True)
class Need:
    """What a run asks of an engine."""

    precision: EnginePrecision | None = None
    """None: either."""
    batch_size: int | None = None
    """None: whichever the engine likes best."""
    sizing: Sizing | None = None
    """Which picture sizes come; None: nobody knows."""
    exact: bool = False
    """Whether pictures smaller than the engine takes must be seen in their own size, and not be padded."""


def build_command(bundle: Bundle, direction: Direction, need: Need, folder: Path | None = None) -> str | None:
    """What to type for an engine of this model that does what a run needs; None: no engine does that.

    Args:
        bundle: the model.
        direction: which of its generators.
        need: what the run needs.
        folder: in which the model's engines lie, where that is known.
    """
    words = ["ugatit-batch", "build-engine", *address(bundle, folder)]
    if direction == "b2a":
        words.append("--reverse")
    if need.precision is not None:
        words += ["--precision", need.precision]
    batch, size = "auto", "model"
    if need.batch_size is not None:
        batch = f"1,{need.batch_size}" if need.batch_size > 1 else "1"
        words += ["--batch", batch]
    if need.sizing is not None:
        side, rule = need.sizing.side, SizeRule()
        if side is None:
            return None
        if side != bundle.working_size.side:
            # A range has two ends.
            most = max(rule.round_up(side), rule.minimum + rule.multiple)
            size = f"{side}" if need.sizing.square else f"{rule.minimum}-{most}"
            words += ["--size", size]
    try:
        choose_profile(bundle, size, batch)
    except UsageError:
        return None
    return shlex.join(words)


def address(bundle: Bundle, folder: Path | None = None) -> list[str]:
    """How to name a model on the command line: by its name where that finds it, or else by its folder.

    Args:
        bundle: the model.
        folder: in which its engines lie; tells the models folder of one that came with the package.
    """
    if is_bundled(bundle.path):
        models_dir = default_models_dir() if folder is None else folder.parent.parent
        elsewhere = models_dir != default_models_dir()
        return [bundle.name, *(["--models-dir", str(models_dir)] if elsewhere else [])]
    return [bundle.name if bundle.path == default_models_dir() / bundle.name else str(bundle.path)]


def choose_flavor(gpu: Gpu | None, machine: Machine) -> Flavor:
    """The flavor that suits a GPU: `tensorrt-rtx` on GeForce and RTX cards, unless `tensorrt` alone is there.

    Args:
        gpu: None on a machine without one, where `tensorrt-rtx` alone can build.
        machine: says what is installed.
    """
    if gpu is None:
        return "tensorrt-rtx"
    if not rtx_runs_on(gpu.capability):
        return "tensorrt"
    only_tensorrt = machine.libraries.get("tensorrt") and not machine.libraries.get("tensorrt-rtx")
    return "tensorrt" if only_tensorrt else "tensorrt-rtx"


def misfit(
    found: FoundEngine, bundle: Bundle, direction: Direction, machine: Machine, gpu: Gpu | None, need: Need
) -> UgatitBatchError | None:
    """Why an engine cannot be used; None where it can, as far as can be told without reading its plan.

    The error's hint is what to do about it, the command that builds a fitting one included.
    """
    if found.record is None:
        error: UgatitBatchError | None = found.error
    else:
        error = (
            misfit_with_model(found.record, bundle, direction)
            or misfit_with_machine(found.record, machine, gpu)
            or misfit_with_run(found.record, need)
        )
    if error is not None:
        add_command(error, build_command(bundle, direction, need, found.plan.parent))
    return error


def add_command(error: UgatitBatchError, command: str | None) -> None:
    """Complete the hint of an error about an engine by the command that builds one without it."""
    if not isinstance(error, EngineUnfitError | EngineDamagedError) or (command and command in error.hint):
        return
    also = error.hint if isinstance(error, EngineUnfitError) else ""
    other = "use --backend torch" if command is None else f"build one that fits: {command}"
    error.hint = f"{also}, or {other}" if also else other


def misfit_with_model(record: EngineRecord, bundle: Bundle, direction: Direction) -> EngineUnfitError | None:
    """Why an engine is not of this model; None where it is."""
    if record.direction == direction and record.model_sha256 == bundle.digest(direction):
        return None
    return EngineUnfitError(
        "model",
        f"engine {record.stem} was built from another model, or from an older {bundle.name}",
    )


def misfit_with_machine(record: EngineRecord, machine: Machine, gpu: Gpu | None) -> UgatitBatchError | None:
    """Why an engine does not run on a machine; None where it does.

    Args:
        record: the engine.
        machine: its system and libraries.
        gpu: which of its GPUs; None: it has none.
    """
    name, flavor = f"engine {record.stem}", record.flavor
    installed = machine.libraries.get(flavor)
    if installed is None and flavor in machine.broken:
        return EngineLibraryError(
            f"{name} needs {flavor}, which is installed, but cannot be loaded",
            "`ugatit-batch doctor` says why",
        )
    if installed is None:
        others = [other for other, version in machine.libraries.items() if version is not None]
        if others:
            return EngineUnfitError(
                "flavor", f"{name} needs {flavor}; installed is {' and '.join(others)}", install_hint(flavor)
            )
        return EngineLibraryError(f"{name} needs {flavor}, which is not installed", install_hint(flavor))
    if installed != record.version:
        return EngineUnfitError(
            "version",
            f"{name} was built by {flavor} {record.version}, installed is {installed}",
        )
    place, built = (machine.system, machine.architecture), (record.system, record.architecture)
    # Those of TensorRT for RTX are the same for Linux and Windows.
    if place != built and (flavor == "tensorrt" or place[1] != built[1]):
        return EngineUnfitError(
            "system",
            f"{name} was built on {' '.join(built)}, this is {' '.join(place)}",
        )
    if gpu is None:
        return DeviceError(f"{name} needs an NVIDIA GPU, and PyTorch finds none", "use --backend torch")
    if not _fits_gpu(record, gpu):
        return EngineUnfitError(
            "gpu",
            f"{name} was built for compute capability {', '.join(record.capabilities)}; "
            f"{gpu.name} has {name_capability(gpu.capability)}",
        )
    return None


def _fits_gpu(record: EngineRecord, gpu: Gpu) -> bool:
    if record.flavor == "tensorrt-rtx" and record.capabilities != (name_capability(TURING),):
        return fits_portable(gpu.capability)
    return name_capability(gpu.capability) in record.capabilities


def misfit_with_run(record: EngineRecord, need: Need) -> EngineUnfitError | None:
    """Why an engine does not do what a run asks for; None where it does."""
    name, profile = f"engine {record.stem}", record.profile
    if need.precision not in (None, record.precision):
        return EngineUnfitError(
            "precision",
            f"{name} works in {record.precision}, not in {need.precision}",
        )
    if need.batch_size is not None and not profile.batch.holds(need.batch_size):
        return EngineUnfitError(
            "batch",
            f"--batch-size {need.batch_size}: {name} takes {profile.batch.least} to {profile.batch.most}",
        )
    sizing = need.sizing
    if sizing is None:
        return None
    side = sizing.side
    if sizing.square and side is not None:
        fits = profile.height.holds(side) and profile.width.holds(side)
    else:
        fits = profile.any_size and side is not None and SizeRule().round_up(side) <= profile.height.most
        fits = fits and (not need.exact or profile.height.least <= SizeRule().minimum)
    if not fits:
        return EngineUnfitError(
            "size",
            f"{name} takes pictures of {profile.label} pixels, this run brings {_describe(sizing)}",
            f"use --size {profile.height.most}" if sizing.square or profile.any_size else "",
        )
    return None


def _describe(sizing: Sizing) -> str:
    if sizing.side is None:
        return "any size"
    return f"{sizing.side}×{sizing.side}" if sizing.square else f"any shape up to {sizing.side}"
