"""From a model to an engine on disk: export, build, keep."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ugatit_batch import __version__
from ugatit_batch.atomic import explain_os_error, replacing
from ugatit_batch.errors import DeviceError, DiskFullError, OutputError, UgatitBatchError, UsageError
from ugatit_engines.engine_files import TIMINGS, write_engine
from ugatit_engines.engine_record import EngineRecord
from ugatit_engines.engine_status import writing_error
from ugatit_engines.onnx_export import export_onnx
from ugatit_engines.tensorrt_build import build_plan
from ugatit_engines.tensorrt_library import PORTABLE, TURING, load_library, name_capability

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_engines.engine_files import FoundEngine
    from ugatit_engines.engine_record import EnginePrecision
    from ugatit_engines.machine import Gpu, Machine
    from ugatit_engines.profiles import Profile
    from ugatit_engines.tensorrt_library import Capability, Flavor


def choose_targets(
    flavor: Flavor, gpu: Gpu | None, wanted: Capability | None = None
) -> tuple[Capability, ...]:
    """The compute capabilities that an engine will be built for.

    Args:
        flavor: `tensorrt` builds for the GPU at hand, `tensorrt-rtx` for all cards from Ampere on, or for
            Turing alone.
        gpu: None where there is none.
        wanted: 7.5 for Turing, 8.0 for Ampere and later; None: what suits the GPU.

    Raises:
        DeviceError: that flavor does not build on this machine.
        UsageError: that flavor does not build for what is wanted.
    """
    if flavor == "tensorrt":
        if gpu is None:
            raise DeviceError(
                "--flavor tensorrt: it builds on the GPU that the engine is for, and PyTorch finds none",
                "use --flavor tensorrt-rtx, which needs none, or build on the machine with the GPU",
            )
        if wanted not in (None, gpu.capability):
            raise UsageError(
                f"--compute-capability {name_capability(wanted)}: tensorrt builds for the GPU at hand, "
                f"{name_capability(gpu.capability)}",
                "leave it out, or use --flavor tensorrt-rtx",
            )
        return (gpu.capability,)
    if wanted is None:
        wanted = TURING if gpu is not None and gpu.capability == TURING else PORTABLE[0]
    return (TURING,) if wanted == TURING else PORTABLE


def build_engine(
    bundle: Bundle,
    direction: Direction,
    folder: Path,
    *,
    flavor: Flavor,
    precision: EnginePrecision,
    profile: Profile,
    targets: tuple[Capability, ...],
    machine: Machine,
    gpu: Gpu | None,
    progress: Callable[[str, int, int], None],
) -> FoundEngine:
    """Build one engine and keep it in `folder`; an older one of the same kind is replaced when this is whole.

    Args:
        bundle: the model.
        direction: which of its generators.
        folder: `engines_folder` of the model.
        flavor: of TensorRT.
        precision: of convolutions and FCs.
        profile: batches and sizes that it takes.
        targets: from `choose_targets`.
        machine: this one.
        gpu: on which `tensorrt` builds; None where there is none.
        progress: is told phase, step and steps (0: nobody knows). What it raises ends the build.

    Raises:
        EnvironmentLacksError: packages are missing; the message says how to get them.
        UsageError, BundleError: the model has no such direction, or is damaged.
        EngineBuildError: TensorRT refused; the message has its own words.
        DiskFullError, OutputError: the engine could not be written.
    """
    version = str(load_library(flavor).__version__)
    if targets == (TURING,) and flavor == "tensorrt-rtx" and precision == "fp32":
        raise UsageError(
            "--precision fp32: TensorRT for RTX has no float32 matrix products on compute capability 7.5",
            "use --precision fp16",
        )
    unwritable = writing_error(folder)
    if unwritable is not None:  # told before minutes of work
        raise _explain(explain_os_error(unwritable, folder), "choose another --models-dir")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as scratch:
        progress("Exporting the graph", 0, 0)
        try:
            graph = export_onnx(
                bundle, direction, Path(scratch) / f"{direction}.onnx", precision=precision, profile=profile
            )
        except (DiskFullError, OutputError) as error:
            raise _explain(error, "free some room there, or set TMPDIR to a folder with more") from error
        timings = folder / f"{TIMINGS}{version}-{'-'.join(map(name_capability, targets))}.cache"
        built = build_plan(
            flavor,
            graph.path,
            profile,
            capability=TURING if flavor == "tensorrt-rtx" and targets == (TURING,) else None,
            device=gpu.index if flavor == "tensorrt" and gpu is not None else None,
            timings=_read(timings),
            progress=progress,
        )
    record = EngineRecord(
        flavor=flavor,
        version=version,
        capabilities=tuple(map(name_capability, targets)),
        system=machine.system,
        architecture=machine.architecture,
        precision=precision,
        profile=profile,
        inputs=built.inputs,
        outputs=built.outputs,
        plan_bytes=len(built.plan),
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        model=bundle.name,
        direction=direction,
        model_sha256=bundle.digest(direction),
        generator=bundle.generator,
        seconds=round(time.perf_counter() - started, 2),
        program=__version__,
    )
    try:
        found = write_engine(folder, record, built.plan)
    except (DiskFullError, OutputError) as error:
        raise _explain(error, "free some room there, or choose another --models-dir") from error
    if built.timings is not None:
        # Only time is lost without them.
        with contextlib.suppress(UgatitBatchError), replacing(timings) as partial:
            partial.write_bytes(built.timings)
    return found


def _explain(error: DiskFullError | OutputError, hint: str) -> UgatitBatchError:
    """The same, with what helps here; the writer's own hint is about outputs of translations."""
    return type(error)(error.message, hint)


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None
