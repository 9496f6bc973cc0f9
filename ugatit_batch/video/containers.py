"""Which files are films, and what the result of one is called.

Knows suffixes, and what tells a transport stream from a program; nothing of codecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Container = Literal["mp4", "mov", "mkv", "webm"]

_WRITTEN: dict[str, Container] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "mkv",
    ".webm": "webm",
}

_PACKETS = ((0, 188), (4, 192), (0, 204))
"""Where the first packet of a transport stream begins, and how many bytes each has."""
_HEAD = 256

MUXERS: dict[Container, str] = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "webm": "webm"}
"""FFmpeg's names. Its own guess from a suffix is not taken: for `.m4v` it would write an iPod's file."""

OUTPUT_FILM_SUFFIXES: frozenset[str] = frozenset(_WRITTEN)
"""Of films that can be written, in lower case."""

_READ = """
    .3g2 .3gp .asf .avi .divx .dv .f4v .flv .m2ts .m2v .mj2 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv .qt .rm
    .rmvb .ts .vob .wmv .y4m
"""
FILM_SUFFIXES: frozenset[str] = OUTPUT_FILM_SUFFIXES | frozenset(_READ.split())
"""Of films that are read, in lower case."""


def film_suffix(source: Path, format_: str) -> str:
    """Suffix, with its dot, of the result.

    Args:
        source: the film that is read.
        format_: `auto`, `mp4`, `mov`, `mkv` or `webm`.

    Returns:
        With `auto` the input's own, spelled as it is, where it can be written; else `.mkv`, which holds
        whatever sound the input has. With a container the input's own where it names that container, else the
        usual one.
    """
    own = _WRITTEN.get(source.suffix.lower())
    if own is not None and format_ in ("auto", own):
        return source.suffix
    return ".mkv" if format_ == "auto" else f".{format_}"


def is_program(path: Path) -> bool:
    """Whether a file with a name of MPEG transport streams is something else: a program in TypeScript.

    Transport streams are packets of 188 bytes that begin with 0x47; cameras put 4 bytes before each.
    """
    if path.suffix.lower() not in (".ts", ".mts"):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        # Reading it as a film will say so.
        return False
    return not any(head[at : at + 1] == head[at + step : at + step + 1] == b"G" for at, step in _PACKETS)


def container_of(target: Path) -> Container:
    """The container that a target's suffix names.

    Raises:
        KeyError: `target` has no suffix of OUTPUT_FILM_SUFFIXES.
    """
    return _WRITTEN[target.suffix.lower()]
