"""Tracks, times and covers of sources that are unusual or damaged."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import pytest
from PIL import Image

from ugatit_batch.video.holding import holds

from .film_makers import make_film
from .writing_support import (
    EVEN,
    SUFFIXES,
    carried,
    film_info,
    make_source,
    options,
    said,
    seen,
    streams,
    write_film,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.video.info import FilmInfo


def replaced(path: Path, *pairs: tuple[bytes, bytes]) -> None:
    data = path.read_bytes()
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("audio", "suffix"), [*(("copy", suffix) for suffix in SUFFIXES), ("aac", ".mp4"), ("opus", ".webm")]
)
def test_tracks_of_unknown_codecs_are_left_out(tmp_path: Path, audio: str, suffix: str) -> None:
    words = [("subrip", "eng", [(0.5, 1.2, "Hello")]), ("subrip", "eng", [(0.5, 1.2, "Hello")])]
    source = make_source(tmp_path / "source.mkv", sound=[("aac", "eng"), ("flac", "eng")], subtitles=words)
    replaced(source.path, (b"A_AAC", b"A_ZZZ"))
    data = source.path.read_bytes()
    place = data.index(b"S_TEXT/UTF8")
    source.path.write_bytes(data[:place] + b"S_TEXT/ZZZZ" + data[place + 11 :])
    notes = carried(source, tmp_path / f"film{suffix}", audio=audio)
    assert "sound 1 (eng) was left out: its codec is not known" in notes
    assert "subtitles 1 (eng) were left out: their codec is not known" in notes
    assert len(streams(tmp_path / f"film{suffix}", "audio")) == 1
    assert len(streams(tmp_path / f"film{suffix}", "subtitle")) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_count_from_the_origin(tmp_path: Path, suffix: str) -> None:
    source = make_source(
        tmp_path / "source.mkv",
        sound=[("flac", "eng")],
        subtitles=[("subrip", "eng", [(0.5, 1.2, "Hello")])],
        chapters=[(0, 1, "one"), (1, 3, "two")],
        delay=Fraction(5),
    )
    begun = film_info(source.path, origin=Fraction(5))
    target = tmp_path / f"film{suffix}"
    carried(begun, target)
    assert abs(streams(target, "audio")[0].times[0]) <= Fraction(1, 500)
    ((begin, _, words),) = said(target)[0]
    assert (round(float(begin), 2), words.removeprefix("{\\an0}")) == (0.5, "Hello")
    with av.open(str(target)) as film:
        chapters = [
            (one["start"] * (one["time_base"] or 0), one["end"] * (one["time_base"] or 0))
            for one in film.chapters()
        ]
    assert chapters == [(0, 1), (1, 3)]
    # Where a part was asked for, that begins at 0.
    for origin in (Fraction(0), Fraction(5)):
        begun = film_info(source.path, origin=origin)
        write_film(target, EVEN, options(start=Fraction(1)), source=begun)
        assert abs(streams(target, "audio")[0].times[0]) <= Fraction(1, 10)


def cut_by_edit_list(path: Path, seconds: Fraction) -> FilmInfo:
    """A film of which an edit list hides the beginning."""
    plain = make_source(path.with_stem("plain"), seconds=4)
    flags = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(plain.path)) as source,
        av.open(str(path), "w", container_options={"movie_timescale": "96000", **flags}) as output,
    ):
        copies = {one.index: output.add_stream_from_template(one, opaque=True) for one in source.streams}
        for packet in source.demux():
            if packet.size:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts = (packet.pts or 0) - shift, (packet.dts or 0) - shift
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    return film_info(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_that_an_edit_list_hides_stays_hidden(tmp_path: Path, suffix: str) -> None:
    source = cut_by_edit_list(tmp_path / "source.mp4", Fraction(103, 100))
    with av.open(str(source.path)) as film:
        hidden = [packet.is_discard for packet in film.demux(audio=0) if packet.size]
    assert sum(hidden) > 40
    target = tmp_path / f"film{suffix}"
    carried(source, target)
    with av.open(str(target)) as film:
        packets = [packet for packet in film.demux(audio=0) if packet.size]
    heard = [packet for packet in packets if not packet.is_discard]
    length = Fraction(1024, 48_000)
    assert -2 * length <= min((packet.pts or 0) * packet.time_base for packet in heard) <= 0
    with av.open(str(target)) as film:
        first = next(iter(film.decode(audio=0)))
    assert -0.05 < (first.time or 0) <= 0.0
    if suffix != ".webm":
        old = streams(source.path, "audio")[0]
        new = streams(target, "audio")[0]
        assert new.data == (old.data if suffix in (".mp4", ".mov") else old.data[sum(hidden) - 1 :])
        assert abs(new.times[-1] - old.times[-1]) <= Fraction(1, 1000)
    assert seen(target).times[0] == 0


def test_pictures_of_chapters_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "source.mp4"
    plain = make_source(tmp_path / "plain.mp4", sound=[])
    held = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 60)).save(held, "JPEG")
    with av.open(str(plain.path)) as source, av.open(str(path), "w") as output:
        output.set_chapters(
            [{"id": 0, "start": 0, "end": 3000, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}]
        )
        pictures = output.add_stream_from_template(source.streams.video[0], opaque=True)
        thumbnails = output.add_mux_stream("mjpeg", width=16, height=16)
        thumbnails.time_base = Fraction(1, 1000)
        packet = av.Packet(held.getvalue())
        packet.pts = packet.dts = 0
        packet.duration, packet.time_base, packet.stream = 3000, Fraction(1, 1000), thumbnails
        output.mux(packet)
        for picture in source.demux(video=0):
            if picture.size:
                picture.stream = pictures
                output.mux(picture)
    # The track of the chapters' titles is the third; FFmpeg can write no track of their pictures.
    replaced(path, (b"chap\0\0\0\3", b"chap\0\0\0\2"))
    assert "the pictures of its chapters were left out" in carried(film_info(path), tmp_path / "film.mkv")
    assert len(streams(tmp_path / "film.mkv", "video")) == 1


def test_sound_of_which_a_films_beginning_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "source.ts"
    make_film(tmp_path / "one.ts", count=40, rate=1)
    stamps = [40 * 25 + number for number in range(50)]
    make_film(tmp_path / "two.ts", count=50, sound=True, timestamps=stamps, time_base=Fraction(1, 25))
    filler = b"\x47\x1f\xff\x10" + b"\xff" * 184
    path.write_bytes((tmp_path / "one.ts").read_bytes() + filler * 1000 + (tmp_path / "two.ts").read_bytes())
    with av.open(str(path)) as film:
        assert [one.rate for one in film.streams.audio] == [0]
    notes = carried(film_info(path), tmp_path / "film.mkv")
    assert notes == [
        "sound 1 was encoded anew as AAC: the source does not say at its beginning how it is made"
    ]


def test_what_a_container_does_not_take_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path / "source.mkv", sound=[("flac", "eng")])
    taken: list[Any] = []

    def cut(packet: Any, *_: object, **__: object) -> bool:
        taken.append(packet)
        # A packet that is shown before it is decoded.
        packet.pts -= 1000 * (len(taken) in (5, 6, 7))
        return True

    monkeypatch.setattr("ugatit_batch.video.tracks.cut", cut)
    notes = carried(source, tmp_path / "film.mp4")
    assert notes == ["packets of sound or subtitles that MP4 did not take were left out: 3"]


def test_a_trial_file_is_closed_where_its_container_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path / "source.mkv", sound=[("flac", "eng")])
    trials: list[Any] = []
    opened = av.open

    def remembered(*args: Any, **kwargs: Any) -> Any:
        trials.append(opened(*args, **kwargs))
        return trials[-1]

    with opened(str(source.path)) as film:
        monkeypatch.setattr(av, "open", remembered)
        assert not holds("mov", film.streams.audio[0])
    (trial,) = trials
    assert list(trial.streams) == []
