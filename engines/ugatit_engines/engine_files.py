"""Engines on disk: a plan as TensorRT serialised it, and a sidecar that says what it is.

    MODELS_DIR/NAME/engines/
      a2b-tensorrt-rtx-fp16-256.plan         for the library alone
      a2b-tensorrt-rtx-fp16-256.plan.json    for everybody else
      a2b-tensorrt-rtx-fp16-256.plan.cache   kernels as compiled for the GPU at hand (TensorRT for RTX)

A plan says nothing about itself that could be read without its library and its GPU, so the sidecar does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ugatit_batch.atomic import explain_os_error, is_partial, replacing
from ugatit_batch.bundle import MANIFEST
from ugatit_batch.errors import EngineError
from ugatit_batch.models import ENGINES_FOLDER, is_bundled
from ugatit_engines.engine_record import EngineRecord, damaged, read_record, record_to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Bundle, Direction

TIMINGS = "timing-"
"""How the names of files begin that hold what earlier builds of `tensorrt` have measured."""
_PLAN, _SIDECAR = ".plan", ".plan.json"
_LOCK = ".engines.lock"
_OURS = re.compile(
    r"\.?(?:a2b|b2a)-tensorrt(?:-rtx)?(?:-sm75)?-(?:fp16|fp32)-[\dx-]+"
    r"(?:\.partial)?\.plan(?:\.json|\.cache|\.partial\.json|\.partial\.cache)?"
    r"|\.?timing-[\w.]+-[\d.-]+?(?:\.partial)?\.cache|\.engines\.lock"
)


@dataclass(frozen=True)
class FoundEngine:
    """An engine on disk; `error` says why its sidecar cannot be read."""

    plan: Path
    record: EngineRecord | None
    error: EngineError | None = None

    def read(self) -> bytes:
        """The plan, after checking it against the sidecar.

        Raises:
            EngineDamagedError: it is missing, cut off, or another one.
        """
        record = self.check()
        try:
            content = self.plan.read_bytes()
        except OSError as error:
            raise damaged(self.plan, error.strerror or str(error)) from error
        if hashlib.sha256(content).hexdigest() != record.plan_sha256:
            raise damaged(self.plan, "its checksum is not the one in its sidecar")
        return content

    def check(self) -> EngineRecord:
        """What the sidecar says, after a look at the plan's length; its content is not read.

        Raises:
            EngineDamagedError: it is missing, cut off, or its sidecar cannot be read.
        """
        if self.record is None:
            raise self.error or damaged(self.plan, "its sidecar says nothing")
        try:
            length = self.plan.stat().st_size
        except OSError as error:
            raise damaged(self.plan, error.strerror or str(error)) from error
        if length != self.record.plan_bytes:
            raise damaged(self.plan, f"{length:,} bytes long, built were {self.record.plan_bytes:,}")
        return self.record

    @property
    def cache(self) -> Path:
        """Where compiled kernels are kept."""
        return self.plan.with_name(f"{self.plan.name}.cache")

    def to_json(self) -> dict[str, Any]:
        """For programs: the sidecar and the plan's path, or what is wrong."""
        if self.record is None:
            return {"path": str(self.plan), "error": str(self.error)}
        return {"path": str(self.plan), **record_to_json(self.record)}


def engines_folder(bundle: Bundle, models_dir: Path) -> Path:
    """Where a model's engines lie: with the model, or in the user's folder if it came with the package."""
    if is_bundled(bundle.path):
        return models_dir / bundle.name / ENGINES_FOLDER
    return bundle.path / ENGINES_FOLDER


def list_engines(folder: Path) -> Iterator[FoundEngine]:
    """All engines in a folder by name; a plan without a sidecar is none."""
    for sidecar in sorted(folder.glob(f"*{_SIDECAR}")):
        plan = sidecar.with_name(sidecar.name.removesuffix(".json"))
        try:
            yield FoundEngine(plan, read_record(sidecar))
        except EngineError as error:
            yield FoundEngine(plan, None, error)


def describe(found: FoundEngine) -> str:
    """One line for people."""
    record = found.record
    if record is None:
        return str(found.error)
    batch = record.profile.batch
    batches = f"{batch.least}" if batch.fixed else f"{batch.least} to {batch.most}, best {batch.best}"
    return (
        f"{found.plan}: {record.flavor} {record.version}, {record.precision}, pictures of "
        f"{record.profile.label} pixels, batches of {batches}, compute capability "
        f"{', '.join(record.capabilities)}; {record.plan_bytes / 1e6:.1f} MB, built in {record.seconds:.1f} s"
    )


def of_direction(found: FoundEngine, direction: Direction) -> bool:
    """Whether an engine goes that way; a damaged one, by its name."""
    if found.record is None:
        return found.plan.name.startswith(f"{direction}-")
    return found.record.direction == direction


def preference(found: FoundEngine) -> tuple[bool, bool, bool, int, int, str]:
    """Smaller is better: whole, in half precision, for one size or a narrow range, for large batches."""
    record = found.record
    if record is None:
        return True, True, True, 0, 0, found.plan.name
    profile = record.profile
    half = record.precision != "fp16"
    return False, half, profile.any_size, profile.height.most, -profile.batch.best, found.plan.name


def write_engine(folder: Path, record: EngineRecord, plan: bytes | memoryview) -> FoundEngine:
    """Write an engine, whole or not at all; an older one of the same name is replaced.

    Raises:
        DiskFullError, OutputError: it could not be written.
    """
    target = folder / f"{record.stem}{_PLAN}"
    sidecar = folder / f"{record.stem}{_SIDECAR}"
    found = FoundEngine(target, record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire()
    except OSError as error:
        raise explain_os_error(error, target) from error
    try:
        with replacing(sidecar) as partial_sidecar:
            _write(partial_sidecar, (json.dumps(record_to_json(record), indent=2) + "\n").encode())
            with replacing(target) as partial:
                _write(partial, plan)
                # All of it is on the disk. Killed from here on, there is no engine, rather than a plan with
                # the sidecar of another.
                sidecar.unlink(missing_ok=True)
                found.cache.unlink(missing_ok=True)
    finally:
        lock.release()
    return found


def _write(path: Path, content: bytes | memoryview) -> None:
    path.write_bytes(content)
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def find_plans(folder: Path) -> set[Path]:
    """All engines in a folder by their plans' paths, also where the plan or its sidecar is missing."""
    names = {path.name.removesuffix(".json") for path in folder.glob(f"*{_PLAN}*") if _is_ours(path.name)}
    return {folder / name for name in names if name.endswith(_PLAN) and not is_partial(name)}


def remove_engines(folder: Path) -> int:
    """Delete all engines in a folder, damaged ones, caches and what a killed build left.

    Returns:
        How many engines that were; one where there was only something left over.

    Raises:
        EngineError: a file cannot be deleted.
    """
    leavings = [path for path in folder.glob("*") if path.is_file() and _is_ours(path.name)]
    count = len(find_plans(folder)) or int(any(path.name != _LOCK for path in leavings))
    try:
        for path in leavings:
            path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            if not any(folder.parent.iterdir()) and not (folder.parent / MANIFEST).exists():
                folder.parent.rmdir()
    except OSError as error:
        raise EngineError(f"{folder}: cannot be deleted: {error.strerror}", "delete it by hand") from error
    return count


def _is_ours(name: str) -> bool:
    """Also what a killed build left, and measurements that builds share."""
    return _OURS.fullmatch(name) is not None
