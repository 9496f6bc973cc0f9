"""An ONNX graph computed as a GPU stores it: every result rounded to the type that the graph gives it.

ONNX Runtime's CPU kernels may keep float32 between half-precision operations, which hides what overflows.
Here each operation works in float32, as tensor cores accumulate, and its result is stored as what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ugatit_batch.frames import Pixels

    Attributes = dict[str, Any]
    Operation = Callable[[list[Any], Attributes], Tensor]

TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


class Result(NamedTuple):
    """What a graph gives, and how close to the end of half precision it came."""

    outputs: dict[str, Tensor]
    """By name."""
    largest_half: float
    """The largest magnitude that was stored in half precision; infinite where something did not fit."""


def run_strictly(model: onnx.ModelProto, pixels: Pixels) -> Result:
    """Run a graph of one input on the CPU.

    Args:
        model: from `onnx.load`.
        pixels: its input.

    Raises:
        NotImplementedError: an operation that is not in `OPERATIONS`.
    """
    graph = model.graph
    values = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    values[graph.input[0].name] = torch.from_numpy(pixels)
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    kept = {output.name for output in graph.output}
    largest = 0.0
    for index, node in enumerate(graph.node):
        result = _compute(node, [values[name] if name else None for name in node.input])
        if result.dtype == torch.float16:
            largest = max(largest, result.abs().max().item())
        values[node.output[0]] = result
        for name in set(node.input):
            if name and last_use[name] == index and name not in kept:
                del values[name]
    return Result({name: values[name] for name in kept}, largest)


def _compute(node: onnx.NodeProto, inputs: list[Tensor | None]) -> Tensor:
    operation = OPERATIONS.get(node.op_type)
    if operation is None:
        raise NotImplementedError(node.op_type)
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    stored = next((x.dtype for x in inputs if x is not None and x.is_floating_point()), None)
    exact = [x.float() if x is not None and x.is_floating_point() else x for x in inputs]
    result = operation(exact, attributes)
    # A cast says its type itself; everything else has its inputs'.
    if node.op_type == "Cast" or stored is None or not result.is_floating_point():
        return result
    return result.to(stored)


def _convolve(x: list[Any], attributes: Attributes) -> Tensor:
    return F.conv2d(x[0], x[1], _get(x, 2), **_strides_and_pads(attributes))


def _convolve_transposed(x: list[Any], attributes: Attributes) -> Tensor:
    return F.conv_transpose2d(x[0], x[1], _get(x, 2), **_strides_and_pads(attributes))


def _strides_and_pads(attributes: Attributes) -> dict[str, Any]:
    pads = attributes.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:] or any(d != 1 for d in attributes.get("dilations", [1])):
        raise NotImplementedError(str(attributes))
    return {"stride": attributes.get("strides", [1, 1]), "padding": pads[:2]}


def _get(x: list[Any], index: int) -> Any:
    return x[index] if len(x) > index else None


def _pad(x: list[Any], attributes: Attributes) -> Tensor:
    mode = attributes["mode"].decode()
    top_and_left, bottom_and_right = (side.tolist() for side in x[1].view(2, -1))
    if any(top_and_left[:2] + bottom_and_right[:2]) or len(top_and_left) != 4:
        raise NotImplementedError("padding of other axes than height and width")
    (_, _, top, left), (_, _, bottom, right) = top_and_left, bottom_and_right
    return F.pad(x[0], (left, right, top, bottom), mode={"edge": "replicate"}.get(mode, mode))


def _gemm(x: list[Any], attributes: Attributes) -> Tensor:
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("transA"):
        raise NotImplementedError(str(attributes))
    return F.linear(x[0], x[1] if attributes.get("transB") else x[1].t(), _get(x, 2))


def _reduce(reduction: Callable[..., Tensor]) -> Operation:
    def reduce(x: list[Any], attributes: Attributes) -> Tensor:
        axes = sorted(x[1].tolist())
        return reduction(x[0], dim=axes, keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def _cast(x: list[Any], attributes: Attributes) -> Tensor:
    result: Tensor = x[0].to(TYPES[attributes["to"]])
    return result


def _shape(x: list[Any], attributes: Attributes) -> Tensor:
    return torch.tensor(x[0].shape[attributes.get("start", 0) : attributes.get("end")])


def _reshape(x: list[Any], attributes: Attributes) -> Tensor:
    sides = x[1].tolist()
    if not attributes.get("allowzero"):
        sides = [x[0].shape[axis] if side == 0 else side for axis, side in enumerate(sides)]
    result: Tensor = x[0].reshape(sides)
    return result


def _expand(x: list[Any], _: Attributes) -> Tensor:
    shape = np.broadcast_shapes(tuple(x[0].shape), tuple(x[1].tolist()))
    result: Tensor = x[0].expand(shape)
    return result


def _unsqueeze(x: list[Any], _: Attributes) -> Tensor:
    result: Tensor = x[0]
    rank = result.dim() + x[1].numel()
    for axis in sorted(axis % rank for axis in x[1].reshape(-1).tolist()):
        result = result.unsqueeze(axis)
    return result


def _squeeze(x: list[Any], _: Attributes) -> Tensor:
    axes = x[1].reshape(-1).tolist() if len(x) > 1 else [a for a, side in enumerate(x[0].shape) if side == 1]
    result: Tensor = x[0].squeeze(tuple(axes))
    return result


def _gather(x: list[Any], attributes: Attributes) -> Tensor:
    if attributes.get("axis", 0) != 0:
        raise NotImplementedError(str(attributes))
    result: Tensor = x[0][x[1]]
    return result


def _product(x: list[Any], attributes: Attributes) -> Tensor:
    if len(x) > 1 or attributes.get("keepdims", 1):
        raise NotImplementedError("products of single axes")
    result: Tensor = x[0].prod()
    return result


def _divide(x: list[Any], _: Attributes) -> Tensor:
    if not x[0].is_floating_point():
        return torch.div(x[0], x[1], rounding_mode="trunc")
    return torch.div(x[0], x[1])


def _plain(function: Callable[..., Tensor]) -> Operation:
    """An operation without attributes, whose inputs are the function's arguments."""
    return lambda x, _: function(*x)


OPERATIONS: Mapping[str, Operation] = {
    "Add": _plain(torch.add),
    "Cast": _cast,
    "Concat": lambda x, attributes: torch.cat(x, attributes["axis"]),
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "Div": _divide,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "Mul": _plain(torch.mul),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceProd": _product,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Round": _plain(torch.round),
    "Shape": _shape,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda x, attributes: x[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
