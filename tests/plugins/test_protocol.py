from __future__ import annotations

import json
import re
from email.message import Message
from pathlib import Path

import pytest

from ugatit_plugins.protocol import (
    PROTOCOL,
    STATUS,
    Limits,
    RefusedError,
    body_length,
    check_sender,
    read_translate,
    route,
    shown,
)

from .serving import FIXTURES

TEXT = (Path(__file__).parents[2] / "plugins" / "PROTOCOL.md").read_text("utf-8")
TOKEN = "a-token"


def headers(**values: str) -> Message:
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


RIGHT = {"Content_Type": "image/png", "Content_Length": "9"}


def test_the_document_has_every_code_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", TEXT, re.MULTILINE))
    assert {code: int(status) for code, status in rows.items()} == STATUS
    assert f"# Protocol {PROTOCOL}" in TEXT


def test_there_is_a_fixture_for_every_code_and_every_address() -> None:
    cases = [json.loads(path.read_text("utf-8")) for path in FIXTURES.glob("*.json")]
    codes = {case["answer"]["json"]["error"]["code"] for case in cases if case["answer"]["status"] >= 300}
    assert codes == STATUS.keys()
    right = {case["request"]["target"].partition("?")[0] for case in cases if case["answer"]["status"] == 200}
    assert right == {"/v1/info", "/v1/models", "/v1/translate", "/v1/shutdown"}


def test_a_right_request_is_read() -> None:
    request = read_translate("model=ink%20wash&attention=1&reverse=0", headers(**RIGHT), Limits())
    assert (request.model, request.reverse, request.attention) == ("ink wash", False, True)
    assert (request.size, request.length) == (None, 9)
    sizes = {"Content_Length": "18", "X_Width": "2", "X_Height": "3"}
    raw = {"Content_Type": "Application/Octet-Stream"} | sizes
    assert read_translate("model=ink", headers(**raw), Limits()).size == (2, 3)


def test_the_limits_follow_from_the_pixels() -> None:
    limits = Limits(max_pixels=10)
    raw = {"Content_Type": "application/octet-stream", "X_Width": "2", "X_Height": "5"}
    assert read_translate("model=ink", headers(**raw, Content_Length="30"), limits).size == (2, 5)
    with pytest.raises(RefusedError) as refused:
        read_translate("model=ink", headers(**(raw | {"X_Width": "3"}), Content_Length="45"), limits)
    assert refused.value.status == 413
    with pytest.raises(RefusedError) as refused:
        read_translate("model=ink", headers(Content_Type="image/png", Content_Length="81"), limits)
    assert refused.value.status == 413


def test_the_sender_has_host_and_token_and_is_no_page() -> None:
    right = {"Host": "127.0.0.1:99", "Authorization": f"Bearer {TOKEN}"}
    check_sender(headers(**right), 99, TOKEN)
    for wrong, status in (
        ({"Host": "127.0.0.1:98"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "x"}, 403),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": "Bearer \udcff"}, 401),
    ):
        with pytest.raises(RefusedError) as refused:
            check_sender(headers(**(right | wrong)), 99, TOKEN)
        assert refused.value.status == status


def test_a_length_is_read_or_refused() -> None:
    assert body_length(headers()) is None
    assert body_length(headers(Content_Length="007")) == 7
    for wrong in ("-1", "1 ", "0x1", "１"):
        with pytest.raises(RefusedError, match="not a length"):
            body_length(headers(Content_Length=wrong))
    with pytest.raises(RefusedError, match="chunks"):
        body_length(headers(Transfer_Encoding="gzip, chunked"))


def test_only_known_addresses_have_a_route() -> None:
    assert route("POST", "/v1/translate?model=a&reverse=1") == ("/v1/translate", "model=a&reverse=1")
    with pytest.raises(RefusedError) as refused:
        route("PUT", "/v1/translate")
    assert refused.value.headers == {"Allow": "POST"}


def test_what_others_sent_is_shown_short_and_in_plain_letters() -> None:
    assert shown("a\r\nb\x00") == "a\\r\\nb\\x00"
    assert len(shown("x" * 10_000)) == 81
