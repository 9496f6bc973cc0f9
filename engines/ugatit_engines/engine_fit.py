"""Whether an engine fits a model, a machine and a run; all of it is known before any work on a GPU."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import DeviceError, EngineDamagedError, EngineLibraryError, EngineUnfitError
from ugatit_batch.frames import SizeRule
from ugatit_batch.models import default_models_dir, is_bundled
from ugatit_engines.tensorrt_library import (
    TURING,
    fits_portable,
    install_hint,
    name_capability,
    rtx_runs_on,
)

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.images.geometry import Sizing
    from ugatit_engines.engine_files import EnginePrecision, EngineRecord, FoundEngine
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


def build_command(bundle: Bundle, direction: Direction = "a2b", need: Need | None = None) -> str:
    """What to type for an engine of this model that does what a run needs."""
    words = ["ugatit-batch", "build-engine", _address(bundle)]
    if direction == "b2a":
        words.append("--reverse")
    if need is not None and need.precision is not None:
        words += ["--precision", need.precision]
    if need is not None and need.batch_size is not None:
        words += ["--batch", f"1,{need.batch_size}" if need.batch_size > 1 else "1"]
    sizing = None if need is None else need.sizing
    if sizing is not None and sizing.side is not None and sizing.side != bundle.working_size.side:
        least = SizeRule().minimum
        words += ["--size", f"{sizing.side}" if sizing.square else f"{least}-{_up(sizing.side)}"]
    return shlex.join(words)


def _address(bundle: Bundle) -> str:
    """The name where that finds it, or else the folder."""
    known = is_bundled(bundle.path) or bundle.path == default_models_dir() / bundle.name
    return bundle.name if known else str(bundle.path)


def _up(side: int) -> int:
    multiple = SizeRule().multiple
    return -(-side // multiple) * multiple


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
    if isinstance(error, EngineUnfitError | EngineDamagedError):
        also = f"{error.hint}, or " if isinstance(error, EngineUnfitError) and error.hint else ""
        error.hint = f"{also}build one that fits: {build_command(bundle, direction, need)}"
    return error


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
        fits = profile.any_size and side is not None and _up(side) <= profile.height.most
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
