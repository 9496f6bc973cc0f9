"""What decides an output, beside the input and the model.

Knows nothing of files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ugatit_batch.errors import SizeError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import Encoding
from ugatit_batch.video.info import FilmOptions

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle
    from ugatit_batch.images.geometry import Fit, OutputSize
    from ugatit_batch.images.sidecars import Kind

_NO_MATTER = {"segment", "resume", "hwaccel", "threads"}
"""Options of films that say how the same result is come by."""


@dataclass(frozen=True)
class Settings:
    """Everything beside the input and the model that decides an output."""

    sizing: Sizing
    encoding: Encoding = field(default_factory=Encoding)
    """Of pictures."""
    attention: tuple[Kind, ...] = ()
    precision: str = "fp32"
    film: FilmOptions = field(default_factory=FilmOptions)
    """Of films."""

    def digest(self, *, is_film: bool = False) -> str:
        """The same for the same settings of what a picture, or a film, depends on."""
        values = asdict(self)
        film = values.pop("film")
        if is_film:
            values["encoding"] = {name: value for name, value in film.items() if name not in _NO_MATTER}
        text = json.dumps(values, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def choose_sizing(
    bundle: Bundle, size: str | int = "model", fit: Fit = "pad", output: OutputSize = "source"
) -> Sizing:
    """The working size of a run.

    Args:
        bundle: the model.
        size: `model`, `native`, or the side of the square or the longest side in pixels.
        fit: how a picture comes into a square.
        output: size of the results.

    Raises:
        SizeError: the model does not take that size; the message says which sizes it takes.
    """
    working, generator = bundle.working_size, bundle.generator
    square = working.mode == "square"
    if not generator.light and size not in ("model", generator.image_size):
        side = generator.image_size
        raise SizeError(
            f"--size {size}: {bundle.name} is a full model and takes {side}×{side} pixels only",
            f"leave --size out, or use --size {side}; a light model takes other sizes",
        )
    if size == "native":
        return Sizing(square=False, side=None, fit=fit, output=output)
    side = working.side if size == "model" else int(size)
    if square:
        SizeRule().check(side, side)
    return Sizing(square=square, side=side, fit=fit, output=output)
