"""A model on disk: a folder with `bundle.json` and one safetensors file a direction. Never a pickle.

    NAME/
      bundle.json          what it is: generator, domains, sizes, how it was trained, licence
      a2b.safetensors      the generator A → B
      b2a.safetensors      the generator B → A, where the model has it

Knows nothing of torch: weights are NumPy arrays here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ugatit_batch.atomic import replacing
from ugatit_batch.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[np.floating[Any]]]

Direction = Literal["a2b", "b2a"]
DIRECTIONS: tuple[Direction, ...] = ("a2b", "b2a")
FORMAT = 1
MANIFEST = "bundle.json"
_RESERVED = frozenset('<>:"/\\|?*')


@dataclass(frozen=True)
class GeneratorConfig:
    """The shape of one generator (table 4 of the paper)."""

    channels: int = 64
    """Width after the first convolution (ch)."""
    residual_blocks: int = 4
    """Blocks in the encoder bottleneck, and again in the decoder (n_res)."""
    light: bool = True
    """γ and β from the pooled features (any size) instead of the flattened ones (one size)."""
    image_size: int = 256
    """Side of the training square in pixels; a full generator takes no other size."""
    variance: Literal["biased", "unbiased", "nested"] = "biased"
    """Variance in AdaLIN and LIN; the PyTorch program's is unbiased, until 27 August 2019 nested."""
    decoder_skip: bool = True
    """Whether AdaLIN blocks add their input; the PyTorch program's did not before 27 August 2019."""
    style_relu: bool = True
    """Whether ReLU follows the two FCs before γ and β; the PyTorch program had none before 7 August 2019."""
    norm: Literal["adalin", "adain", "in", "ln", "gn"] = "adalin"
    """Normalisation throughout the decoder; all but adalin are ablations of the paper (table 1)."""
    attention: bool = True
    """Whether it has a class activation map; without one, features pass on and there is no attention map."""

    def __post_init__(self) -> None:
        for name in ("channels", "residual_blocks", "image_size"):
            value: object = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, not {value!r}")
        if self.image_size % 4 or self.image_size < 16:
            raise ValueError(f"image_size must divide by 4 and be 16 or more, not {self.image_size}")
        if self.variance not in ("biased", "unbiased", "nested"):
            raise ValueError(f"variance must be biased, unbiased or nested, not {self.variance!r}")
        if self.norm not in ("adalin", "adain", "in", "ln", "gn"):
            raise ValueError(f"norm must be adalin, adain, in, ln or gn, not {self.norm!r}")


@dataclass(frozen=True)
class WorkingSize:
    """At which size pictures are translated when nobody asks for another."""

    mode: Literal["square", "native"] = "square"
    """`square` for faces and objects; `native` for textures, which are right at any size."""
    side: int = 256
    """Side of the square, or the longest side up to which a picture keeps its own size, in pixels."""

    def __post_init__(self) -> None:
        if self.mode not in ("square", "native"):
            raise ValueError(f"working size must be square or native, not {self.mode!r}")
        side: object = self.side
        if type(side) is not int or side < 8 or side % 4:
            raise ValueError(f"working side must divide by 4 and be 8 or more, not {self.side!r}")


@dataclass(frozen=True)
class WeightsFile:
    """One direction's weights."""

    file: str
    """Name inside the bundle's folder."""
    sha256: str
    """Of the whole file, hexadecimal."""


