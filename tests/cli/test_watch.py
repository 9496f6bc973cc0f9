from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from ..fakes import colours, paint, pixels_of, tree
from ..video.film_makers import make_film

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..conftest import Outcome

PATIENT = 60.0
RESULT_FIELDS = {"event", "time", "input", "output", "status", "error", "seconds", "frames", "attention"} | {
    *("notes", "flicker", "after", "moved_to")
}


class Running:
    """The program in a process of its own, and what it has said to programs."""

    def __init__(self, *arguments: object, models: Path) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ugatit_batch",
                "watch",
                *map(str, arguments),
                "--json",
                "--settle",
                "0.2",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"UGATIT_BATCH_MODELS_DIR": str(models), "OMP_NUM_THREADS": "1"},
        )
        self.events: list[dict[str, Any]] = []
        self.log = ""
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_log)]
        for thread in self._threads:
            thread.start()
        self.until(lambda: bool(self.events))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENT
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, (self.events, self.log)
            time.sleep(0.01)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENT)
        for thread in self._threads:
            thread.join()
        return code


@contextlib.contextmanager
def running(*arguments: object, models: Path) -> Iterator[Running]:
    started = Running(*arguments, models=models)
    try:
        yield started
    finally:
        started.process.kill()
        started.end()
        for stream in (started.process.stdout, started.process.stderr):
            assert stream is not None
            stream.close()


