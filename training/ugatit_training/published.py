"""Checkpoints of the authors' PyTorch program (`znxlwm/UGATIT-pytorch`), read as bundles and their weights.

Reads tensors and nothing else: what a pickle asks to be called is refused, never called.
Knows nothing of the models folder, and writes nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import safetensors.torch
import torch
from torch import Tensor

from ugatit_batch.bundle import Bundle, GeneratorConfig, WorkingSize, check_name
from ugatit_batch.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ugatit_batch.bundle import Direction

Era = Literal["current", "before-2019-08-27", "before-2019-08-07"]
"""State of the program that trained the model: on these two days it changed what it computes."""

GENERATORS: dict[str, Direction] = {"genA2B": "a2b", "genB2A": "b2a"}
DISCRIMINATORS = ("disGA", "disGB", "disLA", "disLB")
_ASSUMED_SIZE = 256
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TENSORS_ONLY = "nothing in it was run; save the state dicts alone with torch.save, or as a .safetensors file"
_OTHER_FILE = "give the .pt file that the PyTorch program saved, or the state dict of one of its generators"


class Imported(NamedTuple):
    """What one checkpoint gives."""

    bundle: Bundle
    """Without `directions` and `path`, which `save_bundle` fills in."""
    weights: dict[Direction, dict[str, NDArray[np.float32]]]
    """Under the names of `Generator.state_dict()`."""
    notes: list[str]
    """For people: what was assumed and what was left out, a sentence each."""


def import_checkpoint(path: Path, *, name: str, domains: tuple[str, str], era: Era = "current") -> Imported:
    """Read a checkpoint of the PyTorch program.

    Args:
        path: `.pt` or `.pth` (any suffix but the next), or `.safetensors` with the same keys. Holds the
            program's dict of state dicts, generators only, one generator, or a bare generator's state dict,
            which counts as A → B; `module.` before keys does not matter.
        name: of the bundle.
        domains: names of A and B.
        era: see `Era`. Keys from before 7 August 2019 show by themselves.

    Raises:
        BundleError: the file cannot be read, is damaged, holds code or objects, or no U-GAT-IT generator.
        UsageError: `name` or `era` does not do.
    """
    check_name(name)
    if era not in get_args(Era):
        raise UsageError(
            f"{era!r} is no state of the PyTorch program", f"use one of {', '.join(get_args(Era))}"
        )
    networks, bare = _networks(path, _read(path))
    config: GeneratorConfig | None = None
    weights: dict[Direction, dict[str, NDArray[np.float32]]] = {}
    for network, direction in GENERATORS.items():
        if network not in networks:
            continue
        where = str(path) if bare else f"{path}: {network}"
        found = _config(where, networks[network], era)
        weights[direction] = _convert(where, found, networks[network])
        if config is not None and found != config:
            raise _refusal(str(path), f"its generators differ: {_differences(config, found)}")
        config = found
    if config is None:
        raise _refusal(str(path), f"it holds no generator, only {_listing(networks) or 'nothing'}")
    bundle = Bundle(
        name=name,
        domains=domains,
        generator=config,
        working_size=WorkingSize("square", config.image_size),
        directions={},
        training={"program": "UGATIT-pytorch", "imported_from": path.name},
    )
    return Imported(bundle, weights, _notes(config, bare, networks))


def _refusal(where: str, reason: str, hint: str = _OTHER_FILE) -> BundleError:
    return BundleError(f"{where}: not a U-GAT-IT checkpoint that can be imported: {reason}", hint)


def _listing(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(ordered[:4]) + more


def _read(path: Path) -> Mapping[Any, Any]:
    """The file's content: a mapping, of whatever `weights_only` lets pass."""
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        archive = zipfile.is_zipfile(path)
        if archive:
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}", "check the path") from error
    # A stranger's bytes: torch alone raises a dozen types here, and none of them is a fault of this program.
    except Exception as error:
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            reason = f"it holds {forbidden[1]}, which is no tensor but code or an object"
        else:
            reason = "it is damaged or of another kind"
        raise _refusal(str(path), reason, _TENSORS_ONLY) from error
    if not isinstance(content, Mapping):
        raise _refusal(str(path), f"it holds a {type(content).__name__} instead of a dict")
    return content


