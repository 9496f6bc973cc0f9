"""Writing a generator as an ONNX file: bytes in, bytes out, its precision in the graph itself.

The input is `pixels`, uint8 N×H×W×3, RGB. The outputs are `translated`, the same shape and type, and
`attention`, float32 N×H/4×W/4. Bringing pixels to [-1, 1] and back is part of the graph. In fp16,
convolutions and FCs are half precision; statistics, what is done with them, and long sums are float32.
Knows nothing of TensorRT, except what its parser takes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import EnvironmentLacksError, SizeError
from ugatit_engines.deploy_form import DeployGenerator
from ugatit_engines.devices import DTYPES
from ugatit_engines.torch_engine import load_generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Bundle, Direction, GeneratorConfig
    from ugatit_engines.profiles import Profile, Span

OPSET = 21
INPUT = "pixels"
OUTPUTS = ("translated", "attention")
EMBEDDED_BYTES = 2**30
"""Up to so many bytes of weights, they are in the file itself. Protobuf ends at 2 GiB, and what is embedded
is copied twice on its way to the disk."""

_PACKAGES = ("onnx", "onnxscript")


@dataclass(frozen=True)
class Graph:
    """An ONNX file that was written."""

    path: Path
    """The file to open."""
    files: tuple[Path, ...]
    """All that was written: `path`, and beside it `NAME.onnx.data` where the weights are outside."""
    nodes: int
    """Operations in the graph."""
    bytes: int
    """Of all files together."""
    opset: int
    """Version of the operator set."""


class _Bytes(nn.Module):
    """The deploy form from uint8 to uint8.

    TensorRT takes uint8 only straight into or out of a cast: casts are first and last.
    """

    def __init__(self, generator: DeployGenerator, dtype: torch.dtype) -> None:
        super().__init__()
        self.generator, self.dtype = generator, dtype
        for module in generator.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.to(dtype)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Args: pixels uint8, N×H×W×3. Returns the same, and the attention map, float32 N×H/4×W/4."""
        x = pixels.to(self.dtype).permute(0, 3, 1, 2) * (1 / 127.5) - 1
        image, attention = self.generator(x)
        # No clamp: even the number after 1 in half precision becomes 255.1.
        levels = ((image.float() + 1) * 127.5).round()
        return levels.permute(0, 2, 3, 1).contiguous().to(torch.uint8), attention


def export_onnx(
    bundle: Bundle,
    direction: Direction,
    path: Path,
    *,
    precision: Literal["fp32", "fp16"],
    profile: Profile,
    embedded_bytes: int = EMBEDDED_BYTES,
) -> Graph:
    """Write one direction of a model as an ONNX file.

    Args:
        bundle: the model.
        direction: which of its generators.
        path: of the file, ending in `.onnx`; its folder exists. Written as it grows, and removed on failure.
        precision: of the convolutions and FCs.
        profile: a dimension with one value is a constant of the graph, others are dynamic.
        embedded_bytes: from more bytes of weights than that, they go to a file of their own beside `path`.

    Raises:
        UsageError, BundleError: as `load_generator`.
        SizeError: the profile is for other pictures than a full generator takes.
        EnvironmentLacksError: a package is not installed.
        DiskFullError, OutputError: it could not be written; nothing is left.
    """
    _require_packages()
    _check_size(bundle, profile)
    network = _Bytes(DeployGenerator(load_generator(bundle, direction)), DTYPES[precision]).eval()
    embedded = sum(tensor.nbytes for tensor in network.state_dict().values()) <= embedded_bytes
    files = (path, path.with_name(f"{path.name}.data"))
    try:
        for file in files:
            file.unlink(missing_ok=True)
        with _silence():
            program = _to_onnx(network, profile)
            program.save(path, external_data=not embedded)
        written = tuple(file for file in files if file.exists())
        size = sum(file.stat().st_size for file in written)
        return Graph(path, written, len(program.model.graph), size, OPSET)
    except BaseException as error:
        for file in files:
            file.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain_os_error(error, path) from error
        raise


def _to_onnx(network: nn.Module, profile: Profile) -> torch.onnx.ONNXProgram:
    spans = {0: ("batch", profile.batch, 1), 1: ("height", profile.height, 4), 2: ("width", profile.width, 4)}
    dynamic = {axis: one for axis, one in spans.items() if not one[1].fixed}
    # In two steps: in one, torch.onnx makes a dimension that cannot be dynamic a constant, and says nothing.
    exported = torch.export.export(
        network,
        (_example(profile),),
        dynamic_shapes=({axis: _dimension(*one) for axis, one in dynamic.items()},),
    )
    program = torch.onnx.export(
        exported,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes=({axis: name for axis, (name, _, _) in dynamic.items()},),
        opset_version=OPSET,
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx gave no graph")
    _forget_origin(program)
    return program


def _forget_origin(program: torch.onnx.ONNXProgram) -> None:
    """Without stack traces of this machine, which say where things are installed, at every node."""
    model = program.model
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentLacksError(
            f"engines need {' and '.join(missing)}, not installed here",
            "pip install 'ugatit-batch[tensorrt-rtx]'",
        )


def _check_size(bundle: Bundle, profile: Profile) -> None:
    generator: GeneratorConfig = bundle.generator
    side = generator.image_size
    if not generator.light and (profile.any_size or profile.size_rule.fixed != (side, side)):
        raise SizeError(
            f"{profile.label}: {bundle.name} is a full model and takes {side}×{side} pixels only",
            f"use --size {side}",
        )


def _example(profile: Profile) -> Tensor:
    """Zeros of a shape within the profile; dimensions that are dynamic differ, and are not 1."""
    batch = max(2, profile.batch.least) if not profile.batch.fixed else profile.batch.most
    return torch.zeros(batch, profile.height.least, profile.width.most, 3, dtype=torch.uint8)


def _dimension(name: str, span: Span, multiple: int) -> object:
    dimension = torch.export.Dim(f"{name}_{multiple}", min=span.least // multiple, max=span.most // multiple)
    return dimension if multiple == 1 else multiple * dimension


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what PyTorch's exporter says to its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir|onnx)(\.|$)")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
