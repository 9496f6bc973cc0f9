"""A track of subtitles in words that is put into the form a container holds.

Knows nothing of subtitles that are pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av

from ugatit_batch.video.tracks import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from av.container import OutputContainer

    from ugatit_batch.video.containers import Container
    from ugatit_batch.video.tracks import Packet, Window

TEXT_ENCODERS: dict[Container, str] = {
    "mp4": "mov_text",
    "mov": "mov_text",
    "mkv": "subrip",
    "webm": "webvtt",
}
"""Into what subtitles are turned where a container does not hold them as they are."""

_ONE_AT_A_TIME = ("mov_text",)
"""Forms in which a subtitle ends when the next one begins."""
_PLAIN = rb"{\b0\i0\u0}"
_MILLISECONDS = Fraction(1, 1000)
_COMMAS = 8
_ENDLESS = 2**32 - 1
_LONGEST = 10_000
"""Milliseconds of a subtitle that does not say when it ends."""


@dataclass(frozen=True)
class _Line:
    """Words that are shown together. Times in milliseconds of the result."""

    begin: int
    end: int
    is_open: bool
    """Whether `end` is a guess, because the source does not say it."""
    styled: tuple[bytes, ...]
    """As ASS has them: number, layer, style, name, three margins, effect, words, parted by commas."""


class ConvertedTrack:
    """Subtitles in words, in another form.

    Where the form knows one subtitle at a time, those that are shown together become one, line by line, and
    another one when one of them comes or goes.

    Args:
        name: of the track, for notes.
        source: stream of the source.
        output: the result, which gets a new stream.
        encoder: one of TEXT_ENCODERS.
        window: which part is wanted.

    Raises:
        av.FFmpegError, ValueError: there is no decoder, or no encoder.
    """

    def __init__(
        self,
        name: str,
        source: av.subtitles.stream.SubtitleStream,
        output: OutputContainer,
        encoder: str,
        window: Window,
    ) -> None:
        self._name, self._window = name, window
        self._decoder = source.codec_context
        self._decoder.open(strict=False)
        self.stream = cast(av.subtitles.stream.SubtitleStream, output.add_stream(encoder))
        self._encoder = self.stream.codec_context
        # Styles, without which encoders do not open.
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = self.stream.time_base = _MILLISECONDS
        self._encoder.open()
        self._one_at_a_time = encoder in _ONE_AT_A_TIME
        self._showing: list[_Line] = []
        self._written = 0
        self._damaged = 0

    @property
    def notes(self) -> list[str]:
        """See `Track`."""
        return [f"of {self._name} could not be read: {self._damaged}"] if self._damaged else []

    def take(self, packet: Packet) -> Iterable[Packet]:
        """See `Track`."""
        try:
            line = self._read(packet)
        except (av.FFmpegError, ValueError):
            self._damaged += 1
            return
        if line is None:
            return
        if self._one_at_a_time:
            yield from self._write_until(line.begin)
            self._showing = [other for other in self._showing if not other.is_open]
            self._showing.append(line)
        else:
            yield from self._write(line.begin, line.end, line.styled)

    def finish(self) -> Iterable[Packet]:
        """See `Track`."""
        while self._showing:
            yield from self._write_until(min(line.end for line in self._showing))

    def _read(self, packet: Packet) -> _Line | None:
        words = self._decoder.decode2(packet)
        if words is None or not len(words) or not cut(packet, self._window, lasts=True):
            return None
        unit = packet.time_base / _MILLISECONDS
        # Damaged sources go back.
        begin = max(round((packet.pts or 0) * unit), self._written)
        shown = round((packet.duration or 0) * unit) or words.end_display_time
        is_open = not 0 < shown < _ENDLESS
        styled = tuple(cast(av.subtitles.subtitle.AssSubtitle, line).ass for line in words)
        if any(line.count(b",") < _COMMAS for line in styled):
            raise ValueError("not a line of ASS")
        return _Line(begin, begin + (_LONGEST if is_open else shown), is_open, styled)

    def _write_until(self, time: int) -> Iterator[Packet]:
        """Write what is shown up to a time, in milliseconds."""
        while self._showing and self._written < time:
            border = min(time, *(line.end for line in self._showing))
            yield from self._write(
                self._written, border, tuple(one for line in self._showing for one in line.styled)
            )
            self._showing = [line for line in self._showing if line.end > border]
        self._written = max(self._written, time)

    def _write(self, begin: int, end: int, styled: tuple[bytes, ...]) -> Iterator[Packet]:
        self._written = end if self._one_at_a_time else begin
        words = av.subtitles.subtitle.SubtitleSet.create(_joined(styled), 0, end - begin, 0)
        try:
            made = self._encoder.encode_subtitle(words)
        except (av.FFmpegError, ValueError):
            self._damaged += 1
            return
        if made.size:
            made.time_base = _MILLISECONDS
            made.pts = made.dts = begin
            made.duration = end - begin
            made.stream = self.stream
            yield made


def _joined(styled: tuple[bytes, ...]) -> bytes:
    """Lines of ASS as one, each in its own style."""
    first, *others = (line.split(b",", _COMMAS) for line in styled)
    for fields in others:
        # FFmpeg's encoder does not let a style end what the words before it began.
        first[8] += _PLAIN + rb"\N{\r" + fields[2] + b"}" + fields[8]
    return b",".join(first)
