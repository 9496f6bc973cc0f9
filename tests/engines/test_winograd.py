from __future__ import annotations

import pytest
import torch
from torch import nn

from ugatit_batch.bundle import GeneratorConfig
from ugatit_engines import winograd
from ugatit_engines.deploy_form import DeployGenerator
from ugatit_engines.winograd import WinogradConv, use_winograd
from ugatit_training.generator import Generator

pytestmark = pytest.mark.usefixtures("repeatable_inference")


def reflected(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect", bias=False)
    conv.weight.data.normal_(0, (9 * inputs) ** -0.5)
    return conv


@pytest.mark.parametrize("tiles", [1, 7, 256])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (4, 4), (13, 22), (2, 31), (33, 3)])
def test_it_is_a_convolution(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, channels_last: bool, tiles: int
) -> None:
    monkeypatch.setattr(winograd, "_TILES", tiles)
    conv = reflected(12, 20)
    x = torch.randn(2, 12, height, width)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    found = WinogradConv(conv.weight)(x)
    torch.testing.assert_close(found, conv(x), rtol=0, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_only_wide_3x3_convolutions_in_float32_are_replaced() -> None:
    def others() -> list[nn.Module]:
        return [
            reflected(64, 128),
            reflected(128, 128).bfloat16(),
            nn.Conv2d(128, 128, 3, 2, padding=1, padding_mode="reflect", bias=False),
            nn.Conv2d(128, 128, 7, padding=3, padding_mode="reflect", bias=False),
            nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(128, 128, 3, padding=1, bias=False),
            nn.Conv2d(128, 128, 1),
        ]

    kept = nn.Sequential(*others())
    before = list(kept)
    use_winograd(kept)
    assert list(kept) == before
    wide = nn.Sequential(nn.Sequential(reflected(128, 96)))
    use_winograd(wide)
    assert any(isinstance(module, WinogradConv) for module in wide.modules())


def test_a_generator_stays_within_a_hundredth_of_a_level() -> None:
    generator = Generator(GeneratorConfig(24, residual_blocks=2)).eval()
    for parameter in generator.parameters():
        if parameter.ndim > 1:
            parameter.data.div_(parameter.std() * parameter[0].numel() ** 0.5)
    x = torch.rand(1, 3, 40, 56) * 2 - 1
    expected = generator(x).image
    network = DeployGenerator(generator)
    use_winograd(network)
    assert sum(isinstance(module, WinogradConv) for module in network.modules()) == 8
    assert (network(x)[0] - expected).abs().max() * 127.5 < 0.05
