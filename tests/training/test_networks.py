from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.errors import SizeError
from ugatit_training.cam import ClassActivationMap, attention_map
from ugatit_training.discriminator import (
    GLOBAL_STRIDED,
    LOCAL_STRIDED,
    Discriminator,
    fitting_depth,
)
from ugatit_training.generator import Generator

from .published_reference import randomize

if TYPE_CHECKING:
    from collections.abc import Iterator


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width) * 2 - 1


# Shapes


@pytest.mark.parametrize("light", [True, False])
def test_generator_shapes_at_256(light: bool) -> None:
    generator = Generator(GeneratorConfig(channels=2, light=light))
    output = generator(pictures(2, 256, 256))
    assert output.image.shape == (2, 3, 256, 256)
    assert output.logits.shape == (2, 2)
    assert output.attention.shape == (2, 64, 64)
    assert output.attention.dtype == torch.float32
    assert output.image.abs().max() <= 1
    assert output.attention.min() >= 0


@pytest.mark.parametrize(
    ("strided", "patches", "attention"), [(LOCAL_STRIDED, 30, 31), (GLOBAL_STRIDED, 6, 7)]
)
def test_discriminator_shapes_at_256(strided: int, patches: int, attention: int) -> None:
    output = Discriminator(channels=2, strided=strided)(pictures(2, 256, 256))
    assert output.patches.shape == (2, 1, patches, patches)
    assert output.logits.shape == (2, 2)
    assert output.attention.shape == (2, attention, attention)
    assert output.attention.dtype == torch.float32


def test_parameter_counts() -> None:
    with torch.device("meta"):
        light = Generator(GeneratorConfig(light=True))
        full = Generator(GeneratorConfig(light=False))
        local, wide = Discriminator(strided=LOCAL_STRIDED), Discriminator(strided=GLOBAL_STRIDED)
    counts = [sum(p.numel() for p in network.parameters()) for network in (light, full, local, wide)]
    assert counts == [10_589_888, 278_959_808, 3_290_560, 53_130_176]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 40), (64, 64), (100, 36)])
def test_light_generator_takes_any_multiple_of_four(height: int, width: int) -> None:
    output = Generator(GeneratorConfig(channels=2, residual_blocks=1))(pictures(1, height, width))
    assert output.image.shape == (1, 3, height, width)
    assert output.attention.shape == (1, height // 4, width // 4)


@pytest.mark.parametrize(("height", "width"), [(32, 128), (128, 32), (60, 64), (128, 128)])
def test_full_generator_refuses_other_sizes(height: int, width: int) -> None:
    generator = Generator(GeneratorConfig(channels=2, light=False, image_size=64))
    with pytest.raises(SizeError, match=f"{width}×{height}: this model takes 64×64 pixels only"):
        generator(pictures(1, height, width))
    assert generator(pictures(1, 64, 64)).image.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("size", "depth"),
    [(256, 5), (96, 5), (95, 4), (64, 4), (48, 4), (47, 3), (32, 3), (24, 3), (16, 2), (6, 1)],
)
def test_global_discriminator_is_as_deep_as_fits(size: int, depth: int) -> None:
    assert fitting_depth(GLOBAL_STRIDED, size) == depth
    output = Discriminator(channels=1, strided=depth)(pictures(1, size, size))
    assert output.patches.shape[-1] == size // 2**depth - 2 >= 1
    if depth < GLOBAL_STRIDED:
        with pytest.raises(RuntimeError):
            Discriminator(channels=1, strided=depth + 1)(pictures(1, size, size))


def test_no_discriminator_fits_a_handful_of_pixels() -> None:
    assert fitting_depth(LOCAL_STRIDED, 256) == LOCAL_STRIDED
    with pytest.raises(ValueError, match="5 pixels are too few"):
        fitting_depth(GLOBAL_STRIDED, 5)


# Half precision


