"""Films from file to file, by a network that changes nothing."""

from __future__ import annotations

import shutil
import struct
import sys
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import Result, run
from ugatit_batch.planning import DEFAULT_NAME, Naming, plan
from ugatit_batch.settings import Settings
from ugatit_batch.video.info import Colour, FilmOptions

from ..fakes import UnchangingTranslator
from .film_makers import make_film, planes_of, timestamps_of, to_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZING = Sizing(square=False, side=None)
RGB = Colour(0, 2, 1, 13)
UNEVEN = [0, 1, 5, 6, 7, 20, 21, 33, 34, 35, 36, 60, 61, 62, 90, 99, 100, 101, 130, 131]


def translate(source: Path, target: Path, options: FilmOptions | None = None) -> Result:
    options = options or FilmOptions()
    naming = Naming(target, "same", Encoding(), DEFAULT_NAME, (), options.format)
    settings = Settings(SIZING, film=options)
    # Three at once, so that films do not end with a full batch.
    (result,) = run(plan([source], naming), UnchangingTranslator(3, ahead=1), "model", settings)
    assert result.error is None, result.error
    return result


def seconds_of(path: Path) -> list[Fraction]:
    with av.open(path) as film:
        base = film.streams.video[0].time_base
    assert base is not None
    return [pts * base for pts in timestamps_of(path)]


@dataclass(frozen=True)
class Case:
    codec: str
    suffix: str
    target: str = ""
    pix_fmt: str = "yuv420p"
    made: dict[str, Any] = field(default_factory=dict)
    options: FilmOptions = field(default_factory=FilmOptions)


