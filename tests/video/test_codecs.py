from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch.errors import EnvironmentLacksError, UsageError
from ugatit_batch.video.codecs import choose_coding
from ugatit_batch.video.encoders import ENCODERS
from ugatit_batch.video.info import Colour, FilmOptions

from .writing_support import film_info

if TYPE_CHECKING:
    from ugatit_batch.video.codecs import Coding

HARDWARE = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")


def chosen(
    target: str = "a.mkv", size: tuple[int, int] = (96, 64), **changes: Any
) -> tuple[Coding, list[str]]:
    about = {key: changes.pop(key) for key in ("pix_fmt", "depth", "colour") if key in changes}
    if "wanted" in changes:
        changes["pix_fmt"] = changes.pop("wanted")
    return choose_coding(film_info(**about), size, FilmOptions(**changes), Path(target), 2)


def test_what_is_taken_where_nothing_is_asked_for() -> None:
    coding, notes = chosen("a.mp4")
    assert (coding.encoder, coding.pix_fmt, coding.width, coding.height) == ("libx264", "yuv420p", 96, 64)
    assert coding.options == {"crf": "18", "preset": "veryfast"}
    assert (coding.segment_format, coding.threads, notes) == ("nut", 2, [])
    assert chosen("a.webm")[0].encoder == "libvpx-vp9"


def test_a_coding_survives_json() -> None:
    for codec in ENCODERS:
        if codec not in HARDWARE:
            coding, _ = chosen(codec=codec)
            assert json.loads(json.dumps(asdict(coding))) == asdict(coding)


@pytest.mark.parametrize(
    ("codec", "source", "depth", "kept", "said"),
    [
        ("libx264", "yuv420p", 8, "yuv420p", ()),
        ("libx264", "yuvj420p", 8, "yuv420p", ()),
        ("libx264", "nv12", 8, "yuv420p", ()),
        ("libx264", "yuv422p", 8, "yuv422p", ()),
        ("libx264", "yuv411p", 8, "yuv422p", ()),
        ("libx264", "yuv444p10le", 10, "yuv444p10le", ()),
        ("libx264", "yuv420p12le", 12, "yuv420p10le", ("10 bits instead of 12",)),
        ("libx264", "rgb24", 8, "yuv420p", ()),
        ("libx264", "gray", 8, "yuv420p", ()),
        ("libx265", "yuv420p12le", 12, "yuv420p12le", ()),
        ("libsvtav1", "yuv420p10le", 10, "yuv420p10le", ()),
        ("libsvtav1", "yuv422p10le", 10, "yuv420p10le", ("4:2:0 instead of 4:2:2",)),
        ("libvpx-vp9", "yuv420p10le", 10, "yuv420p", ("8 bits instead of 10",)),
        ("libvpx-vp9", "yuva420p", 8, "yuv420p", ()),
        ("ffv1", "yuv422p16le", 16, "yuv422p16le", ()),
        ("ffv1", "rgb24", 8, "bgr0", ()),
        ("ffv1", "gbrp10le", 10, "gbrp10le", ()),
        ("ffv1", "gbrap", 8, "bgr0", ()),
        ("prores", "yuv420p", 8, "yuv422p10le", ()),
        ("prores", "yuv444p12le", 12, "yuv444p10le", ("10 bits instead of 12",)),
    ],
)
def test_depth_and_chroma_are_kept_as_far_as_the_codec_takes_them(
    codec: str, source: str, depth: int, kept: str, said: tuple[str, ...]
) -> None:
    coding, notes = chosen(codec=codec, pix_fmt=source, depth=depth)
    assert coding.pix_fmt == kept
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))


def test_the_colour_is_what_codec_and_format_can_say() -> None:
    full = Colour(1, 2, 1, 1)
    assert chosen(colour=full)[0].colour == full
    assert chosen(colour=full, codec="prores")[0].colour == Colour(1, 1, 1, 1)
    screen = Colour(0, 2, 1, 13)
    assert chosen(colour=screen, pix_fmt="gbrp", codec="ffv1")[0].colour == screen
    assert chosen(colour=screen, pix_fmt="gbrp")[0].colour == Colour(6, 1, 6, 6)


