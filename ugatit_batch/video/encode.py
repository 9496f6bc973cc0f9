"""Pictures to one segment of a film: an encoder of its own, in a file of its own.

Knows nothing of networks, and nothing of the film that segments become.
"""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_batch.video.codecs import Coding

OFFSET = "comment"
"""Key of a segment's metadata: what its timestamps have lost, in units of the film's time base."""

_SVT_RATES = (1, 240)


class SegmentEncoder:
    """One segment, being written.

    Its file begins with a picture that needs no other, at whatever time; timestamps in it begin at 0, as NUT
    knows none below.

    Args:
        path: the file, which is made or replaced.
        coding: how pictures are encoded, and what their numbers mean, which is written beside them.
        aspect: width of one pixel over its height.
        time_base: seconds of one unit of timestamps.
        rate: pictures a second, on average.
        film: the film that the segment belongs to, for messages; None: `path`.

    Raises:
        OutputError, DiskFullError: the encoder does not take these settings, or the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        coding: Coding,
        aspect: Fraction,
        time_base: Fraction,
        rate: Fraction,
        film: Path | None = None,
    ) -> None:
        self._path, self._coding = path, coding
        self._time_base = time_base
        self._film = film or path
        self._offset: int | None = None
        # Read by SVT-AV1 alone, which has no other way to keep its settings off stderr.
        os.environ.setdefault("SVT_LOG", "0")
        with self._explained():
            self._output = av.open(
                str(path.absolute()),
                "w",
                format=coding.segment_format,
                container_options=_container_options(coding, time_base),
            )
            self._stream = cast(
                av.VideoStream, self._output.add_stream(coding.encoder, rate=_rate(coding, rate))
            )
            context = self._context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = coding.width, coding.height, coding.pix_fmt
            context.time_base = self._stream.time_base = time_base
            context.sample_aspect_ratio = aspect
            context.colorspace, context.color_range = coding.colour.matrix, coding.colour.range
            context.color_primaries, context.color_trc = coding.colour.primaries, coding.colour.transfer
            context.thread_count = coding.threads
            # PyAV's default, slices alone, makes libx264 slower and its pictures larger.
            context.thread_type = av.codec.context.ThreadType.AUTO
            context.options = {**coding.options, "flags": "+global_header+cgop"}
            context.open()

    def add(self, frame: av.VideoFrame) -> None:
        """Encode one picture.

        Args:
            frame: of the coding's size and pixel format; `pts` in the time base, above the one before.

        Raises:
            ValueError: the picture has another size or format.
            OutputError, DiskFullError: it cannot be encoded or written.
        """
        coding = self._coding
        if (frame.width, frame.height, frame.format.name) != (coding.width, coding.height, coding.pix_fmt):
            raise ValueError(f"a picture of {frame.width}×{frame.height} {frame.format.name} for {coding}")
        frame.time_base = self._time_base
        frame.pict_type = av.video.frame.PictureType.NONE
        # ProRes takes them from here.
        frame.colorspace, frame.color_range = coding.colour.matrix, coding.colour.range
        frame.color_primaries, frame.color_trc = coding.colour.primaries, coding.colour.transfer
        with self._explained():
            self._mux(self._context.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds, and make the file whole on the disk.

        Raises:
            OutputError, DiskFullError: it cannot be written.
        """
        with self._explained():
            self._mux(self._context.encode(None))
            self._output.close()
            with self._path.open("rb+") as handle:
                os.fsync(handle.fileno())

    def abandon(self) -> None:
        """Close and delete the file, whatever has happened before."""
        with contextlib.suppress(av.FFmpegError, OSError):
            self._output.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            if packet.pts is None:
                continue
            decoded = packet.pts if packet.dts is None else packet.dts
            if self._offset is None:
                self._offset = decoded
                self._output.metadata[OFFSET] = str(decoded)
            packet.pts, packet.dts = packet.pts - self._offset, decoded - self._offset
            packet.stream = self._stream
            self._output.mux(packet)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain_os_error(error, self._film) from error
        except av.FFmpegError as error:
            size = f"{self._coding.width}×{self._coding.height}"
            raise OutputError(
                f"{self._film}: {self._coding.encoder} does not encode it in {size} {self._coding.pix_fmt}: "
                f"{error.strerror}",
                "use another --codec, --pix-fmt or --size",
            ) from error


def _container_options(coding: Coding, time_base: Fraction) -> dict[str, str]:
    if coding.segment_format != "mov":
        return {}
    units = str(time_base.denominator)
    return {"movie_timescale": units, "video_track_timescale": units}


def _rate(coding: Coding, rate: Fraction) -> Fraction:
    """What the encoder is told of the rate: a hint for its sense of quality, not for timestamps."""
    rate = rate.limit_denominator(1001)
    if coding.encoder == "libsvtav1":
        return min(max(rate, Fraction(_SVT_RATES[0])), Fraction(_SVT_RATES[1]))
    return rate if rate > 0 else Fraction(25)
