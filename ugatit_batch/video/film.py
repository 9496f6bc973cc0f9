"""One film on its way through the pipeline: read, written in segments, joined at the end.

Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import deque
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from ugatit_batch import __version__
from ugatit_batch.atomic import partial_path, replacing
from ugatit_batch.errors import FilmError
from ugatit_batch.frames import Frame, Smoothing
from ugatit_batch.images.geometry import place
from ugatit_batch.images.sidecars import KINDS
from ugatit_batch.video.attention import AttentionPictures, film_sidecar_path
from ugatit_batch.video.codecs import choose_coding
from ugatit_batch.video.decode import FilmReader, Mark
from ugatit_batch.video.flicker import Flicker, grid
from ugatit_batch.video.hardware import choose_hwaccel
from ugatit_batch.video.join import join_film
from ugatit_batch.video.probe import probe_film, unreadable
from ugatit_batch.video.result import Converters, SegmentFilms, Shape, join_arrays, result_aspect
from ugatit_batch.video.segments import Segment, SegmentFolder
from ugatit_batch.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from ugatit_batch.frames import Finished, SizeRule
    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.video.decode import FilmFrame
    from ugatit_batch.video.flicker import Grid
    from ugatit_batch.video.info import FilmInfo, FilmOptions

_SMOOTHING_SECONDS = 0.25
"""Time in which the averaged style comes to 63 % of a change."""


class FilmWork:
    """A film that has been opened.

    Args:
        source: the film.
        target: where the result goes; its suffix names the container.
        sizing: working size.
        rule: which sizes the network takes.
        options: how it is read and written.
        kinds: which attention films.
        made_with: whatever else decides the result; a killed run goes on only where it is the same.
        say: is told how many pictures are written, and how many there are likely to be.
        should_stop: asked while the film is put together; True ends that, and a later run does it.

    Raises:
        FilmError, SizeError: the film cannot be read, or not in this size.
        UsageError, EnvironmentLacksError: it cannot be written as it was asked for.
        OutputBusyError, OutputError, DiskFullError: the target's folder cannot be written.
    """

    streams = True

    def __init__(
        self,
        source: Path,
        target: Path,
        sizing: Sizing,
        rule: SizeRule,
        options: FilmOptions,
        kinds: tuple[Kind, ...],
        made_with: str,
        say: Callable[[int, int | None], None] = lambda _done, _of: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        info = self._info = probe_film(source)
        placement = place(info.width, info.height, sizing, rule)
        coding, notes = choose_coding(info, placement.result, options, target, options.threads)
        self._shape = Shape(info, placement, coding, target, kinds, result_aspect(info, placement, sizing))
        self._options, self._say, self._should_stop = options, say, should_stop
        hardware, hardware_note = choose_hwaccel(info, options.hwaccel, on_cuda=True)
        self._hardware = hardware
        self._notes = [*info.notes, *notes, *([hardware_note] if hardware_note else [])]
        self._converters = Converters(self._shape)
        identity = _identity(self._shape, options, made_with)
        self._folder = SegmentFolder(target, identity, self._shape.names, resume=options.resume)
        # What a killed run was joining; only now is it certain that none is.
        for path in (target, *(film_sidecar_path(target, kind) for kind in KINDS)):
            with contextlib.suppress(OSError):
                partial_path(path).unlink(missing_ok=True)
        state = self._state = self._folder.state
        self._total = _expected(self._shape, options)
        self._line: deque[tuple[FilmFrame, Grid]] = deque()
        self._attention = AttentionPictures(placement, kinds, float(info.rate), state.attention)
        self._flicker = {
            name: Flicker.from_state(state.flicker[name]) if name in state.flicker else Flicker()
            for name in ("source", "result")
        }
        self._films: SegmentFilms | None = None
        self._in_segment = self._repeated = 0
        self._last: FilmFrame | None = None
        self._between_steps = True
        self._style = state.style
        self.smoothing = _smoothing(info, state.style) if options.smooth else None

    def frames(self) -> Generator[Frame, None, None]:
        """See `Work`.

        Raises:
            FilmError: nothing more can be read.
        """
        if self._state.complete:
            return
        segments, options = self._state.segments, self._options
        reader = FilmReader(
            self._info,
            self._shape.placement,
            start=options.start,
            end=options.end,
            after=Mark(segments[-1].last, segments[-1].checksum) if segments else None,
            hwaccel=self._hardware,
            threads=options.threads,
        )
        with contextlib.closing(reader.frames()) as frames:
            for frame in frames:
                self._line.append((frame, grid(frame.pixels)))
                yield Frame(frame.pixels, frame.cut)
        self._state.notes, self._state.shifts = reader.notes, reader.shifts

    def add(self, finished: Finished) -> None:
        """See `Work`.

        Raises:
            OutputError, DiskFullError: it cannot be written.
        """
        self._between_steps = False
        frame, seen = self._line.popleft()
        if self._state.first is None:
            self._state.first = frame.pts
        if self._last is not None and self._number(frame.pts) != self._number(self._last.pts):
            self._close_segment()
        if self._films is None:
            index = len(self._state.segments)
            self._films = SegmentFilms(self._shape, self._converters, self._folder, index)
        drawn = self._attention.draw(finished.attention, finished.pixels, frame.cut)
        self._films.add(finished.pixels, finished.attention, drawn, frame.pts, frame.duration)
        self._flicker["source"].add(seen, frame.cut)
        self._flicker["result"].add(grid(finished.pixels), frame.cut)
        self._style = None if finished.style is None else finished.style.tolist()
        self._last = frame
        self._in_segment += 1
        self._repeated += frame.repeated
        self._between_steps = True
        self._say(self._state.pictures + self._in_segment, self._total)

    def finish(self) -> Written:
        """See `Work`. The result comes last: where it is, its attention is.

        Raises:
            FilmError: there was no picture.
            OutputError, DiskFullError: it cannot be written.
        """
        self._between_steps = False
        state, shape = self._state, self._shape
        self._close_segment()
        if not state.segments:
            raise FilmError(
                f"{self._info.path}: has no picture in the part that was asked for",
                "check --start and --end",
            )
        state.complete = True
        self._folder.keep()
        for kind in shape.kinds:
            self._join(kind)
        notes = self._join(None)
        self._folder.remove()
        repeated = sum(segment.repeated for segment in state.segments)
        if repeated == 1:
            notes.append("1 picture was damaged and is shown as the last good one")
        elif repeated:
            notes.append(f"{repeated} pictures were damaged and are shown as the last good one")
        figures = {name: flicker.figure for name, flicker in self._flicker.items()}
        return Written(
            state.pictures,
            tuple(shape.sidecar(kind) for kind in shape.kinds),
            (*self._notes, *state.notes, *notes),
            {name: round(value, 3) for name, value in figures.items() if value is not None} or None,
        )

    def abandon(self) -> None:
        """See `Work`. Whole segments stay."""
        if self._films is not None:
            self._films.abandon()
        self._folder.close()

    def pause(self) -> None:
        """See `Work`. The segment at hand ends with the picture that was added last.

        Raises:
            OutputError, DiskFullError: that cannot be written; the segments before it stay.
        """
        try:
            # A step that was broken off may have written a picture to one file and not to the other.
            if self._between_steps:
                self._close_segment()
        finally:
            self.abandon()

    def _number(self, pts: int) -> int:
        """Of the segment that a picture belongs to, counted in time."""
        return math.floor((pts - (self._state.first or 0)) * self._info.time_base / self._options.segment)

    def _close_segment(self) -> None:
        last = self._last
        if self._films is None or last is None:
            return
        self._films.finish()
        self._films = None
        state = self._state
        state.segments.append(
            Segment(self._in_segment, self._repeated, last.pts, last.duration, last.checksum)
        )
        state.style, state.attention = self._style, self._attention.state
        state.flicker = {name: flicker.state() for name, flicker in self._flicker.items()}
        self._in_segment = self._repeated = 0
        self._folder.keep()

    def _join(self, kind: Kind | None) -> list[str]:
        """Make one film, or array, of all its segments."""
        shape, state = self._shape, self._state
        files = [shape.file(self._folder, index, kind) for index in range(len(state.segments))]
        target = shape.target if kind is None else shape.sidecar(kind)
        with replacing(target) as partial:
            if kind == "npy":
                width, height = shape.placement.network
                join_arrays(files, partial, state.pictures, (height // 4, width // 4))
                return []
            return join_film(
                self._info if kind is None else None,
                files,
                partial,
                coding=shape.coding,
                aspect=shape.aspect,
                rate=self._info.rate,
                time_base=self._info.time_base,
                last_duration=state.segments[-1].last_duration,
                options=self._options,
                shifts=[units * self._info.time_base for units in state.shifts],
                film=target,
                should_stop=self._should_stop,
            )


def _smoothing(info: FilmInfo, before: list[float] | None) -> Smoothing:
    keep = math.exp(-1 / max(float(info.rate) * _SMOOTHING_SECONDS, 1e-6))
    return Smoothing(keep, None if before is None else np.array(before, np.float32))


def _expected(shape: Shape, options: FilmOptions) -> int | None:
    """How many pictures there are likely to be between `start` and `end`."""
    info = shape.info
    if info.frames is None or (options.start is None and options.end is None):
        return info.frames
    length = Fraction(info.frames) / info.rate if info.duration is None else info.duration
    begin, end = options.start or Fraction(0), options.end
    wanted = (length if end is None else min(end, length)) - begin
    return max(0, math.ceil(wanted * info.rate))


def _identity(shape: Shape, options: FilmOptions, made_with: str) -> str:
    """Equal where segments of an earlier run can be gone on from."""
    try:
        source = shape.info.path.stat()
    except OSError as error:
        raise unreadable(shape.info.path, error) from error
    parts = {
        "source": [str(shape.info.path.resolve()), source.st_size, source.st_mtime_ns],
        "made_with": made_with,
        "coding": asdict(shape.coding),
        "segment": options.segment,
        "kinds": sorted(shape.kinds),
        "versions": [__version__, av.__version__, av.ffmpeg_version_info],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
