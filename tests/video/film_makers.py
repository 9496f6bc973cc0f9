"""Small films for the tests, made with PyAV: real codecs in real containers."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from ugatit_batch.video.info import Colour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from ugatit_batch.frames import Pixels

LIMITED_601 = Colour(6, 1, 6, 6)
_ACCURATE = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_GLOBAL_HEADER = 1 << 22

FAST: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "crf": "10"},
    "libx265": {"preset": "ultrafast", "crf": "10", "x265-params": "log-level=none:pools=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"},
    "libsvtav1": {"preset": "12", "crf": "20", "svtav1-params": "lp=1"},
    "mpeg4": {"b": "4000000"},
}
"""Settings that make a codec quick, and good enough to tell one picture from the next."""


def picture(index: int, width: int = 96, height: int = 64) -> Pixels:
    """A soft RGB picture, H×W×3, whose brightness and colours tell its index among 60."""
    y, x = np.mgrid[0:height, 0:width]
    level = 60.0 + index * 2.0
    red = level + 40 * np.sin(x / 19 + index / 9)
    green = level + 40 * np.cos(y / 17)
    blue = level + 40 * np.sin((x + y) / 23)
    pixels: Pixels = np.clip(np.stack([red, green, blue], -1), 20, 235).astype(np.uint8)
    return pixels


def to_format(pixels: Pixels, pix_fmt: str, colour: Colour = LIMITED_601) -> VideoFrame:
    """RGB pixels as a frame of the format, matrix and range."""
    height, width = pixels.shape[:2]
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.colorspace, frame.color_range = 0, 2
    graph = Graph()
    matrix = "" if colour.matrix == 0 else f":out_color_matrix={colour.matrix}"
    nodes = [
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base=1/25:range=2:colorspace=0"),
        graph.add("scale", f"{_ACCURATE}:in_range=2:out_range={colour.range}{matrix}"),
        graph.add("format", pix_fmt),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    nodes[0].push(frame)
    made = nodes[-1].pull()
    assert isinstance(made, VideoFrame)
    return made


def make_film(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    count: int = 30,
    size: tuple[int, int] = (96, 64),
    rate: Fraction | int = 25,
    colour: Colour = LIMITED_601,
    tagged: Colour | None = None,
    options: dict[str, str] | None = None,
    timestamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    aspect: Fraction | None = None,
    pictures: Callable[[int], Pixels | VideoFrame] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    sound: bool = False,
    prepare: Callable[[VideoStream], None] | None = None,
) -> list[Pixels]:
    """Write a film.

    Args:
        path: of the film; its suffix chooses the container, unless `container_format` does.
        codec, pix_fmt, count, size, rate: of the pictures.
        colour: by which RGB becomes luma and chroma.
        tagged: what the file says of its colours; None: nothing.
        options: of the codec, over those in FAST.
        timestamps: of the pictures in `time_base`; None: evenly by `rate`.
        rotation: (degrees counter-clockwise, mirrored left to right, upside down) for the display matrix.
        aspect: of a pixel.
        pictures: by index; None: `picture`.
        container_options: of the container.
        sound: whether there is a tone, in AAC.
        prepare: what else to do to the stream before the first picture.

    Returns:
        The pictures that went in, where they were RGB.
    """
    width, height = size
    base = time_base or 1 / Fraction(rate)
    went_in = []
    with av.open(path, "w", format=container_format, options=container_options or {}) as container:
        stream = cast(
            "VideoStream",
            container.add_stream(
                codec, rate=Fraction(rate), options={**FAST.get(codec, {}), **(options or {})}
            ),
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        stream.time_base = base
        stream.codec_context.thread_count = 1
        if tagged is not None:
            _tag(stream.codec_context, tagged)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if prepare is not None:
            prepare(stream)
        tone = container.add_stream("aac", rate=48000) if sound else None
        for index in range(count):
            made = picture(index, width, height) if pictures is None else pictures(index)
            if not isinstance(made, VideoFrame):
                went_in.append(made)
                made = to_format(made, pix_fmt, colour)
            _tag(made, tagged or Colour(2, 0, 2, 2))
            made.pts = index if timestamps is None else timestamps[index]
            made.time_base = base
            made.pict_type = 0
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
        if tone is not None:
            seconds = float(count / Fraction(rate))
            for audio in _tone(int(48000 * seconds)):
                container.mux(cast("Any", tone).encode(audio))
            container.mux(cast("Any", tone).encode(None))
    return went_in


def _tag(target: Any, colour: Colour) -> None:
    target.colorspace = colour.matrix
    target.color_range = colour.range
    target.color_primaries = colour.primaries
    target.color_trc = colour.transfer


def _tone(samples: int) -> Iterator[av.AudioFrame]:
    """A sine of 440 Hz, mono."""
    for start in range(0, samples, 1024):
        wave = np.sin(np.arange(start, start + 1024) * (440 * 2 * np.pi / 48000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        yield frame


def packets_of(path: Path) -> list[tuple[int, int, int | None]]:
    """(position in the file, size, timestamp) of every packet of pictures, in order of the file."""
    with av.open(path) as container:
        return [
            (packet.pos or 0, packet.size, packet.pts) for packet in container.demux(video=0) if packet.size
        ]


def timestamps_of(path: Path) -> list[int]:
    """The timestamps of the pictures as FFmpeg decodes them."""
    with av.open(path) as container:
        return [frame.pts for frame in container.decode(video=0) if frame.pts is not None]


def damage(path: Path, spans: Sequence[tuple[int, int]], seed: int = 1) -> None:
    """Overwrite bytes of a file with noise.

    Args:
        path: the file.
        spans: (position, length) of what is overwritten.
        seed: of the noise.
    """
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(seed)
    for position, length in spans:
        data[position : position + length] = noise.integers(0, 256, length, np.uint8).tobytes()
    path.write_bytes(data)


def cut_short(source: Path, target: Path, share: float) -> None:
    """Copy the first part of a file, as a broken transfer leaves it."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])


def planes_of(frame: VideoFrame) -> list[NDArray[np.int64]]:
    """The values of every plane of a planar frame, in the format's own depth."""
    kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    found = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
        found.append(rows[:, : plane.width].astype(np.int64))
    return found
