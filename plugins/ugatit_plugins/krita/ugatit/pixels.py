"""Rows of pixels as plain bytes: Krita's order of channels, and transparency. Knows nothing of Krita.

Without NumPy, which Krita's own Python does not have: slices and tables do the work.
"""

from __future__ import annotations


def rgb_of(bgra: bytes) -> bytes:
    """The colours of 8-bit pixels as Krita has them, in the order that the server takes."""
    rgb = bytearray(len(bgra) // 4 * 3)
    rgb[0::3] = bgra[2::4]
    rgb[1::3] = bgra[1::4]
    rgb[2::3] = bgra[0::4]
    return bytes(rgb)


def bgra_of(rgb: bytes, alpha: bytes) -> bytes:
    """Pixels as Krita has them, from colours and opacity."""
    bgra = bytearray(len(alpha) * 4)
    bgra[0::4] = rgb[2::3]
    bgra[1::4] = rgb[1::3]
    bgra[2::4] = rgb[0::3]
    bgra[3::4] = alpha
    return bytes(bgra)


def grey_of(levels: bytes) -> bytes:
    """One level a pixel, as colours."""
    rgb = bytearray(len(levels) * 3)
    for channel in range(3):
        rgb[channel::3] = levels
    return bytes(rgb)


def product(first: bytes, second: bytes) -> bytes:
    """Opacity through opacity: `first · second / 255`, rounded, pixel by pixel."""
    if _is_full(second):
        return first
    if _is_full(first):
        return second
    tables = [bytes((level * one + 127) // 255 for level in range(256)) for one in range(256)]
    return bytes(tables[one][level] for level, one in zip(first, second))


def opaque_box(alpha: bytes, width: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is not clear; all 0 where everything is.

    Args:
        alpha: opacity, rows from top to bottom.
        width: pixels in a row.
    """
    clear = bytes(width)
    rows = [alpha[start : start + width] for start in range(0, len(alpha), width)]
    seen = [number for number, row in enumerate(rows) if row != clear]
    if not seen:
        return 0, 0, 0, 0
    top, bottom = seen[0], seen[-1] + 1
    left = min(width - len(rows[number].lstrip(b"\0")) for number in seen)
    right = max(len(rows[number].rstrip(b"\0")) for number in seen)
    return left, top, right - left, bottom - top


def cut(data: bytes, stride: int, box: tuple[int, int, int, int]) -> bytes:
    """A part of rows.

    Args:
        data: rows from top to bottom.
        stride: bytes in a row.
        box: left, top, width and height; left and width in bytes.
    """
    left, top, width, height = box
    if (left, top, width, height * stride) == (0, 0, stride, len(data)):
        return data
    starts = range(top * stride + left, (top + height) * stride + left, stride)
    return b"".join(data[start : start + width] for start in starts)


def _is_full(opacity: bytes) -> bool:
    return opacity.count(b"\xff") == len(opacity)
