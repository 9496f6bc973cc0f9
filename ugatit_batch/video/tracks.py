"""One stream of a source on its way into the result, as it is: packets with their times moved and cut.

Knows nothing of codecs, and nothing of other streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

    import av

    Packet = av.Packet[Any]


@dataclass(frozen=True)
class Window:
    """Which part of a source is wanted. All in seconds."""

    begin: Fraction
    """Time in the file from which `start` and `end` count."""
    start: Fraction | None
    """From there on; None: all there is."""
    end: Fraction | None
    """Up to there, not included."""
    origin: Fraction
    """Time in the file that is 0 in the result, where no `start` was asked for."""

    @property
    def shift(self) -> Fraction:
        """What times lose: the result begins at 0 if a start was asked for."""
        return self.origin if self.start is None else self.begin + self.start

    def is_before(self, time: Fraction) -> bool:
        """Whether a time in the file comes before the part."""
        return self.start is not None and time - self.begin < self.start

    def is_after(self, time: Fraction) -> bool:
        """Whether a time in the file comes after the part."""
        return self.end is not None and time - self.begin >= self.end


class Track(Protocol):
    """What is done with one stream of the source."""

    def take(self, packet: Packet) -> Iterable[Packet]:
        """Packets for the result, which one of the source gives rise to.

        The packet has its source's times, and a time.
        """

    def finish(self) -> Iterable[Packet]:
        """What is left when the source has ended."""

    @property
    def notes(self) -> list[str]:
        """What could not be done, a clause each; known at the end."""


class CopiedTrack:
    """Data stay as they are, to the bit.

    Args:
        target: stream of the result.
        window: which part is wanted; a packet belongs to it if it begins in it.
        subtitles: whether these are subtitles, of which several may begin at a time, and of which one that
            began before the part may still be there at its start.
        hides_beginnings: whether the result can hold sound before its beginning that is not to be heard.
            In any case it holds one packet of that, without which decoders do not give the first sound.
    """

    def __init__(
        self,
        target: av.stream.Stream,
        window: Window,
        *,
        subtitles: bool = False,
        hides_beginnings: bool = False,
    ) -> None:
        self._target, self._window = target, window
        self._subtitles, self._hides = subtitles, hides_beginnings
        self._last: int | None = None
        self._hidden: Packet | None = None

    @property
    def notes(self) -> list[str]:
        """See `Track`."""
        return []

    def take(self, packet: Packet) -> Iterable[Packet]:
        """See `Track`."""
        if packet.is_discard and not self._hides:
            self._hidden = packet
            return
        if not packet.is_discard:
            # What later parts of an edit list hide would be heard.
            self._hides = False
        if self._hidden is not None:
            yield from self._moved(self._hidden)
            self._hidden = None
        yield from self._moved(packet)

    def _moved(self, packet: Packet) -> Iterable[Packet]:
        if not cut(packet, self._window, lasts=self._subtitles):
            return
        earliest = None if self._last is None else self._last + (not self._subtitles)
        # Damaged sources repeat times, or go back; muxers refuse that.
        if packet.dts is not None and earliest is not None and packet.dts < earliest:
            packet.dts = earliest
            packet.pts = max(packet.pts or 0, packet.dts)
        self._last = packet.dts
        packet.stream = self._target
        yield packet

    def finish(self) -> Iterable[Packet]:
        """See `Track`."""
        return ()


def cut(packet: Packet, window: Window, *, lasts: bool = False) -> bool:
    """Give a packet the times that it has in the result.

    Args:
        packet: with its source's times, which are changed.
        window: which part is wanted.
        lasts: whether a packet that began before the part but ends in it begins with the part.

    Returns:
        Whether it belongs to the part at all.
    """
    if packet.pts is None:
        packet.pts = packet.dts
    if packet.dts is None:
        packet.dts = packet.pts
    if packet.pts is None or packet.dts is None:
        return False
    unit = packet.time_base
    if window.is_after(packet.pts * unit):
        return False
    if window.is_before(packet.pts * unit):
        length = packet.duration or 0
        first = round(window.shift / unit)
        if not lasts or packet.pts + length <= first:
            return False
        packet.duration = packet.pts + length - first
        packet.pts = packet.dts = first
    shift = round(window.shift / unit)
    packet.pts -= shift
    packet.dts -= shift
    return True
