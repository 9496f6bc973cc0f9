"""From any colours a file may hold to the sRGB that networks know, and back.

Knows nothing of files.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

NOTE_16_BIT = "16 bits a channel were reduced to 8"
NOTE_CMYK = "CMYK colours became RGB"
NOTE_PROFILE = "the colour profile was damaged or does not fit; the colours were taken as sRGB"
NOTE_ONE_WAY = "the colour profile cannot be written with; the result is sRGB"

# Without its cache of one pixel, a transform may be used by several threads at once.
_FLAGS = ImageCms.Flags.NOCACHE
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_EIGHT_BITS = ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)

ProfileError = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


@dataclass(frozen=True)
class Planes:
    """A decoded picture with its alpha taken away."""

    colours: Image.Image
    """Mode L, RGB or CMYK, 8 bits a channel."""
    alpha: Image.Image | None
    """Mode L, of the same size; None where the file has none."""
    notes: tuple[str, ...] = ()
    """What was reduced on the way."""


def split(image: Image.Image) -> Planes:
    """Take a decoded image of any mode apart into colours and alpha; colours below clear pixels stay.

    Raises:
        ValueError: the mode has no fixed range, as 32-bit numbers have none.
    """
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return _split_16_bit(image)
    if mode in ("I", "F"):
        raise ValueError("it holds 32-bit numbers, whose range is not known")
    if mode == "LAB":
        return Planes(_lab_to_rgb(image), None)
    if mode == "CMYK":
        return Planes(image, None, (NOTE_CMYK,))
    alpha = _alpha(image)
    if mode in ("L", "RGB"):
        return Planes(image, alpha)
    if mode in ("1", "LA"):
        return Planes(image.convert("L"), alpha)
    if mode == "La":
        return Planes(image.convert("LA").getchannel("L"), alpha)
    if alpha is not None and mode in ("P", "RGBa"):
        image = image.convert("RGBA")
    return Planes(image.convert("RGB"), alpha)


def _alpha(image: Image.Image) -> Image.Image | None:
    """Alpha of an 8-bit image, whether a plane, a palette's or one clear colour's."""
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A")
    if image.mode == "La":
        return image.convert("LA").getchannel("A")
    if not image.has_transparency_data:
        return None
    clear = image.info.get("transparency")
    if image.mode == "1":
        return image.convert("L").point([0 if (value > 0) == bool(clear) else 255 for value in range(256)])
    if isinstance(clear, tuple) and max(clear) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    return image.convert("RGBA").getchannel("A")


def _split_16_bit(image: Image.Image) -> Planes:
    values = np.asarray(image)
    colours = Image.fromarray(np.take(_EIGHT_BITS, values.astype(np.uint16, copy=False)))
    clear = image.info.get("transparency")
    alpha = None
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(values == clear, np.uint8(0), np.uint8(255)))
    return Planes(colours, alpha, (NOTE_16_BIT,))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB", flags=_FLAGS
    )
    return transform.apply(image)


@dataclass(frozen=True)
class Profile:
    """How the colours of one file become sRGB."""

    icc: bytes | None = None
    """The profile that the result is written with; None for sRGB."""
    source: bytes | None = None
    """The profile that the colours are read with; None where they are sRGB already."""
    mode: str = "RGB"
    """The mode that `source` reads: L, RGB or CMYK."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def choose_profile(icc: bytes | None, mode: str) -> Profile:
    """Decide what to do with the profile that came with colours of `mode` (L, RGB or CMYK)."""
    if not icc:
        return Profile()
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = _SPACES.get(profile.profile.xcolor_space.strip(), "")
        if space == mode or (space == "RGB" and mode == "L"):
            if space == "RGB" and _is_srgb(icc):
                return Profile(icc)
            _to_srgb_transform(icc, space)
            return _written_profile(icc) if space == "RGB" else Profile(None, icc, space)
    except ProfileError:
        pass
    return Profile(notes=(NOTE_PROFILE,))


def _written_profile(icc: bytes) -> Profile:
    """The choice for an RGB profile that can be read with; a scanner's may not be fit to write with."""
    try:
        _from_srgb_transform(icc)
    except ProfileError:
        return Profile(None, icc, notes=(NOTE_ONE_WAY,))
    return Profile(icc, icc)


def to_srgb(colours: Image.Image, profile: Profile) -> Image.Image:
    """Colours of mode L, RGB or CMYK as an RGB image in sRGB."""
    mode = "RGB" if profile.source is None else profile.mode
    if colours.mode != mode:
        colours = colours.convert(mode)
    if profile.source is None:
        return colours
    return _to_srgb_transform(profile.source, mode).apply(colours)


def from_srgb(image: Image.Image, profile: Profile) -> Image.Image:
    """An RGB image in sRGB as the colours that `profile.icc` describes."""
    if profile.icc is None or profile.source is None:
        return image
    return _from_srgb_transform(profile.icc).apply(image)


@lru_cache(maxsize=32)
def _to_srgb_transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        flags=_FLAGS,
    )


@lru_cache(maxsize=32)
def _from_srgb_transform(icc: bytes) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"),
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        "RGB",
        "RGB",
        flags=_FLAGS,
    )


@lru_cache(maxsize=32)
def _is_srgb(icc: bytes) -> bool:
    """Whether an RGB profile leaves a grid of colours where it is, to within one step."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
    moved = np.asarray(_to_srgb_transform(icc, "RGB").apply(Image.fromarray(grid)))
    return int(np.abs(moved.astype(np.int16) - grid).max()) <= 1
