"""One decoded picture: what its frames are to a network, and what has to come back into its result.

Knows nothing of how a file is opened or written.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from ugatit_batch.errors import PictureError
from ugatit_batch.images import colour
from ugatit_batch.images.geometry import Placement, pad_to_network, scale_to_network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.metadata import Metadata

PIXEL_LIMIT = 16384 * 16384
"""The most pixels that one picture may have; more is taken for a decompression bomb."""

# The last three are what Pillow's warnings become in programs that turn warnings into errors.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    UserWarning,
)
"""Everything that a damaged file is known to raise inside Pillow."""

# Pillow complains of small faults by warnings, and `warnings.catch_warnings` is not safe between threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
# `open_picture` counts pixels itself; Pillow's own, lower, limit is raised once and stays.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, PIXEL_LIMIT)

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass
class Picture:
    """One picture on its way through a network. Not to be used by two threads at once.

    `durations` and `alpha` are complete once `frames` is exhausted; those of a still are from the start.
    """

    path: Path
    format: str
    """Pillow's name of the format of the content, which may not be what the suffix says."""
    frame_count: int
    """1 for a still."""
    placement: Placement
    """How it passes through the network; `placement.source` is the upright (width, height)."""
    metadata: Metadata
    orientation: int = 1
    """The EXIF orientation, 1 to 8, that the file's pixels had."""
    plays: int = 0
    """How often an animation is shown; 0 for without end."""
    profile: colour.Profile = field(default_factory=colour.Profile)
    """How the colours of the file become sRGB, and what the result is written with."""
    notes: list[str] = field(default_factory=list)
    """What was reduced or left out, a clause each."""
    durations: list[int] = field(default_factory=list)
    """Milliseconds that each frame is shown; 0 where nothing is said."""
    animation: bytes = field(default=b"", repr=False)
    """The whole file, for an animation; frames are decoded from it."""
    _still: Pixels | None = field(default=None, repr=False)
    _alphas: list[bytes | Image.Image | None] = field(default_factory=list, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright source."""
        return self.placement.source

    def frames(self) -> Iterator[Pixels]:
        """The network's inputs in order, each uint8 H×W×3; an animation's are decoded as they are asked for.

        Raises:
            PictureError: a frame of an animation is damaged.
        """
        if self._still is not None:
            yield self._still
            return
        self.durations.clear()
        self._alphas.clear()
        decoded = self._decoded()
        while True:
            try:
                pixels, alpha, duration = next(decoded)
            except StopIteration:
                return
            except DECODE_ERRORS as error:
                place = f"is damaged at frame {len(self.durations) + 1}"
                raise unreadable(self.path, place, error) from error
            self.durations.append(duration)
            opaque = alpha is None or alpha.getextrema() == (255, 255)
            self._alphas.append(None if alpha is None or opaque else zlib.compress(alpha.tobytes(), 1))
            yield pixels

    def alpha(self, index: int) -> Image.Image | None:
        """The alpha plane of frame `index`: mode L at the source's size; None where there is none."""
        plane = self._alphas[index]
        if isinstance(plane, bytes):
            return Image.frombytes("L", self.size, zlib.decompress(plane))
        return plane

    def set_still(self, image: Image.Image) -> None:
        """Take the one image of a still, decoded and in any mode."""
        planes = colour.split(image)
        self.profile = colour.choose_profile(image.info.get("icc_profile"), planes.colours.mode)
        self.note((*planes.notes, *self.profile.notes))
        self._still, alpha = self._to_network(planes)
        self.durations, self._alphas = [0], [alpha]

    def note(self, notes: Iterable[str]) -> None:
        """Add what is not said yet to `notes`."""
        self.notes.extend(note for note in notes if note not in self.notes)

    def _decoded(self) -> Iterator[tuple[Pixels, Image.Image | None, int]]:
        """Input, alpha and duration of each frame as it is shown."""
        with Image.open(io.BytesIO(self.animation), formats=(self.format,)) as image:
            first = 1 if image.info.get("default_image") else 0
            for index in range(first, first + self.frame_count):
                image.seek(index)
                image.load()
                planes = colour.split(image)
                self.note(planes.notes)
                duration = max(0, round(float(image.info.get("duration") or 0)))
                yield *self._to_network(planes), duration

    def _to_network(self, planes: colour.Planes) -> tuple[Pixels, Image.Image | None]:
        """The network's input, and the upright alpha."""
        colours, alpha = planes.colours, planes.alpha
        method = _TRANSPOSED.get(self.orientation)
        if method is not None:
            colours = colours.transpose(method)
            alpha = None if alpha is None else alpha.transpose(method)
        # Colours are converted after scaling, because there are fewer of them then.
        colours = colour.to_srgb(scale_to_network(colours, self.placement), self.profile)
        return pad_to_network(colours, self.placement), alpha


def unreadable(path: Path, what: str, error: BaseException) -> PictureError:
    """The project's own error for what a decoder raised."""
    return PictureError(f"{path}: {what}: {error}", "copy it again, or save it anew as PNG or JPEG")
