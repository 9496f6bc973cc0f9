from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ugatit_batch.display import translate as display
from ugatit_batch.display.translate import TranslateDisplay
from ugatit_batch.errors import FilmError
from ugatit_batch.jobs import Result
from ugatit_batch.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable

FILM, PICTURE = Path("p/film [1].mp4"), Path("p/a.png")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """What goes to the console, which is a terminal or is none."""

    def install(terminal: bool) -> io.StringIO:
        text = io.StringIO()
        console = Console(
            file=text, force_terminal=terminal, width=160, highlight=False, soft_wrap=True, color_system=None
        )
        monkeypatch.setattr(display, "new_console", lambda: console)
        return text

    return install


def lines_of(shown: TranslateDisplay) -> list[str]:
    """What stands below the lines of a live display now."""
    console = Console(file=io.StringIO(), width=160, record=True)
    console.print(shown._progress)
    return console.export_text().splitlines()


def done(source: Path, written: Written) -> Result:
    return Result(source, source, "done", None, 1.0, written)


def test_a_film_has_a_line_of_its_own_while_it_is_translated(shown: Callable[[bool], io.StringIO]) -> None:
    shown(True)
    with TranslateDisplay("ink", 2, "files", verbose=False, quiet=False) as live:
        for count in (40, 41, 42):
            writer = threading.Thread(target=live.watch, args=(FILM, count, 300))
            writer.start()
            writer.join()
        overall, film = lines_of(live)
        assert "0/2" in overall
        assert "film [1].mp4" in film
        assert "42/300" in film
        # More than the headers have promised.
        live.watch(FILM, 301, 300)
        assert "301/301" in lines_of(live)[1]
        live.show(done(FILM, Written(301)))
        (overall,) = lines_of(live)
        assert "1/2" in overall


def test_a_film_of_unknown_length_is_counted(shown: Callable[[bool], io.StringIO]) -> None:
    shown(True)
    with TranslateDisplay("ink", 1, "files", verbose=False, quiet=False) as live:
        live.watch(FILM, 7, None)
        assert "7/?" in lines_of(live)[1]


def test_what_was_noted_and_what_failed_is_said(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    with TranslateDisplay("ink", 3, "files", verbose=False, quiet=False) as live:
        live.watch(FILM, 1, 10)
        live.show(done(FILM, Written(10, (Path("x"),), ("HDR was tone-mapped",))))
        live.show(done(PICTURE, Written(1)))
        live.show(
            Result(Path("b.mp4"), Path("b.mp4"), "failed", FilmError("b.mp4: no index", "copy it again"))
        )
        live.summarize(4, [Path("out")])
    said = text.getvalue()
    assert "film [1].mp4: HDR was tone-mapped" in said
    assert "b.mp4: no index (copy it again)" in said
    assert "files/s" in said
    assert "11" in said
    assert "frames/s" in said
    assert "files that are neither pictures nor films" in said
