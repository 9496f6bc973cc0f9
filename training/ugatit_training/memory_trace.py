"""Tensors without data that keep account of the memory they would take.

A `Traced` tensor passes for one on the CPU, so that autograd, autocast and the optimisers treat it as usual;
every operation that reaches a kernel comes here instead, where only the shape of its result is worked out (by
PyTorch's meta kernels, once for each combination of shapes) and its memory is booked until the last tensor on
it is gone. Knows nothing of U-GAT-IT.

What a kernel takes for itself while it runs, such as cuDNN's workspaces, is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten


class _Layout(NamedTuple):
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def on_meta(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class _Result(NamedTuple):
    """One output of an operation: new memory of so many bytes, or memory of an input."""

    layout: _Layout
    size: int
    source: int | None


@dataclass
class Ledger:
    """Bytes that are taken, now and at the fullest moment so far."""

    gradients: int = 0
    """Of what has become some parameter's gradient."""
    rest: int = 0
    peak: tuple[int, int] = (0, 0)
    """Gradients and the rest at the moment of the greatest sum."""

    def book(self, block: Block) -> None:
        """Take memory."""
        self.rest += block.size
        if self.gradients + self.rest > sum(self.peak):
            self.peak = (self.gradients, self.rest)


class Block:
    """Memory that tensors share, freed with the last of them."""

    __slots__ = ("gradient", "ledger", "size")

    def __init__(self, size: int, ledger: Ledger) -> None:
        self.size = size
        self.ledger = ledger
        self.gradient = False
        ledger.book(self)

    def becomes_gradient(self) -> None:
        """Book it under gradients."""
        if not self.gradient:
            self.gradient = True
            self.ledger.gradients += self.size
            self.ledger.rest -= self.size

    def __del__(self) -> None:
        if self.gradient:
            self.ledger.gradients -= self.size
        else:
            self.ledger.rest -= self.size


class Traced(Tensor):
    """A tensor of some layout on some memory, without data."""

    layout_: _Layout
    block: Block

    @staticmethod
    def __new__(cls, layout: _Layout, block: Block) -> Traced:
        """Args: layout, memory."""
        made: Traced = torch.Tensor._make_wrapper_subclass(
            cls, layout.shape, strides=layout.strides, dtype=layout.dtype, device=torch.device("cpu")
        )
        made.layout_ = layout
        made.block = block
        return made

    def __init__(self, layout: _Layout, block: Block) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Work out what an operation gives, and book it."""
        del types
        if func._schema.is_mutable:
            # What works in place takes nothing and gives its first argument, or nothing.
            return args[0] if func._schema.returns else None
        if func is aten.add.Tensor and _adds_gradients(args):
            return Traced(args[0].layout_, args[0].block)
        inputs: list[Tensor] = []
        key = (func, _described(args, inputs), _described(kwargs or {}, inputs))
        results = _RESULTS.get(key)
        if results is None:
            results = _RESULTS[key] = _work_out(func, args, kwargs or {})
        ledger = next(x.block.ledger for x in inputs if isinstance(x, Traced))

        def made(result: _Result | None) -> Traced | None:
            if result is None:
                return None
            if result.source is None:
                return Traced(result.layout, Block(result.size, ledger))
            source = inputs[result.source]
            block = source.block if isinstance(source, Traced) else Block(0, ledger)
            return Traced(result.layout, block)

        if isinstance(results, list):
            return [made(result) for result in results]
        return made(results)


_RESULTS: dict[Any, _Result | list[_Result | None] | None] = {}


def traced(tensor: Tensor, ledger: Ledger) -> Traced:
    """A tensor of the layout of one on the meta device, on memory of its own."""
    return Traced(_layout(tensor), Block(tensor.untyped_storage().nbytes(), ledger))


def trace_module(network: nn.Module, ledger: Ledger) -> None:
    """Put traced tensors in the place of a meta network's parameters and buffers."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            own = nn.Parameter(traced(parameter.detach(), ledger), parameter.requires_grad)
            setattr(module, name, own)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, traced(buffer, ledger))


def _layout(tensor: Tensor) -> _Layout:
    if isinstance(tensor, Traced):
        return tensor.layout_
    return _Layout(tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _adds_gradients(args: Sequence[Any]) -> bool:
    """Whether autograd is summing two gradients of one tensor, which it does in the first one's memory."""
    return (
        torch._C._current_graph_task_id() != -1
        and not torch.is_grad_enabled()
        and len(args) == 2
        and all(isinstance(x, Traced) for x in args)
        and args[0].layout_ == args[1].layout_
    )


def _described(value: Any, inputs: list[Tensor]) -> Any:
    """What decides the layout of the results, hashable; tensors are collected on the way."""
    kind = type(value)
    if kind is Traced:
        inputs.append(value)
        return value.layout_
    if kind is tuple or kind is list:
        return tuple([_described(v, inputs) for v in value])
    if isinstance(value, Tensor):
        inputs.append(value)
        return _layout(value)
    if kind is dict:
        return tuple((k, _described(v, inputs)) for k, v in value.items())
    # 1, 1.0 and True are equal but make results of different types.
    return kind, value


def _work_out(func: Callable[..., Any], args: Any, kwargs: Any) -> _Result | list[_Result | None] | None:
    storages: list[int] = []
    keep: list[Tensor] = []

    def on_meta(value: Any) -> Any:
        if isinstance(value, Tensor):
            keep.append(_layout(value).on_meta())
            storages.append(keep[-1].untyped_storage()._cdata)
            return keep[-1]
        if isinstance(value, list | tuple):
            return type(value)(on_meta(v) for v in value)
        if isinstance(value, dict):
            return {k: torch.device("meta") if k == "device" else on_meta(v) for k, v in value.items()}
        return value

    def result(tensor: Tensor | None) -> _Result | None:
        if tensor is None:
            return None
        storage = tensor.untyped_storage()
        source = storages.index(storage._cdata) if storage._cdata in storages else None
        return _Result(_layout(tensor), storage.nbytes(), source)

    out = func(*on_meta(args), **on_meta(kwargs))
    return [result(tensor) for tensor in out] if isinstance(out, list | tuple) else result(out)
