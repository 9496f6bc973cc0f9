"""One training step: the discriminators, then the generators, on one draw of A and B.

The fakes are made once. The discriminators see them detached, the generators go on with their graph while the
discriminators are frozen. Neither changes a bit of the result against making them twice: the generators have
not moved in between. (Under bf16 their gradients are summed in another order than in one autocast block.)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ugatit_training.diff_augment import diff_augment
from ugatit_training.losses import (
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    generator_cam_loss,
    identity_loss,
)
from ugatit_training.normalization import clip_rho
from ugatit_training.spectral_norm import hold_iterations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ugatit_training.config import TrainConfig
    from ugatit_training.draw import Draw
    from ugatit_training.generator import GeneratorOutput
    from ugatit_training.model import UGATIT, Optimizers
    from ugatit_training.players import GeneratorCall, Players

LOSS_NAMES = (
    "discriminator_a",
    "discriminator_b",
    "adversarial_a",
    "adversarial_b",
    "cycle_a",
    "cycle_b",
    "identity_a",
    "identity_b",
    "cam_a",
    "cam_b",
)


class _Made(NamedTuple):
    """What the generators make of real pictures, and the identity passes where they went along."""

    to_a: GeneratorOutput
    to_b: GeneratorOutput
    same_a: GeneratorOutput | None = None
    same_b: GeneratorOutput | None = None


def train_step(
    networks: UGATIT, players: Players, optimizers: Optimizers, draw: Draw, config: TrainConfig
) -> Tensor:
    """Update all six networks once.

    Args:
        networks: updated in place, ρ clipped to [0, 1].
        players: how each of them is called.
        optimizers: theirs.
        draw: `batch_size · accumulate` pictures of each domain, and the step's random numbers.
        config: the weights of the losses, and how to compute.

    Returns:
        The unweighted losses in the order of LOSS_NAMES: float32, on the device, detached. Names ending in _a
        concern domain A (real A, fake A, A restored), cam_a the generator A → B.
    """
    parts = draw.split(config.accumulate)
    # The fakes' graphs of several parts would have to wait for the discriminators all at once.
    share = config.share_fakes and len(parts) == 1
    made = None

    optimizers.discriminators.zero_grad(set_to_none=True)
    judged = []
    for part in _each(parts, networks, players):
        with _autocast(part.a, config):
            with torch.set_grad_enabled(share):
                made = _generate(players, part, join=share and config.join_passes)
            losses = _discriminate(networks, players, part, made, config)
        (config.adversarial_weight / len(parts) * losses.sum()).backward()  # type: ignore[no-untyped-call]
        judged.append(losses.detach())
    optimizers.discriminators.step()

    optimizers.generators.zero_grad(set_to_none=True)
    weights = (config.adversarial_weight, config.cycle_weight, config.identity_weight, config.cam_weight)
    improved = []
    with _frozen(networks):
        for part in _each(parts, networks, players):
            if not share or made is None:
                # In a block of its own, as a shared one is: autocast keeps bf16 copies of weights until it is
                # left, and gradients are summed in them.
                with _autocast(part.a, config):
                    made = _generate(players, part, join=config.join_passes)
            with _autocast(part.a, config):
                losses = _generator_losses(players, part, made, config)
                # Numbers, not a tensor: a CUDA graph could not record its way to the device.
                pairs = losses.view(-1, 2).sum(1).unbind()
                total = torch.stack([w * pair for w, pair in zip(weights, pairs, strict=True)]).sum()
            (total / len(parts)).backward()  # type: ignore[no-untyped-call]
            improved.append(losses.detach())
    optimizers.generators.step()
    for generator in networks.generators():
        clip_rho(generator)
    return torch.cat([torch.stack(judged).mean(0), torch.stack(improved).mean(0)])


def _autocast(x: Tensor, config: TrainConfig) -> torch.autocast:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _each(parts: Sequence[Draw], networks: UGATIT, players: Players) -> Iterator[Draw]:
    """The parts of a draw, as if they were one batch: power iterations once, gradients exchanged once."""
    for number, part in enumerate(parts):
        with contextlib.ExitStack() as stack:
            if number > 0:
                stack.enter_context(hold_iterations(networks))
            if number < len(parts) - 1:
                stack.enter_context(players.keep_gradients())
            yield part


def _generate(players: Players, draw: Draw, *, join: bool) -> _Made:
    """Both translations; with `join` each in one batch with the same generator's identity pass."""
    if not join:
        to_b, to_a = players.a2b(draw.a), players.b2a(draw.b)
        return _Made(to_a, to_b)
    to_b, same_b = _both(players.a2b, draw.a, draw.b)
    to_a, same_a = _both(players.b2a, draw.b, draw.a)
    return _Made(to_a, to_b, same_a, same_b)


