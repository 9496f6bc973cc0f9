"""Films written as the program writes them, of pictures that show their number; read back by PyAV alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np

from ugatit_batch.video.codecs import choose_coding
from ugatit_batch.video.encode import SegmentEncoder
from ugatit_batch.video.info import Colour, FilmInfo, FilmOptions
from ugatit_batch.video.join import join_film

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_batch.video.codecs import Coding

WIDTH, HEIGHT = 96, 64
UNIT = Fraction(1, 12800)
EVEN = tuple(range(0, 30 * 512, 512))
"""30 pictures, 25 a second."""
UNEVEN = tuple(int(time) for time in np.cumsum([0] + [512, 300, 1111, 17, 513, 2048] * 4))
FAST: dict[str, dict[str, Any]] = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast"},
    "libsvtav1": {"preset": "12"},
    "libvpx-vp9": {"preset": "8"},
}


def film_info(path: Path = Path("film.mp4"), **changes: Any) -> FilmInfo:
    plain = FilmInfo(
        path=path,
        stream=0,
        width=WIDTH,
        height=HEIGHT,
        turn="none",
        aspect=Fraction(1),
        colour=Colour(6, 1, 6, 6),
        pix_fmt="yuv420p",
        depth=8,
        time_base=UNIT,
        rate=Fraction(25),
        frames=None,
        duration=None,
    )
    return replace(plain, **changes)


def options(codec: str = "libx264", **changes: Any) -> FilmOptions:
    return FilmOptions(**{"codec": codec, **FAST.get(codec, {}), **changes})


def picture(coding: Coding, number: int, pts: int) -> av.VideoFrame:
    """A picture that shows its number: eight columns, white for 1 and black for 0."""
    columns = (number >> np.arange(8)) & 1
    row = (columns * 200 + 20)[np.arange(coding.width) * 8 // coding.width]
    pixels = np.broadcast_to(row[None, :, None], (coding.height, coding.width, 3)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(format=coding.pix_fmt)
    frame.pts = pts
    return frame


def number_of(frame: av.VideoFrame) -> int:
    grey = frame.reformat(format="rgb24").to_ndarray()[frame.height // 2, :, 1]
    middles = (np.arange(8) * 2 + 1) * frame.width // 16
    return int(((grey[middles] > 120) << np.arange(8)).sum())


def write_segments(
    folder: Path, coding: Coding, info: FilmInfo, times: Sequence[int], count: int = 3
) -> list[Path]:
    """Pictures at those times in so many segments."""
    folder.mkdir(exist_ok=True)
    paths = []
    for index, part in enumerate(np.array_split(np.arange(len(times)), count)):
        paths.append(folder / f"{index:06}.{coding.segment_format}")
        encoder = SegmentEncoder(paths[-1], coding, info.aspect, info.time_base, info.rate, Path("film.mp4"))
        for number in part:
            encoder.add(picture(coding, int(number), times[number]))
        encoder.finish()
    return paths


def write_film(
    target: Path,
    times: Sequence[int] = EVEN,
    chosen: FilmOptions | None = None,
    *,
    source: FilmInfo | None = None,
    info: FilmInfo | None = None,
    last_duration: int = 0,
    count: int = 3,
    shifts: Sequence[Fraction] = (),
) -> list[str]:
    """A film of numbered pictures in segments, joined; with the other streams of `source`. Its notes."""
    info = info or source or film_info()
    chosen = chosen or options()
    coding, _ = choose_coding(info, (info.width, info.height), chosen, target, 2)
    segments = write_segments(target.parent / f"{target.name}.segments", coding, info, times, count)
    return join_film(
        source,
        segments,
        target,
        coding=coding,
        aspect=info.aspect,
        rate=info.rate,
        time_base=info.time_base,
        last_duration=last_duration,
        options=chosen,
        shifts=shifts,
    )


TIMES = tuple(range(0, 75 * 512, 512))
"""Three seconds of pictures."""
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


def carried(source: FilmInfo, target: Path, **changes: Any) -> list[str]:
    """Write three seconds of pictures and what goes along with them, as quick as the container allows."""
    codec = "libvpx-vp9" if target.suffix == ".webm" else "libx264"
    return write_film(target, TIMES, options(codec, **changes), source=source)


@dataclass(frozen=True)
class Seen:
    """What a reader finds in a film."""

    times: list[Fraction]
    numbers: list[int]
    width: int
    height: int
    codec: str
    pix_fmt: str
    aspect: Fraction
    colour: tuple[int, int, int, int]
    rate: Fraction


def seen(path: Path) -> Seen:
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        context = stream.codec_context
        colour = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
        frames = list(film.decode(stream))
        return Seen(
            [(frame.pts or 0) * (stream.time_base or Fraction(0)) for frame in frames],
            [number_of(frame) for frame in frames],
            frames[0].width,
            frames[0].height,
            context.codec.canonical_name,
            frames[0].format.name,
            stream.sample_aspect_ratio or Fraction(1),
            colour,
            stream.average_rate or Fraction(0),
        )


@dataclass(frozen=True)
class Carried:
    """One stream of a film: its packets as (time, duration, data), in seconds."""

    kind: str
    codec: str
    language: str | None
    tags: dict[str, str]
    disposition: int
    packets: list[tuple[Fraction, Fraction, bytes]]

    @property
    def data(self) -> list[bytes]:
        return [data for _, _, data in self.packets]

    @property
    def times(self) -> list[Fraction]:
        return [time for time, _, _ in self.packets]


def streams(path: Path, kind: str) -> list[Carried]:
    """The streams of one kind."""
    with av.open(str(path), metadata_errors="replace") as film:
        packets: dict[int, list[tuple[Fraction, Fraction, bytes]]] = {}
        for packet in film.demux():
            if packet.size:
                unit = packet.time_base
                times = (packet.pts or 0) * unit, (packet.duration or 0) * unit
                packets.setdefault(packet.stream_index, []).append((*times, bytes(packet)))
        return [
            Carried(
                stream.type,
                stream.codec_context.codec.canonical_name,
                stream.language,
                dict(stream.metadata),
                int(stream.disposition),
                packets.get(stream.index, []),
            )
            for stream in film.streams
            if stream.type == kind
        ]


Words = list[tuple[float, float, str]]
"""Subtitles: seconds from, seconds to, what they say."""


def make_source(
    path: Path,
    *,
    seconds: int = 3,
    sound: Sequence[tuple[str, str]] = (("aac", "eng"),),
    subtitles: Sequence[tuple[str, str, Words]] = (),
    chapters: Sequence[tuple[float, float, str]] = (),
    attachments: Sequence[tuple[str, str, bytes]] = (),
    tags: dict[str, str] | None = None,
    delay: Fraction = Fraction(0),
    muxer: str | None = None,
) -> FilmInfo:
    """A film with everything; its pictures are grey, its tracks of sound tones of other heights.

    Args:
        path: the file.
        seconds: length.
        sound: encoder and language of each track.
        subtitles: encoder, language and words of each track.
        chapters: seconds from, seconds to, title.
        attachments: name, type and data of each.
        tags: of the film.
        delay: seconds at which it begins.
        muxer: FFmpeg's name; None: by the suffix.
    """
    output = av.open(str(path), "w", format=muxer, container_options={"movie_timescale": "96000"})
    output.metadata.update(tags or {})
    video = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
    video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    video.codec_context.time_base = UNIT
    tracks = []
    for number, (codec, language) in enumerate(sound):
        track: Any = output.add_stream(codec, rate=48_000, options={"strict": "-2"})
        track.codec_context.layout = "stereo"
        track.metadata["language"] = language
        track.metadata["title"] = f"track {number}"
        track.disposition = av.stream.Disposition.default if number == 0 else av.stream.Disposition.comment
        tracks.append(track)
    texts = []
    for codec, language, _ in subtitles:
        text: Any = output.add_stream(codec)
        text.codec_context.subtitle_header = ASS_HEADER
        text.codec_context.time_base = text.time_base = Fraction(1, 1000)
        text.metadata["language"] = language
        texts.append(text)
    for attachment in attachments:
        output.add_attachment(*attachment)
    output.set_chapters(
        [
            {
                "id": number,
                "start": round((begin + delay) * 1000),
                "end": round((end + delay) * 1000),
                "time_base": Fraction(1, 1000),
                "metadata": {"title": title},
            }
            for number, (begin, end, title) in enumerate(chapters)
        ]
    )
    for packet in sorted(
        [*_pictures(video, seconds), *_tones(tracks, seconds), *_words(texts, subtitles)],
        key=lambda packet: packet.dts * packet.time_base,
    ):
        shift = round(delay / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        output.mux(packet)
    output.close()
    return film_info(path)


ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour
Style: Default,Arial,16,&Hffffff

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def _pictures(stream: Any, seconds: int) -> list[Any]:
    packets = []
    for number in range(seconds * 25):
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([number % 200 + 20]) * plane.buffer_size)
        frame.pts, frame.time_base = number * 512, UNIT
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _tones(tracks: Sequence[Any], seconds: int) -> list[Any]:
    packets = []
    for number, track in enumerate(tracks):
        angles = np.arange(seconds * 48_000) / 48_000 * 2 * np.pi * 330 * (number + 1)
        wave = np.stack([np.sin(angles), np.cos(angles)]).astype(np.float32) * 0.3
        frame = av.AudioFrame.from_ndarray(wave, "fltp", layout="stereo")
        frame.rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        packets += [*track.encode(frame), *track.encode(None)]
    return packets


def _words(texts: Sequence[Any], subtitles: Sequence[tuple[str, str, Words]]) -> list[Any]:
    packets = []
    for text, (_, _, words) in zip(texts, subtitles, strict=True):
        for number, (begin, end, said) in enumerate(words):
            line = f"{number},0,Default,,0,0,0,,{said}".encode()
            length = round((end - begin) * 1000)
            made = text.codec_context.encode_subtitle(
                av.subtitles.subtitle.SubtitleSet.create(line, 0, length, 0)
            )
            made.time_base = Fraction(1, 1000)
            made.pts = made.dts = round(begin * 1000)
            made.duration = length
            made.stream = text
            packets.append(made)
    return packets


def said(path: Path) -> list[list[tuple[Fraction, Fraction, str]]]:
    """What the subtitles of each track say, and when."""
    found: dict[int, list[tuple[Fraction, Fraction, str]]] = {}
    with av.open(str(path)) as film:
        for stream in film.streams.subtitles:
            found[stream.index] = []
        for packet in film.demux(film.streams.subtitles):
            if packet.size:
                times = (packet.pts or 0) * packet.time_base, (packet.duration or 0) * packet.time_base
                words = " ".join(cast(Any, line).dialogue.decode() for line in packet.decode())
                if words:
                    found[packet.stream_index].append((*times, words))
    return list(found.values())
