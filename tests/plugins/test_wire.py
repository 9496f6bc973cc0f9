from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ugatit_plugins.wire import GoneError, Patience, Wire

from .serving import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGE = bytes(64_000_000)
"""More than the system keeps for a client that does not read."""


@contextlib.contextmanager
def wired(
    patience: Patience, is_stopping: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Wire, socket.socket]]:
    """A wire, and the client's end of it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=PATIENT) as client,
    ):
        connection, _ = listener.accept()
        with connection:
            yield Wire(connection, patience, is_stopping), client


@contextlib.contextmanager
def sipping(client: socket.socket) -> Iterator[None]:
    """While the block is open, the client takes a little again and again."""
    done = threading.Event()

    def sip() -> None:
        while not done.wait(0.02):
            client.recv(65536)

    thread = threading.Thread(target=sip)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PATIENT)


def test_an_answer_arrives_whole() -> None:
    with wired(Patience()) as (wire, client):
        said: list[bytes] = []
        reader = client.makefile("rb")
        thread = threading.Thread(target=lambda: said.append(reader.read()))
        thread.start()
        wire.send(200, {}, LARGE, keeps_open=False)
        wire._socket.shutdown(socket.SHUT_WR)
        thread.join(PATIENT)
        reader.close()
    assert said[0].partition(b"\r\n\r\n")[2] == LARGE


def test_who_takes_an_answer_in_sips_has_only_so_long() -> None:
    patience = Patience(silence_seconds=PATIENT, body_seconds=0.5)
    began = time.monotonic()
    with wired(patience) as (wire, client), sipping(client), pytest.raises(GoneError):
        wire.send(200, {}, LARGE, keeps_open=False)
    assert time.monotonic() - began < PATIENT / 2


def test_who_takes_nothing_has_less_time_still() -> None:
    began = time.monotonic()
    with wired(Patience(silence_seconds=0.3)) as (wire, _), pytest.raises(GoneError):
        wire.send(200, {}, LARGE, keeps_open=False)
    assert time.monotonic() - began < PATIENT / 2


def test_a_server_that_stops_does_not_wait_for_its_answers_to_be_taken() -> None:
    stopping = threading.Event()
    began = time.monotonic()
    with wired(Patience(leftover_seconds=0.2), stopping.is_set) as (wire, client), sipping(client):
        threading.Timer(0.2, stopping.set).start()
        with pytest.raises(GoneError):
            wire.send(200, {}, LARGE, keeps_open=False)
    assert time.monotonic() - began < 5
