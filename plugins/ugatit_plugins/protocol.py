"""Protocol 1 between editors and the server, as PROTOCOL.md tells it: what may be asked, and what is refused.

Knows nothing of sockets, models or networks.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from ugatit_batch.errors import UgatitBatchError

if TYPE_CHECKING:
    from email.message import Message

PROTOCOL = 1
HOST = "127.0.0.1"

Code = Literal[
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "model_not_found",
    "method_not_allowed",
    "timeout",
    "length_required",
    "too_large",
    "unsupported_media",
    "not_possible",
    "busy",
    "internal",
    "stopping",
]

STATUS: dict[Code, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "length_required": 411,
    "too_large": 413,
    "unsupported_media": 415,
    "not_possible": 422,
    "busy": 429,
    "internal": 500,
    "stopping": 503,
}
"""The HTTP status of each code."""

RAW, PNG, JSON = "application/octet-stream", "image/png", "application/json"
RAW_BYTES = 3
"""A pixel, in a request."""

_METHODS = {"/v1/info": "GET", "/v1/models": "GET", "/v1/translate": "POST", "/v1/shutdown": "POST"}
_FLAGS = {"0": False, "1": True}
_LENGTH = re.compile(r"[0-9]{1,18}")
_SIDE = re.compile(r"[0-9]{1,9}")
_HTTP_PORT = 80
_PNG_BYTES = 8  # a pixel of the deepest kind, 16-bit RGBA, where nothing can be compressed


class RefusedError(UgatitBatchError):
    """A request is not answered with what it asked for.

    Args:
        code: for programs.
        message, hint: for people, as everywhere.
        headers: that go with the answer.
    """

    def __init__(
        self, code: Code, message: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """Of HTTP."""
        return STATUS[self.code]

    def to_json(self) -> dict[str, object]:
        """The body of the answer."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


@dataclass(frozen=True)
class Limits:
    """How much one server takes."""

    max_pixels: int = 8192 * 8192
    """Of one picture."""
    queue: int = 8
    """Pictures that are uploaded, wait or are worked on at once."""

    @property
    def max_bytes(self) -> int:
        """Of one body."""
        return self.max_pixels * _PNG_BYTES

    def to_json(self) -> dict[str, int]:
        """As `/v1/info` tells them."""
        return {"max_bytes": self.max_bytes, "max_pixels": self.max_pixels, "queue": self.queue}


@dataclass(frozen=True)
class TranslateRequest:
    """What `/v1/translate` was asked for, without the picture."""

    model: str
    """A name; nobody has looked yet whether there is such a model."""
    reverse: bool
    attention: bool
    size: tuple[int, int] | None
    """(width, height) of raw pixels; None for a PNG, which says so itself."""
    length: int
    """Of the body in bytes."""


def check_sender(headers: Message, port: int, token: str) -> None:
    """Do nothing where a request comes from a program that may ask.

    Raises:
        RefusedError: it comes from a web page, or without the token.
    """
    # Who asks at the port of HTTP itself leaves it out.
    hosts = [[f"{HOST}:{port}"], [HOST]] if port == _HTTP_PORT else [[f"{HOST}:{port}"]]
    if headers.get_all("Origin") or headers.get_all("Host") not in hosts:
        raise RefusedError(
            "forbidden",
            "this server is not for web pages",
            f"send Host: {HOST} with the port of server.json, and no Origin",
        )
    given = headers.get_all("Authorization") or [""]
    expected = f"Bearer {token}".encode()
    if len(given) != 1 or not hmac.compare_digest(str(given[0]).encode("utf-8", "replace"), expected):
        raise RefusedError(
            "unauthorized",
            "the token is missing or is not this server's",
            "read server.json again: another server may have been started since",
            {"WWW-Authenticate": "Bearer"},
        )


def route(method: str, target: str) -> tuple[str, str]:
    """The path and the query of a request that there is an answer to.

    Raises:
        RefusedError: there is no such path, or it takes another method.
    """
    try:
        split = urlsplit(target)
    except ValueError as error:
        raise RefusedError("bad_request", f"the address cannot be read: {error}") from error
    method_there = _METHODS.get(split.path)
    if method_there is None or split.scheme or split.netloc:
        raise RefusedError("not_found", f"there is no {shown(target)}", f"there are {', '.join(_METHODS)}")
    if method != method_there:
        raise RefusedError(
            "method_not_allowed",
            f"{split.path} takes no {shown(method)}",
            f"use {method_there}",
            {"Allow": method_there},
        )
    return split.path, split.query


