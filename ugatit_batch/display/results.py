"""What every run of jobs counts and says of its results, and the progress of the films at hand."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from rich.markup import escape

from ugatit_batch.display.console import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.progress import Progress, TaskID

    from ugatit_batch.jobs import Result

_KINDS = 1_000  # of notes; some of them hold numbers, and a service runs for months


class ResultLines:
    """Counts results, and says what is worth a line: failures, each kind of note once, or every file.

    Args:
        console: where to.
        verbose: a line a file.
        quiet: failures only.
    """

    def __init__(self, console: Console, *, verbose: bool, quiet: bool) -> None:
        self._console, self._verbose, self._quiet = console, verbose, quiet
        self.counts: Counter[str] = Counter()
        """Results by their status."""
        self.foreign = self.frames = self.sidecars = 0
        self.notes: dict[str, int] = {}
        """How often each kind was made; of the last thousand kinds."""

    def show(self, result: Result) -> None:
        """Take one result in."""
        self.counts[result.status] += 1
        self.foreign += result.foreign
        self.frames += result.written.frames
        self.sidecars += len(result.written.attention)
        if result.error is not None:
            self._say(f"[red]failed[/red]  {_shown(result.error)}")
        elif self._verbose and not self._quiet:
            self._say(f"{result.status}  {_shown(result.source)} → {_shown(result.target)}")
        for note in result.written.notes:
            if note not in self.notes and not self._quiet:
                self._say(f"[yellow]note[/yellow]    {_shown(result.source.name)}: {_shown(note)}")
            self.notes[note] = self.notes.get(note, 0) + 1
            if len(self.notes) > _KINDS:
                del self.notes[next(iter(self.notes))]

    def _say(self, markup: str) -> None:
        self._console.print(markup)


class FilmLines:
    """A line of progress for each film at hand. Safe to use from several threads.

    Args:
        progress: has the lines; their field `failed` is empty, their `unit` is `frames`.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._tasks: dict[Path, TaskID] = {}

    def watch(self, source: Path, done: int, of: int | None) -> None:
        """Take in how many of a film's frames are written, and how many there are likely to be."""
        # What the headers promise may be too little.
        total = None if of is None else max(of, done)
        with self._lock:
            if source not in self._tasks:
                self._tasks[source] = self._progress.add_task(
                    _shown(source.name), total=total, completed=done, failed="", unit="frames"
                )
            self._progress.update(self._tasks[source], completed=done, total=total)

    def end(self, source: Path) -> bool:
        """Take a film's line away; whether it had one."""
        with self._lock:
            task = self._tasks.pop(source, None)
            if task is not None:
                self._progress.remove_task(task)
        return task is not None

    def clear(self) -> None:
        """Take all lines away."""
        for source in list(self._tasks):
            self.end(source)

    def describe(self) -> list[str]:
        """`film.mp4: 120 of 300 frames` for each film."""
        with self._lock:
            lines = {task.id: task for task in self._progress.tasks}
            films = [(source.name, lines[task]) for source, task in self._tasks.items()]
        return [
            f"{one_line(name)}: {int(line.completed):,}"
            f"{'' if line.total is None else f' of {int(line.total):,}'} frames"
            for name, line in films
        ]


def _shown(what: object) -> str:
    return escape(one_line(str(what)))
