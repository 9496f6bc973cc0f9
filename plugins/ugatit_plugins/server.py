"""The server's life: it listens on this machine alone, is found by a file, and ends when nobody wants it.

Knows nothing of what requests mean.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import socketserver
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from ugatit_batch.errors import EnvironmentLacksError
from ugatit_plugins import discovery
from ugatit_plugins.conversation import Conversation
from ugatit_plugins.discovery import Address
from ugatit_plugins.protocol import HOST
from ugatit_plugins.wire import Patience, Wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_plugins.worker import Worker

_LOOK = 0.25  # seconds after which the threads that wait look whether the server is stopping


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs."""

    port: int = 0
    """0: the system chooses."""
    idle: float = 900.0
    """Seconds without a request after which it ends; 0: never."""
    connections: int = 64
    """At once; further ones wait until one ends."""
    patience: Patience = field(default_factory=Patience)


class Server:
    """Answers requests from when it is made until it is closed.

    Args:
        worker: translates; the server closes it.
        options: as they say.
        say: is told of each request.
        report: is told of faults of the program.

    Raises:
        EnvironmentLacksError: the port is taken.
    """

    def __init__(
        self,
        worker: Worker,
        options: ServerOptions | None = None,
        say: Callable[[str], None] = lambda _: None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.worker, self.say = worker, say
        self._options, self._report = options or ServerOptions(), report
        self.is_stopping = False
        self._stops: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._users, self._used = 0, time.monotonic()
        try:
            self._listener = _Listener(self._options, self._converse, lambda: self.is_stopping, report)
        except OSError as error:
            reason = error.strerror or str(error)
            raise EnvironmentLacksError(
                f"--port {self._options.port}: cannot be had: {reason}", "leave --port out"
            ) from error
        self.address = Address(os.getpid(), self._listener.server_address[1], discovery.new_token())
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(_LOOK,), name="listen")
        self._thread.start()

    def wait(self) -> None:
        """Return when somebody has asked it to stop, or nobody has used it for long enough."""
        while not self.is_stopping:
            left = self._seconds_left()
            if left <= 0:
                self.say(f"nobody has asked for anything for {self._options.idle:.0f} seconds")
                return
            with contextlib.suppress(queue.Empty):
                # Not longer: where a wait cannot be interrupted, a signal is seen after it.
                self._stops.get(timeout=min(left, 1.0))

    def _seconds_left(self) -> float:
        with self._lock:
            if self._users or not self._options.idle:
                return math.inf
            return self._used + self._options.idle - time.monotonic()

    def stop(self) -> None:
        """Begin to end. May be called from any thread, and from a signal's handler."""
        self.is_stopping = True
        self._stops.put(None)

    def close(self) -> None:
        """End: what is being worked on is finished and answered, and no thread stays."""
        self.stop()
        self._listener.shutdown()
        self._thread.join()
        self.worker.close()
        self._listener.server_close()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """See `Host`."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._used = time.monotonic()

    def report(self, error: BaseException) -> None:
        """See `Host`."""
        self._report("".join(traceback.format_exception(error)))

    def _converse(self, connection: socket.socket) -> None:
        wire = Wire(connection, self._options.patience, lambda: self.is_stopping)
        Conversation(self, wire).run()


class _Listener(ThreadingHTTPServer):
    """Accepts connections, each of which gets a thread."""

    daemon_threads = False  # those that are left are waited for
    request_queue_size = 128
    # Elsewhere than on POSIX systems it would let another program take the same port.
    allow_reuse_address = os.name == "posix"

    def __init__(
        self,
        options: ServerOptions,
        converse: Callable[[socket.socket], None],
        is_stopping: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        self._report = report
        self._room = threading.Semaphore(options.connections)
        self._converse, self._is_stopping = converse, is_stopping
        super().__init__((HOST, options.port), socketserver.BaseRequestHandler)

    def server_bind(self) -> None:
        """Without asking for this machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread, when there is room for one."""
        while not self._room.acquire(timeout=_LOOK):
            if self._is_stopping():
                self.shutdown_request(request)
                return
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Runs in that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A fault of the program has ended one connection; the others go on."""
        self._report(traceback.format_exc())

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Serve one connection."""
        self._converse(request)


def serve(
    folder: Path,
    server: Callable[[], Server],
    ready: Callable[[Server], object],
    gives_up: Callable[[], bool] = lambda: False,
) -> None:
    """Run a server that editors find, until it ends.

    Args:
        folder: where `server.json` goes.
        server: makes it, once it is sure that no other one is there.
        ready: is given the server when it answers and can be found.
        gives_up: asked while another server that starts or ends is waited for.

    Raises:
        EnvironmentLacksError: another server of this user's runs, or the port is taken.
        DiskFullError, OutputError: the folder cannot be written.
    """
    with discovery.only_server(folder, gives_up):
        running = server()
        try:
            discovery.announce(folder, running.address)
            ready(running)
            running.wait()
        finally:
            # Nobody should find what is ending.
            discovery.withdraw(folder)
            running.close()
