"""What people see of `plugin list` and `plugin doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ugatit_batch.display.console import new_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_plugins.editor_doctor import EditorDiagnosis

_STYLES = {"ok": "green", "missing": "yellow", "problem": "bold red"}
_UNLIMITED = 10_000  # characters a line


def show_plugins(rows: Sequence[tuple[str, str, str]]) -> None:
    """Editor, what is installed, and where, a line a place, on stdout."""
    table = Table(box=None, pad_edge=False)
    for column in ("editor", "plug-in", "where"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = new_console(stderr=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(table)


def show_editor_diagnosis(diagnosis: EditorDiagnosis) -> None:
    """A line a finding and one for what to do about it, on stdout."""
    console = new_console(stderr=False)
    for finding in diagnosis.findings:
        state = Text(f"{finding.state:8}", _STYLES[finding.state])
        console.print(Text.assemble(state, f" {finding.topic:8} {finding.text}"))
        if finding.hint:
            console.print(Text(f"{'':18}→ {finding.hint}", "cyan"))
    problems = diagnosis.count("problem")
    summary = (
        "nothing is broken"
        if not problems
        else f"{problems} {'thing is' if problems == 1 else 'things are'} broken"
    )
    console.print()
    console.print(Text(summary, _STYLES["problem" if problems else "ok"]))
