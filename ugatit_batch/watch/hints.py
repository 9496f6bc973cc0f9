"""Which files and folders have been touched, as the system tells or as polling finds out.

Hints only: some are lost, some are of things that are gone. Knows nothing of what files are for.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from watchdog.events import (
    EVENT_TYPE_CREATED,
    EVENT_TYPE_MOVED,
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver, PollingObserverVFS

from ugatit_batch.errors import PictureError
from ugatit_batch.watch.places import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdog.observers.api import BaseObserver

_ARRIVALS: list[type[FileSystemEvent]] = [FileCreatedEvent, DirCreatedEvent, FileMovedEvent, DirMovedEvent]
# Linux tells when a file that was written is closed. Each single write is told by the others only, and
# opening and reading, which we do ourselves, must never be asked for.
_TOLD = [*_ARRIVALS, FileClosedEvent if sys.platform == "linux" else FileModifiedEvent]
_POLLED = [*_ARRIVALS, FileModifiedEvent]

_LIMITS = {
    errno.ENOSPC: "the system's limit of watched folders is reached; "
    "raise fs.inotify.max_user_watches with sysctl",
    errno.EMFILE: "the system's limit of watching programs, or of open files, is reached; "
    "raise fs.inotify.max_user_instances with sysctl",
}


@dataclass(frozen=True)
class Touched:
    """What was touched, with the time of the last event in monotonic seconds."""

    files: dict[Path, float] = field(default_factory=dict)
    """Files that have come, were renamed to this name, or were written; some may be gone again."""
    folders: dict[Path, float] = field(default_factory=dict)
    """Folders that have come, of which everything below may be new; none of them is below another one."""
    events: int = 0
    """How many events that were."""


class Hints:
    """Gathers what is touched below a folder, from the moment this is made until it is closed.

    Folders that are reached over a link are not watched, so only a walk finds what comes into them.

    Args:
        folder: the folder. Paths come as `folder / ...`, whatever links lead to it.
        wake: called after each event, from other threads; must return at once.
        poll: compare all files' sizes and times again and again instead of letting the system tell.
        interval: seconds between two such looks.

    Raises:
        PictureError: the folder is not there, or cannot be looked into.
    """

    polling: bool
    """Whether it looks again and again by itself."""
    reason: str | None
    """Why it does, where that was not asked for."""

    def __init__(
        self, folder: Path, wake: Callable[[], object], *, poll: bool = False, interval: float = 1.0
    ) -> None:
        self._folder, self._wake, self._interval = folder, wake, interval
        # A link itself has no events.
        self._root = os.path.realpath(folder)
        self._place = Place(folder)
        self._lock = threading.Lock()
        self._files: dict[Path, float] = {}
        self._folders: dict[Path, float] = {}
        self._events = 0
        self._closing = self._is_full = self._is_lossy = False
        self._complaints = _Complaints(self._doubt)
        self.polling, self.reason = poll, None
        logging.getLogger("watchdog").addHandler(self._complaints)
        # It warns of each new folder that it comes upon twice, and of folders that may not be read.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.observers")
        try:
            os.scandir(self._root).close()
            self._observer = self._start_polling() if poll else self._start()
        except OSError as error:
            logging.getLogger("watchdog").removeHandler(self._complaints)
            raise PictureError(
                f"{folder}: cannot be watched: {error.strerror}", "check that it is there and can be read"
            ) from error
        self._emitters = tuple(self._observer.emitters)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more, and end all threads. What was touched can still be taken."""
        if not self._closing:
            self._closing = True
            _stop(self._observer)
            logging.getLogger("watchdog").removeHandler(self._complaints)

    def take(self) -> Touched:
        """What was touched since the last call."""
        with self._lock:
            files, folders, events = self._files, self._folders, self._events
            self._files, self._folders, self._events = {}, {}, 0
        if folders and not (self._closing or self.polling):
            self._is_full = self._is_full or not _has_room(self._observer, self._root)
        return Touched(files, _topmost(folders), events)

    @property
    def alive(self) -> bool:
        """Whether it still watches what stands at the folder's place.

        It ends by itself when the folder is removed, renamed, unmounted or mounted over, when there are more
        folders below than the system lets a user watch, and when events were lost, as where they came faster
        than they could be read. Make a new one then, and walk through the folder.
        """
        # watchdog's reader of inotify is not among what it tells of.
        threads = (self._observer, *self._emitters, getattr(self._observer, "_inotify_fd", self._observer))
        return (
            not (self._closing or self._is_full or self._is_lossy)
            and all(thread.is_alive() and thread.should_keep_running() for thread in threads)
            and self._place.state() == "here"
            and self._is_root_watched()
        )

    # Starting.

    def _start(self) -> BaseObserver:
        """Let the system tell; poll where it cannot."""
        observer = None
        try:
            observer = Observer(timeout=1.0)
            if not isinstance(observer, PollingObserver):
                observer.schedule(_Handler(self._touch), self._root, recursive=True, event_filter=_TOLD)
                observer.start()
                _mend(observer)
                if _has_room(observer, self._root):
                    return observer
                self.reason = _LIMITS[errno.ENOSPC]
            else:
                self.reason = "this system does not tell of changes"
        except (OSError, RuntimeError) as error:
            number = error.errno if isinstance(error, OSError) else None
            problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.reason = _LIMITS.get(number or 0, f"the system cannot tell of changes here: {problem}")
        if observer is not None:
            _stop(observer)
        self.polling = True
        return self._start_polling()

    def _start_polling(self) -> BaseObserver:
        observer = PollingObserverVFS(self._stat, self._list, polling_interval=self._interval)
        observer.schedule(_Handler(self._touch), self._root, recursive=True, event_filter=_POLLED)
        try:
            observer.start()
        except OSError:
            _stop(observer)
            raise
        return observer

    def _stat(self, path: str) -> os.stat_result:
        """A link to a folder counts as a file: links that lead back would be followed without end."""
        if self._closing:
            # A look at many files must not hold up the end.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode):
            return status
        target = Path(path).stat()
        return status if stat.S_ISDIR(target.st_mode) else target

    def _list(self, path: str | None) -> Iterator[os.DirEntry[str]]:
        """One folder that cannot be read must not end the look at all others."""
        try:
            if self._closing:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            with os.scandir(path) as entries:
                return iter(list(entries))
        except OSError as error:
            if path == self._root:
                raise
            raise FileNotFoundError(errno.ENOENT, error.strerror, path) from error

    # What watchdog's threads say.

    def _touch(self, event: FileSystemEvent) -> None:
        moved = event.event_type == EVENT_TYPE_MOVED
        text = os.fsdecode(event.dest_path if moved else event.src_path)
        path = self._here(text)
        # What it is now: watchdog calls a link to a folder a file, and polling takes a new file for an old
        # folder where it has got its number.
        # `Path.is_dir` raises where a folder above may not be entered.
        is_folder = path == self._folder or (
            (moved or event.event_type == EVENT_TYPE_CREATED) and os.path.isdir(text)  # noqa: PTH112
        )
        with self._lock:
            (self._folders if is_folder else self._files)[path] = time.monotonic()
            self._events += 1
        self._wake()

    def _doubt(self) -> None:
        if not self._closing:
            self._is_lossy = True
            self._wake()

    def _here(self, text: str) -> Path:
        """A path as the caller names it; the folder itself for one that is not below it."""
        prefix = self._root.rstrip(os.sep) + os.sep
        return self._folder / text[len(prefix) :] if text.startswith(prefix) else self._folder

    def _is_root_watched(self) -> bool:
        """Whether watchdog still has the folder on its list.

        On inotify it goes on as if nothing had happened when the folder is unmounted, and mounting the same
        again gives the same device and number. Only its own list shows it.
        """
        watched = [
            getattr(getattr(emitter, "_inotify", None), "_active_callbacks_by_path", None)
            for emitter in self._emitters
        ]
        return all(paths is None or os.fsencode(self._root) in paths for paths in watched)


