from __future__ import annotations

import gc
import random
import threading
from email.message import Message
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from ugatit_plugins.protocol import Limits, RefusedError, check_sender

from ..fakes import InvertingTranslator
from .serving import (
    SOON,
    all_of,
    ask,
    connected,
    head_of,
    picture,
    pixels_in,
    raw_headers,
    right_headers,
    served,
    translate,
    translate_in_the_end,
    until,
    upload_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_plugins.server import Server


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Server]:
    """One for all of them: it has to stand each."""
    with served(models_dir, patience=SOON) as made:
        yield made


@pytest.fixture(autouse=True)
def still_serves(server: Server) -> Iterator[None]:
    yield
    assert np.array_equal(pixels_in(translate(server, picture())), 255 - picture())


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic x",
        "Bearer {token}x",
        "Bearer {token} ",
        "bearer {token}",
        "é",
    ],
)
@pytest.mark.parametrize("target", ["/v1/info", "/v1/nothing", "/v1/shutdown"])
def test_without_the_right_token_nothing_is_told(server: Server, given: str, target: str) -> None:
    reply = ask(
        server, "GET", target, headers={"Authorization": given.replace("{token}", server.address.token)}
    )
    assert (reply.status, reply.code) == (401, "unauthorized")
    assert "Server" not in reply.headers
    assert b"ugatit" not in reply.body


def test_no_token_at_all_and_two_of_them_are_refused(server: Server) -> None:
    assert ask(server, without="Authorization").status == 401
    with connected(server) as connection:
        twice = head_of(server, "GET", "/v1/info", {"authorization": "Bearer x"})
        connection.sendall(twice)
        assert all_of(connection).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "host",
    ["localhost:{port}", "127.0.0.1", "127.0.0.1:1", "example.org", "127.0.0.1:{port}.example.org", ""],
)
def test_another_host_is_refused(server: Server, host: str) -> None:
    headers = {"Host": host.replace("{port}", str(server.address.port))}
    assert (ask(server, headers=headers).status, ask(server, without="Host").status) == (403, 403)


def test_the_port_of_http_itself_may_be_left_out() -> None:
    """As `http.client` and curl do."""
    headers = Message()
    headers["Host"], headers["Authorization"] = "127.0.0.1:80", "Bearer x"
    check_sender(headers, 80, "x")
    headers.replace_header("Host", "127.0.0.1")
    check_sender(headers, 80, "x")
    with pytest.raises(RefusedError, match="web pages"):
        check_sender(headers, 81, "x")


@pytest.mark.parametrize("origin", ["null", "http://127.0.0.1:{port}", "https://example.org"])
def test_web_pages_are_refused_even_with_the_token(server: Server, origin: str) -> None:
    reply = ask(server, headers={"Origin": origin.replace("{port}", str(server.address.port))})
    assert (reply.status, reply.code) == (403, "forbidden")
    assert not any(name.lower().startswith("access-control") for name in reply.headers)
    reply = ask(server, "OPTIONS", "/v1/translate", headers={"Origin": origin})
    assert reply.status == 403


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ("-1", 400),
        ("1e3", 400),
        ("abc", 400),
        ("", 400),
        ("+5", 400),
        ("5, 5", 400),
        ("9" * 30, 400),
        (str(2**29 + 1), 413),
        ("999999999999999999", 413),
        ("0", 400),
    ],
)
def test_a_length_that_is_none_or_too_large_is_refused_before_the_body_comes(
    server: Server, length: str, status: int
) -> None:
    with connected(server) as connection:
        headers = raw_headers(24, 16) | {"Content-Length": length}
        connection.sendall(head_of(server, "POST", "/v1/translate?model=own", headers))
        assert all_of(connection).startswith(f"HTTP/1.1 {status}".encode())


@pytest.mark.parametrize(
    ("width", "height", "status"),
    [
        ("0", "16", 400),
        ("24", "0", 400),
        ("-24", "-16", 400),
        ("24", "17", 400),
        ("2.4", "16", 400),
        ("", "16", 400),
        ("٢٤", "16", 400),
        ("99999999", "99999999", 413),
        ("9" * 20, "1", 400),
    ],
)
def test_sizes_that_are_none_or_not_the_bodys_are_refused(
    server: Server, width: str, height: str, status: int
) -> None:
    body = picture().tobytes()
    headers = raw_headers(24, 16) | {"X-Width": width, "X-Height": height}
    with connected(server) as connection:
        head = head_of(
            server, "POST", "/v1/translate?model=own", headers | {"Content-Length": str(len(body))}
        )
        connection.sendall(head + body)
        assert all_of(connection).startswith(f"HTTP/1.1 {status}".encode())


