from __future__ import annotations

import copy
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_batch.errors import ConfigError
from ugatit_training import step as step_module
from ugatit_training.acceleration import make_step
from ugatit_training.draw import Draw
from ugatit_training.normalization import LIN, AdaLIN, clip_rho
from ugatit_training.spectral_norm import SpectralNorm
from ugatit_training.state import TrainingState, new_state
from ugatit_training.step import LOSS_NAMES

from .tiny import CPU, assert_identical, batch, tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_training.config import TrainConfig
    from ugatit_training.discriminator import DiscriminatorOutput
    from ugatit_training.model import UGATIT, Optimizers

    TakeStep = Callable[[Draw], Tensor]

ONE_BY_ONE: dict[str, Any] = {"join_passes": False}
"""As the paper's section 4.2 reads, each pass on its own."""


def far_from_one(output: DiscriminatorOutput, label: float) -> Tensor:
    assert output.logits is not None
    patches, logits = output.patches.float(), output.logits.float()
    return (patches - label).square().mean() + (logits - label).square().mean()


def discriminators_of(networks: UGATIT) -> list[nn.Module]:
    return [d for domain in (networks.a, networks.b) for d in (domain.local_, domain.global_)]


def discriminator_phase(networks: UGATIT, a: Tensor, b: Tensor, config: TrainConfig) -> Tensor:
    with torch.no_grad():
        fake_b, fake_a = networks.a2b(a).image, networks.b2a(b).image
    loss = torch.zeros(())
    for domain, real, fake in ((networks.a, a, fake_a), (networks.b, b, fake_b)):
        for d in (domain.local_, domain.global_):
            on_real = d(real)
            on_fake = d(fake)
            loss = loss + far_from_one(on_real, 1) + far_from_one(on_fake, 0)
    return config.adversarial_weight * loss


def plain_step(networks: UGATIT, optimizers: Optimizers, a: Tensor, b: Tensor, config: TrainConfig) -> None:
    """Section 4.2 as it reads: fakes for the discriminators, and fakes again for the generators."""
    bf16 = config.precision == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = discriminator_phase(networks, a, b, config)
    optimizers.discriminators.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizers.discriminators.step()

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        to_b, to_a = networks.a2b(a), networks.b2a(b)
    # Autocast keeps a weight's bf16 copy, and sums gradients in it, until it is left.
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        adversarial = torch.zeros(())
        for domain, fake in ((networks.a, to_a.image), (networks.b, to_b.image)):
            for d in (domain.local_, domain.global_):
                adversarial = adversarial + far_from_one(d(fake), 1)
        back_a, back_b = networks.b2a(to_b.image), networks.a2b(to_a.image)
        same_a, same_b = networks.b2a(a), networks.a2b(b)
    cycle = F.l1_loss(back_a.image.float(), a) + F.l1_loss(back_b.image.float(), b)
    identity = F.l1_loss(same_a.image.float(), a) + F.l1_loss(same_b.image.float(), b)
    cam = torch.zeros(())
    for source, target in ((to_b.logits, same_b.logits), (to_a.logits, same_a.logits)):
        assert source is not None
        assert target is not None
        for logits, label in ((source.float(), 1.0), (target.float(), 0.0)):
            cam = cam + F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
    total = (
        config.adversarial_weight * adversarial
        + config.cycle_weight * cycle
        + config.identity_weight * identity
        + config.cam_weight * cam
    )
    optimizers.generators.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    optimizers.generators.step()
    for generator in networks.generators():
        clip_rho(generator)


def build(config: TrainConfig) -> tuple[TrainingState, TakeStep]:
    state = new_state(config, CPU)
    return state, make_step(state, config)


def content(state: TrainingState) -> dict[str, Any]:
    return {
        "networks": state.networks.state_dict(),
        "generators": state.optimizers.generators.state_dict()["state"],
        "discriminators": state.optimizers.discriminators.state_dict()["state"],
    }


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (tiny(learning_rate=1e-3), 3),
        (tiny(learning_rate=1e-3, image_size=64, load_size=72, light=False, batch_size=2, cam_weight=7.0), 2),
        (tiny(learning_rate=1e-3, precision="bf16", adversarial_weight=3.0, identity_weight=0.0), 2),
    ],
    ids=["light", "full, batch of 2", "bf16"],
)
def test_sharing_the_fakes_changes_no_bit(config: TrainConfig, steps: int) -> None:
    config = dataclasses.replace(config, **ONE_BY_ONE)
    shared, take_step = build(config)
    twice, take_plain_step = build(dataclasses.replace(config, share_fakes=False))
    plain, _ = build(config)
    start = copy.deepcopy(shared.networks.state_dict())
    for _ in range(steps):
        a, b = batch(config.batch_size, config.image_size)
        take_step(Draw(a, b))
        take_plain_step(Draw(a, b))
        plain_step(plain.networks, plain.optimizers, a, b, config)
    assert_identical(content(shared), content(plain))
    assert_identical(content(shared), content(twice))
    moved = [not torch.equal(value, start[name]) for name, value in shared.networks.state_dict().items()]
    assert sum(moved) > 0.9 * len(moved)


