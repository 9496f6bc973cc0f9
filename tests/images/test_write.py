from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from ugatit_batch.errors import DiskFullError, OutputError, UsageError
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import OUTPUT_SUFFIXES, Encoding, output_suffix, write_picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture
    from ugatit_batch.images.write import Format

    Translate = Callable[..., tuple[Image.Image, list[str]]]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" dc:rights="mine"/></x:xmpmeta>'


def exif(orientation: int = 6) -> Image.Exif:
    made = Image.Exif()
    made[ExifTags.Base.Orientation] = orientation
    made[ExifTags.Base.Copyright] = "mine"
    made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    return made


def with_alpha(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(pixels[..., 1]))
    return image


def animation(path: Path, *, clear: bool = False, **options: Any) -> list[Image.Image]:
    """Four frames of few colours in which a square with a hole walks, maybe on nothing."""
    frames = []
    for index in range(4):
        frame = Image.new("RGBA", (32, 24), (0, 0, 0, 0) if clear else (20, 60, 120, 255))
        frame.paste((250, 200, 30, 255), (index * 8, 4, index * 8 + 8, 12))
        frame.paste((0, 0, 0, 0) if clear else (9, 9, 9, 255), (index * 8 + 2, 6, index * 8 + 4, 8))
        frames.append(frame if clear else frame.convert("RGB"))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 80, 120, 200], **options)
    return frames


def shown(path: Path) -> tuple[list[Image.Image], list[int], object]:
    """Frames as RGBA, durations and loop of a file, by Pillow alone."""
    frames, durations = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(image.convert("RGBA"))
            durations.append(image.info["duration"])
        return frames, durations, image.info.get("loop")


@pytest.mark.parametrize("suffix", ["png", "tiff", "tif", "apng"])
@pytest.mark.parametrize("invert", [False, True])
def test_lossless_results_are_exact(
    tmp_path: Path, noise: Pixels, translate: Translate, suffix: str, invert: bool
) -> None:
    Image.fromarray(noise).save(tmp_path / "in.png")
    result, notes = translate(tmp_path / "in.png", tmp_path / f"out.{suffix}", invert=invert)
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), 255 - noise if invert else noise)
    assert notes == []


def test_webp_of_quality_100_is_exact(tmp_path: Path, noise: Pixels, translate: Translate) -> None:
    with_alpha(noise).save(tmp_path / "in.png")
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.webp", Encoding(quality=100))
    assert np.array_equal(np.asarray(result), np.asarray(with_alpha(noise)))


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "avif", "gif"])
def test_lossy_results_come_close(tmp_path: Path, photo: Pixels, translate: Translate, suffix: str) -> None:
    Image.fromarray(photo).save(tmp_path / "in.png")
    result, _ = translate(tmp_path / "in.png", tmp_path / f"out.{suffix}", invert=True)
    error = np.abs(np.asarray(result.convert("RGB")).astype(int) - (255 - photo)).mean()
    assert error < 6


def test_quality_is_obeyed(tmp_path: Path, noise: Pixels, translate: Translate) -> None:
    Image.fromarray(noise).save(tmp_path / "in.png")
    for suffix in ("jpg", "webp", "avif"):
        sizes = []
        for quality in (10, 60, 95):
            translate(tmp_path / "in.png", tmp_path / f"out.{suffix}", Encoding(quality=quality))
            sizes.append((tmp_path / f"out.{suffix}").stat().st_size)
        assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_a_quality_that_there_is_not(quality: int) -> None:
    with pytest.raises(UsageError, match="--quality"):
        Encoding(quality=quality)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_alpha_is_carried_and_not_translated(
    tmp_path: Path, noise: Pixels, translate: Translate, suffix: str
) -> None:
    with_alpha(noise).save(tmp_path / "in.png")
    target = tmp_path / f"out.{suffix}"
    result, _ = translate(tmp_path / "in.png", target, Encoding(quality=100), invert=True)
    assert result.mode == "RGBA"
    assert np.array_equal(np.asarray(result)[..., 3], noise[..., 1])
    assert np.array_equal(np.asarray(result)[..., :3], 255 - noise)
    dropped, _ = translate(tmp_path / "in.png", target, Encoding(quality=100, alpha="drop"))
    assert dropped.mode == "RGB"
    assert np.array_equal(np.asarray(dropped), noise)


