"""Spectral norm (Miyato et al., 2018): layers whose kernel is divided by its largest singular value.

A convolution is linear in its kernel, so its *output* is divided: the kernel is read, never rewritten. That
also lets several passes, each with its own power iteration, go through as one batch, in which every picture
is divided by the norm of its own pass.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPSILON = 1e-12
_FIRST_ITERATIONS = 15


class _SingularValues(torch.autograd.Function):
    """σ = uᵀ·W·v of fixed singular vectors, already known: its gradient is u·vᵀ."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(u, v)
        ctx.shape, ctx.strided = weight.shape, _is_channels_last(weight)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        u, v = ctx.saved_tensors
        outer = (gradient[:, None] * u).t().mm(v)
        if not ctx.strided:
            return outer.view(ctx.shape), None, None, None
        outputs, inputs, height, width = ctx.shape
        return outer.view(outputs, height, width, inputs).permute(0, 3, 1, 2), None, None, None


def _is_channels_last(weight: Tensor) -> bool:
    return (
        weight.ndim == 4
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
    )


class SpectralNorm(nn.Module):
    """The singular vectors of one kernel, and its norm, by power iteration.

    Args:
        weight: O×…, float32; the vectors start at random and are iterated 15 times.
    """

    u: Tensor
    """O values, length 1."""
    v: Tensor
    """As many values as one output's kernel has, in its order, length 1."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        u, v = (matrix.new_empty(size).normal_() for size in matrix.shape)
        self.register_buffer("u", F.normalize(u, dim=0, eps=_EPSILON))
        self.register_buffer("v", F.normalize(v, dim=0, eps=_EPSILON))
        v = self.v
        for _ in range(0 if weight.is_meta else _FIRST_ITERATIONS):
            _, u, v = _iterate(matrix, v)
        self.u.copy_(u)
        self.v.copy_(v)

        self.held = False
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, weight: Tensor, passes: int = 1) -> Tensor:
        """The norm of a kernel for each of some passes, float32, in order.

        In training each pass takes one power iteration further; in evaluation none does.

        Args:
            weight: O×…, float32.
            passes: how many there are.

        Returns:
            As many values as passes, with a gradient to `weight`.
        """
        with torch.autocast(weight.device.type, enabled=False):
            values, u, v = self._singular(weight.detach(), passes) if not self.held else self._again(passes)
            if not (torch.is_grad_enabled() and weight.requires_grad):
                return values
            norms: Tensor = _SingularValues.apply(weight, u, v, values)
            return norms

    def _again(self, passes: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._last is None or len(self._last[0]) != passes:
            raise RuntimeError("held, but there was no call before with as many passes")
        return self._last

    @torch.no_grad()
    def _singular(self, weight: Tensor, passes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Values, u and v of each pass; the columns, and so v, in the order in which the kernel lies.

        In another order the kernel, half a gigabyte in a global discriminator, would be copied each time.
        """
        strided = _is_channels_last(weight)
        matrix = (weight.permute(0, 2, 3, 1) if strided else weight).flatten(1)
        # Both views are of the buffer's own memory when nothing has to be moved.
        own = self.v.view(weight.shape[1:])
        v = (own.permute(1, 2, 0) if strided else own).flatten()
        if not self.training:
            values = self.u.dot(matrix.mv(v)).expand(passes)
            return values, self.u.expand(passes, -1), v.expand(passes, -1)
        u, found = self.u, []
        for _ in range(passes):
            value, u, v = _iterate(matrix, v)
            found.append((value, u, v))
        self.u.copy_(u)
        own.copy_(v.view(own.shape[1:] + own.shape[:1]).permute(2, 0, 1) if strided else v.view(own.shape))
        values, u, v = (torch.stack(part) for part in zip(*found, strict=True))
        self._last = values, u, v
        return values, u, v


def _iterate(matrix: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One power iteration: the norm it finds, and the vectors u and v."""
    u = F.normalize(matrix.mv(v), dim=0, eps=_EPSILON)
    grown = matrix.t().mv(u)
    # uᵀ·W·v is the length of Wᵀ·u, since v is Wᵀ·u at length 1.
    value = grown.norm()
    return value, u, grown / value.clamp_min(_EPSILON)


@contextlib.contextmanager
def hold_iterations(network: nn.Module) -> Iterator[None]:
    """Use the norms of the call before again: the parts of one batch are divided by the same ones."""
    modules = [module for module in network.modules() if isinstance(module, SpectralNorm)]
    for module in modules:
        module.held = True
    try:
        yield
    finally:
        for module in modules:
            module.held = False


def each_picture(values: Tensor, count: int) -> Tensor:
    """Values a pass, repeated for every picture of a batch that the passes share equally."""
    return values.repeat_interleave(count // len(values), 0, output_size=count)


class SpectralConv2d(nn.Conv2d):
    """A convolution with reflection padding and spectral norm; `normalize` gives it its norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=1, padding_mode="reflect", bias=bias)

    def normalize(self) -> None:
        """Start the power iteration, once the kernel has its first values."""
        self.spectral = SpectralNorm(self.weight)

    def forward(self, x: Tensor, passes: int = 1) -> Tensor:
        """Args: x N×C×H×W, of so many passes one behind the other. Returns N×C'×H'×W'."""
        scale = each_picture(self.spectral(self.weight, passes).reciprocal(), len(x)).view(-1, 1, 1, 1)
        y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, None, self.stride)
        if self.bias is None:
            return (y * scale).to(y.dtype)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), y, scale).to(y.dtype)


class SpectralLinear(nn.Linear):
    """An FC to one output, without bias, with spectral norm; used by its weights."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 1, bias=False)

    def normalize(self) -> None:
        """Start the power iteration, once the weights have their first values."""
        self.spectral = SpectralNorm(self.weight)

    def rows(self, count: int, passes: int) -> Tensor:
        """The normalised weights for each of N pictures, N×C."""
        return self.weight / each_picture(self.spectral(self.weight, passes), count)[:, None]
