"""One training step: the discriminators, then the generators, on one draw of A and B.

The fakes are made once. The discriminators see them detached, the generators go on with their graph while the
discriminators are frozen. Neither changes a bit of the result against making them twice: the generators have
not moved in between. (Under bf16 their gradients are summed in another order than in one autocast block.)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ugatit_training.losses import (
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    generator_cam_loss,
    identity_loss,
)
from ugatit_training.normalization import clip_rho

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_training.config import TrainConfig
    from ugatit_training.model import UGATIT, DomainDiscriminators, Optimizers

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


def train_step(networks: UGATIT, optimizers: Optimizers, a: Tensor, b: Tensor, config: TrainConfig) -> Tensor:
    """Update all six networks once.

    Args:
        networks: updated in place, ρ clipped to [0, 1].
        optimizers: theirs.
        a: N×3×S×S in [-1, 1], pictures of domain A.
        b: the same of domain B.
        config: the weights of the losses.

    Returns:
        The unweighted losses in the order of LOSS_NAMES: float32, on the device, detached. Names ending in _a
        concern domain A (real A, fake A, A restored), cam_a the generator A → B.
    """
    with torch.autocast(a.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        to_b, to_a = networks.a2b(a), networks.b2a(b)
        fake_b, fake_a = to_b.image, to_a.image

        loss_da = _discriminate(networks.a, a, fake_a.detach())
        loss_db = _discriminate(networks.b, b, fake_b.detach())
    optimizers.discriminators.zero_grad(set_to_none=True)
    (config.adversarial_weight * (loss_da + loss_db)).backward()  # type: ignore[no-untyped-call]
    optimizers.discriminators.step()

    with (
        _frozen(networks),
        torch.autocast(a.device.type, torch.bfloat16, enabled=config.precision == "bf16"),
    ):
        adversarial_a = _deceive(networks.a, fake_a)
        adversarial_b = _deceive(networks.b, fake_b)
        cycle_a = cycle_loss(networks.b2a(fake_b).image, a)
        cycle_b = cycle_loss(networks.a2b(fake_a).image, b)
        same_a, same_b = networks.b2a(a), networks.a2b(b)
        identity_a = identity_loss(same_a.image, a)
        identity_b = identity_loss(same_b.image, b)
        cam_a = generator_cam_loss(to_b.logits, same_b.logits)
        cam_b = generator_cam_loss(to_a.logits, same_a.logits)
        total = (
            config.adversarial_weight * (adversarial_a + adversarial_b)
            + config.cycle_weight * (cycle_a + cycle_b)
            + config.identity_weight * (identity_a + identity_b)
            + config.cam_weight * (cam_a + cam_b)
        )
        optimizers.generators.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
    optimizers.generators.step()
    for generator in networks.generators():
        clip_rho(generator)

    losses = (
        *(loss_da, loss_db, adversarial_a, adversarial_b, cycle_a, cycle_b),
        *(identity_a, identity_b, cam_a, cam_b),
    )
    return torch.stack([loss.detach() for loss in losses])


def _discriminate(domain: DomainDiscriminators, real: Tensor, fake: Tensor) -> Tensor:
    return torch.stack(
        [discriminator_loss(d(real), d(fake)) for d in (domain.local_, domain.global_)],
    ).sum()


def _deceive(domain: DomainDiscriminators, fake: Tensor) -> Tensor:
    return torch.stack([adversarial_loss(d(fake)) for d in (domain.local_, domain.global_)]).sum()


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
