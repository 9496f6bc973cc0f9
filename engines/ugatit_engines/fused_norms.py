"""Normalisation of a generator on a CPU by PyTorch's batch normalisation kernels, and work done in place.

Of one picture, a batch's statistics are those of instance normalisation. Those kernels go over the features
once for means and variances and once to apply them; written out in tensor operations it is six times, with
copies in float32 between. The arithmetic on statistics stays that of the modules.

The kernel for statistics adds pixel after pixel, which of a million of them loses three digits. So it is
shown pixels side by side as if they were channels; what it finds of each column is put together in float64.

Only for inference: results are written over features that a backward pass would need.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_training.generator import AdaLINBlock, ResidualBlock
from ugatit_training.normalization import EPSILON, DecoderNorm, InstanceNorm, LayerInstanceBase

if TYPE_CHECKING:
    from collections.abc import Callable


_ROWS, _LONGEST = 128, 4096  # pixels that are added one after another: for choice, and at most


def fuse_norms(network: nn.Module) -> None:
    """Replace normalisations, and the residual blocks around them, by forms that are fast on a CPU.

    AdaLIN and LIN with nested variances, which no kernel has, stay as they are. Weights are shared with what
    was there before; state dicts have other names afterwards.

    Args:
        network: a generator in any form; changed in place.
    """
    for name, child in network.named_children():
        fuse_norms(child)
        if isinstance(child, InstanceNorm):
            setattr(network, name, FusedInstanceNorm())
        elif isinstance(child, DecoderNorm):
            if not (isinstance(child, LayerInstanceBase) and child.variance == "nested"):
                setattr(network, name, FusedNorm(child))
        elif isinstance(child, ResidualBlock):
            setattr(network, name, InPlaceResidualBlock(child))
        elif isinstance(child, AdaLINBlock):
            setattr(network, name, InPlaceAdaLINBlock(child))


class FusedInstanceNorm(nn.Module):
    """`InstanceNorm` in one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W in, the same shape and type out."""
        return _each(x, self._normalize)

    def _normalize(self, x: Tensor, _: int) -> Tensor:
        mean, variance = channel_statistics(x)
        zeros = torch.zeros_like(mean)
        scale = torch.rsqrt(variance + EPSILON)
        return F.batch_norm(x, mean, torch.ones_like(mean), scale, zeros, training=False, eps=0.0)


class FusedNorm(nn.Module):
    """A decoder's normalisation from a kernel's channel statistics, applied by another kernel.

    Args:
        norm: not one with nested variances; its parameters are shared.
    """

    def __init__(self, norm: DecoderNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
        """Args: x N×C×H×W; γ and β N×C, where they are not learned. Returns N×C×H×W in x's type."""
        if gamma is None or beta is None:
            gamma, beta = (t.expand(len(x), -1) for t in (self.norm.gamma, self.norm.beta))

        def normalize(x: Tensor, index: int) -> Tensor:
            return self._normalize(x, gamma[index], beta[index])

        return _each(x, normalize)

    def _normalize(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        mean, variance = channel_statistics(x)
        m, v, g, b = (t.to(mean.dtype).view(1, -1, 1, 1) for t in (mean, variance, gamma, beta))
        scale, shift = self.norm.scale_and_shift(m, v, g, b, x.shape[2] * x.shape[3])
        # With variances of 1 and no ε: scale · (x − mean) + shift, in float32 as its tensors are.
        ones = torch.ones_like(mean)
        return F.batch_norm(x, mean, ones, scale.flatten(), shift.flatten(), training=False, eps=0.0)


class InPlaceResidualBlock(nn.Module):
    """`ResidualBlock` whose ReLU and sum overwrite what only it has seen.

    Args:
        block: its modules are taken over.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2, self.norm = block.conv1, block.conv2, block.norm

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W in and out."""
        y: Tensor = F.relu_(self.norm(self.conv1(x)))
        y = self.norm(self.conv2(y))
        return y.add_(x)


class InPlaceAdaLINBlock(nn.Module):
    """`AdaLINBlock` whose ReLU and sum overwrite what only it has seen.

    Args:
        block: its modules are taken over.
    """

    def __init__(self, block: AdaLINBlock) -> None:
        super().__init__()
        self.conv1, self.norm1 = block.conv1, block.norm1
        self.conv2, self.norm2 = block.conv2, block.norm2
        self.skip = block.skip

    def forward(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """Args: x N×C×H×W; γ and β N×C, None where they are learned. Returns N×C×H×W."""
        y: Tensor = F.relu_(self.norm1(self.conv1(x), gamma, beta))
        y = self.norm2(self.conv2(y), gamma, beta)
        return y.add_(x) if self.skip else y


def _each(x: Tensor, normalize: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Picture by picture: the kernels would take a batch's statistics together."""
    if len(x) == 1:
        return normalize(x, 0)
    return torch.cat([normalize(x[index : index + 1], index) for index in range(len(x))])


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and biased variances of one picture's channels.

    Args:
        x: 1×C×H×W, any floating type, quickest in channels_last.

    Returns:
        Two tensors of C, in float32, or float64 for features that are.
    """
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    # Rows of `width` pixels each: as many rows as columns, roughly, so that no sum is long.
    width = math.gcd(pixels, 2 ** max(0, round(math.log2(min(pixels / _ROWS, pixels**0.5 + 1)))))
    rows = x.permute(0, 2, 3, 1).reshape(pixels // width, width * channels)
    kept = x.new_zeros(width * channels, dtype=torch.promote_types(x.dtype, torch.float32))
    means, variances, counts = [], [], []
    for band in torch.split(rows, _LONGEST):
        # Running statistics of float32 make the results so; without them they have the features' type.
        columns = band[None, :, :, None].transpose(1, 2)
        mean, variance = torch.batch_norm_update_stats(columns, kept.clone(), kept.clone(), 0.0)
        means.append(mean.view(width, channels).double())
        variances.append(variance.view(width, channels).double())
        counts.append(len(band))
    weights = torch.tensor(counts, dtype=torch.float64).view(-1, 1, 1) / (pixels // width * width)
    each, spread = torch.stack(means), torch.stack(variances)
    mean = (each * weights).sum((0, 1))
    variance = ((spread + (each - mean).square()) * weights).sum((0, 1))
    wide = torch.promote_types(x.dtype, torch.float32)
    return mean.to(wide), variance.to(wide)
