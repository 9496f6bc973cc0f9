"""Pictures of a film brought to a network's size and colours, and back, by FFmpeg's filters.

Knows nothing of files and timestamps beyond handing them on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from ugatit_batch.errors import FilmError
from ugatit_batch.video.colour import (
    FULL,
    LIMITED,
    depth_of,
    is_rgb,
    primaries_name,
    tag,
    transfer_name,
)
from ugatit_batch.video.info import Colour

if TYPE_CHECKING:
    from fractions import Fraction

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.geometry import Placement
    from ugatit_batch.video.info import FilmInfo, Turn

_RGB = Colour(0, FULL, 1, 13)
_TURNS: dict[Turn, tuple[tuple[str, str], ...]] = {
    "none": (),
    "right": (("transpose", "clock"),),
    "half": (("hflip", ""), ("vflip", "")),
    "left": (("transpose", "cclock"),),
    "flip": (("hflip", ""),),
    "flip_right": (("transpose", "clock_flip"),),
    "flip_half": (("vflip", ""),),
    "flip_left": (("transpose", "cclock_flip"),),
}
_QUARTER_TURNS = ("right", "left", "flip_right", "flip_left")

# The chroma of both ways is taken to lie left, so that it comes back where it was.
_CHROMA = "in_chroma_loc=left:out_chroma_loc=left"


class _Chain:
    """Filters in a row, one picture in, one picture out."""

    def __init__(self, source: str, filters: list[tuple[str, str]], threads: int) -> None:
        self._graph = Graph()
        self._graph.threads = threads
        nodes = [self._graph.add("buffer", source)]
        nodes += [self._graph.add(name, args or None) for name, args in filters]
        nodes.append(self._graph.add("buffersink"))
        self._graph.link_nodes(*nodes)
        self._graph.configure()
        self._first, self._last = nodes[0], nodes[-1]

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        self._first.push(frame)
        pulled = self._last.pull()
        if not isinstance(pulled, VideoFrame):
            raise TypeError("these filters make pictures")
        return pulled


def _source(width: int, height: int, pix_fmt: str, colour: Colour) -> str:
    """Arguments of the `buffer` that takes such pictures. Their timestamps pass through, in any unit."""
    return (
        f"video_size={width}x{height}:pix_fmt={pix_fmt}:time_base=1/1000"
        f":range={colour.range}:colorspace={colour.matrix}"
    )


class ToNetwork:
    """Decoded pictures as a network takes them.

    Pictures whose size or format differs from the film's first (films change in the middle) are brought
    to the same place.

    Args:
        info: the film.
        placement: where its upright picture lies in the network's input.
        threads: of the filters; 0: as many as there are cores. Never changes the result.
    """

    def __init__(self, info: FilmInfo, placement: Placement, threads: int = 0) -> None:
        self._info = info
        self._placement = placement
        self._threads = threads
        self._shape: tuple[int, int, str] | None = None
        self._convert: _Chain | None = None
        width, height = placement.scaled
        self._cuts = _Chain(_source(width, height, "rgb24", _RGB), [("scdet", "threshold=10")], threads)
        self._first = True
        (outer_width, outer_height), (x, y) = placement.network, placement.offset
        self._columns = _reflected(width, x, outer_width - width - x)
        self._rows = _reflected(height, y, outer_height - height - y)

    def __call__(self, frame: VideoFrame) -> tuple[Pixels, bool]:
        """Convert the next picture.

        Args:
            frame: as the decoder gives it; its colour tags are overwritten with the film's.

        Returns:
            uint8 H×W×3 RGB of the network's size, upright, with reflection around, in memory of its own;
            and whether a scene starts here (True for the first).

        Raises:
            FilmError: FFmpeg's filters do not take this picture.
        """
        try:
            scaled = self._scale(frame)
            scaled = self._cuts(scaled)
        except (FFmpegError, MemoryError) as error:
            raise FilmError(
                f"{self._info.path}: a picture of {frame.width}×{frame.height} in {frame.format.name} "
                f"could not be converted ({error})",
                "convert the film with ffmpeg and try again",
            ) from error
        cut = self._first or "lavfi.scd.time" in scaled.metadata
        self._first = False
        return self._reflect(_view(scaled)), cut

    def _scale(self, frame: VideoFrame) -> VideoFrame:
        """The upright part that is translated, in RGB, at `placement.scaled` size."""
        shape = (frame.width, frame.height, frame.format.name)
        rgb = is_rgb(frame.format.name)
        colour = self._info.colour if rgb else _luma_colour(self._info, frame.format.name)
        if self._convert is None or shape != self._shape:
            filters = _to_rgb(self._info, self._placement, shape)
            source = _source(*shape, _RGB if rgb else colour)
            self._convert = _Chain(source, filters, self._threads)
            self._shape = shape
        tag(frame, colour)
        return self._convert(frame)

    def _reflect(self, pixels: Pixels) -> Pixels:
        """A picture of `placement.scaled` size with its reflection around, copied."""
        (outer_width, outer_height), (x, y) = self._placement.network, self._placement.offset
        height, width = pixels.shape[:2]
        out = np.empty((outer_height, outer_width, 3), np.uint8)
        band = out[y : y + height]
        band[:, x : x + width] = pixels
        band[:, :x] = pixels[:, self._columns[:x]]
        band[:, x + width :] = pixels[:, self._columns[x + width :]]
        out[:y] = band[self._rows[:y]]
        out[y + height :] = band[self._rows[y + height :]]
        return out


class FromNetwork:
    """A network's pictures as an encoder takes them.

    Args:
        placement: where the picture lies in the network's output.
        colour: of the film that is written.
        pix_fmt: of the film that is written.
        size: (width, height) of the film that is written: `placement.result`, or larger by one.
        time_base: seconds of one unit of its timestamps.
        threads: of the filters; 0: as many as there are cores. Never changes the result.
    """

    def __init__(
        self,
        placement: Placement,
        colour: Colour,
        pix_fmt: str,
        size: tuple[int, int],
        time_base: Fraction,
        threads: int = 0,
    ) -> None:
        self._placement = placement
        self._colour = colour
        self._time_base = time_base
        (width, height), (result_width, result_height) = size, placement.result
        right, bottom = width - result_width, height - result_height
        if right not in (0, 1) or bottom not in (0, 1):
            raise ValueError(f"{size} is neither {placement.result} nor larger by one")
        same_size = placement.result == placement.scaled
        # Without accurate_rnd luma of 8 bits comes out the same, at half the cost; of more it does not.
        kind = "bicubic" if same_size else "lanczos"
        flags = f"{kind}+full_chroma_inp+full_chroma_int" + ("+accurate_rnd" if depth_of(pix_fmt) > 8 else "")
        filters: list[tuple[str, str]] = []
        last_size = ""
        if right or bottom:
            if not same_size:
                filters += [("scale", f"{result_width}:{result_height}:flags={flags}"), ("format", "rgb24")]
            filters += [
                ("pad", f"{width}:{height}:0:0"),
                ("fillborders", f"right={right}:bottom={bottom}:mode=smear"),
            ]
        elif not same_size:
            last_size = f"{width}:{height}:"
        rgb = is_rgb(pix_fmt)
        levels = "" if rgb else f":out_color_matrix={colour.matrix}:out_range={colour.range}"
        filters += [
            ("scale", f"{last_size}flags={flags}:in_range={FULL}{levels}:{_CHROMA}"),
            ("format", pix_fmt),
        ]
        source = _source(*placement.scaled, "rgb24", _RGB)
        self._chain = _Chain(source, filters, threads)

    def __call__(self, pixels: Pixels, pts: int, duration: int) -> VideoFrame:
        """Convert the next picture.

        Args:
            pixels: uint8 H×W×3 RGB of the network's size.
            pts: when it is shown, in units of `time_base`.
            duration: for how long; 0 where nobody knows.
        """
        (x, y), (width, height) = self._placement.offset, self._placement.scaled
        # A frame of FFmpeg's own, because its filters read past the end of what numpy allocates.
        frame = VideoFrame(width, height, "rgb24")
        _view(frame)[:] = pixels[y : y + height, x : x + width]
        tag(frame, _RGB)
        frame.pts = pts
        made = self._chain(frame)
        tag(made, self._colour)
        made.pts = pts
        made.time_base = self._time_base
        made.duration = duration
        made.pict_type = 0
        return made


def _to_rgb(info: FilmInfo, placement: Placement, shape: tuple[int, int, str]) -> list[tuple[str, str]]:
    """Filters from stored pictures of this (width, height, format) to `placement.scaled` in upright RGB."""
    width, height, pix_fmt = shape
    left, top, right, bottom = _stored_box(info.turn, placement, (width, height))
    scaled_width, scaled_height = placement.scaled
    if info.turn in _QUARTER_TURNS:
        scaled_width, scaled_height = scaled_height, scaled_width
    same_size = (right - left, bottom - top) == (scaled_width, scaled_height)
    filters: list[tuple[str, str]] = []
    if pix_fmt.startswith(("gray", "ya")) and info.colour.range == LIMITED:
        # swscale takes grey for full range, whatever it is told.
        depth = depth_of(pix_fmt)
        pix_fmt = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
        filters += [("scale", f"in_range={FULL}:out_range={FULL}"), ("format", pix_fmt)]
        filters.append(("setparams", "range=limited"))
    colours = _colours_to_rgb(info, pix_fmt)
    # Planar RGB first: swscale makes it twice as fast, and rgb24 of it is the same to the last bit. Tone
    # mapping is slow, so it comes last, when most pictures are small.
    rgb = "gbrp12le" if info.colour.is_hdr else "gbrp"
    last = _tone_mapping(info.colour) if info.colour.is_hdr else "flags=bicubic"
    kind = "bicubic" if same_size else "lanczos"
    flags = f"flags={kind}+accurate_rnd+full_chroma_int+full_chroma_inp"
    if (left, top, right, bottom) != (0, 0, width, height):
        found = VideoFormat(pix_fmt, 16, 16)
        steps = 16 // found.chroma_width(), 16 // found.chroma_height()
        if left % steps[0] or top % steps[1]:
            # The box splits pixels of chroma, so it can be cut out of RGB only.
            filters += [("scale", f"{flags}:{colours}"), ("format", rgb)]
            colours = f"in_range={FULL}:out_range={FULL}"
        filters.append(("crop", f"{right - left}:{bottom - top}:{left}:{top}:exact=1"))
    filters += [("scale", f"{scaled_width}:{scaled_height}:{flags}:{colours}"), ("format", rgb)]
    filters += [("scale", last), ("format", "rgb24")]
    return filters + list(_TURNS[info.turn])


def _colours_to_rgb(info: FilmInfo, pix_fmt: str) -> str:
    """Arguments of `scale` that make full-range RGB."""
    parts = [f"out_range={FULL}", _CHROMA]
    if is_rgb(pix_fmt):
        parts.append(f"in_range={FULL}")
    else:
        colour = _luma_colour(info, pix_fmt)
        parts.append(f"in_range={colour.range}:in_color_matrix={colour.matrix}")
    return ":".join(parts)


def _tone_mapping(colour: Colour) -> str:
    """Arguments of `scale` that bring RGB of an HDR film to BT.709."""
    return (
        f"in_range={FULL}:out_range={FULL}"
        f":in_primaries={primaries_name(colour)}:in_transfer={transfer_name(colour)}"
        ":out_primaries=bt709:out_transfer=bt709:intent=perceptual"
    )


def _luma_colour(info: FilmInfo, pix_fmt: str) -> Colour:
    """The film's colours as they hold for a format of luma and chroma that its first picture may not have."""
    colour = info.result_colour if info.colour.matrix == 0 else info.colour
    levels = FULL if pix_fmt.startswith("yuvj") else colour.range
    return Colour(colour.matrix, levels, colour.primaries, colour.transfer)


