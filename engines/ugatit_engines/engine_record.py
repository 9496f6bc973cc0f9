"""What an engine is, as the sidecar beside its plan says."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ugatit_batch.bundle import DIRECTIONS, GeneratorConfig
from ugatit_batch.errors import EngineDamagedError
from ugatit_engines.profiles import Profile, Span
from ugatit_engines.tensorrt_library import FLAVORS

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Direction
    from ugatit_engines.tensorrt_library import Flavor

EnginePrecision = Literal["fp16", "fp32"]
FORMAT = 1
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


def damaged(path: Path, reason: str) -> EngineDamagedError:
    """What is said of an engine whose files are not what was built."""
    return EngineDamagedError(f"{path}: damaged engine: {reason}", "build it again")


def record_to_json(record: EngineRecord) -> dict[str, Any]:
    """The sidecar's content."""
    return {"format": FORMAT, **dataclasses.asdict(record)}


def read_record(sidecar: Path) -> EngineRecord:
    """Read a sidecar.

    Raises:
        EngineDamagedError: it is not one, or of a newer format.
    """
    try:
        data = json.loads(sidecar.read_text("utf-8"))
    except OSError as error:
        raise damaged(sidecar, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise damaged(sidecar, f"its sidecar is not JSON: {error}") from error
    if not isinstance(data, dict) or "format" not in data:
        raise damaged(sidecar, "its sidecar is not one of this program's")
    if data["format"] != FORMAT:
        raise EngineDamagedError(
            f"{sidecar}: an engine of format {data['format']}, this program reads format {FORMAT}",
            "update ugatit-batch, or build the engine again",
        )
    try:
        return _from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(sidecar, f"its sidecar is wrong: {type(error).__name__}: {error}") from error


def _from_json(data: dict[str, Any]) -> EngineRecord:
    fields = {name: value for name, value in data.items() if name != "format"}
    for name in ("version", "system", "architecture", "plan_sha256", "model", "model_sha256", "program"):
        _check(name, data[name], isinstance(data[name], str))
    seconds, length, capabilities = data["seconds"], data["plan_bytes"], data["capabilities"]
    _check("seconds", seconds, type(seconds) in (int, float) and math.isfinite(seconds))
    _check("plan_bytes", length, type(length) is int)
    _check("capabilities", capabilities, isinstance(capabilities, list))
    _check("capabilities", capabilities, all(isinstance(one, str) for one in capabilities))
    for name, values in (
        ("flavor", FLAVORS),
        ("precision", get_args(EnginePrecision)),
        ("direction", DIRECTIONS),
    ):
        _check(name, data[name], data[name] in values)
    spans = {}
    for name, span in data["profile"].items():
        _check(name, span, all(type(value) is int for value in span.values()))
        spans[name] = Span(**span)
    tensors = {
        name: tuple(TensorSpec(one["name"], one["dtype"], tuple(one["shape"])) for one in data[name])
        for name in ("inputs", "outputs")
    }
    rest = {
        "profile": Profile(**spans),
        "generator": GeneratorConfig(**data["generator"]),
        "capabilities": tuple(capabilities),
    }
    return EngineRecord(**fields | tensors | rest)


def _check(name: str, value: object, right: bool) -> None:
    if not right:
        raise ValueError(f"{name} is {value!r}")
