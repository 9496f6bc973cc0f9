"""What the bytes of a picture file say that Pillow does not pass on: bit depth, HEIC brands, missing ends.

Knows nothing of pixels.
"""

from __future__ import annotations

import re
import struct

HEAD_BYTES = 4096
"""How much of a file `bits_per_channel` and `is_heic` look at."""

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_NETPBM_COMMENT = re.compile(rb"#[^\n\r]*")


def _brands(head: bytes) -> set[bytes]:
    """The major and compatible brands of an ISO base media file; empty for any other file."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def is_heic(head: bytes) -> bool:
    """Whether a file that begins with `head` is HEIC or HEIF, and not AVIF."""
    brands = _brands(head)
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS


def bits_per_channel(head: bytes) -> int:
    """Bits a channel of the PNG, JPEG 2000, AVIF, HEIC or Netpbm file that begins with `head`.

    8 where it cannot be told, as for TIFF, whose tags Pillow passes on.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return head[24] if len(head) > 24 else 8
    if head[4:8] == b"jP  " and (at := head.find(b"ihdr")) >= 0 and len(head) > at + 14:
        return (head[at + 14] & 0x7F) + 1
    if _brands(head) and (at := head.find(b"pixi")) >= 0 and len(head) > at + 9:
        return head[at + 9]
    if head[:2] in (b"P2", b"P3", b"P5", b"P6"):
        fields = _NETPBM_COMMENT.sub(b"", head).split(None, 4)
        if len(fields) > 3 and fields[3].isdigit():
            return max(int(fields[3]).bit_length(), 8)
    return 8


def is_cut_short(data: bytes) -> bool:
    """Whether a GIF or WebP lacks its end, which its decoder might pass over; False for other formats."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        (length,) = struct.unpack_from("<I", data, 4)
        return bool(length + 8 > len(data) + 1)  # the padding byte at the end is often left out
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return not _reaches_gif_trailer(data)
    return False


def _reaches_gif_trailer(data: bytes) -> bool:
    """Walk through the blocks of a GIF, without decoding, to its trailer."""
    try:
        at = 13 + _gif_palette_bytes(data[10])
        while data[at] != 0x3B:
            if data[at] == 0x21:
                at += 2
            elif data[at] == 0x2C:
                at += 11 + _gif_palette_bytes(data[at + 9])
            else:
                at += 1
                continue
            while data[at]:
                at += data[at] + 1
            at += 1
    except IndexError:
        return False
    return True


def _gif_palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