@pytest.mark.parametrize("light", [True, False])
def test_bf16_autocast_is_close_to_float32(light: bool) -> None:
    generator = Generator(GeneratorConfig(channels=4, light=light, image_size=32))
    randomize(generator, 3)
    x = pictures(1, 32, 32)
    with torch.no_grad():
        exact = generator(x)
        with torch.autocast("cpu", torch.bfloat16):
            low = generator(x)
    assert low.attention.dtype == torch.float32
    assert (low.image.float() - exact.image).abs().mean() < 0.1
    torch.testing.assert_close(
        low.attention, exact.attention, rtol=0.1, atol=0.1 * exact.attention.max().item()
    )


# Initialisation


def kernels(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            yield name, parameter


@pytest.mark.parametrize(
    "network",
    [
        lambda: Generator(GeneratorConfig(channels=16, residual_blocks=2)),
        lambda: Generator(GeneratorConfig(channels=8, residual_blocks=1, light=False, image_size=64)),
        lambda: Discriminator(16, LOCAL_STRIDED),
        lambda: Discriminator(8, GLOBAL_STRIDED),
    ],
)
def test_weights_start_from_a_narrow_normal_and_biases_from_zero(network: Any) -> None:
    built = network()
    for name, parameter in kernels(built):
        # Within five standard errors of the estimate itself.
        count = parameter.numel()
        assert abs(parameter.mean()) < 5 * 0.02 / count**0.5, name
        assert abs(parameter.std() - 0.02) < 5 * 0.02 / (2 * count) ** 0.5, name
    biases = [p for name, p in built.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(bias.eq(0).all() for bias in biases)


def test_initialisation_follows_the_seed() -> None:
    config = GeneratorConfig(channels=2, residual_blocks=1)
    torch.manual_seed(5)
    first = Generator(config).state_dict()
    second = Generator(config).state_dict()
    torch.manual_seed(5)
    third = Generator(config).state_dict()
    assert not torch.equal(first["out.weight"], second["out.weight"])
    assert all(torch.equal(first[name], third[name]) for name in first)


# Attention


def test_cam_weighs_feature_maps_by_the_classifiers_weights() -> None:
    cam = ClassActivationMap(3, torch.relu)
    x = torch.randn(2, 3, 4, 5)
    features, logits = cam(x)
    average, maximum = cam.average.weight[0], cam.maximum.weight[0]
    expected = torch.stack([(x.mean((2, 3)) * average).sum(1), (x.amax((2, 3)) * maximum).sum(1)], 1)
    torch.testing.assert_close(logits, expected)
    weighted = torch.cat([x * average.view(1, 3, 1, 1), x * maximum.view(1, 3, 1, 1)], 1)
    torch.testing.assert_close(features, torch.relu(cam.join(weighted)))
    torch.testing.assert_close(attention_map(features), features[:, 0] + features[:, 1] + features[:, 2])


# Flat pictures


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_flat_picture_gives_finite_outputs_and_gradients(value: float) -> None:
    x = torch.full((1, 3, 64, 64), value)
    generators = [
        Generator(GeneratorConfig(channels=2, light=light, image_size=64)) for light in (True, False)
    ]
    for network in (*generators, Discriminator(2), Discriminator(2, 4)):
        outputs = network(x)
        assert all(output.isfinite().all() for output in outputs)
        sum(output.sum() for output in outputs).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


# Settings


@pytest.mark.parametrize("setting", ["decoder_skip", "style_relu"])
def test_settings_of_older_programs_change_the_picture(setting: str) -> None:
    generator = Generator(GeneratorConfig(channels=4))
    randomize(generator, 1)
    changes: dict[str, Any] = {setting: False}
    changed = Generator(dataclasses.replace(generator.config, **changes))
    changed.load_state_dict(generator.state_dict())
    x = pictures(1, 32, 32)
    one, other = generator(x), changed(x)
    assert (one.image - other.image).abs().max() > 1e-2
    assert torch.equal(one.attention, other.attention)


def test_without_skip_a_block_is_its_branch_alone() -> None:
    generator = Generator(GeneratorConfig(channels=2, residual_blocks=1, decoder_skip=False))
    assert generator.style is not None
    with torch.no_grad():
        generator.style.gamma.weight.zero_()
        generator.style.beta.weight.zero_()
    # γ = β = 0 closes the only way to the picture: every picture comes out the same.
    one, other = generator(pictures(1, 16, 16)).image, generator(pictures(1, 16, 16)).image
    assert torch.equal(one, other)