def test_prores_has_a_profile_for_its_chroma() -> None:
    assert chosen(codec="prores")[0].options["profile"] == "hq"
    coding, _ = chosen(codec="prores", pix_fmt="yuv444p", depth=8)
    assert (coding.options["profile"], coding.segment_format) == ("4444", "mov")


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("libx264", "yuv420p", (98, 66)),
        ("libx264", "yuv422p", (98, 65)),
        ("libx264", "yuv444p", (97, 65)),
        ("libx265", "yuv420p", (98, 66)),
        ("libvpx-vp9", "yuv420p", (97, 65)),
        ("libsvtav1", "yuv420p", (97, 65)),
        ("ffv1", "yuv420p", (97, 65)),
        ("prores", "yuv420p", (97, 65)),
    ],
)
def test_odd_sides_are_made_even_where_the_codec_wants_that(
    codec: str, pix_fmt: str, size: tuple[int, int]
) -> None:
    coding, notes = chosen(size=(97, 65), codec=codec, pix_fmt=pix_fmt)
    assert (coding.width, coding.height) == size
    said = [f"is one pixel wider: {codec} wants an even width"] * (size[0] == 98)
    said += [f"is one pixel taller: {codec} wants an even height"] * (size[1] == 66)
    assert notes == said


@pytest.mark.parametrize(
    ("target", "asked", "words"),
    [
        ("a.webm", {"codec": "libx264"}, ("--codec libx264", "WEBM", "a.webm", "mp4, mov, mkv")),
        ("a.mov", {"codec": "ffv1"}, ("--codec ffv1", "MOV", "mkv, mp4")),
        ("a.mov", {"codec": "libvpx-vp9"}, ("--codec libvpx-vp9", "webm")),
        ("a.mp4", {"codec": "prores"}, ("--codec prores", "MP4", "mov, mkv")),
        ("a.mp4", {"crf": 52}, ("--crf 52", "libx264", "0 (best) to 51 (smallest)", "18")),
        ("a.mp4", {"crf": -1}, ("--crf -1",)),
        ("a.webm", {"crf": 64}, ("--crf 64", "63")),
        ("a.mp4", {"codec": "libsvtav1", "crf": 0}, ("--crf 0", "1 (best)")),
        ("a.mkv", {"codec": "ffv1", "crf": 10}, ("--crf", "ffv1 has no such setting")),
        ("a.mov", {"codec": "prores", "preset": "fast"}, ("--preset", "prores has no such setting")),
        ("a.mp4", {"preset": "quick"}, ("--preset quick", "libx264", "ultrafast, superfast")),
        ("a.webm", {"preset": "veryfast"}, ("--preset veryfast", "0, 1, 2")),
        ("a.mp4", {"wanted": "yuvj420p"}, ("--pix-fmt yuvj420p", "yuv420p, yuv422p")),
        ("a.mkv", {"codec": "ffv1", "wanted": "bgra"}, ("--pix-fmt bgra", "ffv1", "bgr0")),
        ("a.mov", {"audio": "opus"}, ("--audio opus", "MOV", "mkv or mp4")),
        ("a.webm", {"audio": "aac"}, ("--audio aac", "WEBM")),
        ("a.mp4", {"wanted": "no-such"}, ("--pix-fmt no-such", "libx264")),
    ],
)
def test_what_cannot_be_is_refused_and_says_what_can(
    target: str, asked: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(target, **asked)
    assert all(word in str(caught.value) for word in words)


def test_a_pixel_format_that_is_asked_for_is_taken() -> None:
    coding, notes = chosen(wanted="yuv444p10le")
    assert (coding.pix_fmt, notes) == ("yuv444p10le", [])


@pytest.mark.parametrize("codec", HARDWARE)
def test_encoding_on_a_gpu_that_is_not_there(codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    coding = message = None
    try:
        coding, _ = chosen(codec=codec, size=(320, 192))
    except EnvironmentLacksError as error:
        message = str(error)
    assert capfd.readouterr().err == ""
    if coding is None:
        assert message is not None
        assert f"--codec {codec}" in message
        assert "libx264" in message
    else:
        assert coding.options["rc"] == "vbr"
