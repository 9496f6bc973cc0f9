from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ugatit_batch.bundle import GeneratorConfig
from ugatit_engines.deploy_form import DeployGenerator
from ugatit_engines.fused_norms import FusedInstanceNorm, FusedNorm, channel_statistics, fuse_norms
from ugatit_training.generator import AdaLINBlock, Generator, ResidualBlock
from ugatit_training.normalization import AdaLIN, InstanceNorm, decoder_norm

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.usefixtures("repeatable_inference")

CHANNELS = 8
KINDS: list[tuple[Any, Any, bool]] = [
    ("adalin", "biased", True),
    ("adalin", "unbiased", True),
    ("adalin", "unbiased", False),
    ("adain", "biased", True),
    ("adain", "biased", False),
    ("in", "biased", True),
    ("ln", "biased", False),
    ("gn", "biased", True),
]


def features(count: int = 1, *, channels_last: bool = True, side: int = 12) -> Tensor:
    """Whose channels have different means, large ones among them, and deviations."""
    means, deviations = torch.randn(CHANNELS, 1, 1) * 20, torch.rand(CHANNELS, 1, 1) * 3 + 0.5
    x = torch.randn(count, CHANNELS, side, side + 4) * deviations + means
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def make(kind: Any, variance: Any, adaptive: bool) -> nn.Module:
    norm = decoder_norm(kind, CHANNELS, variance, adaptive=adaptive)
    for name, parameter in norm.named_parameters():
        parameter.data.uniform_(0.1, 0.9) if name == "rho" else parameter.data.normal_()
    return norm


def style(count: int, adaptive: bool) -> tuple[Tensor, ...]:
    return (torch.randn(count, CHANNELS), torch.randn(count, CHANNELS)) if adaptive else ()


def fused(module: nn.Module) -> nn.Module:
    parent = nn.Sequential(module)
    fuse_norms(parent)
    return parent[0]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("count", [1, 3])
class TestNorms:
    def test_instance_norm(self, count: int, channels_last: bool) -> None:
        x = features(count, channels_last=channels_last)
        found = FusedInstanceNorm()(x)
        torch.testing.assert_close(found, InstanceNorm()(x), rtol=1e-4, atol=2e-5)
        assert found.stride() == x.stride()

    @pytest.mark.parametrize(("kind", "variance", "adaptive"), KINDS)
    def test_decoder_norms(
        self, kind: Any, variance: Any, adaptive: bool, count: int, channels_last: bool
    ) -> None:
        norm, given = make(kind, variance, adaptive), style(count, kind in ("adalin", "adain") and adaptive)
        x = features(count, channels_last=channels_last)
        replaced = fused(norm)
        assert isinstance(replaced, FusedNorm)
        found = replaced(x, *given)
        torch.testing.assert_close(found, norm(x, *given), rtol=1e-4, atol=5e-5)
        assert found.stride() == x.stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_in_float32(dtype: torch.dtype) -> None:
    """Means of -40 to 40 in bfloat16 would be wrong by a tenth, where deviations are 1."""
    x, given = features().to(dtype), style(1, adaptive=True)
    norm = make("adalin", "unbiased", adaptive=True)
    for module, arguments in ((InstanceNorm(), ()), (norm, given)):
        exact = module(x.float(), *arguments)
        found = fused(module)(x, *arguments)
        assert found.dtype == dtype
        # x itself has few bits; its rounding is in both, that of the result only in one.
        torch.testing.assert_close(found.float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-3)


def test_float64_stays_float64() -> None:
    x, given = features().double(), style(1, adaptive=True)
    norm = make("adalin", "biased", adaptive=True)
    for module, arguments in ((InstanceNorm(), ()), (norm, given)):
        found = fused(module)(x, *arguments)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, module(x, *arguments).double(), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_a_constant_picture_gives_the_shift(dtype: torch.dtype, level: float) -> None:
    x = torch.full((1, CHANNELS, 8, 8), level, dtype=dtype)
    beta = torch.randn(1, CHANNELS)
    found = fused(AdaLIN(CHANNELS))(x, torch.ones(1, CHANNELS), beta)
    torch.testing.assert_close(found.float(), beta[:, :, None, None].expand_as(x), rtol=0.01, atol=0.1)
    assert FusedInstanceNorm()(x).abs().max() < 0.1


def test_nested_variances_stay_with_the_module() -> None:
    norm = AdaLIN(CHANNELS, "nested")
    assert fused(norm) is norm


@pytest.mark.parametrize("skip", [True, False])
def test_blocks_leave_their_input_as_it_was(skip: bool) -> None:
    x, given = features(2), style(2, adaptive=True)
    decoder = AdaLINBlock(CHANNELS, "adalin", "unbiased", skip)
    blocks: list[tuple[nn.Module, tuple[Tensor, ...]]] = [(ResidualBlock(CHANNELS), ()), (decoder, given)]
    for block, arguments in blocks:
        expected, before = block(x, *arguments), x.clone()
        replaced = fused(block)
        assert type(replaced) is not type(block)
        torch.testing.assert_close(replaced(x, *arguments), expected, rtol=1e-4, atol=2e-4)
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(4, residual_blocks=2, variance="unbiased"),
        GeneratorConfig(4, residual_blocks=1, variance="nested"),
        GeneratorConfig(4, residual_blocks=1, light=False, image_size=16),
        GeneratorConfig(4, residual_blocks=1, decoder_skip=False, style_relu=False),
        GeneratorConfig(4, residual_blocks=1, attention=False, norm="gn"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_whole_generator(config: GeneratorConfig, count: int) -> None:
    generator = Generator(config).eval()
    for parameter in generator.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    x = torch.rand(count, 3, 16, 16) * 2 - 1
    expected = generator(x)
    network = DeployGenerator(generator)
    fuse_norms(network)
    assert not any(isinstance(module, InstanceNorm) for module in network.modules())
    image, attention = network(x)
    torch.testing.assert_close(image, expected.image, rtol=0, atol=1e-3)
    torch.testing.assert_close(attention, expected.attention, rtol=1e-3, atol=1e-2)


def test_parameters_are_shared() -> None:
    norm = make("adalin", "biased", adaptive=False)
    assert {id(p) for p in fused(norm).parameters()} == {id(p) for p in norm.parameters()}


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (1023, 1021), (512, 516), (1, 7), (8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_many_pixels_keep_their_digits(height: int, width: int, dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, height, width, generator=noise).mul_(torch.tensor([1.0, 1e-3]).view(1, 2, 1, 1))
    x = (
        x.add_(torch.tensor([5.0, 0.1]).view(1, 2, 1, 1))
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    mean, variance = channel_statistics(x)
    assert mean.dtype == variance.dtype == torch.float32
    exact = x.double()
    deviation = exact.std((2, 3), unbiased=False)[0]
    # A float32's own rounding of a mean that is a hundred times the deviation, and little more.
    assert ((mean - exact.mean((2, 3))[0]).abs() / deviation).max() < 1e-4
    assert (variance / deviation.square() - 1).abs().max() < 1e-4
