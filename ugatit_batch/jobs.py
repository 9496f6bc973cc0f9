"""Running jobs: every command makes jobs, a session runs them and yields what came of each.

Knows nothing of the command line or of how results are shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from ugatit_batch.atomic import partial_path
from ugatit_batch.errors import DiskFullError, FilmError, OutputError, PictureError, UgatitBatchError
from ugatit_batch.existing import IfExists, Made, Outputs, exists
from ugatit_batch.images.sidecars import KINDS, picture_sidecar_path
from ugatit_batch.images.work import PictureWork
from ugatit_batch.journal import Journal, Key, State
from ugatit_batch.pipeline import Pipeline, Settled
from ugatit_batch.planning import is_film
from ugatit_batch.video.film import FilmWork
from ugatit_batch.video.segments import SegmentFolder
from ugatit_batch.within import Within, require_folder
from ugatit_batch.written import NOTHING, Written

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from ugatit_batch.frames import Translator
    from ugatit_batch.journal import Entry
    from ugatit_batch.pipeline import Work
    from ugatit_batch.planning import Job, Plan
    from ugatit_batch.settings import Settings

__all__ = ["IfExists", "Result", "Session", "Status", "WatchFrames", "run"]

Status = Literal["done", "skipped", "failed"]
WatchFrames = Callable[[Path, int, int | None], None]


@dataclass(frozen=True)
class Result:
    """What came of one job."""

    source: Path
    target: Path
    status: Status
    error: UgatitBatchError | None = None
    seconds: float = 0.0
    """From the start of reading to the end of writing, waiting included."""
    written: Written = NOTHING
    """What came of one that is done."""
    foreign: bool = False
    """Skipped because the output exists, though not from these settings or this version of the input."""

    def to_json(self) -> dict[str, object]:
        """The stable form for programs: `--json` and `--report`."""
        return {
            "input": str(self.source),
            "output": str(self.target),
            "status": self.status,
            "error": None if self.error is None else str(self.error),
            "seconds": round(self.seconds, 4),
            "frames": self.written.frames,
            "attention": [str(path) for path in self.written.attention],
            "notes": list(self.written.notes),
            "flicker": self.written.flicker,
        }


@dataclass
class _Begun:
    """A job that goes through the pipeline."""

    job: Job
    target: Path
    key: Key | None = None
    started: float = field(default_factory=time.perf_counter)


class Session:
    """The output folders of one or several plans, open for one model and one choice of settings.

    The folders belong to it alone until it is closed.

    Args:
        roots: all output folders of the plans to come.
        translator: the network.
        bundle: hash of the model's direction.
        settings: what decides the outputs.
        if_exists: what to do where an output is there already.
        watch: is told from other threads how many of a film's pictures are written, and how many there are
            likely to be.
        is_final: asked of each job that fails, in the thread that takes the results. False leaves a job that
            was begun as begun in the journal: a kill before it is tried again does not make it failed.

    Raises:
        OutputBusyError: another run writes to one of the folders.
        OutputError, DiskFullError: one of the folders cannot be written.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        translator: Translator,
        bundle: str,
        settings: Settings,
        if_exists: IfExists = "skip",
        watch: WatchFrames = lambda _source, _done, _of: None,
        is_final: Callable[[Job, UgatitBatchError], bool] = lambda _job, _error: True,
    ) -> None:
        self._translator, self._bundle, self._settings = translator, bundle, settings
        self._digests = {is_film: settings.digest(is_film=is_film) for is_film in (False, True)}
        self._if_exists, self._watch, self._is_final = if_exists, watch, is_final
        self._is_given_up: Callable[[], bool] = lambda: False
        self._journals: dict[Path, Journal] = {}
        with contextlib.ExitStack() as stack:
            for root in dict.fromkeys(roots):
                journal = self._journals[root] = stack.enter_context(Journal(root))
                _remove_partials(Path(output) for output in journal.unfinished())
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folders back to other runs."""
        self._stack.close()

    def results(
        self,
        plan: Plan,
        should_stop: Callable[[], bool] = lambda: False,
        patience: float = math.inf,
    ) -> Generator[Result, None, None]:
        """Do the jobs of a plan; yield a Result each as it is finished. One plan at a time.

        Closed early, or at the end of `patience`, it lets go of all jobs; films keep what is translated.

        Args:
            plan: the jobs, whose output folders are among those of the session.
            should_stop: asked before each job and now and then in between. True lets what was begun finish,
                and begins no more.
            patience: seconds that what was begun has for that. What has not come to an end then has no
                Result, and stays begun in the journal.

        Raises:
            DiskFullError: no room is left; what is not finished is not there.
            OutputError: a journal cannot be written.
        """
        _remove_partials(job.target for job in plan.jobs)
        for folder, error in plan.problems:
            yield Result(folder, folder, "failed", error)
        outputs = Outputs(plan.jobs, self._if_exists, self._settings.attention)
        pipeline = Pipeline[_Begun, Written | Result](self._open, self._translator)
        self._is_given_up = lambda: pipeline.is_given_up
        items = self._begin_all(plan.jobs, outputs)
        with contextlib.closing(pipeline.run(items, should_stop, patience)) as outcomes:
            for begun, outcome in outcomes:
                yield self._finish(begun, outcome)

    def known(self, job: Job) -> Entry | None:
        """What the journal says of the present version of a job's input with these settings.

        None where it says nothing, for a single file, and where the input is gone.

        Raises:
            PictureError, FilmError: the input cannot be looked at.
            OutputError: the journal cannot be read.
        """
        key = self._key_if_there(job)
        return None if key is None or job.root is None else self._journals[job.root].find(key)

    def forget(self, job: Job) -> None:
        """Nothing is known any more of a job's input with these settings, be it there or not.

        Raises:
            OutputError, DiskFullError: the journal cannot be written.
        """
        if job.root is not None:
            options = self._options_for(job, job.root)
            self._journals[job.root].forget(_input_path(job.source), self._bundle, options)

    def leave(self, folder: Path, root: Path, jobs: Iterable[Job]) -> bool:
        """Leave the present versions of inputs alone, unless that was done before for this folder.

        Args:
            folder: that the inputs are in.
            root: the output folder, one of the session's.
            jobs: what is not to be done; iterated only where it is the first time.

        Returns:
            Whether it is the first time.

        Raises:
            OutputError, DiskFullError: the journal cannot be read or written.
        """
        journal = self._journals[root]
        mark = Key(str(folder.resolve()), 0, 0, self._bundle, self._digests[False])
        if journal.find(mark) is not None:
            return False
        keys = (key for job in jobs if (key := self._key_or_none(job)) is not None)
        journal.leave(itertools.chain(keys, [mark]))
        return True

    def give_up(self, job: Job, error: UgatitBatchError) -> None:
        """The present version of a job's input has failed for good, though it was never begun.

        Raises:
            PictureError, FilmError: the input cannot be looked at.
            OutputError, DiskFullError: the journal cannot be written.
        """
        self._record(_Begun(job, job.target, self._key_if_there(job)), "failed", str(error))

    def maker(self, output: Path, root: Path) -> Path | None:
        """The input that an output was made from, or is being made from; None where that is not known.

        Args:
            output: a result, not a sidecar.
            root: its output folder, one of the session's.

        Raises:
            OutputError: the journal cannot be read.
        """
        maker = self._journals[root].maker(str(output))
        return None if maker is None else Path(maker.key.input)

    def _begin_all(
        self, jobs: Iterable[Job], outputs: Outputs
    ) -> Iterator[_Begun | Settled[_Begun, Written | Result]]:
        for job in jobs:
            begun = self._begin(job, outputs)
            if isinstance(begun, Result) and begun.status == "skipped" and job.is_film:
                SegmentFolder.discard_finished(begun.target)
            yield Settled(_Begun(job, job.target), begun) if isinstance(begun, Result) else begun

    def _begin(self, job: Job, outputs: Outputs) -> _Begun | Result:
        """Decide whether a job has to be done at all, and where its output goes."""
        journal = None if job.root is None else self._journals[job.root]
        try:
            key = self._key(job)
        except OSError as error:
            return Result(job.source, job.target, "failed", _unreadable(job, error))
        place = outputs.place(job, key, journal)
        if isinstance(place, OutputError):
            return Result(job.source, job.target, "failed", place)
        if isinstance(place, Made):
            return Result(job.source, place.output, "skipped", foreign=place.foreign)
        begun = _Begun(job, place, key)
        # After a kill nobody can tell whether it is the old output or the new one.
        self._record(begun, "replacing" if exists(place) else "started")
        return begun

    def _record(self, begun: _Begun, state: State, error: str = "") -> None:
        """Tell the journal; a single file has none."""
        if begun.job.root is not None and begun.key is not None:
            self._journals[begun.job.root].record(begun.key, state, str(begun.target), error)

    def _key_if_there(self, job: Job) -> Key | None:
        """The same as `_key`, and None where the input is gone."""
        try:
            return self._key(job)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(job, error) from error

    def _key_now(self, job: Job) -> Key | None:
        """The same, or the error that the job fails with."""
        try:
            return self._key(job)
        except OSError as error:
            raise _unreadable(job, error) from error

    def _key_or_none(self, job: Job) -> Key | None:
        """The same, and None where the input cannot be looked at."""
        with contextlib.suppress(OSError):
            return self._key(job)
        return None

    def _key(self, job: Job) -> Key | None:
        """The present version of a job's input with these settings; None for a single file."""
        if job.root is None:
            return None
        status = job.source.stat()
        options = self._options_for(job, job.root)
        return Key(_input_path(job.source), status.st_size, status.st_mtime_ns, self._bundle, options)

    def _options_for(self, job: Job, root: Path) -> str:
        """Hash of the settings and of the name that was asked for; the folder may be moved."""
        name = os.fsencode(os.path.relpath(job.target, root))
        return hashlib.sha256(self._digests[job.is_film].encode() + name).hexdigest()

    def _open(self, begun: _Begun) -> Work[Written | Result]:
        begun.started = time.perf_counter()
        root = begun.job.root
        if root is None:
            return self._open_work(begun)
        require_folder(root)
        # It may have changed while it waited; what is read now is what the result is made from.
        begun.key = self._key_now(begun.job)
        work = self._open_work(begun)
        if self._key_now(begun.job) != begun.key:
            work.abandon()
            kind = FilmError if begun.job.is_film else PictureError
            raise kind(f"{begun.job.source}: changed while it was read", "run the same command again")
        return Within(work, root)

    def _open_work(self, begun: _Begun) -> Work[Written | Result]:
        source, settings, rule = begun.job.source, self._settings, self._translator.size_rule
        if not begun.job.is_film:
            return PictureWork(
                source, begun.target, settings.sizing, rule, settings.encoding, settings.attention
            )
        return FilmWork(
            source,
            begun.target,
            settings.sizing,
            rule,
            settings.film,
            settings.attention,
            f"{self._bundle} {self._digests[True]}",
            lambda done, of: self._watch(source, done, of),
            self._is_given_up,
        )

    def _finish(self, begun: _Begun, outcome: Written | Result | UgatitBatchError) -> Result:
        if isinstance(outcome, Result):
            if outcome.error is not None:
                self._is_final(begun.job, outcome.error)
            return outcome
        seconds = time.perf_counter() - begun.started
        if isinstance(outcome, DiskFullError):
            raise outcome
        if isinstance(outcome, UgatitBatchError):
            if self._is_final(begun.job, outcome):
                self._record(begun, "failed", str(outcome))
            return Result(begun.job.source, begun.target, "failed", outcome, seconds)
        self._record(begun, "done")
        return Result(begun.job.source, begun.target, "done", None, seconds, outcome)


