"""Which of the files that were touched have stopped changing.

A state machine: the time comes from outside, files are seen through two functions. Knows nothing of folders,
of how a touch is noticed, or of what is made of the files.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import UgatitBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ugatit_batch.watch.ready import Look

_PATIENCE = 10
"""Times `settle` of unchanged size and time after which touches alone postpone no more."""
_LEAST_SETTLE = 0.01
"""Seconds. With none, a file that never stops changing would be looked at for ever in one call."""
_SHORTEST, _LONGEST = 0.5, 30.0
"""Seconds between two looks at a file that another program has open."""
_MOST_DOUBLINGS = 8


@dataclass(frozen=True)
class Version:
    """What tells one state of a file from another. Only equality counts: clocks are set back."""

    size: int
    """Bytes."""
    mtime: int
    """Nanoseconds."""

    @classmethod
    def of(cls, status: os.stat_result) -> Version:
        """Of a file whose status is known."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Arrival:
    """A file that is ready, or that is given up."""

    path: Path
    version: Version
    error: UgatitBatchError | None = None
    """Why it is given up; None where it is ready."""


def version_of(path: Path) -> Version | None:
    """The version of a file; None where there is no file, or where its status cannot be had."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Version.of(status) if stat.S_ISREG(status.st_mode) else None


@dataclass(eq=False, slots=True)
class _Candidate:
    """One file in one version. Times are in monotonic seconds."""

    path: Path
    version: Version
    since: float
    """When this version was first seen."""
    touched: float
    """When something was last said of the file."""
    tries: int = 0
    """Pauses that have been begun because of errors."""
    looks: int = 0
    """That found it open in another program."""
    hold: float = -math.inf
    """Not looked at before this."""
    is_open: bool = False
    """Whether `hold` is there because another program had it open."""
    entry: int = -1
    """Number of its one entry in the heap that counts."""

    def due(self, settle: float) -> float:
        """When it may be looked at."""
        quiet = max(self.touched, self.since) + settle
        return max(self.hold, min(quiet, self.since + _PATIENCE * settle))


class Gate:
    """Holds files back until they have stopped changing and can be opened.

    A file is ready when for `settle` seconds nothing was said of it, its size and time of modification have
    not changed, and `look` says that it is whole. What goes on being said of a file that does not change
    postpones it to ten times `settle` at most. Any change of size or time begins from the start.

    All times given must be of one clock that never goes back.

    Args:
        settle: seconds, 0 or more.
        pauses: seconds to wait after the first, second, ... error of one version of a file; after as many
            errors and one more it is given up.
        look: looks into a file that has settled.
        version: of a file as it is now; None where it is gone.
    """

    def __init__(
        self,
        settle: float,
        pauses: Sequence[float],
        look: Callable[[Path], Look],
        version: Callable[[Path], Version | None] = version_of,
    ) -> None:
        self._settle, self._pauses = max(settle, _LEAST_SETTLE), tuple(pauses)
        self._look, self._version = look, version
        self._touched: dict[Path, float] = {}
        self._waiting: dict[Path, _Candidate] = {}
        self._out: dict[Path, _Candidate] = {}
        self._heap: list[tuple[float, str, int, _Candidate]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Files that have been touched and are neither handed out nor dropped."""
        return len(self._waiting) + sum(path not in self._waiting for path in self._touched)

    def __contains__(self, path: Path) -> bool:
        return path in self._waiting or path in self._touched

    def touch(self, path: Path, now: float) -> None:
        """Something was said of a file at `now`. Costs nothing but memory until `advance`."""
        self._touched[path] = max(now, self._touched.get(path, now))

    def advance(self, now: float, most: float = math.inf) -> list[Arrival]:
        """What has become ready by `now`, or is given up, in that order, and by path where it is the same.

        Args:
            now: at least that of any earlier call.
            most: files to look at; the others stay due, so that `next` gives a time that is past.
        """
        self._take_touches(now)
        arrivals: list[Arrival] = []
        looks = 0
        while self._heap and self._heap[0][0] <= now and looks < most:
            due, _, entry, candidate = heapq.heappop(self._heap)
            if candidate.entry != entry:
                continue
            if candidate.due(self._settle) > due:
                self._queue(candidate)
                continue
            if not self._is_unchanged(candidate, now):
                continue
            looks += 1
            arrival = self._judge(candidate, now)
            if arrival is not None:
                arrivals.append(arrival)
        return arrivals

    def again(self, arrival: Arrival, error: UgatitBatchError, now: float) -> bool:  # noqa: ARG002
        """A file that was handed out has failed at `now`.

        Returns:
            True: it comes again, after the next pause or because it has changed by now. False: no tries are
            left; it stays known as handed out until `forget`.
        """
        path = arrival.path
        if path in self._waiting:
            return True
        candidate = self._out.get(path)
        if candidate is None:
            candidate = _Candidate(path, arrival.version, since=now, touched=now)
        elif candidate.version != arrival.version:
            return True
        if candidate.tries >= len(self._pauses):
            return False
        self._out.pop(path, None)
        self._waiting[path] = candidate
        self._pause(candidate, now)
        return True

    def forget(self, path: Path) -> None:
        """A file that was handed out is done with: nothing needs to be known of it any more."""
        self._out.pop(path, None)

    def next(self) -> float | None:
        """When `advance` has something to look at; None where nothing is waited for."""
        if self._touched:
            return next(iter(self._touched.values()))
        while self._heap and self._heap[0][3].entry != self._heap[0][2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _take_touches(self, now: float) -> None:
        touched, self._touched = self._touched, {}
        for path, at in touched.items():
            candidate = self._waiting.get(path)
            if candidate is not None:
                candidate.touched = max(candidate.touched, at)
                if self._is_unchanged(candidate, now) and candidate.is_open:
                    # It may just have been closed.
                    soon = at + self._settle
                    if soon < candidate.hold:
                        candidate.hold = soon
                        self._queue(candidate)
                continue
            version = self._version(path)
            out = self._out.get(path)
            if version is not None and (out is None or out.version != version):
                candidate = _Candidate(path, version, since=now, touched=at)
                self._waiting[path] = candidate
                self._queue(candidate)

    def _is_unchanged(self, candidate: _Candidate, now: float) -> bool:
        """Look at a file's size and time: begin from the start where they have changed, drop what is gone."""
        version = self._version(candidate.path)
        if version == candidate.version:
            return True
        if version is None:
            self._drop(candidate)
            return False
        candidate.version, candidate.since, candidate.hold = version, now, -math.inf
        candidate.tries, candidate.looks, candidate.is_open = 0, 0, False
        self._queue(candidate)
        return False

    def _judge(self, candidate: _Candidate, now: float) -> Arrival | None:
        """Look into a file that has settled."""
        seen = self._look(candidate.path)
        candidate.is_open = seen == "open"
        if seen == "open":
            first = max(self._settle, _SHORTEST)
            candidate.hold = now + min(first * 2**candidate.looks, max(_LONGEST, first))
            candidate.looks = min(candidate.looks + 1, _MOST_DOUBLINGS)
            self._queue(candidate)
            return None
        if isinstance(seen, UgatitBatchError):
            if candidate.tries < len(self._pauses):
                self._pause(candidate, now)
                return None
            self._drop(candidate)
            return Arrival(candidate.path, candidate.version, seen)
        self._drop(candidate)
        if seen != "whole":
            return None
        self._out[candidate.path] = candidate
        return Arrival(candidate.path, candidate.version)

    def _pause(self, candidate: _Candidate, now: float) -> None:
        candidate.hold = now + self._pauses[candidate.tries]
        candidate.tries += 1
        candidate.looks = 0
        self._queue(candidate)

    def _queue(self, candidate: _Candidate) -> None:
        candidate.entry = next(self._numbers)
        due = candidate.due(self._settle)
        heapq.heappush(self._heap, (due, os.fspath(candidate.path), candidate.entry, candidate))

    def _drop(self, candidate: _Candidate) -> None:
        del self._waiting[candidate.path]
        candidate.entry = -1
