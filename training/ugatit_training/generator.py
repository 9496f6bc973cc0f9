"""The generator (table 4): encoder, attention, γ and β, decoder with AdaLIN and LIN.

Table 1's ablations are shapes of it too: another norm in the decoder, or no attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ugatit_batch.errors import SizeError
from ugatit_training.cam import ClassActivationMap, attention_map
from ugatit_training.normalization import InstanceNorm, decoder_norm

if TYPE_CHECKING:
    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_training.normalization import Norm, Variance


class GeneratorOutput(NamedTuple):
    """What one forward pass gives."""

    image: Tensor
    """N×3×H×W in [-1, 1]."""
    logits: Tensor | None
    """float32, N×2, of the auxiliary classifier: above 0 means "of the source domain"; None without a CAM."""
    attention: Tensor
    """float32, N×H/4×W/4: the attention feature map summed over channels. Without a CAM, no attention."""

    def split(self, parts: int) -> list[GeneratorOutput]:
        """The outputs of pictures that went through as one batch, in equal parts."""
        logits = [None] * parts if self.logits is None else self.logits.chunk(parts)
        pieces = zip(self.image.chunk(parts), logits, self.attention.chunk(parts), strict=True)
        return [GeneratorOutput(*piece) for piece in pieces]


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

    def __init__(self, channels: int, norm: Norm, variance: Variance, skip: bool) -> None:
        super().__init__()
        self.conv1 = _reflect_conv(channels, channels, 3)
        self.norm1 = decoder_norm(norm, channels, variance, adaptive=True)
        self.conv2 = _reflect_conv(channels, channels, 3)
        self.norm2 = decoder_norm(norm, channels, variance, adaptive=True)
        self.skip = skip

    def forward(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """Args: x N×C×H×W; γ and β N×C, None where they are learned. Returns N×C×H×W."""
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


def check_size(config: GeneratorConfig, x: Tensor) -> None:
    """Do nothing where a generator takes pictures N×3×H×W of that size.

    Raises:
        SizeError: a full generator was given another size than its own.
    """
    side = config.image_size
    # An equal number of features is not enough: 32×128 has as many as 64×64.
    if not config.light and x.shape[-2:] != (side, side):
        raise SizeError(
            f"{x.shape[-1]}×{x.shape[-2]}: this model takes {side}×{side} pixels only",
            f"use --size {side}",
        )


class Generator(nn.Module):
    """U-GAT-IT's generator, full or light (table 4).

    Weights start from N(0, 0.02), biases at 0 (section 4.2), drawn from torch's global generator.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        ch, norm, variance = config.channels, config.norm, config.variance
        self.config = config
        self.checkpoint_activations = False
        self.down = nn.ModuleList(
            [_reflect_conv(3, ch, 7), _reflect_conv(ch, 2 * ch, 3, 2), _reflect_conv(2 * ch, 4 * ch, 3, 2)]
        )
        self.down_norm = InstanceNorm()
        self.encoder = nn.ModuleList(ResidualBlock(4 * ch) for _ in range(config.residual_blocks))
        self.cam = ClassActivationMap(4 * ch, F.relu) if config.attention else None
        self.style = StyleParameters(config) if norm in ("adalin", "adain") else None
        self.decoder = nn.ModuleList(
            AdaLINBlock(4 * ch, norm, variance, config.decoder_skip) for _ in range(config.residual_blocks)
        )
        self.up = nn.ModuleList([_reflect_conv(4 * ch, 2 * ch, 3), _reflect_conv(2 * ch, ch, 3)])
        self.up_norms = nn.ModuleList(
            decoder_norm(norm, width, variance, adaptive=False) for width in (2 * ch, ch)
        )
        self.out = _reflect_conv(ch, 3, 7)
        initialize(self)

    def forward(self, x: Tensor) -> GeneratorOutput:
        """Translate pictures.

        Args:
            x: N×3×H×W in [-1, 1]; H and W divide by 4, and equal the training size in a full generator.

        Raises:
            SizeError: a full generator was given another size than its own.
        """
        check_size(self.config, x)
        for conv in self.down:
            x = F.relu(self.down_norm(conv(x)))
        for block in self.encoder:
            x = self._run(block, x)
        logits, gamma, beta = None, None, None
        if self.cam is not None:
            x, logits = self.cam(x)
        attention = attention_map(x)
        if self.style is not None:
            gamma, beta = self.style(x)
        for block in self.decoder:
            x = self._run(block, x, gamma, beta)
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            x = F.relu(norm(conv(F.interpolate(x, scale_factor=2, mode="nearest"))))
        return GeneratorOutput(torch.tanh(self.out(x)), logits, attention)

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            # Blocks draw no random numbers, so there is no state to bring back for their second run.
            kept: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            return kept
        out: Tensor = block(*inputs)
        return out


def initialize(network: nn.Module) -> None:
    """Weights of convolutions and FCs from N(0, 0.02), biases 0 (section 4.2)."""
    for module in network.modules():
        # Drawing numbers for the meta device does nothing, and takes torch seconds of imports.
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