def _remove_partials(targets: Iterable[Path]) -> None:
    """Delete what a killed run left of pictures half written; nothing else in the folder is looked at.

    A film may be another run's, which is joining it now: it looks after its own.
    """
    for target in targets:
        if is_film(target):
            continue
        for path in (target, *(picture_sidecar_path(target, kind) for kind in KINDS)):
            # A name too long to exist, or a folder that is not ours to write: writing will say so.
            with contextlib.suppress(OSError):
                partial_path(path).unlink(missing_ok=True)


def _input_path(source: Path) -> str:
    """By which the journal knows an input, be it there or not: a link is an input of its own."""
    return str(source.parent.resolve() / source.name)


def _unreadable(job: Job, error: OSError) -> PictureError | FilmError:
    kind = FilmError if job.is_film else PictureError
    return kind(f"{job.source}: cannot be read: {error.strerror}", "check the file")


def run(
    plan: Plan,
    translator: Translator,
    bundle: str,
    settings: Settings,
    if_exists: IfExists = "skip",
    should_stop: Callable[[], bool] = lambda: False,
    watch: WatchFrames = lambda _source, _done, _of: None,
) -> Generator[Result, None, None]:
    """Do the jobs of a plan; yield a Result each as it is finished.

    Args:
        plan: the jobs. Their output folders belong to this run alone until it ends.
        translator: the network.
        bundle: hash of the model's direction.
        settings: what decides the outputs.
        if_exists: what to do where an output is there already.
        should_stop: asked before each job; True lets what was begun finish, and begins no more.
        watch: is told from other threads how many of a film's pictures are written, and how many there are
            likely to be.

    Raises:
        OutputBusyError: another run writes to one of the folders.
        OutputError: one of the folders cannot be written.
        DiskFullError: no room is left; what is not finished is not there.
    """
    with Session(plan.roots(), translator, bundle, settings, if_exists, watch) as session:
        yield from session.results(plan, should_stop)
