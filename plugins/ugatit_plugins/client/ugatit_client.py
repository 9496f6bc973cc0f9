"""What an image editor's plug-in needs to have a picture translated: find the server, start it, ask it.

Runs inside of editors: the standard library of Python 3.8 alone, and nothing of ugatit-batch. Knows nothing
of any editor. Nothing here goes through a proxy.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlencode

PROTOCOL = 1

_HOST = "127.0.0.1"
_TICK = 0.02  # seconds between two looks at whether the user has cancelled
_ANSWER = 10.0
"""Seconds in which the server answers what costs it no work."""
_START = 180.0
"""Seconds in which a server that was started is ready; PyTorch from a cold disk may take a minute."""
_FASTER = 4  # exit code of a server that has found another one, or that lacks something
_LOOK_AGAIN = 1.0  # seconds for which that other one is looked for
_BUSY = 60.0
"""Seconds for which a busy server is asked again."""
_PIECE = 1 << 18
_LOG_END = 4000  # characters

_INSTALL = "run “ugatit-batch plugin install” once more"
_DOCTOR = "run “ugatit-batch plugin doctor” in a terminal; it says what is wrong"

_launched: list[Any] = []
"""The servers that were started from here; they are only ever asked whether they have ended."""


def _never() -> bool:
    return False


def _silent(_: str) -> None:
    pass


class UgatitError(Exception):
    """What went wrong, in words for the user.

    Args:
        code: for programs: the server's own code, or `not_installed`, `not_started`, `died`, `protocol`,
            `cancelled`.
        message: what was wrong.
        hint: what to do next; may be empty.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def read_config(folder: Any) -> dict[str, Any]:
    """The `ugatit.json` that the installer has put beside a plug-in's code.

    Raises:
        UgatitError: it is missing or damaged.
    """
    path = Path(folder) / "ugatit.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config["command"], list) and isinstance(config["state"], str):
            return dict(config)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UgatitError("not_installed", f"The plug-in is not completely installed: {path}.", _INSTALL)


