"""A generator rewritten for running alone: the same function of a picture, in fewer operations.

Three exact rewrites, none of which training could use:

- The class activation map's weights are constants, so the two weighted sets of features and the 1×1
  convolution that joins them are one 1×1 convolution.
- Up-sampling by nearest neighbours, reflection padding and a 3×3 convolution see every low pixel several
  times: one transposed 4×4 convolution of stride 2 on features padded by replication gives the same sums.
- The auxiliary classifier's logits are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_training.cam import attention_map
from ugatit_training.generator import check_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_training.generator import Generator, StyleParameters

    Restyle = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DeployGenerator(nn.Module):
    """The deploy form of one generator, without gradients.

    Args:
        generator: with its weights, in float32; what does not change is shared with it.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.config = generator.config
        self.down, self.down_norm, self.encoder = generator.down, generator.down_norm, generator.encoder
        self.join = _folded_attention(generator)
        self.style = None if generator.style is None else DeployStyle(generator.style)
        self.decoder = generator.decoder
        self.up = nn.ModuleList(_folded_upsampling(conv) for conv in generator.up)
        self.up_norms, self.out = generator.up_norms, generator.out
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, restyle: Restyle | None = None) -> tuple[Tensor, Tensor]:
        """Translate pictures.

        Args:
            x: N×3×H×W in [-1, 1], in the convolutions' type; H and W as for `Generator`.
            restyle: given γ and β, N×4ch each in x's type, returns those that the decoder is to use. Never
                called where they are learned (`style` is None).

        Returns:
            N×3×H×W in [-1, 1], in x's type, and the attention map, float32, N×H/4×W/4.

        Raises:
            SizeError: a full generator was given another size than its own.
        """
        check_size(self.config, x)
        for conv in self.down:
            x = F.relu(self.down_norm(conv(x)))
        for block in self.encoder:
            x = block(x)
        if self.join is not None:
            x = F.relu(self.join(x))
        attention = attention_map(x)
        gamma, beta = (None, None) if self.style is None else self.style(x)
        if restyle is not None and gamma is not None and beta is not None:
            gamma, beta = restyle(gamma, beta)
        for block in self.decoder:
            x = block(x, gamma, beta)
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            x = F.relu(norm(conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))))
        return torch.tanh(self.out(x)), attention


class DeployStyle(nn.Module):
    """γ and β from the attention features, as `StyleParameters` has them in evaluation.

    Args:
        style: with its weights, which are shared.
    """

    def __init__(self, style: StyleParameters) -> None:
        super().__init__()
        self.light, self.relu = style.light, style.relu
        self.fc1, self.fc2, self.gamma, self.beta = style.fc1, style.fc2, style.gamma, style.beta

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Args: x N×4ch×H×W. Returns γ and β, N×4ch each, in x's type."""
        # The mean in float32: a half's sum over all pixels can pass its range.
        x = x.float().mean((2, 3)).to(x.dtype) if self.light else x.flatten(1)
        for layer in (self.fc1, self.fc2):
            x = F.relu(layer(x)) if self.relu else layer(x)
        return self.gamma(x), self.beta(x)


def _folded_attention(generator: Generator) -> nn.Conv2d | None:
    cam = generator.cam
    if cam is None:
        return None
    channels = cam.join.out_channels
    average, maximum = (fc.weight.detach().view(1, -1, 1, 1) for fc in (cam.average, cam.maximum))
    of_average, of_maximum = cam.join.weight.detach().chunk(2, dim=1)
    join = nn.Conv2d(channels, channels, 1, device="meta")
    join.weight = nn.Parameter(of_average * average + of_maximum * maximum)
    join.bias = nn.Parameter(
        torch.zeros(channels) if cam.join.bias is None else cam.join.bias.detach().clone()
    )
    return join


def _folded_upsampling(conv: nn.Module) -> nn.ConvTranspose2d:
    """Nearest neighbours ×2, reflection by 1 and a 3×3 convolution, on features replicated by 1.

    A doubled map's reflection by one pixel is a replication of the map before: its outermost pixel twice.
    """
    weight = conv.get_parameter("weight").detach()
    outputs, inputs = weight.shape[:2]
    kernel = weight.new_zeros(inputs, outputs, 4, 4)
    for dy in range(3):
        for dx in range(3):
            for y in range(2):
                for x in range(2):
                    kernel[:, :, 2 - dy + y, 2 - dx + x] += weight[:, :, dy, dx].t()
    transposed = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=3, bias=False, device="meta")
    transposed.weight = nn.Parameter(kernel)
    return transposed
