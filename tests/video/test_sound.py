from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import pytest

from .writing_support import (
    EVEN,
    SUFFIXES,
    TIMES,
    UNIT,
    carried,
    film_info,
    make_source,
    options,
    seen,
    streams,
    write_film,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("source_suffix", [".mp4", ".mkv", ".mov"])
def test_two_tracks_of_sound_stay_bit_for_bit_in_time(
    tmp_path: Path, source_suffix: str, suffix: str
) -> None:
    path = tmp_path / f"source{source_suffix}"
    second = "ger" if source_suffix == ".mov" else "deu"
    source = make_source(path, sound=[("aac", "eng"), ("aac", second)])
    assert carried(source, tmp_path / f"film{suffix}") == []
    before, after = streams(path, "audio"), streams(tmp_path / f"film{suffix}", "audio")
    assert [track.data for track in after] == [track.data for track in before]
    for old, new in zip(before, after, strict=True):
        assert max(abs(a - b) for a, b in zip(old.times, new.times, strict=True)) <= Fraction(1, 1000)
    assert [track.language for track in after] == ["eng", "ger" if suffix == ".mov" else second]
    assert seen(tmp_path / f"film{suffix}").times == [time * UNIT for time in TIMES]
    titles = [track.tags.get("title", track.tags.get("name")) for track in after]
    assert titles == ["track 0", "track 1"]
    assert after[0].disposition & av.stream.Disposition.default
    assert not after[1].disposition & av.stream.Disposition.default


CODECS = {
    "aac": {".mp4", ".mov", ".mkv"},
    "ac3": {".mp4", ".mov", ".mkv"},
    "flac": {".mp4", ".mkv"},
    "libopus": {".mp4", ".mkv", ".webm"},
    "libmp3lame": {".mp4", ".mov", ".mkv"},
    "pcm_s16le": {".mp4", ".mov", ".mkv"},
    "vorbis": {".mp4", ".mkv", ".webm"},
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_is_encoded_anew_only_where_the_container_holds_it_not(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "source.mkv"
    source = make_source(path, seconds=1, sound=[(codec, "eng") for codec in CODECS])
    times = EVEN[:25]
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    notes = write_film(tmp_path / f"film{suffix}", times, options(codec), source=source)
    before, after = streams(path, "audio"), streams(tmp_path / f"film{suffix}", "audio")
    spoken = "Opus" if suffix == ".webm" else "AAC"
    expected = []
    for number, (old, new, holders) in enumerate(zip(before, after, CODECS.values(), strict=True)):
        if suffix in holders:
            assert b"".join(new.data) == b"".join(old.data)
            assert new.codec == old.codec
        else:
            assert new.codec == spoken.lower()
            held = f"{suffix[1:].upper()} holds no {old.codec}"
            expected.append(f"sound {number + 1} (eng) was encoded anew as {spoken}: {held}")
    assert notes == expected


def loudness(path: Path, track: int, begin: float, end: float) -> float:
    """Root mean square of the left channel from one time to another."""
    total = count = 0.0
    with av.open(str(path)) as film:
        for frame in film.decode(film.streams.audio[track]):
            values = frame.to_ndarray().astype(float)[0]
            for index, value in enumerate(values):
                if begin <= (frame.time or 0) + index / frame.sample_rate < end:
                    total, count = total + value * value, count + 1
    return float((total / max(count, 1)) ** 0.5)


@pytest.mark.parametrize(("wanted", "suffix"), [("aac", ".mp4"), ("opus", ".mkv"), ("opus", ".webm")])
def test_sound_that_is_to_be_encoded_sounds_at_the_same_times(
    tmp_path: Path, wanted: str, suffix: str
) -> None:
    path = tmp_path / "source.mkv"
    source = make_source(path, seconds=2, sound=[("ac3", "eng"), ("flac", "fra")])
    target = tmp_path / f"film{suffix}"
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    assert write_film(target, EVEN, options(codec, audio=wanted), source=source) == []
    tracks = streams(target, "audio")
    assert [track.codec for track in tracks] == [wanted, wanted]
    assert [track.language for track in tracks] == ["eng", "fra"]
    for track in tracks:
        assert abs(track.times[0]) < Fraction(1, 20)
        assert abs(track.times[-1] + track.packets[-1][1] - 2) < Fraction(1, 20)
    assert loudness(target, 1, 0.1, 1.9) == pytest.approx(0.3 / 2**0.5, rel=0.03)


def test_sound_and_subtitles_can_be_left_out(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mkv", subtitles=[("subrip", "eng", [(0.5, 1.2, "Hello")])])
    assert carried(source, tmp_path / "film.mp4", audio="none", subtitles="none") == []
    assert streams(tmp_path / "film.mp4", "audio") == streams(tmp_path / "film.mp4", "subtitle") == []


def test_sound_that_begins_before_and_after_the_pictures(tmp_path: Path) -> None:
    """AAC's first packet comes before 0: the pictures stay where they are in Matroska as well."""
    source = make_source(tmp_path / "source.mp4", delay=Fraction(7, 5))
    for suffix in (".mkv", ".mp4", ".mov"):
        shifted = tuple(time + 7 * 12800 // 5 for time in TIMES)
        write_film(tmp_path / f"film{suffix}", shifted, source=source)
        assert seen(tmp_path / f"film{suffix}").times == [time * UNIT for time in shifted]
        old, new = streams(source.path, "audio")[0], streams(tmp_path / f"film{suffix}", "audio")[0]
        assert abs(old.times[0] - new.times[0]) <= Fraction(1, 1000)
        assert old.data == new.data


def test_damaged_sound_does_not_cost_the_film(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mkv", sound=[("ac3", "eng")])
    data = bytearray(source.path.read_bytes())
    for position in range(len(data) // 2, len(data) * 3 // 4):
        data[position] = (data[position] * 7 + 13) % 256
    source.path.write_bytes(data)
    for wanted in ("copy", "aac"):
        target = tmp_path / f"{wanted}.mkv"
        notes = carried(source, target, audio=wanted)
        assert seen(target).numbers == [number % 256 for number in range(len(TIMES))]
        assert len(streams(target, "audio")[0].packets) > 20
        assert all("sound" in note for note in notes)


def test_a_source_cut_short_gives_the_sound_that_is_there(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source.mkv")
    data = source.path.read_bytes()
    source.path.write_bytes(data[: len(data) // 2])
    carried(source, tmp_path / "film.mp4")
    assert seen(tmp_path / "film.mp4").times == [time * UNIT for time in TIMES]
    assert len(streams(tmp_path / "film.mp4", "audio")[0].packets) > 20


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_broadcasts(tmp_path: Path, suffix: str) -> None:
    """AAC has its header in every packet there, and time does not begin at 0."""
    path = tmp_path / "source.ts"
    source = make_source(path, muxer="mpegts", sound=[("aac", "eng"), ("ac3", "deu")])
    with av.open(str(path)) as film:
        begin = film.start_time or 0
    times = [time + begin * 12800 // 1_000_000 for time in TIMES]
    assert write_film(tmp_path / f"film{suffix}", times, source=source) == []
    before, after = streams(path, "audio"), streams(tmp_path / f"film{suffix}", "audio")
    assert [data[7:] for data in before[0].data] == after[0].data
    assert before[1].data == after[1].data
    for old, new in zip(before, after, strict=True):
        assert max(abs(a - b) for a, b in zip(old.times, new.times, strict=True)) <= Fraction(1, 1000)


def test_a_gap_in_sound_that_is_encoded_anew_becomes_silence(tmp_path: Path) -> None:
    whole = make_source(tmp_path / "whole.mkv", sound=[("flac", "eng")])
    path = tmp_path / "source.mkv"
    with av.open(str(whole.path)) as source, av.open(str(path), "w") as output:
        copies = {one.index: output.add_stream_from_template(one, opaque=True) for one in source.streams}
        for packet in source.demux():
            time = (packet.pts or 0) * packet.time_base
            if packet.size and not (packet.stream.type == "audio" and 1 <= time < 2):
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    target = tmp_path / "film.mp4"
    assert carried(film_info(path), target, audio="aac") == []
    for begin, end, expected in [(0.2, 0.9, 0.3 / 2**0.5), (1.2, 1.9, 0.0), (2.2, 2.9, 0.3 / 2**0.5)]:
        assert loudness(target, 0, begin, end) == pytest.approx(expected, rel=0.03, abs=0.005)
