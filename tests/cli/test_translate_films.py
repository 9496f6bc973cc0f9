from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from ugatit_batch.errors import FilmError, OutputError
from ugatit_batch.video import film
from ugatit_batch.video.decode import FilmReader
from ugatit_batch.video.film import FilmWork
from ugatit_batch.video.join import join_film

from ..fakes import paint
from ..video.film_makers import damage, make_film, packets_of, timestamps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.frames import Finished
    from ugatit_batch.video.decode import FilmFrame

    from ..conftest import Outcome

FILM_OPTIONS = {"codec", "crf", "preset", "pix_fmt", "audio", "subtitles", "start", "end", "segment"} | {
    *("resume", "smooth", "hwaccel")
}
"""All of them are tried in this file."""
UNEVEN = [0, 3, 4, 9, 10, 11, 30, 31, 32, 40]


def seconds_of(path: Path) -> list[Fraction]:
    with av.open(path) as film:
        base = film.streams.video[0].time_base
    assert base is not None
    return [pts * base for pts in timestamps_of(path)]


def test_a_folder_of_pictures_and_films(program: Callable[..., Outcome], tmp_path: Path) -> None:
    folder, out = tmp_path / "p", tmp_path / "out"
    paint(folder / "a.png")
    (folder / "sub").mkdir()
    make_film(folder / "b.mp4", count=12, sound=True, options={"bf": "2"})
    make_film(folder / "sub" / "c.mkv", count=10, timestamps=UNEVEN, time_base=Fraction(1, 50))
    (folder / "d.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no film")
    outcome = program("translate", folder, "-m", "ink", "-o", out, "--json", "--report", tmp_path / "r.jsonl")
    assert outcome.code == 1
    lines = {line["input"].rpartition("/")[2]: line for line in outcome.lines()}
    assert {name: (line["status"], line["frames"]) for name, line in lines.items()} == {
        "a.png": ("done", 1),
        "b.mp4": ("done", 12),
        "c.mkv": ("done", 10),
        "d.mp4": ("failed", 0),
    }
    assert "d.mp4" in lines["d.mp4"]["error"]
    assert set(lines["b.mp4"]["flicker"]) == {"source", "result"}
    report = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text("ascii").splitlines()]
    assert sorted(report, key=str) == sorted(lines.values(), key=str)
    assert seconds_of(out / "b.mp4") == seconds_of(folder / "b.mp4")
    assert seconds_of(out / "sub" / "c.mkv") == seconds_of(folder / "sub" / "c.mkv")
    with av.open(out / "b.mp4") as film:
        assert len(film.streams.audio) == 1
    left = {path.name for path in out.rglob("*") if not path.name.startswith(".ugatit-batch.sqlite")}
    assert left == {"a.png", "b.mp4", "sub", "c.mkv"}

    again = program("translate", folder, "-m", "ink", "-o", out, "--json")
    assert {line["status"] for line in again.lines()} == {"skipped", "failed"}

    # What concerns films alone does not make pictures foreign, and the other way round.
    coarser = program("translate", folder, "-m", "ink", "-o", out, "--crf", "30", "-q", "80")
    assert "of those not made from these settings" in coarser.err


def test_other_settings_of_films_leave_pictures_alone(
    program: Callable[..., Outcome], tmp_path: Path
) -> None:
    paint(tmp_path / "p" / "a.png")
    make_film(tmp_path / "p" / "b.mp4", count=3)
    command = ("translate", tmp_path / "p", "-m", "ink")
    assert program(*command).code == 0
    for options, foreign in ((("--crf", "30"), 1), (("-q", "80"), 1), (("--segment", "7"), 0)):
        assert (f"{foreign}  of those not made" in program(*command, *options).err.replace("     ", " ")) or (
            foreign == 0 and "of those" not in program(*command, *options).err
        )


