"""Progress, failures and a summary of a translation."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ugatit_batch.display.console import ProgressDisplay, RateColumn, new_console

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ugatit_batch.jobs import Result


class TranslateDisplay(ProgressDisplay):
    """Progress, failures as they come, and a summary of one translation.

    Args:
        title: model and device, shown first.
        total: number of jobs.
        unit: what a job is: `pictures`, or `files` where films are among them.
        verbose: a line a finished file too.
        quiet: failures only.
    """

    def __init__(self, title: str, total: int, unit: str, *, verbose: bool, quiet: bool) -> None:
        self._console = new_console()
        self._verbose, self._quiet = verbose, quiet
        self._counts: Counter[str] = Counter()
        self._foreign = self._frames = self._sidecars = 0
        self._notes: Counter[str] = Counter()
        self._started = time.perf_counter()
        self._title, self._unit = title, unit
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("translating", total=total, failed="", unit=unit)
        self._films: dict[Path, TaskID] = {}

    def __enter__(self) -> TranslateDisplay:
        if not self._quiet:
            self._console.print(escape(self._title))
        self._progress.start()
        return self

    def watch(self, source: Path, done: int, of: int | None) -> None:
        """Take in how many of a film's frames are written. May be called from any thread."""
        if source not in self._films:
            self._films[source] = self._progress.add_task(
                escape(source.name), total=of, completed=done, failed="", unit="frames"
            )
        # What the headers promise may be too little.
        total = None if of is None else max(of, done)
        self._progress.update(self._films[source], completed=done, total=total)

    def show(self, result: Result) -> None:
        """Take one result in."""
        film = self._films.pop(result.source, None)
        if film is not None:
            self._progress.remove_task(film)
        self._counts[result.status] += 1
        self._foreign += result.foreign
        self._frames += result.written.frames
        self._sidecars += len(result.written.attention)
        if result.error is not None:
            self._progress.console.print(f"[red]failed[/red]  {escape(str(result.error))}")
        elif self._verbose and not self._quiet:
            self._progress.console.print(
                f"{result.status}  {escape(str(result.source))} → {escape(str(result.target))}"
            )
        for note in result.written.notes:
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
            ignored: files that are neither pictures nor films.
            places: folders with the results.
        """
        self._progress.stop()
        if self._quiet:
            return
        seconds = time.perf_counter() - self._started
        table = Table.grid(padding=(0, 2))
        done = self._counts["done"]
        rate = f"{done / seconds:.3g} {self._unit}/s" if done else ""
        table.add_row("translated", str(done), f"in {seconds:.1f} s  {rate}")
        if self._frames > done:
            words = f"with those of animations and films  {self._frames / seconds:.3g} frames/s"
            table.add_row("frames", str(self._frames), words)
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
            table.add_row("left alone", str(ignored), "files that are neither pictures nor films")
        for note, count in self._notes.items():
            if count > 1:
                table.add_row("note", str(count), escape(note))
        self._console.print(table)
        for place in places:
            # Beside the table, which would cut a long path off.
            self._console.print(f"results are in {escape(str(place))}")