def _check_archive(path: Path) -> None:
    """Look at checksums and compression, which torch does not when it maps an archive."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _refusal(str(path), "its parts are compressed", "give the file as torch.save wrote it")
        damaged = archive.testzip()
    if damaged is not None:
        raise _refusal(
            str(path), f"it is damaged: {damaged} has another checksum", "copy or download it again"
        )


def _networks(path: Path, content: Mapping[Any, Any]) -> tuple[dict[str, dict[str, Tensor]], bool]:
    """Sort a file's tensors by network, and say whether the file was one generator without a name."""
    networks: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    stored = 0
    flat = list(_flatten(str(path), content))
    bare = not any(key.split(".")[0] in (*GENERATORS, *DISCRIMINATORS) for key, _ in flat)
    for key, tensor in flat:
        network, _, rest = ("genA2B", "", key) if bare else key.partition(".")
        rest = _without_module(rest)
        if network not in (*GENERATORS, *DISCRIMINATORS) or not rest:
            unknown.append(key)
        elif rest in networks.setdefault(network, {}):
            raise _refusal(str(path), f"it holds {rest} of {network} twice")
        else:
            networks[network][rest] = tensor
        stored += tensor.numel() * tensor.element_size()
    if unknown:
        raise _refusal(str(path), f"unexpected {_listing(unknown)}")
    if stored > path.stat().st_size:
        raise _refusal(str(path), "its tensors claim more room than the file has")
    for network in DISCRIMINATORS:
        if network in networks:
            _check_keys(f"{path}: {network}", networks[network], _discriminator_keys(networks[network]))
    return networks, bare