B_FRAMES: dict[str, Any] = {"options": {"bf": "3", "preset": "veryfast", "g": "12"}}
VARIABLE: dict[str, Any] = {"timestamps": UNEVEN, "time_base": Fraction(1, 90000) * 1000}
CASES = {
    "H.264 MP4 B-frames": Case("libx264", ".mp4", made=B_FRAMES),
    "H.264 MP4 variable": Case("libx264", ".mp4", made={**B_FRAMES, **VARIABLE}),
    "H.264 MKV variable": Case("libx264", ".mkv", made={**B_FRAMES, **VARIABLE}),
    "H.264 MOV": Case("libx264", ".mov", made=B_FRAMES),
    "H.264 MP4 NTSC": Case("libx264", ".mp4", made={"rate": Fraction(30000, 1001)}),
    "HEVC MP4": Case("libx265", ".mp4", options=FilmOptions(codec="libx265", preset="ultrafast")),
    "HEVC MKV 10 bit": Case(
        "libx265", ".mkv", pix_fmt="yuv420p10le", options=FilmOptions(codec="libx265", preset="ultrafast")
    ),
    "VP9 WebM": Case("libvpx-vp9", ".webm", options=FilmOptions(preset="8")),
    "VP9 WebM variable": Case("libvpx-vp9", ".webm", made=VARIABLE, options=FilmOptions(preset="8")),
    "AV1 MP4": Case("libsvtav1", ".mp4", options=FilmOptions(codec="libsvtav1", preset="12")),
    "AV1 WebM": Case("libsvtav1", ".webm", options=FilmOptions(codec="libsvtav1", preset="12")),
    "ProRes MOV": Case("prores_ks", ".mov", pix_fmt="yuv422p10le", options=FilmOptions(codec="prores")),
    "FFV1 MKV": Case("ffv1", ".mkv", options=FilmOptions(codec="ffv1")),
    "FFV1 MKV RGB": Case(
        "ffv1",
        ".mkv",
        pix_fmt="bgr0",
        made={"colour": RGB, "tagged": RGB},
        options=FilmOptions(codec="ffv1"),
    ),
    "MPEG-4 AVI to MKV": Case("mpeg4", ".avi", ".mkv"),
    "odd size": Case("ffv1", ".mkv", made={"size": (95, 63)}),
    "odd size VP9": Case("libvpx-vp9", ".webm", made={"size": (95, 63)}, options=FilmOptions(preset="8")),
    "anamorphic": Case("libx264", ".mp4", made={"aspect": Fraction(16, 11)}),
    "turned 90": Case("libx264", ".mp4", made={"rotation": (90, False, False)}),
    "turned 180": Case("libx264", ".mov", made={"rotation": (180, False, False)}),
    "turned 270": Case("libx264", ".mp4", made={"rotation": (270, False, False)}),
    "mirrored": Case("libx264", ".mp4", made={"rotation": (0, True, False)}),
    "late": Case(
        "libx264",
        ".mp4",
        made={"timestamps": [at + 12345 for at in range(0, 20000, 1000)], "time_base": Fraction(1, 12800)},
    ),
    "late MKV": Case(
        "libx264",
        ".mkv",
        made={"timestamps": [at * 40 + 700 for at in range(20)], "time_base": Fraction(1, 1000)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_as_many_pictures_at_the_same_times(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    source = tmp_path / f"a{case.suffix}"
    target = tmp_path / f"b{case.target or case.suffix}"
    make_film(source, codec=case.codec, pix_fmt=case.pix_fmt, count=20, **case.made)
    result = translate(source, target, case.options)
    assert result.written.frames == 20
    wanted, got = seconds_of(source), seconds_of(target)
    assert len(got) == len(wanted) == 20
    unit = Fraction(1, 1000) if target.suffix in (".mkv", ".webm") else Fraction(0)
    assert all(abs(a - b) <= unit / 2 for a, b in zip(wanted, got, strict=True)), (wanted, got)

    with av.open(source) as before, av.open(target) as after:
        old, new = next(before.decode(video=0)), next(after.decode(video=0))
        assert after.streams.video[0].frames in (0, 20)
        turned = abs(round(old.rotation)) % 180 == 90
        width, height = (old.height, old.width) if turned else (old.width, old.height)
        even = case.options.codec in ("auto", "libx264", "libx265") and target.suffix != ".webm"
        assert (new.width, new.height) == (
            (width + width % 2, height + height % 2) if even else (width, height)
        )
        assert new.rotation == 0
        aspect = after.streams.video[0].sample_aspect_ratio or Fraction(1)
        assert aspect == case.made.get("aspect", Fraction(1))
        if "10" in case.pix_fmt:
            assert "10" in new.format.name


def pictures_of(path: Path) -> NDArray[np.int64]:
    with av.open(path) as film:
        return np.stack([frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_picture_is_the_right_one(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    make_film(source, count=50, **B_FRAMES)
    translate(source, target, FilmOptions(segment=1))
    before, after = pictures_of(source), pictures_of(target)
    nearest = [int(np.abs(before - picture).mean((1, 2, 3)).argmin()) for picture in after]
    assert nearest == list(range(50))


COLOURS = {
    "BT.709 limited": Colour(1, 1, 1, 1),
    "BT.709 full": Colour(1, 2, 1, 1),
    "BT.601 limited": Colour(6, 1, 6, 6),
    "BT.601 full": Colour(5, 2, 5, 6),
    "BT.2020 limited": Colour(9, 1, 9, 14),
}


def in_gamut(index: int) -> NDArray[np.uint8]:
    """Smooth colours, rather strong ones too."""
    y, x = np.mgrid[0:64, 0:96]
    red, green = 30 + 190 * x / 95, 30 + 190 * y / 63
    blue = 128 + 90 * np.sin(x / 15 + y / 21 + index)
    return np.stack([red, green, blue], -1).astype(np.uint8)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize(
    # Untagged films of this size are BT.601.
    ("name", "tagged"),
    [*((name, True) for name in COLOURS), ("BT.601 limited", False)],
)
def test_luma_and_chroma_come_back(tmp_path: Path, name: str, tagged: bool, pix_fmt: str) -> None:
    colour = COLOURS[name]
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    pictures: dict[str, Any] = {"pictures": in_gamut, "colour": colour, "tagged": colour if tagged else None}
    make_film(source, codec="ffv1", pix_fmt=pix_fmt, count=4, **pictures)
    translate(source, target, FilmOptions(codec="ffv1"))
    with av.open(source) as before, av.open(target) as after:
        for old, new in zip(before.decode(video=0), after.decode(video=0), strict=True):
            assert new.format.name == pix_fmt
            assert (new.colorspace, new.color_range) == (colour.matrix, colour.range)
            assert (new.color_primaries, new.color_trc) == (colour.primaries, colour.transfer)
            scale = 2 ** (old.format.components[0].bits - 8)
            pairs = zip(planes_of(old), planes_of(new), strict=True)
            errors = [np.abs(a - b).max() / scale for a, b in pairs]
            assert errors[0] <= 1
            assert max(errors[1:]) <= 2


@pytest.mark.parametrize(("height", "matrix"), [(480, 6), (576, 5), (720, 1)])
def test_untagged_films_are_taken_for_what_their_size_suggests(
    tmp_path: Path, height: int, matrix: int
) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / "b.mp4"
    colour = Colour(matrix, 1, matrix, matrix)
    size = (320, height)

    def plain(_: int) -> NDArray[np.uint8]:
        return np.full((height, 320, 3), (20, 180, 60), np.uint8)

    make_film(source, count=2, size=size, colour=colour, pictures=plain)
    translate(source, target)
    with av.open(target) as after:
        frame = next(after.decode(video=0))
    assert frame.colorspace == matrix
    # Luma is the one that the right matrix gives: 82 where the wrong one would give 63 or so.
    expected = planes_of(to_format(plain(0), "yuv420p", colour))[0][0, 0]
    assert abs(int(planes_of(frame)[0][10, 10]) - int(expected)) <= 1


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_becomes_ordinary_and_is_not_washed_out(tmp_path: Path, transfer: int) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / "b.mp4"
    hdr = Colour(9, 1, 9, transfer)

    def ramp(_: int) -> NDArray[np.uint8]:
        return np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)

    made: dict[str, Any] = {"pictures": ramp, "colour": hdr, "tagged": hdr}
    make_film(source, codec="libx265", pix_fmt="yuv420p10le", count=3, **made)
    result = translate(source, target)
    assert any("tone-mapped" in note for note in result.written.notes)
    with av.open(target) as after:
        frame = next(after.decode(video=0))
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (1, 1, 1, 1)
    levels = frame.to_ndarray(format="rgb24")[32, :, 1].astype(int)
    # Black is black, the brightest is near white, and it rises all the way.
    assert levels[0] < 8
    assert levels[-1] > 225
    assert (np.diff(levels) >= -2).all()


def cut_by_edit_list(path: Path, pictures: int) -> None:
    """Let an MP4 begin so many pictures later by its edit list alone."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert struct.unpack(">II", data[at : at + 8]) == (0, 1)
    with av.open(path) as film:
        stream = film.streams.video[0]
        assert stream.time_base is not None
        assert stream.average_rate is not None
        ticks = round(pictures / stream.average_rate / stream.time_base)
        seconds = pictures / stream.average_rate
    movie = data.index(b"mvhd") + 16
    (units,) = struct.unpack(">I", data[movie : movie + 4])
    duration, begin = struct.unpack(">Ii", data[at + 8 : at + 16])
    data[at + 8 : at + 16] = struct.pack(">Ii", duration - round(seconds * units), begin + ticks)
    path.write_bytes(data)


@pytest.mark.parametrize("pictures", [12, 15])
def test_what_an_edit_list_leaves_out_stays_out(tmp_path: Path, pictures: int) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "b.mp4"
    make_film(source, count=40, **B_FRAMES)
    cut_by_edit_list(source, pictures)
    result = translate(source, target)
    assert result.written.frames == 40 - pictures
    assert seconds_of(target) == seconds_of(source)
    # The first that is shown is the right one.
    before, after = pictures_of(source), pictures_of(target)
    nearest = [int(np.abs(before - picture).mean((1, 2, 3)).argmin()) for picture in after]
    assert nearest == list(range(40 - pictures))


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_every_file_is_closed_whatever_happens(tmp_path: Path) -> None:
    def open_files() -> list[str]:
        return sorted(str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())

    (tmp_path / "p").mkdir()
    make_film(tmp_path / "p" / "good.mp4", count=60, sound=True)
    make_film(tmp_path / "p" / "long.mkv", count=200, sound=True)
    (tmp_path / "p" / "empty.mp4").write_bytes(b"")
    (tmp_path / "p" / "cut.mp4").write_bytes((tmp_path / "p" / "good.mp4").read_bytes()[:2000])
    settings = Settings(SIZING, film=FilmOptions(segment=1), attention=("mask", "npy"))
    planned = plan([tmp_path / "p"], Naming(tmp_path / "out", "same", Encoding(), attention=("mask", "npy")))
    before = open_files()
    results = list(run(planned, UnchangingTranslator(), "model", settings))
    assert sorted(result.status for result in results) == ["done", "done", "failed", "failed"]
    assert open_files() == before
    shutil.rmtree(tmp_path / "out")

    # And where the run is left in the middle of a film.
    begun = threading.Event()
    left = run(
        planned,
        UnchangingTranslator(),
        "model",
        settings,
        watch=lambda _source, done, _of: begun.set() if done > 30 else None,
    )
    next(left)
    assert begun.wait(20)
    left.close()
    assert open_files() == before


def test_a_recording_begins_at_0_with_its_sound(tmp_path: Path) -> None:
    """MPEG transport streams begin wherever their clock stood."""
    source, target = tmp_path / "a.ts", tmp_path / "b.mp4"
    options = {"output_ts_offset": "40000"}
    make_film(source, count=30, sound=True, container_options=options, **B_FRAMES)
    translate(source, target)
    before, after = seconds_of(source), seconds_of(target)
    assert before[0] >= 40000
    shift = before[0] - after[0]
    assert 0 <= after[0] < Fraction(1, 10)
    assert [time - shift for time in before] == after
    first = []
    for path in (source, target):
        with av.open(path) as film:
            packet = next(film.demux(audio=0))
            assert packet.pts is not None
            first.append(packet.pts * packet.time_base)
    assert abs(first[0] - shift - first[1]) < Fraction(1, 1000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pictures_before_0_are_not_lost(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / f"b{suffix}"
    make_film(
        source,
        codec="mpeg4",
        count=10,
        timestamps=[-200 + at * 40 for at in range(10)],
        time_base=Fraction(1, 1000),
        container_options={"avoid_negative_ts": "disabled"},
    )
    assert seconds_of(source)[0] < 0
    assert translate(source, target).written.frames == 10
    assert seconds_of(target) == [Fraction(at, 25) for at in range(10)]


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray12le"])
@pytest.mark.parametrize("levels", [1, 2])
def test_grey_films_keep_their_levels(tmp_path: Path, pix_fmt: str, levels: int) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    colour = Colour(1, levels, 1, 1)
    depth = {"gray": 8, "gray10le": 10, "gray12le": 12}[pix_fmt]
    scale = 2 ** (depth - 8)

    def ramp(_: int) -> av.VideoFrame:
        rows = np.tile(np.linspace(17, 234, 96).round(), (64, 1)) * scale
        return av.VideoFrame.from_ndarray(rows.astype(np.uint8 if depth == 8 else np.uint16), format=pix_fmt)

    made: dict[str, Any] = {"pictures": ramp, "tagged": colour}
    make_film(source, codec="libx265", pix_fmt=pix_fmt, count=2, options={"crf": "0"}, **made)
    with av.open(source) as film:
        first = next(film.decode(video=0))
        assert (first.format.name, first.color_range) == (pix_fmt, levels)
        expected = planes_of(first)[0] / scale
    translate(source, target, FilmOptions(codec="ffv1"))
    with av.open(target) as film:
        frame = next(film.decode(video=0))
        got = planes_of(frame)[0] / 2 ** (frame.format.components[0].bits - 8)
    assert frame.color_range == levels
    assert np.abs(got - expected).max() <= 1


def test_a_film_in_rgb_stays_without_loss(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mov", tmp_path / "b.mkv"

    def drawing(index: int) -> av.VideoFrame:
        return av.VideoFrame.from_ndarray(in_gamut(index), format="rgb24")

    make_film(source, codec="qtrle", pix_fmt="rgb24", count=3, pictures=drawing)
    translate(source, target, FilmOptions(codec="ffv1"))
    assert (pictures_of(source) == pictures_of(target)).all()


def test_a_film_of_an_unknown_codec_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    make_film(tmp_path / "p" / "a.mp4", count=3)
    make_film(tmp_path / "p" / "b.mp4", count=3)
    data = (tmp_path / "p" / "a.mp4").read_bytes()
    (tmp_path / "p" / "a.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    naming = Naming(tmp_path / "out", "same", Encoding())
    results = run(plan([tmp_path / "p"], naming), UnchangingTranslator(), "model", Settings(SIZING))
    by_name = {result.source.name: result for result in results}
    assert by_name["b.mp4"].status == "done"
    assert "no decoder for its pictures" in str(by_name["a.mp4"].error)


def test_an_untagged_film_that_was_turned_has_the_colours_of_its_lines(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "b.mp4"
    make_film(source, count=1, size=(960, 540), rotation=(90, False, False))
    translate(source, target)
    with av.open(target) as film:
        frame = next(film.decode(video=0))
    assert (frame.height, frame.colorspace) == (960, 6)


def test_sound_goes_on_with_the_pictures_where_time_jumps_back(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ts", tmp_path / "b.mkv"
    make_film(tmp_path / "part.ts", count=75, sound=True)
    source.write_bytes((tmp_path / "part.ts").read_bytes() * 2)
    result = translate(source, target, FilmOptions(segment=1))
    assert any("jumped back" in note for note in result.written.notes)
    pictures = seconds_of(target)
    assert len(pictures) == 150
    with av.open(target) as film:
        packets = [packet for packet in film.demux(audio=0) if packet.size]
        times = [float((packet.pts or 0) * packet.time_base) for packet in packets]
    assert abs(times[-1] - float(pictures[-1])) < 0.2
    # Never more than a packet or two from one to the next, over the joint as well.
    assert max(np.diff(times)) < 0.1
