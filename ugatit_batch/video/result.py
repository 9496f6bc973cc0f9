"""The films that are made of one film's pictures: the result, and its attention. A segment of all of them.

Knows nothing of how the pictures were read, or of networks.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import UgatitBatchError
from ugatit_batch.video.attention import film_sidecar_path
from ugatit_batch.video.encode import SegmentEncoder
from ugatit_batch.video.graphs import FromNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from ugatit_batch.frames import Attention, Pixels
    from ugatit_batch.images.geometry import Placement, Sizing
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.video.codecs import Coding
    from ugatit_batch.video.info import FilmInfo
    from ugatit_batch.video.segments import SegmentFolder

_RESULT = "result"
_ARRAY = "npy.raw"


@dataclass(frozen=True)
class Shape:
    """What all films of one source have in common."""

    info: FilmInfo
    placement: Placement
    coding: Coding
    target: Path
    kinds: tuple[Kind, ...]
    aspect: Fraction

    @property
    def drawn(self) -> tuple[Kind, ...]:
        """The kinds of attention that are films."""
        return tuple(kind for kind in self.kinds if kind != "npy")

    @property
    def names(self) -> list[str]:
        """What the files of each segment are called."""
        return [self._name(kind) for kind in (None, *self.kinds)]

    def file(self, folder: SegmentFolder, index: int, kind: Kind | None = None) -> Path:
        """The file of one segment of the result, or of one kind of attention."""
        return folder.segment(index, self._name(kind))

    def _name(self, kind: Kind | None) -> str:
        return _ARRAY if kind == "npy" else f"{kind or _RESULT}.{self.coding.segment_format}"

    def sidecar(self, kind: Kind) -> Path:
        """Where one kind of attention goes in the end."""
        return film_sidecar_path(self.target, kind)


def result_aspect(info: FilmInfo, placement: Placement, sizing: Sizing) -> Fraction:
    """Width of one pixel of the result over its height: the source's, unless it was stretched and left so."""
    if not (sizing.square and sizing.fit == "stretch" and sizing.output == "network"):
        return info.aspect
    width, height = placement.source
    return info.aspect * Fraction(width, height) / Fraction(*placement.result)


class Converters:
    """Turn arrays of pixels into what encoders take; used for all segments."""

    def __init__(self, shape: Shape) -> None:
        info, coding = shape.info, shape.coding
        size = (coding.width, coding.height)
        arguments = (coding.colour, coding.pix_fmt, size, info.time_base, coding.threads)
        self.result = FromNetwork(shape.placement, *arguments)
        plain = replace(
            shape.placement,
            scaled=shape.placement.result,
            network=shape.placement.result,
            offset=(0, 0),
        )
        self.attention = {kind: FromNetwork(plain, *arguments) for kind in shape.drawn}


class SegmentFilms:
    """One segment of the result and of its attention, being written.

    Args:
        shape: of the films.
        converters: for all segments.
        folder: where segments are kept.
        index: of this segment.

    Raises:
        OutputError, DiskFullError: they cannot be written.
    """

    def __init__(self, shape: Shape, converters: Converters, folder: SegmentFolder, index: int) -> None:
        self._converters = converters
        self._array: BinaryIO | None = None
        self._array_path = shape.file(folder, index, "npy")
        self._target = shape.target
        self._encoders: dict[Kind | None, SegmentEncoder] = {}
        try:
            for kind in (None, *shape.drawn):
                self._encoders[kind] = SegmentEncoder(
                    shape.file(folder, index, kind),
                    shape.coding,
                    shape.aspect,
                    shape.info.time_base,
                    shape.info.rate,
                    shape.target if kind is None else shape.sidecar(kind),
                )
            if "npy" in shape.kinds:
                self._array = self._array_path.open("wb")
        except OSError as error:
            self.abandon()
            raise explain_os_error(error, shape.target) from error
        except UgatitBatchError:
            self.abandon()
            raise

    def add(
        self, pixels: Pixels, attention: Attention, drawn: Mapping[Kind, Pixels], pts: int, duration: int
    ) -> None:
        """Take one picture, what the network made of it and how its attention looks.

        Raises:
            OutputError, DiskFullError: it cannot be written.
        """
        self._encoders[None].add(self._converters.result(pixels, pts, duration))
        for kind, picture in drawn.items():
            self._encoders[kind].add(self._converters.attention[kind](picture, pts, duration))
        if self._array is not None:
            with self._explained():
                self._array.write(np.ascontiguousarray(attention, "<f4").data)

    def finish(self) -> None:
        """Make everything whole on the disk.

        Raises:
            OutputError, DiskFullError: it cannot be written.
        """
        for encoder in self._encoders.values():
            encoder.finish()
        if self._array is not None:
            with self._explained():
                self._array.flush()
                os.fsync(self._array.fileno())
                self._array.close()

    def abandon(self) -> None:
        """Delete what there is."""
        for encoder in self._encoders.values():
            encoder.abandon()
        if self._array is not None:
            with contextlib.suppress(OSError):
                self._array.close()
            with contextlib.suppress(OSError):
                self._array_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain_os_error(error, self._target) from error


def join_arrays(segments: Sequence[Path], target: Path, pictures: int, shape: tuple[int, int]) -> None:
    """Write raw float32 arrays one after the other as one `.npy` of pictures × shape.

    Args:
        segments: files of raw values.
        target: the file to write.
        pictures: in all of them.
        shape: (height, width) of one.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": (pictures, *shape)}
    with target.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for path in segments:
            with path.open("rb") as part:
                while block := part.read(1 << 20):
                    out.write(block)
