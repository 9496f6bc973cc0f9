from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import pytest
from PIL import Image

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


WORDS = [(0.5, 1.2, "Hello, world"), (1.5, 2.5, "Second line")]
SAID = [
    (Fraction(1, 2), Fraction(7, 10), "Hello, world"),
    (Fraction(3, 2), Fraction(1), "Second line"),
]


TEXT = {".mp4": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("source_suffix", "kind"), [(".mkv", "subrip"), (".mkv", "ass"), (".mkv", "webvtt"), (".mp4", "mov_text")]
)
def test_subtitles_say_the_same_at_the_same_times(
    tmp_path: Path, source_suffix: str, kind: str, suffix: str
) -> None:
    path = tmp_path / f"source{source_suffix}"
    source = make_source(path, sound=[], subtitles=[(kind, "eng", WORDS), (kind, "fra", WORDS[:1])])
    notes = carried(source, tmp_path / f"film{suffix}")
    tracks = streams(tmp_path / f"film{suffix}", "subtitle")
    keeps = kind == TEXT[suffix] or (suffix == ".mkv" and kind != "mov_text")
    made = kind if keeps else TEXT[suffix]
    assert [track.codec for track in tracks] == [made, made]
    assert [track.language for track in tracks] == ["eng", "fra"]
    plain = [
        [(begin, length, words.replace("{\\an0}", "")) for begin, length, words in track]
        for track in said(tmp_path / f"film{suffix}")
    ]
    assert plain == [SAID, SAID[:1]]
    if keeps:
        assert notes == []
    else:
        holds = f"became {made}: {suffix[1:].upper()} holds no {kind}"
        assert notes == [f"subtitles 1 (eng) {holds}", f"subtitles 2 (fra) {holds}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chapters_tags_and_attachments(tmp_path: Path, suffix: str) -> None:
    source = make_source(
        tmp_path / "source.mkv",
        sound=[],
        chapters=[(0, 1, "one"), (1, 3, "two")],
        attachments=[("a.ttf", "font/ttf", b"font" * 50)],
        tags={"title": "A film", "mine": "x", "encoder": "another"},
    )
    notes = carried(source, tmp_path / f"film{suffix}")
    with av.open(str(tmp_path / f"film{suffix}")) as film:
        chapters = [
            (one["start"] * one["time_base"], one["end"] * one["time_base"], one["metadata"]["title"])
            for one in film.chapters()
            if one["time_base"]
        ]
        tags = {key.lower(): value for key, value in film.metadata.items()}
        attachments = [(one.name, one.mimetype, one.data) for one in film.streams.attachments]
    assert chapters == [(Fraction(0), Fraction(1), "one"), (Fraction(1), Fraction(3), "two")]
    assert tags["title"] == "A film"
    assert tags["encoder"] != "another"
    name = suffix[1:].upper()
    if suffix == ".mkv":
        assert attachments == [("a.ttf", "font/ttf", b"font" * 50)]
        assert tags["mine"] == "x"
        assert notes == []
    elif suffix == ".webm":
        assert notes == ["the attachment a.ttf was left out: WEBM holds none"]
    else:
        assert notes == [
            f"the attachment a.ttf was left out: {name} holds none",
            f"tags were left out: {name} holds no MINE",
        ]


def test_tags_can_be_dropped_and_languages_and_chapters_stay(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mkv", tags={"title": "A film"}, chapters=[(0, 3, "one")])
    assert carried(source, tmp_path / "film.mkv", metadata="drop") == []
    with av.open(str(tmp_path / "film.mkv")) as film:
        assert "title" not in film.metadata
        assert [one["metadata"] for one in film.chapters()] == [{"title": "one"}]
        assert film.streams.audio[0].language == "eng"
        assert "title" not in film.streams.audio[0].metadata


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("delay", [Fraction(0), Fraction(7, 5)])
def test_a_part_of_a_film_begins_at_0(tmp_path: Path, suffix: str, delay: Fraction) -> None:
    path = tmp_path / "source.mkv"
    source = make_source(
        path,
        sound=[("libopus", "eng")],
        subtitles=[("webvtt", "eng", WORDS)],
        chapters=[(0, 0.5, "zero"), (0.5, 1.5, "one"), (1.5, 2, "two"), (2.5, 3, "three")],
        delay=delay,
    )
    target = tmp_path / f"film{suffix}"
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    chosen = options(
        codec, start=Fraction(1), end=Fraction(9, 4), audio="opus" if suffix != ".mov" else "aac"
    )
    if suffix != ".mov":
        chosen = options(codec, start=Fraction(1), end=Fraction(9, 4))
    write_film(target, EVEN, chosen, source=source)
    with av.open(str(path)) as film:
        origin = Fraction(film.start_time or 0, 1_000_000)
    sound = streams(target, "audio")[0]
    if suffix != ".mov":
        old = streams(path, "audio")[0].packets
        kept = [packet for packet in old if 1 <= packet[0] - origin < Fraction(9, 4)]
        assert sound.data == [data for _, _, data in kept]
        assert abs(sound.times[0] - (kept[0][0] - origin - 1)) <= Fraction(1, 1000)
    assert abs(sound.times[0]) < Fraction(1, 20)
    assert abs(sound.times[-1] + sound.packets[-1][1] - Fraction(5, 4)) < Fraction(1, 20)
    spoken = [(Fraction(0), Fraction(1, 5)), (Fraction(1, 2), Fraction(1))]
    for (begin, length, _), (time, lasts) in zip(said(target)[0], spoken, strict=True):
        assert abs(begin - time) <= Fraction(1, 50)
        assert abs(length - lasts) <= Fraction(1, 50)
    with av.open(str(target)) as film:
        titles = [one["metadata"]["title"] for one in film.chapters()]
        ends = [one["end"] * (one["time_base"] or Fraction(0)) for one in film.chapters()]
    assert titles == ["one", "two"]
    assert abs(ends[-1] - 1) <= Fraction(1, 50)


def add_streams(path: Path, kind: str, data: bytes) -> None:
    """Write a film anew with one more stream: `cover` (PNG), `dvd_subtitle` or `data`."""
    plain = path.with_stem("plain")
    path.rename(plain)
    with av.open(str(plain)) as source, av.open(str(path), "w") as output:
        copies = {one.index: output.add_stream_from_template(one, opaque=True) for one in source.streams}
        if kind == "cover" and path.suffix == ".mkv":
            output.add_attachment("cover.png", "image/png", data)
        else:
            names = {"cover": "png", "dvd_subtitle": "dvd_subtitle"}
            more = output.add_mux_stream(names[kind], width=8, height=8)
            more.time_base = Fraction(1, 1000)
            if kind == "cover":
                more.disposition = av.stream.Disposition.attached_pic
            packet = av.Packet(data)
            packet.pts = packet.dts = 0
            packet.duration, packet.time_base, packet.stream = 500, Fraction(1, 1000), more
            output.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)


def png() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 60)).save(held, "PNG")
    return held.getvalue()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source_suffix", [".mp4", ".mkv"])
