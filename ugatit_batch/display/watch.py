"""What a watched folder comes to: a status line on a terminal, plain lines in a log."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Literal

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ugatit_batch.display.console import LiveDisplay, RateColumn, new_console, one_line
from ugatit_batch.display.results import FilmLines, ResultLines

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from ugatit_batch.jobs import Result

_REDRAWN = 0.25  # seconds between two drawings of the status line, at least
_WINDOW = 60.0  # seconds that the rate looks back


class WatchDisplay(LiveDisplay):
    """What happens in a watched folder, line by line; on a terminal there is a status line below them.

    Args:
        title: model and device, shown first.
        verbose: a line a finished file too.
        quiet: failures and warnings only.
        live: whether a terminal gets a status line; not where results for programs go to the same terminal.
    """

    def __init__(self, title: str, *, verbose: bool, quiet: bool, live: bool = True) -> None:
        self._console = new_console()
        self._title, self._quiet = title, quiet
        self._results = ResultLines(self._console, verbose=verbose, quiet=quiet)
        self._state, self._waiting, self._working = "watching", 0, 0
        self._pace = _Pace()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            disable=True,  # its lines are part of what `_live` draws
        )
        self._films = FilmLines(self._bars)
        self._drawn = 0.0
        self._live: Live | None = None
        if live and self._console.is_terminal and not quiet:
            # Once a second it looks by itself whether there is something new: after the last of many changes.
            self._live = Live(
                console=self._console, transient=True, refresh_per_second=1, get_renderable=self._render
            )

    @property
    def line(self) -> str:
        """How it stands, in the words of the status line; without line ends."""
        return " · ".join((*self._facts(), *self._films.describe()))

    def say(self, kind: Literal["notice", "warning"], text: str) -> None:
        """Say what happens to the watching itself."""
        words = escape(one_line(text))
        if kind == "warning":
            self._console.print(f"[yellow]warning[/yellow] {words}")
        elif not self._quiet:
            self._console.print(words)

    def status(self, waiting: int, working: int, state: str = "watching") -> None:
        """Take in how it stands; to be called as often as you like.

        Args:
            waiting: files that have been seen, and are not yet taken up.
            working: files that are being read, translated or written.
            state: what the service does, a word or two.
        """
        if working == 0 and self._working > 0:
            # Of a film that was given up midway there is no result.
            self._films.clear()
            self._pace.rest()
        elif working > 0 and self._working == 0:
            self._pace.begin(time.monotonic())
        self._state, self._waiting, self._working = state, waiting, working
        self._redraw()

    def watch(self, source: Path, done: int, of: int | None) -> None:
        """Take in how many of a film's frames are written. May be called from any thread."""
        self._films.watch(source, done, of)
        self._redraw()

    def show(self, result: Result) -> None:
        """Take one result in."""
        if not self._films.end(result.source) and result.status == "done":
            self._pace.add(time.monotonic())
        self._results.show(result)

    def summarize(self) -> None:
        """The line at the end."""
        if self._live is not None:
            self._live.stop()
        if not self._quiet:
            self._console.print(", ".join(_words(self._results)) or "nothing has come")

    def _redraw(self) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= _REDRAWN:
            self._drawn = now
            self._live.refresh()

    def _render(self) -> RenderableType:
        # One line: what is redrawn must not be wider than the terminal.
        status = Text(" · ".join(self._facts()), style="cyan", no_wrap=True, overflow="ellipsis")
        return Group(status, self._bars) if self._bars.tasks else Group(status)

    def _facts(self) -> list[str]:
        counts = self._results.counts
        numbers = {
            "waiting": self._waiting,
            "in work": self._working,
            "done": counts["done"],
            "failed": counts["failed"],
        }
        facts = [self._state, *(f"{number:,} {name}" for name, number in numbers.items() if number)]
        rate = self._pace.rate(time.monotonic())
        return [*facts, f"{rate:.2g} pictures/s"] if rate else facts


def _words(results: ResultLines) -> list[str]:
    """The numbers of a whole run."""
    counts = results.counts
    words = [f"{counts[status]:,} {status}" for status in ("done", "failed", "skipped") if counts[status]]
    if results.foreign:
        words.append(f"{results.foreign:,} of those not made from these settings")
    return words


class _Pace:
    """How many pictures a second are done, of late. Safe to use from several threads.

    Times are in seconds, of one clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=1_000)
        self._began = 0.0

    def begin(self, now: float) -> None:
        """There is work."""
        self._began = now

    def rest(self) -> None:
        """There is none."""
        with self._lock:
            self._times.clear()

    def add(self, now: float) -> None:
        """A picture is done."""
        with self._lock:
            self._times.append(now)

    def rate(self, now: float) -> float:
        """0 while it is not known."""
        with self._lock:
            while self._times and self._times[0] < now - _WINDOW:
                self._times.popleft()
            full = len(self._times) == self._times.maxlen
            since = self._times[0] if full else max(self._began, now - _WINDOW)
            return len(self._times) / (now - since) if now - since >= 1 else 0.0
