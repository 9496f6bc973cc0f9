"""Progress, failures and a summary of a translation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ugatit_batch.display.console import ProgressDisplay, RateColumn, new_console
from ugatit_batch.display.results import FilmLines, ResultLines

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
        self._results = ResultLines(self._console, verbose=verbose, quiet=quiet)
        self._quiet = quiet
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
        self._films = FilmLines(self._progress)

    def __enter__(self) -> TranslateDisplay:
        if not self._quiet:
            self._console.print(escape(self._title))
        self._progress.start()
        return self

    def watch(self, source: Path, done: int, of: int | None) -> None:
        """Take in how many of a film's frames are written. May be called from any thread."""
        self._films.watch(source, done, of)

    def show(self, result: Result) -> None:
        """Take one result in."""
        self._films.end(result.source)
        self._results.show(result)
        failed = self._results.counts["failed"]
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
        results = self._results
        table = Table.grid(padding=(0, 2))
        done = results.counts["done"]
        rate = f"{done / seconds:.3g} {self._unit}/s" if done else ""
        table.add_row("translated", str(done), f"in {seconds:.1f} s  {rate}")
        if results.frames > done:
            words = f"with those of animations and films  {results.frames / seconds:.3g} frames/s"
            table.add_row("frames", str(results.frames), words)
        if results.sidecars:
            table.add_row("attention", str(results.sidecars), "sidecar files")
        if results.counts["skipped"]:
            table.add_row("skipped", str(results.counts["skipped"]), "were there already")
        if results.foreign:
            words = "of those not made from these settings; --if-exists overwrite makes them anew"
            table.add_row("", str(results.foreign), words)
        if results.counts["failed"]:
            table.add_row(
                "[red]failed[/red]",
                str(results.counts["failed"]),
                "see above; the same command tries them again",
            )
        if ignored:
            table.add_row("left alone", str(ignored), "files that are neither pictures nor films")
        for note, count in results.notes.items():
            if count > 1:
                table.add_row("note", str(count), escape(note))
        self._console.print(table)
        for place in places:
            # Beside the table, which would cut a long path off.
            self._console.print(f"results are in {escape(str(place))}")
