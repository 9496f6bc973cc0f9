from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.overrides import TorchFunctionMode

from ugatit_training.discriminator import GLOBAL_STRIDED, LOCAL_STRIDED, Discriminator
from ugatit_training.spectral_norm import SpectralConv2d, SpectralLinear, SpectralNorm, hold_iterations

from .published_reference import PublishedDiscriminator, randomize

if TYPE_CHECKING:
    from collections.abc import Callable


def pictures(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side) * 2 - 1


def fresh(network: nn.Module) -> None:
    """New directions: the converged ones would not move, however many iterations there were."""
    for name, buffer in network.named_buffers():
        assert name.endswith((".u", ".v"))
        buffer.copy_(F.normalize(torch.randn_like(buffer), dim=0))


def conv(stride: int = 2, *, bias: bool = True) -> SpectralConv2d:
    layer = SpectralConv2d(3, 5, 4, stride, bias=bias)
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    layer.normalize()
    fresh(layer)
    return layer


def fc() -> SpectralLinear:
    layer = SpectralLinear(7)
    layer.normalize()
    fresh(layer)
    return layer


def torchs(layer: SpectralConv2d | SpectralLinear) -> nn.Module:
    """The same layer with torch's own spectral norm, at the same weights and vectors."""
    plain: nn.Module
    if isinstance(layer, SpectralConv2d):
        plain = nn.Conv2d(
            3, 5, 4, layer.stride[0], padding=1, padding_mode="reflect", bias=layer.bias is not None
        )
    else:
        plain = nn.Linear(7, 1, bias=False)
    plain.load_state_dict({k: t for k, t in layer.state_dict().items() if not k.startswith("spectral.")})
    plain = spectral_norm(plain)
    own, theirs = layer.spectral, dict(plain.named_buffers())
    for name in ("u", "v"):
        theirs[f"parametrizations.weight.0._{name}"].copy_(own.get_buffer(name))
    return plain


def vectors(plain: nn.Module) -> tuple[Tensor, Tensor]:
    buffers = dict(plain.named_buffers())
    return buffers["parametrizations.weight.0._u"], buffers["parametrizations.weight.0._v"]


def gradient_of(network: nn.Module, *endings: str) -> Tensor:
    (gradient,) = (p.grad for name, p in network.named_parameters() if name.endswith(endings))
    assert gradient is not None
    return gradient


def kernel_gradient(network: nn.Module) -> Tensor:
    return gradient_of(network, "weight", "original")


def assert_near(ours: Tensor, theirs: Tensor, relative: float = 1e-5) -> None:
    """The difference, as a whole, against the length of what is expected."""
    assert (ours - theirs).norm() <= relative * theirs.norm()