def test_one_power_iteration_more_would_be_seen() -> None:
    config = tiny(learning_rate=1e-3, **ONE_BY_ONE)
    (ours, take_step), (other, _) = build(config), build(config)
    a, b = batch()
    take_step(Draw(a, b))
    with torch.no_grad():
        other.networks.a.local_(a)
    plain_step(other.networks, other.optimizers, a, b, config)
    with pytest.raises(AssertionError):
        assert_identical(content(ours), content(other))


# Every way to compute a step, against the plain one


def gradients(state: TrainingState) -> dict[str, Tensor]:
    """Those of each network as one vector; both optimisers leave them behind."""
    networks = state.networks
    found: dict[str, nn.Module] = {"a2b": networks.a2b, "b2a": networks.b2a}
    found |= {f"d{i}": d for i, d in enumerate(discriminators_of(networks))}
    vectors = {}
    for name, network in found.items():
        parts = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        assert len(parts) == len(list(network.parameters()))
        vectors[name] = torch.cat(parts)
    return vectors


def far_apart(ours: TrainingState, plain: TrainingState) -> float:
    """The largest ‖g − g₀‖ / ‖g₀‖ over the six networks."""
    pairs = zip(gradients(ours).values(), gradients(plain).values(), strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


PLAIN: dict[str, Any] = {
    "share_fakes": False,
    "join_passes": False,
    "channels_last": False,
    "fused_adam": False,
}
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "nothing": ({}, 0.0),
    "share_fakes": ({"share_fakes": True}, 0.0),
    "fused_adam": ({"fused_adam": True}, 1e-6),
    "checkpoint_activations": ({"checkpoint_activations": True}, 0.0),
    "join_passes": ({"join_passes": True}, 1e-5),
    "channels_last": ({"channels_last": True}, 1e-5),
    "accumulate": ({"join_passes": True, "batch_size": 1, "accumulate": 2}, 1e-5),
    "all of them": (
        {"share_fakes": True, "join_passes": True, "channels_last": True, "fused_adam": True},
        1e-5,
    ),
}
"""The options of a way, and how far one step's gradients may lie from the plain step's."""


