"""The losses (section 2.2, equations 4 to 9).

Every function takes network outputs and gives scalars in float32. "Real" is 1 and "fake" is 0 throughout:
equation 4 prints the labels the other way round, the authors' programs do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ugatit_training.discriminator import DiscriminatorOutput


def _squared_distance(outputs: Iterable[Tensor | None], label: float) -> Tensor:
    """LSGAN: the plain mean of (output − label)² of each tensor, summed; None is a CAM left out."""
    return torch.stack([(o.float() - label).square().mean() for o in outputs if o is not None]).sum()


def discriminator_loss(real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """Equations 4 and 8, the discriminator's side: patches and CAM logits, real → 1 and fake → 0."""
    return _squared_distance((real.patches, real.logits), 1.0) + _squared_distance(
        (fake.patches, fake.logits), 0.0
    )


def adversarial_loss(fake: DiscriminatorOutput) -> Tensor:
    """Equations 4 and 8, the generator's side: the same outputs for a fake → 1."""
    return _squared_distance((fake.patches, fake.logits), 1.0)


def cycle_loss(restored: Tensor, original: Tensor) -> Tensor:
    """Equation 5: L1 between a picture and what comes back after both generators."""
    return F.l1_loss(restored.float(), original.float())


def identity_loss(translated: Tensor, original: Tensor) -> Tensor:
    """Equation 6: L1 between a picture of the target domain and its own translation."""
    return F.l1_loss(translated.float(), original.float())


def generator_cam_loss(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Equation 7: cross-entropy of the auxiliary classifier η, source pictures → 1, target pictures → 0."""
    source, target = source_logits.float(), target_logits.float()
    return F.binary_cross_entropy_with_logits(
        source, torch.ones_like(source)
    ) + F.binary_cross_entropy_with_logits(target, torch.zeros_like(target))
