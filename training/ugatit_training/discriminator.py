"""The local and the global discriminator (tables 5 and 6)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_training.cam import ClassActivationMap, attention_map
from ugatit_training.generator import initialize
from ugatit_training.spectral_norm import SpectralConv2d, SpectralLinear

LOCAL_STRIDED = 3
GLOBAL_STRIDED = 5
_SLOPE = 0.2
_SMALLEST_MAP = 2


class DiscriminatorOutput(NamedTuple):
    """What one forward pass gives."""

    patches: Tensor
    """N×1×h×w: one LSGAN output a patch."""
    logits: Tensor | None
    """float32, N×2, of the auxiliary classifier; None without a CAM."""
    attention: Tensor
    """float32, N×(h+1)×(w+1); can be negative, since it follows LeakyReLU. Without a CAM, no attention."""

    def split(self, passes: int) -> list[DiscriminatorOutput]:
        """The outputs of passes that went through as one batch."""
        logits = [None] * passes if self.logits is None else self.logits.chunk(passes)
        parts = zip(self.patches.chunk(passes), logits, self.attention.chunk(passes), strict=True)
        return [DiscriminatorOutput(*part) for part in parts]


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

    Spectral norm on every convolution and FC except the 1×1, one power iteration a training pass.

    Args:
        channels: width of the first layer.
        strided: how many layers halve.
        attention: whether it has the CAM; without it (table 1) features pass on and there are no logits.
    """

    def __init__(self, channels: int = 64, strided: int = LOCAL_STRIDED, *, attention: bool = True) -> None:
        super().__init__()
        widths = [3, *(channels * 2**i for i in range(strided + 1))]
        strides = [2] * strided + [1]
        self.convs = nn.ModuleList(
            SpectralConv2d(i, o, 4, s) for i, o, s in zip(widths, widths[1:], strides, strict=False)
        )
        self.cam = ClassActivationMap(widths[-1], _leaky, spectral=True) if attention else None
        self.classifier = SpectralConv2d(widths[-1], 1, 4, bias=False)
        initialize(self)
        for layer in self.modules():
            if isinstance(layer, SpectralConv2d | SpectralLinear):
                layer.normalize()

    def forward(self, x: Tensor, passes: int = 1) -> DiscriminatorOutput:
        """Judge pictures.

        Args:
            x: N×3×H×W in [-1, 1]: the pictures of all passes, one pass behind the other, as many in each.
            passes: each takes one power iteration in training, as calls one after the other would.
        """
        for conv in self.convs:
            x = _leaky(conv(x, passes))
        logits = None
        if self.cam is not None:
            x, logits = self.cam(x, passes)
        return DiscriminatorOutput(self.classifier(x, passes), logits, attention_map(x))