@pytest.mark.parametrize(
    ("way", "light"), [*((way, True) for way in WAYS), ("all of them", False), ("accumulate", False)]
)
def test_no_way_to_compute_a_step_changes_its_gradients(way: str, light: bool) -> None:
    options, bound = WAYS[way]
    config = tiny(batch_size=2, light=light, **PLAIN)
    (ours, take_step), (plain, take_plain_step) = (
        build(dataclasses.replace(config, **options)),
        build(config),
    )
    pictures = Draw(*batch(2))
    losses, expected = take_step(pictures), take_plain_step(pictures)
    assert far_apart(ours, plain) <= bound
    torch.testing.assert_close(losses, expected, rtol=2 * bound, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_compute_a_step_changes_five_losses(way: str) -> None:
    options, _ = WAYS[way]
    # Adam divides a gradient by its size: where that is rounding alone, it goes anywhere at full rate.
    config = tiny(batch_size=2, learning_rate=1e-6, **PLAIN)
    _, take_step = build(dataclasses.replace(config, **options))
    _, take_plain_step = build(config)
    seen = []
    for _ in range(5):
        pictures = Draw(*batch(2))
        seen.append(take_step(pictures))
        torch.testing.assert_close(seen[-1], take_plain_step(pictures), rtol=1e-5, atol=0)
    assert not torch.allclose(seen[0], seen[-1], rtol=1e-3)


def test_bf16_gradients_point_where_float32_ones_do() -> None:
    config = tiny(batch_size=2, channels=8, discriminator_channels=8)
    half, take_half_step = build(dataclasses.replace(config, precision="bf16"))
    whole, take_step = build(config)
    pictures = Draw(*batch(2))
    torch.testing.assert_close(take_half_step(pictures), take_step(pictures), rtol=2e-3, atol=0)
    for name, gradient in gradients(half).items():
        alike = torch.cosine_similarity(gradient, gradients(whole)[name], 0)
        assert 0.9 < alike < 0.99999, name


@pytest.mark.parametrize("broken", ["scale", "order", "passes"])
def test_a_wrong_joined_pass_would_be_seen(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(batch_size=2)
    ours, take_step = build(config)
    plain, take_plain_step = build(dataclasses.replace(config, **PLAIN))
    true = SpectralNorm.forward

    def wrong(self: SpectralNorm, weight: Tensor, passes: int = 1) -> Tensor:
        if broken == "scale":
            return true(self, weight, passes) * 1.001
        if broken == "order":
            return true(self, weight, passes).flip(0)
        return true(self, weight, 1).expand(passes)

    pictures = Draw(*batch(2))
    take_plain_step(pictures)
    monkeypatch.setattr(SpectralNorm, "forward", wrong)
    take_step(pictures)
    assert far_apart(ours, plain) > 1e-4


# Which features of its own PyTorch warns of, while it compiles, differs from version to version.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_networks_give_the_same_gradients(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    config = tiny(batch_size=2, learning_rate=1e-6)
    ours, take_step = build(dataclasses.replace(config, compile=True))
    plain, take_plain_step = build(config)
    for _ in range(5):
        pictures = Draw(*batch(2))
        losses, expected = take_step(pictures), take_plain_step(pictures)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
    assert far_apart(ours, plain) <= 1e-4


@pytest.mark.filterwarnings("ignore")
def test_a_compiler_that_is_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_graph: object, _inputs: object) -> None:
        raise FileNotFoundError("g++")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=missing))
    _, take_step = build(tiny(compile=True))
    with pytest.raises(ConfigError, match=r"compile = true: .*g\+\+") as caught:
        take_step(Draw(*batch()))
    assert "C++ compiler" in caught.value.hint


# What a step is made of


def test_three_power_iterations_a_step_real_fake_and_deceive() -> None:
    config = tiny()
    state, take_step = build(config)
    seen: dict[nn.Module, list[int]] = {}

    def count(module: nn.Module, arguments: tuple[Any, ...], _found: Tensor) -> None:
        seen.setdefault(module, []).append(arguments[1])

    modules = [m for m in state.networks.modules() if isinstance(m, SpectralNorm)]
    for module in modules:
        module.register_forward_hook(count)
    take_step(Draw(*batch()))
    assert [seen[m] for m in modules] == [[2, 1]] * len(modules)


@pytest.mark.parametrize("join", [True, False])
def test_real_goes_before_fake_and_discriminators_before_generators(join: bool) -> None:
    state, take_step = build(tiny(join_passes=join))
    seen: list[Tensor] = []
    order: list[str] = []
    state.networks.a.local_.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    state.optimizers.discriminators.register_step_post_hook(lambda *_: order.append("discriminators"))
    state.optimizers.generators.register_step_post_hook(lambda *_: order.append("generators"))
    a, b = batch()
    take_step(Draw(a, b))
    real, fake, again = (*seen[0].chunk(2), seen[1]) if join else seen
    assert torch.equal(real, a)
    assert torch.equal(fake, again)
    assert not fake.requires_grad
    assert again.requires_grad
    assert order == ["discriminators", "generators"]


def test_the_generators_leave_no_gradient_in_the_discriminators() -> None:
    config = tiny(adversarial_weight=2.0, **ONE_BY_ONE)
    state, take_step = build(config)
    twin = copy.deepcopy(state.networks)
    a, b = batch()
    discriminator_phase(twin, a, b, config).backward()  # type: ignore[no-untyped-call]
    take_step(Draw(a, b))
    for mine, alone in zip(discriminators_of(state.networks), discriminators_of(twin), strict=True):
        for (name, parameter), other in zip(mine.named_parameters(), alone.parameters(), strict=True):
            assert parameter.requires_grad, name
            assert parameter.grad is not None
            assert other.grad is not None
            assert torch.equal(parameter.grad, other.grad), name


def test_the_discriminators_thaw_after_a_failure() -> None:
    state, take_step = build(tiny())
    networks = state.networks

    def fail(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].requires_grad:  # the pass back, with the discriminators frozen
            assert not any(p.requires_grad for d in networks.discriminators() for p in d.parameters())
            raise RuntimeError("out of memory")

    networks.b2a.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        take_step(Draw(*batch()))
    assert all(p.requires_grad for p in networks.parameters())


