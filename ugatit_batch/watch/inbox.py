"""The watched folder: which files have come into it and stopped changing.

Events say where to look, walks say what is there. Knows nothing of models or outputs.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import OutputBusyError, PictureError
from ugatit_batch.watch.gate import Version
from ugatit_batch.watch.hints import Hints
from ugatit_batch.watch.places import network_file_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.watch.gate import Arrival, Gate
    from ugatit_batch.watch.rules import Rules

Need = Literal["wanted", "at hand", "over"]
"""Of one version of a file: to be translated; that is on its way already; done or failed for good."""
_LOCK = ".ugatit-batch.lock"
_AT_ONCE = 100
"""Files that are looked at between two questions whether to stop."""
_BURST = 2000
"""Files that are handed out at once."""
_POLL_SHARE = 10
"""Polling rests so many times as long as a walk takes."""


class Inbox:
    """A folder that files come into.

    Args:
        rules: the folder, and what is looked at in it.
        gate: tells when a file has stopped changing.
        need: what there is to do for a file in this version.
        wake: called, from other threads too, when there is something to take in.
        should_stop: asked during long walks; True ends them.
        poll: look at everything again and again, where the system does not tell of changes.
        settle: seconds, as the gate's.
        rescan: seconds between two walks through everything.
        claim: whether the folder is to belong to this program alone, as where files are taken out of it.
    """

    def __init__(
        self,
        rules: Rules,
        gate: Gate,
        need: Callable[[Path, Version], Need],
        wake: Callable[[], object],
        should_stop: Callable[[], bool] = lambda: False,
        *,
        poll: bool = False,
        settle: float = 2.0,
        rescan: float = 300.0,
        claim: bool = False,
    ) -> None:
        self._rules, self._gate, self._need = rules, gate, need
        self._wake, self._should_stop = wake, should_stop
        self._poll, self._settle, self._rescan = poll, settle, rescan
        self._claim = FileLock(rules.folder / _LOCK, thread_local=False) if claim else None
        self._hints: Hints | None = None
        self._walk_at: dict[Path, float] = {}
        self._rescan_at = -math.inf
        # Hashes of versions that are over: walks would ask for each of many thousands again and again.
        self._over: set[int] = set()
        self._over_before: set[int] = set()
        self._unreadable: dict[Path, PictureError] = {}
        self._told: set[Path] = set()

    @property
    def folder(self) -> Path:
        """The watched folder."""
        return self._rules.folder

    @property
    def waiting(self) -> int:
        """Files that have been touched and not been handed out yet, about."""
        return len(self._gate)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waited for."""
        return not (len(self._gate) or self._walk_at)

    def files(self) -> Iterator[Path]:
        """All files that are there."""
        for path, _ in self._files(self.folder):
            yield path

    def open(self) -> str | None:
        """Watch the folder, if it is there and not watched already.

        Returns:
            How it is watched, where watching has just begun; None where it goes on.

        Raises:
            PictureError: the folder is not there, or cannot be looked into.
            OutputBusyError: another program takes files out of it.
            OutputError: no file can be taken out of it.
        """
        if self._hints is not None and self._hints.alive:
            return None
        self.close()
        if not self.folder.is_dir():
            raise PictureError(f"{self.folder}: the watched folder is not there", "waiting until it is back")
        self._take_claim()
        network = network_file_system(self.folder)
        started = time.monotonic()
        # Before the first walk: what comes in between is told, what came before is walked over.
        poll = self._poll or network is not None
        interval = max(1.0, self._settle)
        if poll:
            for _ in self._files(self.folder):
                pass
            interval = max(interval, _POLL_SHARE * (time.monotonic() - started))
        self._hints = Hints(self.folder, self._wake, poll=poll, interval=interval)
        self._rescan_at = -math.inf
        if not self._hints.polling:
            return "told of changes by the system"
        why = f"{network} does not tell of changes" if network else self._hints.reason
        return f"looked through every {interval:.0f} s" + (f": {why}" if why else "")

    def close(self) -> None:
        """Watch no more. What is known of the files stays."""
        if self._claim is not None:
            self._claim.release()
        if self._hints is not None:
            self._hints.close()
        self._hints = None

    def rescan(self) -> None:
        """Look at everything with the next `look`, whatever was known of it."""
        self._rescan_at = -math.inf
        self._over.clear()

    def look(self) -> list[Arrival]:
        """The files that have become ready, or are given up."""
        now = time.monotonic()
        if self._hints is not None:
            touched = self._hints.take()
            for path, at in touched.files.items():
                self._consider(path, at)
            for folder in touched.folders:
                self._walk(folder, now)
                # What comes into a new folder before it is watched is told of by nobody.
                self._walk_at[folder] = now + self._settle
        for folder in [folder for folder, at in self._walk_at.items() if at <= now]:
            del self._walk_at[folder]
            self._walk(folder, now)
        if now >= self._rescan_at:
            self._unreadable.clear()
            # What is not met on the way is gone, and forgotten.
            self._over_before, self._over = self._over, set()
            self._walk(self.folder, now)
            self._over_before = set()
            self._told &= self._unreadable.keys()
            self._rescan_at = time.monotonic() + self._rescan
        return self._advance(time.monotonic())

    def _advance(self, now: float) -> list[Arrival]:
        arrivals: list[Arrival] = []
        # In pieces: many thousands must neither be deaf to `should_stop` nor be looked at before all work.
        while len(arrivals) < _BURST and not self._should_stop():
            arrivals += self._gate.advance(now, _AT_ONCE)
            due = self._gate.next()
            if due is None or due > now:
                break
        return arrivals

    def problems(self) -> Iterator[PictureError]:
        """Folders that cannot be looked into, each once until it can be."""
        for folder, error in self._unreadable.items():
            if folder not in self._told:
                self._told.add(folder)
                yield error

    def next(self) -> float:
        """When `look` has something to do without being woken, in monotonic seconds."""
        times = [self._rescan_at, *self._walk_at.values()]
        due = self._gate.next()
        return min(times if due is None else [*times, due])

    def _take_claim(self) -> None:
        if self._claim is None:
            return
        try:
            self._claim.acquire(blocking=False)
        except Timeout as error:
            raise OutputBusyError(
                f"{self.folder}: another program moves or deletes what is in this folder",
                "end that one, or watch with --after keep",
            ) from error
        except NotImplementedError:
            # A disk without locks.
            return
        except OSError as error:
            raise explain_os_error(error, self.folder / _LOCK) from error

    def _walk(self, folder: Path, now: float) -> None:
        for path, version in self._files(folder):
            if self._wants(path, version) and path not in self._gate:
                self._gate.touch(path, now)

    def _files(self, folder: Path) -> Iterator[tuple[Path, Version]]:
        for path, version in self._rules.files(folder, self._cannot_look):
            if self._should_stop():
                return
            yield path, version

    def _cannot_look(self, folder: Path, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            problem = f"{folder}: cannot be looked into: {error.strerror}"
            self._unreadable[folder] = PictureError(problem, "check its permissions")

    def _consider(self, path: Path, at: float) -> None:
        if not self._rules.wants(path):
            return
        version = None
        with contextlib.suppress(OSError):
            version = Version.of(path.stat())
        if version is not None and self._wants(path, version):
            self._gate.touch(path, at)

    def _wants(self, path: Path, version: Version) -> bool:
        number = hash((path, version))
        if number in self._over or number in self._over_before:
            self._over.add(number)
            return False
        need = self._need(path, version)
        if need == "over":
            self._over.add(number)
        return need == "wanted"
