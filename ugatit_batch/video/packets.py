"""A film's file taken apart and decoded, whole or from a point on, whatever state it is in.

Knows nothing of sizes, colours and networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from av.error import FFmpegError
from av.video.stream import VideoStream

from ugatit_batch.errors import FilmError
from ugatit_batch.video.jumps import JUMP
from ugatit_batch.video.lengths import is_cut_short
from ugatit_batch.video.losses import Clock, Ledger
from ugatit_batch.video.probe import open_film, start_of, unreadable
from ugatit_batch.video.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from av.codec.hwaccel import HWAccel
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

    from ugatit_batch.video.info import FilmInfo

LEAD = Fraction(10)
"""Seconds before the point that is wanted from which decoding begins at the latest."""

_MISSING = 2.0
_SILENT_DECODERS = ("hevc",)
_GENERATE_TIMESTAMPS = 1
_WITH_LENGTH = ("matroska", "mov", "avi")
"""Containers that say at their beginning how long they are."""


class SeekMissedError(Exception):
    """Seeking did not lead to a point before the one that was wanted."""


@dataclass(frozen=True)
class Shown:
    """One picture in the order of showing."""

    frame: VideoFrame | None
    """As decoded; None where damage has cost it."""
    pts: int
    """In units of the stream's time base, as in the file."""
    duration: int
    """In the same units; 0 where the file does not say."""


