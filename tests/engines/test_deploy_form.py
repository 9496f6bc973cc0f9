from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.errors import SizeError
from ugatit_engines.deploy_form import DeployGenerator
from ugatit_engines.specimens import texture
from ugatit_engines.torch_engine import load_generator

from ..fakes import full, make_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ugatit_training.generator import Generator

SMALL = GeneratorConfig(channels=8, residual_blocks=2, image_size=32)
VARIANTS = {
    "light": SMALL,
    "full": full(SMALL),
    "unbiased": replace(SMALL, variance="unbiased"),
    "nested": replace(SMALL, variance="nested"),
    "adain": replace(SMALL, norm="adain"),
    "in": replace(SMALL, norm="in"),
    "ln": replace(SMALL, norm="ln"),
    # 32 groups would be as many as there are channels.
    "gn": replace(SMALL, norm="gn", channels=12),
    "no attention": replace(SMALL, attention=False),
    "full without attention": replace(full(SMALL), attention=False),
    "no skip": replace(SMALL, decoder_skip=False),
    "no ReLU before style": replace(SMALL, style_relu=False),
    "first published": replace(full(SMALL), variance="nested", decoder_skip=False, style_relu=False),
}


@pytest.fixture(scope="module")
def generator_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[GeneratorConfig], Generator]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")

    def make(config: GeneratorConfig) -> Generator:
        return load_generator(make_model(folder / "one", config), "a2b")

    return make


def pictures(count: int, width: int, height: int) -> Tensor:
    """Textures, N×3×H×W in [-1, 1]."""
    side = max(width, height, 16)
    cut = [texture(side, np.random.default_rng(seed))[:height, :width] for seed in range(count)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1


def compare(generator: Generator, x: Tensor) -> None:
    with torch.inference_mode():
        expected = generator(x)
        image, attention = DeployGenerator(generator)(x)
    assert image.shape == expected.image.shape
    assert attention.shape == expected.attention.shape
    assert attention.dtype == torch.float32
    # The range is that of values: -1 to 1, and attention from 0.
    assert (image - expected.image).abs().max() <= 2e-5
    assert (attention - expected.attention).abs().max() <= 1e-5 * expected.attention.abs().max()
    assert expected.image.std() > 0.02


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_the_same_function(
    generator_of: Callable[[GeneratorConfig], Generator], name: str, count: int
) -> None:
    generator = generator_of(VARIANTS[name])
    compare(generator, pictures(count, 32, 32))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (40, 72), (72, 40), (8, 8)])
@pytest.mark.parametrize("name", [name for name, config in VARIANTS.items() if config.light])
def test_a_light_one_takes_any_size(
    generator_of: Callable[[GeneratorConfig], Generator], name: str, width: int, height: int
) -> None:
    if name == "nested" and width == height == 8:
        pytest.skip("a variance of two variances: float32 itself changes a third of the range")
    compare(generator_of(VARIANTS[name]), pictures(2, width, height))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (16, 64), (32, 36)])
def test_a_full_one_takes_one_size(
    generator_of: Callable[[GeneratorConfig], Generator], width: int, height: int
) -> None:
    deployed = DeployGenerator(generator_of(full(SMALL)))
    with pytest.raises(SizeError, match=f"{width}×{height}: this model takes 32×32 pixels only"):
        deployed(pictures(1, width, height))


def test_weights_that_do_not_change_are_shared(
    generator_of: Callable[[GeneratorConfig], Generator],
) -> None:
    generator = generator_of(full(SMALL))
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    deployed = DeployGenerator(generator)
    assert generator.style is not None
    assert deployed.style is not None
    assert deployed.style.fc1.weight is generator.style.fc1.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert not deployed.training
    assert not any(parameter.requires_grad for parameter in deployed.parameters())


def test_rewriting_makes_fewer_products(generator_of: Callable[[GeneratorConfig], Generator]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    generator, x = generator_of(SMALL), pictures(1, 64, 64)
    totals = []
    for network in (generator, DeployGenerator(generator)):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(x)
        totals.append(counter.get_total_flops())
    assert totals[1] < 0.95 * totals[0]
