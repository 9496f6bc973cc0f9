"""What all displays share."""

from __future__ import annotations

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text


def new_console() -> Console:
    """On stderr; lines are not broken, so that paths can be copied."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


class RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {self.unit}/s", style="cyan")