def _both(generator: GeneratorCall, first: Tensor, second: Tensor) -> list[GeneratorOutput]:
    return generator(torch.cat([first, second])).split(2)


def _discriminate(networks: UGATIT, players: Players, draw: Draw, made: _Made, config: TrainConfig) -> Tensor:
    """The losses of the discriminators of A and of B."""
    losses = []
    sides = (
        (players.judges_a, draw.a, made.to_a.image.detach()),
        (players.judges_b, draw.b, made.to_b.image.detach()),
    )
    for domain, (judges, real, fake) in enumerate(sides):
        shown = fake
        if networks.replay is not None and draw.replay is not None:
            shown = networks.replay.exchange(domain, fake, draw.replay[:, domain])
        pair = [_augmented(x, draw, 2 * domain + place, config) for place, x in enumerate((real, shown))]
        if config.join_passes:
            both = torch.cat([x.to(real.dtype) for x in pair])
            outputs = [judge(both, 2).split(2) for judge in judges]
        else:
            outputs = [[judge(x) for x in pair] for judge in judges]
        losses.append(torch.stack([discriminator_loss(*pair) for pair in outputs]).sum())
    return torch.stack(losses)


def _generator_losses(players: Players, draw: Draw, made: _Made, config: TrainConfig) -> Tensor:
    """The losses of the generators, in the order of LOSS_NAMES."""
    to_a, to_b, same_a, same_b = made
    fakes = ((players.frozen_a, to_a.image, 4), (players.frozen_b, to_b.image, 5))
    adversarial = []
    for judges, fake, place in fakes:
        shown = _augmented(fake, draw, place, config)
        adversarial.append(torch.stack([adversarial_loss(judge(shown)) for judge in judges]).sum())
    back_a, back_b = players.b2a(to_b.image), players.a2b(to_a.image)
    if same_a is None or same_b is None:
        same_a, same_b = players.b2a(draw.a), players.a2b(draw.b)
    return torch.stack(
        [
            *adversarial,
            cycle_loss(back_a.image, draw.a),
            cycle_loss(back_b.image, draw.b),
            identity_loss(same_a.image, draw.a),
            identity_loss(same_b.image, draw.b),
            _cam_loss(to_b, same_b),
            _cam_loss(to_a, same_a),
        ]
    )


def _cam_loss(source: GeneratorOutput, target: GeneratorOutput) -> Tensor:
    """Equation 7; 0 on the same device where there is no CAM."""
    if source.logits is None or target.logits is None:
        return source.attention.new_zeros(())
    return generator_cam_loss(source.logits, target.logits)


def _augmented(x: Tensor, draw: Draw, place: int, config: TrainConfig) -> Tensor:
    if draw.augment is None:
        return x
    return diff_augment(x, draw.augment[:, place], config.diff_augment)


@contextlib.contextmanager
def _frozen(networks: UGATIT) -> Iterator[None]:
    """The discriminators' parameters take no gradient; their power iterations go on."""
    parameters = [p for network in networks.discriminators() for p in network.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
