"""What models and engines there are, whether they are whole, and whether engines fit a machine.

Knows nothing of torch: a machine is a parameter.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ugatit_batch.errors import BundleError, DeviceError, EngineDamagedError, ModelNotFoundError
from ugatit_batch.models import ENGINES_FOLDER, find_folder, is_bundled, list_models
from ugatit_engines.engine_files import FoundEngine, describe, engines_folder, list_engines
from ugatit_engines.engine_fit import Need, misfit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.models import FoundModel
    from ugatit_engines.machine import Machine


@dataclass(frozen=True)
class EngineStatus:
    """An engine, and whether it can be used."""

    found: FoundEngine
    misfit: UgatitBatchError | None
    """Why not on this machine; None where it can."""

    @property
    def damaged(self) -> bool:
        """Whether no machine can use it."""
        return isinstance(self.misfit, EngineDamagedError)

    @property
    def hint(self) -> str:
        """What to do about it; nothing where there is no GPU, which no option brings."""
        return "" if self.misfit is None or isinstance(self.misfit, DeviceError) else self.misfit.hint

    @property
    def reason(self) -> str | None:
        """Why it cannot be used, and what to do."""
        if self.misfit is None:
            return None
        return f"{self.misfit.message} ({self.hint})" if self.hint else self.misfit.message

    def describe(self) -> str:
        """One line for people."""
        if self.misfit is None:
            return f"{describe(self.found)}; fits this machine"
        if self.damaged:
            return str(self.misfit)
        return f"{describe(self.found)}; does not fit: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """For programs: what the sidecar says, `fits` and `misfit`."""
        return self.found.to_json() | {"fits": self.misfit is None, "misfit": self.reason}


@dataclass(frozen=True)
class ModelStatus:
    """A model and its engines."""

    model: FoundModel
    error: BundleError | None
    """What is damaged, as far as it shows without reading all of the weights."""
    engines: tuple[EngineStatus, ...]

    @property
    def name(self) -> str:
        """What users write after `--model`."""
        return self.model.path.name

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "path": str(self.model.path),
            "bundled": self.model.bundled,
            "error": None if self.error is None else str(self.error),
            "engines": [engine.to_json() for engine in self.engines],
        }


def check_engines(
    bundle: Bundle, found: list[FoundEngine], machine: Machine, *, thorough: bool
) -> tuple[EngineStatus, ...]:
    """Whether engines of a model can be used on a machine, on any of its GPUs.

    Args:
        bundle: the model.
        found: what `list_engines` gave.
        machine: this one, or another.
        thorough: compare checksums, for which plans are read; otherwise their lengths alone.
    """
    return tuple(EngineStatus(engine, _check(bundle, engine, machine, thorough)) for engine in found)


def _check(bundle: Bundle, engine: FoundEngine, machine: Machine, thorough: bool) -> UgatitBatchError | None:
    judged = engine
    try:
        if thorough:
            engine.read()
        else:
            engine.check()
    except EngineDamagedError as error:
        judged = FoundEngine(engine.plan, None, error)
    # What is left of a direction that the model no longer has is of another model.
    direction = next(iter(bundle.directions))
    if judged.record is not None and judged.record.direction in bundle.directions:
        direction = judged.record.direction
    errors = [misfit(judged, bundle, direction, machine, gpu, Need()) for gpu in machine.gpus or (None,)]
    return None if None in errors else errors[0]


def find_engines_folder(name: str, models_dir: Path) -> Path:
    """Where engines of a model lie, also of one that is damaged, or that no longer comes with the package.

    Args:
        name: of the model, or its folder.
        models_dir: the user's models folder.

    Raises:
        ModelNotFoundError: there is neither a model nor engines of that name.
    """
    try:
        folder = find_folder(name, models_dir)
    except ModelNotFoundError:
        folder = models_dir / name
        if Path(name).name != name or not (folder / ENGINES_FOLDER).is_dir():
            raise
    return (models_dir / folder.name if is_bundled(folder) else folder) / ENGINES_FOLDER


def check_models(models_dir: Path, machine: Machine) -> Iterator[ModelStatus]:
    """All models and their engines, whether they are whole as far as file lengths tell.

    Raises:
        OSError: the models folder cannot be read.
    """
    for model in list_models(models_dir):
        if model.bundle is None:
            yield ModelStatus(model, model.error, ())
            continue
        found = list(list_engines(engines_folder(model.bundle, models_dir)))
        engines = check_engines(model.bundle, found, machine, thorough=False)
        yield ModelStatus(model, _check_weights(model.bundle), engines)


def _check_weights(bundle: Bundle) -> BundleError | None:
    for entry in bundle.directions.values():
        path = bundle.path / entry.file
        try:
            with safe_open(path, framework="numpy"):  # compares the header with the length
                pass
        except (OSError, SafetensorError) as error:
            return BundleError(
                f"{path}: damaged model: {error}", "import or train the model again, or copy it anew"
            )
    return None


def writing_error(folder: Path) -> OSError | None:
    """Why nothing can be written to a folder, or where it would be made; None where that works.

    Nothing is left behind, the folder is not made.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return error
