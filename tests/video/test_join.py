from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import pytest

from ugatit_batch.errors import OutputError
from ugatit_batch.video.codecs import choose_coding
from ugatit_batch.video.info import Colour
from ugatit_batch.video.join import join_film

from .writing_support import (
    EVEN,
    UNEVEN,
    UNIT,
    film_info,
    make_source,
    options,
    seen,
    write_film,
    write_segments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOGETHER = [
    *((codec, suffix) for codec in ("libx264", "libx265") for suffix in (".mp4", ".mov", ".mkv", ".m4v")),
    *((codec, suffix) for codec in ("libvpx-vp9", "libsvtav1") for suffix in (".mp4", ".mkv", ".webm")),
    ("ffv1", ".mkv"),
    ("ffv1", ".mp4"),
    ("prores", ".mov"),
    ("prores", ".mkv"),
]


def in_container(times: Sequence[int], suffix: str) -> list[Fraction]:
    """In seconds, as exact as the container is: Matroska counts milliseconds."""
    seconds = [time * UNIT for time in times]
    if suffix in (".mkv", ".webm"):
        return [Fraction(round(time * 1000), 1000) for time in seconds]
    return seconds


@pytest.mark.parametrize(("codec", "suffix"), TOGETHER)
@pytest.mark.parametrize("times", [EVEN, tuple(time + 70001 for time in UNEVEN)], ids=["even", "uneven"])
def test_every_picture_is_there_at_its_time(
    tmp_path: Path, codec: str, suffix: str, times: Sequence[int]
) -> None:
    colour = Colour(5, 1 if codec == "prores" else 2, 5, 6)
    info = film_info(aspect=Fraction(16, 15), colour=colour)
    assert write_film(tmp_path / f"film{suffix}", times, options(codec), info=info) == []
    film = seen(tmp_path / f"film{suffix}")
    assert film.numbers == list(range(len(times)))
    assert film.times == in_container(times, suffix)
    assert film.aspect == Fraction(16, 15)
    assert film.colour == (colour.matrix, colour.range, colour.primaries, colour.transfer)


def packets_in_file_order(path: Path) -> list[tuple[str, float]]:
    """(kind of stream, time of decoding in seconds)."""
    with av.open(str(path)) as film:
        found = [
            (packet.pos or 0, packet.stream.type, float((packet.dts or 0) * packet.time_base))
            for packet in film.demux()
            if packet.size
        ]
    return [(kind, time) for _, kind, time in sorted(found)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_lies_beside_its_pictures(tmp_path: Path, suffix: str) -> None:
    times = tuple(range(0, 2100 * 512, 512))
    source = make_source(tmp_path / "source.mkv", seconds=84, sound=[("flac", "eng")])
    target = tmp_path / f"film{suffix}"
    write_film(target, times, source=source)
    packets = packets_in_file_order(target)
    assert sum(kind == "video" for kind, _ in packets) == 2100
    last = {"video": 0.0, "audio": 0.0}
    for kind, time in packets:
        last[kind] = time
        assert abs(last["video"] - last["audio"]) < 1


def test_mp4_can_be_played_while_it_loads(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mov"):
        write_film(tmp_path / f"film{suffix}")
        data = (tmp_path / f"film{suffix}").read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_has_the_tag_that_apple_plays(tmp_path: Path, suffix: str) -> None:
    write_film(tmp_path / f"film{suffix}", chosen=options("libx265"))
    with av.open(str(tmp_path / f"film{suffix}")) as film:
        assert film.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(("last", "expected"), [(0, 512), (3000, 3000)])
def test_the_last_picture_lasts_as_long_as_it_is_told_to(tmp_path: Path, last: int, expected: int) -> None:
    write_film(tmp_path / "film.mp4", UNEVEN, last_duration=last)
    with av.open(str(tmp_path / "film.mp4")) as film:
        packets = [packet for packet in film.demux(video=0) if packet.size]
        latest = max(packets, key=lambda packet: packet.pts or 0)
        assert (latest.duration or 0) * latest.time_base == expected * UNIT


def test_pictures_are_decoded_before_they_are_shown(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", UNEVEN, options("libx264", preset="medium"))
    with av.open(str(tmp_path / "film.mp4")) as film:
        packets = [packet for packet in film.demux(video=0) if packet.size]
    assert any((packet.pts or 0) > (packet.dts or 0) for packet in packets)
    assert all((packet.pts or 0) >= (packet.dts or 0) for packet in packets)
    order = [packet.dts or 0 for packet in packets]
    assert order == sorted(set(order))
    assert seen(tmp_path / "film.mp4").times == [time * UNIT for time in UNEVEN]


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt", "depth"),
    [
        ("libx264", ".mp4", "yuv420p10le", 10),
        ("libx265", ".mkv", "yuv422p10le", 10),
        ("libsvtav1", ".webm", "yuv420p10le", 10),
        ("prores", ".mov", "yuv422p10le", 10),
        ("ffv1", ".mkv", "yuv420p16le", 16),
        ("ffv1", ".mkv", "bgr0", 8),
    ],
)
def test_depth_comes_through(tmp_path: Path, codec: str, suffix: str, pix_fmt: str, depth: int) -> None:
    info = film_info(pix_fmt=pix_fmt, depth=depth, colour=Colour(1, 1, 1, 1))
    assert write_film(tmp_path / f"film{suffix}", chosen=options(codec), info=info) == []
    film = seen(tmp_path / f"film{suffix}")
    assert film.pix_fmt == pix_fmt
    assert film.numbers == list(range(len(EVEN)))


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "libsvtav1", "ffv1", "prores"])
def test_odd_sides(tmp_path: Path, codec: str) -> None:
    info = film_info(width=97, height=65, aspect=Fraction(4, 3))
    assert write_film(tmp_path / "film.mkv", chosen=options(codec), info=info) == []
    film = seen(tmp_path / "film.mkv")
    assert (film.width, film.height) == ((98, 66) if codec == "libx264" else (97, 65))
    assert film.aspect == Fraction(4, 3)
    assert film.numbers == list(range(len(EVEN)))


@pytest.mark.parametrize(
    "unit", [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 1000), Fraction(1, 7)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_any_time_base(tmp_path: Path, suffix: str, unit: Fraction) -> None:
    times = [3 + 4 * number * number for number in range(12)]
    info = film_info(time_base=unit, rate=Fraction(3))
    write_film(tmp_path / f"film{suffix}", times, info=info)
    exact = [time * unit for time in times]
    rounded = [Fraction(round(time * 1000), 1000) for time in exact] if suffix == ".mkv" else exact
    assert seen(tmp_path / f"film{suffix}").times == rounded


def test_a_film_of_one_picture(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        write_film(tmp_path / f"film{suffix}", (777,), count=1)
        assert seen(tmp_path / f"film{suffix}").times == in_container([777], suffix)


def joined(
    folder: Path, segments: Sequence[Path], should_stop: Callable[[], bool] = lambda: False
) -> list[str]:
    coding, _ = choose_coding(film_info(), (96, 64), options(), Path("film.mp4"))
    return join_film(
        None,
        segments,
        folder / "film.mp4",
        coding=coding,
        aspect=Fraction(1),
        rate=Fraction(25),
        time_base=UNIT,
        last_duration=0,
        options=options(),
        film=Path("my film.mp4"),
        should_stop=should_stop,
    )


def test_putting_together_can_be_stopped(tmp_path: Path) -> None:
    plain, _ = choose_coding(film_info(), (96, 64), options(), Path("film.mp4"))
    segments = write_segments(tmp_path / "a", plain, film_info(), EVEN, 1)
    asked = iter([False, False, True])
    with pytest.raises(OutputError, match=r"my film\.mp4: not put together yet"):
        joined(tmp_path, segments, lambda: next(asked))
    # The segments are as they were.
    assert joined(tmp_path, segments) == []


def test_segments_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    plain, _ = choose_coding(film_info(), (96, 64), options(), Path("film.mp4"))
    other, _ = choose_coding(film_info(), (96, 64), options(preset="slow"), Path("film.mp4"))
    first = write_segments(tmp_path / "a", plain, film_info(), EVEN[:5], 1)
    second = write_segments(tmp_path / "b", other, film_info(), EVEN[5:10], 1)
    with pytest.raises(
        OutputError, match=r"my film\.mp4: its segment 000000\.nut is not encoded as"
    ) as caught:
        joined(tmp_path, [*first, *second])
    assert "delete" in caught.value.hint
    (tmp_path / "none.nut").write_bytes(b"")
    for bad in (tmp_path / "none.nut", tmp_path / "missing.nut"):
        with pytest.raises(OutputError, match=rf"its segment {bad.name} cannot be read"):
            joined(tmp_path, [*first, bad])
    write_film(tmp_path / "foreign.mkv")
    with pytest.raises(OutputError, match=r"is not one of this program"):
        joined(tmp_path, [tmp_path / "foreign.mkv"])
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_the_systems_error(tmp_path: Path) -> None:
    coding, _ = choose_coding(film_info(), (96, 64), options(), Path("film.mp4"))
    segments = write_segments(tmp_path / "a", coding, film_info(), EVEN)
    (tmp_path / "film.mp4").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        joined(tmp_path, segments)
    assert caught.value.errno == errno.ENOSPC
