"""What people see while a command runs: the only user of rich. Everything goes to stderr."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from ugatit_batch.jobs import Result
    from ugatit_batch.models import FoundModel
    from ugatit_engines.measure import Machine, Throughput
    from ugatit_training.loop import Step


_UNLIMITED = 10_000  # characters a line


class _RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {self.unit}/s", style="cyan")


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


class TranslateDisplay:
    """Progress, failures as they come, and a summary of one translation.

    Args:
        title: model and device, shown first.
        total: number of jobs.
        verbose: a line a finished file too.
        quiet: failures only.
    """

    def __init__(self, title: str, total: int, *, verbose: bool, quiet: bool) -> None:
        self._console = _console()
        self._verbose, self._quiet = verbose, quiet
        self._counts: Counter[str] = Counter()
        self._foreign = self._frames = self._sidecars = 0
        self._notes: Counter[str] = Counter()
        self._started = time.perf_counter()
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn("pictures"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("translating", total=total, failed="")

    def __enter__(self) -> TranslateDisplay:
        if not self._quiet:
            self._console.print(escape(self._title))
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, result: Result) -> None:
        """Take one result in."""
        self._counts[result.status] += 1
        self._foreign += result.foreign
        self._frames += result.frames
        self._sidecars += len(result.attention)
        if result.error is not None:
            self._progress.console.print(f"[red]failed[/red]  {escape(str(result.error))}")
        elif self._verbose and not self._quiet:
            self._progress.console.print(
                f"{result.status}  {escape(str(result.source))} → {escape(str(result.target))}"
            )
        for note in result.notes:
            if not self._notes[note] and not self._quiet:
                self._progress.console.print(
                    f"[yellow]note[/yellow]    {escape(result.source.name)}: {escape(note)}"
                )
            self._notes[note] += 1
        failed = self._counts["failed"]
        self._progress.update(self._task, advance=1, failed=f"[red]{failed} failed[/red]" if failed else "")

    def summarize(self, ignored: int, places: Sequence[Path]) -> None:
        """The table at the end.

        Args:
            ignored: files that are no pictures.
            places: folders with the results.
        """
        self._progress.stop()
        if self._quiet:
            return
        seconds = time.perf_counter() - self._started
        table = Table.grid(padding=(0, 2))
        done = self._counts["done"]
        rate = f"{done / seconds:.3g} pictures/s" if done else ""
        table.add_row("translated", str(done), f"in {seconds:.1f} s  {rate}")
        if self._frames > done:
            table.add_row("frames", str(self._frames), "with those of animations")
        if self._sidecars:
            table.add_row("attention", str(self._sidecars), "sidecar files")
        if self._counts["skipped"]:
            table.add_row("skipped", str(self._counts["skipped"]), "were there already")
        if self._foreign:
            words = "of those not made from these settings; --if-exists overwrite makes them anew"
            table.add_row("", str(self._foreign), words)
        if self._counts["failed"]:
            table.add_row(
                "[red]failed[/red]",
                str(self._counts["failed"]),
                "see above; the same command tries them again",
            )
        if ignored:
            table.add_row("left alone", str(ignored), "files that are no pictures")
        for note, count in self._notes.items():
            if count > 1:
                table.add_row("note", str(count), escape(note))
        self._console.print(table)
        for place in places:
            # Beside the table, which would cut a long path off.
            self._console.print(f"results are in {escape(str(place))}")


class TrainDisplay:
    """Progress and losses of one training run.

    Args:
        title: what is trained, shown first.
        steps: of the whole run.
        quiet: show nothing but what went wrong.
    """

    def __init__(self, title: str, steps: int, *, quiet: bool) -> None:
        self._console = _console()
        self._quiet = quiet
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn("steps"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("training", total=steps)
        live = self._console.is_terminal and not quiet
        self._live = Live(self._progress, console=self._console, transient=True) if live else None

    def __enter__(self) -> TrainDisplay:
        if not self._quiet:
            self._console.print(escape(self._title))
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: Step) -> None:
        """Take one report in."""
        self._progress.update(self._task, completed=report.step)
        if self._quiet:
            return
        for name, path in (("sample", report.sample), ("checkpoint", report.checkpoint)):
            if path is not None:
                self._console.print(f"step {report.step}: {name} {escape(str(path))}")
        if not report.losses:
            return
        if self._live is not None:
            self._live.update(Group(_loss_table(report), self._progress))
        else:
            losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
            speed = f"{report.steps_per_second:.2f} steps/s"
            self._console.print(f"step {report.step}/{report.steps}  {speed}  {losses}")


def _loss_table(report: Step) -> Table:
    """The losses by name, both domains side by side."""
    names = dict.fromkeys(name.removesuffix("_a").removesuffix("_b") for name in report.losses)
    table = Table(title=f"step {report.step} · learning rate {report.learning_rate:.3g}")
    table.add_column("loss")
    table.add_column("A", justify="right")
    table.add_column("B", justify="right")
    for name in names:
        table.add_row(name, *(f"{report.losses[f'{name}_{domain}']:.4f}" for domain in "ab"))
    return table


def show_models(models: Sequence[FoundModel]) -> None:
    """The table of `models list`, on stdout."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "translates", "size", "kind", "where"):
        table.add_column(column, overflow="fold")
    for model in models:
        if model.bundle is None:
            table.add_row(escape(model.path.name), "[red]damaged[/red]", "", "", escape(str(model.path)))
            continue
        working = model.bundle.working_size
        size = f"{working.side}²" if working.mode == "square" else f"own, up to {working.side}"
        kind = "light" if model.bundle.generator.light else "full"
        where = "comes with ugatit-batch" if model.bundled else str(model.path)
        directions = escape(model.bundle.describe_directions())
        table.add_row(escape(model.bundle.name), directions, size, kind, escape(where))
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        # A line a model for programs that read it, however long its path.
        console.width = _UNLIMITED
    console.print(table)


def show_throughput(throughput: Throughput, machine: Machine, workers: int) -> None:
    """The table of `bench`, on stdout; `workers` threads read, and as many write."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row("folder run", f"{throughput.run:.4g}", "pictures/s, reading and writing included")
    table.add_row("bare network", f"{throughput.network:.4g}", "pictures/s, in memory")
    table.add_row("ratio", f"{throughput.ratio:.3f}", "folder run / bare network")
    table.add_row("decode", f"{throughput.decode:.4g}", f"pictures/s a thread; a run has {workers}")
    table.add_row("encode", f"{throughput.encode:.4g}", f"pictures/s a thread; a run has {workers}")
    share = f"the run has {throughput.ratio_to_slowest:.0%} of its speed"
    table.add_row("slowest", throughput.slowest, share)
    gpu = "no GPU used" if machine.gpu is None else machine.gpu
    cpu = f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads"
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    where = f"{cpu} · {gpu} · {machine.system} · Python {machine.python} · PyTorch {machine.torch}"
    console.print(escape(where))
