from __future__ import annotations

from typing import Any

import pytest
import torch

from ugatit_training.model import UGATIT, Optimizers, learning_rate

from .tiny import tiny

NOT_DECAYED = (".rho", ".bias", "norms.0.gamma", "norms.0.beta", "norms.1.gamma", "norms.1.beta")


@pytest.fixture
def networks() -> UGATIT:
    return UGATIT(tiny(light=False))


def test_every_parameter_is_in_one_optimizer_once(networks: UGATIT) -> None:
    optimizers = Optimizers(networks, tiny())
    for optimizer, parts in (
        (optimizers.generators, ("a2b", "b2a")),
        (optimizers.discriminators, ("a.local_", "a.global_", "b.local_", "b.global_")),
    ):
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        mine = [id(p) for part in parts for p in networks.get_submodule(part).parameters()]
        assert len(held) == len(set(held))
        assert set(held) == set(mine)


def test_only_convolution_and_fc_kernels_are_decayed(networks: UGATIT) -> None:
    optimizers = Optimizers(networks, tiny(weight_decay=0.125))
    names = {id(p): name for name, p in networks.named_parameters()}
    decays = {
        names[id(p)]: group["weight_decay"]
        for optimizer in (optimizers.generators, optimizers.discriminators)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    free = {name for name in names.values() if name.endswith(NOT_DECAYED)}
    assert {name for name, decay in decays.items() if decay == 0} == free
    kernels = decays.keys() - free
    assert {decays[name] for name in kernels} == {0.125}
    assert {name.rpartition(".")[2] for name in kernels} == {"weight"}
    assert {"a2b.style.gamma.weight", "b2a.style.beta.weight", "a2b.cam.average.weight"} <= kernels
    assert {name.rpartition(".")[2] for name in free} == {"rho", "gamma", "beta", "bias"}


@pytest.mark.parametrize("changes", [{"norm": "in"}, {"norm": "adain"}, {"cam": "none"}, {"replay_pool": 2}])
def test_nor_is_anything_else_in_an_ablation(changes: dict[str, Any]) -> None:
    config = tiny(**changes)
    networks = UGATIT(config)
    decayed = {
        id(p)
        for optimizer in vars(Optimizers(networks, config)).values()
        if isinstance(optimizer, torch.optim.Adam)
        for group in optimizer.param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    for name, parameter in networks.named_parameters():
        assert (id(parameter) in decayed) == name.endswith(".weight"), name


def test_without_gradient_the_decay_is_all_that_moves(networks: UGATIT) -> None:
    optimizers = Optimizers(networks, tiny(weight_decay=0.1, learning_rate=0.01))
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.fill_(0.5)
            parameter.grad = torch.zeros_like(parameter)
    optimizers.generators.step()
    optimizers.discriminators.step()
    for name, parameter in networks.named_parameters():
        # Coupled decay passes through Adam: the first step is the learning rate itself.
        expected = 0.5 if name.endswith(NOT_DECAYED) else 0.49
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected)), name


@pytest.mark.parametrize("fused", [True, False])
def test_adam_has_the_papers_numbers(networks: UGATIT, fused: bool) -> None:
    optimizers = Optimizers(networks, tiny(learning_rate=3e-4, fused_adam=fused))
    for optimizer in (optimizers.generators, optimizers.discriminators):
        assert type(optimizer) is torch.optim.Adam
        for group in optimizer.param_groups:
            assert (group["betas"], group["eps"], group["lr"]) == ((0.5, 0.999), 1e-8, 3e-4)
            assert group["fused"] == (True if fused else None)
            assert not group["amsgrad"]
            assert not group["maximize"]
            assert not group["decoupled_weight_decay"]
    optimizers.set_learning_rate(0.5)
    groups = [*optimizers.generators.param_groups, *optimizers.discriminators.param_groups]
    assert {group["lr"] for group in groups} == {0.5}
    assert optimizers.learning_rate == 0.5


@pytest.mark.parametrize(
    ("steps", "step", "expected"),
    [
        (1000, 1, 2.0),
        (1000, 500, 2.0),
        (1000, 501, 2.0 * 499 / 500),
        (1000, 750, 1.0),
        (1000, 999, 2.0 / 500),
        (1000, 1000, 0.0),
        (7, 3, 2.0),
        (7, 4, 2.0 * 3 / 3.5),
        (7, 7, 0.0),
        (1, 1, 0.0),
        (2, 1, 2.0),
        (2, 2, 0.0),
    ],
)
def test_learning_rate_is_constant_then_falls_to_zero(steps: int, step: int, expected: float) -> None:
    assert learning_rate(step, tiny(steps=steps, learning_rate=2.0)) == pytest.approx(expected, abs=1e-15)
