"""Opening a picture: whole or not at all, upright, in sRGB, without its alpha.

Every function here may be called from several threads at once. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import stat
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from PIL import (
    AvifImagePlugin,  # noqa: F401  registers its format, as the others do, before threads start
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    QoiImagePlugin,  # noqa: F401
    TgaImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from ugatit_batch.errors import PictureError, SizeError
from ugatit_batch.images import colour, headers
from ugatit_batch.images.geometry import place
from ugatit_batch.images.metadata import ExifBlock, Metadata, descriptive, sane_dpi, upright_xmp
from ugatit_batch.images.picture import DECODE_ERRORS, PIXEL_LIMIT, Picture, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from ugatit_batch.frames import SizeRule
    from ugatit_batch.images.geometry import Placement, Sizing

PICTURE_SUFFIXES: frozenset[str] = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs"),
        *(".heic", ".heif", ".hif", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".tga", ".qoi"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx"),
    }
)
"""Lowercase suffixes of the files that are taken for pictures when a folder is looked through."""

ANIMATION_LIMIT = 1_000_000_000
"""The most pixels that all frames of one animation may have together."""

_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "QOI")
_JPEG = frozenset({"JPEG", "MPO"})
_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
_NOTE_EXIF = "the EXIF data was damaged and was left out"
_NOT_TEXT = ("XML:", "Raw profile type")


def open_picture(path: Path, sizing: Sizing, rule: SizeRule) -> Picture:
    """Read a picture; a still is decoded to its last pixel.

    Raises:
        PictureError: it is missing, empty, cut short, damaged, too large, or no picture.
        SizeError: the network does not take the size that comes out.
    """
    with _open_file(path) as handle, _explaining(path):
        head, formats = _look_at_head(path, handle)
        with Image.open(handle, formats=formats) as image:
            picture = _read(path, image, head, sizing, rule)
        if picture.frame_count > 1 or picture.format in ("GIF", "WEBP"):
            _look_at_whole_file(picture, handle)
        return picture


def check_header(path: Path) -> None:
    """See whether a picture can be opened, without decoding it. What is behind its header may be missing.

    Raises:
        PictureError: it is missing, empty, too large, no picture, or cut short within its header.
    """
    with _open_file(path) as handle, _explaining(path):
        _, formats = _look_at_head(path, handle)
        with Image.open(handle, formats=formats) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise _too_large(path)


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what Pillow raises into the project's own errors."""
    try:
        yield
    except SizeError as error:
        raise SizeError(f"{path}: {error.message}", error.hint) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{path}: is not a picture, or is cut short at its beginning",
            "open it in a picture viewer; if that shows it, save it as PNG or JPEG",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path) from error
    except MemoryError as error:
        raise PictureError(f"{path}: does not fit into memory", "scale it down first") from error
    except DECODE_ERRORS as error:
        raise unreadable(path, "is cut short or damaged", error) from error


def _look_at_head(path: Path, handle: BinaryIO) -> tuple[bytes, tuple[str, ...]]:
    """The first bytes of a file, and the formats that it may have."""
    head = handle.read(headers.HEAD_BYTES)
    if not head:
        raise PictureError(f"{path}: the file is empty", "copy it again from where it came from")
    handle.seek(0)
    return head, _formats(path, head)