class Client:
    """A server that answers. Each call opens a connection of its own, so that threads may share a client.

    Args:
        port: on 127.0.0.1.
        token: what the server knows its clients by.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    @classmethod
    def connect(
        cls,
        config: dict[str, Any],
        cancelled: Callable[[], bool] = _never,
        say: Callable[[str], None] = _silent,
    ) -> Client:
        """The server that runs, or one that is started for it and outlives the editor.

        Args:
            config: what `read_config` gives.
            cancelled: asked many times a second.
            say: takes words for the user about what takes time.

        Raises:
            UgatitError: there is none and none can be started, or the user has cancelled.
        """
        state = Path(config["state"])
        client = cls._running(state, cancelled)
        if client is None:
            say("Starting ugatit-batch…")
            client = cls._start(config["command"], state, cancelled)
        return client

    def info(self, cancelled: Callable[[], bool] = _never) -> dict[str, Any]:
        """Version, protocol, device, limits.

        Raises:
            UgatitError: the server does not answer.
        """
        return self._json("GET", "/v1/info", cancelled)

    def models(self, cancelled: Callable[[], bool] = _never) -> list[dict[str, Any]]:
        """Which models there are; each has `name`, `directions`, `size`, `attention`, `bundled`.

        Raises:
            UgatitError: the server does not answer.
        """
        return list(self._json("GET", "/v1/models", cancelled)["models"])

    def shutdown(self) -> None:
        """Have the server end.

        Raises:
            UgatitError: the server does not answer.
        """
        self._json("POST", "/v1/shutdown", _never)

    def translate(
        self,
        rgb: bytes,
        width: int,
        height: int,
        model: str,
        reverse: bool = False,
        attention: bool = False,
        cancelled: Callable[[], bool] = _never,
    ) -> tuple[bytes, bytes | None]:
        """Have a picture translated; a server that is busy is asked again for a minute.

        Args:
            rgb: 8 bits a channel, sRGB, rows from top to bottom, `width * height * 3` bytes.
            width: pixels.
            height: pixels.
            model: as `models` names it.
            reverse: B → A.
            attention: whether the map of where the network looked is wanted too.
            cancelled: asked many times a second; as soon as it says so, the server drops the work.

        Returns:
            The result in the same form, and the map: one byte a pixel, 255 where attention is highest; None
            where it was not asked for.

        Raises:
            UgatitError: it could not be translated, or the user has cancelled.
        """
        if len(rgb) != width * height * 3:
            raise ValueError(f"{len(rgb)} bytes are not {width}×{height} pixels of RGB")
        query = {"model": model, "reverse": int(reverse), "attention": int(attention)}
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Width": str(width),
            "X-Height": str(height),
        }
        path = "/v1/translate?" + urlencode(query)
        answer = self._until_free(lambda: self._ask("POST", path, cancelled, None, headers, rgb), cancelled)
        channels = 4 if attention else 3
        if len(answer) != width * height * channels:
            raise _not_understood(f"{len(answer)} bytes instead of {width * height * channels}")
        if not attention:
            return answer, None
        result = bytearray(width * height * 3)
        for channel in range(3):
            result[channel::3] = answer[channel::4]
        return bytes(result), answer[3::4]

    @classmethod
    def _running(cls, state: Path, cancelled: Callable[[], bool]) -> Client | None:
        """The server that the discovery file tells of, if it answers."""
        try:
            told = json.loads((state / "server.json").read_text(encoding="utf-8"))
            client = cls(int(told["port"]), str(told["token"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            protocol = client.info(cancelled).get("protocol")
        except UgatitError as error:
            if error.code == "cancelled":
                raise
            return None
        if protocol != PROTOCOL:
            raise UgatitError(
                "protocol",
                f"ugatit-batch speaks protocol {protocol}, this plug-in protocol {PROTOCOL}.",
                _INSTALL + ", and start the editor again",
            )
        return client

    @classmethod
    def _start(cls, command: list[str], state: Path, cancelled: Callable[[], bool]) -> Client:
        with _log() as said:
            process = _launch(command, state, said)
            end, ended = time.monotonic() + _START, 0.0
            while time.monotonic() < end:
                left = process.poll()
                # Looked for after an end too: another editor may have started one at the same moment.
                client = cls._running(state, cancelled)
                if client is not None:
                    return client
                if left is not None:
                    ended = ended or time.monotonic()
                    if left != _FASTER or time.monotonic() > ended + _LOOK_AGAIN:
                        said.seek(0)
                        raise _not_started(said.read().decode("utf-8", "replace"))
                _wait(5 * _TICK, cancelled)
            process.kill()
        raise UgatitError("not_started", f"ugatit-batch did not get ready within {_START:.0f} s.", _DOCTOR)

    def _until_free(self, ask: Callable[[], bytes], cancelled: Callable[[], bool]) -> bytes:
        end = time.monotonic() + _BUSY
        while True:
            answer = _answer_or_busy(ask)
            if not isinstance(answer, _BusyError):
                return answer
            if time.monotonic() + answer.pause > end:
                hint = answer.hint or "try again when they are done"
                raise UgatitError(answer.code, "ugatit-batch is busy with other pictures.", hint) from answer
            _wait(answer.pause, cancelled)

    def _json(self, method: str, path: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        data = self._ask(method, path, cancelled, _ANSWER)
        try:
            answer = json.loads(data.decode("utf-8"))
        except ValueError as error:
            raise _not_understood("no JSON") from error
        if not isinstance(answer, dict):
            raise _not_understood("no JSON object")
        return answer

    def _ask(
        self,
        method: str,
        path: str,
        cancelled: Callable[[], bool],
        patience: float | None,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        """One request and its answer.

        Args:
            method: of HTTP.
            path: and query.
            cancelled: asked many times a second.
            patience: seconds of silence after which the server counts as hung; None: it may work for hours.
            headers: beside those that every request has.
            body: if there is one.
        """
        connection = _Connection(self._port, cancelled, patience)
        try:
            connection.request(
                method,
                path,
                body if body is not None or method == "GET" else b"",
                {"Authorization": "Bearer " + self._token, "Connection": "close", **(headers or {})},
            )
            answer = connection.getresponse()
            data = answer.read()
        except socket.timeout as error:
            raise UgatitError("died", "ugatit-batch does not answer.", _DOCTOR) from error
        except (OSError, http.client.HTTPException) as error:
            raise UgatitError(
                "died", "ugatit-batch ended before it had answered.", "try again: it is started anew"
            ) from error
        finally:
            connection.end()
        if answer.status == http.client.OK:
            return data
        raise _refused(answer.status, answer.headers.get("Retry-After"), data)


class _BusyError(UgatitError):
    """The server has no room for a picture now."""

    pause = 1.0


def _answer_or_busy(ask: Callable[[], bytes]) -> bytes | _BusyError:
    try:
        return ask()
    except _BusyError as busy:
        return busy


def _refused(status: int, retry_after: str | None, data: bytes) -> UgatitError:
    try:
        error = json.loads(data.decode("utf-8"))["error"]
        parts = (str(error["code"]), str(error["message"]), str(error.get("hint") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _not_understood(f"status {status}")
    if status != http.client.TOO_MANY_REQUESTS:
        return UgatitError(*parts)
    busy = _BusyError(*parts)
    if retry_after is not None and retry_after.isdigit():
        busy.pause = max(float(retry_after), _TICK)
    return busy


def _not_understood(what: str) -> UgatitError:
    return UgatitError("protocol", f"ugatit-batch's answer was not understood: {what}.", _INSTALL)


def _not_started(said: str) -> UgatitError:
    text = " ".join(said[-_LOG_END:].split()) or "it ended without a word"
    return UgatitError("not_started", f"ugatit-batch could not be started: {text}", _DOCTOR)


def _log() -> Any:
    """A file for what a server says while it starts, which goes away by itself."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UgatitError(
            "not_started",
            f"ugatit-batch cannot be started: a temporary file cannot be made: {error.strerror or error}.",
            "make room in the folder for temporary files, and try again",
        ) from error


