"""What is ready to be translated, what is asked of it, and what comes of it.

Knows nothing of how files are found, and nothing of time but what passes.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ugatit_batch.errors import (
    EnvironmentLacksError,
    FilmError,
    InputChangedError,
    OutputError,
    PictureError,
    UgatitBatchError,
)
from ugatit_batch.jobs import Result, Session
from ugatit_batch.planning import Job, job_for, same_name, sidecar_path
from ugatit_batch.watch.events import Finished, Notice
from ugatit_batch.watch.gate import Gate
from ugatit_batch.watch.outbox import Outbox
from ugatit_batch.watch.read_back import StoppedError
from ugatit_batch.watch.ready import look
from ugatit_batch.within import gone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ugatit_batch.planning import Naming
    from ugatit_batch.watch.after import After
    from ugatit_batch.watch.events import Event
    from ugatit_batch.watch.gate import Arrival, Version
    from ugatit_batch.watch.inbox import Need
    from ugatit_batch.watch.ready import Look

OpenSession = Callable[[Callable[[Job, UgatitBatchError], bool]], Session]
"""Opens the run that translates; given what says whether a failure is final."""

_PAUSES = (1, 2, 4, 8, 16, 32, 64)
"""Pauses between tries of a file that cannot be read, in units of `settle`."""
_PAUSES_ONCE = (1, 2)
_LONG_OPEN = 300.0
"""Seconds after which it is said that another program has a file open; infinity: it has been said."""

Verdict = Literal["gone", "away", "again", "later", "final"]
"""On a failure: the input is not there any more; the output folder is not, or the service stops; the file
comes again soon; with the next walk; never."""


class Desk:
    """The files that are at hand.

    Args:
        folder: the watched folder.
        root: the output folder.
        naming: where outputs go below it.
        open_session: opens the run that translates, on `root`.
        after: what happens to inputs that are done.
        settle: seconds without a change before a file is taken for whole.
        once: whether what cannot be done now is left for another run.
        is_stopping: whether the service is to end.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        naming: Naming,
        open_session: OpenSession,
        after: After,
        settle: float,
        once: bool,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._folder, self._naming, self._after = folder, naming, after
        self._once, self._is_stopping = once, is_stopping
        pauses = [settle * unit for unit in (_PAUSES_ONCE if once else _PAUSES)]
        self.gate = Gate(settle, pauses, self._look)
        """Tells when a file has stopped changing."""
        self.outbox = Outbox(root, lambda: open_session(self._is_final))
        """The output folder."""
        self.left: list[Path] = []
        """Files that other programs have open, left for another run."""
        self._ready: dict[Path, Arrival] = {}
        self._verdicts: dict[Path, Verdict] = {}
        self._reported: dict[Path, str] = {}
        self._passed: dict[Path, Version] = {}
        self._open_since: dict[Path, float] = {}
        self._to_say: list[Notice] = []
        self._film_turn = False

    @property
    def ready(self) -> int:
        """Files that have been received and have no result yet."""
        return len(self._ready)

    def leave(self, paths: Iterable[Path]) -> bool:
        """See `Session.leave`."""
        jobs = (self._job(path) for path in paths)
        return self.outbox.session.leave(self._folder, self.outbox.root, jobs)

    def receive(self, arrivals: Iterable[Arrival]) -> Iterator[Event]:
        """Take in what the gate lets through, and tell of what it gives up."""
        for arrival in arrivals:
            if arrival.error is None:
                self._ready[arrival.path] = arrival
            else:
                yield from self._give_up(arrival, arrival.error)
        yield from self._to_say
        self._to_say.clear()

    def choose(self) -> list[Job]:
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

    def settle(self, job: Job, result: Result) -> Iterator[Event]:
        """Take in what came of one job."""
        arrival = self._ready.pop(job.source)
        verdict = self._verdicts.pop(job.source, None)
        if verdict == "again":
            return
        self.gate.forget(job.source)
        if verdict == "gone":
            self.outbox.session.forget(job)
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
            if not self.outbox.is_here:
                raise gone(self.outbox.root)
            place = self._after.apply(
                job.source,
                version,
                result.target,
                self._sidecars(result.target),
                frames,
                self._is_stopping,
            )
        except StoppedError:
            yield Finished(result)
        except InputChangedError:
            self.gate.touch(job.source, time.monotonic())
            yield Finished(result)
        except UgatitBatchError as error:
            yield from self._report(job.source, str(error), Finished(result), Notice("problem", str(error)))
        else:
            self._reported.pop(job.source, None)
            self.outbox.session.forget(job)
            yield Finished(result, "deleted" if place is None else "moved", place)

    def _give_up(self, arrival: Arrival, error: UgatitBatchError) -> Iterator[Event]:
        """It never became readable."""
        job = self._job(arrival.path)
        self.gate.forget(arrival.path)
        finished = Finished(Result(job.source, job.target, "failed", error))
        if not os.access(job.source, os.R_OK):
            # A permission is no version: it may be given without any change of the file.
            yield from self._report(job.source, str(error), finished)
            return
        with contextlib.suppress(PictureError, FilmError):  # it has become unreachable just now
            self.outbox.session.give_up(job, error)
        yield finished

    def _report(self, path: Path, text: str, *events: Event) -> Iterator[Event]:
        """What is tried again with every walk is told once."""
        if self._reported.get(path) != text:
            self._reported[path] = text
            yield from events

    def tidy(self) -> None:
        """What is remembered of files that are gone would grow for ever."""
        memories: tuple[dict[Path, Any], ...] = (self._reported, self._passed, self._open_since)
        for memory in memories:
            for path in [path for path in memory if not os.path.lexists(path)]:
                del memory[path]

    def need(self, path: Path, version: Version) -> Need:
        """What there is to do for a file in this version."""
        ready = self._ready.get(path)
        if ready is not None:
            if ready.version == version:
                return "at hand"
            del self._ready[path]
            self.gate.forget(path)
            return "wanted"
        if self._passed.get(path) == version:
            return "at hand"
        try:
            known = self.outbox.session.known(self._job(path))
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
        elif self._is_stopping() or not self.outbox.is_here:
            verdict = "away"
        elif isinstance(error, OutputError | EnvironmentLacksError) and not self._once:
            verdict = "later"
        elif isinstance(error, PictureError | FilmError) and self.gate.again(
            self._ready[job.source], error, time.monotonic()
        ):
            verdict = "again"
        self._verdicts[job.source] = verdict
        return verdict == "final"

    def _look(self, path: Path) -> Look:
        seen = look(path)
        if seen != "open":
            self._open_since.pop(path, None)
            return seen
        if self._once:
            self.left.append(path)
            return "gone"
        since = self._open_since.setdefault(path, time.monotonic())
        if time.monotonic() - since >= _LONG_OPEN and not math.isinf(since):
            self._open_since[path] = math.inf
            self._to_say.append(
                Notice(
                    "problem", f"{path}: another program keeps it open for writing; it waits for that to end"
                )
            )
        return seen

    def _job(self, path: Path) -> Job:
        return job_for(path, self._folder, self.outbox.root, self._naming)

    def _sidecars(self, target: Path) -> list[Path]:
        return [sidecar_path(target, kind) for kind in self._naming.attention]
