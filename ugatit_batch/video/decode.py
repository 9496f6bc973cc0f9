"""The pictures of a film, one by one, as a network takes them, with their own timestamps.

Knows nothing of networks beyond the size they take, and of what becomes of the pictures.
"""

from __future__ import annotations

import zlib
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from ugatit_batch.errors import FilmError
from ugatit_batch.video.graphs import ToNetwork
from ugatit_batch.video.packets import LEAD, Decoding, SeekMissedError, Shown, clock_time

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from av.codec.hwaccel import HWAccel
    from av.video.frame import VideoFrame

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.geometry import Placement
    from ugatit_batch.video.info import FilmInfo

_MICROSECOND = Fraction(1, 1_000_000)

# What `scdet` compares: a picture, the one before it, and how much those two differed before.
_REMEMBERED = 4


@dataclass(frozen=True)
class Mark:
    """The last picture that was done, by which reading goes on."""

    pts: int
    """As in FilmFrame."""
    checksum: int
    """As in FilmFrame."""


@dataclass(frozen=True)
class FilmFrame:
    """One picture of a film."""

    pixels: Pixels
    """uint8 H×W×3 RGB of the network's size. A repeated picture shares them with the one it repeats."""
    pts: int
    """When it is shown, in the film's time base; from `start` on, where there is one."""
    duration: int
    """For how long, in the same units; 0 where the file does not say."""
    cut: bool
    """Whether a scene starts here."""
    repeated: bool
    """Whether damage has cost this picture, so that the last good one is shown, or the first."""
    checksum: int
    """CRC-32 of the pixels."""


class FilmReader:
    """Reads one film.

    Every picture is given once, in the order of showing, with the timestamp it has in the file. Where
    timestamps repeat or go back, which broken files do, they are made strictly increasing, and a note says
    so. Pictures that damage has cost are given as the last good one.

    Args:
        info: the film.
        placement: where its upright picture lies in the network's input.
        start: seconds of the file's own time (whose 0 is where its first stream begins) before which
            pictures are left out; the result begins at 0 there.
        end: seconds of the file's own time from which pictures are left out.
        after: go on after this picture of an earlier reading with the same arguments. What is given is
            what that reading would have given.
        hwaccel: hardware that decodes, from `choose_hwaccel`.
        threads: of decoder and filters; 0: as many as there are cores. Never changes the pictures of an
            undamaged film.
    """

    def __init__(
        self,
        info: FilmInfo,
        placement: Placement,
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        after: Mark | None = None,
        hwaccel: HWAccel | None = None,
        threads: int = 0,
    ) -> None:
        self._info = info
        self._placement = placement
        self._start = start
        self._end = end
        self._after = after
        self._hwaccel = hwaccel
        self._threads = threads
        self._pass_notes: list[str] = []
        self._shifts: list[int] = []
        self._repeated = 0
        self._offset = 0

    @property
    def repeated(self) -> int:
        """Pictures that damage has cost, among those given so far."""
        return self._repeated

    @property
    def notes(self) -> list[str]:
        """What was wrong with the film's timestamps and its end, as far as it was read, a clause each."""
        return list(self._pass_notes)

    @property
    def shifts(self) -> list[int]:
        """By how much pictures were moved on in all after each jump back of their time; known at the end."""
        return list(self._shifts)

    def frames(self) -> Generator[FilmFrame, None, None]:
        """Read. The file is open while this generator runs, and closed when it ends or is closed.

        Raises:
            FilmError: the file cannot be read, none of its pictures can be decoded, or none lies between
                `start` and `end`.
        """
        self._repeated = 0
        begin = self._info.begin
        first = None if self._start is None else self._units(begin + self._start)
        stop = None if self._end is None else self._units(begin + self._end)
        self._offset = round(self._info.origin / self._info.time_base) if first is None else first
        wanted = first if self._after is None else self._after.pts + self._offset
        # Time may have jumped back before the part, which has to be counted from the beginning on.
        is_recording = self._start is not None and self._info.origin != 0
        if wanted is not None and not is_recording and wanted * self._info.time_base > begin + LEAD:
            try:
                yield from self._given(first, stop, wanted * self._info.time_base)
            except SeekMissedError:
                pass
            else:
                return
        yield from self._given(first, stop, None)

    def _units(self, seconds: Fraction) -> int:
        """The first timestamp that is not before a time; the file's own start is rounded to microseconds."""
        return ceil((seconds - _MICROSECOND) / self._info.time_base)

    def _given(self, first: int | None, stop: int | None, seek: Fraction | None) -> Iterator[FilmFrame]:
        """One pass over the file.

        Args:
            first: timestamp of the file at which the result begins, or None for all.
            stop: timestamp of the file at which it ends, or None.
            seek: seconds, in the file's timestamps, of the first picture of interest, or None to decode all.

        Raises:
            SeekMissedError: after seeking, the pictures are not those of the earlier reading. Nothing has
                been given then.
        """
        decoding = Decoding(self._info, self._hwaccel, self._threads, seek)
        sequence = _Sequence(ToNetwork(self._info, self._placement, self._threads), self._offset)
        done = self._after
        remembered: deque[VideoFrame] = deque(maxlen=_REMEMBERED)
        with closing(decoding.pictures()) as pictures:
            for shown in pictures:
                if first is not None and shown.pts < first:
                    continue
                if stop is not None and shown.pts >= stop:
                    break
                if done is not None:
                    pts = shown.pts - self._offset
                    if pts <= done.pts:
                        sequence.pass_over()
                        if shown.frame is not None:
                            remembered.append(shown.frame)
                        if pts < done.pts:
                            continue
                    sequence.remember(remembered)
                    if seek is not None and (pts != done.pts or sequence.checksum != done.checksum):
                        raise SeekMissedError("the pictures are not those of the earlier reading")
                    remembered.clear()
                    at_mark, done = pts == done.pts, None
                    if at_mark:
                        continue
                for frame in sequence(shown):
                    self._repeated += frame.repeated
                    yield frame
            else:
                if seek is not None and done is not None:
                    raise SeekMissedError("the film ends before the point that is wanted")
        self._pass_notes, self._shifts = decoding.notes, decoding.shifts
        if not sequence.began:
            raise FilmError(*self._nothing())
        if sequence.checksum is None and self._after is None:
            raise FilmError(
                f"{self._info.path}: none of its pictures could be decoded",
                "check that it plays, or copy it again",
            )

    def _nothing(self) -> tuple[str, str]:
        """Message and hint for a film without a picture where pictures are wanted."""
        if self._start is None and self._end is None:
            return f"{self._info.path}: holds no picture", "check that it plays, or copy it again"
        start = clock_time(float(self._start or 0))
        end = "its end" if self._end is None else clock_time(float(self._end))
        return f"{self._info.path}: no picture between {start} and {end}", "use other times"


