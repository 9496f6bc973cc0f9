"""The local and the global discriminator (tables 5 and 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ugatit_training.cam import ClassActivationMap, attention_map
from ugatit_training.generator import initialize

LOCAL_STRIDED = 3
GLOBAL_STRIDED = 5
_SLOPE = 0.2
_SMALLEST_MAP = 2


class DiscriminatorOutput(NamedTuple):
    """What one forward pass gives."""

    patches: Tensor
    """N×1×h×w: one LSGAN output a patch."""
    logits: Tensor
    """N×2, of the auxiliary classifier."""
    attention: Tensor
    """float32, N×(h+1)×(w+1); can be negative, since it follows LeakyReLU."""


class _InFloat32(nn.Module):
    """Runs a parametrization outside autocast: power iteration needs float32."""

    def __init__(self, parametrization: nn.Module) -> None:
        super().__init__()
        self.parametrization = parametrization

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return self.parametrization(weight)  # type: ignore[no-any-return]


def _normalize_spectrally(layer: nn.Module) -> None:
    spectral_norm(layer)
    chain = layer.get_submodule("parametrizations.weight")
    chain.register_module("0", _InFloat32(chain.get_submodule("0")))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


def fitting_depth(wanted: int, image_size: int) -> int:
    """How many strided layers of `wanted` fit a square picture of `image_size` pixels.

    Every strided layer halves; after the stride-1 layer and the CAM the classifier's reflection still needs a
    map of 2×2 or more. A global discriminator (5) fits from 96 pixels on.

    Raises:
        ValueError: not even one layer fits.
    """
    for depth in range(wanted, 0, -1):
        if image_size // 2**depth - 1 >= _SMALLEST_MAP:
            return depth
    raise ValueError(f"{image_size} pixels are too few for a discriminator")


class Discriminator(nn.Module):
    """CAM discriminator: `strided` halving 4×4 convolutions, one of stride 1, CAM, patch classifier.

    Spectral norm on every convolution and FC except the 1×1, one power iteration a training forward.
    """

    def __init__(self, channels: int = 64, strided: int = LOCAL_STRIDED) -> None:
        super().__init__()
        widths = [3, *(channels * 2**i for i in range(strided + 1))]
        strides = [2] * strided + [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 4, s, padding=1, padding_mode="reflect")
            for i, o, s in zip(widths, widths[1:], strides, strict=False)
        )
        self.cam = ClassActivationMap(widths[-1], _leaky)
        self.classifier = nn.Conv2d(widths[-1], 1, 4, padding=1, padding_mode="reflect", bias=False)
        initialize(self)
        for layer in (*self.convs, self.cam.average, self.cam.maximum, self.classifier):
            _normalize_spectrally(layer)

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """Args: x N×3×H×W in [-1, 1]."""
        for conv in self.convs:
            x = _leaky(conv(x))
        x, logits = self.cam(x)
        return DiscriminatorOutput(self.classifier(x), logits, attention_map(x))
