from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..fakes import paint, pixels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENT = 60.0
"""Seconds after which a test that waits has failed; PyTorch takes some of them to be imported."""

CONFIG = """
[supervisord]
nodaemon=true
user={user}
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}

[unix_http_server]
file={socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}

[program:watch]
command={python} -m ugatit_batch watch {folder}/inbox --model ink --output {folder}/outbox --settle 0.3 --json
environment=UGATIT_BATCH_MODELS_DIR="{models}",OMP_NUM_THREADS="1",PYTHONUNBUFFERED="1"
autorestart=unexpected
startsecs=0
stopsignal=TERM
stopwaitsecs=30
stdout_logfile={folder}/stdout.log
stderr_logfile={folder}/stderr.log
"""


def find(program: str) -> str | None:
    """A program beside this Python, or wherever programs are."""
    beside = shutil.which(program, path=str(Path(sys.executable).parent))
    return beside or shutil.which(program)


class Supervised:
    """A watch folder under supervisord."""

    def __init__(self, folder: Path, models: Path, socket: Path) -> None:
        self.inbox, self.outbox = folder / "inbox", folder / "outbox"
        self._folder = folder
        self.inbox.mkdir()
        self._config = folder / "supervisord.conf"
        self._config.write_text(
            CONFIG.format(
                folder=folder,
                models=models,
                python=sys.executable,
                user=os.geteuid(),
                socket=socket,
            )
        )
        program = find("supervisord")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "--configuration", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
        )

    @property
    def log(self) -> str:
        """What supervisord says of the program."""
        return (self._folder / "supervisord.log").read_text("utf-8")

    @property
    def pids(self) -> list[int]:
        """Of the programs that were started, in order."""
        return [int(found) for found in re.findall(r"spawned: 'watch' with pid (\d+)", self.log)]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENT
        while not condition():
            assert time.monotonic() < deadline, (self.log, (self._folder / "stderr.log").read_text("utf-8"))
            assert self._process.poll() is None
            time.sleep(0.02)

    def until_done(self, *names: str) -> None:
        self.until(lambda: all((self.outbox / name).exists() for name in names))

    def control(self, *arguments: str) -> str:
        """Ask supervisord for something, as its user does."""
        program = find("supervisorctl")
        assert program is not None
        asked = subprocess.run(
            [program, "--configuration", str(self._config), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENT,
        )
        return asked.stdout + asked.stderr

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate(timeout=PATIENT)


@pytest.fixture
def supervised(models_dir: Path, tmp_path: Path) -> Iterator[Supervised]:
    if find("supervisord") is None or find("supervisorctl") is None:
        pytest.skip("supervisord is not installed")
    # Names of sockets are short, and those of tests' folders are not.
    with tempfile.TemporaryDirectory() as short:
        running = Supervised(tmp_path, models_dir, Path(short) / "control")
        try:
            yield running
        finally:
            running.close()


def test_a_service_is_killed_started_again_and_stopped(supervised: Supervised) -> None:
    inbox, outbox = supervised.inbox, supervised.outbox
    paint(inbox / "early.png")
    supervised.until_done("early.png")
    paint(inbox / "x" / "later.png", seed=1)
    supervised.until_done("x/later.png")

    os.kill(supervised.pids[0], signal.SIGKILL)
    paint(inbox / "meanwhile.png", seed=2)
    supervised.until(lambda: len(supervised.pids) == 2)
    supervised.until_done("meanwhile.png")
    assert "exited: watch (terminated by SIGKILL; not expected)" in supervised.log
    paint(inbox / "after.png", seed=3)
    supervised.until_done("after.png")

    assert "watch: stopped" in supervised.control("stop", "watch")
    assert "stopped: watch (exit status 0)" in supervised.log
    assert len(supervised.pids) == 2
    made = sorted(path.relative_to(outbox).as_posix() for path in outbox.rglob("*.png"))
    assert made == ["after.png", "early.png", "meanwhile.png", "x/later.png"]
    assert all(pixels_of(outbox / name).shape == (16, 24, 3) for name in made)
