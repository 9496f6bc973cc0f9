from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from ugatit_batch.errors import FilmError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing, place
from ugatit_batch.video.graphs import ToNetwork
from ugatit_batch.video.info import Colour
from ugatit_batch.video.probe import open_film, picture_stream, probe_film

from .film_makers import cut_short, damage, make_film, packets_of, picture, to_format

if TYPE_CHECKING:
    from pathlib import Path

    from av.video.stream import VideoStream

    from ugatit_batch.video.info import Turn


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "depth"),
    [
        ("film.mp4", "libx264", "yuv420p", 8),
        ("film.mkv", "libx265", "yuv420p10le", 10),
        ("film.webm", "libvpx-vp9", "yuv420p", 8),
        ("film.mkv", "libsvtav1", "yuv420p10le", 10),
        ("film.mov", "prores_ks", "yuv422p10le", 10),
        ("film.mkv", "ffv1", "yuv444p", 8),
        ("film.ts", "libx264", "yuv422p", 8),
        ("film.avi", "mpeg4", "yuv420p", 8),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pix_fmt: str, depth: int) -> None:
    path = tmp_path / name
    make_film(path, codec=codec, pix_fmt=pix_fmt, count=10, rate=Fraction(24000, 1001))

    info = probe_film(path)

    assert (info.path, info.stream) == (path, 0)
    assert (info.width, info.height, info.turn, info.aspect) == (96, 64, "none", Fraction(1))
    assert (info.pix_fmt, info.depth) == (pix_fmt, depth)
    assert abs(float(info.rate) - 23.976) < 0.2
    assert info.frames in (10, 11)
    assert info.duration is not None
    assert abs(float(info.duration) - 10 / 23.976) < 0.06
    assert info.notes == ()


@pytest.mark.parametrize(
    ("rotation", "turn"),
    [
        ((0, False, False), "none"),
        ((-90, False, False), "right"),
        ((180, False, False), "half"),
        ((90, False, False), "left"),
        ((0, True, False), "flip"),
        ((0, False, True), "flip_half"),
        ((90, True, False), "flip_right"),
        ((-90, True, False), "flip_left"),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_the_display_matrix_becomes_a_turn(
    tmp_path: Path, rotation: tuple[float, bool, bool], turn: Turn, suffix: str
) -> None:
    path = tmp_path / f"film.{suffix}"
    make_film(path, count=1, rotation=rotation, size=(96, 64), aspect=Fraction(4, 3))

    info = probe_film(path)

    assert info.turn == turn
    quarter = turn in ("right", "left", "flip_right", "flip_left")
    assert (info.width, info.height) == ((64, 96) if quarter else (96, 64))
    assert info.aspect == (Fraction(3, 4) if quarter else Fraction(4, 3))


@pytest.mark.parametrize("rotation", [(-90, False, False), (90, True, False), (-90, True, False)])
def test_a_film_is_turned_as_its_matrix_says(tmp_path: Path, rotation: tuple[float, bool, bool]) -> None:
    """By the matrix itself: (x, y) of the stored picture is shown at (a·x + c·y, b·x + d·y)."""
    path = tmp_path / "film.mp4"
    stored = np.full((64, 96, 3), 60, np.uint8)
    stored[:24, :24] = 220
    make_film(path, count=1, rotation=rotation, pictures=lambda _: stored)
    info = probe_film(path)
    placement = place(info.width, info.height, Sizing(square=False, side=None), SizeRule())

    with av.open(path) as container:
        frame = next(container.decode(video=0))
        data = cast("memoryview", frame.side_data.get("DISPLAYMATRIX"))
        a, b, _, c, d = np.sign(np.frombuffer(memoryview(data), np.int32)[:5])
        upright, _ = ToNetwork(info, placement)(frame)

    x, y = 12 - 48, 12 - 32
    shown = (a * x + c * y + info.width // 2, b * x + d * y + info.height // 2)
    bright = upright[..., 0] > 140
    rows, columns = np.nonzero(bright)
    assert abs(columns.mean() - shown[0]) < 3
    assert abs(rows.mean() - shown[1]) < 3


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 64), Colour(6, 1, 6, 6)),
        ((96, 576), Colour(5, 1, 5, 6)),
        ((96, 720), Colour(1, 1, 1, 1)),
    ],
)
def test_untagged_films_are_of_their_sizes_colours(
    tmp_path: Path, size: tuple[int, int], expected: Colour
) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=1, size=size)

    assert probe_film(path).colour == expected


@pytest.mark.parametrize(
    ("tagged", "expected"),
    [
        (Colour(1, 1, 1, 1), Colour(1, 1, 1, 1)),
        (Colour(6, 2, 6, 6), Colour(6, 2, 6, 6)),
        (Colour(1, 0, 2, 2), Colour(1, 1, 1, 1)),
        (Colour(9, 0, 2, 2), Colour(9, 1, 9, 14)),
        (Colour(2, 2, 2, 2), Colour(6, 2, 6, 6)),
        (Colour(2, 0, 9, 16), Colour(9, 1, 9, 16)),
        (Colour(2, 0, 1, 2), Colour(6, 1, 1, 6)),
    ],
)
def test_what_is_tagged_is_kept_and_gaps_are_filled(tmp_path: Path, tagged: Colour, expected: Colour) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=1, tagged=tagged)

    assert probe_film(path).colour == expected


