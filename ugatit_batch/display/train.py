"""Checking pictures before a training, and the training itself."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ugatit_batch.display.console import LiveDisplay, ProgressDisplay, new_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from ugatit_training.data_checks import Checked
    from ugatit_training.loop import Step

_MANY = 1_000  # pictures: checking them takes long enough to be worth a line in a log file
_RECENT = 10  # reports that tell how fast a run is


class CheckDisplay(ProgressDisplay):
    """How far the check of the training pictures is; a line without a terminal, and only where it takes long.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = new_console()
        self._quiet = quiet
        self._said = False
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> CheckDisplay:
        self._progress.start()
        return self

    def show(self, checked: Checked) -> None:
        """Take in how far it is."""
        left = checked.total - checked.done
        if self._task is None:
            # From zero, so that its speed is that of the pictures which are still to be read.
            self._task = self._progress.add_task("checking pictures", total=left)
            self._total = left
            if left >= _MANY and self._progress.disable and not self._quiet:
                self._console.print(f"checking {left} pictures …")
        self._progress.update(self._task, completed=self._total - left)


class TrainDisplay(LiveDisplay):
    """Progress, losses, time left and memory of one training run.

    Args:
        title: what is trained, shown first.
        steps: of the whole run.
        done: those taken in earlier runs.
        quiet: show nothing but what went wrong.
        memory: used on the device now and had by it, in bytes; None where nobody can tell.
    """

    def __init__(
        self,
        title: str,
        steps: int,
        *,
        done: int = 0,
        quiet: bool,
        memory: Callable[[], tuple[int, int] | None] = lambda: None,
    ) -> None:
        self._console = new_console()
        self._quiet = quiet
        self._title = title
        self._memory = memory
        self._pace = _Pace(done, steps)
        self._report: Step | None = None
        self._used: tuple[int, int] | None = None
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task("training", total=steps, left="")
        live = self._console.is_terminal and not quiet
        self._live = (
            Live(console=self._console, transient=True, get_renderable=self._render) if live else None
        )

    def note(self, text: str) -> None:
        """Say something about how the run came about."""
        if not self._quiet:
            self._console.print(f"[cyan]note[/cyan]  {escape(text)}")

    def warn(self, text: str) -> None:
        """Say what may spoil the run."""
        if not self._quiet:
            self._console.print(f"[yellow]warning[/yellow]  {escape(text)}")

    def show(self, report: Step) -> None:
        """Take one report in."""
        self._pace.add(report)
        if self._quiet:
            return
        written = {
            "sample": report.sample,
            "evaluation": report.evaluation,
            "checkpoint": report.checkpoint,
        }
        for name, path in written.items():
            if path is not None:
                self._console.print(f"step {report.step}: {name} {escape(str(path))}")
        if report.scores:
            scores = "  ".join(f"{name} {value:.3f}" for name, value in report.scores.items())
            self._console.print(f"step {report.step}: {scores}")
        if not report.losses:
            return
        self._report, self._used = report, self._memory()
        if self._live is None:
            self._console.print(self._line(report))

    def _line(self, report: Step) -> str:
        """One report for a log file."""
        facts = [f"step {report.step}/{report.steps}", f"{report.steps_per_second:.3g} steps/s"]
        left = self._pace.left()
        if left:
            facts.append(f"{_duration(left)} left")
        if report.memory is not None:
            facts.append(f"memory {_gib(report.memory)}")
        return "  ".join([*facts, *(f"{name} {value:.3f}" for name, value in report.losses.items())])

    def _render(self) -> RenderableType:
        left = self._pace.left()
        words = "" if left is None else f"{self._pace.rate:.3g} steps/s · {_duration(left)} left"
        self._bar.update(self._task, completed=self._pace.step, left=words)
        if self._report is None:
            return self._bar
        title = f"step {self._report.step} · learning rate {self._report.learning_rate:.3g}"
        parts: list[RenderableType] = [title, _loss_table(self._report)]
        if self._used is not None:
            used, had = self._used
            parts.append(f"GPU memory: {_gib(used)} of {_gib(had)} used now, {_peak(self._report)}")
        return Group(*parts, self._bar)


class _Pace:
    """How fast a run is, from its last reports: the start of a run, and what it did before, do not count.

    Args:
        done: steps taken in earlier runs.
        steps: of the whole run.
    """

    def __init__(self, done: int, steps: int) -> None:
        self.step = done
        self.rate = 0.0
        """Steps a second; 0 before the first report."""
        self._steps = steps
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._end: float | None = None

    def add(self, report: Step) -> None:
        """Take one report in."""
        taken = report.step - self.step
        self.step = report.step
        if taken <= 0 or report.steps_per_second <= 0:
            return
        self._recent.append((taken, taken / report.steps_per_second))
        self.rate = sum(steps for steps, _ in self._recent) / sum(seconds for _, seconds in self._recent)
        self._end = time.monotonic() + (self._steps - self.step) / self.rate

    def left(self) -> float | None:
        """Seconds, falling between two reports, too; None before the first."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)


def _duration(seconds: float) -> str:
    """For people: `3 d 4 h`, `2 h 05 min`, `7 min 30 s`, `12 s`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _peak(report: Step) -> str:
    return "" if report.memory is None else f"this run {_gib(report.memory)} at most"


def _loss_table(report: Step) -> Table:
    """The losses by name, both domains side by side."""
    names = dict.fromkeys(name.removesuffix("_a").removesuffix("_b") for name in report.losses)
    table = Table()
    table.add_column("loss")
    table.add_column("A", justify="right")
    table.add_column("B", justify="right")
    for name in names:
        values = (report.losses.get(f"{name}_{domain}") for domain in "ab")
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    return table
