"""Work whose output folder may be taken away: it fails then, and does not make the folder anew.

An empty folder of that name may be the place where a disk was mounted. Knows nothing of what is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ugatit_batch.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ugatit_batch.frames import Finished, Frame, Smoothing
    from ugatit_batch.pipeline import Work

ResultT = TypeVar("ResultT")


def gone(root: Path) -> OutputError:
    """What is said of an output folder that is not there any more."""
    return OutputError(f"{root}: the output folder is gone", "make it again, or mount its disk")


def require_folder(root: Path) -> None:
    """Do nothing where a folder is there.

    Raises:
        OutputError: it is not.
    """
    if not root.is_dir():
        raise gone(root)


class Within(Generic[ResultT]):
    """A Work that writes below a folder.

    Args:
        work: does the work.
        root: the folder, which was there when the work was opened.
    """

    def __init__(self, work: Work[ResultT], root: Path) -> None:
        self._work, self._root = work, root

    @property
    def streams(self) -> bool:
        """See `Work`."""
        return self._work.streams

    @property
    def smoothing(self) -> Smoothing | None:
        """See `Work`."""
        return self._work.smoothing

    def frames(self) -> Generator[Frame, None, None]:
        """See `Work`."""
        return self._work.frames()

    def add(self, finished: Finished) -> None:
        """See `Work`."""
        if self._work.streams:
            require_folder(self._root)
        self._work.add(finished)

    def finish(self) -> ResultT:
        """See `Work`."""
        require_folder(self._root)
        return self._work.finish()

    def abandon(self) -> None:
        """See `Work`."""
        self._work.abandon()

    def pause(self) -> None:
        """See `Work`."""
        if self._root.is_dir():
            self._work.pause()
        else:
            self._work.abandon()
