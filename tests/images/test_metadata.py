from __future__ import annotations

import io
import struct

import pytest
from PIL import ExifTags, Image

from ugatit_batch.images.metadata import ExifBlock, descriptive, sane_dpi, upright_xmp


def block(order: str = "<", *, thumbnail: bytes = b"", thumbnail_last: bool = True) -> bytes:
    """EXIF with a maker, an orientation of 6, a size of 4000×3000 and maybe a thumbnail."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    short = struct.Struct(f"{order}H").pack
    long = struct.Struct(f"{order}I").pack
    main_at, details_at = 8, 8 + 2 + 3 * 12 + 4
    maker_at = details_at + 2 + 3 * 12 + 4
    second_at = maker_at + 10 + 20
    picture_at = second_at + 2 + 2 * 12 + 4
    main = short(3) + entry(0x010F, 2, 10, long(maker_at)) + entry(0x0112, 3, 1, short(6))
    main += entry(0x8769, 4, 1, long(details_at)) + long(second_at if thumbnail else 0)
    details = short(3) + entry(0x927C, 7, 20, long(maker_at + 10))
    details += entry(0xA002, 3, 1, short(4000)) + entry(0xA003, 4, 1, long(3000)) + long(0)
    data = head + main + details + b"Cameraman\0" + bytes(range(20))
    if thumbnail:
        data += short(2) + entry(0x0201, 4, 1, long(picture_at)) + entry(0x0202, 4, 1, long(len(thumbnail)))
        data += long(0) + thumbnail
        if not thumbnail_last:
            data += b"behind it"
    assert main_at == len(head)
    return data


def read(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_only_orientation_and_size_change(order: str, prefix: bytes) -> None:
    data = block(order)
    whole = ExifBlock(prefix + data)
    assert whole.orientation == 6
    result = whole.upright(3000, 4000)
    exif = read(result)
    assert exif[ExifTags.Base.Orientation] == 1
    assert exif[ExifTags.Base.Make] == "Cameraman"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.ExifImageWidth] == 3000
    assert details[ExifTags.Base.ExifImageHeight] == 4000
    assert details[ExifTags.Base.MakerNote] == bytes(range(20))
    assert len(result) == len(data)


@pytest.mark.parametrize("last", [True, False])
def test_the_thumbnail_goes(last: bool) -> None:
    data = block(thumbnail=b"\xff\xd8 the old picture", thumbnail_last=last)
    result = ExifBlock(data).upright(10, 10)
    assert b"old picture" not in result
    assert result.endswith(b"behind it") is not last
    assert read(result)[ExifTags.Base.Make] == "Cameraman"


def test_every_cut_is_refused_or_whole() -> None:
    data = block()
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"ends early|outside|header"):
            ExifBlock(data[:length])
    ExifBlock(data)


@pytest.mark.parametrize("value", [0, 9, 6000])
def test_an_orientation_that_there_is_not(value: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    assert ExifBlock(exif.tobytes()).orientation == 1


def test_pillows_own_exif() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    exif[ExifTags.Base.Artist] = "who made it"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    result = read(ExifBlock(exif.tobytes()).upright(1, 1))
    assert result[ExifTags.Base.Artist] == "who made it"
    assert result.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    assert result[ExifTags.Base.Orientation] == 1


def test_descriptive_leaves_out_how_a_tiff_is_stored() -> None:
    data = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "somebody"
    Image.new("RGB", (4, 4)).save(data, "TIFF", exif=exif)
    with Image.open(data) as image:
        kept = descriptive(image.getexif())
    assert dict(kept) == {ExifTags.Base.Copyright: "somebody"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'<a tiff:Orientation="6" tiff:Make="6"/>', b'<a tiff:Orientation="1" tiff:Make="6"/>'),
        (b"<a tiff:Orientation = '8'/>", b"<a tiff:Orientation = '1'/>"),
        (b"<tiff:Orientation>3</tiff:Orientation>", b"<tiff:Orientation>1</tiff:Orientation>"),
        (b"<x/><xmp:Thumbnails>abc\n</xmp:Thumbnails><y/>", b"<x/><y/>"),
        (b"<photoshop:City>6</photoshop:City>", b"<photoshop:City>6</photoshop:City>"),
    ],
)
def test_xmp(before: bytes, after: bytes) -> None:
    assert upright_xmp(before) == after


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((72, 72.5), (72.0, 72.5)),
        ((0, 0), None),
        ((float("nan"), 72), None),
        ((1e9, 72), None),
        (300, None),
        (None, None),
        (("a", "b"), None),
    ],
)
def test_dpi(value: object, expected: tuple[float, float] | None) -> None:
    assert sane_dpi(value) == expected
