"""The loop of a watch folder: what is ready becomes jobs, what is done may go.

It yields what happens; whoever runs it shows it. Knows nothing of the command line or of networks.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ugatit_batch.errors import (
    DiskFullError,
    EnvironmentLacksError,
    FilmError,
    InputChangedError,
    OutputBusyError,
    OutputError,
    PictureError,
    UgatitBatchError,
)
from ugatit_batch.jobs import Result
from ugatit_batch.planning import Plan, job_for, same_name, sidecar_path
from ugatit_batch.watch.after import StoppedError
from ugatit_batch.watch.gate import Gate
from ugatit_batch.watch.inbox import Inbox, Need
from ugatit_batch.watch.outbox import Outbox
from ugatit_batch.watch.ready import look

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from ugatit_batch.jobs import Session
    from ugatit_batch.planning import Job, Naming
    from ugatit_batch.watch.after import After
    from ugatit_batch.watch.gate import Arrival, Version
    from ugatit_batch.watch.ready import Look
    from ugatit_batch.watch.rules import Rules

PATIENCE = 3.0
"""Seconds that what is at hand gets to be finished once the service is to stop."""
_TROUBLE_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries while a disk is full or a folder is away; the last one again and again."""
_PAUSES = (1, 2, 4, 8, 16, 32, 64)
"""Pauses between tries of a file that cannot be read, in units of `settle`."""
_PAUSES_ONCE = (1, 2)

_STUCK = 30
"""Times `settle` without a file that became ready after which `once` ends all the same."""
_LOOK_ROUND = 5.0
"""Seconds after which a quiet service looks whether its folders are still there."""

Kind = Literal["watching", "waiting", "resumed", "problem", "left", "stopping"]
EndOfInput = Literal["moved", "deleted"]
Verdict = Literal["gone", "away", "again", "later", "final"]
"""On a failure: the input is not there any more; the output folder is not, or the service stops; the file
comes again soon; with the next walk; never."""


@dataclass(frozen=True)
class Notice:
    """Something that people should know of, beside results."""

    kind: Kind
    """`waiting`: nothing is done until it is over; `problem`: concerns one file, or one folder."""
    text: str


@dataclass(frozen=True)
class Finished:
    """What came of one file, for good."""

    result: Result
    after: EndOfInput | None = None
    """What has become of the input; None where it is where it was."""
    moved_to: Path | None = None


