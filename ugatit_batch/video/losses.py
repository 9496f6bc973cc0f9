"""Which pictures damage has cost, told from the timestamps that went into a decoder and those that came out.

Knows nothing of decoders and files. All timestamps are integers of one unit.
"""

from __future__ import annotations

from dataclasses import dataclass

_REGULAR_SHARE = 50
"""A stream in which more than one packet in so many gives no picture is not held to one picture a packet."""

_PROVEN = 8
"""Pictures after which a stream counts as one that gives a picture a packet."""


@dataclass
class _Sent:
    duration: int
    suspect: bool


class Ledger:
    """Packets that went into a decoder and have not come out as a picture.

    A packet that never comes out is a picture lost only where damage was seen about it: healthy streams
    hold packets without a picture of their own (second fields, hidden pictures, packed B-frames).

    Args:
        silent: whether the decoder may leave out a picture that it cannot read without a word, so that a
            stream that gave one picture a packet so far is held to it.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._pending: dict[int, _Sent] = {}
        self._damaged = False
        self._clean_from: int | None = None
        self._came = 0
        self._strays = 0

    def sent(self, stamp: int | None, duration: int, keyframe: bool) -> None:
        """A packet goes in.

        Args:
            stamp: its timestamp, None where it has none; such a packet is not missed.
            duration: of its picture; 0 where nobody knows.
            keyframe: whether decoding can begin with it: what is shown after it is no longer suspect.
        """
        if keyframe and self._damaged:
            self._damaged = False
            self._clean_from = stamp
        if stamp is not None:
            leading = self._clean_from is not None and stamp < self._clean_from
            self._pending[stamp] = _Sent(duration, self._damaged or leading)

    def damage(self) -> None:
        """The decoder met damage, in one of the packets that have not come out."""
        self._damaged = True
        for packet in self._pending.values():
            packet.suspect = True

    def came(self, stamp: int) -> list[tuple[int, int]]:
        """A picture comes out.

        Returns:
            (timestamp, duration) of the pictures before it that damage has cost, in order.
        """
        passed = sorted(other for other in self._pending if other <= stamp)
        lost = self._lost([other for other in passed if other != stamp])
        self._pending.pop(stamp, None)
        self._came += 1
        return lost

    def end(self) -> list[tuple[int, int]]:
        """The decoder has given everything: the pictures at the end that damage has cost, as in `came`.

        A decoder of several threads that meets damage as it ends gives up the others' pictures silently.
        """
        if self._regular:
            self.damage()
        return self._lost(sorted(self._pending))

    @property
    def _regular(self) -> bool:
        """Whether the stream gives one picture a packet, as far as was seen."""
        return self._strays * _REGULAR_SHARE <= self._came

    def _lost(self, passed: list[int]) -> list[tuple[int, int]]:
        regular, silent = self._regular, self._silent and not self._strays and self._came >= _PROVEN
        lost = []
        for stamp in passed:
            packet = self._pending.pop(stamp)
            if packet.suspect:
                if regular:
                    lost.append((stamp, packet.duration))
            elif silent:
                self.damage()
                lost.append((stamp, packet.duration))
            elif self._came:
                # Before the first picture, what belongs to a part that is not in the file is left out.
                self._strays += 1
        return lost


class Clock:
    """Timestamps made strictly increasing.

    A picture that is given no later time than the one before it, as broken files have them, is shown one
    unit after that. Where time jumps back by more than `jump`, as in a recording that was started anew in
    the same file, the rest goes on where the film was.

    Args:
        jump: units that are too many for an error of a picture or two.
        usual: units that a picture lasts, as far as is known.
    """

    def __init__(self, jump: int, usual: int) -> None:
        self._jump = jump
        self._usual = max(usual, 1)
        self._last: int | None = None
        self._last_duration = 0
        self.moved = 0
        """Pictures that were given another time."""
        self.shifts: list[int] = []
        """By how many units pictures are moved on, all in all, from each jump back on."""

    def __call__(self, stamp: int | None, duration: int) -> int:
        """The timestamp of the next picture; None where the file gives it none."""
        last = self._last
        after = 0 if last is None else last + (self._last_duration or self._usual)
        shift = self.shifts[-1] if self.shifts else 0
        stamp = after if stamp is None else stamp + shift
        if last is not None and stamp <= last - self._jump:
            self.shifts.append(shift + after - stamp)
            stamp = after
        elif last is not None and stamp <= last:
            stamp = last + 1
            self.moved += 1
        self._last, self._last_duration = stamp, duration
        return stamp