# Against torch's own


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("stride", "bias"), [(2, True), (1, False)])
def test_a_convolution_is_torchs_in_outputs_vectors_and_gradients(
    stride: int, bias: bool, layout: torch.memory_format
) -> None:
    ours = conv(stride, bias=bias)
    theirs = torchs(ours)
    ours.to(memory_format=layout)
    for x in torch.randn(3, 2, 3, 9, 8):
        for layer in (ours, theirs):
            layer.zero_grad()
            y = layer(x)
            (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
        assert_near(ours(x), theirs(x))
        # Both have now taken two iterations.
        for own, other in zip((ours.spectral.u, ours.spectral.v), vectors(theirs), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
        assert_near(kernel_gradient(ours), kernel_gradient(theirs))
        if bias:
            assert_near(gradient_of(ours, "bias"), gradient_of(theirs, "bias"))
    x = torch.randn(2, 3, 9, 8)
    assert_near(ours.eval()(x), theirs.eval()(x))


def test_an_fc_is_torchs_in_weights_vectors_and_gradient() -> None:
    ours = fc()
    theirs = torchs(ours)
    assert isinstance(theirs, nn.Linear)
    upstream = torch.randn(4, 7)
    for _ in range(3):
        pair = ours.rows(4, 1), theirs.weight.expand(4, 7)
        assert_near(*pair)
        for layer, rows in zip((ours, theirs), pair, strict=True):
            layer.zero_grad()
            (rows * upstream).sum().backward()  # type: ignore[no-untyped-call]
        for own, other in zip((ours.spectral.u, ours.spectral.v), vectors(theirs), strict=True):
            torch.testing.assert_close(own, other)
        assert_near(kernel_gradient(ours), kernel_gradient(theirs))
    assert_near(ours.eval().rows(1, 1), theirs.eval().weight)


def test_the_vectors_start_at_random_and_15_iterations_on() -> None:
    weight = torch.randn(5, 3, 4, 4)
    matrix = weight.flatten(1)
    torch.manual_seed(3)
    norm = SpectralNorm(weight)
    torch.manual_seed(3)
    u, v = torch.randn(5), torch.randn(48)
    for _ in range(15):
        u, v = iterate(matrix, v)
    torch.testing.assert_close((norm.u, norm.v), (u, v))
    largest = torch.linalg.matrix_norm(matrix, 2).item()
    assert norm.eval()(weight).item() == pytest.approx(largest, rel=1e-2)


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_a_kernel_of_zeros_gives_no_nan(value: float) -> None:
    kernel = torch.full((3, 4), value)
    norm = SpectralNorm(kernel)
    assert norm(kernel).isfinite().all()
    assert norm.u.isfinite().all()
    assert norm.v.isfinite().all()


# Several passes in one batch


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("passes", [2, 3])
def test_passes_in_one_batch_are_calls_one_after_the_other(passes: int, layout: torch.memory_format) -> None:
    joined = conv().to(memory_format=layout)
    apart = copy.deepcopy(joined)
    parts = [torch.randn(2, 3, 8, 8) for _ in range(passes)]
    weights = [torch.randn(2, 5, 4, 4) for _ in range(passes)]
    together = joined(torch.cat(parts), passes)
    one_by_one = [apart(x) for x in parts]
    (together * torch.cat(weights)).sum().backward()
    torch.stack([(y * w).sum() for y, w in zip(one_by_one, weights, strict=True)]).sum().backward()  # type: ignore[no-untyped-call]
    assert_near(together, torch.cat(one_by_one))
    assert_near(kernel_gradient(joined), kernel_gradient(apart))
    for name, buffer in apart.named_buffers():
        assert torch.equal(joined.get_buffer(name), buffer), name
    # The passes are not divided by one and the same norm.
    assert not torch.allclose(together, apart.eval()(torch.cat(parts)), rtol=1e-3)


def test_passes_of_an_fc_are_calls_one_after_the_other() -> None:
    joined = fc()
    with torch.no_grad():
        # Of length 1 a norm of 1 would not be seen.
        joined.weight.mul_(3)
    apart = copy.deepcopy(joined)
    upstream = torch.randn(6, 7)
    rows = joined.rows(6, 2)
    others = torch.cat([apart.rows(3, 1), apart.rows(3, 1)])
    assert_near(rows, others)
    for layer, result in ((joined, rows), (apart, others)):
        (result * upstream).sum().backward()  # type: ignore[no-untyped-call]
        assert layer.weight.grad is not None
    assert_near(kernel_gradient(joined), kernel_gradient(apart))


def outputs_and_gradients(
    discriminator: Discriminator, run: Callable[[Discriminator], list[Any]]
) -> tuple[list[Tensor], list[Tensor]]:
    found = [tensor for output in run(discriminator) for tensor in output]
    torch.manual_seed(7)
    torch.stack([(t * torch.randn_like(t)).sum() for t in found]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
    assert len(gradients) == len(list(discriminator.parameters()))
    return found, gradients


def test_a_discriminators_passes_in_one_batch_are_two_calls() -> None:
    joined = Discriminator(3)
    randomize(joined, 4)
    fresh(joined)
    apart = copy.deepcopy(joined)
    real, fake = pictures(2, 32), pictures(2, 32)
    one = outputs_and_gradients(joined, lambda d: d(torch.cat([real, fake]), 2).split(2))
    other = outputs_and_gradients(apart, lambda d: [d(real), d(fake)])
    for mine, theirs in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        assert mine.shape == theirs.shape
        assert_near(mine, theirs)
    for name, buffer in apart.named_buffers():
        torch.testing.assert_close(joined.get_buffer(name), buffer)


# Memory format


def test_a_channels_last_kernel_has_the_same_norm_vectors_and_gradient() -> None:
    plain = conv()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert not last.weight.is_contiguous()
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        one, other = plain(x), last(x)
        assert_near(other, one)
        for layer, y in ((plain, one), (last, other)):
            layer.zero_grad()
            y.square().sum().backward()
        assert_near(kernel_gradient(last), kernel_gradient(plain))
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(last.get_buffer(name), buffer)
    assert kernel_gradient(plain).is_contiguous()
    assert kernel_gradient(last).is_contiguous(memory_format=torch.channels_last)
    assert_near(last.eval()(x), plain.eval()(x))


def test_a_gradient_to_the_norm_alone_lies_as_its_kernel_does() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(5, 3, 4, 4).to(memory_format=layout).requires_grad_()
        norm = SpectralNorm(weight)
        norm(weight).sum().backward()
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride()
        outer = norm.u[:, None] * norm.v
        torch.testing.assert_close(weight.grad, outer.view_as(weight))


# Iterations


def iterate(weight: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One power iteration: u ← normalised W·v, then v ← normalised Wᵀ·u."""
    u = F.normalize(weight @ v, dim=0)
    return u, F.normalize(weight.T @ u, dim=0)


def normalized_layers(discriminator: Discriminator) -> dict[str, Any]:
    """By the published program's names."""
    cam = discriminator.cam
    assert cam is not None
    layers = {f"model.{1 + 3 * i}": layer for i, layer in enumerate(discriminator.convs)}
    return layers | {"gap_fc": cam.average, "gmp_fc": cam.maximum, "conv": discriminator.classifier}


@pytest.mark.parametrize("strided", [LOCAL_STRIDED, GLOBAL_STRIDED])
def test_one_power_iteration_a_training_forward(strided: int) -> None:
    discriminator = Discriminator(2, strided)
    layers = normalized_layers(discriminator)
    assert len(layers) == strided + 4
    fresh(discriminator)
    for _ in range(2):
        before = {name: layer.spectral.v.clone() for name, layer in layers.items()}
        discriminator(pictures(1, 128))
        for name, layer in layers.items():
            weight = layer.weight.detach().flatten(1)
            once = iterate(weight, before[name])
            torch.testing.assert_close((layer.spectral.u, layer.spectral.v), once)
            if len(weight) > 1:
                assert (layer.spectral.u - iterate(weight, once[1])[0]).abs().max() > 1e-4, name


def norms(network: nn.Module) -> list[SpectralNorm]:
    return [module for module in network.modules() if isinstance(module, SpectralNorm)]


def test_each_norm_is_computed_once_a_forward() -> None:
    # A 1-output FC converges at once, so the vectors of the CAM's cannot show a second iteration.
    discriminator = Discriminator(2)
    asked: list[nn.Module] = []
    for module in norms(discriminator):
        module.register_forward_hook(lambda module, _inputs, _output: asked.append(module))
    discriminator(pictures(1, 64))
    assert len(asked) == len(set(asked)) == LOCAL_STRIDED + 4


def test_eval_mode_advances_nothing() -> None:
    discriminator = Discriminator(2).eval()
    fresh(discriminator)
    before = copy.deepcopy(discriminator.state_dict())
    first, second = discriminator(pictures(2, 64), 2), discriminator(pictures(1, 64))
    after = discriminator.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert first.patches.requires_grad
    assert second.patches.requires_grad


def test_pictures_of_all_passes_are_divided_alike_in_eval_mode() -> None:
    layer = conv().eval()
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(layer(x, 2), layer(x, 1))


def test_a_loss_backward_twice_is_not_spoiled_by_a_later_forward() -> None:
    layer = conv()
    x = torch.randn(1, 3, 8, 8)
    twin = copy.deepcopy(layer)
    twin(x).sum().backward()
    result = layer(x).sum()
    layer(x)
    result.backward()
    assert torch.equal(kernel_gradient(layer), kernel_gradient(twin))


def test_everything_but_the_1x1_convolution_is_normalised() -> None:
    discriminator = Discriminator(4)
    layers = normalized_layers(discriminator)
    assert {id(layer.spectral) for layer in layers.values()} == {id(n) for n in norms(discriminator)}
    plain = {n for n, m in discriminator.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)} - {
        name for name, m in discriminator.named_modules() if isinstance(m, SpectralConv2d | SpectralLinear)
    }
    assert plain == {"cam.join"}
    # Converged, so every norm is the largest singular value.
    for _ in range(200):
        discriminator(pictures(1, 32))
    for layer in discriminator.eval().modules():
        if isinstance(layer, SpectralConv2d | SpectralLinear):
            largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
            assert layer.spectral(layer.weight).item() == pytest.approx(largest, rel=1e-2)


# Held


def test_held_iterations_are_those_of_the_call_before() -> None:
    layer = conv()
    x = torch.randn(4, 3, 8, 8)
    first = layer(x, 2)
    layer.zero_grad()
    first.sum().backward()
    gradient = kernel_gradient(layer).clone()
    before = copy.deepcopy(layer.state_dict())
    with hold_iterations(layer):
        again = layer(x, 2)
    assert torch.equal(again, first)
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
    layer.zero_grad()
    again.sum().backward()
    assert torch.equal(kernel_gradient(layer), gradient)
    assert not torch.equal(layer(x, 2), first)


def test_held_iterations_want_a_call_before_with_as_many_passes() -> None:
    layer = conv()
    x = torch.randn(2, 3, 8, 8)
    with hold_iterations(layer), pytest.raises(RuntimeError, match="no call before"):
        layer(x)
    layer(x)
    with pytest.raises(RuntimeError, match="as many passes"), hold_iterations(layer):
        layer(x, 2)
    before = layer.spectral.u.clone()
    layer(x)
    assert not torch.equal(layer.spectral.u, before)


# Half precision


class Watch(TorchFunctionMode):
    """Notes of every product of a matrix and a vector whether autocast is on, and in which type it is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, torch.dtype]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "mv":
            self.seen.append((torch.is_autocast_enabled("cpu"), args[0].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm_stays_in_float32_under_bf16(training: bool) -> None:
    discriminator = Discriminator(4).train(training)
    twin = copy.deepcopy(discriminator)
    x = pictures(1, 64)
    exact = discriminator(x)
    # Asked directly, too: on a CPU autocast happens to leave these operations alone.
    with Watch() as watch, torch.autocast("cpu", torch.bfloat16):
        low = twin(x)
        (norm, *_) = norms(twin)
        assert norm(twin.convs[0].get_parameter("weight")).dtype == torch.float32
    assert len(watch.seen) > LOCAL_STRIDED + 4
    assert set(watch.seen) == {(False, torch.float32)}
    norms(discriminator)[0](discriminator.convs[0].get_parameter("weight"))
    for name, buffer in discriminator.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(name)), name
    assert low.patches.dtype == torch.bfloat16
    assert low.attention.dtype == low.logits.dtype == torch.float32
    torch.testing.assert_close(low.patches.float(), exact.patches, rtol=0.1, atol=0.05)


# Against the published program


def copy_discriminator(reference: PublishedDiscriminator, ours: Discriminator) -> None:
    """Give ours the reference's weights and vectors."""
    theirs = reference.state_dict()
    layers = normalized_layers(ours)
    state = {f"cam.join.{kind}": theirs[f"conv1x1.{kind}"] for kind in ("weight", "bias")}
    names = {module: name for name, module in ours.named_modules()}
    for source, layer in layers.items():
        kinds = {"weight": "weight_orig", "spectral.u": "weight_u", "spectral.v": "weight_v", "bias": "bias"}
        state |= {
            f"{names[layer]}.{own}": theirs[f"{source}.{kind}"]
            for own, kind in kinds.items()
            if f"{source}.{kind}" in theirs
        }
    ours.load_state_dict(state)


@pytest.mark.parametrize("strided", [LOCAL_STRIDED, GLOBAL_STRIDED])
def test_discriminator_is_the_published_one_with_normalised_attention(strided: int) -> None:
    # In eval mode: while training, the program's spectral norm begins its iteration half a turn apart.
    reference = PublishedDiscriminator(4, strided, raw_cam=False)
    randomize(reference, 2)
    ours = Discriminator(4, strided)
    copy_discriminator(reference, ours)
    mistaken = PublishedDiscriminator(4, strided, raw_cam=True)
    mistaken.load_state_dict(reference.state_dict())
    x = pictures(1, 128)
    output = ours.eval()(x)
    patches, logits, attention = reference.eval()(x)
    assert_near(output.patches, patches)
    assert_near(output.logits, logits)
    assert_near(output.attention, attention[:, 0])
    _, logits, attention = mistaken.eval()(x)
    assert_near(output.logits, logits)
    assert (output.attention - attention[:, 0]).norm() > 0.01 * attention.norm()
