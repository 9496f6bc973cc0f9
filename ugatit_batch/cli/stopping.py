"""Ending a service by signals: the first one gently, the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ugatit_batch.cli.shared import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


class Stopping:
    """While the block is open, the first SIGINT or SIGTERM calls what `at_first` was given.

    The second one ends the program where it is: all that it writes is whole or not there at any moment.
    """

    def __init__(self) -> None:
        self._asked = False
        self._tell: Callable[[], object] = lambda: None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def at_first(self, tell: Callable[[], object]) -> None:
        """Call this at the first signal; at once where it has come already."""
        self._tell = tell
        if self._asked:
            tell()

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            self._tell()
            _say(b"\nugatit-batch: stopping; what is at hand is finished; a second time stops at once\n")
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if sys.stderr.isatty():
                _say(_SHOW_CURSOR)
        _say(b"\nugatit-batch: stopped at once; the same command goes on from here\n")
        os._exit(INTERRUPTED)


def _say(words: bytes) -> None:
    """By the system's own call: whatever Python would write to may be in use by what was interrupted."""
    # Where it was closed from the start, its number may be that of any other file.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody may be left to read
            os.write(2, words)
