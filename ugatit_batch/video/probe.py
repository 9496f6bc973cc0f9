"""What a film is: its stream of pictures, their size, colours and timing, before anything is translated.

Knows nothing of networks and of what is asked for.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.error import FFmpegError
from av.error import LookupError as FFmpegLookupError
from av.stream import Disposition

from ugatit_batch.errors import FilmError
from ugatit_batch.video.colour import colour_of, depth_of, has_alpha, unreadable_matrix
from ugatit_batch.video.info import FilmInfo
from ugatit_batch.video.lengths import lacks_index

if TYPE_CHECKING:
    from pathlib import Path

    from av.container import InputContainer
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from ugatit_batch.video.info import Turn

_RECORDINGS = ("mpegts", "mpeg")
_PACKETS_TO_TRY = 500
_MICROSECOND = Fraction(1, 1_000_000)
_LONGEST_ASPECT = 100

_TURN_OF_SIGNS: dict[tuple[int, int, int, int], Turn] = {
    (1, 0, 0, 1): "none",
    (0, 1, -1, 0): "right",
    (-1, 0, 0, -1): "half",
    (0, -1, 1, 0): "left",
    (-1, 0, 0, 1): "flip",
    (0, -1, -1, 0): "flip_right",
    (1, 0, 0, -1): "flip_half",
    (0, 1, 1, 0): "flip_left",
}
"""By the signs of a, b, c, d in x' = a·x + c·y, y' = b·x + d·y, with y downwards."""


def open_film(path: Path, hwaccel: av.codec.hwaccel.HWAccel | None = None) -> InputContainer:
    """Open a film to read it.

    Raises:
        FilmError: it is not there, empty, not a film, or cut short so that its index is missing.
    """
    try:
        if path.stat().st_size == 0:
            raise FilmError(f"{path}: is empty", "copy or download it again")
        return av.open(path, "r", hwaccel=hwaccel, metadata_errors="replace")
    except (av.error.InvalidDataError, EOFError) as error:
        if lacks_index(path):
            raise FilmError(
                f"{path}: has no index (`moov`): recording was not finished, or the copy stopped early",
                "copy it again, or repair it with the camera or a tool such as untrunc",
            ) from error
        raise FilmError(f"{path}: is not a film, or is damaged at its beginning", "check the file") from error
    except (FFmpegError, OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> FilmError:
    """The error for a film that the disk or FFmpeg does not read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return FilmError(f"{path}: could not be read ({reason})", "check the file, its permissions and the disk")


def picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream of pictures that is translated: of the default ones, else of all, the first of the largest.

    Never a cover picture.

    Raises:
        FilmError: there is none, or none that can be decoded.
    """
    streams = _picture_streams(container)
    if not streams:
        if container.streams.video:
            raise FilmError(f"{path}: has sound and a cover picture, but no film", "leave it out")
        if container.streams.audio:
            raise FilmError(f"{path}: has only sound, no pictures", "leave it out")
        raise FilmError(f"{path}: has no stream of pictures", "check the file")
    # PyAV's types say that there always is a decoder.
    known = [stream for stream in streams if cast("object | None", stream.codec_context) is not None]
    if not known:
        raise FilmError(
            f"{path}: no decoder for its pictures (their codec is not known)",
            "convert the film with ffmpeg and try again",
        )
    default = [stream for stream in known if stream.disposition & Disposition.default]
    return max(default or known, key=lambda stream: stream.width * stream.height)


def probe_film(path: Path) -> FilmInfo:
    """Read a film's headers and its first picture.

    Raises:
        FilmError: it is not a film, has no stream of pictures, is empty or cut short so that no index is
            there, or its first picture cannot be decoded.
    """
    with open_film(path) as container:
        name = container.format.name
        if name.endswith("_pipe") or name in ("image2", "tty"):
            raise FilmError(f"{path}: is not a film ({name})", "give it the suffix of what it is")
        stream = picture_stream(container, path)
        frame = _first_picture(container, stream, path)
        return _describe(path, container, stream, frame)


def start_of(container: InputContainer) -> Fraction:
    """Seconds at which the file's own time begins, from which `--start` counts."""
    return (container.start_time or 0) * _MICROSECOND


def _picture_streams(container: InputContainer) -> list[VideoStream]:
    """Streams of pictures that are not covers or thumbnails."""
    not_films = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return [stream for stream in container.streams.video if not stream.disposition & not_films]


