"""A server in this process, with networks that cost nothing, and clients that do what no client should."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ugatit_batch.models import list_models
from ugatit_plugins.protocol import HOST, RAW, Limits
from ugatit_plugins.server import Server, ServerOptions
from ugatit_plugins.wire import Patience
from ugatit_plugins.worker import Worker

from ..fakes import InvertingTranslator, colours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.frames import Pixels, SizeRule, Translator
    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.models import FoundModel

FIXTURES = Path(__file__).parents[2] / "plugins" / "fixtures"
SOON = Patience(
    head_seconds=1.0, silence_seconds=1.0, body_seconds=3.0, leftover_seconds=1.0, head_bytes=4096
)
"""For clients that take their time on purpose."""
PATIENT = 30.0


class StandInOpening:
    """Models of a folder, each run by what `make` gives."""

    device = "cpu, fp32"

    def __init__(self, folder: Path, make: Callable[[], Translator] = InvertingTranslator) -> None:
        self._folder, self._make = folder, make
        self.opened: list[tuple[str, str]] = []

    def models(self) -> list[FoundModel]:
        return [model for model in list_models(self._folder) if not model.bundled]

    def open(self, bundle: Bundle, direction: Direction, sizing: Sizing) -> Translator:
        self.opened.append((bundle.name, direction))
        return self._make()

    def rule(self, bundle: Bundle, translator: Translator) -> SizeRule:
        return translator.size_rule


class Gate:
    """Holds up a network until it is opened; `InvertingTranslator(before=gate)`."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()
        self.count = 0

    def __call__(self, _: Pixels) -> None:
        self.count += 1
        self.begun.release()
        assert self.opened.wait(PATIENT)


@dataclass(frozen=True)
class Reply:
    """What a server has answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code = self.json["error"]["code"]
        assert isinstance(code, str)
        return code


@contextlib.contextmanager
def served(
    folder: Path,
    make: Callable[[], Translator] = InvertingTranslator,
    *,
    limits: Limits | None = None,
    idle: float = 0,
    connections: int = 64,
    patience: Patience | None = None,
    said: list[str] | None = None,
) -> Iterator[Server]:
    """A server with the models of a folder; when the block ends, no thread of it may stay."""
    before = set(threading.enumerate())
    worker = Worker(StandInOpening(folder, make), limits or Limits())
    options = ServerOptions(idle=idle, connections=connections, patience=patience or Patience())
    log = [] if said is None else said
    server = Server(worker, options, log.append, log.append)
    try:
        yield server
    finally:
        server.close()
    assert set(threading.enumerate()) <= before


def right_headers(server: Server) -> dict[str, str]:
    return {
        "Host": f"{HOST}:{server.address.port}",
        "Authorization": f"Bearer {server.address.token}",
    }


def raw_headers(width: int, height: int) -> dict[str, str]:
    return {"Content-Type": RAW, "X-Width": str(width), "X-Height": str(height)}


def ask(
    server: Server,
    method: str = "GET",
    target: str = "/v1/info",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    without: str = "",
) -> Reply:
    """Ask on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, server.address.port, timeout=PATIENT)
    with contextlib.closing(connection):
        sent = {k: v for k, v in (right_headers(server) | (headers or {})).items() if k != without}
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if body is not None and "Content-Length" not in sent and without != "Content-Length":
            sent["Content-Length"] = str(len(body))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        return Reply(reply.status, dict(reply.getheaders()), reply.read())


def translate(
    server: Server, pixels: Pixels, model: str = "own", query: str = "", headers: dict[str, str] | None = None
) -> Reply:
    """Send raw pixels."""
    height, width = pixels.shape[:2]
    return ask(
        server,
        "POST",
        f"/v1/translate?model={model}{query}",
        pixels.tobytes(),
        raw_headers(width, height) | (headers or {}),
    )


def translate_in_the_end(server: Server, pixels: Pixels) -> Reply:
    """Send raw pixels again and again, until there is room for them."""
    deadline = time.monotonic() + PATIENT
    while (reply := translate(server, pixels)).status == 429:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return reply


def pixels_in(reply: Reply) -> Pixels:
    """The picture of a raw answer, H×W×3 or H×W×4."""
    assert reply.status == 200, reply.body
    width, height = int(reply.headers["X-Width"]), int(reply.headers["X-Height"])
    return np.frombuffer(reply.body, np.uint8).reshape(height, width, -1)


def head_of(server: Server, method: str, target: str, headers: dict[str, str]) -> bytes:
    """The bytes of a right request's head."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in (right_headers(server) | headers).items()]
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """A socket to the server."""
    with socket.create_connection((HOST, server.address.port), timeout=PATIENT) as connection:
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other end is closed."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            said += part
    return said


def upload_head(server: Server, length: int, model: str = "own", *, width: int, height: int) -> bytes:
    headers = raw_headers(width, height) | {"Content-Length": str(length)}
    return head_of(server, "POST", f"/v1/translate?model={model}", headers)


def hold_a_place(connection: socket.socket, server: Server) -> None:
    """Send the head of a picture, and see that it is waited for."""
    headers = raw_headers(24, 16) | {"Content-Length": "1152", "Expect": "100-continue"}
    connection.sendall(head_of(server, "POST", "/v1/translate?model=own", headers))
    assert connection.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"


def has_room(server: Server) -> bool:
    """Whether a picture would be taken now."""
    with connected(server) as connection:
        headers = raw_headers(24, 16) | {"Content-Length": "1152", "Expect": "100-continue"}
        connection.sendall(head_of(server, "POST", "/v1/translate?model=own", headers))
        said = connection.recv(12)
        assert said in (b"HTTP/1.1 100", b"HTTP/1.1 429")
        return said == b"HTTP/1.1 100"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def picture(seed: int = 0, width: int = 24, height: int = 16) -> Pixels:
    return colours(width, height, seed)


def filled_in(value: Any, server: Server) -> Any:
    """A fixture's text with what differs from server to server."""
    if isinstance(value, dict):
        return {name: filled_in(one, server) for name, one in value.items()}
    if not isinstance(value, str):
        return value
    return value.replace("{port}", str(server.address.port)).replace("{token}", server.address.token)


def fixture_body(side: dict[str, Any]) -> bytes:
    return base64.b64decode(side.get("body", ""))