class _Handler(FileSystemEventHandler):
    """Hands on all events."""

    def __init__(self, touch: Callable[[FileSystemEvent], None]) -> None:
        self._touch = touch

    def dispatch(self, event: FileSystemEvent) -> None:
        self._touch(event)


class _Complaints(logging.Handler):
    """Notes that watchdog complains, of a queue that overflowed for example, instead of showing it."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self._tell()


def _stop(observer: BaseObserver) -> None:
    observer.stop()
    if observer.is_alive():
        observer.join()


def _mend(observer: BaseObserver) -> None:
    """Let watchdog 7 forget a folder that it has forgotten already.

    It keeps folders that were moved out of the tree under the name they had, and where a new folder had the
    same name, forgetting the second of the two is a KeyError: it ends the reading thread, or `stop` half-way,
    which then never returns.
    """
    for emitter in observer.emitters:
        group: Any = getattr(emitter, "_inotify", None)
        forget = getattr(group, "_remove_watch_internally", None)
        if forget is not None:
            group._remove_watch_internally = _forgiving(forget)


def _forgiving(forget: Callable[[int], None]) -> Callable[[int], None]:
    def forgiving(descriptor: int) -> None:
        with contextlib.suppress(KeyError):
            forget(descriptor)

    return forgiving


def _has_room(observer: BaseObserver, root: str) -> bool:
    """Whether the system lets us watch one more folder.

    watchdog is silent on folders below for which there was no room.
    """
    above = str(Path(root).parent)
    if sys.platform != "linux" or above == root:
        return True
    try:
        watch = observer.schedule(FileSystemEventHandler(), above, event_filter=[DirMovedEvent])
    except OSError as error:
        return error.errno != errno.ENOSPC
    observer.unschedule(watch)
    return True


def _topmost(folders: dict[Path, float]) -> dict[Path, float]:
    """Folders that are in no other one, with the time of the newest below."""
    top: dict[Path, float] = {}
    for folder, at in folders.items():
        highest = next((above for above in reversed(folder.parents) if above in folders), folder)
        top[highest] = max(at, top.get(highest, at))
    return top
