"""Pictures that come and go as bytes in memory, on the same way through a network as those in files.

Every function here may be called from several threads at once. Knows nothing of models.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from ugatit_batch.errors import PictureError
from ugatit_batch.images import colour
from ugatit_batch.images.geometry import from_network, place
from ugatit_batch.images.metadata import Metadata
from ugatit_batch.images.picture import DECODE_ERRORS, Picture
from ugatit_batch.images.sidecars import scaled

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from ugatit_batch.frames import Attention, Pixels, SizeRule
    from ugatit_batch.images.geometry import Sizing

    Buffer = bytes | bytearray | memoryview | mmap.mmap

_NOWHERE = Path("the picture")


def picture_from_rows(rows: Buffer, width: int, height: int, sizing: Sizing, rule: SizeRule) -> Picture:
    """The picture of rows from top to bottom, 8 bits of R, G and B a pixel, in sRGB.

    Args:
        rows: width · height · 3 bytes; not needed any more afterwards.
        width: in pixels, 1 or more.
        height: in pixels, 1 or more.
        sizing: working size.
        rule: which sizes the network takes.

    Raises:
        SizeError: the network does not take the size that comes out.
    """
    image = Image.frombytes("RGB", (width, height), memoryview(rows))
    return _picture(image, "raw", sizing, rule)


def picture_from_png(
    data: Buffer, sizing: Sizing, rule: SizeRule, check: Callable[[int, int], object]
) -> Picture:
    """The picture of a PNG as its pixels lie: an EXIF orientation turns nothing.

    Args:
        data: the whole file. Of an animation, its first picture counts.
        sizing: working size.
        rule: which sizes the network takes.
        check: is given width and height before anything is decoded; what it raises comes through.

    Raises:
        PictureError: it is no PNG, or is damaged.
        SizeError: the network does not take the size that comes out.
    """
    try:
        image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    except DECODE_ERRORS as error:
        raise PictureError(f"this is not a PNG: {error}", "send a whole PNG") from error
    with image:
        check(*image.size)
        try:
            image.load()
            colour.split(image)
        except DECODE_ERRORS as error:
            raise PictureError(f"the PNG is damaged: {error}", "send a whole PNG") from error
        return _picture(image, "PNG", sizing, rule)


def _picture(image: Image.Image, kind: str, sizing: Sizing, rule: SizeRule) -> Picture:
    placement = place(*image.size, sizing, rule)
    picture = Picture(_NOWHERE, kind, 1, placement, Metadata())
    picture.set_still(image)
    return picture


def result_image(picture: Picture, translated: Pixels, attention: Attention | None) -> Image.Image:
    """What a network made of a picture, in the picture's own colours.

    Args:
        picture: the source.
        translated: uint8 H×W×3 of the network's size.
        attention: float32 h×w as the network gave it, or None.

    Returns:
        Mode RGB, of `placement.result` size; with attention RGBA, where A is the attention as in a `mask`
        sidecar.
    """
    image = colour.from_srgb(from_network(translated, picture.placement), picture.profile)
    if attention is not None:
        image.putalpha(Image.fromarray(scaled([attention], picture)[0]))
    return image


def png_of(image: Image.Image, picture: Picture) -> bytes:
    """A PNG with the colour profile of the source, made for speed."""
    data = io.BytesIO()
    image.save(data, format="PNG", compress_level=1, icc_profile=picture.profile.icc)
    return data.getvalue()