def _first_picture(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    """The first picture that can be decoded, within a bounded number of packets.

    Raises:
        FilmError: there is none.
    """
    tried = 0
    packets = container.demux(stream)
    while tried < _PACKETS_TO_TRY:
        tried += 1
        try:
            packet = next(packets, None)
            if packet is None:
                break
            frames = stream.decode(packet)
        except FFmpegLookupError as error:
            raise unreadable(path, error) from error
        except (av.error.InvalidDataError, EOFError):
            # A generator that has raised is over: `next` gives None.
            continue
        except (FFmpegError, OSError) as error:
            raise unreadable(path, error) from error
        if frames:
            return frames[0]
    raise FilmError(
        f"{path}: none of its first pictures could be decoded ({stream.codec_context.name})",
        "check that it plays, or convert it with ffmpeg",
    )


def _describe(path: Path, container: InputContainer, stream: VideoStream, frame: VideoFrame) -> FilmInfo:
    turn = turn_of(frame)
    quarter = turn in ("right", "left", "flip_right", "flip_left")
    width, height = (frame.height, frame.width) if quarter else (frame.width, frame.height)
    colour = colour_of(frame, stream.codec_context)
    unknown = unreadable_matrix(colour)
    if unknown is not None:
        raise FilmError(
            f"{path}: its colours are coded as {unknown}, which cannot be read",
            "convert the film with ffmpeg to BT.709 and try again",
        )
    if stream.time_base is None:
        raise FilmError(f"{path}: says nothing of the unit of its timestamps", "remux it with ffmpeg")
    rate = _rate(stream)
    duration = _duration(container, stream)
    frames = stream.frames or (round(duration * rate) if duration is not None else 0)
    return FilmInfo(
        path=path,
        stream=stream.index,
        width=width,
        height=height,
        turn=turn,
        aspect=_aspect(stream, quarter),
        colour=colour,
        pix_fmt=frame.format.name,
        depth=depth_of(frame.format.name),
        time_base=stream.time_base,
        rate=rate,
        frames=frames or None,
        duration=duration,
        notes=_notes(container, frame, colour.is_hdr),
        begin=start_of(container),
        origin=_origin(container, frame, stream.time_base),
    )


def _origin(container: InputContainer, frame: VideoFrame, time_base: Fraction) -> Fraction:
    """Seconds that all timestamps lose, in whole units of the pictures' time base.

    Recordings of broadcasts begin wherever their clock stood; pictures before 0 are seen in no container.
    """
    if container.format.name in _RECORDINGS:
        begin = start_of(container)
    elif frame.pts is not None and frame.pts < 0:
        begin = frame.pts * time_base
    else:
        return Fraction(0)
    return round(begin / time_base) * time_base


def turn_of(frame: VideoFrame) -> Turn:
    """How this picture becomes upright, by the display matrix that it carries."""
    # PyAV's stubs say nothing of side data that is neither motion vectors nor encoding parameters.
    data = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return "none"
    a, b, _, c, d = (int(value) for value in np.frombuffer(memoryview(data), np.int32)[:5])
    # Where the angle is no multiple of 90°, the nearest one.
    if abs(a) + abs(d) >= abs(b) + abs(c):
        signs = (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    else:
        signs = (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)
    return _TURN_OF_SIGNS[signs]


def _rate(stream: VideoStream) -> Fraction:
    """Pictures a second, on average; 25 where nothing is known."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and 0 < rate <= 1000:
            return rate
    return Fraction(25)


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Seconds, as the stream says, or else the file."""
    if stream.duration is not None and stream.duration > 0 and stream.time_base is not None:
        return stream.duration * stream.time_base
    if container.duration is not None and container.duration > 0:
        return container.duration * _MICROSECOND
    return None


def _aspect(stream: VideoStream, quarter: bool) -> Fraction:
    """Width of an upright pixel over its height; 1 where the file says nothing, or nonsense."""
    aspect = stream.sample_aspect_ratio
    if aspect is None or not Fraction(1, _LONGEST_ASPECT) <= aspect <= _LONGEST_ASPECT:
        return Fraction(1)
    return 1 / aspect if quarter else aspect


def _notes(container: InputContainer, frame: VideoFrame, hdr: bool) -> tuple[str, ...]:
    notes = []
    if frame.interlaced_frame:
        notes.append("is interlaced; its two fields are translated as one picture")
    if has_alpha(frame.format.name):
        notes.append("transparency is not kept")
    if hdr:
        notes.append("HDR was tone-mapped to BT.709")
    count = len(_picture_streams(container))
    if count > 1:
        notes.append(f"only one of {count} picture streams is translated")
    return tuple(notes)
