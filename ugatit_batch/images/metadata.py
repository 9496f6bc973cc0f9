"""What a picture says of itself beside its pixels: EXIF, XMP, resolution and text.

EXIF is changed in place, byte by byte, because writing it anew breaks the offsets inside maker notes.
Knows nothing of pixels or of files.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import ExifTags, Image

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = b"Exif\x00\x00"
_ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG = 3, 4
_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_STRIP_OFFSETS, _STRIP_LENGTHS = 0x0111, 0x0117
_DESCRIPTIVE = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Rating,
    ExifTags.Base.Copyright,
)
SUB_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
"""The directories inside of EXIF that describe the picture."""

_XMP_ORIENTATION = re.compile(
    rb"(tiff:Orientation\s*=\s*[\"']\s*|<tiff:Orientation>\s*)[1-8](?=\s*[\"']|\s*</tiff:Orientation>)"
)
_XMP_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails>.*?</\1:Thumbnails>", re.DOTALL)


@dataclass(frozen=True)
class Metadata:
    """What can be carried from a source to its result, orientation already reset."""

    exif: bytes | None = None
    """An EXIF block that begins with its TIFF header."""
    xmp: bytes | None = None
    """An XMP packet."""
    dpi: tuple[float, float] | None = None
    """Pixels an inch, (horizontal, vertical)."""
    comment: bytes | None = None
    """The comment of a JPEG or GIF."""
    text: dict[str, str] = field(default_factory=dict)
    """The text chunks of a PNG."""


@dataclass(frozen=True)
class _Entry:
    """One entry of an image file directory."""

    at: int
    """Where its 12 bytes begin."""
    tag: int
    type: int
    count: int
    value_at: int
    """Where its value begins."""


class ExifBlock:
    """An EXIF block whose structure was walked through and found whole.

    Args:
        data: with or without the leading `Exif` marker.

    Raises:
        ValueError: the block is damaged.
    """

    def __init__(self, data: bytes) -> None:
        while data.startswith(_PREFIX):
            data = data[len(_PREFIX) :]
        order = _ORDERS.get(data[:4])
        if order is None:
            raise ValueError("no TIFF header")
        self._data = bytearray(data)
        self._order = order
        self._main, self._next_at = self._directory(self._number(4, _LONG))
        self._details: list[_Entry] = []
        for entry in self._main:
            if entry.tag in SUB_IFDS:
                entries, _ = self._directory(self._number(entry.value_at, _LONG))
                if entry.tag == ExifTags.IFD.Exif:
                    self._details = entries

    @property
    def orientation(self) -> int:
        """1 to 8; 1 where none is given."""
        for entry in self._main:
            if entry.tag == ExifTags.Base.Orientation and entry.type in (_SHORT, _LONG):
                value = self._number(entry.value_at, entry.type)
                return value if 1 <= value <= 8 else 1
        return 1

    def upright(self, width: int, height: int) -> bytes:
        """The block of a result of width × height pixels: orientation 1, the new size, no thumbnail."""
        for entry in self._main:
            if entry.tag == ExifTags.Base.Orientation:
                self._set(entry, 1)
        for entry in self._details:
            if entry.tag == ExifTags.Base.ExifImageWidth:
                self._set(entry, width)
            elif entry.tag == ExifTags.Base.ExifImageHeight:
                self._set(entry, height)
        self._drop_thumbnail()
        return bytes(self._data)

    def _drop_thumbnail(self) -> None:
        """Blank the second directory and the picture in it, which still shows the source."""
        start = self._number(self._next_at, _LONG)
        struct.pack_into(f"{self._order}I", self._data, self._next_at, 0)
        try:
            entries, _ = self._directory(start) if start else ([], 0)
        except ValueError:
            return
        values = {
            entry.tag: self._number(entry.value_at, entry.type) for entry in entries if entry.count == 1
        }
        for offset, length in ((_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH), (_STRIP_OFFSETS, _STRIP_LENGTHS)):
            begin = values.get(offset, 0)
            end = min(begin + values.get(length, 0), len(self._data))
            if 8 <= begin < end:
                if end == len(self._data):
                    del self._data[begin:]
                else:
                    self._data[begin:end] = bytes(end - begin)

    def _directory(self, start: int) -> tuple[list[_Entry], int]:
        """The entries of the directory at `start`, and where the offset of the next directory stands."""
        count = self._number(start, _SHORT)
        entries = list(self._entries(start + 2, count))
        next_at = start + 2 + 12 * count
        if next_at + 4 > len(self._data):
            # Some cameras leave out the closing offset; there is then no next directory.
            self._data.extend(bytes(next_at + 4 - len(self._data)))
        return entries, next_at

    def _entries(self, start: int, count: int) -> Iterator[_Entry]:
        for at in range(start, start + 12 * count, 12):
            tag, kind = self._number(at, _SHORT), self._number(at + 2, _SHORT)
            number = self._number(at + 4, _LONG)
            length = _TYPE_BYTES.get(kind, 1) * number
            value_at = at + 8 if length <= 4 else self._number(at + 8, _LONG)
            if value_at + min(length, 4) > len(self._data) or value_at + length > len(self._data):
                raise ValueError(f"tag {tag} lies outside the block")
            yield _Entry(at, tag, kind, number, value_at)

    def _number(self, at: int, kind: int) -> int:
        """The unsigned number of 2 (SHORT) or 4 (any other kind) bytes at `at`."""
        code, length = ("H", 2) if kind == _SHORT else ("I", 4)
        if at < 0 or at + length > len(self._data):
            raise ValueError("the block ends early")
        (value,) = struct.unpack_from(f"{self._order}{code}", self._data, at)
        return int(value)

    def _set(self, entry: _Entry, value: int) -> None:
        """Give a SHORT or LONG entry another value, where it can hold it."""
        if entry.count == 1 and entry.type == _SHORT and value < 1 << 16:
            struct.pack_into(f"{self._order}H", self._data, entry.value_at, value)
        elif entry.count == 1 and entry.type == _LONG:
            struct.pack_into(f"{self._order}I", self._data, entry.value_at, value)


def descriptive(exif: Image.Exif) -> Image.Exif:
    """A copy with what describes the picture, and nothing of how a TIFF file stores it."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in exif:
            kept[tag] = exif[tag]
    for ifd in SUB_IFDS:
        values = exif.get_ifd(ifd)
        # The place of the innermost directory, in the file that is left behind.
        values = {tag: value for tag, value in values.items() if tag != ExifTags.IFD.Interop}
        if values:
            kept.get_ifd(ifd).update(values)
    return kept


def upright_xmp(xmp: bytes) -> bytes:
    """The packet with orientation 1 and without thumbnails, which still show the source."""
    return _XMP_THUMBNAILS.sub(b"", _XMP_ORIENTATION.sub(rb"\g<1>1", xmp))


def sane_dpi(value: object) -> tuple[float, float] | None:
    """A resolution that every format can hold, or None for what is no resolution."""
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    try:
        horizontal, vertical = float(value[0]), float(value[1])
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if not (math.isfinite(horizontal) and math.isfinite(vertical)):
        return None
    if not (1 <= horizontal <= 65535 and 1 <= vertical <= 65535):
        return None
    return horizontal, vertical
