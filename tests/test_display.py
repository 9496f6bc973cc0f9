from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from ugatit_batch.display import train as display
from ugatit_batch.display.train import CheckDisplay, TrainDisplay
from ugatit_training.data_checks import Checked
from ugatit_training.loop import Step

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """What goes to the console, which is a terminal or is none."""

    def install(terminal: bool) -> io.StringIO:
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=80, highlight=False, soft_wrap=True)
        monkeypatch.setattr(display, "new_console", lambda: console)
        return text

    return install


def report(step: int, rate: float, memory: int | None = None, **more: Any) -> Step:
    losses = {"cycle_a": 0.25, "cycle_b": 0.5, "cam_a": 1.25}
    return Step(step, 1000, losses, 1e-4, rate, memory=memory, **more)


def picture(shown: TrainDisplay) -> str:
    """What stands below the lines of a live display now."""
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(shown._render())
    return console.export_text()


# Training, live


def test_the_live_display_shows_all_there_is_to_know(
    shown: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    shown(True)
    used = [(30 * GIB, 139 * GIB)]
    with TrainDisplay("cat2dog", 1000, quiet=False, memory=used.pop) as training:
        assert "0/1000" in picture(training)
        training.show(report(100, 2.0, memory=GIB * 5 // 2))
        lines = picture(training).splitlines()
    assert "step 100 · learning rate 0.0001" in lines[0]
    rows = [line.split() for line in lines]
    assert ["│", "cycle", "│", "0.2500", "│", "0.5000", "│"] in rows
    assert ["│", "cam", "│", "1.2500", "│", "│"] in rows
    assert "GPU memory: 30.0 GiB of 139.0 GiB used now, this run 2.5 GiB at most" in lines
    assert lines[-1].split(maxsplit=2)[2].rstrip() == "100/1000 2 steps/s · 7 min 30 s left"


def test_without_a_gpu_nothing_is_said_of_its_memory(
    shown: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    shown(True)
    with TrainDisplay("cat2dog", 1000, quiet=False) as training:
        training.show(report(100, 2.0))
        assert "emory" not in picture(training)


def test_a_resumed_run_knows_its_time_from_its_own_speed(
    shown: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    shown(True)
    with TrainDisplay("cat2dog", 1000, done=900, quiet=False) as training:
        assert "900/1000" in picture(training)
        assert "left" not in picture(training)
        training.show(report(910, 0.5))
        assert "0.5 steps/s · 3 min 00 s left" in picture(training)
        clock[0] += 60
        assert "2 min 00 s left" in picture(training)
        clock[0] += 300
        assert "0 s left" in picture(training)
        for step in range(920, 1000):
            training.show(report(step, 4.0))
        assert "999/1000 4 steps/s · 0 s left" in picture(training), "only the last reports count"


def test_the_rate_is_over_steps_not_over_reports(
    shown: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    shown(True)
    with TrainDisplay("cat2dog", 1000, quiet=False) as training:
        training.show(report(100, 10.0))
        training.show(report(101, 0.1))
        assert "5.05 steps/s · 2 min 58 s left" in picture(training)


def test_notes_and_files_stand_above(shown: Callable[[bool], io.StringIO], clock: list[float]) -> None:
    text = shown(True)
    with TrainDisplay("cat[2]dog", 1000, quiet=False) as training:
        training.note("starts from [ink]")
        training.warn("1 picture is in both domains:\n  [a].png = b.png")
        training.show(report(100, 2.0, checkpoint=Path("runs/[x]/step-1.pt")))
    said = text.getvalue()
    for words in ("cat[2]dog", "starts from [ink]", "  [a].png = b.png", "checkpoint runs/[x]/step-1.pt"):
        assert words in said


# Training, into a file


def test_without_a_terminal_a_report_is_a_line(
    shown: Callable[[bool], io.StringIO], clock: list[float]
) -> None:
    text = shown(False)
    with TrainDisplay("cat2dog", 1000, done=90, quiet=False) as training:
        training.note("a note")
        training.warn("a warning")
        training.show(report(100, 2.0, memory=GIB * 5 // 2, sample=Path("s.png")))
        training.show(Step(120, 1000, {}, 1e-4, 0.0, checkpoint=Path("c.pt")))
        training.show(report(1000, 2.0))
    assert text.getvalue().splitlines() == [
        "cat2dog",
        "note  a note",
        "warning  a warning",
        "step 100: sample s.png",
        "step 100/1000  2 steps/s  7 min 30 s left  memory 2.5 GiB  "
        "cycle_a 0.250  cycle_b 0.500  cam_a 1.250",
        "step 120: checkpoint c.pt",
        "step 1000/1000  2 steps/s  cycle_a 0.250  cycle_b 0.500  cam_a 1.250",
    ]


def test_quiet_says_nothing(shown: Callable[[bool], io.StringIO], clock: list[float]) -> None:
    for terminal in (True, False):
        text = shown(terminal)
        with TrainDisplay("cat2dog", 1000, quiet=True) as training:
            training.note("a note")
            training.warn("a warning")
            training.show(report(100, 2.0, sample=Path("s.png")))
        with CheckDisplay(quiet=True) as check:
            check.show(Checked(0, 5000))
        assert text.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600 + 5 * 60, "1 h 05 min"),
        (86400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert display._duration(seconds) == words


# The check of the pictures


def test_the_check_is_a_bar_over_what_is_still_to_be_read(shown: Callable[[bool], io.StringIO]) -> None:
    shown(True)
    with CheckDisplay(quiet=False) as check:
        for done in (60, 61, 100):
            check.show(Checked(done, 100))
        task = check._progress.tasks[0]
        assert (task.completed, task.total) == (40, 40)


def test_without_a_terminal_a_long_check_is_told_once(shown: Callable[[bool], io.StringIO]) -> None:
    text = shown(False)
    for total, known in ((1500, 0), (999, 0), (5000, 4999)):
        with CheckDisplay(quiet=False) as check:
            for done in (known, known + 1):
                check.show(Checked(done, total))
    assert text.getvalue() == "checking 1500 pictures …\n"