def body_length(headers: Message) -> int | None:
    """Bytes of the body that follows; None where nothing is said.

    Raises:
        RefusedError: the body comes in chunks, or the length is no number.
    """
    if headers.get_all("Transfer-Encoding"):
        raise RefusedError("length_required", "bodies in chunks are not taken", "send Content-Length")
    given = headers.get_all("Content-Length")
    if given is None:
        return None
    if len(given) != 1 or not _LENGTH.fullmatch(given[0]):
        raise RefusedError(
            "bad_request", f"Content-Length {shown(', '.join(given))}: is not a length", "give bytes"
        )
    return int(given[0])


def read_translate(query: str, headers: Message, limits: Limits) -> TranslateRequest:
    """What `/v1/translate` is asked for.

    Raises:
        RefusedError: something is missing, contradicts itself or is too large.
    """
    values = _values(query)
    length = body_length(headers)
    if length is None:
        raise RefusedError("length_required", "the length of the picture is missing", "send Content-Length")
    if length > limits.max_bytes:
        raise RefusedError(
            "too_large",
            f"{length} bytes are more than the {limits.max_bytes} that one picture may have",
            "translate a smaller part of it",
        )
    media = headers.get_content_type() if headers.get("Content-Type") else ""
    if media not in (RAW, PNG):
        raise RefusedError("unsupported_media", f"{media or 'a body without a type'} is not taken", _KINDS)
    size = None
    if media == RAW:
        size = (_side(headers, "X-Width"), _side(headers, "X-Height"))
        check_pixels(*size, limits)
        if size[0] * size[1] * RAW_BYTES != length:
            raise RefusedError(
                "bad_request",
                f"{length} bytes are not {size[0]}×{size[1]} pixels of {RAW_BYTES} bytes",
                "send rows from top to bottom without padding",
            )
    elif not length:
        raise RefusedError("bad_request", "the picture is empty", _KINDS)
    model, reverse, attention = values["model"], values["reverse"], values["attention"]
    return TranslateRequest(model, _FLAGS[reverse], _FLAGS[attention], size, length)


_KINDS = f"send {PNG}, or {RAW} with X-Width and X-Height"


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Do nothing where a picture of that size may be sent.

    Raises:
        RefusedError: it has no pixels, or too many.
    """
    if width < 1 or height < 1:
        raise RefusedError("bad_request", f"{width}×{height}: a picture has a pixel at least", _KINDS)
    if width * height > limits.max_pixels:
        raise RefusedError(
            "too_large",
            f"{width}×{height}: has more than {limits.max_pixels // 1_000_000} million pixels",
            "translate a smaller part of it",
        )


def _values(query: str) -> dict[str, str]:
    values = {"reverse": "0", "attention": "0"}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=8)
    except ValueError as error:
        raise RefusedError("bad_request", f"?{shown(query)}: cannot be read", "give ?model=NAME") from error
    names = [name for name, _ in pairs]
    for name, value in pairs:
        if name not in ("model", "reverse", "attention") or names.count(name) > 1:
            raise RefusedError(
                "bad_request",
                f"{shown(name)}: is not known here, or is there twice",
                "give model, reverse and attention, each once at most",
            )
        if name != "model" and value not in _FLAGS:
            raise RefusedError("bad_request", f"{name}={shown(value)}: is neither 0 nor 1", "give 0 or 1")
        values[name] = value
    if not values.get("model"):
        raise RefusedError("bad_request", "no model is named", "give ?model=NAME")
    return values


def _side(headers: Message, name: str) -> int:
    given = cast("list[str]", headers.get_all(name) or [])
    if len(given) != 1 or not _SIDE.fullmatch(given[0]):
        raise RefusedError("bad_request", f"{name} is missing, or no number of pixels", _KINDS)
    return int(given[0])


def shown(text: str) -> str:
    """What somebody has sent, in a message: in printable ASCII, and not long."""
    plain = text.encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= 80 else f"{plain[:80]}…"
