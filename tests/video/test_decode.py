from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from ugatit_batch.errors import FilmError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing, place
from ugatit_batch.video import packets
from ugatit_batch.video.decode import FilmFrame, FilmReader, Mark
from ugatit_batch.video.packets import LEAD, Decoding
from ugatit_batch.video.probe import probe_film

from .film_makers import make_film, picture, timestamps_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.packet import Packet
    from av.video.stream import VideoStream

    from ugatit_batch.frames import Pixels

B_FRAMES = {"preset": "fast", "bf": "3", "x264-params": "b-adapt=0:keyint=15:open-gop=1:scenecut=0"}
LONG = 200
SLOW_RATE = 5


def reader(
    path: Path,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    after: Mark | None = None,
    threads: int = 1,
    sizing: Sizing | None = None,
) -> FilmReader:
    info = probe_film(path)
    sizing = sizing or Sizing(square=False, side=None)
    placement = place(info.width, info.height, sizing, SizeRule())
    return FilmReader(info, placement, start=start, end=end, after=after, threads=threads)


def told(frames: list[FilmFrame]) -> list[tuple[int, int, bool, bool, int]]:
    return [(f.pts, f.duration, f.cut, f.repeated, f.checksum) for f in frames]


def shots(index: int) -> Pixels:
    """Shots of 23 pictures, every other one inverted."""
    pixels = picture(index % 60)
    return pixels if index // 23 % 2 == 0 else 255 - pixels


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("film.mp4", "libx264", "yuv420p"),
        ("film.mov", "libx264", "yuv422p"),
        ("film.ts", "libx264", "yuv420p"),
        ("film.mkv", "libx265", "yuv420p10le"),
        ("film.webm", "libvpx-vp9", "yuv420p"),
        ("film.mkv", "libsvtav1", "yuv420p"),
        ("film.mov", "prores_ks", "yuv422p10le"),
        ("film.mkv", "ffv1", "yuv444p"),
        ("film.avi", "mpeg4", "yuv420p"),
    ],
)
def test_every_picture_comes_once_at_its_time(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = tmp_path / name
    options = B_FRAMES if codec == "libx264" else None
    went_in = make_film(path, codec=codec, pix_fmt=pix_fmt, count=30, options=options)

    film = reader(path)
    frames = list(film.frames())

    assert [frame.pts + units_of_origin(path) for frame in frames] == timestamps_of(path)
    assert len(frames) == 30
    for frame, pixels in zip(frames, went_in, strict=True):
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 4
        assert frame.checksum == zlib.crc32(frame.pixels.tobytes())
        assert frame.duration > 0
        assert not frame.repeated
    assert [frame.cut for frame in frames] == [True] + [False] * 29
    assert (film.repeated, film.notes) == (0, [])


def units_of_origin(path: Path) -> int:
    info = probe_film(path)
    return int(info.origin / info.time_base)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
def test_variable_frame_rate_and_a_start_that_is_not_0(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    gaps = [1, 3, 1, 7, 2, 2, 9, 1, 1, 4] * 3
    stamps = [100 + sum(gaps[:index]) for index in range(30)]
    make_film(
        path,
        timestamps=stamps,
        time_base=Fraction(1, 50),
        options=B_FRAMES,
        container_options={"movie_timescale": "50000"} if suffix in ("mp4", "mov") else None,
    )

    frames = list(reader(path).frames())

    unit = probe_film(path).time_base
    shown = [frame.pts * unit for frame in frames]
    assert [moment - shown[0] for moment in shown] == [Fraction(s - stamps[0], 50) for s in stamps]
    assert [frame.pts + units_of_origin(path) for frame in frames] == timestamps_of(path)
    if suffix != "ts":
        assert shown[0] == 2


def test_what_an_edit_list_leaves_out_stays_out(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(
        path,
        count=30,
        timestamps=list(range(-5, 25)),
        options={"g": "30"},
        container_options={"avoid_negative_ts": "disabled"},
    )

    frames = list(reader(path).frames())

    assert [frame.pts for frame in frames] == timestamps_of(path)
    assert len(frames) == 25
    assert np.abs(frames[0].pixels.astype(int) - picture(5)).mean() < 4


@pytest.mark.parametrize("size", [(97, 65), (96, 65)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "film.mkv"
    went_in = make_film(path, codec="ffv1", pix_fmt="yuv444p", size=size, count=3)

    frames = list(reader(path).frames())

    assert frames[0].pixels.shape == (68, 100 if size[0] == 97 else 96, 3)
    inner = frames[0].pixels[1 : 1 + size[1], (frames[0].pixels.shape[1] - size[0]) // 2 :][:, : size[0]]
    assert np.abs(inner.astype(int) - went_in[0]).max() <= 3


def test_turned_films_are_given_upright(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    went_in = make_film(path, count=2, rotation=(-90, False, False))

    frames = list(reader(path).frames())

    assert frames[0].pixels.shape == (96, 64, 3)
    assert np.abs(frames[0].pixels.astype(int) - np.rot90(went_in[0], 3)).mean() < 4


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_threads_do_not_change_what_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    make_film(path, count=60, options=B_FRAMES)

    one, many = (list(reader(path, threads=threads).frames()) for threads in (1, 4))

    assert told(one) == told(many)
    assert len(one) == 60


def test_b_frames_in_avi_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    make_film(path, count=40, options=B_FRAMES)

    film = reader(path)
    frames = list(film.frames())

    assert np.all(np.diff([frame.pixels.mean() for frame in frames]) > 0)
    assert np.all(np.diff([frame.pts for frame in frames]) == 1)
    assert film.notes == []


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("film.mp4", "libx264", B_FRAMES),
        ("film.mkv", "libx264", B_FRAMES),
        ("film.ts", "libx264", B_FRAMES),
        ("film.avi", "libx264", B_FRAMES),
        ("film.mkv", "libx265", {"g": "20"}),
        ("film.webm", "libvpx-vp9", {"g": "20"}),
    ],
)
def test_going_on_after_a_mark_gives_what_would_have_come(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    make_film(path, codec=codec, count=LONG, rate=SLOW_RATE, options=options, pictures=shots)
    whole = list(reader(path).frames())
    assert sum(frame.cut for frame in whole) >= 8

    for index in (0, 3, 61, 91, 92, 150, 153, 198, 199):
        rest = list(reader(path, after=Mark(whole[index].pts, whole[index].checksum)).frames())
        assert told(rest) == told(whole[index + 1 :])


def test_going_on_does_not_read_the_whole_film_again(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=LONG, rate=SLOW_RATE, options=B_FRAMES)
    info = probe_film(path)
    wanted = Fraction(30)

    first = next(Decoding(info, None, 1, wanted).pictures())

    assert wanted - LEAD - 4 <= first.pts * info.time_base <= wanted - LEAD


@pytest.mark.parametrize("pts", [0, 100_000, None])
def test_a_mark_that_does_not_fit_makes_reading_begin_anew(tmp_path: Path, pts: int | None) -> None:
    """A checksum that does not fit, or a time at which nothing is shown, costs time but no picture."""
    path = tmp_path / "film.mp4"
    make_film(path, count=LONG, rate=SLOW_RATE, options=B_FRAMES)
    whole = list(reader(path).frames())
    mark = Mark(whole[150].pts if pts is None else whole[150].pts + pts % 7, 1234)

    rest = list(reader(path, after=mark).frames())

    assert told(rest) == told(whole[151:])


def test_going_on_after_the_last_picture_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    make_film(path, count=10)
    whole = list(reader(path).frames())

    assert not list(reader(path, after=Mark(whole[-1].pts, whole[-1].checksum)).frames())


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
@pytest.mark.parametrize(
    ("start", "end"),
    [(Fraction(0), None), (Fraction(1, 3), Fraction(2)), (Fraction(25), None), (None, Fraction(6, 5))],
)
def test_start_and_end(tmp_path: Path, name: str, start: Fraction | None, end: Fraction | None) -> None:
    path = tmp_path / name
    make_film(path, count=LONG, rate=SLOW_RATE, options=B_FRAMES)
    whole = list(reader(path).frames())
    unit = probe_film(path).time_base
    with av.open(path) as container:
        origin = Fraction(container.start_time or 0, 1_000_000) - probe_film(path).origin
    wanted = [
        frame
        for frame in whole
        if (start or 0) <= frame.pts * unit - origin and (end is None or frame.pts * unit - origin < end)
    ]

    film = reader(path, start=start, end=end)
    given = list(film.frames())

    assert [frame.checksum for frame in given] == [frame.checksum for frame in wanted]
    offset = wanted[0].pts - given[0].pts
    assert [frame.pts + offset for frame in given] == [frame.pts for frame in wanted]
    assert given[0].cut
    if start is None:
        assert offset == 0
    else:
        assert origin + start <= offset * unit < origin + start + unit
    middle = given[len(given) // 2]
    rest = reader(path, start=start, end=end, after=Mark(middle.pts, middle.checksum))
    assert told(list(rest.frames())) == told(given[len(given) // 2 + 1 :])


def test_times_without_a_picture_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=10)

    with pytest.raises(FilmError, match=r"film\.mp4: no picture between 1:00 and its end"):
        list(reader(path, start=Fraction(60)).frames())


def test_timestamps_that_repeat_or_go_back_are_made_to_rise(tmp_path: Path) -> None:
    path = tmp_path / "film.nut"
    make_film(path, codec="mpeg4", count=12, options={"g": "1"})
    _restamp(path, tmp_path / "film.mkv", [0, 40, 80, 80, 120, 110, 200, 240, 280, 320, 360, 400])

    film = reader(tmp_path / "film.mkv")
    frames = list(film.frames())

    assert [frame.pts for frame in frames] == [0, 40, 80, 81, 120, 121, 200, 240, 280, 320, 360, 400]
    assert film.notes == ["2 timestamps repeated or went back, and moved on"]


def test_time_that_jumps_back_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "film.nut"
    make_film(path, codec="mpeg4", count=8, options={"g": "1"})
    _restamp(path, tmp_path / "film.mkv", [9000, 9040, 9080, 9120, 0, 40, 80, 120])

    film = reader(tmp_path / "film.mkv")

    assert [frame.pts for frame in film.frames()] == [9000, 9040, 9080, 9120, 9160, 9200, 9240, 9280]
    assert film.notes == ["its time jumped back and was continued"]


def test_a_disk_that_fails_is_a_film_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=3)
    film = reader(path)

    class Failing:
        """A container whose file can no longer be read."""

        def __init__(self) -> None:
            self.container = av.open(path)
            self.streams, self.format = self.container.streams, self.container.format
            self.start_time = 0

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self.container.close()

        def demux(self) -> Iterator[Packet[VideoStream]]:
            yield next(self.container.demux(video=0))
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(packets, "open_film", lambda *_: Failing())

    with pytest.raises(FilmError, match=r"film\.mp4: could not be read \(Input/output error"):
        list(film.frames())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of open files")
def test_the_file_is_closed_when_reading_stops(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=20)
    frames = reader(path).frames()
    next(frames)
    assert _open_files(path) == 1

    frames.close()

    assert _open_files(path) == 0
    list(reader(path).frames())
    assert _open_files(path) == 0


def test_a_film_that_is_gone_is_a_film_error(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=3)
    film = reader(path)
    path.unlink()

    with pytest.raises(FilmError, match=r"film\.mp4: could not be read \(No such file"):
        list(film.frames())


def _restamp(source: Path, target: Path, stamps: list[int]) -> None:
    """Copy packets into Matroska, whose time base is 1/1000, with other timestamps."""
    with av.open(source) as before, av.open(target, "w") as after:
        copied = after.add_stream_from_template(before.streams.video[0])
        whole = [packet for packet in before.demux(video=0) if packet.size]
        for index, (packet, stamp) in enumerate(zip(whole, stamps, strict=True)):
            packet.stream = copied
            packet.time_base = Fraction(1, 1000)
            # Only decoding times have to rise for the muxer.
            packet.pts, packet.dts, packet.duration = stamp, index - 1000, 40
            after.mux(packet)


def _open_files(path: Path) -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += entry.readlink() == path
        except FileNotFoundError:
            continue
    return found
