"""One client's requests on one connection, and the answers to them.

Knows nothing of how connections come about.
"""

from __future__ import annotations

import json
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Protocol

from ugatit_batch import __version__
from ugatit_plugins import protocol
from ugatit_plugins.protocol import RefusedError
from ugatit_plugins.wire import GoneError, StoppingError
from ugatit_plugins.worker import refusal, stopping

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ugatit_plugins.discovery import Address
    from ugatit_plugins.wire import Body, Head, Wire
    from ugatit_plugins.worker import Answer, Job, Worker

_LOOK = 0.05  # seconds after which a wait looks whether the client is still there


class Host(Protocol):
    """The server, as conversations know it."""

    address: Address
    worker: Worker

    @property
    def is_stopping(self) -> bool:
        """Whether no new work is taken."""

    def stop(self) -> None:
        """Begin to end."""

    def in_use(self) -> AbstractContextManager[None]:
        """While the block is open, and for a while after it, the server does not end for want of use."""

    def say(self, text: str) -> None:
        """Tell whoever runs the server of a request."""

    def report(self, error: BaseException) -> None:
        """Tell whoever runs the server of a fault of the program."""


class Conversation:
    """Answers requests until the client leaves, has to leave, or the server ends.

    Args:
        host: the server.
        wire: the connection.
    """

    def __init__(self, host: Host, wire: Wire) -> None:
        self._host, self._wire = host, wire
        self._unread = False
        """Whether a body, or what may be one, has not been read."""

    def run(self) -> None:
        """Answer all of them."""
        try:
            while self._exchange():
                pass
        except (GoneError, StoppingError):
            return

    def _exchange(self) -> bool:
        """One request; whether another may follow."""
        self._unread = True
        try:
            head = self._wire.read_head()
        except RefusedError as refused:
            self._refuse(refused, keeps_open=False)
            return False
        answered = "hung up"
        try:
            protocol.check_sender(head.headers, self._host.address.port, self._host.address.token)
            with self._host.in_use():
                self._answer(head)
            answered = "200"
        except RefusedError as refused:
            answered = f"{refused.status} {refused.code}: {refused.message}"
            self._refuse(refused, keeps_open=self._keeps_open(head))
        except StoppingError:
            self._refuse(stopping(), keeps_open=False)
        except GoneError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, a client that waits has to be told
            told = self._refusal(error)
            answered = f"{told.status} {told.code}: {told.message}"
            self._refuse(told, keeps_open=False)
        finally:
            self._host.say(f"{head.method} {protocol.shown(head.target)}: {answered}")
        return self._keeps_open(head)

    def _keeps_open(self, head: Head) -> bool:
        return head.keeps_open and not self._unread and not self._host.is_stopping

    def _refuse(self, refused: RefusedError, *, keeps_open: bool) -> None:
        body = json.dumps(refused.to_json()).encode()
        headers = {"Content-Type": protocol.JSON, **refused.headers}
        self._wire.send(refused.status, headers, body, keeps_open=keeps_open)
        if not keeps_open:
            self._wire.discard_rest()

    def _send(self, head: Head, headers: dict[str, str], body: Body) -> None:
        self._wire.send(200, headers, body, keeps_open=self._keeps_open(head))

    def _answer(self, head: Head) -> None:
        """Answer a request from a program that may ask.

        Raises:
            RefusedError: it does not get what it asks for.
            GoneError: the client has hung up.
            StoppingError: the server ends before the request is whole.
        """
        length = protocol.body_length(head.headers)
        self._unread = bool(length)
        path, query = protocol.route(head.method, head.target)
        if self._host.is_stopping:
            raise stopping()
        if path == "/v1/translate":
            self._translate(head, query)
            return
        if query or length:
            raise RefusedError("bad_request", f"{path} takes neither values nor a body")
        if path == "/v1/info":
            values = self._info()
        elif path == "/v1/models":
            values = {"models": self._host.worker.models()}
        else:
            values = {"stopping": True}
            self._host.stop()
        self._send(head, {"Content-Type": protocol.JSON}, json.dumps(values).encode())

    def _info(self) -> dict[str, object]:
        worker, address = self._host.worker, self._host.address
        return {
            "name": "ugatit-batch",
            "version": __version__,
            "protocol": protocol.PROTOCOL,
            "pid": address.pid,
            "device": worker.device,
            "loaded": list(worker.loaded),
            "limits": worker.limits.to_json(),
        }

    def _translate(self, head: Head, query: str) -> None:
        worker = self._host.worker
        request = protocol.read_translate(query, head.headers, worker.limits)
        chosen = worker.choose(request)
        with worker.place():
            if head.expects:
                self._wire.go_on()
            body = self._wire.read_body(request.length)
            self._unread = False
            job = worker.submit(chosen, body)
            del body
            answer = self._wait(job)
            headers = {
                "Content-Type": protocol.PNG if request.size is None else protocol.RAW,
                "X-Width": str(answer.width),
                "X-Height": str(answer.height),
                "X-Seconds": f"{answer.seconds:.4f}",
            }
            self._send(head, headers, answer.body)

    def _wait(self, job: Job) -> Answer:
        """What comes of a picture.

        Raises:
            RefusedError: it cannot be translated.
            GoneError: the client has hung up meanwhile; the picture is abandoned.
        """
        while True:
            try:
                error = job.future.exception(_LOOK)
            except TimeoutError:
                if self._wire.has_hung_up():
                    job.abandon()
                    raise GoneError from None
                continue
            except CancelledError:
                raise stopping() from None
            if error is None:
                return job.future.result()
            raise self._refusal(error)

    def _refusal(self, error: BaseException) -> RefusedError:
        """What the client is told of an error; a fault of the program is reported."""
        refused = refusal(error)
        if refused.code == "internal":
            self._host.report(error)
        return refused