@pytest.mark.parametrize(
    ("headers", "without", "status"),
    [
        ({"Transfer-Encoding": "chunked"}, "Content-Length", 411),
        ({"Transfer-Encoding": "chunked"}, "", 411),
        ({}, "Content-Length", 411),
        ({"Content-Type": "image/jpeg"}, "", 415),
        ({"Content-Type": "text/plain"}, "", 415),
        ({}, "Content-Type", 415),
        ({}, "X-Width", 400),
    ],
)
def test_bodies_of_other_kinds_are_refused(
    server: Server, headers: dict[str, str], without: str, status: int
) -> None:
    body = picture().tobytes()
    reply = ask(
        server,
        "POST",
        "/v1/translate?model=own",
        None if without == "Content-Length" else body,
        raw_headers(24, 16) | headers,
        without=without,
    )
    assert reply.status == status


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "bad_request"),
        ("?", 400, "bad_request"),
        ("?model=", 400, "bad_request"),
        ("?model=own&model=own", 400, "bad_request"),
        ("?model=own&reverse=2", 400, "bad_request"),
        ("?model=own&attention=true", 400, "bad_request"),
        ("?model=own&size=64", 400, "bad_request"),
        ("?model", 400, "bad_request"),
        ("?" + "&".join(f"a{n}=1" for n in range(20)), 400, "bad_request"),
        ("?model=nowhere", 404, "model_not_found"),
        ("?model=..%2Fown", 404, "model_not_found"),
        ("?model=%2Fetc%2Fpasswd", 404, "model_not_found"),
        ("?model=own%00", 404, "model_not_found"),
        ("?model=%FF", 404, "model_not_found"),
        ("?model=oneway&reverse=1", 422, "not_possible"),
    ],
)
def test_what_is_asked_for_has_to_be_there(server: Server, query: str, status: int, code: str) -> None:
    reply = ask(server, "POST", f"/v1/translate{query}", picture().tobytes(), raw_headers(24, 16))
    assert (reply.status, reply.code) == (status, code)
    assert reply.json["error"]["hint"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/info/", 404),
        ("GET", "/v1/../v1/info", 404),
        ("GET", "//v1/info", 404),
        ("GET", "http://127.0.0.1/v1/info", 404),
        ("GET", "/v1/info?x=1", 400),
        ("POST", "/v1/info", 405),
        ("HEAD", "/v1/info", 405),
        ("GET", "/v1/shutdown", 405),
        ("DELETE", "/v1/translate?model=own", 405),
        ("GET", "http://[::1", 400),
    ],
)
def test_other_addresses_and_methods_are_refused(
    server: Server, method: str, target: str, status: int
) -> None:
    with connected(server) as connection:
        connection.sendall(head_of(server, method, target, {"Connection": "close"}))
        assert all_of(connection).startswith(f"HTTP/1.1 {status}".encode())


def test_a_body_where_none_belongs_is_refused(server: Server) -> None:
    assert ask(server, "POST", "/v1/shutdown", b"now").status == 400
    assert ask(server).status == 200


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /v1/info\r\n\r\n", 400),
        (b"GET /v1/info HTTP/2.0\r\n\r\n", 400),
        (b"GET /v1/\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/info HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET /v1/info HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET /v1/info HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /v1/info HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n", 400),
        (b"GET /v1/info HTTP/1.1\r\nA: " + b"b" * 5000, 413),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 5, 408),
        (b"GET /v1/info HTTP/1.1\r\nHost: ", 408),
    ],
)
def test_what_is_no_request_is_refused(server: Server, said: bytes, status: int) -> None:
    with connected(server) as connection:
        connection.sendall(said)
        assert all_of(connection).startswith(f"HTTP/1.1 {status}".encode())


