"""Where the output of a job goes, or why there is none to make, by what is in the output folder already.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ugatit_batch.errors import OutputError
from ugatit_batch.planning import same_name, sidecar_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.journal import Entry, Journal, Key, Maker
    from ugatit_batch.planning import Job

IfExists = Literal["skip", "update", "overwrite", "rename", "error"]
"""What to do where an output is there: leave it; make it anew where it is of an older version of its input;
make it anew in any case; take another name; fail."""


@dataclass(frozen=True)
class Made:
    """There is nothing to do."""

    output: Path
    foreign: bool = False
    """Whether it is not known to be made from this version of the input with these settings."""


class Outputs:
    """The outputs of one plan.

    Args:
        jobs: all of the plan.
        if_exists: what to do where an output is there.
        attention: which sidecars are written.
    """

    def __init__(self, jobs: Iterable[Job], if_exists: IfExists, attention: Sequence[Kind]) -> None:
        self._if_exists, self._attention = if_exists, tuple(attention)
        self._promised = {path for job in jobs for path in self._paths(job.target)}

    def place(self, job: Job, key: Key | None, journal: Journal | None) -> Path | Made | OutputError:
        """Where a job's output is to be written, or that it is made, or why it must not be.

        Args:
            job: of the plan.
            key: the present version of its input with these settings; None for a single file.
            journal: of its output folder; None for a single file.

        Raises:
            OutputError, DiskFullError: the journal cannot be read or written.
        """
        if key is None or journal is None:
            return self._among_strangers(job) if exists(job.target) else job.target
        known = journal.find(key)
        if self._if_exists != "overwrite" and known is not None and known.state in ("started", "done"):
            # `started` with its output there: the run was killed between the last rename and this journal.
            output = Path(known.output)
            if exists(output):
                if known.state == "started":
                    journal.record(key, "done", known.output)
                return Made(output)
        if self._if_exists == "update":
            clash = self._clash(job, key, journal)
            if clash is not None:
                return clash
            maker = journal.maker(str(job.target)) if exists(job.target) else None
            if maker is not None and _is_outdated(maker, key):
                return job.target
        own = self._own_name(known) if self._if_exists == "rename" else None
        if own is not None:
            return own
        if self._is_taken(job.target, known):
            return self._among_strangers(job)
        return job.target

    def _among_strangers(self, job: Job) -> Path | Made | OutputError:
        """The same where the target is there, and not known to be what would be made."""
        match self._if_exists:
            case "skip" | "update":
                return Made(job.target, foreign=job.root is not None)
            case "overwrite":
                return job.target
            case "rename":
                return self._free_name(job.target)
            case "error":
                return OutputError(
                    f"{job.target}: is there already", "use --if-exists skip, update, overwrite or rename"
                )

    def _is_taken(self, target: Path, known: Entry | None) -> bool:
        """Whether a name cannot simply be used: it, or what goes beside it, is there."""
        if exists(target):
            return True
        # Sidecars come before their result: a killed run may have left them.
        is_new = self._if_exists == "rename" and known is None
        return is_new and any(exists(path) for path in self._paths(target))

    def _own_name(self, known: Entry | None) -> Path | None:
        """The name that an earlier run has begun with, where it did not come to an end."""
        if known is None or known.state not in ("started", "failed"):
            return None
        output = Path(known.output)
        if exists(output) or not self._promised.isdisjoint(self._paths(output)):
            return None
        self._promised.update(self._paths(output))
        return output

    def _free_name(self, target: Path) -> Path:
        number = 1
        while True:
            name = target.with_name(f"{target.stem} ({number}){target.suffix}")
            paths = self._paths(name)
            if self._promised.isdisjoint(paths) and not any(exists(path) for path in paths):
                self._promised.update(paths)
                return name
            number += 1

    def _clash(self, job: Job, key: Key, journal: Journal) -> OutputError | None:
        """Why a job must not be done: some of what it writes is made from another input."""
        mine = self._paths(job.target)
        for path in [*mine, *self._owners_if_sidecar(job.target)]:
            for output, maker in journal.makers(str(path)).items():
                if same_name(Path(maker.key.input)) == same_name(Path(key.input)):
                    continue
                shared = [own for own in mine if own in self._paths(Path(output))]
                being_made = maker.state in ("started", "replacing") and exists(Path(maker.key.input))
                if shared and (being_made or any(exists(own) for own in shared)):
                    return OutputError(
                        f"{job.source} and {maker.key.input} would both become {shared[0]}",
                        "rename one of them",
                    )
        return None

    def _owners_if_sidecar(self, target: Path) -> list[Path]:
        """Outputs, whatever their suffix, that may have `target` as a sidecar."""
        ends = [f".{kind}" for kind in self._attention if target.stem.endswith(f".{kind}")]
        return [target.with_name(target.stem.removesuffix(end) + target.suffix) for end in ends]

    def _paths(self, target: Path) -> list[Path]:
        """An output and its sidecars."""
        return [target, *(sidecar_path(target, kind) for kind in self._attention)]


def exists(path: Path) -> bool:
    """As `Path.exists`, and False for names that are too long to exist."""
    return os.path.exists(path)  # noqa: PTH110


def _is_outdated(maker: Maker, key: Key) -> bool:
    """Whether what the same input gave is to be made anew."""
    is_older = (maker.key.size, maker.key.mtime) != (key.size, key.mtime)
    # Where the making was broken off, or has failed, an older one may be there.
    return is_older or maker.state in ("replacing", "failed")