def test_attention_of_a_film_has_its_timestamps(program: Callable[..., Outcome], tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    make_film(source, count=10, timestamps=UNEVEN, time_base=Fraction(1, 50), size=(120, 64), sound=True)
    kinds = ("heatmap", "overlay", "mask", "npy")
    options = [option for kind in kinds for option in ("--attention", kind)]
    outcome = program("translate", source, "-m", "ink", "--json", *options)
    assert outcome.code == 0, outcome.err
    (line,) = outcome.lines()
    paths = [tmp_path / f"a_ink.{kind}.mp4" for kind in kinds[:3]] + [tmp_path / "a_ink.attention.npy"]
    assert line["attention"] == [str(path) for path in paths]
    for path in paths[:3]:
        assert seconds_of(path) == seconds_of(source)
        with av.open(path) as film:
            assert not film.streams.audio
            frame = next(film.decode(video=0)).to_ndarray(format="rgb24")
        assert frame.shape == (64, 120, 3)
        assert frame.std() > 10
    array = np.load(paths[3])
    assert (array.shape, array.dtype) == ((10, 8, 8), np.float32)
    assert (array.std(axis=(1, 2)) > 0).all()


def test_a_part_of_a_film_begins_at_0(program: Callable[..., Outcome], tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", count=50, sound=True)
    outcome = program(
        "translate", tmp_path / "a.mp4", "-m", "ink", "--start", "0:00.4", "--end", "1.2", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.lines()[0]["frames"] == 20
    assert seconds_of(tmp_path / "a_ink.mp4") == [Fraction(number, 25) for number in range(20)]
    with av.open(tmp_path / "a_ink.mp4") as film:
        sound = [packet for packet in film.demux(audio=0) if packet.size]
        base = sound[0].time_base
        assert abs(float(sum(packet.duration or 0 for packet in sound) * base) - 0.8) < 0.05


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--start", "3"), 1, "no picture between 0:03 and its end"),
        (("--start", "1:2:3:4"), 2, "is no time"),
        (("--start", "3", "--end", "2"), 2, "is not after --start"),
        (("--crf", "60"), 2, "--crf 60: libx264 takes 0"),
        (("--codec", "prores"), 2, "cannot be put into MP4"),
        (("--preset", "swift"), 2, "--preset swift"),
        (("--pix-fmt", "yuv9"), 2, "--pix-fmt yuv9"),
        (("--codec", "libvpx-vp9", "--audio", "opus", "-f", "mov"), 2, "libvpx-vp9"),
        (("-f", "mp4", "-f", "mkv"), 2, "mp4 was given as well"),
        (("-f", "png"), 2, "there is no picture among the inputs"),
        (("--segment", "0"), 2, "--segment"),
        (("--smooth", "--backend", "tensorrt"), 2, "--smooth"),
        (("--codec", "h264_nvenc"), 4, "no NVIDIA GPU here encodes it"),
        (("--hwaccel", "abacus"), 4, "abacus"),
    ],
)
def test_what_a_film_cannot_be_is_said_and_nothing_is_left(
    program: Callable[..., Outcome], tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    make_film(tmp_path / "a.mp4", count=20)
    command = ("translate", tmp_path / "a.mp4", "-m", "ink", *options)
    outcome = program(*command)
    assert outcome.code == code
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    # What can be said without looking at the film is said by a dry run too.
    if code != 1 and "--backend" not in options:
        assert program(*command, "--dry-run").code == code


@pytest.mark.parametrize("options", [("-f", "mkv"), ("--start", "1"), ("--end", "1")])
def test_what_is_for_films_needs_one(
    program: Callable[..., Outcome], tmp_path: Path, options: tuple[str, ...]
) -> None:
    paint(tmp_path / "a.png")
    outcome = program("translate", tmp_path / "a.png", "-m", "ink", *options)
    assert outcome.code == 2
    assert "there is no film among the inputs" in outcome.err


def test_a_second_run_does_not_disturb_the_one_that_joins(
    program: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_film(tmp_path / "a.mp4", count=20)
    command = [sys.executable, "-m", "ugatit_batch", "translate", str(tmp_path / "a.mp4"), "-m", "ink"]
    codes = []

    def slowly(*arguments: Any, **options: Any) -> list[str]:
        notes = join_film(*arguments, **options)
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        codes.append((second.returncode, "another run works on this film" in second.stderr))
        return notes

    monkeypatch.setattr(film, "join_film", slowly)
    outcome = program("translate", tmp_path / "a.mp4", "-m", "ink")
    assert outcome.code == 0, outcome.err
    assert codes == [(1, True)]
    assert seconds_of(tmp_path / "a_ink.mp4") == seconds_of(tmp_path / "a.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "a_ink.mp4"}


def test_what_is_done_survives_a_disk_that_fails_once(
    program: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_film(tmp_path / "a.mkv", count=60)
    command = ("translate", tmp_path / "a.mkv", "-m", "ink", "--segment", "1", "--json")
    frames = FilmReader.frames

    def failing(reader: FilmReader) -> Iterator[FilmFrame]:
        for number, frame in enumerate(frames(reader)):
            if number == 40:
                raise FilmError("a.mkv: could not be read (Input/output error)")
            yield frame

    with monkeypatch.context() as patched:
        patched.setattr(FilmReader, "frames", failing)
        assert program(*command).code == 1
    assert len(list((tmp_path / ".a_ink.mkv.partial.segments").glob("*.result.nut"))) == 1
    again = program(*command)
    assert (again.code, again.lines()[0]["frames"]) == (0, 60)


def test_formats_for_pictures_and_films_at_once(program: Callable[..., Outcome], tmp_path: Path) -> None:
    paint(tmp_path / "p" / "a.png")
    make_film(tmp_path / "p" / "b.mp4", count=3)
    outcome = program("translate", tmp_path / "p", "-m", "ink", "-f", "webp", "-f", "mkv", "--dry-run")
    assert (outcome.code, outcome.err.splitlines()[-1][:19]) == (0, "1 pictures, 1 films")
    assert outcome.out.count("a.webp") == outcome.out.count("b.mkv") == 1


def test_a_film_that_is_cut_short_is_translated_as_far_as_it_goes(
    program: Callable[..., Outcome], tmp_path: Path
) -> None:
    make_film(tmp_path / "whole.mkv", count=60, options={"g": "10"})
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    outcome = program("translate", tmp_path / "a.mkv", "-m", "ink", "--json")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.lines()
    assert 10 < line["frames"] < 60
    assert any("cut short" in note for note in line["notes"])
    assert seconds_of(tmp_path / "a_ink.mkv") == seconds_of(tmp_path / "whole.mkv")[: line["frames"]]


def test_smoothing_changes_a_film_and_nothing_else(program: Callable[..., Outcome], tmp_path: Path) -> None:
    paint(tmp_path / "p" / "a.png")
    make_film(tmp_path / "p" / "b.mkv", count=20)
    made = {}
    for name, options in (("plain", ()), ("smooth", ("--smooth",))):
        out = tmp_path / name
        assert (
            program("translate", tmp_path / "p", "-m", "ink", "-o", out, "--codec", "ffv1", *options).code
            == 0
        )
        with av.open(out / "b.mkv") as film:
            frames = [frame.to_ndarray() for frame in film.decode(video=0)]
        made[name] = ((out / "a.png").read_bytes(), frames)
    assert made["plain"][0] == made["smooth"][0]
    same = [bool((a == b).all()) for a, b in zip(made["plain"][1], made["smooth"][1], strict=True)]
    assert same[0]
    assert not all(same)


def streams_of(path: Path) -> list[tuple[str, str]]:
    with av.open(path) as film:
        return [(stream.type, stream.codec_context.name) for stream in film.streams]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [("video", "h264"), ("audio", "aac"), ("subtitle", "srt")]),
        (("--audio", "none"), [("video", "h264"), ("subtitle", "srt")]),
        (("--audio", "opus"), [("video", "h264"), ("audio", "opus"), ("subtitle", "srt")]),
        (("--subtitles", "none"), [("video", "h264"), ("audio", "aac")]),
        (("-f", "mp4"), [("video", "h264"), ("audio", "aac"), ("subtitle", "mov_text")]),
        (("--codec", "libx265", "--preset", "ultrafast", "--crf", "30"), [("video", "hevc")]),
        (("--codec", "ffv1", "--pix-fmt", "yuv444p"), [("video", "ffv1")]),
    ],
)
def test_what_becomes_of_the_streams(
    program: Callable[..., Outcome],
    tmp_path: Path,
    options: tuple[str, ...],
    expected: list[tuple[str, str]],
) -> None:
    with_subtitles(tmp_path / "a.mkv")
    outcome = program("translate", tmp_path / "a.mkv", "-m", "ink", *options)
    assert outcome.code == 0, outcome.err
    result = tmp_path / ("a_ink.mp4" if "mp4" in options else "a_ink.mkv")
    assert streams_of(result)[: len(expected)] == expected
    if expected[-1][0] != "video":
        assert len(streams_of(result)) == len(expected)
    if "--pix-fmt" in options:
        with av.open(result) as film:
            assert next(film.decode(video=0)).format.name == "yuv444p"


def with_subtitles(path: Path) -> None:
    """A film with sound and a text."""
    plain = path.with_name("plain.mkv")
    make_film(plain, count=30, sound=True)
    with av.open(plain) as source, av.open(path, "w") as target:
        streams = {
            stream.index: target.add_stream_from_template(stream, opaque=True) for stream in source.streams
        }
        text = target.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
        said = av.Packet(b"a cat")
        said.pts = said.dts = 200
        said.duration, said.time_base, said.stream = 500, Fraction(1, 1000), text
        target.mux(said)
    plain.unlink()


@pytest.mark.parametrize(("options", "read"), [((), 15), (("--no-resume",), 40)])
def test_a_film_that_was_left_goes_on_unless_it_is_told_not_to(
    program: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    read: int,
) -> None:
    make_film(tmp_path / "a.mkv", count=40)
    command = ("translate", tmp_path / "a.mkv", "-m", "ink", "--segment", "1", "--json")
    add, count = FilmWork.add, 0

    def interrupted(work: FilmWork, finished: Finished) -> None:
        nonlocal count
        count += 1
        if count == 33:
            raise OutputError("a power cut")
        add(work, finished)

    monkeypatch.setattr(FilmWork, "add", interrupted)
    assert program(*command).code == 1
    assert (tmp_path / ".a_ink.mkv.partial.segments").is_dir()
    count = 100
    again = program(*command, *options)
    assert (again.code, again.lines()[0]["frames"], count - 100) == (0, 40, read)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mkv", "a_ink.mkv"}
    assert seconds_of(tmp_path / "a_ink.mkv") == seconds_of(tmp_path / "a.mkv")


def test_damaged_pictures_are_counted_over_a_film_that_was_left(
    program: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_film(tmp_path / "a.mkv", count=60, options={"g": "10"})
    packets = packets_of(tmp_path / "a.mkv")
    damage(tmp_path / "a.mkv", [(packets[at][0] + 60, packets[at][1] - 70) for at in (11, 12, 45)])
    command = ("translate", tmp_path / "a.mkv", "-m", "ink", "--segment", "1", "--json")
    (whole,) = program(*command, "-o", tmp_path / "whole.mkv").lines()
    (note,) = whole["notes"]
    assert "pictures were damaged and are shown as the last good one" in note
    assert (whole["status"], whole["frames"]) == ("done", 60)

    add, count = FilmWork.add, 0

    def interrupted(work: FilmWork, finished: Finished) -> None:
        nonlocal count
        count += 1
        if count == 40:
            raise OutputError("a power cut")
        add(work, finished)

    monkeypatch.setattr(FilmWork, "add", interrupted)
    assert program(*command).code == 1
    (line,) = program(*command).lines()
    assert line["notes"] == [note]
    assert seconds_of(tmp_path / "a_ink.mkv") == seconds_of(tmp_path / "whole.mkv")
