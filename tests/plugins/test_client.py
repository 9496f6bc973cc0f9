"""The client that editors have, against a real server and against servers that misbehave."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import ugatit_plugins
from ugatit_plugins.client import ugatit_client
from ugatit_plugins.client.ugatit_client import Client, UgatitError, clean_environment, read_config
from ugatit_plugins.discovery import FILE, announce, read_address
from ugatit_plugins.protocol import Limits

from ..fakes import InvertingTranslator
from .serving import FIXTURES, PATIENT, Gate, fixture_body, picture, served, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_plugins.server import Server

PACKAGE = Path(ugatit_plugins.__file__).parent
IN_EDITORS = sorted(path for name in ("client", "krita", "gimp") for path in (PACKAGE / name).rglob("*.py"))
ANSWERED = sorted(path.stem for path in FIXTURES.glob("*.json"))


class Canned(BaseHTTPRequestHandler):
    """Gives every request the answers of `server.answers` in turn, and keeps what was asked."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server: Any = self.server
        server.asked.append((self.command, self.path, dict(self.headers), body))
        status, headers, answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = answer  # noqa: N815 - the standard library's names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    for process in ugatit_client._launched:
        process.kill()
        process.wait()
    ugatit_client._launched.clear()


@contextlib.contextmanager
def canned(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[tuple[Client, list[Any]]]:
    """A client of a server that gives these answers, and what the server was asked."""
    with HTTPServer(("127.0.0.1", 0), Canned) as server:
        told: Any = server
        told.answers, told.asked = list(answers), []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Client(server.server_address[1], "token"), told.asked
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def listening(converse: Callable[[socket.socket], object]) -> Iterator[Client]:
    """A client of a server that does with one connection what `converse` does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    converse(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Client(server.getsockname()[1], "token")
        finally:
            thread.join(PATIENT)


def refusal(status: int, code: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    error = {"code": code, "message": f"the {code}", "hint": "do this"}
    return status, headers, json.dumps({"error": error}).encode()


def config(state: Path, *command: str) -> dict[str, Any]:
    return {"command": list(command) or ["/no/such/program"], "state": str(state), "version": "0.1.0"}


@pytest.mark.parametrize("path", IN_EDITORS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_code_in_editors_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text("utf-8"), feature_version=(3, 8))


def test_client_needs_the_standard_library_alone() -> None:
    code = ast.parse(Path(ugatit_client.__file__).read_text("utf-8"))
    imported = {node.module for node in ast.walk(code) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(code) if isinstance(node, ast.Import) for name in node.names}

    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", ANSWERED)
def test_fixtures_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    answer, target = fixture["answer"], fixture["request"]["target"]
    body = json.dumps(answer["json"]).encode() if "json" in answer else fixture_body(answer)
    reply = (answer["status"], answer.get("headers", {}), body)
    headers = fixture["request"]["headers"]
    with canned(reply) as (client, asked):
        if answer["status"] == 429:
            monkeypatch.setattr(ugatit_client, "_BUSY", 0.0)
            with pytest.raises(UgatitError, match="busy") as busy:
                client.translate(bytes(3), 1, 1, "own")
            assert busy.value.code == "busy"
        elif answer["status"] != 200:
            with pytest.raises(UgatitError) as refused:
                client.info()
            error = answer["json"]["error"]
            assert (refused.value.code, refused.value.message) == (error["code"], error["message"])
            assert refused.value.hint == (error.get("hint") or "")
        elif target == "/v1/info":
            assert client.info() == answer["json"]
        elif target == "/v1/models":
            assert client.models() == answer["json"]["models"]
        elif target == "/v1/shutdown":
            client.shutdown()
        elif headers["Content-Type"] == "application/octet-stream":
            _check_translation(client, fixture, body)
            method, path, sent, given = asked[0]
            assert method == "POST"
            assert set(path.partition("?")[2].split("&")) >= set(target.partition("?")[2].split("&"))
            assert given == fixture_body(fixture["request"])
            for header in ("Content-Type", "X-Width", "X-Height", "Content-Length"):
                assert sent[header] == headers[header]
            assert sent["Authorization"] == "Bearer token"
            assert sent["Host"].startswith("127.0.0.1:")
            assert "Origin" not in sent


def _check_translation(client: Client, fixture: dict[str, Any], body: bytes) -> None:
    request = fixture["request"]
    width, height = int(request["headers"]["X-Width"]), int(request["headers"]["X-Height"])
    wants = "attention=1" in request["target"]
    name = request["target"].partition("model=")[2].partition("&")[0]
    reverse = "reverse=1" in request["target"]
    rgb, attention = client.translate(fixture_body(request), width, height, name, reverse, wants)
    channels = np.frombuffer(body, np.uint8).reshape(-1, 4 if wants else 3)
    assert rgb == channels[:, :3].tobytes()
    assert attention == (channels[:, 3].tobytes() if wants else None)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_real_server_is_found_and_translates(models_dir: Path, tmp_path: Path) -> None:
    pixels = picture()
    height, width = pixels.shape[:2]
    with served(models_dir) as server:
        announce(tmp_path, server.address)
        client = Client.connect(config(tmp_path))

        assert client.info()["protocol"] == 1
        assert {"own", "ink"} <= {model["name"] for model in client.models()}
        rgb, attention = client.translate(pixels.tobytes(), width, height, "own", attention=True)
        assert rgb == (255 - pixels).tobytes()
        assert attention is not None
        assert len(attention) == width * height
        with pytest.raises(UgatitError) as unknown:
            client.translate(pixels.tobytes(), width, height, "no such")
        assert unknown.value.code == "model_not_found"


def test_wrong_length_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="2×2"):
        Client(1, "").translate(b"123", 2, 2, "own")


def test_proxies_are_never_used(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with served(models_dir) as server:
        assert Client(server.address.port, server.address.token).info()["name"] == "ugatit-batch"


def test_busy_server_is_asked_again() -> None:
    busy = refusal(429, "busy", **{"Retry-After": "0"})
    with canned(busy, busy, (200, {}, b"abc")) as (client, asked):
        assert client.translate(b"123", 1, 1, "own") == (b"abc", None)
        assert len(asked) == 3


def test_server_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ugatit_client, "_BUSY", 0.1)
    with (
        canned(refusal(429, "busy", **{"Retry-After": "1"})) as (client, _),
        pytest.raises(UgatitError, match="busy with other pictures") as error,
    ):
        client.translate(b"123", 1, 1, "own")
    assert error.value.code == "busy"
    assert error.value.hint == "do this"


def test_refusal_before_the_picture_is_sent_is_heard(models_dir: Path) -> None:
    with served(models_dir, limits=Limits(max_pixels=1000)) as server:
        client = Client(server.address.port, server.address.token)
        with pytest.raises(UgatitError) as error:
            client.translate(bytes(3 * 4000 * 4000), 4000, 4000, "own")
    assert error.value.code == "too_large"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", b"hello\r\n\r\n"]
)
def test_server_that_dies_in_the_middle(answer: bytes) -> None:
    def converse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with listening(converse) as client, pytest.raises(UgatitError) as error:
        client.translate(b"123", 1, 1, "own")
    assert error.value.code == "died"
    assert "try again" in error.value.hint


def test_server_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UgatitError) as error:
        Client(port, "token").info()
    assert error.value.code == "died"


@pytest.mark.parametrize("answer", [b"[]", b"\xff", b"hello"])
def test_answer_that_is_no_answer(answer: bytes) -> None:
    with canned((200, {}, answer)) as (client, _), pytest.raises(UgatitError) as error:
        client.info()
    assert error.value.code == "protocol"
    with canned((500, {}, answer)) as (client, _), pytest.raises(UgatitError) as error:
        client.info()
    assert error.value.code == "protocol"
    with canned((200, {}, answer)) as (client, _), pytest.raises(UgatitError) as error:
        client.translate(bytes(300), 10, 10, "own")
    assert error.value.code == "protocol"


def test_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ugatit_client, "_ANSWER", 0.2)
    ended = threading.Event()
    with listening(lambda _: ended.wait(PATIENT)) as client:
        with pytest.raises(UgatitError, match="does not answer"):
            client.info()
        ended.set()


def test_cancelling_ends_within_100_ms_while_the_server_works(models_dir: Path) -> None:
    gate, cancel = Gate(), threading.Event()
    moments: list[float] = []
    with served(models_dir, lambda: InvertingTranslator(before=gate)) as server:

        def work() -> None:
            pixels = picture()
            height, width = pixels.shape[:2]
            client = Client(server.address.port, server.address.token)
            with pytest.raises(UgatitError) as error:
                client.translate(pixels.tobytes(), width, height, "own", cancelled=cancel.is_set)
            moments.append(time.monotonic())
            assert error.value.code == "cancelled"

        thread = threading.Thread(target=work)
        thread.start()
        assert gate.begun.acquire(timeout=PATIENT)
        began = time.monotonic()
        cancel.set()
        thread.join(PATIENT)
        gate.opened.set()
    assert moments[0] - began < 0.1


@pytest.mark.parametrize("reads", [True, False])
def test_cancelling_ends_a_transfer(reads: bool) -> None:
    """While the server takes nothing, and while its answer does not go on."""
    ended = threading.Event()

    def converse(connection: socket.socket) -> None:
        if reads:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\nabc")
        ended.wait(PATIENT)

    size = 1 if reads else 3000
    with listening(converse) as client:
        with pytest.raises(UgatitError) as error:
            client.translate(bytes(3 * size * size), size, size, "own", cancelled=_after(0.2))
        ended.set()
    assert error.value.code == "cancelled"


@pytest.mark.parametrize("told", ["", "[]", '{"port": 1}', '{"port": "x", "token": "t"}'])
def test_useless_discovery_file_means_no_server(tmp_path: Path, told: str) -> None:
    (tmp_path / FILE).write_text(told)
    with pytest.raises(UgatitError) as error:
        Client.connect(config(tmp_path))
    assert error.value.code == "not_installed"
    assert "/no/such/program" in error.value.message


def test_server_of_another_protocol_is_refused(tmp_path: Path) -> None:
    with canned((200, {}, b'{"protocol": 2}')) as (client, _):
        (tmp_path / FILE).write_text(json.dumps({"port": client._port, "token": "token"}))
        with pytest.raises(UgatitError, match="protocol 2") as error:
            Client.connect(config(tmp_path))
    assert "plugin install" in error.value.hint


def test_server_is_started_once_and_outlives_its_client(models_dir: Path, tmp_path: Path) -> None:
    """As an editor does, whose own Python's settings would break it."""
    command = [
        sys.executable,
        "-m",
        "ugatit_batch",
        "serve",
        "--device",
        "cpu",
        "--idle",
        "60",
        "--models-dir",
        str(models_dir),
    ]
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHOME", "/no/such/folder")
        client = Client.connect(config(tmp_path, *command), say=said.append)
    try:
        again = Client.connect(config(tmp_path, "/no/such/program"), say=said.append)
        assert said == ["Starting ugatit-batch…"]
        assert client.info()["pid"] == again.info()["pid"]
    finally:
        address = read_address(tmp_path)
        assert address is not None
        client.shutdown()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(address.pid).wait(PATIENT)
    until(lambda: not (tmp_path / FILE).exists())


def test_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('secret'); sys.exit('there is no room')"]
    with pytest.raises(UgatitError, match="there is no room") as error:
        Client.connect(config(tmp_path, *command))
    assert error.value.code == "not_started"
    assert "secret" not in str(error.value)


def test_two_editors_that_start_it_at_the_same_moment_share_one(models_dir: Path, tmp_path: Path) -> None:
    arguments = ["serve", "--device", "cpu", "--idle", "60", "--models-dir", str(models_dir)]
    clients: list[Client] = []

    def connect() -> None:
        clients.append(
            Client.connect(config(tmp_path, sys.executable, "-m", "ugatit_batch", *arguments), _after(90))
        )

    editors = [threading.Thread(target=connect) for _ in range(2)]
    for editor in editors:
        editor.start()
    for editor in editors:
        editor.join()
    assert len(clients) == 2
    assert clients[0].info()["pid"] == clients[1].info()["pid"]
    clients[0].shutdown()
    until(lambda: not (tmp_path / FILE).exists())


def test_server_that_finds_another_one_is_not_a_failure(models_dir: Path, tmp_path: Path) -> None:
    """Which may be read of a moment after it has ended."""
    command = [sys.executable, "-c", "import sys; sys.exit(4)"]
    with served(models_dir) as server:
        ended = threading.Thread(target=lambda: _announce_at_the_end(tmp_path, server))
        ended.start()
        assert Client.connect(config(tmp_path, *command)).info()["pid"] == os.getpid()
        ended.join(PATIENT)


def _announce_at_the_end(folder: Path, server: Server) -> None:
    until(lambda: any(process.poll() == 4 for process in ugatit_client._launched))
    time.sleep(0.3)
    announce(folder, server.address)


def test_no_room_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(UgatitError, match="temporary file") as error:
        Client.connect(config(tmp_path, sys.executable, "-c", ""))
    assert error.value.code == "not_started"


def test_starting_can_be_cancelled_and_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(3)"]
    with pytest.raises(UgatitError) as error:
        Client.connect(config(tmp_path, *command), _after(0.3))
    assert error.value.code == "cancelled"
    monkeypatch.setattr(ugatit_client, "_START", 0.3)
    with pytest.raises(UgatitError, match="did not get ready"):
        Client.connect(config(tmp_path, *command))


def test_environment_of_the_editor_is_left_out() -> None:
    given = {
        "PATH": "/usr/bin",
        "APPDIR": "/tmp/.mount_krita",
        "PYTHONPATH": "/tmp/.mount_krita/python",
        "PYTHONHOME": "/tmp/.mount_krita/usr",
        "LD_LIBRARY_PATH": os.pathsep.join(["/tmp/.mount_krita/usr/lib", "/opt/cuda/lib64", ""]),
        "HOME": "/home/me",
    }

    kept = clean_environment(given)

    assert kept == {
        "PATH": "/usr/bin",
        "APPDIR": "/tmp/.mount_krita",
        "LD_LIBRARY_PATH": "/opt/cuda/lib64",
        "HOME": "/home/me",
    }


def test_setup_beside_the_plug_in(tmp_path: Path) -> None:
    for text in (None, "{}", "[]", '{"command": "x", "state": "y"}', "hello"):
        if text is not None:
            (tmp_path / "ugatit.json").write_text(text)
        with pytest.raises(UgatitError, match="not completely installed"):
            read_config(tmp_path)
    (tmp_path / "ugatit.json").write_text(json.dumps(config(tmp_path)))

    assert read_config(str(tmp_path))["state"] == str(tmp_path)
