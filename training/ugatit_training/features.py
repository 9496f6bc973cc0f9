"""Feature networks for KID: the Inception network of torch-fidelity, or any program file by path.

What `--features FILE` may be, told apart by what is in it:

| file | is |
|---|---|
| `torch.export.save` | a network of any kind |
| TorchScript | a network of any kind; PyTorch has deprecated the format in favour of `torch.export` |
| `torch.save` of a state dict | weights of torch-fidelity's Inception |

A network takes uint8 N×3×H×W (RGB, 0 to 255; H = W is the model's training size for `kid` and 299 for
`kid-paper`) and gives N×D floating-point features. Weights are read with `weights_only=True`, so that they
execute nothing; a program file is a program, and is refused where loading it would unpickle Python objects or
load compiled code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import pickle
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ugatit_batch.errors import DatasetError, EnvironmentLacksError, MemoryLacksError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

INCEPTION = "torch-fidelity's Inception"
_DAMAGED = (
    *(RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, AssertionError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError),
)
"""What damaged or foreign files are known to raise while they are read."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A network whose outputs are compared."""

    name: str
    """The file, or torch-fidelity's Inception."""
    sha256: str
    """Of the file with its weights, hexadecimal."""
    device: torch.device
    call: Callable[[Tensor], Any]
    """uint8 N×3×H×W on the device to N×D features."""

    @torch.no_grad()
    def extract(self, pictures: Tensor) -> NDArray[np.float32]:
        """Features of pictures.

        Args:
            pictures: uint8, N×3×H×W, on any device.

        Returns:
            float32, N×D.

        Raises:
            DatasetError: the network does not take these pictures, or does not give one finite row a picture.
            MemoryLacksError: the device has no room for them.
        """
        shape = "×".join(map(str, pictures.shape))
        try:
            found = self.call(pictures.to(self.device))
        except torch.OutOfMemoryError as error:
            raise MemoryLacksError(
                f"{self.device}: no room for the features of {len(pictures)} pictures",
                "use a smaller --batch-size",
            ) from error
        except _DAMAGED as error:
            raise DatasetError(
                f"{self.name}: does not take uint8 {shape}: {_first_line(error)}",
                "export it with a free batch size, and for both --protocol kid and kid-paper with free sides",
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(pictures):
            given = "×".join(map(str, found.shape)) if isinstance(found, Tensor) else type(found).__name__
            raise DatasetError(
                f"{self.name}: gives {given} for {shape}, not one row of features a picture",
                "export a network that gives N×D features for N pictures",
            )
        features = found.float().cpu().numpy()
        if not np.isfinite(features).all():
            raise DatasetError(f"{self.name}: gives features that are not finite numbers", "use another file")
        return features


def open_features(path: Path | None, device: torch.device) -> FeatureNetwork:
    """Open a feature network; draws nothing from torch's global generators.

    Args:
        path: a file of the kinds above; None: torch-fidelity's Inception, fetched by its address once and
            kept in torch's cache.
        device: where it works.

    Raises:
        EnvironmentLacksError: torch-fidelity is missing, the weights cannot be fetched, or the file is
            missing, damaged or of another kind.
    """
    if path is None:
        return _fetched_inception(device)
    try:
        digest = _digest(path)
        kind = _kind(path)
    except OSError as error:
        raise EnvironmentLacksError(
            f"--features {path}: cannot be read: {error.strerror or error}", "give the path of a file"
        ) from error
    try:
        # What torch warns of, deprecated formats and foreign pickles, errors and documentation tell of.
        with warnings.catch_warnings(action="ignore"):
            module = _load(path, kind, device)
    except _DAMAGED as error:
        raise EnvironmentLacksError(
            f"--features {path}: {_WORDS[kind]}: {_first_line(error)}",
            "give weights of torch-fidelity's Inception, or a file of torch.export.save or TorchScript",
        ) from error
    return FeatureNetwork(str(path), digest, device, module)


_WORDS = {
    "export": "a torch.export file that cannot be used",
    "script": "a TorchScript file that cannot be used",
    "weights": "not weights of torch-fidelity's Inception",
}


def _kind(path: Path) -> str:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2] for name in archive.namelist()}
        if "archive_format" in inner:
            return "export"
        if "constants.pkl" in inner:
            return "script"
    return "weights"


def _load(path: Path, kind: str, device: torch.device) -> Callable[[Tensor], Any]:
    if kind == "export":
        _refuse_pickles(path)
        return torch.export.load(path).module().to(device)
    if kind == "script":
        script: torch.jit.ScriptModule = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return script.eval()
    return _inception(torch.load(path, map_location="cpu", weights_only=True), str(path), device)


def _refuse_pickles(path: Path) -> None:
    """torch.export.load falls back to unpickling anything: look first whether it would have to."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if inner.startswith("data/aotinductor/"):
                raise ValueError("it holds compiled code")
            if inner.endswith(("weights_config.json", "constants_config.json")):
                entries = json.loads(archive.read(name))["config"].values()
                if any(entry["use_pickle"] for entry in entries):
                    raise ValueError("it holds pickled Python objects")
            if inner.startswith("data/sample_inputs/"):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)


def _fetched_inception(device: torch.device) -> FeatureNetwork:
    url: str = _library().URL_INCEPTION_V3
    file = url.rpartition("/")[2]
    try:
        with contextlib.redirect_stdout(sys.stderr):  # on which torch says where the file goes
            weights = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except _DAMAGED as error:
        raise EnvironmentLacksError(
            f"{file}: cannot be had from {url}: {_first_line(error)}",
            "download it elsewhere and give --features FILE, or put it into "
            f"{torch.hub.get_dir()}/checkpoints; --protocol none leaves KID out",
        ) from error
    digest = _digest(Path(torch.hub.get_dir()) / "checkpoints" / file)
    return FeatureNetwork(INCEPTION, digest, device, _inception(weights, file, device))


def _inception(weights: Any, name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    library = _library()
    if not isinstance(weights, dict) or "Mixed_7c.branch1x1.conv.weight" not in weights:
        raise ValueError(f"{name} holds something else")
    # torch-fidelity would unpickle the file itself; what it reads here are tensors that were read safely.
    safe = io.BytesIO()
    torch.save(weights, safe)
    safe.seek(0)
    # A new network draws its first weights from the global generator, which may belong to a training run.
    with torch.random.fork_rng(devices=[]):
        network = library.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=safe
        )
    network.to(device)

    def call(pictures: Tensor) -> Tensor:
        features: Tensor = network(pictures)[0]
        return features

    return call


def _library() -> Any:
    try:
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        raise EnvironmentLacksError(
            f"torch-fidelity's Inception cannot be imported: {error}",
            "pip install 'ugatit-batch[evaluate]'",
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
