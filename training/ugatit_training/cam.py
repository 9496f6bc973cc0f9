"""The auxiliary classifier η and its class activation map (section 2.1), shared by all three networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ugatit_training.spectral_norm import SpectralLinear

if TYPE_CHECKING:
    from collections.abc import Callable


class ClassActivationMap(nn.Module):
    """Weight feature maps by how much each of them speaks for a domain.

    Global average and global max pooling each go through a 1-output FC without bias; the FC's weights then
    multiply the feature maps, and a 1×1 convolution joins the two weighted sets.
    """

    def __init__(
        self, channels: int, activation: Callable[[Tensor], Tensor], *, spectral: bool = False
    ) -> None:
        super().__init__()
        self.average, self.maximum = (
            SpectralLinear(channels) if spectral else nn.Linear(channels, 1, bias=False) for _ in range(2)
        )
        self.join = nn.Conv2d(2 * channels, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor, passes: int = 1) -> tuple[Tensor, Tensor]:
        """Args: x N×C×H×W. Returns the attention feature maps (N×C×H×W) and the two logits (float32, N×2)."""
        average, maximum = (
            fc.rows(len(x), passes) if isinstance(fc, SpectralLinear) else fc.weight
            for fc in (self.average, self.maximum)
        )
        # Products in float32: equation 7 weighs these two numbers a thousandfold.
        logits = torch.stack(
            [
                (x.mean((2, 3), dtype=torch.float32) * average).sum(1),
                (x.amax((2, 3)).float() * maximum).sum(1),
            ],
            dim=1,
        )
        weighted = torch.cat([x * w.to(x.dtype)[:, :, None, None] for w in (average, maximum)], dim=1)
        return self.activation(self.join(weighted)), logits


def attention_map(features: Tensor) -> Tensor:
    """The map for people: the sum over channels. N×C×H×W in, float32 N×H×W out."""
    return features.float().sum(1)