class _Sequence:
    """Pictures as they are shown made into those that are given: damage replaced, scenes marked.

    Args:
        convert: for the good ones.
        offset: what is taken off timestamps.
    """

    def __init__(self, convert: ToNetwork, offset: int) -> None:
        self._convert = convert
        self._offset = offset
        self._waiting: list[tuple[Shown, bool]] = []
        self._pixels: Pixels | None = None
        self.checksum: int | None = None
        """Of the last good picture; None before it."""
        self.began = False
        """Whether any picture came, good or not."""

    def pass_over(self) -> None:
        """A picture came that was given by an earlier reading."""
        self.began = True

    def remember(self, frames: deque[VideoFrame]) -> None:
        """Take in good pictures that were given by an earlier reading: the last ones, in order."""
        for frame in frames:
            self._take(frame)

    def __call__(self, shown: Shown) -> Iterator[FilmFrame]:
        """What is given when this picture comes: nothing as long as none was good, then all of those."""
        first, self.began = not self.began, True
        if shown.frame is None:
            if self._pixels is None:
                self._waiting.append((shown, first))
            else:
                yield self._give(shown, repeated=True)
            return
        fresh = self._pixels is None
        cut = self._take(shown.frame)
        for waiting, begins in self._waiting:
            yield self._give(waiting, cut=begins, repeated=True)
        self._waiting.clear()
        yield self._give(shown, cut=first if fresh else cut)

    def _take(self, frame: VideoFrame) -> bool:
        """Convert a good picture; whether a scene starts with it."""
        self._pixels, cut = self._convert(frame)
        self.checksum = zlib.crc32(self._pixels.data)
        return cut

    def _give(self, shown: Shown, *, cut: bool = False, repeated: bool = False) -> FilmFrame:
        if self._pixels is None or self.checksum is None:
            raise RuntimeError("no picture to give")
        return FilmFrame(self._pixels, shown.pts - self._offset, shown.duration, cut, repeated, self.checksum)
