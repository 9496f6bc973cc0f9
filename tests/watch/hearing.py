"""Gathering hints in tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ugatit_batch.watch.hints import Hints, Touched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 20.0


class Watcher:
    """Hints on a folder, with all that they ever said."""

    def __init__(self, folder: Path, *, poll: bool = False) -> None:
        self.root = folder
        self.woken = 0
        self.files: set[Path] = set()
        self.folders: set[Path] = set()
        self.events = 0
        self.hints = Hints(folder, self._wake, poll=poll, interval=0.05)

    def _wake(self) -> None:
        self.woken += 1

    def take(self) -> Touched:
        touched = self.hints.take()
        self.files |= touched.files.keys()
        self.folders |= touched.folders.keys()
        self.events += touched.events
        return touched

    def wait(self, is_enough: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_enough():
            assert time.monotonic() < deadline, (self.files, self.folders)
            time.sleep(0.01)
            self.take()

    def wait_for(self, *names: str) -> None:
        """Until these are said, as files or below folders, and forget them."""
        wanted = {self.root / name for name in names}
        self.wait(lambda: wanted <= self.files)
        self.files -= wanted

    def settle(self) -> None:
        """Until all is said of what has happened so far."""
        marker = self.root / "marker.txt"
        marker.write_text(str(time.monotonic_ns()))
        self.wait(lambda: marker in self.files)
        if self.hints.polling:
            # All of one look comes at once, but not within one moment.
            time.sleep(0.2)
        self.take()
        self.files.discard(marker)

    def covers(self, path: Path) -> bool:
        """Whether a file was said, or a folder that it is in."""
        return path in self.files or not self.folders.isdisjoint(path.parents)
