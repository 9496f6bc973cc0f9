"""Putting frames together to batches for a translator, and telling whose results they are.

Knows nothing of threads, files or networks.
"""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from ugatit_batch.frames import Averaging, Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_batch.frames import Frame, Smoothing, Style

_IDLE = 0.02  # seconds without a new frame after which a short batch is sent off
_LONG = 0.1  # seconds to wait where nothing is to be sent off


class Ticket(Protocol):
    """One item on its way."""

    failed: bool
    style: Style | None
    """Of its last translated frame, where it is averaged."""

    @property
    def streams(self) -> bool:
        """Whether its frames are a film: they share no batch with those of another item."""

    @property
    def smoothing(self) -> Smoothing | None:
        """Whether the style is averaged along its frames."""


TicketT = TypeVar("TicketT", bound=Ticket)


@dataclass(frozen=True)
class Queued(Generic[TicketT]):
    """One frame of an item."""

    ticket: TicketT
    frame: Frame


class Batcher(Generic[TicketT]):
    """Turns one line of frames into batches of one size, and into streams: of pictures, or of one film.

    Args:
        size: frames in a full batch.
        take: the next frame, or None after the last; waits so many seconds and raises `queue.Empty` then.
        drop: is given the frames of items that have failed, which no batch needs any more.
    """

    def __init__(
        self,
        size: int,
        take: Callable[[float], Queued[TicketT] | None],
        drop: Callable[[Queued[TicketT]], None],
    ) -> None:
        self._size, self._take, self._drop = size, take, drop
        self._waiting: dict[tuple[int, ...], list[Queued[TicketT]]] = {}
        self._pending: deque[list[Queued[TicketT]]] = deque()
        self._again: deque[list[Queued[TicketT]]] = deque()
        self._held: Queued[TicketT] | None = None
        self._film: TicketT | None = None
        self._exhausted = False

    @property
    def has_more(self) -> bool:
        """Whether another call of `stream` may have something."""
        return not self._exhausted or bool(self._again or self._waiting or self._held)

    @property
    def is_waiting(self) -> bool:
        """Whether batches have been handed out and not come back."""
        return bool(self._pending)

    def stream(self) -> Iterator[Batch]:
        """Batches for one call of a translator.

        Ends where a film begins or ends, and where it would have to wait while the translator holds results
        back.
        """
        first = True
        for group in self._groups():
            self._pending.append(group)
            yield Batch(np.stack([one.frame.pixels for one in group]), _averaging(group, first))
            first = False

    def came_back(self) -> list[Queued[TicketT]]:
        """The frames of the batch that was handed out first and has come back now."""
        return self._pending.popleft()

    def failed(self) -> list[Queued[TicketT]]:
        """The frames of the batch that was handed out first and failed; the others are handed out again."""
        failed = self._pending.popleft()
        # Before what an earlier failure has left to be done again.
        self._again.extendleft(reversed(self._pending))
        self._pending.clear()
        return failed

    def _groups(self) -> Iterator[list[Queued[TicketT]]]:
        begun = False
        while self._again:
            group = self._still_wanted(self._again.popleft())
            if group:
                begun = True
                yield group
        while not self._exhausted or self._held is not None:
            try:
                entry = self._held or self._take(_IDLE if self._waiting or self._pending else _LONG)
            except queue.Empty:
                if self._waiting:
                    begun = True
                    yield self._flush()
                elif self._pending:
                    return
                continue
            if entry is None:
                self._exhausted = True
                continue
            film = entry.ticket if entry.ticket.streams else None
            if film is not self._film:
                self._held = entry
                while self._waiting:
                    begun = True
                    yield self._flush()
                if begun:
                    return
                self._film = film
            self._held = None
            if entry.ticket.failed:
                self._drop(entry)
                continue
            shape = entry.frame.pixels.shape
            group = self._waiting.setdefault(shape, [])
            group.append(entry)
            if len(group) >= self._size:
                begun = True
                yield self._waiting.pop(shape)
            elif sum(map(len, self._waiting.values())) >= 2 * self._size:
                begun = True
                yield self._flush()
        while self._waiting:
            yield self._flush()

    def _flush(self) -> list[Queued[TicketT]]:
        return self._waiting.pop(next(iter(self._waiting)))

    def _still_wanted(self, group: list[Queued[TicketT]]) -> list[Queued[TicketT]]:
        for one in group:
            if one.ticket.failed:
                self._drop(one)
        return [one for one in group if not one.ticket.failed]


def _averaging(group: list[Queued[TicketT]], first: bool) -> Averaging | None:
    ticket = group[0].ticket
    smoothing = ticket.smoothing
    if smoothing is None:
        return None
    before = ticket.style if ticket.style is not None else smoothing.before
    cuts = np.array([one.frame.cut for one in group])
    return Averaging(smoothing.keep, cuts, before if first else None)
