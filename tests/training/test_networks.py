from __future__ import annotations

import copy
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
from ugatit_training.normalization import LIN, AdaLIN, InstanceNorm, clip_rho

from .published_reference import PublishedDiscriminator, randomize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_training.normalization import Variance


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


# Normalisation


def by_the_formula(x: Tensor, rho: Tensor, gamma: Tensor, beta: Tensor, correction: int) -> Tensor:
    """Equations 1 to 3 in float64; γ and β N×C, ρ C."""
    x, rho, gamma, beta = (t.double() for t in (x, rho, gamma, beta))
    out = torch.empty_like(x)
    for n, picture in enumerate(x):
        layer = (picture - picture.mean()) / (picture.var(correction=correction) + 1e-5).sqrt()
        for c, channel in enumerate(picture):
            instance = (channel - channel.mean()) / (channel.var(correction=correction) + 1e-5).sqrt()
            mixed = rho[c] * instance + (1 - rho[c]) * layer[c]
            out[n, c] = gamma[n, c] * mixed + beta[n, c]
    return out


@pytest.mark.parametrize(("variance", "correction"), [("biased", 0), ("unbiased", 1)])
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 1, 2, 2), (3, 8, 16, 4)])
def test_adalin_and_lin_are_equation_1(
    variance: Variance, correction: int, shape: tuple[int, int, int, int]
) -> None:
    x = torch.randn(shape) * 3 + torch.arange(shape[1]).view(1, -1, 1, 1)
    rho, gamma, beta = torch.rand(shape[1]), torch.randn(shape[:2]), torch.randn(shape[:2])
    adaptive, learned = AdaLIN(shape[1], variance), LIN(shape[1], variance)
    with torch.no_grad():
        for norm in (adaptive, learned):
            norm.rho.copy_(rho)
        learned.gamma.copy_(gamma[0])
        learned.beta.copy_(beta[0])
    expected = by_the_formula(x, rho, gamma, beta, correction)
    torch.testing.assert_close(adaptive(x, gamma, beta).double(), expected, rtol=1e-5, atol=1e-5)
    gamma, beta = gamma[:1].expand(shape[:2]), beta[:1].expand(shape[:2])
    expected = by_the_formula(x, rho, gamma, beta, correction)
    torch.testing.assert_close(learned(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_adalin_gradients_are_those_of_equation_1() -> None:
    norm = AdaLIN(3)
    leaves = [torch.randn(2, 3, 4, 4), torch.rand(3), torch.randn(2, 3), torch.randn(2, 3)]
    upstream = torch.randn(2, 3, 4, 4)
    x, rho, gamma, beta = (leaf.clone().requires_grad_() for leaf in leaves)
    norm.rho = nn.Parameter(rho.detach().clone())
    ours = torch.autograd.grad(norm(x, gamma, beta), (x, norm.rho, gamma, beta), upstream)
    theirs = torch.autograd.grad(
        by_the_formula(x, rho, gamma, beta, 0), (x, rho, gamma, beta), upstream.double()
    )
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_encoder_norm_is_instance_norm_without_affine_part() -> None:
    x = torch.randn(2, 4, 9, 5) * 7 + 3
    torch.testing.assert_close(InstanceNorm()(x), nn.functional.instance_norm(x))


def norms(network: nn.Module) -> list[AdaLIN | LIN]:
    return [module for module in network.modules() if isinstance(module, AdaLIN | LIN)]


def test_rho_starts_at_1_in_the_blocks_and_0_in_the_up_sampling() -> None:
    generator = Generator(GeneratorConfig(channels=2, residual_blocks=3))
    starts = [(type(norm), norm.rho.min().item(), norm.rho.max().item()) for norm in norms(generator)]
    assert starts == [(AdaLIN, 1.0, 1.0)] * 6 + [(LIN, 0.0, 0.0)] * 2
    for norm in norms(generator):
        if isinstance(norm, LIN):
            assert norm.gamma.eq(1).all()
            assert norm.beta.eq(0).all()


def test_clip_rho_touches_rho_alone() -> None:
    generator = Generator(GeneratorConfig(channels=2, residual_blocks=1))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(0.5, 2)
    before = copy.deepcopy(generator.state_dict())
    clip_rho(generator)
    for name, value in generator.state_dict().items():
        expected = before[name].clamp(0, 1) if name.endswith("rho") else before[name]
        assert torch.equal(value, expected), name
    assert all(norm.rho.requires_grad for norm in norms(generator))


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_statistics_stay_in_float32_under_bf16(offset: float) -> None:
    x = torch.randn(2, 8, 32, 32) + offset
    # What a bf16 convolution would hand over; the norms must not lose more than that.
    x = x.bfloat16()
    gamma, beta = torch.rand(2, 8) + 0.5, torch.randn(2, 8)
    for norm in (AdaLIN(8, "biased"), AdaLIN(8, "unbiased"), LIN(8), InstanceNorm()):
        for module in norm.modules():
            if isinstance(module, AdaLIN | LIN):
                nn.init.uniform_(module.rho)
        styles = (gamma, beta) if isinstance(norm, AdaLIN) else ()
        exact = norm(x.float(), *styles)
        with torch.autocast("cpu", torch.bfloat16):
            low = norm(x, *styles)
        assert low.dtype == torch.bfloat16
        assert torch.equal(low, exact.bfloat16())


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


# Discriminators


def normalized_layers(discriminator: Discriminator) -> dict[str, nn.Module]:
    cam = discriminator.cam
    layers = {f"model.{1 + 3 * i}": conv for i, conv in enumerate(discriminator.convs)}
    return layers | {"gap_fc": cam.average, "gmp_fc": cam.maximum, "conv": discriminator.classifier}


def spectral(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's raw weight as a matrix, and copies of the vectors of its power iteration."""
    named = dict(layer.named_parameters()) | dict(layer.named_buffers())
    (weight,) = (t for name, t in named.items() if name.endswith("original"))
    (u,) = (t for name, t in named.items() if name.endswith("_u"))
    (v,) = (t for name, t in named.items() if name.endswith("_v"))
    return weight.detach().flatten(1), u.clone(), v.clone()


def iterate(weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One power iteration: u ← normalised W·v, then v ← normalised Wᵀ·u."""
    u = nn.functional.normalize(weight @ v, dim=0)
    return u, nn.functional.normalize(weight.T @ u, dim=0)


@pytest.mark.parametrize("strided", [LOCAL_STRIDED, GLOBAL_STRIDED])
def test_one_power_iteration_a_training_forward(strided: int) -> None:
    discriminator = Discriminator(2, strided)
    layers = normalized_layers(discriminator)
    assert len(layers) == strided + 4
    # Fresh directions: the converged ones would not move, however many iterations there were.
    with torch.no_grad():
        for name, buffer in discriminator.named_buffers():
            assert name.endswith(("_u", "_v"))
            buffer.copy_(nn.functional.normalize(torch.randn_like(buffer), dim=0))
    for _ in range(2):
        before = {name: spectral(layer) for name, layer in layers.items()}
        discriminator(pictures(1, 128, 128))
        for name, layer in layers.items():
            _, u, v = spectral(layer)
            once = iterate(*before[name])
            torch.testing.assert_close((u, v), once)
            twice = iterate(before[name][0], *once)
            if len(u) > 1:
                assert (u - twice[0]).abs().max() > 1e-4, name


def power_iterations(discriminator: Discriminator) -> list[nn.Module]:
    return [module for module in discriminator.modules() if "_u" in dict(module.named_buffers(recurse=False))]


def test_each_normalised_weight_is_read_once_a_forward() -> None:
    # A 1-output FC converges at once, so the vectors of the CAM's cannot show a second iteration.
    discriminator = Discriminator(2)
    reads: list[nn.Module] = []
    for module in power_iterations(discriminator):
        module.register_forward_hook(lambda module, _inputs, _output: reads.append(module))
    discriminator(pictures(1, 64, 64))
    assert len(reads) == len(set(reads)) == LOCAL_STRIDED + 4


def test_no_power_iteration_in_eval_mode() -> None:
    discriminator = Discriminator(2).eval()
    before = copy.deepcopy(discriminator.state_dict())
    first = discriminator(pictures(1, 64, 64))
    after = discriminator.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert first.patches.requires_grad


def test_everything_but_the_1x1_convolution_is_normalised() -> None:
    discriminator = Discriminator(4)
    names = {name for name, _ in discriminator.named_parameters()}
    plain = {name for name in names if name.endswith("weight")}
    assert plain == {"cam.join.weight"}
    assert sum(name.endswith("original") for name in names) == LOCAL_STRIDED + 4
    # Converged, so the largest singular value of each effective weight is 1.
    for _ in range(200):
        discriminator(pictures(1, 32, 32))
    discriminator.eval()
    for layer in normalized_layers(discriminator).values():
        effective = layer.weight
        assert isinstance(effective, Tensor)
        assert torch.linalg.matrix_norm(effective.detach().flatten(1), 2).item() == pytest.approx(1, abs=1e-2)


def copy_discriminator(reference: PublishedDiscriminator, ours: Discriminator) -> None:
    """Give ours the reference's weights and power iteration vectors."""
    theirs = reference.state_dict()
    state: dict[str, Tensor] = {}
    for key in ours.state_dict():
        layer, rest = key.split(".", 1)
        if layer == "convs":
            number, rest = rest.split(".", 1)
            source = f"model.{1 + 3 * int(number)}"
        elif layer == "cam":
            part, rest = rest.split(".", 1)
            source = {"average": "gap_fc", "maximum": "gmp_fc", "join": "conv1x1"}[part]
        else:
            source = "conv"
        kind = "weight_orig" if rest.endswith("original") else rest
        kind = f"weight{kind[-2:]}" if kind.endswith(("_u", "_v")) else kind
        state[key] = theirs[f"{source}.{kind}"]
    ours.load_state_dict(state)


@pytest.mark.parametrize("strided", [LOCAL_STRIDED, GLOBAL_STRIDED])
def test_discriminator_is_the_published_one_with_normalised_attention(strided: int) -> None:
    # In eval mode: while training, the two spectral norms of torch begin their iterations half a turn apart.
    reference = PublishedDiscriminator(4, strided, raw_cam=False)
    randomize(reference, 2)
    ours = Discriminator(4, strided)
    copy_discriminator(reference, ours)
    mistaken = PublishedDiscriminator(4, strided, raw_cam=True)
    mistaken.load_state_dict(reference.state_dict())
    x = pictures(1, 128, 128)
    output = ours.eval()(x)
    patches, logits, attention = reference.eval()(x)
    torch.testing.assert_close(output.patches, patches, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.attention, attention[:, 0], rtol=1e-4, atol=1e-4)
    _, logits, attention = mistaken.eval()(x)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    assert (output.attention - attention[:, 0]).abs().max() > 1e-2


def test_spectral_norm_stays_in_float32_under_bf16() -> None:
    discriminator = Discriminator(4)
    twin = copy.deepcopy(discriminator)
    x = pictures(1, 64, 64)
    exact = discriminator(x)
    # Asked directly, too: on a CPU autocast happens to leave these operations alone.
    autocast: list[bool] = []
    for module in power_iterations(twin):
        module.register_forward_pre_hook(lambda *_: autocast.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        low = twin(x)
    assert autocast == [False] * (LOCAL_STRIDED + 4)
    for name, buffer in discriminator.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(name)), name
    assert low.attention.dtype == torch.float32
    torch.testing.assert_close(low.patches.float(), exact.patches, rtol=0.1, atol=0.05)


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
    with torch.no_grad():
        generator.style.gamma.weight.zero_()
        generator.style.beta.weight.zero_()
    # γ = β = 0 closes the only way to the picture: every picture comes out the same.
    one, other = generator(pictures(1, 16, 16)).image, generator(pictures(1, 16, 16)).image
    assert torch.equal(one, other)
