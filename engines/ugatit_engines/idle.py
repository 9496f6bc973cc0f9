"""A network that costs nothing, to measure what is around networks.

Knows nothing of torch, so that it costs no memory either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ugatit_batch.frames import SizeRule, Translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.frames import Batch


class IdleTranslator:
    """Gives its pictures back as they are, with flat attention.

    Args:
        batch_size: pictures in a batch.
    """

    ahead = 0

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.size_rule = SizeRule()

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        """See `Translator`."""
        for batch in batches:
            count, height, width, _ = batch.pixels.shape
            yield Translated(batch.pixels, np.zeros((count, height // 4, width // 4), np.float32))
