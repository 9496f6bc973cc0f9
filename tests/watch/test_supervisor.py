from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.watch import supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = Path(__file__).parent.parent.parent / "docs" / "ugatit-batch-watch.service"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such sockets")


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The supervisor's end."""
    # Names of sockets are short, and those of tests' folders are not.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        if request.param == "path":
            address = f"{folder}/notify"
            line.bind(address)
        elif sys.platform == "linux":
            address = f"@ugatit-batch-{uuid.uuid4()}"
            line.bind(address.replace("@", "\0", 1))
        else:
            pytest.skip("only Linux has sockets that are in no file system")
        line.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield line


def test_a_supervisor_hears_how_it_goes(listening: socket.socket) -> None:
    supervisor.ready()
    supervisor.status("3 waiting: «Käse\udce4.jpg»\nREADY=1")
    supervisor.tell(STATUS="going on", MAINPID=12)
    supervisor.stopping()
    assert [listening.recv(1000).decode() for _ in range(4)] == [
        "READY=1",
        "STATUS=3 waiting: «Käse?.jpg» READY=1",
        "STATUS=going on\nMAINPID=12",
        "STOPPING=1",
    ]


def test_a_supervisor_that_takes_nothing_does_not_stop_the_program(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_PATIENCE", 0.001)
    limit = Path("/proc/sys/net/unix/max_dgram_qlen")
    most = int(limit.read_text()) + 20 if limit.exists() else 1000
    for number in range(most):
        supervisor.status(str(number))
    listening.setblocking(False)
    heard = []
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.append(listening.recv(1000))
    assert heard[0] == b"STATUS=0"
    assert len(heard) < most


@pytest.mark.parametrize(
    "address", [None, "", "/no/such/socket", "@nobody", "no path", "/" + "long" * 100, "@"]
)
def test_nothing_happens_where_nobody_listens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    supervisor.ready()
    supervisor.status("alone")
    supervisor.stopping()


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = UNIT.read_text("utf-8")
    program = "/opt/ugatit-batch/bin/ugatit-batch"
    assert text.count(program) == 1
    # systemd looks for the program; any that is there will do.
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(program, sys.executable), "utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "info"},
    )
    assert (verified.stdout, verified.stderr, verified.returncode) == ("", "", 0)
    unit.write_text(text.replace(program, sys.executable).replace("KillMode=", "KillMoed="), "utf-8")
    found = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert "KillMoed" in found.stderr
