"""The shape of pixels in a finished Matroska or WebM file.

FFmpeg's muxer writes it from a field that PyAV does not set. It is the size at which pictures are shown, two
numbers in the description of the track. Room for them is what the muxer leaves unused after its table of
contents. Knows that much of EBML, and nothing of codecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

_SEGMENT, _TRACKS, _ENTRY, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_WIDTH, _HEIGHT, _SHOWN_WIDTH, _SHOWN_HEIGHT, _UNIT = 0xB0, 0xBA, 0x54B0, 0x54BA, 0x54B2
_CONTENTS, _SEEK, _SEEK_KIND, _SEEK_POSITION = 0x114D9B74, 0x4DBB, 0x53AB, 0x53AC
_CHECKSUM, _VOID = 0xBF, 0xEC
_SEARCHED = 1 << 22  # bytes: contents and tracks come before everything large


def set_aspect(path: Path, aspect: Fraction) -> bool:
    """Write down how wide the pixels of a file's pictures are.

    Args:
        path: a whole file of FFmpeg's muxer, which is changed.
        aspect: width of a pixel over its height.

    Returns:
        Whether there was room.
    """
    with path.open("rb+") as file:
        head = file.read(_SEARCHED)
        _, _, position = _read(head, 0)
        kind, start, _ = _read(head, position)
        parts: dict[int, bytes] = {}
        position = start
        while kind != _TRACKS:
            if position + 16 > len(head):
                return False
            kind, content, end = _read(head, position)
            if kind != _VOID:
                parts[kind] = head[content:end]
            position = end
        if _CONTENTS not in parts:
            return False
        parts[_TRACKS] = _with_aspect(parts[_TRACKS], aspect)
        changed = _laid_out(parts)
        spare = position - start - len(changed)
        if spare < 2:
            return False
        file.seek(start)
        file.write(changed + _void(spare))
    return True


def _laid_out(parts: dict[int, bytes]) -> bytes:
    """Elements one after the other, and in their table of contents where each of them is."""
    entries = [dict(_children(item)) for kind, item in _children(parts[_CONTENTS]) if kind == _SEEK]
    # Places are written over others of the same length, so the table's own length is known before.
    written = {kind: _element(kind, content) for kind, content in parts.items()}
    written[_CONTENTS] = _table(entries)
    position = 0
    for kind, data in written.items():
        for entry in entries:
            if int.from_bytes(entry[_SEEK_KIND], "big") == kind:
                entry[_SEEK_POSITION] = position.to_bytes(len(entry[_SEEK_POSITION]), "big")
        position += len(data)
    written[_CONTENTS] = _table(entries)
    return b"".join(written.values())


def _table(entries: list[dict[int, bytes]]) -> bytes:
    content = (_element(_SEEK, b"".join(_element(*item) for item in entry.items())) for entry in entries)
    return _element(_CONTENTS, b"".join(content))


def _with_aspect(tracks: bytes, aspect: Fraction) -> bytes:
    """The content of the tracks, changed, without the checksum that no longer fits."""
    changed = b""
    for kind, content in _children(tracks):
        if kind == _ENTRY:
            parts = (
                _element(part, _shown(inner, aspect) if part == _VIDEO else inner)
                for part, inner in _children(content)
            )
            changed += _element(_ENTRY, b"".join(parts))
        elif kind != _CHECKSUM:
            changed += _element(kind, content)
    return changed


def _shown(video: bytes, aspect: Fraction) -> bytes:
    """The description of pictures with the size at which they are shown."""
    values = dict(_children(video))
    # In units that keep the aspect exact; the sizes are proportions, as players scale them anyway.
    width = int.from_bytes(values[_WIDTH], "big") * aspect.numerator
    height = int.from_bytes(values[_HEIGHT], "big") * aspect.denominator
    if width % aspect.denominator == 0:
        width, height = width // aspect.denominator, height // aspect.denominator
    kept = b"".join(
        _element(kind, content)
        for kind, content in _children(video)
        if kind not in (_SHOWN_WIDTH, _SHOWN_HEIGHT, _UNIT)
    )
    return kept + _number(_SHOWN_WIDTH, width) + _number(_SHOWN_HEIGHT, height)


def _children(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    position = 0
    while position < len(data):
        kind, content, end = _read(data, position)
        found.append((kind, data[content:end]))
        position = end
    return found


def _read(data: bytes, position: int) -> tuple[int, int, int]:
    """What element is at a position: its kind, where its content begins and where it ends."""
    length = 9 - data[position].bit_length()
    kind = int.from_bytes(data[position : position + length], "big")
    position += length
    length = 9 - data[position].bit_length()
    size = int.from_bytes(data[position : position + length], "big") & ~(1 << 7 * length)
    position += length
    return kind, position, position + size


def _element(kind: int, content: bytes, size: int = 0) -> bytes:
    """An element, its length written in `size` bytes or in as few as there can be."""
    name = kind.to_bytes((kind.bit_length() + 7) // 8, "big")
    size = size or _length_size(len(content))
    return name + (len(content) | 1 << 7 * size).to_bytes(size, "big") + content


def _length_size(length: int) -> int:
    """Bytes that a length takes. All of its bits set would mean that it is not known."""
    return -(-(length + 1).bit_length() // 7)


def _number(kind: int, value: int) -> bytes:
    return _element(kind, value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _void(size: int) -> bytes:
    """An element that means nothing, of so many bytes: 2 or more."""
    return _element(_VOID, bytes(size - 2), 1) if size < 100 else _element(_VOID, bytes(size - 9), 8)