def test_who_says_nothing_is_let_go(server: Server) -> None:
    with connected(server) as connection:
        assert all_of(connection) == b""


def test_a_body_that_never_comes_is_waited_for_only_so_long(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(upload_head(server, 1152, width=24, height=16) + b"a few")
        assert b"only 5 of 1152 bytes" in all_of(connection)


def test_a_body_that_comes_in_drops_is_waited_for_only_so_long(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(upload_head(server, 1152, width=24, height=16))
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    connection.sendall(b".")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        said = all_of(connection)
        stop.set()
        thread.join()
        assert b"408" in said[:20]


def test_a_client_that_does_not_take_its_answer_is_let_go(models_dir: Path) -> None:
    side = 4096
    limits = Limits(queue=1)
    with served(models_dir, patience=SOON, limits=limits) as server, connected(server) as connection:
        body = bytes(side * side * 3)
        connection.sendall(upload_head(server, len(body), width=side, height=side) + body)
        assert translate(server, picture()).status == 429
        until(lambda: translate(server, picture()).status == 200)


def test_silent_connections_keep_others_out_only_so_long(models_dir: Path) -> None:
    with (
        served(models_dir, patience=SOON, connections=2) as server,
        connected(server) as first,
        connected(server) as second,
    ):
        assert ask(server).status == 200
        assert all_of(first) == all_of(second) == b""


BAD: list[Callable[[Server], None]] = []


def bad(one: Callable[[Server], None]) -> Callable[[Server], None]:
    BAD.append(one)
    return one


@bad
def _garbage(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(random.Random(1).randbytes(3000) + b"\r\n\r\n")
        all_of(connection)


@bad
def _no_token(server: Server) -> None:
    assert (
        ask(server, "POST", "/v1/translate?model=own", bytes(300_000), without="Authorization").status == 401
    )


@bad
def _from_a_page(server: Server) -> None:
    assert ask(server, headers={"Origin": "null"}).status == 403


@bad
def _too_long(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(upload_head(server, 2**40, width=2**19, height=2**19))
        assert b"413" in all_of(connection)[:20]


@bad
def _hangs_up(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(upload_head(server, 30_000_000, width=10_000, height=1000) + bytes(100_000))


@bad
def _hangs_up_when_sent(server: Server) -> None:
    with connected(server) as connection:
        connection.sendall(upload_head(server, 1152, width=24, height=16) + picture().tobytes())


@bad
def _no_png(server: Server) -> None:
    reply = ask(server, "POST", "/v1/translate?model=own", bytes(100_000), {"Content-Type": "image/png"})
    assert reply.status in (400, 429)


@bad
def _no_model(server: Server) -> None:
    assert translate(server, picture(), "nowhere").status == 404


@bad
def _fault(server: Server) -> None:
    assert translate(server, picture(width=13, height=13)).status in (500, 429)


@bad
def _connects_only(server: Server) -> None:
    with connected(server):
        pass


def test_two_hundred_bad_requests_leave_nothing_behind(models_dir: Path) -> None:
    def fail(pixels: np.ndarray) -> None:
        if pixels.shape[1] == 16 and pixels.shape[2] == 16:
            raise ValueError("a fault")

    process = psutil.Process()
    with served(models_dir, lambda: InvertingTranslator(before=fail), patience=SOON) as server:

        def all_at_once(rounds: int) -> None:
            for _ in range(rounds):
                threads = [threading.Thread(target=one, args=(server,)) for one in BAD]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        def is_quiet() -> bool:
            names = [thread.name for thread in threading.enumerate()]
            return not any("process_request_thread" in name for name in names)

        all_at_once(2)
        until(is_quiet)
        gc.collect()
        threads, memory = threading.active_count(), process.memory_info().rss
        descriptors = process.num_fds() if hasattr(process, "num_fds") else 0
        all_at_once(20)
        until(is_quiet)
        gc.collect()
        assert threading.active_count() <= threads
        # Each round of it would hold more than thirty megabytes.
        assert process.memory_info().rss - memory < 60_000_000
        if descriptors:
            assert process.num_fds() <= descriptors
        assert np.array_equal(pixels_in(translate_in_the_end(server, picture())), 255 - picture())
        assert ask(server, headers=right_headers(server)).status == 200
