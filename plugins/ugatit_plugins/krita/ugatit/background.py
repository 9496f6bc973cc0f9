"""Work in a thread, which is looked at from the window now and then. Knows nothing of Krita.

Krita's own calls belong to the window's thread: what is given to a Task makes none.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Generic, TypeVar

ResultT = TypeVar("ResultT")


class Task(Generic[ResultT]):
    """Some work that has begun.

    Args:
        work: is given what tells whether it was cancelled, and what takes words for the user.
    """

    def __init__(self, work: Callable[[Callable[[], bool], Callable[[str], None]], ResultT]) -> None:
        self._cancelled = threading.Event()
        self._said = ""
        self._began = time.monotonic()
        threads = ThreadPoolExecutor(1, "ugatit")
        self._future = threads.submit(work, self._cancelled.is_set, self._say)
        threads.shutdown(wait=False)

    @property
    def said(self) -> str:
        """What it last said for the user."""
        return self._said

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    @property
    def ended(self) -> bool:
        """Whether it is done, or has failed."""
        return self._future.done()

    def cancel(self) -> None:
        """Ask it to end; it does within a few hundredths of a second."""
        self._cancelled.set()

    def result(self) -> ResultT:
        """What came of it, once it has ended; what it raised is raised here."""
        return self._future.result()

    def _say(self, text: str) -> None:
        self._said = text
