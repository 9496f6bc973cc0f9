"""Where models are kept, and finding them by name.

Two places: the user's models folder, and the models that come with the package. Where both have a name, the
user's is meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ugatit_batch.atomic import is_partial, replacing
from ugatit_batch.bundle import DIRECTIONS, MANIFEST, Bundle, check_name, load_bundle, save_bundle
from ugatit_batch.errors import BundleError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINES_FOLDER = "engines"
"""Beside a model's manifest; for a model that came with the package, alone in a folder of its name."""
_WEIGHTS = re.compile(rf"({'|'.join(DIRECTIONS)})-[0-9a-f]{{12}}\.safetensors")


def default_models_dir() -> Path:
    """The user's models folder where nobody says otherwise."""
    return platformdirs.user_data_path("ugatit-batch", appauthor=False) / "models"


def bundled_models_dir() -> Path:
    """The models that come with the package."""
    return Path(str(resources.files("ugatit_batch"))) / "bundled"


@dataclass(frozen=True)
class FoundModel:
    """A model folder; `error` says why it cannot be used."""

    path: Path
    bundled: bool
    """Whether it came with the package."""
    bundle: Bundle | None
    error: BundleError | None


def list_models(models_dir: Path) -> Iterator[FoundModel]:
    """All models, the user's first, each place by name. A folder without a manifest is not a model."""
    for place, bundled in ((models_dir, False), (bundled_models_dir(), True)):
        if not place.is_dir():
            continue
        for folder in sorted(place.iterdir()):
            if (folder / MANIFEST).is_file():
                try:
                    yield FoundModel(folder, bundled, _load(folder), None)
                except BundleError as error:
                    yield FoundModel(folder, bundled, None, error)


def is_bundled(folder: Path) -> bool:
    """Whether a model's folder came with the package."""
    return folder.resolve().parent == bundled_models_dir().resolve()


def find_model(name: str, models_dir: Path) -> Bundle:
    """The model of that name, or in that folder.

    Args:
        name: a model's name, or the path of a bundle folder.
        models_dir: the user's models folder.

    Raises:
        ModelNotFoundError: there is none; the message lists the names that exist.
        BundleError: it is there, but damaged.
    """
    folder = find_folder(name, models_dir)
    return load_bundle(folder) if folder == Path(name) else _load(folder)


def find_folder(name: str, models_dir: Path) -> Path:
    """The folder of the model of that name, or that folder; what is in it may be damaged.

    Raises:
        ModelNotFoundError: there is none; the message lists the names that exist.
    """
    for place in (models_dir, bundled_models_dir()):
        folder = place / name
        if Path(name).name == name and (folder / MANIFEST).is_file():
            return folder
    if Path(name).is_dir():
        return Path(name)
    names = list(dict.fromkeys(model.path.name for model in list_models(models_dir)))
    close = difflib.get_close_matches(name, names, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise ModelNotFoundError(
        f"--model {name}: no such model",
        f"{guess}models: {', '.join(names) or 'none'}; train one, or `ugatit-batch models import FILE`",
    )


def _load(folder: Path) -> Bundle:
    """A model that is found by its folder's name, which a copied folder's manifest does not know."""
    return dataclasses.replace(load_bundle(folder), name=folder.name)


def model_folder(name: str, models_dir: Path) -> Path:
    """Where a model of that name belongs.

    Raises:
        UsageError: it cannot be a model's name.
    """
    return models_dir / check_name(name)


def is_free(folder: Path) -> bool:
    """Whether a model may be written there: nothing is, or only engines and what a killed import left."""
    if not folder.is_dir():
        return not folder.exists()
    return all(
        path.name == ENGINES_FOLDER or is_partial(path.name) or _WEIGHTS.fullmatch(path.name)
        for path in folder.iterdir()
    )


def export_archive(bundle: Bundle, target: Path) -> Path:
    """Write a model's manifest and weights into one zip file; return its path.

    Raises:
        BundleError: the model is damaged.
        DiskFullError, OutputError: the file cannot be written.
    """
    for direction in bundle.directions:
        bundle.weights(direction)
    with (
        replacing(target) as partial,
        # Not strict: files of packages may be dated before 1980, where a zip file's time begins.
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive,
    ):
        for name in (MANIFEST, *(entry.file for entry in bundle.directions.values())):
            archive.write(bundle.path / name, name)
    return target


def import_archive(archive: Path, name: str, folder: Path) -> Bundle:
    """Take in what `export_archive` wrote, under a name.

    Raises:
        BundleError: it is something else, or damaged; nothing is left in `folder`.
        DiskFullError, OutputError: the model cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as scratch:
        place = Path(scratch)
        try:
            with zipfile.ZipFile(archive) as opened:
                # Only plain names that a model has: an archive cannot write anywhere else.
                for entry in opened.namelist():
                    if entry == MANIFEST or (Path(entry).name == entry and entry.endswith(".safetensors")):
                        content = opened.read(entry)
                        with replacing(place / entry) as partial:
                            partial.write_bytes(content)
        except (
            OSError,
            EOFError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise BundleError(f"{archive}: damaged archive: {error}", "export the model again") from error
        if not (place / MANIFEST).is_file():
            raise BundleError(f"{archive}: no model in it", "give a file that `models export` wrote")
        bundle = load_bundle(place)
        weights = {direction: bundle.weights(direction) for direction in bundle.directions}
        return save_bundle(dataclasses.replace(bundle, name=name), weights, folder)
