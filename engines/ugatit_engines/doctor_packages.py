"""The optional packages that `doctor` looks at: both flavors of TensorRT, export to ONNX, and the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import EngineLibraryError
from ugatit_engines.doctor_findings import Finding
from ugatit_engines.tensorrt_library import install_hint, is_installed, load_library, rtx_runs_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ugatit_engines.machine import Gpu, Machine
    from ugatit_engines.tensorrt_library import Flavor

EXPORT_PACKAGES = ("onnx", "onnxscript")
_OPTIONAL = (
    ("heif", "pillow-heif", "pillow_heif", "reads HEIC pictures"),
    ("evaluate", "torch-fidelity", "torch_fidelity", "measures KID, for `evaluate`"),
    ("tensorboard", "tensorboard", "tensorboard", "shows how a training goes in a browser"),
)
"""Extra, package, module, and what it is for."""
_FLAVORS: Mapping[Flavor, str] = {
    "tensorrt": "engines for any NVIDIA GPU, built on that GPU",
    "tensorrt-rtx": "engines for GeForce and RTX cards, built without a GPU too",
}


@dataclass(frozen=True)
class Library:
    """One flavor of TensorRT on this machine."""

    flavor: Flavor
    version: str | None
    """None where it is not installed, or cannot be loaded."""
    error: EngineLibraryError | None
    """Why it cannot be loaded."""
    builds: bool
    """Whether `build-engine` works with it here."""
    gpus: tuple[int, ...]
    """Which GPUs of this machine its engines run on, whether it is installed or not."""


def examine_library(flavor: Flavor, machine: Machine, *, exports: bool) -> Library:
    """What a flavor of TensorRT can do here; `exports`: the packages for ONNX are installed."""
    version, error = machine.libraries.get(flavor), None
    if version is None and is_installed(flavor):
        try:
            version = str(load_library(flavor).__version__)
        except EngineLibraryError as refused:
            error = refused
    builds = version is not None and exports and (flavor == "tensorrt-rtx" or bool(machine.gpus))
    gpus = tuple(g.index for g in machine.gpus if flavor == "tensorrt" or rtx_runs_on(g.capability))
    return Library(flavor, version, error, builds, gpus)


def look_at_library(library: Library, machine: Machine, *, exports: bool) -> Finding:
    """A flavor of TensorRT for people."""
    flavor, purpose = library.flavor, _FLAVORS[library.flavor]
    if machine.system == "darwin":
        return Finding(flavor, "missing", "there is none for macOS")
    if library.error is not None:
        return Finding(flavor, "problem", library.error.message, library.error.hint)
    runs = _say_where_it_runs(library, machine.gpus)
    if library.version is None:
        return Finding(flavor, "missing", f"not installed: {purpose}, and {runs}", install_hint(flavor))
    builds = "can build engines"
    if not library.builds:
        builds = "cannot build engines without " + ("a GPU" if exports else " and ".join(EXPORT_PACKAGES))
    return Finding(flavor, "ok", f"{library.version}: {builds}; {runs}", detail=purpose)


def _say_where_it_runs(library: Library, gpus: Sequence[Gpu]) -> str:
    if not gpus:
        return "there is no GPU to run them"
    names = [f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus if gpu.index in library.gpus]
    return f"{', '.join(names) or 'no GPU here'} can run them"


def find_packages() -> dict[str, str | None]:
    """Optional packages and their versions; None: not installed."""
    names = [(name, name) for name in EXPORT_PACKAGES] + [(package, mod) for _, package, mod, _ in _OPTIONAL]
    found: dict[str, str | None] = {}
    for package, module in names:
        found[package] = None
        if importlib.util.find_spec(module) is not None:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "of unknown version"
    return found


def look_at_packages(packages: Mapping[str, str | None], machine: Machine) -> Iterator[Finding]:
    """What `find_packages` gave, for people."""
    lacking = [name for name in EXPORT_PACKAGES if packages[name] is None]
    there = ", ".join(f"{name} {packages[name]}" for name in EXPORT_PACKAGES)
    if not lacking:
        yield Finding("onnx", "ok", f"{there}: export models for `build-engine`")
    elif machine.system != "darwin":
        text = f"{' and '.join(lacking)} not installed: for `build-engine`"
        yield Finding("onnx", "missing", text, install_hint("tensorrt-rtx"))
    for extra, package, _, purpose in _OPTIONAL:
        version = packages[package]
        if version is not None:
            yield Finding(extra, "ok", f"{package} {version} {purpose}")
        else:
            text, hint = (
                f"{package}, which {purpose}, is not installed",
                f"pip install 'ugatit-batch[{extra}]'",
            )
            yield Finding(extra, "missing", text, hint)
