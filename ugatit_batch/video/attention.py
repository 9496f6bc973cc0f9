"""Attention of a film as pictures, one for each of its own.

Knows nothing of files or of models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ugatit_batch.images.geometry import from_network
from ugatit_batch.images.sidecars import colour_map, overlay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ugatit_batch.frames import Attention, Pixels
    from ugatit_batch.images.geometry import Placement
    from ugatit_batch.images.sidecars import Kind

_SECONDS = 1.0
"""Time in which the running range comes to 63 % of a change of the picture's own."""


def film_sidecar_path(target: Path, kind: Kind) -> Path:
    """Where the attention of the film `target` goes: `NAME.heatmap.EXT` …, `NAME.attention.npy`."""
    end = ".attention.npy" if kind == "npy" else f".{kind}{target.suffix}"
    return target.with_name(target.stem + end)


class AttentionPictures:
    """Draws the attention of picture after picture, scaled by a running range so that it does not flicker.

    The range begins anew at a cut. Only what lies within the picture counts, not the reflection around it.

    Args:
        placement: how the film's pictures pass through the network.
        kinds: what to draw; `npy` is not drawn.
        rate: pictures a second.
        state: from an earlier object, to go on after its last picture.
    """

    def __init__(
        self, placement: Placement, kinds: Sequence[Kind], rate: float, state: Sequence[float] | None = None
    ) -> None:
        self._placement = placement
        self._kinds = tuple(kind for kind in kinds if kind != "npy")
        self._keep = math.exp(-1 / max(rate * _SECONDS, 1e-6))
        self._range = None if state is None else (state[0], state[1])

    @property
    def state(self) -> list[float] | None:
        """What goes on has to know; plain values."""
        return None if self._range is None else list(self._range)

    def draw(self, attention: Attention, pixels: Pixels, cut: bool) -> dict[Kind, Pixels]:
        """Draw one picture's attention.

        Args:
            attention: float32 h×w, as the network gave it.
            pixels: uint8 H×W×3, what the network made of the picture.
            cut: whether a scene begins here.

        Returns:
            uint8 of the result's size, ×3, for each kind.
        """
        if not self._kinds:
            return {}
        levels = self._levels(np.asarray(attention, np.float32), cut)
        drawn: dict[Kind, Pixels] = {}
        for kind in self._kinds:
            if kind == "mask":
                drawn[kind] = np.repeat(levels[..., None], 3, axis=-1)
            elif kind == "heatmap":
                drawn[kind] = colour_map()[levels]
            else:
                drawn[kind] = overlay(np.asarray(from_network(pixels, self._placement)), levels)
        return drawn

    def _levels(self, attention: Attention, cut: bool) -> NDArray[np.uint8]:
        """uint8 of the result's size: 0 at the running lowest, 255 at the running highest."""
        height, width = attention.shape
        placement = self._placement
        across, down = width / placement.network[0], height / placement.network[1]
        left, top = placement.offset[0] * across, placement.offset[1] * down
        box = (left, top, left + placement.scaled[0] * across, top + placement.scaled[1] * down)
        inner = attention[math.floor(box[1]) : math.ceil(box[3]), math.floor(box[0]) : math.ceil(box[2])]
        finite = inner[np.isfinite(inner)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if self._range is not None and not cut:
            before, keep = self._range, self._keep
            low, high = keep * before[0] + (1 - keep) * low, keep * before[1] + (1 - keep) * high
        self._range = (low, high)
        span = high - low
        # Below this share of its values, a range is what rounding made of a flat map.
        if span <= 1e-6 * max(abs(low), abs(high)):
            return np.zeros(placement.result[::-1], np.uint8)
        known = np.nan_to_num(attention, nan=low, posinf=low, neginf=low)
        levels = np.clip((known - low) * (255 / span), 0, 255).astype(np.float32)
        image = Image.fromarray(levels).resize(placement.result, Image.Resampling.BILINEAR, box=box)
        return np.asarray(np.rint(np.asarray(image)), np.uint8)
