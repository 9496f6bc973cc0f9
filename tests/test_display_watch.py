from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ugatit_batch.display import watch as display
from ugatit_batch.display.results import ResultLines
from ugatit_batch.display.watch import WatchDisplay
from ugatit_batch.errors import PictureError
from ugatit_batch.jobs import Result
from ugatit_batch.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable

FILM, PICTURE = Path("in/film [1].mp4"), Path("in/a.png")
STILL = Written(1)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """What goes to the console, which is a terminal or is none."""

    def install(terminal: bool) -> io.StringIO:
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=100, highlight=False, soft_wrap=True)
        monkeypatch.setattr(display, "new_console", lambda: console)
        return text

    return install


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def done(source: Path, written: Written = STILL) -> Result:
    return Result(source, Path("out") / source.name, "done", None, 1.0, written)


def failed(source: Path, message: str) -> Result:
    return Result(source, source, "failed", PictureError(message, "copy it again"))


def picture(shown: WatchDisplay) -> list[str]:
    """What stands below the lines of a live display now."""
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(shown._render())
    return [line.rstrip() for line in console.export_text().splitlines()]


def use_all(watching: WatchDisplay) -> None:
    with watching:
        watching.say("notice", "watching /inbox [x] (inotify)")
        watching.status(2, 3)
        watching.watch(FILM, 40, 300)
        watching.show(done(PICTURE, Written(1, notes=("has no [profile]",))))
        watching.show(done(FILM, Written(300, notes=("has no [profile]",))))
        watching.say("warning", "waiting: the disk is full")
        watching.show(failed(Path("in/b.png"), "in/b.png: is cut off"))
        watching.show(Result(PICTURE, PICTURE, "skipped", foreign=True))
        watching.status(0, 0)
        watching.summarize()


