"""Engines on disk: a plan as TensorRT serialised it, and a sidecar that says what it is.

    MODELS_DIR/NAME/engines/
      a2b-tensorrt-rtx-fp16-256.plan         for the library alone
      a2b-tensorrt-rtx-fp16-256.plan.json    for everybody else
      a2b-tensorrt-rtx-fp16-256.plan.cache   kernels as compiled for the GPU at hand (TensorRT for RTX)

A plan says nothing about itself that could be read without its library and its GPU, so the sidecar does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ugatit_batch.atomic import is_partial, replacing
from ugatit_batch.bundle import DIRECTIONS, MANIFEST, GeneratorConfig
from ugatit_batch.errors import EngineDamagedError, EngineError
from ugatit_batch.models import ENGINES_FOLDER, is_bundled
from ugatit_engines.profiles import Profile, Span
from ugatit_engines.tensorrt_library import FLAVORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_engines.tensorrt_library import Flavor

EnginePrecision = Literal["fp16", "fp32"]
PRECISIONS: tuple[EnginePrecision, ...] = ("fp16", "fp32")
FORMAT = 1
TIMINGS = "timing-"
"""How the names of files begin that hold what earlier builds of `tensorrt` have measured."""
_PLAN, _SIDECAR = ".plan", ".plan.json"
CONVENTION = "8-bit sRGB; inside, v / 127.5 - 1 and back by round((v + 1) * 127.5)"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine."""

    name: str
    dtype: str
    """As the library calls it: `UINT8`, `FLOAT`."""
    shape: tuple[int, ...]
    """-1 where it is dynamic."""


@dataclass(frozen=True)
class EngineRecord:
    """What an engine is, as its sidecar says."""

    flavor: Flavor
    version: str
    """Exact version of the library; no other reads the plan."""
    capabilities: tuple[str, ...]
    """Compute capabilities it was built for."""
    system: str
    architecture: str
    precision: EnginePrecision
    profile: Profile
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan_bytes: int
    plan_sha256: str
    model: str
    """Name of the model, for people."""
    direction: Direction
    model_sha256: str
    """`Bundle.digest` of the direction."""
    generator: GeneratorConfig
    seconds: float
    """That building took."""
    program: str
    """Version of ugatit-batch."""
    convention: str = CONVENTION
    """What the pixels mean."""

    @property
    def stem(self) -> str:
        """Of the file names: what can lie side by side."""
        turing = "-sm75" if self.flavor == "tensorrt-rtx" and self.capabilities == ("7.5",) else ""
        return f"{self.direction}-{self.flavor}{turing}-{self.precision}-{self.profile.label}"


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
            raise _damaged(self.plan, error.strerror or str(error)) from error
        if hashlib.sha256(content).hexdigest() != record.plan_sha256:
            raise _damaged(self.plan, "its checksum is not the one in its sidecar")
        return content

    def check(self) -> EngineRecord:
        """What the sidecar says, after a look at the plan's length; its content is not read.

        Raises:
            EngineDamagedError: it is missing, cut off, or its sidecar cannot be read.
        """
        if self.record is None:
            raise self.error or _damaged(self.plan, "its sidecar says nothing")
        try:
            length = self.plan.stat().st_size
        except OSError as error:
            raise _damaged(self.plan, error.strerror or str(error)) from error
        if length != self.record.plan_bytes:
            raise _damaged(self.plan, f"{length:,} bytes long, built were {self.record.plan_bytes:,}")
        return self.record

    @property
    def cache(self) -> Path:
        """Where compiled kernels are kept."""
        return self.plan.with_name(f"{self.plan.name}.cache")

    def to_json(self) -> dict[str, Any]:
        """For programs: the sidecar and the plan's path, or what is wrong."""
        if self.record is None:
            return {"path": str(self.plan), "error": str(self.error)}
        return {"path": str(self.plan), **_to_json(self.record)}


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


