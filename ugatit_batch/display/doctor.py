"""What people see of `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ugatit_batch.display.console import new_console

if TYPE_CHECKING:
    from ugatit_engines.doctor import Diagnosis

_STYLES = {"ok": "green", "missing": "yellow", "problem": "bold red"}


def show_diagnosis(diagnosis: Diagnosis, *, verbose: bool) -> None:
    """A line a finding and one for what to do about it, on stdout; `verbose`: details too."""
    rows: list[tuple[Text, Text, Text]] = []
    for finding in diagnosis.findings:
        rows.append((Text(finding.state, _STYLES[finding.state]), Text(finding.topic), Text(finding.text)))
        if verbose and finding.detail:
            rows.append((Text(), Text(), Text(finding.detail, "dim")))
        if finding.hint:
            rows.append((Text(), Text(), Text(f"→ {finding.hint}", "cyan")))
    console = new_console(stderr=False)
    if console.is_terminal:
        table = Table.grid(padding=(0, 2))
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        # For a file or a letter: no line is broken, and none ends in blanks.
        states, topics = (max(len(row[at]) for row in rows) for at in (0, 1))
        for state, topic, text in rows:
            console.print(Text(f"{state.plain:{states}}  {topic.plain:{topics}}  {text.plain}"))
    console.print()
    console.print(_summary(diagnosis.count("problem"), diagnosis.count("missing")))


def _summary(problems: int, missing: int) -> Text:
    optional = (
        f"; {missing} optional {'thing is' if missing == 1 else 'things are'} missing" if missing else ""
    )
    if not problems:
        return Text(f"nothing is broken{optional}", _STYLES["ok"])
    broken = f"{problems} {'thing is' if problems == 1 else 'things are'} broken"
    return Text(f"{broken}{optional}", _STYLES["problem"])
