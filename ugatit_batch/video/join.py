"""Segments to one film, by copying what is encoded; other streams come from the source in the same loop.

Knows nothing of networks, and decodes no picture.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, cast

import av

from ugatit_batch.errors import OutputError
from ugatit_batch.video.carry import Carrier
from ugatit_batch.video.containers import MUXERS, container_of
from ugatit_batch.video.encode import OFFSET
from ugatit_batch.video.matroska import set_aspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from fractions import Fraction
    from pathlib import Path

    from av.container import InputContainer, OutputContainer

    from ugatit_batch.video.codecs import Coding
    from ugatit_batch.video.containers import Container
    from ugatit_batch.video.info import FilmInfo, FilmOptions

_LARGEST_TIMESCALE = 2**31 - 1


def join_film(
    source: FilmInfo | None,
    segments: Sequence[Path],
    target: Path,
    *,
    coding: Coding,
    aspect: Fraction,
    rate: Fraction,
    time_base: Fraction,
    last_duration: int,
    options: FilmOptions,
    shifts: Sequence[Fraction] = (),
    film: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Write one film of all its segments.

    Args:
        source: the film whose sound, subtitles, chapters and so on go along; None for none of it.
        segments: files of SegmentEncoder, in order.
        target: the file to write, which is made or replaced; its suffix names the container.
        coding: of all segments.
        aspect: width of one pixel over its height.
        rate: pictures a second, on average.
        time_base: seconds of one unit of the pictures' timestamps.
        last_duration: of the last picture, in `time_base`; 0 where nothing is known.
        options: what of the source goes along, and which part.
        shifts: seconds by which the pictures were moved on, all in all, from each jump back of the source's
            time on.
        film: what the target is called in the end, for messages; None: `target`.
        should_stop: asked for each packet; True ends it with an OutputError. Hours of film take minutes.

    Returns:
        What of the source could not be kept as it was, a clause each.

    Raises:
        OutputError: the segments do not go together, or the container does not take them.
        OSError: the target cannot be written, or the disk is full.
    """
    film = film or target
    pictures = _Pictures(segments, film, time_base, last_duration or max(1, round(1 / (rate * time_base))))
    container = container_of(target)
    try:
        with contextlib.ExitStack() as stack:
            carrier = (
                None if source is None else stack.enter_context(Carrier(source, container, options, shifts))
            )
            output = av.open(
                str(target.absolute()),
                "w",
                format=MUXERS[container],
                container_options=_container_options(container, time_base, carrier),
            )
            with _closing(output):
                stream = _add_pictures(output, segments[0], container, coding, aspect, rate)
                for _ in _mux(output, stream, pictures, carrier):
                    if should_stop():
                        raise OutputError(
                            f"{film}: not put together yet", "the same command goes on from here"
                        )
            if carrier is not None:
                carrier.check(target)
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(
            f"{film}: cannot be put together: {error.strerror}",
            "use another --format, or leave out what is special with --audio none --subtitles none",
        ) from error
    notes = [] if carrier is None else carrier.notes
    square = aspect == 1 or coding.encoder.startswith(("libx26", "h264", "hevc"))
    if container in ("mkv", "webm") and not square and not set_aspect(target, aspect):
        notes.append(f"does not say that its pixels are {aspect.numerator}:{aspect.denominator}")
    return notes


