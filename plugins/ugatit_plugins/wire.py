"""HTTP/1.1 over one socket, with a limit to everything: bytes of a head, seconds of silence, seconds in all.

Knows nothing of what is asked for or answered.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import mmap
import re
import socket
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from ugatit_plugins.protocol import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from email.message import Message

    Body = bytes | bytearray | memoryview

ValueT = TypeVar("ValueT")

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) ([!-~]{1,4096}) HTTP/1\.([01])")
_HEAD_END = b"\r\n\r\n"
_SLICE = 0.2  # seconds after which a wait looks whether the server is stopping
_RECEIVE = _SEND = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long a client may take, and how much it may say."""

    head_bytes: int = 16 * 1024
    head_seconds: float = 10.0
    """Until a request's head is whole; and that a connection may be kept open without one."""
    silence_seconds: float = 10.0
    """Between two parts of a body or, the other way, until the client takes more of an answer."""
    body_seconds: float = 120.0
    """Until a body is whole; and until the client has taken the whole answer."""
    leftover_seconds: float = 2.0
    """For the rest of a body that nobody wants, so that the client comes to read why; and for the rest of an
    answer, where the server is stopping."""


@dataclass(frozen=True)
class Head:
    """The first lines of a request."""

    method: str
    target: str
    headers: Message
    keeps_open: bool
    """Whether the client wants to ask again on this connection."""
    expects: bool
    """Whether it waits to be told to go on before it sends the body."""


class GoneError(Exception):
    """The client has hung up."""


class StoppingError(Exception):
    """The server is stopping and does not wait for clients any more."""