def test_alpha_keeps_its_own_size(tmp_path: Path, translate: Translate) -> None:
    alpha = np.random.default_rng(3).integers(0, 256, (90, 120), dtype=np.uint8)
    image = Image.new("RGB", (120, 90), (1, 2, 3))
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "in.png")
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.png", sizing=Sizing(square=True, side=32))
    assert np.array_equal(np.asarray(result)[..., 3], alpha)


def test_jpeg_makes_clear_parts_white(tmp_path: Path, translate: Translate) -> None:
    image = Image.new("RGBA", (32, 16), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (16, 0, 32, 16))
    image.save(tmp_path / "in.png")
    result, notes = translate(tmp_path / "in.png", tmp_path / "out.jpg")
    assert notes == ["JPEG holds no alpha; clear parts were made white"]
    pixels = np.asarray(result).astype(int)
    assert np.abs(pixels[:, :14] - (200, 0, 0)).max() <= 4
    assert pixels[:, 18:].min() >= 251
    dropped, notes = translate(tmp_path / "in.png", tmp_path / "out.jpg", Encoding(alpha="drop"))
    assert notes == []
    assert np.asarray(dropped)[:, 18:].max() <= 4
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    assert translate(tmp_path / "opaque.png", tmp_path / "out.jpg")[1] == []


def test_a_profile_comes_back(
    tmp_path: Path, swapped_icc: bytes, wide_icc: bytes, translate: Translate
) -> None:
    muted = np.random.default_rng(1).integers(110, 150, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(muted).save(tmp_path / "in.png", icc_profile=wide_icc)
    for suffix in ("png", "jpg", "webp", "avif", "tiff"):
        result, notes = translate(tmp_path / "in.png", tmp_path / f"out.{suffix}", Encoding(metadata="drop"))
        assert result.info["icc_profile"] == wide_icc
        assert notes == []
        if suffix in ("png", "tiff"):
            assert np.abs(np.asarray(result).astype(int) - muted).max() <= 2
    solid = Image.new("RGB", (16, 16), (230, 40, 90))
    solid.save(tmp_path / "in.png", icc_profile=swapped_icc)
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.png", invert=True)
    # The network saw about (40, 230, 90), gave (215, 25, 165), and that is written swapped again.
    assert np.abs(np.asarray(result)[0, 0].astype(int) - (25, 215, 165)).max() <= 12


def test_profiles_of_other_spaces_do_not_come_back(
    tmp_path: Path, grey_icc: bytes, translate: Translate
) -> None:
    Image.new("L", (16, 16), 55).save(tmp_path / "in.png", icc_profile=grey_icc)
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.png")
    assert "icc_profile" not in result.info
    assert result.mode == "RGB"
    assert np.abs(np.asarray(result).astype(int) - 128).max() <= 2
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    result, notes = translate(tmp_path / "cmyk.jpg", tmp_path / "out.jpg")
    assert result.mode == "RGB"
    assert notes == ["CMYK colours became RGB"]
    assert np.abs(np.asarray(result).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tiff"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tiff"])
def test_metadata(tmp_path: Path, photo: Pixels, translate: Translate, suffix: str, source: str) -> None:
    path = tmp_path / f"in.{source}"
    options: dict[str, Any] = {"xmp": XMP, "exif": exif(), "dpi": (300, 300)}
    if source == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    if source == "tiff":
        whole = exif()
        whole[ExifTags.Base.XMLPacket] = options.pop("xmp")
        options["exif"] = whole.tobytes()
    Image.fromarray(photo).save(path, **options)
    result, notes = translate(path, tmp_path / f"out.{suffix}")
    assert notes == []
    assert result.size == (40, 56)
    kept = result.getexif()
    assert kept.get(ExifTags.Base.Orientation, 1) == 1
    assert kept[ExifTags.Base.Copyright] == "mine"
    details = kept.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
    # Pillow takes the orientation out of the XMP of a TIFF as it turns that upright.
    upright = b"" if source == "tiff" else b'tiff:Orientation="1"'
    assert bytes(result.info["xmp"]) == XMP.replace(b'tiff:Orientation="6"', upright)
    if source != "webp" and suffix in ("jpg", "png", "tiff"):
        assert tuple(round(float(value)) for value in result.info["dpi"]) == (300, 300)
    dropped, _ = translate(path, tmp_path / f"out.{suffix}", Encoding(metadata="drop"))
    assert dropped.size == (40, 56)
    assert ExifTags.Base.Copyright not in dropped.getexif()
    assert "xmp" not in dropped.info
    assert b"mine" not in (tmp_path / f"out.{suffix}").read_bytes()


