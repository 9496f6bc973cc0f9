"""Instance, layer-instance and adaptive layer-instance normalisation (section 2.1.1, equations 1 to 3).

Beside them what table 1 puts in their place.

All of them are affine for a given picture and channel, so each is one scale and one shift on centred
features, from channel means and variances that are computed once and always in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-5

Variance = Literal["biased", "unbiased", "nested"]
Norm = Literal["adalin", "adain", "in", "ln", "gn"]


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre features a channel.

    Args:
        x: N×C×H×W, any floating type.

    Returns:
        The centred features (float32, N×C×H×W), the means and the biased variances (float32, N×C×1×1).
    """
    x = x.float()
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    return centred, mean, centred.square().mean((2, 3), keepdim=True)


class InstanceNorm(nn.Module):
    """Instance normalisation without affine part, biased variance, statistics in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W in, the same shape and type out."""
        centred, _, variance = channel_statistics(x)
        return (centred * torch.rsqrt(variance + EPSILON)).to(x.dtype)


class DecoderNorm(nn.Module, ABC):
    """What the decoder's normalisations share: γ and β come in from outside, or are learned."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.gamma = nn.Parameter(torch.ones(channels))
            self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
        """Args: x N×C×H×W; γ and β N×C, where they are not learned. Returns N×C×H×W in x's type."""
        if gamma is None or beta is None:
            gamma, beta = self.gamma[None], self.beta[None]
        return self.normalize(x, gamma.float()[:, :, None, None], beta.float()[:, :, None, None])

    @abstractmethod
    def normalize(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Args: x N×C×H×W; γ and β float32, broadcasting to N×C×1×1. Returns N×C×H×W in x's type."""

    @abstractmethod
    def scale_and_shift(
        self, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, pixels: int
    ) -> tuple[Tensor, Tensor]:
        """The affine map that this normalisation is, once statistics are known.

        Args:
            mean: of each channel, float32, N×C×1×1.
            variance: of each channel, biased, float32, N×C×1×1.
            gamma: float32, broadcasting to N×C×1×1.
            beta: as gamma.
            pixels: H·W.

        Returns:
            Scale and shift of the centred features, float32, N×C×1×1.
        """


class LayerInstanceBase(DecoderNorm):
    """ρ·IN(x) + (1 − ρ)·LN(x), scaled by γ and shifted by β."""

    rho: nn.Parameter

    def __init__(self, channels: int, rho: float, variance: Variance, *, learned: bool) -> None:
        super().__init__(channels, learned=learned)
        self.rho = nn.Parameter(torch.full((channels,), rho))
        self.variance: Variance = variance

    def normalize(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Args: as of every `normalize` here. Returns N×C×H×W in x's type."""
        centred, mean, variance = channel_statistics(x)
        if self.variance == "nested":
            spread = mean - mean.mean(1, keepdim=True)
            # The PyTorch program before 27 August 2019: variances of variances, one axis at a time.
            variance = _variance(_variance(centred, 2), 3)
            layer_variance = _variance(_variance(_variance(centred + spread, 1), 2), 3)
            scale, shift = self._mix(spread, variance, layer_variance, gamma, beta)
        else:
            scale, shift = self.scale_and_shift(mean, variance, gamma, beta, x.shape[2] * x.shape[3])
        return _affine(centred, scale, shift, x.dtype)

    def scale_and_shift(
        self, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, pixels: int
    ) -> tuple[Tensor, Tensor]:
        """See the base class; not for nested variances, which those of the channels do not determine."""
        spread = mean - mean.mean(1, keepdim=True)
        layer_variance = (variance + spread.square()).mean(1, keepdim=True)
        if self.variance == "unbiased":
            total = pixels * mean.shape[1]
            variance = variance * (pixels / (pixels - 1))
            layer_variance = layer_variance * (total / (total - 1))
        return self._mix(spread, variance, layer_variance, gamma, beta)

    def _mix(
        self, spread: Tensor, variance: Tensor, layer_variance: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        rho = self.rho.float().view(1, -1, 1, 1)
        instance = rho * torch.rsqrt(variance + EPSILON)
        layer = (1 - rho) * torch.rsqrt(layer_variance + EPSILON)
        return gamma * (instance + layer), gamma * layer * spread + beta


def _variance(x: Tensor, axis: int) -> Tensor:
    """Unbiased, along one axis, which stays; in operations that exporting leaves as few as they are."""
    centred = x - x.mean(axis, keepdim=True)
    return centred.square().sum(axis, keepdim=True) / (x.shape[axis] - 1)


def _affine(centred: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.addcmul(shift, centred, scale).to(dtype)


class AdaLIN(LayerInstanceBase):
    """Adaptive layer-instance normalisation: γ and β come from the attention features (equation 1).

    ρ starts at 1 (the paper's value) and is kept in [0, 1] by `clip_rho` after every optimiser step.
    """

    def __init__(self, channels: int, variance: Variance = "biased") -> None:
        super().__init__(channels, 1.0, variance, learned=False)


class LIN(LayerInstanceBase):
    """Layer-instance normalisation with learned γ (1 at first) and β (0); ρ starts at 0."""

    def __init__(self, channels: int, variance: Variance = "biased") -> None:
        super().__init__(channels, 0.0, variance, learned=True)


class GroupedNorm(DecoderNorm):
    """IN, LN, GN and AdaIN, the ablations of table 1: one mean and one biased variance a group of channels.

    Args:
        channels: C; `groups` divides it.
        groups: C for IN and AdaIN, 1 for LN.
        learned: whether γ and β are learned here (AdaIN takes them from the attention features).
    """

    def __init__(self, channels: int, groups: int, *, learned: bool) -> None:
        super().__init__(channels, learned=learned)
        self.groups = groups

    def normalize(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Args: as of every `normalize` here. Returns N×C×H×W in x's type."""
        centred, mean, variance = channel_statistics(x)
        scale, shift = self.scale_and_shift(mean, variance, gamma, beta, x.shape[2] * x.shape[3])
        return _affine(centred, scale, shift, x.dtype)

    def scale_and_shift(
        self,
        mean: Tensor,
        variance: Tensor,
        gamma: Tensor,
        beta: Tensor,
        pixels: int,  # noqa: ARG002 - variances are biased
    ) -> tuple[Tensor, Tensor]:
        """See the base class."""
        by_group = mean.view(-1, self.groups, mean.shape[1] // self.groups)
        spread = by_group - by_group.mean(2, keepdim=True)
        grouped = (variance.view_as(by_group) + spread.square()).mean(2, keepdim=True).expand_as(by_group)
        scale = gamma * torch.rsqrt(grouped + EPSILON).reshape_as(mean)
        return scale, scale * spread.reshape_as(mean) + beta


GROUPS = 32
"""Of GN, as Wu and He (2018) have it; fewer where channels are few."""


def decoder_norm(kind: Norm, channels: int, variance: Variance, *, adaptive: bool) -> nn.Module:
    """A normalisation of the decoder.

    Args:
        kind: AdaLIN is the paper's; the others are its table 1.
        channels: C.
        variance: of AdaLIN and LIN.
        adaptive: in the residual blocks, where AdaLIN and AdaIN take γ and β from the attention features.
    """
    if kind == "adalin":
        return AdaLIN(channels, variance) if adaptive else LIN(channels, variance)
    groups = {"adain": channels, "in": channels, "ln": 1, "gn": math.gcd(GROUPS, channels)}[kind]
    return GroupedNorm(channels, groups, learned=kind != "adain" or not adaptive)


@torch.no_grad()
def clip_rho(network: nn.Module) -> None:
    """Bring every ρ of a network back into [0, 1], as after each optimiser step (section 2.1.1)."""
    for module in network.modules():
        if isinstance(module, LayerInstanceBase):
            module.rho.clamp_(0.0, 1.0)
