"""What people see while an engine is built."""

from __future__ import annotations

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ugatit_batch.display.console import ProgressDisplay, new_console


class BuildDisplay(ProgressDisplay):
    """A line that says what the library is doing, with a bar where it says how far it is.

    Args:
        title: model and flavor, shown first.
    """

    def __init__(self, title: str) -> None:
        self._console = new_console()
        self._title = title
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._phase = ""

    def __enter__(self) -> BuildDisplay:
        self._console.print(escape(self._title))
        self._progress.start()
        return self

    def show(self, phase: str, step: int, steps: int) -> None:
        """Take in how far a phase is; 0 steps: nobody knows."""
        if phase != self._phase:
            self._phase = phase
            self._progress.reset(self._task, description=escape(phase), total=steps or None)
        self._progress.update(self._task, completed=step)
