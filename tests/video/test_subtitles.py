"""Subtitles that are shown together."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import pytest

from .writing_support import (
    ASS_HEADER,
    Words,
    carried,
    film_info,
    make_source,
    said,
    streams,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.video.info import FilmInfo

TOGETHER: Words = [(0.5, 1.5, "one"), (0.5, 1.5, "two"), (0.5, 1.5, "three"), (1.0, 2.0, "four")]


def with_lines(path: Path, times: list[int]) -> FilmInfo:
    """A film with a line of ASS at each time, in milliseconds; each lasts one second."""
    plain = make_source(path.with_stem("plain"), sound=[])
    with av.open(str(plain.path)) as source, av.open(str(path), "w") as output:
        pictures = output.add_stream_from_template(source.streams.video[0], opaque=True)
        track: Any = output.add_stream("ass")
        track.codec_context.subtitle_header = ASS_HEADER
        track.time_base = Fraction(1, 1000)
        packets: list[Any] = []
        for number, time in enumerate(times):
            line = av.Packet(f"{number},0,Default,,0,0,0,,line {number}".encode())
            line.pts = line.dts = time
            line.time_base, line.duration, line.stream = track.time_base, 1000, track
            packets.append(line)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = pictures
                packets.append(packet)
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            output.mux(packet)
    return film_info(path)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_lines_that_are_shown_together_stay_together(tmp_path: Path, suffix: str) -> None:
    source = with_lines(tmp_path / "source.mkv", [500] * 100)
    carried(source, tmp_path / f"film{suffix}")
    assert said(tmp_path / f"film{suffix}") == [
        [(Fraction(1, 2), Fraction(1), f"line {number}") for number in range(100)]
    ]


@pytest.mark.parametrize("codec", ["hdmv_pgs_subtitle", "dvd_subtitle"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_pictures_of_words_may_come_at_the_same_time(tmp_path: Path, codec: str, suffix: str) -> None:
    plain = make_source(tmp_path / "plain.mkv", sound=[])
    path = tmp_path / "source.mkv"
    # Two segments of PGS, of which the second ends what is shown together.
    sets = [(b"\x16\0\x0b" + bytes([number]) * 11 + b"\x80\0\0", 500) for number in range(3)]
    with av.open(str(plain.path)) as source, av.open(str(path), "w") as output:
        pictures = output.add_stream_from_template(source.streams.video[0], opaque=True)
        track = output.add_mux_stream(codec, width=96, height=64)
        track.time_base = Fraction(1, 1000)
        for data, time in sets:
            packet = av.Packet(data)
            packet.pts = packet.dts = time
            packet.duration, packet.time_base, packet.stream = 100, track.time_base, track
            output.mux(packet)
        for picture in source.demux(video=0):
            if picture.size:
                picture.stream = pictures
                output.mux(picture)
    notes = carried(film_info(path), tmp_path / f"film{suffix}")
    if codec == "hdmv_pgs_subtitle" and suffix == ".mp4":
        assert notes == [f"subtitles 1 were left out: MP4 holds no {codec}"]
        return
    assert notes == []
    (track_made,) = streams(tmp_path / f"film{suffix}", "subtitle")
    assert track_made.data == [data for data, _ in sets]
    assert max(track_made.times) - min(track_made.times) == 0


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("kind", ["ass", "subrip"])
def test_lines_that_overlap_become_one_where_one_is_shown_at_a_time(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    words = [*TOGETHER, (2.5, 2.75, "{\\b1}five"), (2.5, 2.75, "six")]
    source = make_source(tmp_path / "source.mkv", sound=[], subtitles=[(kind, "eng", words)])
    carried(source, tmp_path / f"film{suffix}")
    half = Fraction(1, 2)
    told = [(begin, length, text.split("\n")) for begin, length, text in said(tmp_path / f"film{suffix}")[0]]
    bold = "{\\b1}five{\\r}"
    assert told == [
        (half, half, ["one", "two", "three"]),
        (Fraction(1), half, ["one", "two", "three", "four"]),
        (Fraction(3, 2), half, ["four"]),
        (Fraction(5, 2), Fraction(1, 4), [bold, "six"]),
    ]


def test_a_line_without_an_end_lasts_until_the_next_one(tmp_path: Path) -> None:
    source = with_lines(tmp_path / "source.mkv", [500, 1500])
    data = source.path.read_bytes()
    # BlockDuration of 1000, as something that says nothing.
    assert data.count(b"\x9b\x82\x03\xe8") == 2
    source.path.write_bytes(data.replace(b"\x9b\x82\x03\xe8", b"\xec\x82\x03\xe8"))
    carried(source, tmp_path / "film.mp4")
    (first, second) = said(tmp_path / "film.mp4")[0]
    assert first == (Fraction(1, 2), Fraction(1), "line 0")
    assert (second[0], second[2]) == (Fraction(3, 2), "line 1")
    assert second[1] > 1