def test_once_does_what_translate_does_and_both_remember_it(
    program: Callable[..., Outcome], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    for number in range(3):
        paint(inbox / "sub" / f"{number}.png", seed=number)
    make_film(inbox / "film.mp4", count=5)
    watched = program("watch", inbox, "-m", "own", "-o", out, "--once", "--settle", "0.1", "--json")
    assert watched.code == 0, watched.err
    lines = watched.lines()
    assert [line["event"] for line in lines] == ["watching"] + ["result"] * 4
    assert set(lines[-1]) == RESULT_FIELDS
    assert sorted(line["frames"] for line in lines[1:]) == [1, 1, 1, 5]

    translated = program("translate", inbox, "-m", "own", "-o", out, "--json")
    assert translated.code == 0
    assert [(line["status"]) for line in translated.lines()] == ["skipped"] * 4
    assert program("translate", inbox, "-m", "own", "-o", tmp_path / "plain").code == 0
    ours, plain = tree(out), tree(tmp_path / "plain")
    assert {**ours, "film.mp4": b""} == {**plain, "film.mp4": b""}

    paint(inbox / "3.png")
    assert program("translate", inbox, "-m", "own", "-o", out).code == 0
    again = program("watch", inbox, "-m", "own", "-o", out, "--once", "--settle", "0.1", "--json")
    assert [line["event"] for line in again.lines()] == ["watching"]


def test_failures_problems_and_the_report(program: Callable[..., Outcome], tmp_path: Path) -> None:
    inbox, report = tmp_path / "inbox", tmp_path / "logs" / "r.jsonl"
    paint(inbox / "a.png")
    (inbox / "bad.jpg").write_bytes(b"no picture")
    command = ("watch", inbox, "-m", "ink", "--once", "--settle", "0.1", "--report", report)
    outcome = program(*command)
    assert outcome.code == 1
    assert "bad.jpg" in outcome.err
    assert "1 done, 1 failed" in outcome.err
    assert pixels_of(tmp_path / "inbox_ink" / "a.png").shape == (16, 24, 3)
    paint(inbox / "b.png")
    assert program(*command).code == 0
    statuses = [json.loads(line)["status"] for line in report.read_text().splitlines()]
    assert sorted(statuses) == ["done", "done", "failed"]


@pytest.mark.parametrize("after", ["move", "delete"])
def test_inputs_go_where_they_are_to_go(program: Callable[..., Outcome], tmp_path: Path, after: str) -> None:
    inbox = tmp_path / "inbox"
    paint(inbox / "x" / "a.png")
    outcome = program("watch", inbox, "-m", "ink", "--once", "--settle", "0.1", "--after", after, "--json")
    assert outcome.code == 0, outcome.err
    last = outcome.lines()[-1]
    assert not (inbox / "x" / "a.png").exists()
    assert (tmp_path / "inbox_ink" / "x" / "a.png").exists()
    if after == "move":
        moved = tmp_path / "inbox_done" / "x" / "a.png"
        assert (last["after"], last["moved_to"]) == ("moved", str(moved))
        assert moved.exists()
    else:
        assert (last["after"], last["moved_to"]) == ("deleted", None)
        assert not (tmp_path / "inbox_done").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such folder"),
        (["inbox/a.png"], "no such folder"),
        (["inbox", "-o", "inbox"], "is the input and the output"),
        (["inbox/deep", "-o", "inbox"], "the watched folder is in it"),
        (["inbox", "-o", "file.png"], "is not a folder"),
        (["inbox", "--done", "away"], "--after move"),
        (["inbox", "--after", "move", "--done", "."], "the watched folder is in it"),
        (["inbox", "-o", "out", "--after", "move", "--done", "out"], "is the output folder"),
        (["inbox", "--settle", "0"], "--settle"),
        (["inbox", "--settle", "nan"], "is not a number of seconds"),
        (["inbox", "--name", "{stem}/{nothing}"], "{nothing}"),
        (["inbox", "--name", "../{stem}"], "lies outside of the output folder"),
        (["inbox", "--crf", "255", "--format", "mp4"], "--crf"),
    ],
)
def test_what_cannot_be_is_refused(
    program: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "inbox" / "deep" / "a.png")
    paint(tmp_path / "inbox" / "a.png")
    paint(tmp_path / "file.png")
    outcome = program("watch", *arguments, "-m", "ink")
    assert outcome.code == 2, outcome.err
    assert said in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gently(tmp_path: Path, models_dir: Path, number: int) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    with running(inbox, "-m", "ink", "-o", out, models=models_dir) as service:
        paint(inbox / "a.png")
        service.until(lambda: len(service.events) == 2)
        assert service.end(number) == 0
    assert [event["event"] for event in service.events] == ["watching", "result", "stopping"]
    assert "Traceback" not in service.log
    assert "1 done" in service.log


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes the program much longer than it has to end."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    pixels = colours(128, 96)
    with av.open(path, "w") as film:
        stream = film.add_stream("ffv1", 25, width=128, height=96, pix_fmt="yuv420p")
        for number in range(3000):
            film.mux(stream.encode(VideoFrame.from_ndarray(np.roll(pixels, number, 1), "rgb24")))
        film.mux(stream.encode(None))
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
def test_a_film_is_kept_as_far_as_it_is_and_goes_on(
    tmp_path: Path, models_dir: Path, long_film: Path
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    os.link(long_film, inbox / "film.mkv")
    folder = out / ".film.mkv.partial.segments"
    command = (inbox, "-m", "own", "--size", "native", "-o", out, "--batch-size", "1")
    with running(*command, models=models_dir) as service:
        service.until(lambda: any(folder.glob("*.nut")))
        before = time.monotonic()
        assert service.end() == 0
        # systemd and people wait no longer.
        assert time.monotonic() - before < 10
    kept = json.loads((folder / "state.json").read_text())
    (segment,) = kept["segments"]
    # A piece would be a minute long; this is what there was.
    assert 0 < segment["pictures"] < 1500
    assert not kept["complete"]
    with running(*command, models=models_dir) as service:
        service.until(lambda: any(folder.glob("000001.*.nut")))
        assert json.loads((folder / "state.json").read_text())["segments"] == [segment]
    assert not (out / "film.mkv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
def test_a_second_signal_ends_it_at_once(tmp_path: Path, models_dir: Path, long_film: Path) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    os.link(long_film, inbox / "film.mkv")
    command = (inbox, "-m", "own", "--size", "native", "-o", out, "--batch-size", "1")
    with running(*command, models=models_dir) as service:
        service.until(lambda: any(out.glob(".film.mkv.partial.segments/*.nut")))
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: "stopping" in service.log)
        assert service.end() == 130
    assert "the same command goes on" in service.log
    assert not (out / "film.mkv").exists()


def test_a_second_program_is_refused(
    program: Callable[..., Outcome], tmp_path: Path, models_dir: Path
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    paint(inbox / "a.png")
    with running(inbox, "-m", "ink", "-o", out, models=models_dir) as service:
        service.until(lambda: len(service.events) == 2)
        for command in ("watch", "translate"):
            outcome = program(command, inbox, "-m", "ink", "-o", out)
            assert outcome.code == 4
            assert "another run writes to this folder" in outcome.err
        assert service.end() in (0, 1)


def test_attention_and_other_options_of_translate_have_their_effect(
    program: Callable[..., Outcome], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    paint(inbox / "a.png")
    options = ("-m", "ink", "--attention", "mask", "--format", "jpg", "--name", "{stem}-{model}")
    outcome = program("watch", inbox, *options, "-o", tmp_path / "w", "--once", "--settle", "0.1")
    assert outcome.code == 0, outcome.err
    assert program("translate", inbox, *options, "-o", tmp_path / "t").code == 0
    assert sorted(tree(tmp_path / "w")) == ["a-ink.jpg", "a-ink.mask.png"]
    for name in tree(tmp_path / "t"):
        assert np.array_equal(pixels_of(tmp_path / "w" / name), pixels_of(tmp_path / "t" / name))
