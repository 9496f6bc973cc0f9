"""The generator (table 4): encoder, attention, γ and β, decoder with AdaLIN and LIN."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_batch.errors import SizeError
from ugatit_training.cam import ClassActivationMap, attention_map
from ugatit_training.normalization import LIN, AdaLIN, InstanceNorm

if TYPE_CHECKING:
    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_training.normalization import Variance


class GeneratorOutput(NamedTuple):
    """What one forward pass gives."""

    image: Tensor
    """N×3×H×W in [-1, 1]."""
    logits: Tensor
    """N×2, of the auxiliary classifier: above 0 means "of the source domain"."""
    attention: Tensor
    """float32, N×H/4×W/4: the attention feature map summed over channels."""


def _reflect_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # A 7×7 keeps 3 pixels of margin, both 3×3 forms keep 1.
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect", bias=False)


class ResidualBlock(nn.Module):
    """Encoder bottleneck: conv, IN, ReLU, conv, IN, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _reflect_conv(channels, channels, 3)
        self.conv2 = _reflect_conv(channels, channels, 3)
        self.norm = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W in and out."""
        y: Tensor = F.relu(self.norm(self.conv1(x)))
        y = self.norm(self.conv2(y))
        return x + y


class AdaLINBlock(nn.Module):
    """Decoder bottleneck: conv, AdaLIN, ReLU, conv, AdaLIN, add."""

    def __init__(self, channels: int, variance: Variance, skip: bool) -> None:
        super().__init__()
        self.conv1 = _reflect_conv(channels, channels, 3)
        self.norm1 = AdaLIN(channels, variance)
        self.conv2 = _reflect_conv(channels, channels, 3)
        self.norm2 = AdaLIN(channels, variance)
        self.skip = skip

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Args: x N×C×H×W; γ and β N×C. Returns N×C×H×W."""
        y: Tensor = F.relu(self.norm1(self.conv1(x), gamma, beta))
        y = self.norm2(self.conv2(y), gamma, beta)
        return x + y if self.skip else y


class StyleParameters(nn.Module):
    """γ and β from the attention features: two FCs with ReLU, then one FC for each."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = 4 * config.channels
        self.light = config.light
        inputs = width if config.light else width * (config.image_size // 4) ** 2
        self.fc1 = nn.Linear(inputs, width, bias=False)
        self.fc2 = nn.Linear(width, width, bias=False)
        self.gamma = nn.Linear(width, width, bias=False)
        self.beta = nn.Linear(width, width, bias=False)
        self.relu = config.style_relu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Args: x N×4ch×H×W. Returns γ and β, N×4ch each."""
        if self.light:
            x = x.float().mean((2, 3)).to(x.dtype)
            x = self.fc1(x)
        else:
            # Sums over a million products: in training not in half precision.
            with torch.autocast(x.device.type, enabled=False):
                x = F.linear(x.flatten(1).to(self.fc1.weight.dtype), self.fc1.weight).to(x.dtype)
        if self.relu:
            x = F.relu(x)
        x = self.fc2(x)
        if self.relu:
            x = F.relu(x)
        return self.gamma(x), self.beta(x)


class Generator(nn.Module):
    """U-GAT-IT's generator, full or light (table 4).

    Weights start from N(0, 0.02), biases at 0 (section 4.2), drawn from torch's global generator.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        ch, variance = config.channels, config.variance
        self.config = config
        self.down = nn.ModuleList(
            [_reflect_conv(3, ch, 7), _reflect_conv(ch, 2 * ch, 3, 2), _reflect_conv(2 * ch, 4 * ch, 3, 2)]
        )
        self.down_norm = InstanceNorm()
        self.encoder = nn.ModuleList(ResidualBlock(4 * ch) for _ in range(config.residual_blocks))
        self.cam = ClassActivationMap(4 * ch, F.relu)
        self.style = StyleParameters(config)
        self.decoder = nn.ModuleList(
            AdaLINBlock(4 * ch, variance, config.decoder_skip) for _ in range(config.residual_blocks)
        )
        self.up = nn.ModuleList([_reflect_conv(4 * ch, 2 * ch, 3), _reflect_conv(2 * ch, ch, 3)])
        self.up_norms = nn.ModuleList([LIN(2 * ch, variance), LIN(ch, variance)])
        self.out = _reflect_conv(ch, 3, 7)
        initialize(self)

    def forward(self, x: Tensor) -> GeneratorOutput:
        """Translate pictures.

        Args:
            x: N×3×H×W in [-1, 1]; H and W divide by 4, and equal the training size in a full generator.

        Raises:
            SizeError: a full generator was given another size than its own.
        """
        side = self.config.image_size
        # An equal number of features is not enough: 32×128 has as many as 64×64.
        if not self.config.light and x.shape[-2:] != (side, side):
            raise SizeError(
                f"{x.shape[-1]}×{x.shape[-2]}: this model takes {side}×{side} pixels only",
                f"use --size {side}",
            )
        for conv in self.down:
            x = F.relu(self.down_norm(conv(x)))
        for block in self.encoder:
            x = block(x)
        x, logits = self.cam(x)
        attention = attention_map(x)
        gamma, beta = self.style(x)
        for block in self.decoder:
            x = block(x, gamma, beta)
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            x = F.relu(norm(conv(F.interpolate(x, scale_factor=2, mode="nearest"))))
        return GeneratorOutput(torch.tanh(self.out(x)), logits, attention)


def initialize(network: nn.Module) -> None:
    """Weights of convolutions and FCs from N(0, 0.02), biases 0 (section 4.2)."""
    for module in network.modules():
        # Drawing numbers for the meta device does nothing, and takes torch seconds of imports.
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
