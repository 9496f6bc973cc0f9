"""The authors' PyTorch networks, written anew and as plainly as can be: what an import is compared with.

Shares no code with `ugatit_training`. Attribute names and positions give the published program's keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

State = dict[str, Tensor]

# As torch.var takes it; "nested" is the program's variance of variances before 27 August 2019.
Variance = Literal["biased", "unbiased", "nested"]


def variance_over(x: Tensor, axes: tuple[int, ...], variance: Variance) -> Tensor:
    if variance == "nested":
        for axis in axes:
            x = torch.var(x, dim=axis, keepdim=True)
        return x
    return torch.var(x, dim=axes, correction=int(variance == "unbiased"), keepdim=True)


def mix(x: Tensor, rho: Tensor, gamma: Tensor, beta: Tensor, variance: Variance) -> Tensor:
    """Equation 1 to the letter; everything broadcasts to N×C×H×W."""
    instance = x - x.mean((2, 3), keepdim=True)
    instance = instance / torch.sqrt(variance_over(x, (2, 3), variance) + 1e-5)
    layer = x - x.mean((1, 2, 3), keepdim=True)
    layer = layer / torch.sqrt(variance_over(x, (1, 2, 3), variance) + 1e-5)
    return gamma * (rho * instance + (1 - rho) * layer) + beta


class PublishedAdaLIN(nn.Module):
    def __init__(self, channels: int, variance: Variance) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))
        self.variance: Variance = variance

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        n, c = gamma.shape
        return mix(x, self.rho, gamma.reshape(n, c, 1, 1), beta.reshape(n, c, 1, 1), self.variance)


class PublishedLIN(nn.Module):
    def __init__(self, channels: int, variance: Variance) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.variance: Variance = variance

    def forward(self, x: Tensor) -> Tensor:
        return mix(x, self.rho, self.gamma, self.beta, self.variance)


class PublishedEncoderBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.conv_block(x)
        return x + branch


class PublishedDecoderBlock(nn.Module):
    def __init__(self, channels: int, variance: Variance, skip: bool) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm1 = PublishedAdaLIN(channels, variance)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm2 = PublishedAdaLIN(channels, variance)
        self.skip = skip

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        y: Tensor = torch.relu(self.norm1(self.conv1(self.pad(x)), gamma, beta))
        y = self.norm2(self.conv2(self.pad(y)), gamma, beta)
        return y + x if self.skip else y


class PublishedGenerator(nn.Module):
    """`genA2B` and `genB2A`; `skip` and `style_relu` are False in older programs."""

    def __init__(
        self,
        ch: int,
        blocks: int = 4,
        size: int = 256,
        *,
        light: bool,
        variance: Variance = "unbiased",
        skip: bool = True,
        style_relu: bool = True,
    ) -> None:
        super().__init__()
        wide = 4 * ch
        down: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, ch, 7, bias=False),
            nn.InstanceNorm2d(ch),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(ch, 2 * ch, 3, stride=2, bias=False),
            nn.InstanceNorm2d(2 * ch),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(2 * ch, wide, 3, stride=2, bias=False),
            nn.InstanceNorm2d(wide),
            nn.ReLU(),
        ]
        self.DownBlock = nn.Sequential(*down, *(PublishedEncoderBlock(wide) for _ in range(blocks)))
        self.gap_fc = nn.Linear(wide, 1, bias=False)
        self.gmp_fc = nn.Linear(wide, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * wide, wide, 1)
        inputs = wide if light else size // 4 * (size // 4) * wide
        first, second = nn.Linear(inputs, wide, bias=False), nn.Linear(wide, wide, bias=False)
        if style_relu:
            self.FC = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        else:
            self.FC = nn.Sequential(first, second)
        self.gamma = nn.Linear(wide, wide, bias=False)
        self.beta = nn.Linear(wide, wide, bias=False)
        for i in range(blocks):
            self.add_module(f"UpBlock1_{i + 1}", PublishedDecoderBlock(wide, variance, skip))
        self.UpBlock2 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.ReflectionPad2d(1),
            nn.Conv2d(wide, 2 * ch, 3, bias=False),
            PublishedLIN(2 * ch, variance),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.ReflectionPad2d(1),
            nn.Conv2d(2 * ch, ch, 3, bias=False),
            PublishedLIN(ch, variance),
            nn.ReLU(),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ch, 3, 7, bias=False),
            nn.Tanh(),
        )
        self.blocks, self.light = blocks, light

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image N×3×H×W, logits N×2, attention N×1×H/4×W/4."""
        x = self.DownBlock(x)
        average, highest = x.mean((2, 3)), x.amax((2, 3))
        logits = torch.cat([self.gap_fc(average), self.gmp_fc(highest)], 1)
        by_average = x * self.gap_fc.weight[:, :, None, None]
        by_highest = x * self.gmp_fc.weight[:, :, None, None]
        x = torch.relu(self.conv1x1(torch.cat([by_average, by_highest], 1)))
        attention = x.sum(1, keepdim=True)
        style = self.FC(x.mean((2, 3)) if self.light else x.flatten(1))
        gamma, beta = self.gamma(style), self.beta(style)
        for i in range(self.blocks):
            x = self.get_submodule(f"UpBlock1_{i + 1}")(x, gamma, beta)
        return self.UpBlock2(x), logits, attention