class Decoding:
    """One pass over a film's file.

    Args:
        info: the film.
        hwaccel: hardware that decodes, or None.
        threads: of the decoder; 0: as many as there are cores.
        seek: timestamp that has to be reached, or None to begin at the beginning. Decoding then begins LEAD
            or more before it.
    """

    def __init__(
        self, info: FilmInfo, hwaccel: HWAccel | None, threads: int, seek: Fraction | None = None
    ) -> None:
        self._info = info
        self._hwaccel = hwaccel
        self._threads = threads
        self._seek = seek
        self._ledger = Ledger()
        self._clock = Clock(int(JUMP / info.time_base), int(1 / info.rate / info.time_base))
        self._by_dts = False
        self._latest = 0.0
        self._gave_up = False
        self._end_note: str | None = None

    @property
    def notes(self) -> list[str]:
        """What was wrong with the timestamps and the end of the file, as far as it was read."""
        notes = []
        if self._clock.moved:
            moved = f"{self._clock.moved} timestamps" if self._clock.moved > 1 else "1 timestamp"
            notes.append(f"{moved} repeated or went back, and moved on")
        jumps = len(self._clock.shifts)
        if jumps:
            times = "" if jumps == 1 else f" {jumps} times"
            notes.append(f"its time jumped back{times} and was continued")
        if self._end_note is not None:
            notes.append(self._end_note)
        return notes

    @property
    def shifts(self) -> list[int]:
        """By how many units of the stream pictures were moved on, all in all, from each jump back on."""
        return list(self._clock.shifts)

    def pictures(self) -> Generator[Shown, None, None]:
        """Decode. The file is open while this generator runs, and closed when it ends or is closed.

        Raises:
            FilmError: the file could not be opened, or the disk does not read it.
            SeekMissedError: see there; raised before anything is given.
        """
        with open_film(self._info.path, self._hwaccel) as container:
            streams = list(container.streams)
            stream = streams[self._info.stream] if self._info.stream < len(streams) else None
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise FilmError(f"{self._info.path}: has changed since it was probed", "start again")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self._threads
            self._ledger = Ledger(silent=stream.codec_context.name in _SILENT_DECODERS)
            if container.format.name == "avi":
                # AVI knows the order of packets only, and what FFmpeg makes of it is wrong for B-frames.
                container.flags &= ~_GENERATE_TIMESTAMPS
                self._by_dts = True
            if self._seek is None:
                yield from self._decode(container, stream)
            else:
                self._go_back(container, stream, self._seek)
                yield from self._from_keyframe(container, stream, self._seek)

    def _go_back(self, container: InputContainer, stream: VideoStream, seek: Fraction) -> None:
        target = int((seek - LEAD) / self._info.time_base)
        try:
            container.seek(target, stream=stream)
        except (FFmpegError, OSError) as error:
            raise SeekMissedError(str(error)) from error

    def _from_keyframe(
        self, container: InputContainer, stream: VideoStream, seek: Fraction
    ) -> Iterator[Shown]:
        """What is shown from the first picture on that does not need those before it."""
        found = False
        for shown in self._decode(container, stream):
            if not found:
                if shown.pts * self._info.time_base > seek:
                    raise SeekMissedError("no keyframe before the point that is wanted")
                found = shown.frame is not None and shown.frame.key_frame
            if found:
                yield shown

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
        held: Packet[VideoStream] | None = None
        for packet in self._read(container, stream):
            if held is not None:
                yield from self._decode_packet(stream, held)
                held = None
            if packet.is_corrupt:
                # It may be the half packet at the end of a file that is cut short, which is no picture.
                held = packet
            else:
                yield from self._decode_packet(stream, packet)
        yield from self._decode_packet(stream, None)
        for pts, duration in self._ledger.end():
            yield Shown(None, self._clock(pts, duration), duration)
        self._end_note = self._note_on_end(container)

    def _read(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Packets of the pictures, over gaps that cannot be read, to the end."""
        reading = Reading(container, self._ledger.damage)
        try:
            for packet in reading.packets():
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None and not packet.is_corrupt:
                    end = (stamp + (packet.duration or 0)) * float(packet.time_base)
                    self._latest = max(self._latest, end)
                if packet.stream_index == stream.index:
                    yield cast("Packet[VideoStream]", packet)
        except (FFmpegError, OSError) as error:
            raise unreadable(self._info.path, error) from error
        self._gave_up = reading.gave_up

    def _decode_packet(self, stream: VideoStream, packet: Packet[VideoStream] | None) -> Iterator[Shown]:
        """What comes out of the decoder when a packet goes in; None: all that is left."""
        if packet is not None and not packet.is_discard:
            stamp = packet.dts if self._by_dts else packet.pts
            self._ledger.sent(stamp, packet.duration or 0, packet.is_keyframe)
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            # FFmpeg's own MemoryError too: damage asks for sizes of no sense.
            self._ledger.damage()
            return
        for frame in frames:
            if frame.is_corrupt:
                self._ledger.damage()
            stamp = frame.dts if self._by_dts or frame.pts is None else frame.pts
            if stamp is not None:
                for pts, duration in self._ledger.came(stamp):
                    yield Shown(None, self._clock(pts, duration), duration)
            pts = self._clock(stamp, frame.duration)
            yield Shown(None if frame.is_corrupt else frame, pts, frame.duration)

    def _note_on_end(self, container: InputContainer) -> str | None:
        """What is missing at the end, where the file says how long it should be."""
        ends = self._latest - float(start_of(container))
        whole = (container.duration or 0) / 1_000_000
        # Matroska counts from 0, the others from where they begin.
        missing = whole - max(ends, self._latest)
        if container.format.name.startswith(_WITH_LENGTH):
            if is_cut_short(self._info.path):
                if clock_time(ends) == clock_time(whole):
                    return "the file is cut short at its end"
                # FFmpeg takes what is left of an AVI file for the whole.
                of = "" if container.format.name == "avi" else f" of {clock_time(whole)}"
                return f"the file is cut short: it ends at {clock_time(ends)}{of}"
            if missing > _MISSING:
                return f"it could be read up to {clock_time(ends)} of {clock_time(whole)} only"
        if self._gave_up:
            return f"it could be read up to {clock_time(ends)} only"
        return None


def clock_time(seconds: float) -> str:
    """Seconds as people write them: 0:31, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