class Wire:
    """One connection.

    Args:
        connection: an accepted socket; it stays its owner's.
        patience: the limits.
        is_stopping: asked several times a second while it waits.
    """

    def __init__(
        self, connection: socket.socket, patience: Patience, is_stopping: Callable[[], bool]
    ) -> None:
        self._socket, self._patience, self._is_stopping = connection, patience, is_stopping
        self._buffer = bytearray()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_head(self) -> Head:
        """The next request's head.

        Raises:
            RefusedError: it is not one, too long, or not whole in time.
            GoneError: no further request came.
            StoppingError: the server is stopping.
        """
        patience = self._patience
        until = time.monotonic() + patience.head_seconds
        while (end := self._buffer.find(_HEAD_END)) < 0:
            if len(self._buffer) > patience.head_bytes:
                raise RefusedError("too_large", f"the head is longer than {patience.head_bytes} bytes")
            part = self._receive(until, until)
            if part is None:
                if not self._buffer:
                    raise GoneError
                raise RefusedError("timeout", "the head of the request did not come")
            self._buffer += part
        head = bytes(self._buffer[: end + len(_HEAD_END)])
        del self._buffer[: end + len(_HEAD_END)]
        return _parse(head, patience.head_bytes)

    def read_body(self, length: int) -> mmap.mmap:
        """The next `length` bytes, 1 or more, in memory that goes back to the system when it is let go of.

        Raises:
            RefusedError: they did not come in time.
            GoneError, StoppingError: as `read_head`.
        """
        # What many threads take from the heap stays in the heap of each.
        body = mmap.mmap(-1, length)
        with memoryview(body) as view:
            self._read_into(view)
        return body

    def _read_into(self, view: memoryview) -> None:
        until = time.monotonic() + self._patience.body_seconds
        at = min(len(self._buffer), len(view))
        view[:at] = self._buffer[:at]
        del self._buffer[:at]
        while at < len(view):
            count = self._wait(lambda at=at: self._socket.recv_into(view[at:]), *self._body_ends(until))  # type: ignore[misc]
            if count is None:
                raise RefusedError("timeout", f"only {at} of {len(view)} bytes of the body came")
            if not count:
                raise GoneError
            at += count

    def _body_ends(self, until: float) -> tuple[float, float]:
        return time.monotonic() + self._patience.silence_seconds, until

    def discard_rest(self) -> None:
        """End the connection so that a client that is still sending comes to read what it was told."""
        until = time.monotonic() + self._patience.leftover_seconds
        self._is_stopping = lambda: False
        with contextlib.suppress(OSError, GoneError):
            self._socket.shutdown(socket.SHUT_WR)
            # A socket that is closed with bytes unread takes back the answer that is under way.
            while self._receive(until, until) is not None:
                pass

    def go_on(self) -> None:
        """Tell a client that waits for it to send the body.

        Raises:
            GoneError: it has hung up.
        """
        self._send(b"HTTP/1.1 100 Continue\r\n\r\n", time.monotonic() + self._patience.silence_seconds)

    def send(self, status: int, headers: Mapping[str, str], body: Body, *, keeps_open: bool) -> None:
        """Answer a request.

        Raises:
            GoneError: the client has hung up, or does not take the answer in time.
        """
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "Cache-Control: no-store"]
        lines += [f"Connection: {'keep-alive' if keeps_open else 'close'}", "", ""]
        until = time.monotonic() + self._patience.body_seconds
        until = self._send("\r\n".join(lines).encode("latin-1", "replace"), until)
        self._send(body, until)

    def _send(self, body: Body, until: float) -> float:
        """Send all of it; until when what follows has time, which is sooner in a server that is stopping."""
        with memoryview(body) as view:
            at, silent_until = 0, time.monotonic() + self._patience.silence_seconds
            while at < len(view):
                now = time.monotonic()
                if self._is_stopping():
                    until = min(until, now + self._patience.leftover_seconds)
                left = min(until, silent_until) - now
                if left <= 0:
                    raise GoneError
                self._socket.settimeout(min(left, _SLICE))
                try:
                    at += self._socket.send(view[at : at + _SEND])
                except TimeoutError:
                    continue
                except OSError as error:
                    raise GoneError from error
                silent_until = time.monotonic() + self._patience.silence_seconds
        return until

    def has_hung_up(self) -> bool:
        """Whether the client has closed its end, as far as is known now."""
        self._socket.settimeout(0)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def _receive(self, soon: float, late: float) -> bytes | None:
        """Some bytes; None where none came in time."""
        part = self._wait(lambda: self._socket.recv(_RECEIVE), soon, late)
        if part == b"":
            raise GoneError
        return part

    def _wait(self, receive: Callable[[], ValueT], soon: float, late: float) -> ValueT | None:
        """What `receive` gives; None where nothing came until either moment."""
        while True:
            left = min(soon, late) - time.monotonic()
            if left <= 0:
                return None
            if self._is_stopping():
                raise StoppingError
            self._socket.settimeout(min(left, _SLICE))
            try:
                return receive()
            except TimeoutError:
                continue
            except OSError as error:
                raise GoneError from error


def _parse(head: bytes, limit: int) -> Head:
    """A head that ends with an empty line."""
    if len(head) > limit:
        raise RefusedError("too_large", f"the head is longer than {limit} bytes")
    line, _, rest = head.partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if match is None:
        raise RefusedError("bad_request", "this is not a request in HTTP/1.1")
    # What is not a header ends the headers for the parser of the standard library: nothing may hide there.
    for header in rest[: -len(_HEAD_END)].split(b"\r\n") if len(rest) > len(_HEAD_END) else []:
        if not re.fullmatch(rb"[!#-'*+.^-z|~A-Z0-9-]+:[^\r\n\0]*", header):
            raise RefusedError("bad_request", "there is something among the headers that is none")
    try:
        headers = http.client.parse_headers(io.BytesIO(rest))
    except http.client.HTTPException as error:
        raise RefusedError("bad_request", "there are too many headers") from error
    asked = (headers.get("Connection") or "").strip().lower()
    return Head(
        match[1],
        match[2],
        headers,
        asked == "keep-alive" if match[3] == "0" else asked != "close",
        (headers.get("Expect") or "").strip().lower() == "100-continue",
    )