@dataclass(frozen=True)
class Bundle:
    """One self-describing model."""

    name: str
    """What users write after `--model`."""
    domains: tuple[str, str]
    """Names of the domains A and B."""
    generator: GeneratorConfig
    """The same shape for both directions."""
    working_size: WorkingSize
    """At which size pictures are translated."""
    directions: Mapping[Direction, WeightsFile]
    """One or both."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained: recipe, steps, numbers of pictures, program version."""
    sources: tuple[str, ...] = ()
    """On what it was trained, one line a source."""
    licence: str = ""
    """Under which terms the weights may be used; empty where the owner has not said."""
    path: Path = Path()
    """The folder it lies in."""

    def digest(self, direction: Direction) -> str:
        """SHA-256 over everything that decides the pixels of one direction: shape and weights."""
        values = dataclasses.asdict(self.generator)
        # Fields that came later count where they say something: models from before keep their digests.
        late = {name: getattr(GeneratorConfig(), name) for name in ("norm", "attention")}
        shape = json.dumps({k: v for k, v in values.items() if v != late.get(k, ...)}, sort_keys=True)
        return hashlib.sha256(f"{shape}\n{self.directions[direction].sha256}".encode()).hexdigest()

    def weights(self, direction: Direction) -> dict[str, NDArray[np.floating[Any]]]:
        """Read one direction's weights, after checking them against the manifest.

        Raises:
            UsageError: the model has no such direction.
            BundleError: the file is missing, damaged or holds something else.
        """
        if direction not in self.directions:
            there = self.describe_directions()
            raise UsageError(
                f"model {self.name} only translates {there}",
                "leave --reverse out" if direction == "b2a" else "add --reverse",
            )
        entry = self.directions[direction]
        path = self.path / entry.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _damaged(path, "its checksum is not the one in bundle.json")
        try:
            return load_tensors(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise _damaged(path, f"not a safetensors file: {error}") from error

    def describe_direction(self, direction: Direction) -> str:
        """For people: `photo → ink`."""
        a, b = self.domains
        return f"{a} → {b}" if direction == "a2b" else f"{b} → {a}"

    def describe_directions(self) -> str:
        """For people: `photo → ink, ink → photo`."""
        return ", ".join(self.describe_direction(d) for d in DIRECTIONS if d in self.directions)


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(f"{path}: damaged model: {reason}", "import or train the model again, or copy it anew")


def check_name(name: str) -> str:
    """Return `name` when it can be a model's name and a folder's.

    Raises:
        UsageError: it cannot.
    """
    bad = not name or name != name.strip() or name.startswith((".", "-")) or len(os.fsencode(name)) > 100
    if bad or any(c in _RESERVED or ord(c) < 32 for c in name):
        raise UsageError(
            f"{name!r} cannot be a model's name", "use letters, digits, '-' and '_', 100 bytes at most"
        )
    return name


def save_bundle(bundle: Bundle, weights: Mapping[Direction, Weights], folder: Path) -> Bundle:
    """Write a bundle, whole or not at all; an older one in `folder` is replaced, its engines kept.

    Args:
        bundle: its `directions` and `path` are filled in here.
        weights: one mapping of float16 or float32 arrays a direction.
        folder: becomes `Bundle.path`.

    Returns:
        The bundle as it now stands on disk.

    Raises:
        DiskFullError, OutputError: it could not be written.
    """
    files: dict[Direction, WeightsFile] = {}
    for direction, arrays in weights.items():
        content = save_tensors({k: np.ascontiguousarray(v) for k, v in arrays.items()})
        digest = hashlib.sha256(content).hexdigest()
        # With the checksum in the name, a killed replacement leaves the old manifest with its old weights.
        name = f"{direction}-{digest[:12]}.safetensors"
        with replacing(folder / name) as partial:
            partial.write_bytes(content)
        files[direction] = WeightsFile(name, digest)
    bundle = dataclasses.replace(bundle, directions=files, path=folder)
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(_to_json(bundle), indent=2, ensure_ascii=False) + "\n", "utf-8")
    for stale in folder.glob("*.safetensors"):
        if stale.name not in {entry.file for entry in files.values()}:
            stale.unlink()
    return bundle


def _to_json(bundle: Bundle) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": bundle.name,
        "domains": list(bundle.domains),
        "generator": dataclasses.asdict(bundle.generator),
        "working_size": dataclasses.asdict(bundle.working_size),
        "directions": {d: dataclasses.asdict(entry) for d, entry in bundle.directions.items()},
        "training": dict(bundle.training),
        "sources": list(bundle.sources),
        "licence": bundle.licence,
    }


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest; weights are read, and checked, by `Bundle.weights`.

    Raises:
        BundleError: the folder is not a model, the manifest is damaged, or of a newer format.
    """
    manifest = folder / MANIFEST
    try:
        data = json.loads(manifest.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder}: not a model: it has no {MANIFEST}", "`ugatit-batch models list` shows what there is"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(manifest, str(error)) from error
    try:
        return _from_json(data, folder)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise _damaged(manifest, f"{type(error).__name__}: {error}") from error


def _from_json(data: dict[str, Any], folder: Path) -> Bundle:
    if data["format"] != FORMAT:
        raise BundleError(
            f"{folder}: a model of format {data['format']}, this program reads format {FORMAT}",
            "update ugatit-batch",
        )
    first, second = data["domains"]
    directions: dict[Direction, WeightsFile] = {}
    for direction in DIRECTIONS:
        if direction in data["directions"]:
            entry = WeightsFile(**data["directions"][direction])
            if Path(entry.file).name != entry.file:
                raise ValueError(f"{entry.file!r} is not a plain file name")
            directions[direction] = entry
    if not directions:
        raise ValueError("no direction")
    return Bundle(
        name=check_name(str(data["name"])),
        domains=(str(first), str(second)),
        generator=GeneratorConfig(**data["generator"]),
        working_size=WorkingSize(**data["working_size"]),
        directions=directions,
        training=dict(data["training"]),
        sources=tuple(str(s) for s in data["sources"]),
        licence=str(data["licence"]),
        path=folder,
    )


def remove_bundle(folder: Path) -> None:
    """Delete a model from disk, its engines too; it may be damaged.

    Raises:
        BundleError: the folder holds no model, or cannot be deleted.
    """
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder}: not a model: it has no {MANIFEST}", "nothing was deleted")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be deleted: {error.strerror}", "delete it by hand") from error
