"""Running jobs: every command makes jobs, one function runs them and yields what came of each.

Knows nothing of the command line or of how results are shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ugatit_batch.atomic import partial_path
from ugatit_batch.errors import DiskFullError, FilmError, OutputError, PictureError, UgatitBatchError
from ugatit_batch.images.sidecars import KINDS, picture_sidecar_path
from ugatit_batch.images.work import PictureWork
from ugatit_batch.journal import Journal, Key, State
from ugatit_batch.pipeline import Pipeline, Settled
from ugatit_batch.planning import is_film
from ugatit_batch.video.film import FilmWork
from ugatit_batch.video.segments import SegmentFolder
from ugatit_batch.written import NOTHING, Written

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ugatit_batch.frames import Translator
    from ugatit_batch.pipeline import Work
    from ugatit_batch.planning import Job, Plan
    from ugatit_batch.settings import Settings

Status = Literal["done", "skipped", "failed"]
IfExists = Literal["skip", "overwrite", "rename", "error"]
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


class _Run:
    """One run over a plan, holding the output folders' journals while it is open."""

    def __init__(
        self,
        plan: Plan,
        translator: Translator,
        bundle: str,
        settings: Settings,
        if_exists: IfExists = "skip",
        watch: WatchFrames = lambda _source, _done, _of: None,
    ) -> None:
        self._plan, self._translator = plan, translator
        self._bundle, self._settings = bundle, settings
        self._digests = {is_film: settings.digest(is_film=is_film) for is_film in (False, True)}
        self._if_exists, self._watch = if_exists, watch
        self._journals: dict[Path, Journal] = {}
        self._promised: set[Path] = {job.target for job in plan.jobs}
        with contextlib.ExitStack() as stack:
            for root in plan.roots():
                journal = self._journals[root] = stack.enter_context(Journal(root))
                _remove_partials(Path(output) for output in journal.unfinished())
            _remove_partials(job.target for job in plan.jobs)
            self._stack = stack.pop_all()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def results(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Result]:
        """See `run`."""
        for folder, error in self._plan.problems:
            yield Result(folder, folder, "failed", error)
        pipeline = Pipeline[_Begun, Written | Result](self._open, self._translator)
        with contextlib.closing(pipeline.run(self._begin_all(), should_stop)) as outcomes:
            for begun, outcome in outcomes:
                yield outcome if isinstance(outcome, Result) else self._finish(begun, outcome)

    def _begin_all(self) -> Iterator[_Begun | Settled[_Begun, Written | Result]]:
        for job in self._plan.jobs:
            begun = self._begin(job)
            if isinstance(begun, Result) and begun.status == "skipped" and job.is_film:
                SegmentFolder.discard_finished(begun.target)
            yield Settled(_Begun(job, job.target), begun) if isinstance(begun, Result) else begun

    def _begin(self, job: Job) -> _Begun | Result:
        """Decide whether a job has to be done at all, and where its output goes."""
        if job.root is None:
            return self._begin_existing(job, None) if _exists(job.target) else _Begun(job, job.target)
        try:
            status = job.source.stat()
        except OSError as error:
            kind = FilmError if job.is_film else PictureError
            problem = kind(f"{job.source}: cannot be read: {error.strerror}", "check the file")
            return Result(job.source, job.target, "failed", problem)
        source = str(job.source.resolve())
        options = self._options_for(job, job.root)
        key = Key(source, status.st_size, status.st_mtime_ns, self._bundle, options)
        journal = self._journals[job.root]
        known = journal.find(key)
        if self._if_exists != "overwrite" and known is not None and known.state != "failed":
            # `started` with its output there: the run was killed between the last rename and this journal.
            output = Path(known.output)
            if _exists(output):
                if known.state == "started":
                    journal.record(key, "done", known.output)
                return Result(job.source, output, "skipped")
        begun = self._begin_existing(job, key) if _exists(job.target) else _Begun(job, job.target, key)
        if isinstance(begun, _Begun):
            if _exists(begun.target):
                # After a kill nobody can tell whether it is the old output or the new one.
                self._record(begun, "failed", "interrupted while it was replaced")
            else:
                self._record(begun, "started")
        return begun

    def _record(self, begun: _Begun, state: State, error: str = "") -> None:
        """Tell the journal; a single file has none."""
        if begun.job.root is not None and begun.key is not None:
            self._journals[begun.job.root].record(begun.key, state, str(begun.target), error)

    def _options_for(self, job: Job, root: Path) -> str:
        """Hash of the settings and of the name that was asked for; the folder may be moved."""
        name = os.fsencode(os.path.relpath(job.target, root))
        return hashlib.sha256(self._digests[job.is_film].encode() + name).hexdigest()

    def _begin_existing(self, job: Job, key: Key | None) -> _Begun | Result:
        match self._if_exists:
            case "skip":
                return Result(job.source, job.target, "skipped", foreign=key is not None)
            case "overwrite":
                return _Begun(job, job.target, key)
            case "rename":
                return _Begun(job, self._free_name(job.target), key)
            case "error":
                error = OutputError(
                    f"{job.target}: is there already", "use --if-exists skip, overwrite or rename"
                )
                return Result(job.source, job.target, "failed", error)

    def _free_name(self, target: Path) -> Path:
        number = 1
        while True:
            name = target.with_name(f"{target.stem} ({number}){target.suffix}")
            if name not in self._promised and not _exists(name):
                self._promised.add(name)
                return name
            number += 1

    def _open(self, begun: _Begun) -> Work[Written | Result]:
        begun.started = time.perf_counter()
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
        )

    def _finish(self, begun: _Begun, outcome: Written | UgatitBatchError) -> Result:
        seconds = time.perf_counter() - begun.started
        if isinstance(outcome, DiskFullError):
            raise outcome
        if isinstance(outcome, UgatitBatchError):
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


def _exists(path: Path) -> bool:
    """As `Path.exists`, and False for names that are too long to exist."""
    return os.path.exists(path)  # noqa: PTH110


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
    with _Run(plan, translator, bundle, settings, if_exists, watch) as running:
        yield from running.results(should_stop)