def test_text_and_comments(tmp_path: Path, photo: Pixels, translate: Translate) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat, 20 steps")
    info.add_itxt("Título", "naïve ☂", lang="es")
    Image.fromarray(photo).save(tmp_path / "in.png", pnginfo=info)
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.png")
    assert result.info["parameters"] == "a cat, 20 steps"
    assert result.info["Título"] == "naïve ☂"
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.png", Encoding(metadata="drop"))
    assert "parameters" not in result.info
    Image.fromarray(photo).save(tmp_path / "in.jpg", comment=b"said")
    assert translate(tmp_path / "in.jpg", tmp_path / "out.jpg")[0].info["comment"] == b"said"


def test_metadata_too_long_for_jpeg(tmp_path: Path, photo: Pixels, translate: Translate) -> None:
    long = exif()
    long[ExifTags.Base.ImageDescription] = "x" * 70000
    Image.fromarray(photo).save(tmp_path / "in.png", exif=long)
    result, notes = translate(tmp_path / "in.png", tmp_path / "out.jpg")
    assert notes == ["the EXIF data was too long for JPEG and was left out"]
    assert result.size == (40, 56)


@pytest.mark.parametrize(
    ("suffix", "options", "loop"),
    [
        ("gif", {"loop": 0}, 0),
        ("gif", {"loop": 3}, 3),
        ("gif", {}, None),
        ("webp", {"loop": 3, "lossless": True}, 3),
        ("png", {"loop": 0}, 0),
        ("png", {"loop": 5}, 5),
        ("avif", {}, None),
    ],
)
@pytest.mark.parametrize("clear", [False, True])
def test_animations(
    tmp_path: Path, translate: Translate, suffix: str, options: dict[str, Any], loop: int | None, clear: bool
) -> None:
    if clear and suffix in ("png", "gif"):
        options = {**options, "disposal": 2 if suffix == "gif" else 1}
    frames = animation(tmp_path / f"in.{suffix}", clear=clear, **options)
    translate(tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}", Encoding(quality=100))
    seen, durations, found = shown(tmp_path / f"out.{suffix}")
    assert durations == [40, 80, 120, 200]
    assert found == loop
    for result, source in zip(seen, frames, strict=True):
        given, expected = np.asarray(result), np.asarray(source.convert("RGBA"))
        if suffix == "avif":
            assert np.abs(given.astype(int) - expected)[..., 3].mean() < 8
            continue
        assert np.array_equal(given[..., 3], expected[..., 3])
        opaque = expected[..., 3] == 255
        assert np.array_equal(given[opaque], expected[opaque])


def test_an_animation_in_another_format(tmp_path: Path, translate: Translate) -> None:
    animation(tmp_path / "once.gif")
    animation(tmp_path / "thrice.gif", loop=2)
    for name, plays in (("once", 1), ("thrice", 3)):
        for suffix in ("webp", "png"):
            translate(tmp_path / f"{name}.gif", tmp_path / f"out.{suffix}")
            _, durations, loop = shown(tmp_path / f"out.{suffix}")
            assert (durations, loop) == ([40, 80, 120, 200], plays)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_an_animation_in_a_format_for_stills(tmp_path: Path, translate: Translate, suffix: str) -> None:
    frames = animation(tmp_path / "in.gif")
    result, notes = translate(tmp_path / "in.gif", tmp_path / f"out.{suffix}")
    assert getattr(result, "n_frames", 1) == 1
    kind = "JPEG" if suffix == "jpg" else "TIFF"
    assert notes == [f"{kind} holds no animation; only the first of 4 frames was written"]
    error = np.abs(np.asarray(result.convert("RGB")).astype(int) - np.asarray(frames[0])).mean()
    assert error < 5


def test_half_clear_parts_in_gif(tmp_path: Path, noise: Pixels, translate: Translate) -> None:
    with_alpha(noise).save(tmp_path / "in.png")
    result, notes = translate(tmp_path / "in.png", tmp_path / "out.gif")
    assert notes == ["GIF knows no half-clear parts; they were made clear or opaque"]
    clear = np.asarray(result.convert("RGBA"))[..., 3] == 0
    assert np.array_equal(clear, noise[..., 1] < 128)


