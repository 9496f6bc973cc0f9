"""Averaging of the style, γ and β, along the pictures of one film.

Knows nothing of films, networks or memory: it is shown each picture's γ and β on their way to the decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ugatit_batch.frames import Averaging


class StyleAverage:
    """The average along one stream of pictures, kept on their device.

    Calculated in float32, picture after picture, whatever the precision and however the stream is cut into
    batches. It only goes on when told to, so that work that has failed can be done again.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def begin(self, averaging: Averaging, count: int) -> None:
        """Take over what a batch brings.

        Args:
            averaging: of the batch.
            count: of its pictures.

        Raises:
            ValueError: `keep` is no share, or there is not one flag of a cut for each picture.
        """
        if not 0 <= averaging.keep <= 1:
            raise ValueError(f"keep must be 0 to 1, not {averaging.keep}")
        if averaging.cuts.shape != (count,):
            raise ValueError(f"cuts of shape {averaging.cuts.shape} with {count} pictures")
        if averaging.before is not None:
            self._last = torch.from_numpy(np.array(averaging.before, np.float32))

    def part(self, averaging: Averaging, start: int, end: int) -> AveragedPart:
        """The averaging of the batch's pictures from `start` to before `end`, which come next."""
        return AveragedPart(averaging.keep, averaging.cuts[start:end].tolist(), self._last)

    def advance(self, part: AveragedPart) -> None:
        """Go on after the last picture of a part that has been through the network."""
        # On a CPU the style itself goes to whoever asked, who may write over it.
        self._last = part.style[-1].clone()


class AveragedPart:
    """Pictures that go through a network together; called with what the network makes γ and β of.

    Args:
        keep: share of the average before that each picture keeps, 0 to 1.
        cuts: for each picture, whether the average starts anew with it.
        last: float32, K: the average before the first of them; None: there is none.

    Attributes:
        style: float32, N×K, the average at each picture: γ, then β; there once it was called.
    """

    style: Tensor

    def __init__(self, keep: float, cuts: list[bool], last: Tensor | None) -> None:
        self._keep, self._cuts, self._last = keep, cuts, last

    def __call__(self, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """γ and β, N×C each, averaged; in the type that they came in.

        Raises:
            ValueError: the average before is of another model.
        """
        given = torch.cat((gamma, beta), dim=1).float()
        last = self._last
        if last is not None:
            if last.shape != given.shape[1:]:
                raise ValueError(f"a style of {len(last)} values before one of {given.shape[1]}")
            last = last.to(given.device)
        rows = []
        for own, cut in zip(given, self._cuts, strict=True):
            # Not as a sum of two products: a style that stands still stays as it is to the last bit.
            last = own if last is None or cut else torch.lerp(own, last, self._keep)
            rows.append(last)
        self.style = torch.stack(rows)
        averaged_gamma, averaged_beta = self.style.to(gamma.dtype).chunk(2, dim=1)
        return averaged_gamma, averaged_beta
