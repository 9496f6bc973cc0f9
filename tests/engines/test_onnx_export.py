from __future__ import annotations

import errno
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from onnx import TensorProto

from ugatit_batch.errors import DiskFullError, EnvironmentLacksError, OutputError, SizeError, UsageError
from ugatit_engines import onnx_export
from ugatit_engines.onnx_export import EMBEDDED_BYTES, Graph, export_onnx
from ugatit_engines.profiles import Profile, Span

from ..fakes import TINY, full, make_model

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Bundle

ANY_SIZE = Profile(Span(1, 2, 4), Span(16, 32, 64), Span(8, 32, 128))
FIXED = Profile(Span.one(2), Span.one(24), Span.one(40))
BLOCKS = TINY.residual_blocks

# A norm is 24 operations in the decoder and 8 in the encoder, and two casts in fp16. As measured, and a few.
NODES = {"fp32": 190, "fp16": 215}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("model") / "ink", replace(TINY, channels=16))


@pytest.fixture(scope="module")
def fp32(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    path = tmp_path_factory.mktemp("fp32") / "a2b.onnx"
    return export_onnx(bundle, "a2b", path, precision="fp32", profile=ANY_SIZE)


@pytest.fixture(scope="module")
def fp16(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    path = tmp_path_factory.mktemp("fp16") / "a2b.onnx"
    return export_onnx(bundle, "a2b", path, precision="fp16", profile=FIXED)


def interface(graph: Graph) -> dict[str, tuple[int, list[int | str]]]:
    """Type and shape of inputs and outputs, by name."""
    content = onnx.load(graph.path).graph
    found = {}
    for value in (*content.input, *content.output):
        tensor = value.type.tensor_type
        shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
        found[value.name] = (tensor.elem_type, shape)
    return found


def test_names_types_and_dynamic_dimensions(fp32: Graph) -> None:
    found = interface(fp32)
    assert list(found) == ["pixels", "translated", "attention"]
    assert found["pixels"] == (TensorProto.UINT8, ["batch", "height", "width", 3])
    assert found["translated"] == found["pixels"]
    kind, (batch, height, width) = found["attention"]
    assert (kind, batch) == (TensorProto.FLOAT, "batch")
    assert isinstance(height, str)
    assert isinstance(width, str)
    assert len({height, width, "height", "width"}) == 4


def test_dimensions_of_one_value_are_constants(fp16: Graph) -> None:
    assert interface(fp16) == {
        "pixels": (TensorProto.UINT8, [2, 24, 40, 3]),
        "translated": (TensorProto.UINT8, [2, 24, 40, 3]),
        "attention": (TensorProto.FLOAT, [2, 6, 10]),
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bytes_are_cast_first_and_last(precision: str, request: pytest.FixtureRequest) -> None:
    graph = onnx.load(request.getfixturevalue(precision).path).graph
    assert [node.op_type for node in graph.node if "pixels" in node.input] == ["Cast"]
    assert [node.op_type for node in graph.node if "translated" in node.output] == ["Cast"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_file_is_what_it_is_said_to_be(precision: str, request: pytest.FixtureRequest) -> None:
    graph = request.getfixturevalue(precision)
    model = onnx.load(graph.path)
    onnx.checker.check_model(model, full_check=True)
    assert graph.files == (graph.path,)
    assert list(graph.path.parent.iterdir()) == [graph.path]
    assert graph.bytes == graph.path.stat().st_size
    assert graph.nodes == len(model.graph.node)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", graph.opset)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_is_computed_that_is_constant(precision: str, request: pytest.FixtureRequest) -> None:
    counts = Counter(node.op_type for node in onnx.load(request.getfixturevalue(precision).path).graph.node)
    assert counts["Conv"] == 3 + 4 * BLOCKS + 1 + 1
    assert counts["ConvTranspose"] == 2
    useless = {"Constant", "Identity", "Dropout", "Shape", "Gather", "Concat", "Reshape", "Expand", "Resize"}
    assert not useless & counts.keys()
    assert counts.total() <= NODES[precision]


def test_statistics_and_sums_are_float32(fp16: Graph) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(fp16.path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    types |= {one.name: one.data_type for one in graph.initializer}
    of_kind: dict[str, set[int]] = {}
    for node in graph.node:
        of_kind.setdefault(node.op_type, set()).update(types[name] for name in node.output)
    for name in ("ReduceMean", "ReduceSum", "Pow", "Sqrt", "Reciprocal", "Round"):
        assert of_kind[name] == {TensorProto.FLOAT}, name
    for name in ("Conv", "ConvTranspose", "Gemm", "Pad", "Relu", "Tanh"):
        assert of_kind[name] == {TensorProto.FLOAT16}, name


def test_no_value_is_cast_twice(fp16: Graph) -> None:
    graph = onnx.load(fp16.path).graph
    kind = {name: node.op_type for node in graph.node for name in node.output}
    casts = [node.input[0] for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    assert not [name for name in casts if kind.get(name) == "Cast"]


def test_fp16_takes_half_the_room(fp32: Graph, fp16: Graph) -> None:
    # The graph around the weights is as long in both.
    assert 0.5 < fp16.bytes / fp32.bytes < 0.55


def test_a_missing_package_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EnvironmentLacksError, match="need onnxscript, not installed") as caught:
        export_onnx(bundle, "a2b", tmp_path / "a2b.onnx", precision="fp32", profile=FIXED)
    assert caught.value.hint == "pip install 'ugatit-batch[tensorrt-rtx]'"


@pytest.mark.parametrize("profile", [FIXED, ANY_SIZE])
def test_a_full_model_has_one_size(tmp_path: Path, profile: Profile) -> None:
    model = make_model(tmp_path / "ink", full())
    with pytest.raises(SizeError, match="takes 32×32 pixels only"):
        export_onnx(model, "a2b", tmp_path / "a2b.onnx", precision="fp32", profile=profile)


def test_a_direction_that_is_missing_is_a_usage_error(tmp_path: Path) -> None:
    model = make_model(tmp_path / "ink", directions=("a2b",))
    with pytest.raises(UsageError, match="only translates photo → ink"):
        export_onnx(model, "b2a", tmp_path / "b2a.onnx", precision="fp32", profile=FIXED)


class HalfWritten:
    """Stands in for a graph: writing it fails when both files have been begun."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.external_data: list[bool] = []

    def save(self, path: Path, *, external_data: bool) -> None:
        self.external_data.append(external_data)
        path.write_bytes(b"begun")
        path.with_name(f"{path.name}.data").write_bytes(b"begun")
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (OSError(errno.EROFS, "Read-only file system"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a bug"), ValueError),
    ],
)
@pytest.mark.parametrize("embedded_bytes", [0, EMBEDDED_BYTES])
def test_nothing_half_written_is_left(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    embedded_bytes: int,
) -> None:
    program = HalfWritten(error)
    monkeypatch.setattr(onnx_export, "_to_onnx", lambda network, profile: program)
    path = tmp_path / "a2b.onnx"
    with pytest.raises(raised):
        export_onnx(bundle, "a2b", path, precision="fp32", profile=FIXED, embedded_bytes=embedded_bytes)
    assert program.external_data == [embedded_bytes == 0]
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_say_where_it_was_made(fp32: Graph) -> None:
    content = fp32.path.read_bytes()
    assert b"onnx_export" not in content
    assert b".py" not in content