@contextlib.contextmanager
def _closing(output: OutputContainer) -> Iterator[None]:
    """Close the file in any case; where there is an error, what closing says is not another one."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(av.FFmpegError, OSError):
            output.close()
        raise
    output.close()


def _container_options(container: Container, time_base: Fraction, carrier: Carrier | None) -> dict[str, str]:
    if container in ("mkv", "webm"):
        # Else the whole film is moved where sound begins before the pictures, as AAC does.
        return {"avoid_negative_ts": "disabled"}
    units = time_base.denominator
    flags = "+faststart"
    rates = [] if carrier is None else carrier.sample_rates
    movie = math.lcm(units, *rates)
    if carrier is not None and carrier.has_apple_tags:
        flags += "+use_metadata_tags"
    return {
        "movflags": flags,
        "video_track_timescale": str(units),
        # Starts are rounded to it.
        "movie_timescale": str(movie if movie <= _LARGEST_TIMESCALE else units),
    }


def _add_pictures(
    output: OutputContainer,
    segment: Path,
    container: Container,
    coding: Coding,
    aspect: Fraction,
    rate: Fraction,
) -> av.VideoStream:
    with av.open(str(segment.absolute())) as first:
        stream = output.add_stream_from_template(first.streams.video[0], opaque=True)
    context, colour = stream.codec_context, coding.colour
    context.colorspace, context.color_range = colour.matrix, colour.range
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    context.sample_aspect_ratio = aspect
    context.framerate = rate.limit_denominator(1_000_000)
    if coding.encoder in ("libx265", "hevc_nvenc") and container in ("mp4", "mov"):
        # Apple's players take no other.
        context.codec_tag = "hvc1"
    return stream


def _mux(
    output: OutputContainer, stream: av.VideoStream, pictures: _Pictures, carrier: Carrier | None
) -> Iterator[None]:
    """Write all packets, in order of time so far as the source's own order allows it; yields after each."""
    stream.time_base = pictures.time_base
    unit = float(pictures.time_base)
    waiting = pictures.packets(stream)
    picture = next(waiting, None)
    if carrier is not None:
        carrier.add_streams(output, stream)
        output.start_encoding()
        for time, packet in carrier.packets():
            while picture is not None and cast(int, picture.dts) * unit <= time:
                output.mux(picture)
                picture = next(waiting, None)
                yield
            try:
                output.mux(packet)
            except (av.InvalidDataError, av.ArgumentError):
                carrier.refused()
            yield
    while picture is not None:
        output.mux(picture)
        picture = next(waiting, None)
        yield


class _Pictures:
    """The packets of all segments, with the timestamps that they have in the whole film.

    Eight bytes of timestamp are kept for each, and no data.
    """

    def __init__(self, segments: Sequence[Path], film: Path, time_base: Fraction, last_duration: int) -> None:
        self._segments, self._film = segments, film
        self.time_base, self._last_duration = time_base, last_duration
        self._decoded = array("q")
        header: bytes | None = None
        for path in segments:
            with self._opened(path) as (part, offset):
                video = part.streams.video[0]
                found = bytes(video.codec_context.extradata or b"")
                if header is not None and header != found:
                    raise self._unfit(path, "is not encoded as those before it")
                header = found
                self._decoded.extend(self._time(packet, offset) for packet in _with_data(part))
        self._shown = array("q", sorted(self._decoded))
        ranks = (bisect_left(self._shown, time) for time in self._decoded)
        self._delay = max((index - rank for index, rank in enumerate(ranks)), default=0)

    def packets(self, stream: av.VideoStream) -> Iterator[av.Packet[Any]]:
        """All of them, in the order in which they are decoded."""
        index = 0
        for path in self._segments:
            with self._opened(path) as (part, offset):
                for packet in _with_data(part):
                    packet.pts = self._time(packet, offset)
                    packet.dts = self._decoding_time(index)
                    packet.duration = self._duration(packet.pts)
                    packet.time_base = self.time_base
                    packet.stream = stream
                    index += 1
                    yield packet

    def _decoding_time(self, index: int) -> int:
        """Of a packet: timestamps in order, as much earlier as pictures are decoded before they are shown."""
        shown = index - self._delay
        return self._shown[shown] if shown >= 0 else self._shown[0] + shown * self._duration(self._shown[0])

    def _duration(self, time: int) -> int:
        following = bisect_left(self._shown, time) + 1
        return self._shown[following] - time if following < len(self._shown) else self._last_duration

    def _time(self, packet: av.Packet[Any], offset: int) -> int:
        ratio = packet.time_base / self.time_base
        return cast(int, packet.pts) * ratio.numerator // ratio.denominator + offset

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[InputContainer, int]]:
        try:
            part = av.open(str(path.absolute()))
        except (av.FFmpegError, OSError) as error:
            raise self._unfit(path, f"cannot be read: {error.strerror}") from error
        with part:
            if not part.streams.video or not part.metadata.get(OFFSET, "").lstrip("-").isdigit():
                raise self._unfit(path, "is not one of this program")
            yield part, int(part.metadata[OFFSET])

    def _unfit(self, path: Path, reason: str) -> OutputError:
        return OutputError(
            f"{self._film}: its segment {path.name} {reason}",
            f"delete the folder {path.parent} and run the same command again",
        )


def _with_data(part: InputContainer) -> Iterator[av.Packet[Any]]:
    return (packet for packet in part.demux(part.streams.video[0]) if packet.size)
