from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from ugatit_batch import __version__
from ugatit_batch.errors import EnvironmentLacksError, OutputError
from ugatit_plugins import discovery
from ugatit_plugins.discovery import FILE, LOCK, Address
from ugatit_plugins.server import Server, ServerOptions, serve
from ugatit_plugins.worker import Worker

from .serving import PATIENT, StandInOpening, ask

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = Address(os.getpid(), 4321, "a token")
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions")


def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_what_is_announced_is_read_and_taken_away_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "not/there/yet"
    with discovery.only_server(folder):
        discovery.announce(folder, ADDRESS)
        assert discovery.find_running(folder) == ADDRESS
        assert json.loads((folder / FILE).read_text("utf-8")) == {
            "pid": os.getpid(),
            "port": 4321,
            "token": "a token",
            "protocol": 1,
            "version": __version__,
        }
        assert ADDRESS.url == "http://127.0.0.1:4321"
    assert discovery.read_address(folder) is None


@POSIX
def test_only_its_owner_may_read_it_whatever_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    before = os.umask(0)
    try:
        with discovery.only_server(folder):
            for left in (folder / FILE, folder / ".server.partial.json"):
                left.write_text("left", "utf-8")
                left.chmod(0o666)
            discovery.announce(folder, ADDRESS)
            assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
            assert stat.S_IMODE((folder / LOCK).stat().st_mode) == 0o600
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "{}",
        '{"pid": 1, "port": 2, "token": "x"}',
        '{"pid": "1", "port": 2, "token": "x", "protocol": 1, "version": "0"}',
        '{"pid": true, "port": 2, "token": "x", "protocol": 1, "version": "0"}',
        '{"pid": 1, "port": 99999, "token": "x", "protocol": 1, "version": "0"}',
        '{"pid": -1, "port": 2, "token": "x", "protocol": 1, "version": "0"}',
    ],
)
def test_garbage_is_no_address_and_does_not_keep_a_server_from_starting(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, "utf-8")
    assert discovery.read_address(tmp_path) is None
    with discovery.only_server(tmp_path):
        assert not (tmp_path / FILE).exists()


def test_a_file_that_is_no_text_and_a_folder_in_its_place_are_no_address(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    assert discovery.read_address(tmp_path) is None
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert discovery.read_address(tmp_path) is None


def test_what_a_dead_server_left_is_not_a_running_one(tmp_path: Path) -> None:
    discovery.announce(tmp_path, Address(gone(), 4321, "a token"))
    assert discovery.read_address(tmp_path) is not None
    assert discovery.find_running(tmp_path) is None
    with discovery.only_server(tmp_path):
        assert discovery.read_address(tmp_path) is None


def test_a_second_server_is_told_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(discovery, "_WAIT_SECONDS", 0.2)
    with discovery.only_server(tmp_path):
        with pytest.raises(EnvironmentLacksError, match="starting"), discovery.only_server(tmp_path):
            pass
        discovery.announce(tmp_path, ADDRESS)
        with pytest.raises(EnvironmentLacksError, match=str(os.getpid())), discovery.only_server(tmp_path):
            pass
        # The refused one has taken nothing away.
        assert discovery.find_running(tmp_path) == ADDRESS
    with discovery.only_server(tmp_path):
        pass


def test_a_server_that_ends_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_LOCK_SECONDS", 0.05)
    asked = threading.Semaphore(0)
    took = threading.Event()

    def gives_up() -> bool:
        asked.release()
        return False

    def second() -> None:
        with discovery.only_server(tmp_path, gives_up):
            took.set()

    with discovery.only_server(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        for _ in range(3):
            assert asked.acquire(timeout=PATIENT)
        assert not took.is_set()
    waiting.join(PATIENT)
    assert took.is_set()


def test_waiting_for_another_server_can_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_LOCK_SECONDS", 0.05)
    with (
        discovery.only_server(tmp_path),
        pytest.raises(EnvironmentLacksError, match="starting"),
        discovery.only_server(tmp_path, lambda: True),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"), discovery.only_server(tmp_path / "file" / "state"):
        pass


def test_the_folder_is_the_users_or_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(discovery.STATE_VARIABLE, str(tmp_path))
    assert discovery.state_dir() == tmp_path
    monkeypatch.delenv(discovery.STATE_VARIABLE)
    assert discovery.state_dir().name == "ugatit-batch"
    assert discovery.state_dir().is_absolute()


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {discovery.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 and token.isascii() for token in tokens)


def test_a_server_can_be_found_while_it_answers_and_not_after(tmp_path: Path, models_dir: Path) -> None:
    seen: list[Address | None] = []

    def ready(server: Server) -> None:
        seen.append(discovery.find_running(tmp_path))
        assert ask(server).status == 200
        server.stop()

    serve(tmp_path, lambda: Server(Worker(StandInOpening(models_dir))), ready)
    assert seen[0] is not None
    assert seen[0].pid == os.getpid()
    assert discovery.read_address(tmp_path) is None


def test_a_port_that_is_taken_is_named_and_leaves_nothing(tmp_path: Path, models_dir: Path) -> None:
    def make() -> Server:
        return Server(Worker(StandInOpening(models_dir)), ServerOptions(port))

    first = Server(Worker(StandInOpening(models_dir)))
    port = first.address.port
    with pytest.raises(EnvironmentLacksError, match=f"--port {port}"):
        serve(tmp_path, make, lambda _: None)
    first.close()
    assert not (tmp_path / FILE).exists()