def test_a_log_gets_a_line_for_what_happens_and_no_codes(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    use_all(WatchDisplay("ink (photo → ink)", verbose=False, quiet=False))
    assert text.getvalue().splitlines() == [
        "ink (photo → ink)",
        "watching /inbox [x] (inotify)",
        "note    a.png: has no [profile]",
        "warning waiting: the disk is full",
        "failed  in/b.png: is cut off (copy it again)",
        "2 done, 1 failed, 1 skipped, 1 of those not made from these settings",
    ]


def test_with_more_words_each_file_has_a_line(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    use_all(WatchDisplay("ink", verbose=True, quiet=False))
    lines = text.getvalue().splitlines()
    assert f"done  {PICTURE} → {Path('out/a.png')}" in lines
    assert f"skipped  {PICTURE} → {PICTURE}" in lines


@pytest.mark.parametrize("terminal", [False, True])
def test_with_fewest_words_only_what_went_wrong_is_said(
    shown: Callable[[bool], io.StringIO], terminal: bool
) -> None:
    text = shown(terminal)
    watching = WatchDisplay("ink", verbose=True, quiet=True)
    use_all(watching)
    warning, failure = text.getvalue().splitlines()
    assert "waiting: the disk is full" in warning
    assert "in/b.png: is cut off" in failure
    assert watching.line == "watching · 2 done · 1 failed"


def test_a_log_says_nothing_while_nothing_happens(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    with WatchDisplay("ink", verbose=True, quiet=False) as watching:
        before = text.getvalue()
        for number in range(100):
            watching.status(number % 3, number % 2)
            watching.watch(FILM, number, 300)
        assert text.getvalue() == before


def test_no_name_of_a_file_forges_a_line_or_moves_the_cursor(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    name = "a\nfailed  b.png\x1b[2J\u2028\x85 ネコ\u3000é.png"
    with WatchDisplay("ink", verbose=False, quiet=False) as watching:
        watching.show(failed(Path(name), f"{name}: is cut off"))
        watching.say("warning", f"{name}: is gone")
        watching.watch(Path(name), 1, 2)
        watching.show(done(Path("c\r.png"), Written(1, notes=("has no profile",))))
        assert watching.line.splitlines() == [watching.line]
    spelled = "a\\nfailed  b.png\\x1b[2J\\u2028\\x85 ネコ\u3000é.png"
    assert text.getvalue().splitlines() == [
        "ink",
        f"failed  {spelled}: is cut off (copy it again)",
        f"warning {spelled}: is gone",
        "note    c\\r.png: has no profile",
    ]


def test_the_status_tells_how_it_stands(shown: Callable[[bool], io.StringIO], clock: list[float]) -> None:
    shown(False)
    watching = WatchDisplay("ink", verbose=False, quiet=False)
    assert watching.line == "watching"
    watching.status(1203, 12)
    for _ in range(8):
        clock[0] += 1.25
        watching.show(done(PICTURE))
    watching.show(failed(PICTURE, "a.png: is cut off"))
    assert watching.line == "watching · 1,203 waiting · 12 in work · 8 done · 1 failed · 0.8 pictures/s"
    # An hour without a result, and what is not being worked on.
    clock[0] += 3600
    assert watching.line == "watching · 1,203 waiting · 12 in work · 8 done · 1 failed"
    watching.status(3, 0, "waiting: the disk is full")
    assert watching.line == "waiting: the disk is full · 3 waiting · 8 done · 1 failed"
    watching.status(0, 4)
    clock[0] += 2
    watching.show(done(PICTURE))
    assert watching.line == "watching · 4 in work · 9 done · 1 failed · 0.5 pictures/s"


def test_a_rate_of_very_many_pictures_looks_back_as_far_as_it_knows(clock: list[float]) -> None:
    pace = display._Pace()
    pace.begin(clock[0])
    for number in range(5000):
        pace.add(clock[0] + number / 100)
    assert pace.rate(clock[0] + 50) == pytest.approx(100, rel=0.01)


def test_a_film_at_hand_has_a_line_of_its_own(shown: Callable[[bool], io.StringIO]) -> None:
    shown(True)
    other = Path("in/other.mkv")
    with WatchDisplay("ink", verbose=False, quiet=False) as watching:
        watching.status(0, 2)
        assert picture(watching) == ["watching · 2 in work"]
        for count in (40, 41, 1042):
            writer = threading.Thread(target=watching.watch, args=(FILM, count, 3000))
            writer.start()
            writer.join()
        watching.watch(other, 7, None)
        status, film, last = picture(watching)
        assert status == "watching · 2 in work"
        assert film.startswith("film [1].mp4")
        assert "1042/3000" in film
        assert "7/?" in last
        assert watching.line == f"{status} · film [1].mp4: 1,042 of 3,000 frames · other.mkv: 7 frames"
        watching.show(done(FILM, Written(3000)))
        assert len(picture(watching)) == 2
        # There is no result of a film that was given up midway.
        watching.status(1, 0)
        assert picture(watching) == ["watching · 1 waiting · 1 done"]


def test_a_terminal_is_not_drawn_for_every_number(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(True)
    with WatchDisplay("ink", verbose=False, quiet=False) as watching:
        began = time.monotonic()
        number = 0
        while time.monotonic() < began + 0.8:
            number += 1
            watching.status(0, number)
            watching.watch(FILM, number, None)
        assert number > 50
        # Four a second when told, one a second by itself, and what was drawn at the start.
        most = (time.monotonic() - began) * 5 + 4
        assert 2 <= text.getvalue().count("watching") <= most


def test_a_terminal_shows_the_last_of_many_numbers(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(True)
    with WatchDisplay("ink", verbose=False, quiet=False) as watching:
        for number in range(1, 100):
            watching.status(0, number)
        watching.status(98765, 0)
        end = time.monotonic() + 30
        while "98,765 waiting" not in text.getvalue():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_status_line_is_not_wider_than_the_terminal(shown: Callable[[bool], io.StringIO]) -> None:
    shown(True)
    watching = WatchDisplay("ink", verbose=False, quiet=False)
    watching.status(1, 1, "waiting: " + "the disk is full " * 20)
    (line,) = picture(watching)
    assert len(line) == 100
    assert line.endswith("…")


def test_notes_of_months_do_not_fill_the_memory() -> None:
    lines = ResultLines(Console(file=io.StringIO()), verbose=False, quiet=False)
    for number in range(1100):
        lines.show(done(PICTURE, Written(1, notes=(f"only the first of {number} pages was translated",))))
    assert len(lines.notes) == 1000
    assert "only the first of 1099 pages was translated" in lines.notes


def test_what_has_not_come_is_said_too(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    with WatchDisplay("ink", verbose=False, quiet=False) as watching:
        watching.summarize()
    assert text.getvalue().splitlines() == ["ink", "nothing has come"]


def test_a_terminal_that_programs_read_gets_no_status_line(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(True)
    with WatchDisplay("ink", verbose=False, quiet=False, live=False) as watching:
        watching.status(3, 2)
        watching.watch(FILM, 1, 2)
        assert text.getvalue() == "ink\n"
