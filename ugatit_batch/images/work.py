"""One still or animation on its way through the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ugatit_batch.errors import OutputError
from ugatit_batch.frames import Frame
from ugatit_batch.images.read import open_picture
from ugatit_batch.images.sidecars import write_sidecars
from ugatit_batch.images.write import ENCODE_ERRORS, write_picture
from ugatit_batch.written import Written

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from ugatit_batch.frames import Attention, Finished, Pixels, SizeRule
    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.images.write import Encoding


class PictureWork:
    """A picture that has been opened; its results are gathered, and written when they are complete.

    Args:
        source: the picture.
        target: where the result goes.
        sizing: working size.
        rule: which sizes the network takes.
        encoding: how results are written.
        kinds: which attention sidecars.

    Raises:
        PictureError, SizeError: as `open_picture`.
    """

    streams = False
    smoothing = None

    def __init__(
        self,
        source: Path,
        target: Path,
        sizing: Sizing,
        rule: SizeRule,
        encoding: Encoding,
        kinds: Sequence[Kind],
    ) -> None:
        self._picture = open_picture(source, sizing, rule)
        self._target, self._encoding, self._kinds = target, encoding, kinds
        self._pixels: list[Pixels] = []
        self._attention: list[Attention] = []

    def frames(self) -> Generator[Frame, None, None]:
        """See `Work`.

        Raises:
            PictureError: a frame of an animation is damaged.
        """
        for pixels in self._picture.frames():
            yield Frame(pixels)

    def add(self, finished: Finished) -> None:
        """See `Work`."""
        self._pixels.append(finished.pixels)
        self._attention.append(finished.attention)

    def finish(self) -> Written:
        """See `Work`. The result comes last: where it is, its sidecars are.

        Raises:
            OutputError, DiskFullError: something cannot be written.
        """
        picture = self._picture
        try:
            paths = write_sidecars(picture, self._pixels, self._attention, self._target, self._kinds)
            notes = write_picture(picture, self._pixels, self._target, self._encoding)
        except ENCODE_ERRORS as error:
            raise OutputError(f"{self._target}: cannot be written: {error}", "use --format png") from error
        return Written(picture.frame_count, tuple(paths), (*picture.notes, *notes))

    def abandon(self) -> None:
        """See `Work`."""
        self._pixels.clear()
        self._attention.clear()

    def pause(self) -> None:
        """See `Work`. A part of a picture is of no use to a later run."""
        self.abandon()
