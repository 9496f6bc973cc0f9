"""Reading results back from the disk, to their ends, before the inputs that they were made from may go.

Knows nothing of inputs.
"""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING

import numpy as np
from av.error import FFmpegError
from PIL import Image

from ugatit_batch.errors import FilmError, OutputError
from ugatit_batch.images.headers import is_cut_short as picture_is_cut_short
from ugatit_batch.images.picture import DECODE_ERRORS
from ugatit_batch.planning import is_film
from ugatit_batch.video.lengths import is_cut_short as film_is_cut_short
from ugatit_batch.video.probe import open_film, picture_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from av.video.frame import VideoFrame

_JOINS_EQUAL = frozenset({"GIF", "PNG", "WEBP"})
"""Animations in which Pillow writes equal neighbours as one frame that is shown longer."""


class StoppedError(Exception):
    """The program is to stop before the input could go; it is where it was."""


def read_back(
    result: Path,
    sidecars: Sequence[Path] = (),
    frames: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Read a result and its attention from the disk, to their ends.

    Memory is that of one picture, or one block of packets; speed that of reading.

    Args:
        result: a picture or a film.
        sidecars: pictures, films and arrays.
        frames: pictures in each of them; None where nobody knows.
        should_stop: asked again and again.

    Raises:
        OutputError: one is missing, empty, damaged or too short.
        StoppedError: `should_stop` said so.
    """
    for path in (result, *sidecars):
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise _damaged(path, "is not a file")
            if status.st_size == 0:
                raise _damaged(path, "is empty")
            if path.suffix == ".npy":
                _read_array(path, frames)
            elif is_film(path):
                _read_film(path, frames, should_stop)
            else:
                _read_picture(path, frames, should_stop)
        except FilmError as error:
            raise _damaged(path, error.message.removeprefix(f"{path}: ")) from error
        except (FFmpegError, *DECODE_ERRORS) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise _damaged(path, f"cannot be read: {reason}") from error


def _damaged(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"{path}: does not read back as it was written, so that its input stays: {reason}",
        "look after the disk; where this file is deleted, it is made again",
    )


def _read_picture(path: Path, frames: int | None, should_stop: Callable[[], bool]) -> None:
    with path.open("rb") as file:
        with Image.open(file) as image:
            # Checksums, where the format has them; the image cannot be used any more.
            image.verify()
        file.seek(0)
        with Image.open(file) as image:
            kind, count = image.format, int(getattr(image, "n_frames", 1))
            for index in range(count):
                if should_stop():
                    raise StoppedError
                image.seek(index)
                image.load()
        file.seek(0)
        if kind in ("GIF", "WEBP") and picture_is_cut_short(file.read()):
            raise _damaged(path, "it is cut short")
    joined = kind in _JOINS_EQUAL and frames is not None and 1 <= count <= frames
    if frames is not None and count != frames and not joined and kind in _JOINS_EQUAL | {"AVIF"}:
        raise _damaged(path, f"it has {count} pictures, and should have {frames}")


def _read_array(path: Path, frames: int | None) -> None:
    array = np.lib.format.open_memmap(path, mode="r")
    size = path.stat().st_size
    if array.offset + array.nbytes != size:
        raise _damaged(path, f"it has {size} bytes, and should have {array.offset + array.nbytes}")
    if frames is not None and array.ndim == 3 and len(array) != frames:
        raise _damaged(path, f"it has {len(array)} pictures, and should have {frames}")


def _read_film(path: Path, frames: int | None, should_stop: Callable[[], bool]) -> None:
    """Read every packet; decode the first picture, and all from the last keyframe on."""
    if film_is_cut_short(path):
        raise _damaged(path, "it is cut short")
    with open_film(path) as container:
        stream = picture_stream(container, path)
        stream.thread_type = "AUTO"
        first: VideoFrame | None = None
        count, begin, end, keyframe = 0, math.inf, -math.inf, 0
        for packet in container.demux():
            if should_stop():
                raise StoppedError
            if packet.is_corrupt:
                raise _damaged(path, f"it cannot be read after its picture {count}")
            if packet.stream_index != stream.index or not packet.size or packet.pts is None:
                continue
            count += 1
            begin, end = min(begin, packet.pts), max(end, packet.pts)
            keyframe = packet.pts if packet.is_keyframe else keyframe
            first = first or next(iter(stream.decode(packet)), None)
        first = first or next(iter(stream.decode(None)), None)
        if first is None or first.is_corrupt or first.pts != begin:
            raise _damaged(path, "its first picture cannot be decoded")
        if frames is not None and count != frames:
            raise _damaged(path, f"it has {count} pictures, and should have {frames}")
        container.seek(keyframe, stream=stream)
        last: VideoFrame | None = None
        for ending in container.demux(stream):
            if should_stop():
                raise StoppedError
            last = next(reversed(stream.decode(ending)), last)
        if last is None or last.is_corrupt or last.pts != end:
            raise _damaged(path, "its last picture cannot be decoded")
