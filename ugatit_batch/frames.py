"""What passes between media and networks, and the protocol that every network engine speaks.

Knows nothing of files, of torch or of TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ugatit_batch.errors import SizeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Attention = NDArray[np.float32]
    Style = NDArray[np.float32]


@dataclass(frozen=True)
class SizeRule:
    """Which picture sizes, in pixels, a network takes."""

    multiple: int = 4
    """Both sides divide by this."""
    minimum: int = 8
    """No side is shorter than this."""
    maximum: int | None = None
    """No side is longer than this, where an engine was built so; None where any is."""
    fixed: tuple[int, int] | None = None
    """The only (height, width) there is, or None where any fits."""
    max_pixels: int | None = None
    """What the memory of the device holds, height times width; None where nothing is known."""

    def round_up(self, length: int) -> int:
        """The next length of a side that the network takes."""
        return max(-(-length // self.multiple) * self.multiple, self.minimum)

    def check(self, height: int, width: int) -> None:
        """Do nothing when the network takes height × width.

        Raises:
            SizeError: it does not; the message says which sizes it takes.
        """
        if self.fixed is not None:
            if (height, width) != self.fixed:
                raise SizeError(
                    f"{width}×{height}: this model takes {self.fixed[1]}×{self.fixed[0]} pixels only",
                    f"use --size {self.fixed[0]}, or leave --size out",
                )
            return
        if height % self.multiple or width % self.multiple or min(height, width) < self.minimum:
            raise SizeError(
                f"{width}×{height}: both sides must divide by {self.multiple} "
                f"and be {self.minimum} pixels or more",
                f"use a --size that divides by {self.multiple}",
            )
        if self.maximum is not None and max(height, width) > self.maximum:
            raise SizeError(
                f"{width}×{height}: this engine takes sides of {self.minimum} to {self.maximum} pixels",
                f"use --size {self.maximum} or less, or build an engine with a larger --size",
            )
        if self.max_pixels is not None and height * width > self.max_pixels:
            side = int(self.max_pixels**0.5) // self.multiple * self.multiple
            raise SizeError(
                f"{width}×{height}: too large for the free memory of this machine",
                f"use --size {side} or less",
            )


@dataclass(frozen=True)
class Frame:
    """One picture, or one of a film's, on its way into a network.

    Attributes:
        pixels: uint8, H×W×3, RGB, sRGB colours.
        cut: False where it goes on from the picture before it, as within one scene of a film.
    """

    pixels: Pixels
    cut: bool = True


@dataclass(frozen=True)
class Finished:
    """What a network made of one Frame.

    Attributes:
        pixels: uint8, H×W×3.
        attention: float32, h×w, as in Translated.
        style: float32, K, as in Translated; None where none is averaged.
    """

    pixels: Pixels
    attention: Attention
    style: Style | None = None


@dataclass(frozen=True)
class Smoothing:
    """That a film's style is averaged, and from where it goes on."""

    keep: float
    """As in Averaging."""
    before: Style | None = None
    """Of the picture before the film's first one here, where an earlier run ended there."""


@dataclass(frozen=True)
class Averaging:
    """How the style of one film's pictures is averaged over time, so that the result flickers less.

    The style of picture t is s_t = keep · s_(t-1) + (1 - keep) · g_t, where g_t is what the network gives,
    and g_t alone where there is no picture before it.
    """

    keep: float
    """0 to 1: share of the average before that each picture keeps."""
    cuts: NDArray[np.bool_]
    """N: True where a picture has nothing to do with the one before it, in this batch or the one before."""
    before: Style | None = None
    """With the first batch of a stream alone: the style of the picture before it, if that was translated
    earlier."""


@dataclass(frozen=True)
class Batch:
    """Pictures of one size on their way into a network.

    Attributes:
        pixels: uint8, N×H×W×3, RGB, sRGB colours.
        averaging: for the pictures of a film whose style is averaged; all batches of the stream have it then.
    """

    pixels: Pixels
    averaging: Averaging | None = None


@dataclass(frozen=True)
class Translated:
    """What a network made of one Batch, in the same order.

    Attributes:
        pixels: uint8, N×H×W×3, RGB.
        attention: float32, N×h×w, the CAM attention feature map summed over channels, as the network gives
            it: not scaled, and smaller than the picture (h = H/4, w = W/4).
        style: float32, N×K: the averaged style of each picture, where the batch asked for it.
    """

    pixels: Pixels
    attention: Attention
    style: Style | None = None


class Translator(Protocol):
    """One network, ready to run."""

    @property
    def size_rule(self) -> SizeRule:
        """Which picture sizes `translate` takes."""

    @property
    def batch_size(self) -> int:
        """How many pictures a Batch should hold; never changes the result beyond rounding."""

    @property
    def ahead(self) -> int:
        """How many batches it takes before it gives the first one back."""

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        """Translate a stream of batches, in order, one Translated a Batch.

        It is a stream so that an engine can overlap copies with work, and keep the style along a film: the
        batches of one call are pictures, or belong to one film.

        Raises:
            UgatitBatchError: the batch that was not given back first could not be translated. The stream
                ends there; calling again with the remaining batches goes on.
        """