def _stored_box(turn: Turn, placement: Placement, stored: tuple[int, int]) -> tuple[int, int, int, int]:
    """`placement.crop` as (left, top, right, bottom) in stored pictures of this (width, height)."""
    source_width, source_height = placement.source
    left, top, right, bottom = (
        placement.crop[0] / source_width,
        placement.crop[1] / source_height,
        placement.crop[2] / source_width,
        placement.crop[3] / source_height,
    )
    # Undoing a turn, with corners as shares of the picture.
    if turn.endswith("right"):
        left, top, right, bottom = top, 1 - right, bottom, 1 - left
    elif turn.endswith("left"):
        left, top, right, bottom = 1 - bottom, left, 1 - top, right
    elif turn.endswith("half"):
        left, top, right, bottom = 1 - right, 1 - bottom, 1 - left, 1 - top
    if turn.startswith("flip"):
        left, right = 1 - right, 1 - left
    width, height = stored
    return round(left * width), round(top * height), round(right * width), round(bottom * height)


def _reflected(length: int, before: int, after: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """For every place along a side of the network's input, which pixel of the picture it shows."""
    return np.pad(np.arange(length), (before, after), mode="reflect")


def _view(frame: VideoFrame) -> Pixels:
    """The pixels of an rgb24 frame, H×W×3, sharing its memory."""
    plane = frame.planes[0]
    return np.ndarray(
        (frame.height, frame.width, 3), np.uint8, buffer=memoryview(plane), strides=(plane.line_size, 3, 1)
    )