@pytest.mark.parametrize(
    ("name", "format", "suffix"),
    [
        ("a.JPG", "auto", ".JPG"),
        ("a.gif", "auto", ".gif"),
        ("a.apng", "auto", ".apng"),
        ("a.bmp", "auto", ".png"),
        ("a.HEIC", "auto", ".jpg"),
        ("a.heif", "auto", ".jpg"),
        ("a.jp2", "auto", ".png"),
        ("a.tga", "auto", ".png"),
        ("a", "auto", ".png"),
        ("a.png", "jpg", ".jpg"),
        ("a.JPEG", "jpg", ".JPEG"),
        ("a.tif", "tiff", ".tif"),
        ("a.gif", "webp", ".webp"),
        ("a.gif", "avif", ".avif"),
        ("a.heic", "png", ".png"),
    ],
)
def test_suffixes(name: str, format: Format, suffix: str) -> None:  # noqa: A002
    assert output_suffix(Path(name), Encoding(format=format)) == suffix
    assert suffix.lower() in OUTPUT_SUFFIXES


def test_a_target_of_no_known_format(tmp_path: Path, photo: Pixels, translate: Translate) -> None:
    Image.fromarray(photo).save(tmp_path / "in.png")
    for name in ("out.xyz", "out"):
        with pytest.raises(OutputError, match="not a format") as caught:
            translate(tmp_path / "in.png", tmp_path / name)
        assert ".png" in caught.value.hint
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_a_picture_that_the_format_cannot_hold(tmp_path: Path, translate: Translate, suffix: str) -> None:
    Image.new("RGB", (66000, 8)).save(tmp_path / "in.png")
    with pytest.raises(OutputError, match=rf"out\.{suffix}: cannot be written as") as caught:
        translate(tmp_path / "in.png", tmp_path / f"out.{suffix}")
    assert "--format png" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png"]


def test_results_for_every_frame(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    animation(tmp_path / "in.gif")
    picture = opened(tmp_path / "in.gif")
    frames = list(picture.frames())
    with pytest.raises(ValueError, match="3 results for 4 frames"):
        write_picture(picture, frames[:3], tmp_path / "out.gif", Encoding())


@pytest.mark.parametrize("name", ["-rf.png", "写真 ñ ☂.jpg", "é" * 120 + "x" * 6 + ".webp", ".hidden.png"])
def test_names(tmp_path: Path, photo: Pixels, translate: Translate, name: str) -> None:
    Image.fromarray(photo).save(tmp_path / "in.png")
    result, _ = translate(tmp_path / "in.png", tmp_path / "below" / name)
    assert result.size == (56, 40)


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, photo: Pixels, translate: Translate, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photo).save(tmp_path / "in.png")
    (tmp_path / "out.png").write_bytes(b"the one before")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as handle:
            handle.write(bytes(data)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match=r"out\.png"):
        translate(tmp_path / "in.png", tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


@pytest.mark.parametrize("output", ["source", "network"])
def test_output_size(tmp_path: Path, translate: Translate, output: Literal["source", "network"]) -> None:
    Image.new("RGBA", (100, 60), (9, 99, 199, 77)).save(tmp_path / "in.png")
    sizing = Sizing(square=True, side=40, output=output)
    result, _ = translate(tmp_path / "in.png", tmp_path / "out.png", sizing=sizing)
    assert result.size == ((100, 60) if output == "source" else (40, 24))
    assert np.abs(np.asarray(result).astype(int) - (9, 99, 199, 77)).max() <= 1


def test_many_threads_write_what_one_writes(
    tmp_path: Path, opened: Callable[..., Picture], wide_icc: bytes
) -> None:
    kinds = ("jpg", "png", "webp", "gif", "tiff", "avif")
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png", icc_profile=wide_icc)

    def work(folder: Path, seed: int) -> None:
        for suffix in kinds:
            picture = opened(tmp_path / f"{seed}.png")
            frames = [255 - frame for frame in picture.frames()]
            write_picture(picture, frames, folder / f"{seed}.{suffix}", Encoding())

    for seed in range(4):
        work(tmp_path / "serial", seed)
    threads = [threading.Thread(target=work, args=(tmp_path / "threads", seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [f"{seed}.{suffix}" for seed in range(4) for suffix in kinds]
    assert sorted(path.name for path in (tmp_path / "threads").iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / "threads" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()