class PublishedDiscriminator(nn.Module):
    """`disLA`, `disLB` (3 strided layers), `disGA`, `disGB` (5).

    `raw_cam` is the program's mistake: attention by weights that spectral norm has not touched.
    """

    def __init__(self, ch: int, strided: int, *, raw_cam: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, outputs = 3, ch
        for i in range(strided + 1):
            conv = nn.Conv2d(inputs, outputs, 4, stride=2 if i < strided else 1)
            layers += [nn.ReflectionPad2d(1), spectral_norm(conv), nn.LeakyReLU(0.2)]
            inputs, outputs = outputs, 2 * outputs
        self.model = nn.Sequential(*layers)
        self.gap_fc = spectral_norm(nn.Linear(inputs, 1, bias=False))
        self.gmp_fc = spectral_norm(nn.Linear(inputs, 1, bias=False))
        self.conv1x1 = nn.Conv2d(2 * inputs, inputs, 1)
        self.pad = nn.ReflectionPad2d(1)
        self.conv = spectral_norm(nn.Conv2d(inputs, 1, 4, bias=False))
        self.leaky = nn.LeakyReLU(0.2)
        self.raw_cam = raw_cam

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches N×1×h×w, logits N×2, attention N×1×(h+1)×(w+1)."""
        x = self.model(x)
        logits = torch.cat([self.gap_fc(x.mean((2, 3))), self.gmp_fc(x.amax((2, 3)))], 1)
        kind = "weight_orig" if self.raw_cam else "weight"
        weights = [getattr(fc, kind)[:, :, None, None] for fc in (self.gap_fc, self.gmp_fc)]
        x = self.leaky(self.conv1x1(torch.cat([x * weight for weight in weights], 1)))
        return self.conv(self.pad(x)), logits, x.sum(1, keepdim=True)


def randomize(network: nn.Module, seed: int) -> None:
    """Values with which every part of a generator counts: activations near 1, ρ in (0.05, 0.95)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("rho"):
                parameter.uniform_(0.05, 0.95, generator=generator)
            elif name.endswith(".gamma"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim < 2 or name.endswith(".beta"):
                parameter.normal_(0, 0.3, generator=generator)
            else:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    if isinstance(network, PublishedGenerator):
        # Attention is summed over channels and γ passes four FCs: without this they shrink.
        with torch.no_grad():
            network.conv1x1.weight.mul_(6)
            network.gamma.weight.mul_(2)
            network.beta.weight.mul_(2)
            network.gap_fc.weight.mul_(5)
            network.UpBlock2.get_submodule("11").get_parameter("weight").mul_(0.35)


def make(
    *, ch: int = 8, light: bool = True, size: int = 64, seed: int = 0, **options: Any
) -> PublishedGenerator:
    generator = PublishedGenerator(ch, size=size, light=light, **options)
    randomize(generator, seed)
    if options.get("variance") == "nested":
        # Variances of variances let activations grow: without this every pixel is black or white.
        with torch.no_grad():
            generator.UpBlock2.get_submodule("11").get_parameter("weight").mul_(0.03)
    return generator.eval()


def small_states() -> dict[str, State]:
    """What the program saves, as small as it goes."""
    networks: dict[str, nn.Module] = {
        "genA2B": make(ch=2, seed=1),
        "genB2A": make(ch=2, seed=2),
        "disGA": PublishedDiscriminator(2, 5),
        "disGB": PublishedDiscriminator(2, 5),
        "disLA": PublishedDiscriminator(2, 3),
        "disLB": PublishedDiscriminator(2, 3),
    }
    return {name: network.state_dict() for name, network in networks.items()}


def save_zip(content: Mapping[str, Any], path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: Mapping[str, Any], path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_safetensors(content: Mapping[str, Any], path: Path) -> None:
    flat: State = {}
    for key, value in content.items():
        flat |= {key: value} if isinstance(value, Tensor) else {f"{key}.{k}": t for k, t in value.items()}
    safetensors.torch.save_file({k: t.detach().clone() for k, t in flat.items()}, path)