def _flatten(where: str, content: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    """Key and tensor, one level of mappings deep, as in `genA2B.DownBlock.1.weight`."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise _refusal(where, f"unexpected key {key!r}")
        full = prefix + (key if prefix else _without_module(key))
        if isinstance(value, Mapping) and value and not prefix:
            yield from _flatten(where, value, f"{full}.")
        elif not isinstance(value, Tensor):
            raise _refusal(where, f"{full} is a {type(value).__name__}, not a tensor")
        elif value.layout != torch.strided or value.dtype not in _DTYPES or value.device.type != "cpu":
            raise _refusal(where, f"{full} is not a plain tensor of floating-point numbers")
        else:
            yield full, value.detach()


def _without_module(key: str) -> str:
    return key.removeprefix("module.")


def _check_keys(where: str, tensors: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    expected = set(expected)
    missing, unexpected = expected - tensors.keys(), tensors.keys() - expected
    reasons = [f"missing {_listing(missing)}"] if missing else []
    reasons += [f"unexpected {_listing(unexpected)}"] if unexpected else []
    if reasons:
        raise _refusal(where, "; ".join(reasons))


def _discriminator_keys(tensors: Mapping[str, Tensor]) -> set[str]:
    depth = len({key.split(".")[1] for key in tensors if key.startswith("model.")})
    normalized = [f"model.{1 + 3 * i}" for i in range(max(depth, 1))]
    keys = {f"{layer}.bias" for layer in (*normalized, "conv1x1")} | {"conv1x1.weight"}
    for layer in (*normalized, "gap_fc", "gmp_fc", "conv"):
        keys |= {f"{layer}.weight_orig", f"{layer}.weight_u", f"{layer}.weight_v"}
    return keys


def _table(config: GeneratorConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The program's key → the name in `Generator`, and the shape in the program's file."""
    ch, wide = config.channels, 4 * config.channels
    style_inputs = wide if config.light else wide * (config.image_size // 4) ** 2
    # Without a ReLU between them the second FC is number 1 of the sequence.
    second = 2 if config.style_relu else 1
    table: dict[str, tuple[str, tuple[int, ...]]] = {
        "DownBlock.1.weight": ("down.0.weight", (ch, 3, 7, 7)),
        "DownBlock.5.weight": ("down.1.weight", (2 * ch, ch, 3, 3)),
        "DownBlock.9.weight": ("down.2.weight", (wide, 2 * ch, 3, 3)),
        "gap_fc.weight": ("cam.average.weight", (1, wide)),
        "gmp_fc.weight": ("cam.maximum.weight", (1, wide)),
        "conv1x1.weight": ("cam.join.weight", (wide, 2 * wide, 1, 1)),
        "conv1x1.bias": ("cam.join.bias", (wide,)),
        "FC.0.weight": ("style.fc1.weight", (wide, style_inputs)),
        f"FC.{second}.weight": ("style.fc2.weight", (wide, wide)),
        "gamma.weight": ("style.gamma.weight", (wide, wide)),
        "beta.weight": ("style.beta.weight", (wide, wide)),
        "UpBlock2.2.weight": ("up.0.weight", (2 * ch, wide, 3, 3)),
        "UpBlock2.3.rho": ("up_norms.0.rho", (1, 2 * ch, 1, 1)),
        "UpBlock2.3.gamma": ("up_norms.0.gamma", (1, 2 * ch, 1, 1)),
        "UpBlock2.3.beta": ("up_norms.0.beta", (1, 2 * ch, 1, 1)),
        "UpBlock2.7.weight": ("up.1.weight", (ch, 2 * ch, 3, 3)),
        "UpBlock2.8.rho": ("up_norms.1.rho", (1, ch, 1, 1)),
        "UpBlock2.8.gamma": ("up_norms.1.gamma", (1, ch, 1, 1)),
        "UpBlock2.8.beta": ("up_norms.1.beta", (1, ch, 1, 1)),
        "UpBlock2.11.weight": ("out.weight", (3, ch, 7, 7)),
    }
    for i in range(config.residual_blocks):
        table |= {
            f"DownBlock.{12 + i}.conv_block.1.weight": (f"encoder.{i}.conv1.weight", (wide, wide, 3, 3)),
            f"DownBlock.{12 + i}.conv_block.5.weight": (f"encoder.{i}.conv2.weight", (wide, wide, 3, 3)),
            f"UpBlock1_{1 + i}.conv1.weight": (f"decoder.{i}.conv1.weight", (wide, wide, 3, 3)),
            f"UpBlock1_{1 + i}.norm1.rho": (f"decoder.{i}.norm1.rho", (1, wide, 1, 1)),
            f"UpBlock1_{1 + i}.conv2.weight": (f"decoder.{i}.conv2.weight", (wide, wide, 3, 3)),
            f"UpBlock1_{1 + i}.norm2.rho": (f"decoder.{i}.norm2.rho", (1, wide, 1, 1)),
        }
    return table


def _config(where: str, tensors: Mapping[str, Tensor], era: Era) -> GeneratorConfig:
    """What keys and shapes tell of one generator, and `era` of what they do not."""
    blocks = len({key.split(".")[0] for key in tensors if key.startswith("UpBlock1_")})
    style_relu = "FC.1.weight" not in tensors
    _check_keys(where, tensors, _table(GeneratorConfig(residual_blocks=blocks or 4, style_relu=style_relu)))
    if style_relu and era == "before-2019-08-07":
        raise UsageError(
            f"{where}: it has FC.2.weight, which that program did not have before 7 August 2019",
            "import it as current or as before-2019-08-27",
        )
    current = style_relu and era == "current"
    channels, inputs = tensors["DownBlock.1.weight"].shape[:1], tensors["FC.0.weight"].shape[1:]
    wide = 4 * math.prod(channels)
    quarter = math.isqrt(math.prod(inputs) // wide) if wide else 0
    try:
        return GeneratorConfig(
            channels=math.prod(channels),
            residual_blocks=blocks,
            light=quarter == 1,
            image_size=_ASSUMED_SIZE if quarter == 1 else 4 * quarter,
            variance="unbiased" if current else "nested",
            decoder_skip=current,
            style_relu=style_relu,
        )
    except ValueError as error:
        raise _refusal(where, f"its shapes give no generator: {error}") from error


def _convert(
    where: str, config: GeneratorConfig, tensors: Mapping[str, Tensor]
) -> dict[str, NDArray[np.float32]]:
    weights: dict[str, NDArray[np.float32]] = {}
    for key, (name, shape) in _table(config).items():
        tensor = tensors[key]
        if tuple(tensor.shape) != shape:
            raise _refusal(where, f"{key} has the shape {tuple(tensor.shape)} instead of {shape}")
        # One number that is not finite shows in the least or the greatest, without a copy of the whole.
        if not all(bool(extreme.isfinite()) for extreme in tensor.aminmax()):
            raise _refusal(where, f"{key} holds values that are not finite", "take an earlier checkpoint")
        if key.endswith((".rho", ".gamma", ".beta")):
            tensor = tensor.flatten()
        weights[name] = tensor.float().contiguous().numpy()
    return weights


def _notes(config: GeneratorConfig, bare: bool, networks: Mapping[str, object]) -> list[str]:
    notes = []
    if config.decoder_skip:
        notes.append(
            "The file cannot tell which program wrote it: the one since 27 August 2019 was assumed. Where "
            "its pictures are wrong, import it again as before-2019-08-27."
        )
    else:
        day = "27" if config.style_relu else "7"
        notes.append(f"The program before {day} August 2019 was assumed.")
    if config.light:
        notes.append(
            f"A light generator does not tell its training size: {_ASSUMED_SIZE} pixels were assumed."
        )
    if bare:
        notes.append("A single generator without a name was taken as A → B.")
    discriminators = [network for network in DISCRIMINATORS if network in networks]
    if discriminators:
        notes.append(f"Left out, since a model holds generators alone: {', '.join(discriminators)}.")
    return notes


def _differences(one: GeneratorConfig, other: GeneratorConfig) -> str:
    first, second = dataclasses.asdict(one), dataclasses.asdict(other)
    return ", ".join(f"{k} {first[k]} and {second[k]}" for k in first if first[k] != second[k])
