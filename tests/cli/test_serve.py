from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ugatit_plugins.discovery import FILE, find_running

from ..fakes import colours, pixels_of
from ..plugins.serving import PATIENT, raw_headers, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..conftest import Outcome


class Serving:
    """The program in a process of its own."""

    def __init__(self, state: Path, models: Path, *arguments: str) -> None:
        self.state = state
        variables = {"UGATIT_BATCH_STATE_DIR": str(state), "UGATIT_BATCH_MODELS_DIR": str(models)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ugatit_batch", "serve", "--json", "--device", "cpu", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables | {"OMP_NUM_THREADS": "1"},
        )
        self.log = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end()
        self.said: dict[str, Any] = json.loads(line)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def ask(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        port = int(self.said["url"].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENT)
        with contextlib.closing(connection):
            sent = {"Authorization": f"Bearer {self.said['token']}"} | (headers or {})
            connection.request(method, target, body, sent)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def end(self) -> str:
        self.process.wait(PATIENT)
        self._reading.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return self.log


@contextlib.contextmanager
def serving(state: Path, models: Path, *arguments: str) -> Iterator[Serving]:
    started = Serving(state, models, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.end()


def test_it_serves_one_per_state_folder_and_ends_when_asked(
    models_dir: Path, tmp_path: Path, program: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    with serving(state, models_dir, "-v") as first:
        assert set(first.said) == {"url", "token", "pid", "protocol"}
        address = find_running(state)
        assert address is not None
        assert (address.pid, address.url, address.token) == (
            first.process.pid,
            first.said["url"],
            first.said["token"],
        )
        monkeypatch.setenv("UGATIT_BATCH_STATE_DIR", str(state))
        refused = program("serve", "--json")
        assert (refused.code, refused.out) == (4, "")
        assert str(first.process.pid) in refused.err
        with serving(tmp_path / "other", models_dir) as second:
            assert second.said["url"] != first.said["url"]
            assert second.ask("GET", "/v1/info", headers={"Authorization": "Bearer x"})[0] == 401

        picture = colours(50, 33)
        headers = raw_headers(50, 33)
        status, body = first.ask("POST", "/v1/translate?model=own", picture.tobytes(), headers)
        assert status == 200
        Image.fromarray(picture).save(tmp_path / "a.png")
        arguments = ["-m", "own", "-o", tmp_path / "b.png", "--device", "cpu"]
        assert program("translate", tmp_path / "a.png", *arguments).code == 0
        assert np.array_equal(np.frombuffer(body, np.uint8), pixels_of(tmp_path / "b.png").ravel())

        assert first.ask("POST", "/v1/shutdown") == (200, b'{"stopping": true}')
        log = first.end()
        assert first.process.returncode == 0
        assert "POST /v1/translate?model=own: 200" in log
        assert first.said["token"] not in log
    assert not (state / FILE).exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(models_dir: Path, tmp_path: Path, number: int) -> None:
    with serving(tmp_path, models_dir) as running:
        running.process.send_signal(number)
        log = running.end()
        assert running.process.returncode == 0, log
        assert "Traceback" not in log
    assert not (tmp_path / FILE).exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_after_a_kill_another_one_can_start_and_ends_by_itself(models_dir: Path, tmp_path: Path) -> None:
    with serving(tmp_path, models_dir) as killed:
        killed.process.kill()
        killed.end()
        assert (tmp_path / FILE).exists()
        assert find_running(tmp_path) is None
    with serving(tmp_path, models_dir, "--idle", "0.3") as running:
        address = find_running(tmp_path)
        assert address is None or address.pid == running.process.pid
        until(lambda: running.process.poll() is not None)
        assert running.process.returncode == 0
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "nonsense"], 2, "no such device"),
        (["--device", "cpu", "--backend", "tensorrt"], 4, "--backend torch"),
        (["--idle", "nan"], 2, "not a number of seconds"),
        (["--idle", "inf"], 2, "not a number of seconds"),
        (["--queue", "0"], 2, "queue"),
        (["--port", "70000"], 2, "port"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(
    program: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("UGATIT_BATCH_STATE_DIR", str(tmp_path))
    outcome = program("serve", *arguments)
    assert outcome.code == code
    assert words in outcome.err
    assert not (tmp_path / FILE).exists()


def test_it_says_to_people_where_it_is_and_on_what(
    program: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UGATIT_BATCH_STATE_DIR", str(tmp_path))
    outcome = program("serve", "--device", "cpu", "--precision", "fp32", "--idle", "0.1")
    assert (outcome.code, outcome.out) == (0, "")
    assert "http://127.0.0.1:" in outcome.err
    assert "(cpu, fp32)" in outcome.err
