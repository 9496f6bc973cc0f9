from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ugatit_batch.bundle import GeneratorConfig
from ugatit_training.generator import Generator
from ugatit_training.normalization import LIN, AdaLIN, GroupedNorm, InstanceNorm, clip_rho, decoder_norm

if TYPE_CHECKING:
    from ugatit_training.normalization import Norm, Variance


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
    torch.testing.assert_close(InstanceNorm()(x), F.instance_norm(x))


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


# Table 1's ablations


def ablated(kind: Norm, channels: int, adaptive: bool) -> nn.Module:
    """With learned γ and β that are neither 1 nor 0."""
    norm = decoder_norm(kind, channels, "biased", adaptive=adaptive)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


def torchs(kind: Norm, x: Tensor) -> Tensor:
    if kind == "ln":
        return F.layer_norm(x, x.shape[1:])
    if kind == "gn":
        # As many as 32 groups, where the channels divide into them.
        groups = next(g for g in range(min(32, x.shape[1]), 0, -1) if x.shape[1] % g == 0 and 32 % g == 0)
        return F.group_norm(x, groups)
    return F.instance_norm(x)


ABLATED: tuple[Norm, ...] = ("in", "ln", "gn", "adain")


@pytest.mark.parametrize("shape", [(2, 4, 6, 7), (1, 3, 2, 2), (2, 64, 5, 4), (3, 96, 3, 3)])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("kind", ABLATED)
def test_ablated_norms_are_torchs(kind: Norm, adaptive: bool, shape: tuple[int, int, int, int]) -> None:
    norm = ablated(kind, shape[1], adaptive)
    x = (torch.randn(shape) * 3 + torch.arange(shape[1]).view(1, -1, 1, 1)).requires_grad_()
    given = (torch.randn(shape[:2]), torch.randn(shape[:2]))
    if kind == "adain" and adaptive:
        gamma, beta = given
        ours = norm(x, gamma, beta)
    else:
        gamma, beta = (p.detach()[None] for p in (norm.get_parameter("gamma"), norm.get_parameter("beta")))
        ours = norm(x, None, None)
    theirs = torchs(kind, x) * gamma[:, :, None, None] + beta[:, :, None, None]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(shape)
    mine, expected = (torch.autograd.grad(y, x, upstream, retain_graph=True)[0] for y in (ours, theirs))
    torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (128, 32), (64, 32), (32, 32), (96, 32), (48, 16), (16, 16), (6, 2)]
)
def test_group_norm_has_32_groups_or_fewer(channels: int, groups: int) -> None:
    norm = decoder_norm("gn", channels, "biased", adaptive=False)
    assert isinstance(norm, GroupedNorm)
    assert norm.groups == groups
    x = torch.randn(2, channels, 3, 3) + torch.arange(channels).view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), F.group_norm(x, groups), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "adaptive", "names"),
    [
        ("adalin", True, {"rho"}),
        ("adalin", False, {"rho", "gamma", "beta"}),
        ("adain", True, set()),
        ("adain", False, {"gamma", "beta"}),
        ("in", True, {"gamma", "beta"}),
        ("ln", True, {"gamma", "beta"}),
        ("gn", True, {"gamma", "beta"}),
        ("gn", False, {"gamma", "beta"}),
    ],
)
def test_what_is_learned(kind: Norm, adaptive: bool, names: set[str]) -> None:
    learned = decoder_norm(kind, 8, "biased", adaptive=adaptive).state_dict()
    assert learned.keys() == names
    for name, start in (("gamma", 1), ("beta", 0)):
        assert name not in learned or learned[name].eq(start).all()
    assert {tuple(tensor.shape) for tensor in learned.values()} <= {(8,)}


@pytest.mark.parametrize("kind", ABLATED)
def test_statistics_of_ablated_norms_stay_in_float32_under_bf16(kind: Norm) -> None:
    norm = ablated(kind, 8, adaptive=False)
    x = (torch.randn(2, 8, 16, 16) + 300).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = norm(x)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, norm(x.float()).bfloat16())
