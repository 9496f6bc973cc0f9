"""`--report`: a JSON line a result, in a file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.jobs import Result


def reporter(path: Path | None, *, append: bool = False) -> Callable[[Result], None]:
    """A function that adds one result to the report. It raises DiskFullError or OutputError where it cannot.

    The file is opened anew for each line, so that it can be moved away at any time.

    Args:
        path: the file; None for no report.
        append: keep what an earlier run has written. Otherwise the first result empties the file, and a run
            that is refused before it takes no older report away.

    Raises:
        DiskFullError, OutputError: the file cannot be appended to.
    """
    if path is None:
        return lambda _: None
    kept = append
    if append:
        # A service says at its start what it could not write later.
        _write(path, "", append=True)

    def write(result: Result) -> None:
        nonlocal kept
        _write(path, json.dumps(result.to_json()) + "\n", append=kept)
        kept = True

    return write


def _write(path: Path, text: str, *, append: bool) -> None:
    from ugatit_batch.atomic import explain_os_error

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if append and text and _is_cut_off(path):
            text = "\n" + text
        with path.open("a" if append else "w", encoding="ascii") as handle:
            handle.write(text)
    except OSError as error:
        raise explain_os_error(error, path) from error


def _is_cut_off(path: Path) -> bool:
    """Whether a file's last line has no end, as a full disk or a kill leaves it."""
    # A pipe has no end to look at.
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read() != b"\n"
