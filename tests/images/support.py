"""What several tests of pictures use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture


def pixels_of(picture: Picture) -> Pixels:
    (frame,) = picture.frames()
    return frame


def save(path: Path, pixels: Pixels, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path
