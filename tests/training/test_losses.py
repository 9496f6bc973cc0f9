from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from ugatit_training.discriminator import DiscriminatorOutput
from ugatit_training.losses import (
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    generator_cam_loss,
    identity_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NO_MAP = torch.zeros(1, 1, 1)


def output(patches: Tensor, logits: Tensor | None) -> DiscriminatorOutput:
    return DiscriminatorOutput(patches, logits, NO_MAP)


def random_output() -> DiscriminatorOutput:
    return output(torch.randn(2, 1, 5, 7), torch.randn(2, 2))


def double(x: Tensor | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert x is not None
    return x.detach().numpy().astype(np.float64)


def test_discriminator_loss_is_least_squares_summed_over_patches_and_logits() -> None:
    real, fake = random_output(), random_output()
    expected = (
        np.mean((double(real.patches) - 1) ** 2)
        + np.mean((double(real.logits) - 1) ** 2)
        + np.mean(double(fake.patches) ** 2)
        + np.mean(double(fake.logits) ** 2)
    )
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)


def test_adversarial_loss_wants_fakes_to_be_1() -> None:
    fake = random_output()
    expected = np.mean((double(fake.patches) - 1) ** 2) + np.mean((double(fake.logits) - 1) ** 2)
    assert adversarial_loss(fake).item() == pytest.approx(expected, rel=1e-6)


def test_real_is_1_and_fake_is_0() -> None:
    ones = output(torch.ones(1, 1, 3, 3), torch.ones(1, 2))
    zeros = output(torch.zeros(1, 1, 3, 3), torch.zeros(1, 2))
    assert discriminator_loss(ones, zeros) == 0
    assert discriminator_loss(zeros, ones) == 4
    assert adversarial_loss(ones) == 0
    assert adversarial_loss(zeros) == 2


@pytest.mark.parametrize("loss", [cycle_loss, identity_loss])
def test_cycle_and_identity_are_mean_absolute_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    ours, original = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    expected = np.mean(np.abs(double(ours) - double(original)))
    assert loss(ours, original).item() == pytest.approx(expected, rel=1e-6)


def test_generator_cam_loss_is_the_sum_of_two_cross_entropies() -> None:
    source, target = torch.randn(3, 2) * 4, torch.randn(3, 2) * 4
    # −log σ(x) for the source, −log(1 − σ(x)) for the target.
    expected = np.mean(np.log1p(np.exp(-double(source)))) + np.mean(np.log1p(np.exp(double(target))))
    assert generator_cam_loss(source, target).item() == pytest.approx(expected, rel=1e-6)


def test_generator_cam_loss_calls_the_source_1() -> None:
    high, low = torch.full((1, 2), 20.0), torch.full((1, 2), -20.0)
    assert generator_cam_loss(high, low) < 1e-6
    assert generator_cam_loss(low, high).item() == pytest.approx(40, rel=1e-6)


def test_each_mean_counts_alike_whatever_its_batch() -> None:
    source, target = torch.randn(1, 2), torch.randn(5, 2)
    expected = np.mean(np.log1p(np.exp(-double(source)))) + np.mean(np.log1p(np.exp(double(target))))
    assert generator_cam_loss(source, target).item() == pytest.approx(expected, rel=1e-6)


def test_losses_of_half_precision_outputs_are_float32() -> None:
    logits = torch.randn(1, 2).bfloat16()
    fake = output(torch.randn(1, 1, 4, 4).bfloat16(), logits)
    pictures = torch.randn(1, 3, 4, 4).bfloat16(), torch.randn(1, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        losses = (
            discriminator_loss(fake, fake),
            adversarial_loss(fake),
            cycle_loss(*pictures),
            identity_loss(*pictures),
            generator_cam_loss(logits, logits),
        )
    assert {loss.dtype for loss in losses} == {torch.float32}
    exact = np.mean((double(fake.patches.float()) - 1) ** 2) + np.mean((double(logits.float()) - 1) ** 2)
    assert losses[1].item() == pytest.approx(exact, rel=1e-6)


# Without a CAM (table 1)


def test_without_logits_the_patches_alone_count() -> None:
    real, fake = (output(torch.randn(2, 1, 5, 7), None) for _ in range(2))
    expected = np.mean((double(real.patches) - 1) ** 2) + np.mean(double(fake.patches) ** 2)
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)
    expected = np.mean((double(fake.patches) - 1) ** 2)
    assert adversarial_loss(fake).item() == pytest.approx(expected, rel=1e-6)
