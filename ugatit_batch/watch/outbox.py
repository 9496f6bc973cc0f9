"""The output folder of a watch folder: kept for this program alone, and found again after it was away.

Knows nothing of inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ugatit_batch.errors import OutputError
from ugatit_batch.journal import NAME
from ugatit_batch.within import gone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.jobs import Session


class Outbox:
    """An output folder with the session that fills it.

    Args:
        root: the folder; it is made where it is not there when it is opened for the first time.
        open_session: opens the session, whose journal is in the folder.
    """

    def __init__(self, root: Path, open_session: Callable[[], Session]) -> None:
        self.root, self._open_session = root, open_session
        self._session: Session | None = None
        self._journal = (0, 0)
        self._device: int | None = None

    @property
    def session(self) -> Session:
        """The session; only while it is open."""
        if self._session is None:
            raise RuntimeError(f"{self.root} is not open")
        return self._session

    @property
    def is_here(self) -> bool:
        """Whether the folder is open, and still the one that was opened."""
        return self._session is not None and self._identify() == self._journal

    def open(self) -> str | None:
        """Open the folder where it is not open, or not the same any more.

        Returns:
            What has been found, where it was opened again; None else.

        Raises:
            OutputError: it is away, or cannot be written.
            OutputBusyError: another run writes to it.
            DiskFullError: there is no room for its journal.
        """
        if self.is_here:
            return None
        self.close()
        if self._device is not None:
            self._check_return(self._device)
        self._session = self._open_session()
        self._journal = self._identify() or (0, 0)
        again, self._device = self._device is not None, self.root.stat().st_dev
        return f"{self.root}: the output folder is there again" if again else None

    def close(self) -> None:
        """Give the folder back to other programs."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _check_return(self, device: int) -> None:
        """Refuse to make the folder anew, or to fill the one that a disk was mounted on."""
        try:
            there = self.root.stat().st_dev
        except OSError as error:
            raise gone(self.root) from error
        if there != device and not (self.root / NAME).exists():
            raise OutputError(
                f"{self.root}: the output folder is on another disk than before, and empty",
                "mount its disk again; or start anew, if it is meant to be there",
            )

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = (self.root / NAME).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino
