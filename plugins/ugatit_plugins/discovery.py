"""How editors find the server that runs: a file that only its owner may read, and a lock that says it lives.

    server.json  {"pid", "port", "token", "protocol", "version"}, while a server runs
    server.lock  held by that server; a killed one's is free

Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import psutil
from filelock import FileLock, Timeout

from ugatit_batch import __version__
from ugatit_batch.atomic import explain_os_error, replacing
from ugatit_batch.errors import EnvironmentLacksError
from ugatit_plugins.protocol import HOST, PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATE_VARIABLE = "UGATIT_BATCH_STATE_DIR"
FILE, LOCK = "server.json", "server.lock"
_LOCK_SECONDS = 0.5  # after which a wait for the lock looks around
_WAIT_SECONDS = 60.0  # for a server that is starting, or that finishes its last picture
_TOKEN_BYTES = 32


@dataclass(frozen=True)
class Address:
    """Where a server is, and what it takes to be answered."""

    pid: int
    port: int
    token: str
    protocol: int = PROTOCOL
    version: str = __version__

    @property
    def url(self) -> str:
        """Of the server, without a slash at its end."""
        return f"http://{HOST}:{self.port}"


def state_dir() -> Path:
    """The folder of `server.json` where nobody says otherwise."""
    given = os.environ.get(STATE_VARIABLE)
    return Path(given) if given else platformdirs.user_state_path("ugatit-batch", appauthor=False)


def new_token() -> str:
    """256 bits by chance, in letters that fit into a header."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def read_address(folder: Path) -> Address | None:
    """What `server.json` says, which may be of a server that is gone; None where it says nothing of use."""
    try:
        values = json.loads((folder / FILE).read_text("utf-8"))
        address = Address(**{name: values[name] for name in Address.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kinds = {name: type(value) for name, value in asdict(address).items()}
    wanted = {"pid": int, "port": int, "token": str, "protocol": int, "version": str}
    return address if kinds == wanted and 0 < address.port < 65536 and address.pid > 0 else None


def find_running(folder: Path) -> Address | None:
    """The address in `server.json`, where a process of that number lives. Whether it answers is not asked."""
    address = read_address(folder)
    return address if address is not None and psutil.pid_exists(address.pid) else None


@contextlib.contextmanager
def only_server(folder: Path, gives_up: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """While the block is open, no other server of this user's can be in this folder.

    At its end `server.json` is taken away. One that is starting or ending is waited for, up to a minute.

    Args:
        folder: of `server.json`.
        gives_up: asked while it waits.

    Raises:
        EnvironmentLacksError: another server runs, or does not come to an end.
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, mode=0o600)
        _take(lock, folder, gives_up)
    except OSError as error:
        raise explain_os_error(error, folder / LOCK) from error
    try:
        # What a killed server left would send clients to whoever has its port now.
        withdraw(folder)
        yield
    finally:
        withdraw(folder)
        lock.release()


def _take(lock: FileLock, folder: Path, gives_up: Callable[[], bool]) -> None:
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            # Who holds it may still load, and be found soon; or have withdrawn, and let go of it soon.
            if find_running(folder) is not None or gives_up() or time.monotonic() > until:
                raise _already_running(folder) from error
        else:
            return


def _already_running(folder: Path) -> EnvironmentLacksError:
    address = find_running(folder)
    if address is None:
        return EnvironmentLacksError(
            f"{folder}: another server is starting or ending", "wait a moment, and try again"
        )
    return EnvironmentLacksError(
        f"{folder}: a server runs already, as process {address.pid}",
        f"editors use that one; end it first, or set {STATE_VARIABLE} to another folder",
    )


def announce(folder: Path, address: Address) -> None:
    """Write `server.json`, which only its owner may read.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    with replacing(folder / FILE) as partial:
        # A left one may have other permissions.
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(address), file)


def withdraw(folder: Path) -> None:
    """Take `server.json` away."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink()
