"""How long a file says it is, by the boxes at its top level: MP4 and MOV, Matroska and WebM, AVI.

Knows nothing of what is inside the boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_BOXES = 100_000
_MP4_FIRST = (b"ftyp", b"moov", b"wide", b"mdat", b"skip", b"free")
_MP4_CONTENT = (b"mdat", b"moov", b"moof")
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def lacks_index(path: Path) -> bool:
    """Whether this is an MP4 or MOV file without its index, the `moov` box.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        kinds = [kind for kind, _ in _boxes(file)]
    return bool(kinds) and kinds[0] in _MP4_FIRST and b"moov" not in kinds


def is_cut_short(path: Path) -> bool:
    """Whether the file says that it is longer than it is. False for containers that do not say.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _MP4_FIRST:
            return any(kind in _MP4_CONTENT and end > size for kind, end in _boxes(file))
        if head[:4] == b"RIFF":
            return any(end > size for end in _chunks(file))
        if int.from_bytes(head[:4], "big") == _EBML:
            return _matroska_end(file) > size
    return False


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, end in bytes) of each box of an MP4 file."""
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            # 0: it reaches to the end of the file, wherever that is; the rest is damage.
            yield kind, position + 8
            return
        position += length
        yield kind, position


def _chunks(file: BinaryIO) -> Iterator[int]:
    """The end in bytes of each RIFF chunk; AVI files over 1 GB hold several."""
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[:4] != b"RIFF":
            return
        position += 8 + int.from_bytes(header[4:], "little")
        yield position


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends, in bytes; 0 where it does not say, as in live recordings."""
    for _ in range(10):
        kind = _vint(file, keep_marker=True)
        length = _vint(file, keep_marker=False)
        if kind is None or length is None:
            return 0
        if kind == _SEGMENT:
            return file.tell() + length
        file.seek(length, 1)
    return 0


def _vint(file: BinaryIO, *, keep_marker: bool) -> int | None:
    """A number of Matroska's variable length; None at the end of the file, and for an unknown size."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    if keep_marker:
        return value
    value -= 1 << (7 * width)
    return None if value == (1 << (7 * width)) - 1 else value
