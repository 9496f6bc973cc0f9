"""The loop of a watch folder: it takes in what has come, has it translated, and waits out troubles.

It yields what happens; whoever runs it shows it. Knows nothing of the command line or of networks.
"""

from __future__ import annotations

import contextlib
import queue
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import DiskFullError, OutputBusyError, OutputError, PictureError
from ugatit_batch.planning import Plan
from ugatit_batch.watch.desk import Desk
from ugatit_batch.watch.events import Notice
from ugatit_batch.watch.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from ugatit_batch.planning import Naming
    from ugatit_batch.watch.after import After
    from ugatit_batch.watch.desk import OpenSession
    from ugatit_batch.watch.events import Event
    from ugatit_batch.watch.rules import Rules

PATIENCE = 3.0
"""Seconds that what is at hand gets to be finished once the service is to stop."""
_TROUBLE_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries while a disk is full or a folder is away; the last one again and again."""
_STUCK = 30
"""Times `settle` without a file that became ready after which `once` ends all the same."""
_LOOK_ROUND = 5.0
"""Seconds after which a quiet service looks whether its folders are still there."""


@dataclass(frozen=True)
class WatchOptions:
    """How a folder is watched."""

    settle: float = 2.0
    """Seconds without a change before a file is taken for whole."""
    poll: bool = False
    rescan: float = 300.0
    """Seconds between two walks through everything."""
    existing: bool = True
    """Whether what is there at the start is translated."""
    once: bool = False
    """End when nothing is left to do."""


class Service:
    """Translates whatever comes into a folder.

    Args:
        rules: the folder, and what is looked at in it.
        root: the output folder.
        naming: where outputs go below it.
        open_session: opens the run that translates, on `root`; given what says whether a failure is final.
        after: what happens to inputs that are done.
        options: how the folder is watched.
        tell: called, often, with how many files are waiting, how many are being worked on, and what the
            service does, in a few words.
    """

    def __init__(
        self,
        rules: Rules,
        root: Path,
        naming: Naming,
        open_session: OpenSession,
        after: After,
        options: WatchOptions,
        tell: Callable[[int, int, str], object] = lambda _waiting, _working, _state: None,
    ) -> None:
        self._tell, self._options = tell, options
        self._stopping = False
        self._desk = Desk(
            rules.folder,
            root,
            naming,
            open_session,
            after,
            options.settle,
            options.once,
            lambda: self._stopping,
        )
        self._outbox = self._desk.outbox
        self._inbox = Inbox(
            rules,
            self._desk.gate,
            self._desk.need,
            self._wake,
            lambda: self._stopping,
            poll=options.poll,
            settle=options.settle,
            rescan=options.rescan,
            claim=after.mode != "keep",
        )
        self._tidy_at = 0.0
        self._busy_at = time.monotonic()
        # Its `put` may interrupt its own `get`, as a signal handler does; an Event's may not.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def stop(self) -> None:
        """End soon: what is at hand is finished, or kept as far as it is. Signal handlers may call it."""
        self._stopping = True
        self._bell.put(None)

    def events(self) -> Generator[Event, None, None]:
        """Watch until `stop` is called, or until nothing is left to do with `once`.

        Raises:
            OutputBusyError, OutputError, DiskFullError, PictureError: it cannot begin; with `once`, go on.
            UgatitBatchError: the network cannot go on.
        """
        with contextlib.closing(self._inbox), contextlib.closing(self._outbox):
            self._outbox.open()
            how = self._inbox.open()
            if not self._options.existing:
                yield from self._leave_existing()
            where = f"{self._inbox.folder} ({how}); results go to {self._outbox.root}"
            yield Notice("watching", f"watching {where}")
            trouble, tries = "", 0
            while not self._stopping:
                try:
                    yield from self._open()
                    yield from self._work()
                except (DiskFullError, OutputError, OutputBusyError, PictureError) as error:
                    if self._options.once:
                        raise
                    self._say_how_it_stands(trouble=error.message)
                    # Which file meets a full disk first is a matter of chance.
                    kind = "full" if isinstance(error, DiskFullError) else str(error)
                    if kind != trouble:
                        trouble, tries = kind, 0
                        yield Notice("waiting", str(error))
                    self._rest(_TROUBLE_PAUSES[min(tries, len(_TROUBLE_PAUSES) - 1)])
                    tries += 1
                    # What was told of meanwhile, or not settled, is found again.
                    self._inbox.rescan()
                    continue
                if trouble and not self._stopping:
                    trouble = ""
                    yield Notice("resumed", "going on")
                if self._options.once and not self._desk.ready and (self._inbox.is_idle or self._is_stuck()):
                    break
                self._say_how_it_stands()
                if not self._desk.ready:
                    self._wait(min(self._inbox.next() - time.monotonic(), _LOOK_ROUND))
            if left := len(self._desk.left) + (self._inbox.waiting if self._options.once else 0):
                yield Notice("left", f"{left} files are still being written and left for the next run")
            if self._stopping:
                yield Notice("stopping", "stopped; what is not done is taken up at the next start")

    def _leave_existing(self) -> Iterator[Event]:
        """What was there at the first start is left until it changes; what came since then is not."""
        if not self._desk.leave(self._inbox.files()):
            said = "what was there at the first start is left alone; what came since is not"
            yield Notice("watching", said)

    def _open(self) -> Iterator[Event]:
        """See that both folders are there, and are those that they were."""
        back = self._outbox.open()
        if back is not None:
            # Results may have been taken away with the folder.
            self._inbox.rescan()
            yield Notice("resumed", back)
        how = self._inbox.open()
        if how is not None:
            yield Notice("resumed", f"watching {self._inbox.folder} again ({how})")

    def _work(self) -> Iterator[Event]:
        """One round: take in what has come, translate what is ready."""
        arrivals = self._inbox.look()
        yield from self._desk.receive(arrivals)
        for problem in self._inbox.problems():
            yield Notice("problem", str(problem))
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + self._options.rescan
            self._desk.tidy()
        jobs = self._desk.choose()
        if jobs and not self._stopping:
            left = {job.source: job for job in jobs}
            results = self._outbox.session.results(Plan(jobs), self._should_stop, PATIENCE)
            with contextlib.closing(results):
                self._say_how_it_stands(len(left))
                for result in results:
                    yield from self._desk.settle(left.pop(result.source), result)
                    self._say_how_it_stands(len(left))
        if jobs or arrivals:
            self._busy_at = time.monotonic()

    def _is_stuck(self) -> bool:
        """Whether what is waited for changes and changes."""
        return time.monotonic() - self._busy_at > _STUCK * self._options.settle

    def _should_stop(self) -> bool:
        return self._stopping or not self._outbox.is_here

    def _say_how_it_stands(self, working: int = 0, trouble: str = "") -> None:
        state = "stopping" if self._stopping else f"waiting: {trouble}" if trouble else "watching"
        self._tell(self._inbox.waiting + self._desk.ready - working, working, state)

    def _wake(self) -> None:
        if self._bell.empty():
            self._bell.put(None)

    def _rest(self, seconds: float) -> None:
        """Wait for so long, whatever comes in; `stop` alone ends it."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._wait(left)

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            if not self._stopping and seconds > 0:
                self._bell.get(timeout=seconds)
            while True:
                self._bell.get_nowait()