def test_formats_of_full_range_and_rgb(tmp_path: Path) -> None:
    make_film(tmp_path / "full.avi", codec="mjpeg", pix_fmt="yuvj420p", count=1, colour=Colour(6, 2, 6, 6))
    assert probe_film(tmp_path / "full.avi").colour.range == 2
    make_film(tmp_path / "rgb.mkv", codec="ffv1", pix_fmt="bgr0", count=1, colour=Colour(0, 2, 1, 13))
    assert probe_film(tmp_path / "rgb.mkv").colour == Colour(0, 2, 1, 13)
    make_film(tmp_path / "grey.mkv", codec="ffv1", pix_fmt="gray", count=1, colour=Colour(6, 2, 6, 6))
    assert probe_film(tmp_path / "grey.mkv").colour.range == 2


def test_colours_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=1, tagged=Colour(14, 1, 9, 16))

    with pytest.raises(FilmError, match="ICtCp"):
        probe_film(path)


def test_sample_aspect_ratio_and_nonsense(tmp_path: Path) -> None:
    make_film(tmp_path / "wide.mkv", count=1, aspect=Fraction(64, 45))
    assert probe_film(tmp_path / "wide.mkv").aspect == Fraction(64, 45)
    make_film(tmp_path / "odd.mkv", count=1, aspect=Fraction(1000, 1))
    assert probe_film(tmp_path / "odd.mkv").aspect == 1


def test_what_is_worth_saying_is_noted(tmp_path: Path) -> None:
    make_film(tmp_path / "hdr.mp4", count=1, tagged=Colour(9, 1, 9, 16), pix_fmt="yuv420p10le")
    assert probe_film(tmp_path / "hdr.mp4").notes == ("HDR was tone-mapped to BT.709",)
    make_film(tmp_path / "clear.mkv", codec="ffv1", pix_fmt="yuva420p", count=1)
    assert probe_film(tmp_path / "clear.mkv").notes == ("transparency is not kept",)
    make_film(tmp_path / "fields.mp4", count=2, options={"x264-params": "interlaced=1"})
    assert probe_film(tmp_path / "fields.mp4").notes == (
        "is interlaced; its two fields are translated as one picture",
    )


def test_of_several_picture_streams_the_default_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    _two_streams(path, Disposition.comment, Disposition.default)
    info = probe_film(path)
    assert (info.stream, info.width) == (1, 64)
    assert info.notes == ("only one of 2 picture streams is translated",)


def test_a_cover_picture_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    _two_streams(path, Disposition.attached_pic, Disposition.default, codec="mjpeg")
    info = probe_film(path)
    assert (info.width, info.notes) == (64, ())


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(tmp_path / "both.mp4", count=2, sound=True)
    with av.open(tmp_path / "both.mp4") as source, av.open(path, "w") as target:
        copied = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)

    with pytest.raises(FilmError, match="only sound"):
        probe_film(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"These are words, and no film.\n" * 50, "not a film"),
        (b"\x89PNG\r\n\x1a\n", "not a film|could not be read|none of its first|no stream"),
    ],
)
def test_files_that_are_no_films(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)

    with pytest.raises(FilmError, match=reason) as caught:
        probe_film(path)

    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_picture_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    Image.fromarray(picture(3)).save(path, "PNG")
    with pytest.raises(FilmError, match="is not a film"):
        probe_film(path)


def test_a_file_that_is_not_there_or_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FilmError, match=r"gone\.mp4.*No such file"):
        probe_film(tmp_path / "gone.mp4")
    with pytest.raises(FilmError, match="could not be read"):
        probe_film(tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_recording_that_was_not_finished_lacks_its_index(tmp_path: Path, share: float) -> None:
    make_film(tmp_path / "whole.mp4", count=20)
    cut_short(tmp_path / "whole.mp4", tmp_path / "film.mp4", share)

    with pytest.raises(FilmError, match="recording was not finished"):
        probe_film(tmp_path / "film.mp4")


def test_a_film_of_which_nothing_can_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=20, options={"g": "5"})
    damage(path, [(position, size) for position, size, _ in packets_of(path)])

    with pytest.raises(FilmError, match="none of its first pictures"):
        probe_film(path)


def test_damage_at_the_beginning_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=20, options={"g": "5"})
    damage(path, [(position + 4, size - 4) for position, size, _ in packets_of(path)[:3]])

    assert probe_film(path).width == 96


def test_opened_films_give_their_stream(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    make_film(path, count=2, sound=True)
    with open_film(path) as container:
        assert picture_stream(container, path).index == 0


def _two_streams(path: Path, first: Disposition, second: Disposition, codec: str = "libx264") -> None:
    """A film of two streams of pictures, 96×64 and 64×64."""
    with av.open(path, "w") as container:
        streams = []
        for kind, width, disposition in ((codec, 96, first), ("libx264", 64, second)):
            stream = cast("VideoStream", container.add_stream(kind, rate=25))
            stream.width, stream.height = width, 64
            stream.pix_fmt = "yuvj420p" if kind == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for stream, count in zip(streams, (1 if codec == "mjpeg" else 5, 5), strict=True):
            for index in range(count):
                frame = to_format(picture(index, stream.width), stream.pix_fmt or "yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