def test_the_discriminators_gradients_stay_out_of_the_generators() -> None:
    config = tiny(cycle_weight=0.0, identity_weight=0.0, cam_weight=0.0, adversarial_weight=1.0)
    state, take_step = build(config)
    at_discriminator_step: list[bool] = []
    state.optimizers.discriminators.register_step_pre_hook(
        lambda *_: at_discriminator_step.extend(
            p.grad is None for g in state.networks.generators() for p in g.parameters()
        )
    )
    take_step(Draw(*batch()))
    assert at_discriminator_step
    assert all(at_discriminator_step)


def rhos(networks: UGATIT) -> Tensor:
    return torch.cat([m.rho.detach() for m in networks.modules() if isinstance(m, AdaLIN | LIN)])


@pytest.mark.parametrize("clipped", [True, False])
def test_rho_stays_between_0_and_1(clipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not clipped:
        monkeypatch.setattr(step_module, "clip_rho", lambda _generator: None)
    state, take_step = build(tiny(learning_rate=0.05))
    lowest, highest = 0.0, 1.0
    found = rhos(state.networks)
    for _ in range(2):
        take_step(Draw(*batch()))
        found = rhos(state.networks)
        lowest, highest = min(lowest, found.min().item()), max(highest, found.max().item())
    assert found.isfinite().all()
    assert (lowest >= 0 and highest <= 1) == clipped
    assert ((found > 0) & (found < 1)).any()


def test_the_losses_are_reported_by_name_unweighted_and_detached() -> None:
    config = tiny(adversarial_weight=5.0, cycle_weight=2.0, identity_weight=3.0, cam_weight=11.0)
    state, take_step = build(config)
    before = copy.deepcopy(state.networks)
    a, b = batch()
    losses = take_step(Draw(a, b))
    assert losses.dtype == torch.float32
    assert not losses.requires_grad
    named = dict(zip(LOSS_NAMES, losses.tolist(), strict=True))
    with torch.no_grad():
        to_b, to_a = before.a2b(a), before.b2a(b)
        same_a, same_b = before.b2a(a), before.a2b(b)
        logits = [output.logits for output in (to_b, same_b, to_a, same_a)]
        of_a, same_of_b, of_b, same_of_a = (found for found in logits if found is not None)
        expected = {
            "cycle_a": F.l1_loss(before.b2a(to_b.image).image, a),
            "cycle_b": F.l1_loss(before.a2b(to_a.image).image, b),
            "identity_a": F.l1_loss(same_a.image, a),
            "identity_b": F.l1_loss(same_b.image, b),
            "cam_a": F.softplus(-of_a).mean() + F.softplus(same_of_b).mean(),
            "cam_b": F.softplus(-of_b).mean() + F.softplus(same_of_a).mean(),
        }
        for letter, domain, real, fake in (("a", before.a, a, to_a.image), ("b", before.b, b, to_b.image)):
            expected[f"discriminator_{letter}"] = sum(
                (
                    far_from_one(d(real), 1) + far_from_one(d(fake), 0)
                    for d in (domain.local_, domain.global_)
                ),
                torch.zeros(()),
            )
    for name, value in expected.items():
        assert named[name] == pytest.approx(value.item(), rel=1e-4), name
    assert len({round(value, 5) for value in named.values()}) == len(LOSS_NAMES)


@pytest.mark.parametrize("channels_last", [True, False])
def test_bf16_keeps_parameters_and_optimizer_states_in_float32(channels_last: bool) -> None:
    state, take_step = build(tiny(precision="bf16", learning_rate=1e-3, channels_last=channels_last))
    networks = state.networks
    start = copy.deepcopy(networks.state_dict())
    for _ in range(2):
        losses = take_step(Draw(*batch()))
        assert losses.isfinite().all()
    assert {t.dtype for t in networks.state_dict().values()} == {torch.float32}
    for optimizer in (state.optimizers.generators, state.optimizers.discriminators):
        for entry in optimizer.state.values():
            assert {t.dtype for t in entry.values()} == {torch.float32}
    assert not torch.equal(start["a2b.out.weight"], networks.a2b.out.weight)
    assert not torch.equal(start["a2b.up_norms.0.rho"], networks.state_dict()["a2b.up_norms.0.rho"])