def preference(found: FoundEngine) -> tuple[bool, bool, bool, str]:
    """Smaller is better: whole, in half precision, for one size, by name."""
    record = found.record
    if record is None:
        return True, True, True, found.plan.name
    return False, record.precision != "fp16", record.profile.any_size, found.plan.name


def write_engine(folder: Path, record: EngineRecord, plan: bytes | memoryview) -> FoundEngine:
    """Write an engine, whole or not at all; an older one of the same name is replaced.

    Raises:
        DiskFullError, OutputError: it could not be written.
    """
    target = folder / f"{record.stem}{_PLAN}"
    sidecar = folder / f"{record.stem}{_SIDECAR}"
    found = FoundEngine(target, record)
    with replacing(sidecar) as partial_sidecar:
        partial_sidecar.write_text(json.dumps(_to_json(record), indent=2) + "\n", "utf-8")
        with replacing(target) as partial:
            partial.write_bytes(plan)
            # Killed between here and the end, there is no engine, rather than a plan of another sidecar.
            sidecar.unlink(missing_ok=True)
            found.cache.unlink(missing_ok=True)
    return found


def find_plans(folder: Path) -> set[Path]:
    """All engines in a folder by their plans' paths, also where the plan or its sidecar is missing."""
    names = {path.name.removesuffix(".json") for path in folder.glob(f"*{_PLAN}*") if _is_ours(path.name)}
    return {folder / name for name in names if name.endswith(_PLAN) and not is_partial(name)}


def remove_engines(folder: Path) -> int:
    """Delete all engines in a folder, damaged ones and caches too; return how many plans that were.

    Raises:
        EngineError: a file cannot be deleted.
    """
    plans = find_plans(folder)
    leavings = [path for path in folder.glob("*") if path.is_file() and _is_ours(path.name)]
    try:
        for path in leavings:
            path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            if not any(folder.parent.iterdir()) and not (folder.parent / MANIFEST).exists():
                folder.parent.rmdir()
    except OSError as error:
        raise EngineError(f"{folder}: cannot be deleted: {error.strerror}", "delete it by hand") from error
    return len(plans)


def _is_ours(name: str) -> bool:
    """Also what a killed build left, and measurements that builds share."""
    built = name.lstrip(".").startswith(DIRECTIONS) and ".plan" in name
    return built or name.startswith(TIMINGS)


def read_record(sidecar: Path) -> EngineRecord:
    """Read a sidecar.

    Raises:
        EngineDamagedError: it is not one, or of a newer format.
    """
    try:
        data = json.loads(sidecar.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise EngineDamagedError(
                f"{sidecar}: an engine of format {data['format']}, this program reads format {FORMAT}",
                "update ugatit-batch, or build the engine again",
            )
        return _from_json(data)
    except OSError as error:
        raise _damaged(sidecar, error.strerror or str(error)) from error
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(sidecar, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, reason: str) -> EngineDamagedError:
    return EngineDamagedError(f"{path}: damaged engine: {reason}", "build it again")


def _to_json(record: EngineRecord) -> dict[str, Any]:
    return {"format": FORMAT, **dataclasses.asdict(record)}


def _from_json(data: dict[str, Any]) -> EngineRecord:
    fields = {name: value for name, value in data.items() if name != "format"}
    spans = {name: Span(**span) for name, span in data["profile"].items()}
    tensors = {
        name: tuple(TensorSpec(one["name"], one["dtype"], tuple(one["shape"])) for one in data[name])
        for name in ("inputs", "outputs")
    }
    record = EngineRecord(
        **fields
        | tensors
        | {
            "profile": Profile(**spans),
            "generator": GeneratorConfig(**data["generator"]),
            "capabilities": tuple(data["capabilities"]),
        }
    )
    known = (FLAVORS, PRECISIONS, DIRECTIONS)
    for value, values in zip((record.flavor, record.precision, record.direction), known, strict=True):
        if value not in values:
            raise ValueError(f"{value!r} is none of {', '.join(values)}")
    return record
