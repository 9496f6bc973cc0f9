from __future__ import annotations

import base64
import dataclasses
import errno
import http.client
import io
import json
import mmap
import os
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ugatit_batch import __version__
from ugatit_batch.bundle import WorkingSize
from ugatit_plugins.protocol import HOST, Limits

from ..fakes import TINY, InvertingTranslator, make_model
from .serving import (
    FIXTURES,
    PATIENT,
    Gate,
    Reply,
    StandInOpening,
    all_of,
    ask,
    connected,
    filled_in,
    fixture_body,
    has_room,
    head_of,
    hold_a_place,
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
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_plugins.server import Server

CASES = sorted(FIXTURES.glob("*.json"))


@pytest.fixture
def server(models_dir: Path) -> Iterator[Server]:
    with served(models_dir) as made:
        yield made


@pytest.fixture(scope="module")
def fixture_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PROTOCOL.md says that fixtures are answered with."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "negative", working=WorkingSize("native", 64))
    make_model(folder / "oneway", dataclasses.replace(TINY, attention=False), directions=("a2b",))
    return folder


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_it_answers_as_the_fixtures_say(fixture_models: Path, path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    request, answer = case["request"], case["answer"]
    if case.get("only") == "client":
        assert answer["status"] >= 400
        return
    with served(fixture_models) as server:
        headers = right_headers(server) | filled_in(request["headers"], server)
        with connected(server) as connection:
            lines = [f"{request['method']} {request['target']} HTTP/1.1"]
            lines += [f"{name}: {headers[name]}" for name in request["headers"]]
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + fixture_body(request))
            response = http.client.HTTPResponse(connection)
            response.begin()
            reply = Reply(response.status, dict(response.getheaders()), response.read())
    assert reply.status == answer["status"], reply.body
    varies = set(answer.get("varies", []))
    for name, value in answer["headers"].items():
        assert name in reply.headers
        assert reply.headers[name] == value or name in varies
    if "json" in answer:
        said: dict[str, Any] = reply.json
        assert said.keys() == answer["json"].keys()
        for name, value in answer["json"].items():
            assert type(said[name]) is type(value)
            assert said[name] == value or name in varies
    elif answer["headers"]["Content-Type"] == "image/png":
        wanted = io.BytesIO(base64.b64decode(answer["body"]))
        with Image.open(io.BytesIO(reply.body)) as there, Image.open(wanted) as image:
            assert there.mode == image.mode
            assert there.tobytes() == image.tobytes()
    else:
        assert reply.body == base64.b64decode(answer["body"])


def test_info_says_who_answers(server: Server) -> None:
    info = ask(server).json
    assert info["protocol"] == 1
    assert (info["pid"], info["version"], info["loaded"]) == (os.getpid(), __version__, [])
    assert info["limits"] == {"max_bytes": 2**29, "max_pixels": 2**26, "queue": 8}
    translate(server, picture())
    assert ask(server).json["loaded"] == ["own"]


def test_models_are_those_that_can_be_used(server: Server) -> None:
    models = {model["name"]: model for model in ask(server, target="/v1/models").json["models"]}
    assert models["oneway"]["directions"] == [{"reverse": False, "source": "photo", "target": "ink"}]
    assert models["own"]["directions"][1] == {"reverse": True, "source": "ink", "target": "photo"}
    assert models["own"]["size"] == {"mode": "native", "side": 64}


def test_many_requests_pass_over_one_connection(server: Server) -> None:
    connection = http.client.HTTPConnection(HOST, server.address.port, timeout=PATIENT)
    for seed in range(20):
        pixels = picture(seed)
        headers = right_headers(server) | raw_headers(24, 16)
        connection.request("POST", "/v1/translate?model=own", pixels.tobytes(), headers)
        first = connection.sock
        assert connection.getresponse().read() == (255 - pixels).tobytes()
        assert connection.sock is first
        connection.request("GET", "/v1/nothing", headers=right_headers(server))
        assert connection.getresponse().read()
    connection.close()


def test_a_client_that_waits_to_be_told_is_told_to_go_on(server: Server) -> None:
    pixels = picture()
    with connected(server) as connection:
        headers = raw_headers(24, 16) | {"Content-Length": str(pixels.nbytes), "Expect": "100-continue"}
        connection.sendall(head_of(server, "POST", "/v1/translate?model=own", headers))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(pixels.tobytes())
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    with connected(server) as connection:
        connection.sendall(head_of(server, "POST", "/v1/translate?model=nowhere", headers))
        assert connection.recv(12) == b"HTTP/1.1 404"


def test_fifty_clients_at_once_all_get_their_own_picture_in_the_end(models_dir: Path) -> None:
    wrong: list[object] = []
    said: Counter[int] = Counter()

    def client(server: Server, seed: int) -> None:
        pixels = picture(seed)
        deadline = time.monotonic() + PATIENT
        while time.monotonic() < deadline:
            reply = translate(server, pixels)
            said[reply.status] += 1
            if reply.status == 429:
                assert reply.headers["Retry-After"] == "1"
                time.sleep(0.01)
                continue
            if reply.status != 200 or not np.array_equal(pixels_in(reply), 255 - pixels):
                wrong.append(reply)
            return
        wrong.append("never")

    with served(models_dir, limits=Limits(queue=3), connections=16) as server:
        threads = [threading.Thread(target=client, args=(server, seed)) for seed in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert said[200] == 50


def test_who_comes_when_all_places_are_taken_is_told_so_before_sending(models_dir: Path) -> None:
    with served(models_dir, limits=Limits(queue=2)) as server:
        with connected(server) as first, connected(server) as second:
            hold_a_place(first, server)
            hold_a_place(second, server)
            assert not has_room(server)
            reply = translate(server, picture(width=2000, height=2000))
            assert (reply.status, reply.code, reply.headers["Retry-After"]) == (429, "busy", "1")
            assert ask(server).status == 200
            first.sendall(picture().tobytes())
            assert first.recv(12) == b"HTTP/1.1 200"
            until(lambda: has_room(server))
        assert translate_in_the_end(server, picture()).status == 200


@pytest.mark.parametrize("when", ["uploading", "waiting", "at work"])
def test_a_client_that_hangs_up_leaves_nothing_behind(models_dir: Path, when: str) -> None:
    gate, body = Gate(), picture().tobytes()
    limits = Limits(queue=2)
    with (
        served(models_dir, lambda: InvertingTranslator(before=gate), limits=limits) as server,
        connected(server) as begun,
        connected(server) as leaving,
    ):
        hold_a_place(begun, server)
        begun.sendall(body)
        assert gate.begun.acquire(timeout=PATIENT)
        hold_a_place(leaving, server)
        leaving.sendall(body[:100] if when == "uploading" else body)
        assert not has_room(server)
        (begun if when == "at work" else leaving).close()
        # The place is free again while the network still works for whoever was first.
        until(lambda: has_room(server))
        gate.opened.set()
        assert np.array_equal(pixels_in(translate_in_the_end(server, picture(3))), 255 - picture(3))
        assert gate.count == (3 if when == "at work" else 2)


def test_what_is_worked_on_is_answered_while_the_server_ends(models_dir: Path) -> None:
    gate = Gate()
    replies: dict[str, Reply] = {}

    def send(server: Server, name: str) -> None:
        replies[name] = translate(server, picture())

    with served(models_dir, lambda: InvertingTranslator(before=gate)) as server:
        first = threading.Thread(target=send, args=(server, "begun"))
        first.start()
        assert gate.begun.acquire(timeout=PATIENT)
        second = threading.Thread(target=send, args=(server, "waiting"))
        second.start()
        with connected(server) as idle, connected(server) as uploading:
            uploading.sendall(upload_head(server, 24 * 16 * 3, width=24, height=16))
            time.sleep(0.1)
            assert ask(server, "POST", "/v1/shutdown").json == {"stopping": True}
            closing = threading.Thread(target=server.close)
            closing.start()
            assert b'"stopping"' in all_of(uploading)
            assert all_of(idle) == b""
            second.join(PATIENT)
            gate.opened.set()
            closing.join(PATIENT)
        first.join(PATIENT)
    assert np.array_equal(pixels_in(replies["begun"]), 255 - picture())
    assert (replies["waiting"].status, replies["waiting"].code) == (503, "stopping")


def test_it_ends_when_nobody_has_used_it_for_so_long_and_not_before(models_dir: Path) -> None:
    gate = Gate()
    with served(models_dir, lambda: InvertingTranslator(before=gate), idle=0.5) as server:
        waiting = threading.Thread(target=server.wait)
        thread = threading.Thread(target=translate, args=(server, picture()))
        thread.start()
        assert gate.begun.acquire(timeout=PATIENT)
        waiting.start()
        waiting.join(1.5)
        assert waiting.is_alive()
        gate.opened.set()
        thread.join(PATIENT)
        # Requests that are refused at the door are no use.
        with connected(server) as connection:
            connection.sendall(b"GET /v1/info HTTP/1.1\r\n")
            waiting.join(PATIENT)
        assert not waiting.is_alive()


def test_it_stays_where_it_is_not_to_end(models_dir: Path) -> None:
    with served(models_dir, idle=0) as server:
        waiting = threading.Thread(target=server.wait)
        waiting.start()
        waiting.join(1.2)
        assert waiting.is_alive()
        server.stop()
        waiting.join(PATIENT)
        assert not waiting.is_alive()


def test_faults_of_the_program_are_reported_and_the_next_request_is_served(models_dir: Path) -> None:
    broken = [ValueError("a fault")]

    def break_once(_: object) -> None:
        if broken:
            raise broken.pop()

    said: list[str] = []
    with served(models_dir, lambda: InvertingTranslator(before=break_once), said=said) as server:
        reply = translate(server, picture())
        assert (reply.status, reply.code) == (500, "internal")
        assert np.array_equal(pixels_in(translate(server, picture())), 255 - picture())
    assert any("Traceback" in line and "a fault" in line for line in said)
    assert not any(server.address.token in line for line in said)


def test_a_picture_that_there_is_no_memory_to_receive_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", lack)
        reply = translate(server, picture())
    assert (reply.status, reply.code) == (422, "not_possible")
    assert "smaller" in reply.json["error"]["hint"]
    assert translate(server, picture()).status == 200


@pytest.mark.parametrize(("method", "target"), [("GET", "/v1/models"), ("POST", "/v1/translate?model=own")])
def test_faults_outside_of_the_network_are_answered_and_reported(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str, target: str
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a fault")

    said: list[str] = []
    with served(models_dir, said=said) as server:
        with monkeypatch.context() as patch:
            patch.setattr(StandInOpening, "models", fail)
            body = picture().tobytes() if method == "POST" else None
            reply = ask(server, method, target, body, raw_headers(24, 16))
        assert (reply.status, reply.code) == (500, "internal")
        assert translate(server, picture()).status == 200
    assert any("Traceback" in line and "a fault" in line for line in said)
