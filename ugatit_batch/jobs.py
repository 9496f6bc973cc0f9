"""Running jobs: every command makes jobs, one function runs them and yields what came of each.

Knows nothing of the command line or of how results are shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ugatit_batch.atomic import partial_path
from ugatit_batch.errors import DiskFullError, OutputError, PictureError, SizeError, UgatitBatchError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.read import open_picture
from ugatit_batch.images.sidecars import KINDS, Kind, sidecar_path, write_sidecars
from ugatit_batch.images.write import ENCODE_ERRORS, Encoding, write_picture
from ugatit_batch.journal import Journal, Key, State
from ugatit_batch.pipeline import Pipeline, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Attention, Pixels, Translator
    from ugatit_batch.images.geometry import Fit, OutputSize
    from ugatit_batch.images.picture import Picture
    from ugatit_batch.planning import Job, Plan

Status = Literal["done", "skipped", "failed"]
IfExists = Literal["skip", "overwrite", "rename", "error"]


@dataclass(frozen=True)
class Settings:
    """Everything beside the input and the model that decides an output."""

    sizing: Sizing
    encoding: Encoding
    attention: tuple[Kind, ...] = ()
    precision: str = "fp32"

    def digest(self) -> str:
        """The same for the same settings."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def choose_sizing(
    bundle: Bundle, size: str | int = "model", fit: Fit = "pad", output: OutputSize = "source"
) -> Sizing:
    """The working size of a run.

    Args:
        bundle: the model.
        size: `model`, `native`, or the side of the square or the longest side in pixels.
        fit: how a picture comes into a square.
        output: size of the results.

    Raises:
        SizeError: the model does not take that size; the message says which sizes it takes.
    """
    working, generator = bundle.working_size, bundle.generator
    square = working.mode == "square"
    if not generator.light and size not in ("model", generator.image_size):
        side = generator.image_size
        raise SizeError(
            f"--size {size}: {bundle.name} is a full model and takes {side}×{side} pixels only",
            f"leave --size out, or use --size {side}; a light model takes other sizes",
        )
    if size == "native":
        return Sizing(square=False, side=None, fit=fit, output=output)
    side = working.side if size == "model" else int(size)
    if square:
        SizeRule().check(side, side)
    return Sizing(square=square, side=side, fit=fit, output=output)


@dataclass(frozen=True)
class Result:
    """What came of one job."""

    source: Path
    target: Path
    status: Status
    error: UgatitBatchError | None = None
    seconds: float = 0.0
    """From the start of reading to the end of writing, waiting included."""
    frames: int = 0
    """1 for a still."""
    attention: tuple[Path, ...] = ()
    """Sidecars that were written."""
    notes: tuple[str, ...] = ()
    """What was reduced, a clause each."""
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
            "frames": self.frames,
            "attention": [str(path) for path in self.attention],
        }


@dataclass
class _Begun:
    """A job that goes through the pipeline."""

    job: Job
    target: Path
    key: Key | None = None
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class _Written:
    frames: int
    attention: tuple[Path, ...]
    notes: tuple[str, ...]


class _Run:
    """One run over a plan, holding the output folders' journals while it is open."""

    def __init__(
        self,
        plan: Plan,
        translator: Translator,
        bundle: str,
        settings: Settings,
        if_exists: IfExists = "skip",
        readers: int = 2,
        writers: int = 2,
    ) -> None:
        self._plan, self._translator = plan, translator
        self._bundle, self._settings, self._options = bundle, settings, settings.digest()
        self._if_exists = if_exists
        self._readers, self._writers = readers, writers
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
        pipeline = Pipeline[_Begun, "Picture", _Written | Result](
            self._open, self._translator, self._write, self._readers, self._writers
        )
        with contextlib.closing(pipeline.run(self._begin_all(), should_stop)) as outcomes:
            for begun, outcome in outcomes:
                yield outcome if isinstance(outcome, Result) else self._finish(begun, outcome)

    def _begin_all(self) -> Iterator[_Begun | Settled[_Begun, _Written | Result]]:
        for job in self._plan.jobs:
            begun = self._begin(job)
            yield Settled(_Begun(job, job.target), begun) if isinstance(begun, Result) else begun

    def _begin(self, job: Job) -> _Begun | Result:
        """Decide whether a job has to be done at all, and where its output goes."""
        if job.root is None:
            return self._begin_existing(job, None) if _exists(job.target) else _Begun(job, job.target)
        try:
            status = job.source.stat()
        except OSError as error:
            problem = PictureError(f"{job.source}: cannot be read: {error.strerror}", "check the file")
            return Result(job.source, job.target, "failed", problem)
        source = str(job.source.resolve())
        options = self._options_for(job.target, job.root)
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

    def _options_for(self, target: Path, root: Path) -> str:
        """Hash of the settings and of the name that was asked for; the folder may be moved."""
        name = os.fsencode(os.path.relpath(target, root))
        return hashlib.sha256(self._options.encode() + name).hexdigest()

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

    def _open(self, begun: _Begun) -> Picture:
        begun.started = time.perf_counter()
        return open_picture(begun.job.source, self._settings.sizing, self._translator.size_rule)

    def _write(
        self, begun: _Begun, picture: Picture, pixels: list[Pixels], attention: list[Attention]
    ) -> _Written:
        try:
            # The result comes last: where it is, its sidecars are.
            paths = write_sidecars(picture, pixels, attention, begun.target, self._settings.attention)
            notes = write_picture(picture, pixels, begun.target, self._settings.encoding)
        except ENCODE_ERRORS as error:
            raise OutputError(f"{begun.target}: cannot be written: {error}", "use --format png") from error
        return _Written(picture.frame_count, tuple(paths), (*picture.notes, *notes))

    def _finish(self, begun: _Begun, outcome: _Written | UgatitBatchError) -> Result:
        seconds = time.perf_counter() - begun.started
        if isinstance(outcome, DiskFullError):
            raise outcome
        if isinstance(outcome, UgatitBatchError):
            self._record(begun, "failed", str(outcome))
            return Result(begun.job.source, begun.target, "failed", outcome, seconds)
        self._record(begun, "done")
        return Result(
            begun.job.source,
            begun.target,
            "done",
            None,
            seconds,
            outcome.frames,
            outcome.attention,
            outcome.notes,
        )


def _remove_partials(targets: Iterable[Path]) -> None:
    """Delete what a killed run left half written; nothing else in the folder is looked at."""
    for target in targets:
        for path in (target, *(sidecar_path(target, kind) for kind in KINDS)):
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
) -> Generator[Result, None, None]:
    """Do the jobs of a plan; yield a Result each as it is finished.

    Args:
        plan: the jobs. Their output folders belong to this run alone until it ends.
        translator: the network.
        bundle: hash of the model's direction.
        settings: what decides the outputs.
        if_exists: what to do where an output is there already.
        should_stop: asked before each job; True lets what was begun finish, and begins no more.

    Raises:
        OutputBusyError: another run writes to one of the folders.
        OutputError: one of the folders cannot be written.
        DiskFullError: no room is left; what is not finished is not there.
    """
    with _Run(plan, translator, bundle, settings, if_exists) as running:
        yield from running.results(should_stop)
