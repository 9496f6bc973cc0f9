"""Writing a translated picture: colours, alpha and metadata back where they came from.

Every function here may be called from several threads at once. Knows nothing of models.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image, PngImagePlugin

from ugatit_batch.atomic import replacing
from ugatit_batch.errors import OutputError, UsageError
from ugatit_batch.images import colour, tiff
from ugatit_batch.images.geometry import alpha_to_result, from_network
from ugatit_batch.images.metadata import Metadata, descriptive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture

Format = Literal["auto", "png", "jpg", "webp", "avif", "tiff"]

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".avifs": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}
OUTPUT_SUFFIXES: frozenset[str] = frozenset(_FORMATS)
"""Lowercase suffixes that `write_picture` knows."""

_PHOTOGRAPHS = frozenset({".heic", ".heif", ".hif", ".mpo"})
_ANIMATED = frozenset({"PNG", "WEBP", "AVIF", "GIF"})
_OWN_PROFILE = frozenset({"JPEG", "PNG", "WEBP", "AVIF", "TIFF"})
_JPEG_EXIF_LIMIT = 65533 - len(b"Exif\x00\x00")
_JPEG_XMP_LIMIT = 65533 - len(b"http://ns.adobe.com/xap/1.0/\x00")
_GIF_COLOURS = 255  # and one more for what is clear
_CLEAR = 255
_WHITE = (255, 255, 255)

ENCODE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    RuntimeError,
    OverflowError,
    struct.error,
    MemoryError,
    UserWarning,
)
"""What Pillow raises for a picture that a format cannot hold."""


@dataclass(frozen=True)
class Encoding:
    """How results are written (`--format`, `--quality`, `--alpha`, `--metadata`).

    Raises:
        UsageError: the quality is not between 1 and 100.
    """

    format: Format = "auto"
    """`auto` keeps the input's."""
    quality: int = 95
    """1 to 100, for JPEG, WebP and AVIF; 100 is lossless in WebP."""
    alpha: Literal["keep", "drop"] = "keep"
    """Whether alpha is carried over; JPEG shows clear parts as white."""
    metadata: Literal["keep", "drop"] = "keep"
    """Whether EXIF, XMP, resolution and text are carried over; the colour profile always is."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: is not between 1 and 100", "use --quality 95")


def output_suffix(path: Path, encoding: Encoding) -> str:
    """The suffix, with its dot, of what becomes of the input `path`.

    An input's own suffix is kept as it is spelled where it names the format that is written.
    """
    own = path.suffix.lower()
    if encoding.format != "auto":
        suffix = f".{encoding.format}"
        return path.suffix if _FORMATS.get(own) == _FORMATS[suffix] else suffix
    if own in _FORMATS:
        return path.suffix
    return ".jpg" if own in _PHOTOGRAPHS else ".png"


def write_picture(
    picture: Picture, translated: Sequence[Pixels], target: Path, encoding: Encoding
) -> list[str]:
    """Write what a network made of all `picture.frames()`.

    Args:
        picture: the source, its frames exhausted.
        translated: one uint8 H×W×3 a frame, of the network's size, in order.
        target: where the result goes; its suffix chooses the format.
        encoding: how it is written.

    Returns:
        What was reduced on the way out, a clause each.

    Raises:
        OutputError: the format cannot hold the picture, or the file cannot be written.
        DiskFullError: no room is left.
    """
    if len(translated) != picture.frame_count:
        raise ValueError(f"{len(translated)} results for {picture.frame_count} frames")
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise OutputError(
            f"{target}: {target.suffix or 'no suffix'} is not a format that is written",
            "use .png, .jpg, .webp, .avif, .tiff or .gif",
        )
    notes: list[str] = []
    if kind not in _ANIMATED and len(translated) > 1:
        notes.append(f"{kind} holds no animation; only the first of {len(translated)} frames was written")
        translated = translated[:1]
    images = [_result(picture, pixels, kind) for pixels in translated]
    alphas: list[Image.Image | None] = [None] * len(images)
    if encoding.alpha == "keep":
        alphas = _alphas(picture, len(images))
    options = _options(kind, encoding.quality)
    if kind == "GIF":
        images = [_palette(image, alpha, notes) for image, alpha in zip(images, alphas, strict=True)]
        if any(alpha is not None for alpha in alphas):
            options |= {"transparency": _CLEAR, "disposal": 2}
    else:
        images = _join(images, alphas, kind, notes)
    options["icc_profile"] = picture.profile.icc if kind in _OWN_PROFILE else None
    if encoding.metadata == "keep":
        options |= _metadata_options(kind, picture.metadata, notes)
    if len(images) > 1:
        options |= _animation_options(kind, picture, images[1:])
    data = io.BytesIO()
    try:
        images[0].save(data, format=kind, **options)
        if kind == "TIFF" and encoding.metadata == "keep":
            _put_exif_into_tiff(data, picture.metadata)
    except ENCODE_ERRORS as error:
        raise OutputError(f"{target}: cannot be written as {kind}: {error}", "use --format png") from error
    with replacing(target) as partial:
        partial.write_bytes(data.getbuffer())
    return notes


def _result(picture: Picture, pixels: Pixels, kind: str) -> Image.Image:
    """One result as an RGB image, in the colours of the profile where the format holds one."""
    image = from_network(pixels, picture.placement)
    return colour.from_srgb(image, picture.profile) if kind in _OWN_PROFILE else image


def _alphas(picture: Picture, count: int) -> list[Image.Image | None]:
    planes = (picture.alpha(index) for index in range(count))
    return [None if plane is None else alpha_to_result(plane, picture.placement) for plane in planes]


def _join(
    images: list[Image.Image], alphas: list[Image.Image | None], kind: str, notes: list[str]
) -> list[Image.Image]:
    """Colours and alpha as images of one mode, RGB or RGBA."""
    if all(alpha is None for alpha in alphas):
        return images
    joined = []
    for image, alpha in zip(images, alphas, strict=True):
        plane = alpha or Image.new("L", image.size, 255)
        if kind != "JPEG":
            image.putalpha(plane)
            joined.append(image)
            continue
        if plane.getextrema() != (255, 255):
            notes.append("JPEG holds no alpha; clear parts were made white")
        joined.append(Image.composite(image, Image.new("RGB", image.size, _WHITE), plane))
    return joined


def _palette(image: Image.Image, alpha: Image.Image | None, notes: list[str]) -> Image.Image:
    """An RGB image as the 255 colours that suit it best; index 255 is clear."""
    palette = image.quantize(_GIF_COLOURS, Image.Quantize.MEDIANCUT)
    reduced = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    if alpha is None:
        return reduced
    colours = reduced.getpalette() or []
    reduced.putpalette(colours + [0] * (768 - len(colours)))
    clear = alpha.point([255 if value < 128 else 0 for value in range(256)])
    if sum(alpha.histogram()[1:255]):
        note = "GIF knows no half-clear parts; they were made clear or opaque"
        notes.extend([note] if note not in notes else [])
    reduced.paste(_CLEAR, mask=clear)
    return reduced


def _options(kind: str, quality: int) -> dict[str, Any]:
    """What Pillow is told for a format."""
    fine = "4:4:4" if quality >= 90 else "4:2:0"
    if kind == "JPEG":
        return {"quality": quality, "subsampling": fine}
    if kind == "PNG":
        # Run lengths alone: photographs come out as small as with the default, more than twice as fast.
        return {"compress_level": 6, "compress_type": 3}
    if kind == "WEBP":
        return {"quality": quality, "lossless": quality == 100, "method": 3, "exact": True}
    if kind == "AVIF":
        return {"quality": quality, "subsampling": fine, "speed": 7, "max_threads": 1}
    if kind == "TIFF":
        return {"compression": "tiff_adobe_deflate"}
    return {}


def _animation_options(kind: str, picture: Picture, others: list[Image.Image]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": others,
        "duration": list(picture.durations),
    }
    if kind == "GIF":
        # A GIF counts how often it is repeated, and is shown once where it does not count.
        return options if picture.plays == 1 else options | {"loop": max(picture.plays - 1, 0)}
    if kind == "AVIF":
        return options
    return options | {"loop": picture.plays}


def _metadata_options(kind: str, metadata: Metadata, notes: list[str]) -> dict[str, Any]:
    """The metadata that a format holds."""
    options: dict[str, Any] = {}
    exif, xmp = metadata.exif, metadata.xmp
    if kind == "JPEG":
        if len(exif or b"") > _JPEG_EXIF_LIMIT:
            exif = None
            notes.append("the EXIF data was too long for JPEG and was left out")
        if len(xmp or b"") > _JPEG_XMP_LIMIT:
            xmp = None
            notes.append("the XMP data was too long for JPEG and was left out")
        if metadata.comment:
            options["comment"] = metadata.comment
    if kind == "GIF":
        return {"comment": metadata.comment} if metadata.comment else {}
    if metadata.dpi is not None and kind in ("JPEG", "PNG", "TIFF"):
        options["dpi"] = metadata.dpi
    if kind == "TIFF":
        tags = tiff.main_tags(_tiff_exif(exif, notes), xmp)
        return options | ({"exif": tags} if len(tags) else {})
    if exif is not None:
        options["exif"] = b"Exif\x00\x00" + exif
    if kind == "PNG":
        options["pnginfo"] = _png_text(metadata, xmp)
    elif xmp is not None:
        options["xmp"] = xmp
    return options


def _tiff_exif(exif: bytes | None, notes: list[str]) -> Image.Exif | None:
    """What a TIFF can take over of an EXIF block."""
    if exif is None:
        return None
    whole = Image.Exif()
    try:
        whole.load(exif)
        return descriptive(whole)
    except ENCODE_ERRORS:
        notes.append("the EXIF data could not be put into TIFF and was left out")
        return None


def _put_exif_into_tiff(data: io.BytesIO, metadata: Metadata) -> None:
    exif = _tiff_exif(metadata.exif, [])
    if exif is not None:
        whole = tiff.with_directories(data.getvalue(), exif)
        data.seek(0)
        data.write(whole)


def _png_text(metadata: Metadata, xmp: bytes | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, value in metadata.text.items():
        info.add_text(key, value)
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    return info
