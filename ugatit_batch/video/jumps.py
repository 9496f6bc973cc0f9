"""By how much packets are moved on where a file's time jumps back, so that they stay with their pictures.

Knows nothing of files and decoders.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

JUMP = Fraction(1)
"""Seconds by which time falls that are too many for an error of a packet or two."""


class Jumps:
    """The parts of a file between which its time jumps back, told from the times of its packets.

    The streams of a file do not jump at the same place, and some have no packet near it. So each belongs to
    the part in which it is nearest to the pictures, and to a later one where its own time has fallen.

    Args:
        shifts: seconds by which pictures were moved on after each jump, in order.
        pictures: index of their stream, of which every packet has to come by.
    """

    def __init__(self, shifts: Sequence[Fraction], pictures: int) -> None:
        self._shifts = (Fraction(0), *shifts)
        self._pictures = pictures
        self._parts: dict[int, int] = {}
        self._last: dict[int, Fraction] = {}
        self._now = Fraction(0)

    def shift(self, stream: int, time: Fraction) -> Fraction:
        """What is added to the times of the next packet of a stream.

        Args:
            stream: its index.
            time: of the packet's decoding, in seconds of the file.
        """
        part = self._parts.get(stream, 0)
        if stream in self._last and time < self._last[stream] - JUMP:
            part = min(part + 1, len(self._shifts) - 1)
        self._last[stream] = time
        if stream == self._pictures:
            self._now = time + self._shifts[part]
        else:
            latest = max(part, self._parts.get(self._pictures, 0))
            part = min(range(part, latest + 1), key=lambda one: abs(time + self._shifts[one] - self._now))
        self._parts[stream] = part
        return self._shifts[part]
