"""EXIF in TIFF files: Pillow's compressed TIFFs hold no inner directories, so they are put in afterwards.

Knows nothing of pixels.
"""

from __future__ import annotations

import struct

from PIL import ExifTags, Image, TiffImagePlugin

from ugatit_batch.images.metadata import SUB_IFDS

_LONG = 4
_ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}


def main_tags(exif: Image.Exif | None, xmp: bytes | None) -> Image.Exif:
    """What goes into the outer directory of a TIFF that Pillow writes."""
    tags = Image.Exif()
    for tag in exif or ():
        if exif is not None and tag not in SUB_IFDS:
            tags[tag] = exif[tag]
    if xmp is not None:
        tags[ExifTags.Base.XMLPacket] = xmp
    return tags


def with_directories(data: bytes, exif: Image.Exif) -> bytes:
    """The TIFF `data`, with the inner directories of `exif` put in behind what it holds.

    Raises:
        ValueError: `data` is no TIFF of 32-bit offsets.
    """
    order = _ORDERS.get(data[:4])
    if order is None:
        raise ValueError("no TIFF of 32-bit offsets")
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(f"{order}H", data, at)
        entries[tag] = data[at : at + 12]
    result = bytearray(data)
    for ifd in SUB_IFDS:
        values = exif.get_ifd(ifd)
        if not values:
            continue
        result += bytes(len(result) % 2)
        entries[int(ifd)] = struct.pack(f"{order}HHII", ifd, _LONG, 1, len(result))
        directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=data[:2], group=ifd)
        for tag, value in values.items():
            directory[tag] = value
        result += directory.tobytes(len(result))
    result += bytes(len(result) % 2)
    struct.pack_into(f"{order}I", result, 4, len(result))
    result += struct.pack(f"{order}H", len(entries))
    result += b"".join(entry for _, entry in sorted(entries.items()))
    return bytes(result + bytes(4))