def _wait(seconds: float, cancelled: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while True:
        _look_at(cancelled)
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _TICK))


def _look_at(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise UgatitError("cancelled", "Cancelled.")


def _launch(command: list[str], state: Path, said: Any) -> subprocess.Popen[bytes]:
    """Start the server so that it outlives the editor, and as if from a terminal, not from the editor.

    Args:
        command: program and arguments.
        state: folder in which it tells that it runs.
        said: file for what it says on stderr. What it says on stdout holds its token.
    """
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        detached = {"creationflags": flags}
    environment = clean_environment(dict(os.environ))
    environment["UGATIT_BATCH_STATE_DIR"] = str(state)
    try:
        process = subprocess.Popen(  # noqa: S603 - what the installer wrote down
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
            cwd=str(Path.home()),
            **detached,
        )
    except OSError as error:
        raise UgatitError(
            "not_installed",
            f"ugatit-batch cannot be started: {command[0]}: {error.strerror or error}.",
            f"if it has moved, {_INSTALL}; in an editor from Flatpak or Snap, start “ugatit-batch serve” in "
            "a terminal first",
        ) from error
    _launched[:] = [one for one in _launched if one.poll() is None]
    _launched.append(process)
    return process


def clean_environment(environment: dict[str, str]) -> dict[str, str]:
    """Leave out what an editor sets for its own Python and its own libraries."""
    own = [environment[name] for name in ("APPDIR", "SNAP") if environment.get(name)]
    kept = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH"):
        folders = [folder for folder in kept.pop(name, "").split(os.pathsep) if folder]
        folders = [folder for folder in folders if not any(folder.startswith(one) for one in own)]
        if folders:
            kept[name] = os.pathsep.join(folders)
    return kept


class _Connection(http.client.HTTPConnection):
    """A connection that the user can cancel at any moment."""

    def __init__(self, port: int, cancelled: Callable[[], bool], patience: float | None) -> None:
        super().__init__(_HOST, port)
        self._cancelled = cancelled
        self._patience = patience
        self._held: _Patient | None = None

    def connect(self) -> None:
        _look_at(self._cancelled)
        plain = socket.create_connection((self.host, self.port), _ANSWER)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = _Patient(plain, self._cancelled, self._patience)
        self.sock: Any = self._held

    def end(self) -> None:
        """Close, so that the server sees it."""
        self.close()
        if self._held is not None:
            self._held.end()


class _Patient(io.RawIOBase):
    """As much of a socket as http.client uses; while it waits, it looks at whether the user has cancelled.

    Args:
        plain: does not block.
        cancelled: asked many times a second.
        patience: seconds of silence after which it gives up; None: never.
    """

    def __init__(self, plain: socket.socket, cancelled: Callable[[], bool], patience: float | None) -> None:
        super().__init__()
        self._plain = plain
        self._cancelled = cancelled
        self._patience = patience
        self._selector = selectors.DefaultSelector()
        self._selector.register(plain, selectors.EVENT_READ)

    def sendall(self, data: Any) -> None:
        """Send; a server that answers before it has everything, as one does that refuses, is heard."""
        left = memoryview(data)
        while left:
            if self._ready(selectors.EVENT_READ | selectors.EVENT_WRITE) & selectors.EVENT_READ:
                return
            try:
                left = left[self._plain.send(left[:_PIECE]) :]
            except BlockingIOError:
                pass
            except ConnectionError:
                return

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What http.client reads the answer from."""
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._ready(selectors.EVENT_READ)
            try:
                return self._plain.recv_into(buffer)
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Nothing: http.client closes what it still has to read the answer from. See `end`."""

    def end(self) -> None:
        """Close the socket."""
        self._selector.close()
        self._plain.close()

    def _ready(self, events: int) -> int:
        """Wait for one of the events; which have come."""
        self._selector.modify(self._plain, events)
        end = None if self._patience is None else time.monotonic() + self._patience
        while True:
            _look_at(self._cancelled)
            for _, come in self._selector.select(_TICK):
                return come
            if end is not None and time.monotonic() > end:
                raise socket.timeout