def _open_file(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError(f"{path}: is not a file", "name a picture, or a folder of pictures")
        return cast("BinaryIO", path.open("rb"))
    except FileNotFoundError as error:
        raise PictureError(f"{path}: there is no such file", "look at the spelling of its name") from error
    except PermissionError as error:
        raise PictureError(f"{path}: may not be read", "change its permissions") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PictureError(f"{path}: cannot be opened: {reason}", "look at the file and its disk") from error


def _formats(path: Path, head: bytes) -> tuple[str, ...]:
    """The formats to look for. Targa has no mark of its own, so that only the suffix can tell."""
    if headers.is_heic(head):
        if not _register_heif():
            raise PictureError(
                f"{path}: is HEIC, which needs pillow-heif", "pip install 'ugatit-batch[heif]'"
            )
        return ("HEIF",)
    return (*_FORMATS, "TGA") if path.suffix.lower() == ".tga" else _FORMATS


@lru_cache(maxsize=1)
def _register_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _read(path: Path, image: Image.Image, head: bytes, sizing: Sizing, rule: SizeRule) -> Picture:
    """Everything of `open_picture` that may meet a damaged file, but for what only the whole file shows."""
    if image.width * image.height > PIXEL_LIMIT:
        raise _too_large(path)
    count = _frame_count(path, image)
    pages = image.n_frames if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
    if count == 1 and image.format not in _JPEG:
        # EXIF may stand behind the pixels of a PNG, and a TIFF is turned upright by Pillow as it is decoded.
        image.load()
    exif, orientation, notes = _exif(image)
    if pages > 1:
        notes.append(f"only the first of {pages} pages was translated")
    turned = orientation >= 5
    placement = place(*((image.height, image.width) if turned else image.size), sizing, rule)
    if count == 1:
        if image.format in _JPEG:
            _draft(image, placement, turned=turned)
        image.load()
    if _is_deep(image, head):
        notes.append(colour.NOTE_16_BIT)
    picture = Picture(
        path=path,
        format=image.format or "",
        frame_count=count,
        placement=placement,
        metadata=_metadata(image, exif, placement),
        orientation=orientation,
        plays=_plays(image),
        notes=notes,
    )
    if count == 1:
        picture.set_still(image)
    else:
        picture.profile = colour.choose_profile(image.info.get("icc_profile"), "RGB")
        picture.note(picture.profile.notes)
    return picture


def _frame_count(path: Path, image: Image.Image) -> int:
    """How many frames are shown; 1 for a still."""
    if image.format not in _ANIMATED:
        return 1
    count = int(getattr(image, "n_frames", 1))
    if image.info.get("default_image"):
        count -= 1
    if count > 1 and count * image.width * image.height > ANIMATION_LIMIT:
        raise PictureError(
            f"{path}: {count} frames of {image.width}×{image.height} are too much for an animated picture",
            "cut it, or convert it to a film",
        )
    return max(count, 1)


def _look_at_whole_file(picture: Picture, handle: BinaryIO) -> None:
    """Keep the file of an animation, and refuse one that lacks its end."""
    handle.seek(0)
    data = handle.read()
    if headers.is_cut_short(data):
        raise PictureError(f"{picture.path}: is cut short", "copy it again from where it came from")
    if picture.frame_count > 1:
        picture.animation = data


def _draft(image: Image.Image, placement: Placement, *, turned: bool) -> None:
    """Let the JPEG decoder scale down by 2, 4 or 8 where twice the needed size is still left."""
    left, top, right, bottom = placement.crop
    width = -(-2 * placement.scaled[0] * placement.source[0] // (right - left))
    height = -(-2 * placement.scaled[1] * placement.source[1] // (bottom - top))
    if min(placement.source[0] // width, placement.source[1] // height) >= 2:
        image.draft(None, (height, width) if turned else (width, height))


def _is_deep(image: Image.Image, head: bytes) -> bool:
    """Whether a channel has more than 8 bits."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
        return any(bit > 8 for bit in (bits if isinstance(bits, tuple) else (bits,)))
    return headers.bits_per_channel(head) > 8


def _plays(image: Image.Image) -> int:
    """How often an animation is shown. A GIF counts repetitions, and is shown once where it says nothing."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    if loop is None:
        return 1
    return int(loop) + 1 if loop else 0


def _exif(image: Image.Image) -> tuple[ExifBlock | None, int, list[str]]:
    """The EXIF block, the orientation that is still to be applied, and a note where the block was damaged."""
    data = b""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        try:
            kept = descriptive(image.getexif())
            data = kept.tobytes() if len(kept) else b""
        except DECODE_ERRORS:
            return None, 1, [_NOTE_EXIF]
    else:
        data = image.info.get("exif") or b""
    if not data:
        return None, 1, []
    try:
        block = ExifBlock(data)
    except ValueError:
        return None, 1, [_NOTE_EXIF]
    return block, block.orientation, []


def _metadata(image: Image.Image, exif: ExifBlock | None, placement: Placement) -> Metadata:
    info = image.info
    xmp = info.get("xmp")
    comment = info.get("comment")
    text: dict[str, str] = {}
    if image.format == "PNG":
        pairs = ((str(key), value) for key, value in info.items())
        text = {
            key: value for key, value in pairs if isinstance(value, str) and not key.startswith(_NOT_TEXT)
        }
    return Metadata(
        exif=None if exif is None else exif.upright(*placement.result),
        xmp=upright_xmp(xmp) if isinstance(xmp, bytes) and xmp else None,
        dpi=sane_dpi(info.get("dpi")),
        comment=comment if isinstance(comment, bytes) else None,
        text=text,
    )


def _too_large(path: Path) -> PictureError:
    return PictureError(
        f"{path}: has more than {PIXEL_LIMIT // 1_000_000} million pixels",
        "scale it down or cut it into parts",
    )
