from __future__ import annotations

import io

import pytest
from PIL import ExifTags, Image

from ugatit_batch.images.tiff import main_tags, with_directories


def test_inner_directories_are_put_in() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 51.0, 29.5)
    data = io.BytesIO()
    picture = Image.radial_gradient("L").convert("RGB")
    tags = main_tags(exif, b"<xmp/>")
    picture.save(data, "TIFF", compression="tiff_adobe_deflate", exif=tags)
    with Image.open(io.BytesIO(with_directories(data.getvalue(), exif))) as result:
        kept = result.getexif()
        assert kept[ExifTags.Base.Make] == "maker"
        assert kept.get_ifd(ExifTags.IFD.Exif) == {ExifTags.Base.ISOSpeedRatings: 400}
        assert kept.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitude: (48.0, 51.0, 29.5)}
        assert result.info["xmp"] == b"<xmp/>"
        assert result.tobytes() == picture.tobytes()


def test_nothing_to_put_in() -> None:
    assert len(main_tags(None, None)) == 0
    with pytest.raises(ValueError, match="no TIFF"):
        with_directories(b"rubbish", Image.Exif())
