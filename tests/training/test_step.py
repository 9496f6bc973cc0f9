from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_training import step as step_module
from ugatit_training.model import UGATIT, Optimizers
from ugatit_training.normalization import LIN, AdaLIN, clip_rho
from ugatit_training.step import LOSS_NAMES, train_step

from .tiny import assert_identical, batch, tiny

if TYPE_CHECKING:
    from ugatit_training.config import TrainConfig
    from ugatit_training.discriminator import DiscriminatorOutput


def far_from_one(output: DiscriminatorOutput, label: float) -> Tensor:
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


def build(config: TrainConfig) -> tuple[UGATIT, Optimizers]:
    torch.manual_seed(config.seed)
    networks = UGATIT(config).train()
    return networks, Optimizers(networks, config)


def state(networks: UGATIT, optimizers: Optimizers) -> dict[str, Any]:
    return {
        "networks": networks.state_dict(),
        "generators": optimizers.generators.state_dict(),
        "discriminators": optimizers.discriminators.state_dict(),
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
    shared, plain = build(config), build(config)
    start = copy.deepcopy(shared[0].state_dict())
    for _ in range(steps):
        a, b = batch(config.batch_size, config.image_size)
        train_step(*shared, a, b, config)
        plain_step(*plain, a, b, config)
    assert_identical(state(*shared), state(*plain))
    moved = [not torch.equal(value, start[name]) for name, value in shared[0].state_dict().items()]
    assert sum(moved) > 0.9 * len(moved)


def test_one_power_iteration_more_would_be_seen() -> None:
    config = tiny(learning_rate=1e-3)
    ours, other = build(config), build(config)
    a, b = batch()
    train_step(*ours, a, b, config)
    with torch.no_grad():
        other[0].a.local_(a)
    plain_step(*other, a, b, config)
    with pytest.raises(AssertionError):
        assert_identical(state(*ours), state(*other))


def power_iterations(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if "_u" in dict(m.named_buffers(recurse=False))]


def test_three_power_iterations_a_step_real_fake_and_deceive() -> None:
    config = tiny()
    networks, optimizers = build(config)
    reads: dict[nn.Module, int] = {}

    def count(module: nn.Module, *_: Any) -> None:
        reads[module] = reads.get(module, 0) + 1

    modules = [m for d in discriminators_of(networks) for m in power_iterations(d)]
    for module in modules:
        module.register_forward_hook(count)
    a, b = batch()
    train_step(networks, optimizers, a, b, config)
    assert [reads[m] for m in modules] == [3] * len(modules)


def test_real_goes_before_fake_and_discriminators_before_generators() -> None:
    config = tiny()
    networks, optimizers = build(config)
    seen: list[Tensor] = []
    order: list[str] = []
    networks.a.local_.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    optimizers.discriminators.register_step_post_hook(lambda *_: order.append("discriminators"))
    optimizers.generators.register_step_post_hook(lambda *_: order.append("generators"))
    a, b = batch()
    train_step(networks, optimizers, a, b, config)
    real, fake, again = seen
    assert real is a
    assert torch.equal(fake, again)
    assert not fake.requires_grad
    assert again.requires_grad
    assert order == ["discriminators", "generators"]


def test_the_generators_leave_no_gradient_in_the_discriminators() -> None:
    config = tiny(adversarial_weight=2.0)
    networks, optimizers = build(config)
    twin = copy.deepcopy(networks)
    a, b = batch()
    discriminator_phase(twin, a, b, config).backward()  # type: ignore[no-untyped-call]
    train_step(networks, optimizers, a, b, config)
    for mine, alone in zip(discriminators_of(networks), discriminators_of(twin), strict=True):
        for (name, parameter), other in zip(mine.named_parameters(), alone.parameters(), strict=True):
            assert parameter.requires_grad, name
            assert parameter.grad is not None
            assert other.grad is not None
            assert torch.equal(parameter.grad, other.grad), name


def test_the_discriminators_thaw_after_a_failure() -> None:
    config = tiny()
    networks, optimizers = build(config)

    def fail(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].requires_grad:  # the pass back, with the discriminators frozen
            assert not any(p.requires_grad for d in networks.discriminators() for p in d.parameters())
            raise RuntimeError("out of memory")

    networks.b2a.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_step(networks, optimizers, *batch(), config)
    assert all(p.requires_grad for p in networks.parameters())


def test_the_discriminators_gradients_stay_out_of_the_generators() -> None:
    config = tiny(cycle_weight=0.0, identity_weight=0.0, cam_weight=0.0, adversarial_weight=1.0)
    networks, optimizers = build(config)
    at_discriminator_step: list[bool] = []
    optimizers.discriminators.register_step_pre_hook(
        lambda *_: at_discriminator_step.extend(
            p.grad is None for g in networks.generators() for p in g.parameters()
        )
    )
    train_step(networks, optimizers, *batch(), config)
    assert at_discriminator_step
    assert all(at_discriminator_step)


def rhos(networks: UGATIT) -> Tensor:
    return torch.cat([m.rho.detach() for m in networks.modules() if isinstance(m, AdaLIN | LIN)])


@pytest.mark.parametrize("clipped", [True, False])
def test_rho_stays_between_0_and_1(clipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not clipped:
        monkeypatch.setattr(step_module, "clip_rho", lambda _generator: None)
    config = tiny(learning_rate=0.05)
    networks, optimizers = build(config)
    lowest, highest = 0.0, 1.0
    for _ in range(2):
        train_step(networks, optimizers, *batch(), config)
        lowest, highest = min(lowest, rhos(networks).min().item()), max(highest, rhos(networks).max().item())
    assert rhos(networks).isfinite().all()
    assert (lowest >= 0 and highest <= 1) == clipped
    assert ((rhos(networks) > 0) & (rhos(networks) < 1)).any()


def test_the_losses_are_reported_by_name_unweighted_and_detached() -> None:
    config = tiny(adversarial_weight=5.0, cycle_weight=2.0, identity_weight=3.0, cam_weight=11.0)
    networks, optimizers = build(config)
    before = copy.deepcopy(networks)
    a, b = batch()
    losses = train_step(networks, optimizers, a, b, config)
    assert losses.dtype == torch.float32
    assert not losses.requires_grad
    named = dict(zip(LOSS_NAMES, losses.tolist(), strict=True))
    with torch.no_grad():
        to_b, to_a = before.a2b(a), before.b2a(b)
        same_a, same_b = before.b2a(a), before.a2b(b)
        expected = {
            "cycle_a": F.l1_loss(before.b2a(to_b.image).image, a),
            "cycle_b": F.l1_loss(before.a2b(to_a.image).image, b),
            "identity_a": F.l1_loss(same_a.image, a),
            "identity_b": F.l1_loss(same_b.image, b),
            "cam_a": F.softplus(-to_b.logits).mean() + F.softplus(same_b.logits).mean(),
            "cam_b": F.softplus(-to_a.logits).mean() + F.softplus(same_a.logits).mean(),
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bf16_keeps_parameters_and_optimizer_states_in_float32(layout: torch.memory_format) -> None:
    config = tiny(precision="bf16", learning_rate=1e-3)
    torch.manual_seed(0)
    networks = UGATIT(config).train().to(memory_format=layout)
    optimizers = Optimizers(networks, config)
    start = copy.deepcopy(networks.state_dict())
    for _ in range(2):
        losses = train_step(networks, optimizers, *batch(), config)
        assert losses.isfinite().all()
    assert {t.dtype for t in networks.state_dict().values()} == {torch.float32}
    for optimizer in (optimizers.generators, optimizers.discriminators):
        for entry in optimizer.state.values():
            assert {t.dtype for t in entry.values()} == {torch.float32}
    assert not torch.equal(start["a2b.out.weight"], networks.a2b.out.weight)
    assert not torch.equal(start["a2b.up_norms.0.rho"], networks.state_dict()["a2b.up_norms.0.rho"])
