"""What of a source goes along with the pictures: sound, subtitles, chapters, attachments, covers and tags.

Knows nothing of how pictures are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

import av
from av.stream import AttachmentStream, Discard, Disposition

from ugatit_batch.errors import FilmError
from ugatit_batch.video.chapters import chapters_of
from ugatit_batch.video.holding import codec_name, copy_stream, has_decoder, holds, is_known
from ugatit_batch.video.jumps import Jumps
from ugatit_batch.video.probe import start_of
from ugatit_batch.video.reading import Reading
from ugatit_batch.video.sound import EncodedTrack
from ugatit_batch.video.subtitles import TEXT_ENCODERS, ConvertedTrack
from ugatit_batch.video.tags import film_tags, has_apple_tags, missing_tags, readable, stream_tags
from ugatit_batch.video.tracks import CopiedTrack, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from fractions import Fraction
    from pathlib import Path

    from av.container import OutputContainer

    from ugatit_batch.video.containers import Container
    from ugatit_batch.video.info import FilmInfo, FilmOptions
    from ugatit_batch.video.tracks import Packet, Track

_COVERS = {
    "mjpeg": ("cover.jpg", "image/jpeg"),
    "png": ("cover.png", "image/png"),
    "gif": ("cover.gif", "image/gif"),
    "tiff": ("cover.tiff", "image/tiff"),
}
"""Names and types of covers in Matroska, by codec."""
_COVERS_IN_MP4 = ("mjpeg", "png", "bmp")


class Carrier:
    """The source of a film, opened a second time for all but its pictures. Use it in a `with` block.

    What is wrong inside the source ends what is carried, not the film.

    Args:
        info: the source.
        container: of the result.
        options: what goes along, and which part.
        shifts: seconds by which pictures were moved on, all in all, from each jump back of their time on.

    Raises:
        FilmError: it can no longer be opened.
    """

    def __init__(
        self,
        info: FilmInfo,
        container: Container,
        options: FilmOptions,
        shifts: Sequence[Fraction] = (),
    ) -> None:
        self._info, self._container, self._options = info, container, options
        self.notes: list[str] = []
        self._tracks: dict[int, Track] = {}
        self._first: list[Packet] = []
        self._tags: dict[str, str] = {}
        self._languages: list[tuple[str, str | None]] = []
        self._refused = 0
        self._jumps = Jumps(shifts, info.stream) if shifts else None
        self._damaged = False
        try:
            self._input = av.open(str(info.path.absolute()), metadata_errors="surrogateescape")
        except (av.FFmpegError, OSError) as error:
            raise FilmError(
                f"{info.path}: can no longer be read: {error.strerror}", "run the same command again"
            ) from error
        self._window = Window(start_of(self._input), options.start, options.end, info.origin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()

    @property
    def sample_rates(self) -> list[int]:
        """Of all tracks of sound."""
        known = (stream for stream in self._input.streams.audio if has_decoder(stream))
        return [rate for stream in known if (rate := stream.rate)]

    @property
    def has_apple_tags(self) -> bool:
        """Whether the film's tags are of the kind that iPhones write, and are kept."""
        return self._options.metadata == "keep" and has_apple_tags(self._input.metadata)

    def add_streams(self, output: OutputContainer, pictures: av.VideoStream) -> None:
        """Add all that goes along to the result, which has its stream of pictures alone.

        Where tags are to be dropped, chapters with their titles and the languages of tracks stay.

        Args:
            output: the result, before its first packet.
            pictures: its stream of pictures, which gets what the source says of its own.
        """
        keep_tags = self._options.metadata == "keep"
        if keep_tags:
            self._tags = film_tags(self._input.metadata)
            output.metadata.update(self._tags)
        output.set_chapters(chapters_of(self._input, self._window))
        left_out = []
        for stream in self._input.streams:
            if stream.index == self._info.stream:
                _describe(pictures, stream, self._container, keep_tags=keep_tags)
            elif isinstance(stream, av.AudioStream):
                self._add_sound(output, stream)
            elif isinstance(stream, av.subtitles.stream.SubtitleStream):
                self._add_subtitles(output, stream)
            elif isinstance(stream, AttachmentStream):
                self._add_attachment(output, stream)
            elif isinstance(stream, av.VideoStream):
                self._add_cover(output, stream)
            else:
                name = getattr(stream, "name", None) or stream.metadata.get("handler_name", "unknown")
                # Chapters of MP4 are such a stream too.
                if name != "bin_data" or not self._input.chapters():
                    left_out.append(readable(name))
            is_needed = stream.index in self._tracks or (self._jumps and stream.index == self._info.stream)
            if not is_needed:
                stream.discard = Discard.all
        if left_out:
            self.notes.append(f"streams of data were left out: {', '.join(sorted(set(left_out)))}")

    def check(self, target: Path) -> None:
        """Add to the notes what the finished file does not say, although it was told to."""
        with av.open(str(target.absolute()), metadata_errors="surrogateescape") as film:
            lost = missing_tags(self._tags, film.metadata)
            if lost:
                self.notes.append(f"tags were left out: {self._container.upper()} holds no {', '.join(lost)}")
            found = [one.language for one in film.streams if one.type in ("audio", "subtitle")]
        if self._refused:
            held = f"{self._container.upper()} did not take"
            self.notes.append(f"packets of sound or subtitles that {held} were left out: {self._refused}")
        if len(found) != len(self._languages):
            # MP4 has no tracks that are empty; which ones are is not worth finding out.
            return
        for (name, wanted), language in zip(self._languages, found, strict=True):
            if wanted not in (language, None, "und"):
                self.notes.append(f"{name} has no language: {self._container.upper()} knows no {wanted}")

    def refused(self) -> None:
        """A packet was not taken by the result's muxer."""
        self._refused += 1

    def packets(self) -> Iterator[tuple[float, Packet]]:
        """All packets for the result, each with its time in seconds, in the source's order."""
        for packet in self._first:
            yield 0.0, packet
        if not self._tracks:
            return
        for found in self._demuxed():
            for packet in found:
                yield float(cast(int, packet.dts) * packet.time_base), packet
        for track in self._tracks.values():
            for packet in track.finish():
                yield float(cast(int, packet.dts) * packet.time_base), packet
            self.notes += track.notes

    def _demuxed(self) -> Iterator[Iterable[Packet]]:
        """What the source's packets give rise to, up to its end, its damage or the end of the part."""
        open_tracks = {stream.index for stream in self._input.streams.audio if stream.index in self._tracks}
        only_sparse = not open_tracks
        reading = Reading(self._input, self._missing)
        try:
            for packet in reading.packets():
                self._continue(packet)
                track = self._tracks.get(packet.stream_index)
                time = packet.dts if packet.pts is None else packet.pts
                if track is None or time is None:
                    continue
                if self._window.is_after(time * packet.time_base):
                    open_tracks.discard(packet.stream_index)
                    if not open_tracks and not only_sparse:
                        return
                yield track.take(packet)
        except (av.FFmpegError, OSError) as error:
            self.notes.append(f"its sound and subtitles are damaged and end early: {error.strerror}")
            return
        if reading.gave_up:
            self.notes.append("its sound and subtitles are damaged and end early")
        elif self._damaged:
            self.notes.append("places could not be read, where sound and subtitles may be missing")

    def _missing(self) -> None:
        self._damaged = True

    def _continue(self, packet: Packet) -> None:
        """Move a packet on as its pictures were, where the source's time jumped back."""
        time = packet.pts if packet.dts is None else packet.dts
        if self._jumps is None or time is None:
            return
        shift = round(self._jumps.shift(packet.stream_index, time * packet.time_base) / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift

    def _add_sound(self, output: OutputContainer, stream: av.AudioStream) -> None:
        wanted = self._options.audio
        if wanted == "none":
            return
        name = self._name(stream, "sound")
        if not has_decoder(stream):
            self.notes.append(f"{name} was left out: its codec is not known")
            return
        own = codec_name(stream)
        if wanted == "copy" and holds(self._container, stream):
            target = copy_stream(output, stream)
            hides = self._container in ("mp4", "mov")
            self._add(name, stream, target, CopiedTrack(target, self._window, hides_beginnings=hides))
            return
        encoder = "libopus" if self._container == "webm" or wanted == "opus" else "aac"
        if wanted == "copy":
            kind = "Opus" if encoder == "libopus" else "AAC"
            unheld = f"{self._container.upper()} holds no {own}"
            reason = unheld if is_known(stream) else "the source does not say at its beginning how it is made"
            self.notes.append(f"{name} was encoded anew as {kind}: {reason}")
        try:
            track = EncodedTrack(name, stream, output, encoder, self._window)
        except (av.FFmpegError, ValueError):
            self.notes.append(f"{name} was left out: {own} cannot be read")
            return
        self._add(name, stream, track.stream, track)

    def _add_subtitles(self, output: OutputContainer, stream: av.subtitles.stream.SubtitleStream) -> None:
        if self._options.subtitles == "none":
            return
        name = self._name(stream, "subtitles")
        if not has_decoder(stream):
            self.notes.append(f"{name} were left out: their codec is not known")
            return
        own = codec_name(stream)
        if holds(self._container, stream):
            target = copy_stream(output, stream)
            self._add(name, stream, target, CopiedTrack(target, self._window, subtitles=True))
            return
        encoder = TEXT_ENCODERS[self._container]
        if not stream.codec_context.codec.text_sub:
            self.notes.append(f"{name} were left out: {self._container.upper()} holds no {own}")
            return
        try:
            track = ConvertedTrack(name, stream, output, encoder, self._window)
        except (av.FFmpegError, ValueError):
            self.notes.append(f"{name} were left out: {own} cannot be read")
            return
        self.notes.append(f"{name} became {encoder}: {self._container.upper()} holds no {own}")
        self._add(name, stream, track.stream, track)

    def _add(self, name: str, stream: av.stream.Stream, target: av.stream.Stream, track: Track) -> None:
        self._tracks[stream.index] = track
        _describe(target, stream, self._container, keep_tags=self._options.metadata == "keep")
        self._languages.append((name, target.metadata.get("language")))

    def _add_attachment(self, output: OutputContainer, stream: AttachmentStream) -> None:
        name = readable(stream.name or f"attachment {stream.index}")
        if self._container != "mkv":
            self.notes.append(f"the attachment {name} was left out: {self._container.upper()} holds none")
            return
        output.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)

    def _add_cover(self, output: OutputContainer, stream: av.VideoStream) -> None:
        if not stream.disposition & Disposition.attached_pic:
            # Another stream of pictures, of which the one who probed the film has told.
            return
        if stream.disposition & Disposition.timed_thumbnails:
            self.notes.append("the pictures of its chapters were left out")
            return
        kind = codec_name(stream)
        data = self._picture(stream)
        if data is not None and self._container == "mkv" and kind in _COVERS:
            output.add_attachment(*_COVERS[kind], bytes(data))
        elif data is not None and self._container == "mp4" and kind in _COVERS_IN_MP4:
            target = output.add_stream_from_template(stream, opaque=True)
            target.disposition = Disposition.attached_pic
            data.pts = data.dts = 0
            data.stream = target
            self._first.append(data)
        else:
            self.notes.append(f"its cover was left out: {self._container.upper()} holds none of this kind")

    def _picture(self, stream: av.VideoStream) -> Packet | None:
        """The data of a cover; they come first in the file, whatever the place of others."""
        with av.open(str(self._info.path.absolute()), metadata_errors="surrogateescape") as again:
            found = again.demux(again.streams[stream.index])
            return next((packet for packet in found if packet.size), None)

    def _name(self, stream: av.stream.Stream, kind: str) -> str:
        """Of a track, for notes: its number among its own, and its language."""
        same = [other.index for other in self._input.streams if other.type == stream.type]
        language = f" ({stream.language})" if stream.language not in (None, "und") else ""
        return f"{kind} {same.index(stream.index) + 1}{language}"


def _describe(
    target: av.stream.Stream, source: av.stream.Stream, container: Container, *, keep_tags: bool
) -> None:
    """Give a stream the language, the tags and the disposition of the source's."""
    target.metadata.update(stream_tags(source.metadata, container, all_of_them=keep_tags))
    target.disposition = source.disposition