def test_covers(tmp_path: Path, source_suffix: str, suffix: str) -> None:
    source = make_source(tmp_path / f"source{source_suffix}", seconds=1, sound=[])
    add_streams(source.path, "cover", png())
    chosen = options("libvpx-vp9" if suffix == ".webm" else "libx264")
    notes = write_film(tmp_path / f"film{suffix}", EVEN, chosen, source=source)
    with av.open(str(tmp_path / f"film{suffix}")) as film:
        pictures = list(film.streams.video)
        covers = [one for one in pictures if one.disposition & av.stream.Disposition.attached_pic]
        data = [bytes(packet) for one in covers for packet in film.demux(one) if packet.size]
    if suffix in (".mp4", ".mkv"):
        assert (len(pictures), data, notes) == (2, [png()], [])
    else:
        assert len(pictures) == 1
        assert notes == [f"its cover was left out: {suffix[1:].upper()} holds none of this kind"]
    assert seen(tmp_path / f"film{suffix}").numbers == list(range(len(EVEN)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_subtitles_that_are_pictures_are_kept_or_named(tmp_path: Path, suffix: str) -> None:
    source = make_source(tmp_path / "source.mkv", seconds=1, sound=[])
    add_streams(source.path, "dvd_subtitle", bytes(range(64)))
    chosen = options("libvpx-vp9" if suffix == ".webm" else "libx264")
    notes = write_film(tmp_path / f"film{suffix}", EVEN, chosen, source=source)
    tracks = streams(tmp_path / f"film{suffix}", "subtitle")
    if suffix in (".mkv", ".mp4"):
        assert [track.data for track in tracks] == [[bytes(range(64))]]
        assert notes == []
    else:
        assert tracks == []
        assert notes == [f"subtitles 1 were left out: {suffix[1:].upper()} holds no dvd_subtitle"]


def test_tags_of_iphones_stay_where_apple_looks_for_them(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mkv", sound=[], tags={"title": "A film"})
    with_tags = tmp_path / "source.mov"
    flags = {"movflags": "use_metadata_tags"}
    with av.open(str(source.path)) as old, av.open(str(with_tags), "w", container_options=flags) as new:
        new.metadata["com.apple.quicktime.location.ISO6709"] = "+48.2+016.3/"
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    for suffix in (".mov", ".mp4", ".mkv"):
        assert write_film(tmp_path / f"film{suffix}", EVEN, source=film_info(with_tags)) == []
        with av.open(str(tmp_path / f"film{suffix}")) as film:
            tags = {key.lower(): value for key, value in film.metadata.items()}
        assert tags["com.apple.quicktime.location.iso6709"] == "+48.2+016.3/"


def test_tags_in_windows_letters_become_readable(tmp_path: Path) -> None:
    path = tmp_path / "source.avi"
    source = make_source(path, sound=[("libmp3lame", "eng")], tags={"title": "Cafe-au-lait"})
    path.write_bytes(path.read_bytes().replace(b"Cafe-au-lait", "Café-au-lait".encode("cp1252")))
    assert carried(source, tmp_path / "film.mkv") == []
    with av.open(str(tmp_path / "film.mkv")) as film:
        assert film.metadata["title"] == "Café-au-lait"
    assert streams(path, "audio")[0].data == streams(tmp_path / "film.mkv", "audio")[0].data


def test_chapters_of_mp4_are_no_stream_of_data(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mp4", chapters=[(0, 1, "one"), (1, 3, "two")])
    for suffix in (".mp4", ".mkv"):
        assert carried(source, tmp_path / f"film{suffix}") == []
        with av.open(str(tmp_path / f"film{suffix}")) as film:
            assert [one["metadata"]["title"] for one in film.chapters()] == ["one", "two"]


def test_data_is_left_out_and_named(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.ts", muxer="mpegts")
    plain = source.path.rename(tmp_path / "plain.ts")
    with av.open(str(plain)) as old, av.open(str(source.path), "w", format="mpegts") as new:
        copies = {one.index: new.add_stream_from_template(one, opaque=True) for one in old.streams}
        places = new.add_data_stream("klv")
        packet = av.Packet(bytes(32))
        packet.pts = packet.dts = 90_000
        packet.time_base, packet.stream = Fraction(1, 90_000), places
        for packet_of_old in old.demux():
            if packet_of_old.size:
                packet_of_old.stream = copies[packet_of_old.stream_index]
                new.mux(packet_of_old)
        new.mux(packet)
    assert carried(source, tmp_path / "film.mp4") == ["streams of data were left out: klv"]
