"""How much the pictures of a film flicker: one figure, from the mean colours of picture after picture.

It is the second difference of mean colours over time. Of three successive pictures of a scene it counts what
the middle one is off the mean of its neighbours, twice. Light that grows steadily counts nothing, things that
move on count little, and what alternates between two pictures counts twice the step between them.

Alone it says little, as noise and quick movement count too: a result's is to be held against its source's,
as in Xu, Xiong and Hu, "Frame Difference-Based Temporal Loss for Video Stylization" (2021), who found that
differences of frames, without optical flow, go with what people see. Mean colours instead of pixels, for the
strokes of a drawing rightly move with what is drawn.

Knows nothing of files, and does not look for cuts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ugatit_batch.frames import Pixels

    Grid = NDArray[np.int64]
    """Mean colours of a picture's cells, rows×columns×3, in 1/256 levels: whole, so that sums are exact."""

_CELLS = 16  # a side of the grid
_LINES = 128  # lines, and columns, that are looked at at most: 1080p takes a third of a millisecond
_PARTS = 256  # of a level


def grid(pixels: Pixels) -> Grid:
    """Mean colours of up to 16×16 cells of a picture, from evenly spread pixels of each.

    Args:
        pixels: uint8, H×W×3.
    """
    height, width = pixels.shape[:2]
    seen = pixels[:: -(-height // _LINES), :: -(-width // _LINES)]
    rows, row_sizes = _divided(seen.shape[0])
    columns, column_sizes = _divided(seen.shape[1])
    sums = np.add.reduceat(seen, rows, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns, axis=1, dtype=np.int64)
    means: Grid = sums * _PARTS // np.outer(row_sizes, column_sizes)[:, :, None]
    return means


class Flicker:
    """The figure of one film, as far as it has been seen."""

    def __init__(self) -> None:
        self._seen: list[Grid] = []
        self._sum = 0
        self._count = 0

    def add(self, means: Grid, cut: bool) -> None:
        """Look at the next picture.

        Args:
            means: its `grid`.
            cut: whether it has nothing to do with the picture before. That need not be said of the first one,
                nor where the grid has another shape.
        """
        if cut or (self._seen and self._seen[-1].shape != means.shape):
            self._seen.clear()
        if len(self._seen) == 2:
            first, middle = self._seen
            self._sum += int(np.abs(first - 2 * middle + means).sum())
            self._count += means.size
        self._seen = [*self._seen[-1:], means]

    @property
    def figure(self) -> float | None:
        """Mean absolute second difference, in levels of 0 to 255; None where no scene had three pictures."""
        return None if self._count == 0 else self._sum / (self._count * _PARTS)

    def state(self) -> dict[str, object]:
        """Everything it takes to go on later, in JSON's types; about ten thousand characters."""
        seen = [{"shape": list(means.shape), "means": means.ravel().tolist()} for means in self._seen]
        return {"sum": self._sum, "count": self._count, "seen": seen}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Flicker:
        """Go on from what `state` gave; the figure becomes the very one of an undisturbed run."""
        flicker = cls()
        flicker._sum, flicker._count = int(state["sum"]), int(state["count"])
        flicker._seen = [np.array(one["means"], np.int64).reshape(one["shape"]) for one in state["seen"]]
        return flicker


def _divided(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each cell begins on a side of so many pixels, and how many it has."""
    count = min(_CELLS, length)
    starts = np.arange(count) * length // count
    return starts, np.diff(starts, append=length)
