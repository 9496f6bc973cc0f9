"""What the numbers of a film's pixels mean: tags read, gaps filled in, names for FFmpeg.

Knows nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from av.video.format import VideoFormat

from ugatit_batch.video.info import Colour, default_colour

if TYPE_CHECKING:
    from collections.abc import Iterable

    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

_RGB, _UNSPECIFIED = 0, 2
LIMITED, FULL = 1, 2
_SRGB = 13

_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}
_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}
_READABLE_MATRICES = frozenset({_RGB, 1, 4, 5, 6, 7, 9})
_UNREADABLE_NAMES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "constants derived from chromaticity",
    13: "constants derived from chromaticity",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def is_rgb(pix_fmt: str) -> bool:
    """Whether pictures in this format hold colours themselves rather than luma and chroma."""
    found = VideoFormat(pix_fmt)
    return found.is_rgb or found.is_bayer or found.has_palette or pix_fmt.startswith("xyz")


def is_full_range_format(pix_fmt: str) -> bool:
    """Whether this format is of full range by its name, or grey, which FFmpeg takes as full."""
    return pix_fmt.startswith(("yuvj", "gray", "ya8", "ya16"))


def depth_of(pix_fmt: str) -> int:
    """Bits of one component of this format; 8 for a palette's."""
    found = VideoFormat(pix_fmt)
    if found.has_palette:
        return 8
    return max((component.bits for component in found.components), default=8)


def has_alpha(pix_fmt: str) -> bool:
    """Whether pictures in this format are partly transparent."""
    found = VideoFormat(pix_fmt)
    return found.has_palette or any(component.is_alpha for component in found.components)


def colour_of(frame: VideoFrame, context: VideoCodecContext) -> Colour:
    """The colours of a decoded picture.

    Tags of the picture come before those of its stream. Each one that both lack is filled in alone, from
    the others where they suggest it and from the size where they do not.

    Args:
        frame: as the decoder gives it.
        context: of the stream it is from.
    """
    pix_fmt = frame.format.name
    matrix = _first(frame.colorspace, context.colorspace)
    primaries = _first(frame.color_primaries, context.color_primaries)
    transfer = _first(frame.color_trc, context.color_trc)
    if is_rgb(pix_fmt):
        return Colour(_RGB, FULL, primaries or 1, transfer or _SRGB)
    if matrix == _RGB:
        matrix = None
    if matrix is None and (primaries == 9 or transfer in _TRANSFERS):
        matrix = 9
    likely = default_colour(frame.height) if matrix is None else _companions(matrix)
    levels = _first(frame.color_range, context.color_range, unknown=(0,))
    if is_full_range_format(pix_fmt):
        levels = levels or FULL
    if pix_fmt.startswith("yuvj"):
        levels = FULL
    return Colour(
        matrix or likely.matrix, levels or LIMITED, primaries or likely.primaries, transfer or likely.transfer
    )


def unreadable_matrix(colour: Colour) -> str | None:
    """What these colours are called where FFmpeg's scaler cannot read them, else None."""
    if colour.matrix in _READABLE_MATRICES:
        return None
    return _UNREADABLE_NAMES.get(colour.matrix, f"matrix {colour.matrix}")


def primaries_name(colour: Colour) -> str:
    """FFmpeg's name of the primaries; BT.2020 where there is no name, as it is asked for HDR alone."""
    return _PRIMARIES.get(colour.primaries, "bt2020")


def transfer_name(colour: Colour) -> str:
    """FFmpeg's name of the transfer of HDR colours.

    Raises:
        KeyError: these are not HDR.
    """
    return _TRANSFERS[colour.transfer]


def tag(frame: VideoFrame, colour: Colour) -> None:
    """Say on a picture what its numbers mean; RGB formats get matrix 0 and full range."""
    rgb = is_rgb(frame.format.name)
    frame.colorspace = _RGB if rgb else colour.matrix
    frame.color_range = FULL if rgb else colour.range
    frame.color_primaries = colour.primaries
    frame.color_trc = colour.transfer


def _companions(matrix: int) -> Colour:
    """The colours that come with a matrix as a rule."""
    return {
        1: Colour(1, LIMITED, 1, 1),
        4: Colour(4, LIMITED, 4, 4),
        5: Colour(5, LIMITED, 5, 6),
        6: Colour(6, LIMITED, 6, 6),
        7: Colour(7, LIMITED, 7, 7),
        9: Colour(9, LIMITED, 9, 14),
    }.get(matrix, Colour(matrix, LIMITED, 1, 1))


def _first(*tags: int, unknown: Iterable[int] = (_UNSPECIFIED, 3)) -> int | None:
    """The first tag that says something; reserved values say nothing."""
    return next((int(value) for value in tags if value not in unknown), None)
