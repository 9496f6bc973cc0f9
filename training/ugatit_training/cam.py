"""The auxiliary classifier η and its class activation map (section 2.1), shared by all three networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable


class ClassActivationMap(nn.Module):
    """Weight feature maps by how much each of them speaks for a domain.

    Global average and global max pooling each go through a 1-output FC without bias; the FC's weights then
    multiply the feature maps, and a 1×1 convolution joins the two weighted sets.
    """

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.average = nn.Linear(channels, 1, bias=False)
        self.maximum = nn.Linear(channels, 1, bias=False)
        self.join = nn.Conv2d(2 * channels, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Args: x N×C×H×W. Returns the attention feature maps (N×C×H×W) and the two logits (N×2)."""
        # Read once: under spectral norm every read of `weight` is a power iteration.
        average, maximum = self.average.weight, self.maximum.weight
        logits = torch.cat(
            [F.linear(x.mean((2, 3)), average), F.linear(x.amax((2, 3)), maximum)],
            dim=1,
        )
        weighted = torch.cat([x * average[:, :, None, None], x * maximum[:, :, None, None]], dim=1)
        return self.activation(self.join(weighted)), logits


def attention_map(features: Tensor) -> Tensor:
    """The map for people: the sum over channels. N×C×H×W in, float32 N×H×W out."""
    return features.float().sum(1)