Event = Notice | Finished


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
        open_session: Callable[[Callable[[Job, UgatitBatchError], bool]], Session],
        after: After,
        options: WatchOptions,
        tell: Callable[[int, int, str], object] = lambda _waiting, _working, _state: None,
    ) -> None:
        self._tell = tell
        self._naming, self._after, self._options = naming, after, options
        settle = options.settle
        pauses = [settle * unit for unit in (_PAUSES_ONCE if options.once else _PAUSES)]
        self._gate = Gate(settle, pauses, self._look)
        self._inbox = Inbox(
            rules,
            self._gate,
            self._need,
            self._wake,
            lambda: self._stopping,
            poll=options.poll,
            settle=settle,
            rescan=options.rescan,
            claim=after.mode != "keep",
        )
        self._outbox = Outbox(root, lambda: open_session(self._is_final))
        self._ready: dict[Path, Arrival] = {}
        self._verdicts: dict[Path, Verdict] = {}
        self._reported: dict[Path, str] = {}
        self._passed: dict[Path, Version] = {}
        self._film_turn = False
        self._tidy_at = 0.0
        self._began = time.monotonic()
        self._left: list[Path] = []
        self._stopping = False
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
                if self._options.once and not self._ready and (self._inbox.is_idle or self._is_stuck()):
                    break
                self._say_how_it_stands()
                if not self._ready:
                    self._wait(min(self._inbox.next() - time.monotonic(), _LOOK_ROUND))
            if left := len(self._left) + (self._inbox.waiting if self._options.once else 0):
                yield Notice("left", f"{left} files are still being written and left for the next run")
            if self._stopping:
                yield Notice("stopping", "stopped; what is not done is taken up at the next start")

    def _leave_existing(self) -> Iterator[Event]:
        """What was there at the first start is left until it changes; what came since then is not."""
        jobs = (self._job(path) for path in self._inbox.files())
        if not self._outbox.session.leave(self._inbox.folder, self._outbox.root, jobs):
            yield Notice(
                "watching", "what was there at the first start is left alone; what came since is not"
            )

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
        for arrival in self._inbox.look():
            if arrival.error is None:
                self._ready[arrival.path] = arrival
                self._began = time.monotonic()
            else:
                yield from self._give_up(arrival, arrival.error)
        self._forget_vanished()
        for problem in self._inbox.problems():
            yield Notice("problem", str(problem))
        jobs = self._choose()
        if not jobs or self._stopping:
            return
        left = {job.source: job for job in jobs}
        results = self._outbox.session.results(Plan(jobs), self._should_stop, PATIENCE)
        with contextlib.closing(results):
            self._say_how_it_stands(len(left))
            for result in results:
                yield from self._settle(left.pop(result.source), result)
                self._say_how_it_stands(len(left))

    def _choose(self) -> list[Job]:
        """All pictures that are ready, or one film, in turns, so that neither waits for long.

        What would have the same outputs as another is left for later, when it shows whether that is so.
        """
        jobs: list[Job] = []
        films: list[Job] = []
        names: set[str] = set()
        for path in self._ready:
            job = self._job(path)
            if job.is_film:
                films.append(job)
                continue
            mine = {same_name(output) for output in (job.target, *self._sidecars(job.target))}
            if names.isdisjoint(mine):
                names |= mine
                jobs.append(job)
        if films and (self._film_turn or not jobs):
            self._film_turn = False
            return films[:1]
        self._film_turn = True
        return jobs

    def _settle(self, job: Job, result: Result) -> Iterator[Event]:
        """Take in what came of one job."""
        arrival = self._ready.pop(job.source)
        verdict = self._verdicts.pop(job.source, None)
        if verdict == "again":
            return
        self._gate.forget(job.source)
        if verdict == "gone":
            self._outbox.session.forget(job)
            return
        if verdict == "away":
            return
        if verdict == "later":
            yield from self._report(job.source, str(result.error), Finished(result))
        elif result.status == "failed":
            yield Finished(result)
        elif result.foreign or self._after.mode == "keep":
            if result.foreign:
                # The journal knows nothing of it, and every walk would find it again.
                self._passed[job.source] = arrival.version
            self._reported.pop(job.source, None)
            yield Finished(result)
        else:
            yield from self._let_go(job, arrival.version, result)

    def _let_go(self, job: Job, version: Version, result: Result) -> Iterator[Event]:
        """The output is there: move or delete the input."""
        frames = result.written.frames or None
        try:
            if not self._outbox.is_here:
                raise OutputError(f"{self._outbox.root}: the output folder is gone", "make it again")
            place = self._after.apply(
                job.source,
                version,
                result.target,
                self._sidecars(result.target),
                frames,
                lambda: self._stopping,
            )
        except StoppedError:
            yield Finished(result)
        except InputChangedError:
            self._inbox.touch(job.source)
            yield Finished(result)
        except UgatitBatchError as error:
            yield from self._report(job.source, str(error), Finished(result), Notice("problem", str(error)))
        else:
            self._reported.pop(job.source, None)
            self._outbox.session.forget(job)
            yield Finished(result, "deleted" if place is None else "moved", place)

    def _give_up(self, arrival: Arrival, error: UgatitBatchError) -> Iterator[Event]:
        """It never became readable."""
        job = self._job(arrival.path)
        self._gate.forget(arrival.path)
        finished = Finished(Result(job.source, job.target, "failed", error))
        if not os.access(job.source, os.R_OK):
            # A permission is no version: it may be given without any change of the file.
            yield from self._report(job.source, str(error), finished)
            return
        with contextlib.suppress(PictureError, FilmError):  # it has become unreachable just now
            self._outbox.session.give_up(job, error)
        yield finished

    def _report(self, path: Path, text: str, *events: Event) -> Iterator[Event]:
        """What is tried again with every walk is told once."""
        if self._reported.get(path) != text:
            self._reported[path] = text
            yield from events

    def _is_stuck(self) -> bool:
        """Whether what is waited for changes and changes."""
        return time.monotonic() - self._began > _STUCK * self._options.settle

    def _forget_vanished(self) -> None:
        """What is remembered of files that are gone would grow for ever."""
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + self._options.rescan
            for memory in (self._reported, self._passed):
                for path in [path for path in memory if not os.path.lexists(path)]:
                    del memory[path]

    # What the gate, the inbox and the session ask.

    def _need(self, path: Path, version: Version) -> Need:
        ready = self._ready.get(path)
        if ready is not None:
            if ready.version == version:
                return "at hand"
            del self._ready[path]
            self._gate.forget(path)
            return "wanted"
        if self._passed.get(path) == version:
            return "at hand"
        try:
            known = self._outbox.session.known(self._job(path))
        except (PictureError, FilmError):
            # The gate will say why, if it stays like that.
            return "wanted"
        if known is None or known.state in ("started", "replacing"):
            return "wanted"
        # An input that is done and still there: the program was killed before it could go.
        return "wanted" if known.state == "done" and self._after.mode != "keep" else "over"

    def _is_final(self, job: Job, error: UgatitBatchError) -> bool:
        """Whether a failure stays: else the file is tried again, and the journal does not call it failed."""
        verdict: Verdict = "final"
        if not os.path.lexists(job.source):
            verdict = "gone"
        elif self._stopping or not self._outbox.is_here:
            verdict = "away"
        elif isinstance(error, OutputError | EnvironmentLacksError) and not self._options.once:
            verdict = "later"
        elif isinstance(error, PictureError | FilmError) and self._gate.again(
            self._ready[job.source], error, time.monotonic()
        ):
            verdict = "again"
        self._verdicts[job.source] = verdict
        return verdict == "final"

    def _look(self, path: Path) -> Look:
        seen = look(path)
        if seen == "open" and self._options.once:
            self._left.append(path)
            return "gone"
        return seen

    def _should_stop(self) -> bool:
        return self._stopping or not self._outbox.is_here

    def _job(self, path: Path) -> Job:
        return job_for(path, self._inbox.folder, self._outbox.root, self._naming)

    def _sidecars(self, target: Path) -> list[Path]:
        return [sidecar_path(target, kind) for kind in self._naming.attention]

    def _say_how_it_stands(self, working: int = 0, trouble: str = "") -> None:
        state = "stopping" if self._stopping else f"waiting: {trouble}" if trouble else "watching"
        self._tell(self._inbox.waiting + len(self._ready) - working, working, state)

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
