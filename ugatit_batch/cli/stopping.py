"""Ending a service by signals: the first one gently, the second one at once."""

from __future__ import annotations

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
        # Whatever is written to may be in use by what was interrupted: only the system's own call is safe.
        if not self._asked:
            self._asked = True
            os.write(
                2, b"\nugatit-batch: stopping; what is at hand is finished; a second time stops at once\n"
            )
            self._tell()
            return
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os.write(2, b"\nugatit-batch: stopped at once; the same command goes on from here\n")
        os._exit(INTERRUPTED)
