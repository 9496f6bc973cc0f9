"""What all displays share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from rich.live import Live


# Names of files may hold anything: what ends a line of a log and forges another, or moves a cursor.
_CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def one_line(text: str) -> str:
    """A text in which control characters are spelled out."""
    return text.translate(_CONTROLS)


def new_console(*, stderr: bool = True) -> Console:
    """Lines are not broken, so that paths can be copied."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


class ProgressDisplay:
    """Whose progress stops with it, whatever ends the block."""

    _progress: Progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class LiveDisplay:
    """Says its title, and draws below what it prints, while the block is open."""

    _console: Console
    _title: str
    _quiet: bool
    _live: Live | None

    def __enter__(self) -> Self:
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


class RateColumn(ProgressColumn):
    """Units a second, in the unit that the task's field `unit` names."""

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {task.fields['unit']}/s", style="cyan")
