from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import pytest

from ugatit_batch.errors import DiskFullError, OutputError
from ugatit_batch.video.codecs import choose_coding
from ugatit_batch.video.encode import OFFSET, SegmentEncoder

from .writing_support import EVEN, UNEVEN, UNIT, film_info, number_of, options, picture, write_segments

if TYPE_CHECKING:
    from ugatit_batch.video.codecs import Coding

CODECS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores")
FULL = Path("/dev/full")


def coding_of(codec: str = "libx264", target: str = "film.mkv", **changes: object) -> Coding:
    info = film_info()
    return choose_coding(info, (info.width, info.height), options(codec, **changes), Path(target), 2)[0]


def encoder(path: Path, coding: Coding) -> SegmentEncoder:
    return SegmentEncoder(path, coding, Fraction(1), UNIT, Fraction(25), Path("film.mkv"))


def write_all(made: SegmentEncoder, coding: Coding) -> None:
    for number, time in enumerate(EVEN):
        made.add(picture(coding, number, time))
    made.finish()


@pytest.mark.parametrize("codec", CODECS)
def test_segments_have_one_header_and_begin_with_a_picture_that_stands_alone(
    tmp_path: Path, codec: str
) -> None:
    coding = coding_of(codec, **{"preset": "medium"} if codec.startswith("libx26") else {})
    paths = write_segments(tmp_path / "s", coding, film_info(), UNEVEN)
    headers = []
    number = 0
    for path in paths:
        with av.open(str(path)) as part:
            stream = part.streams.video[0]
            headers.append(bytes(stream.codec_context.extradata or b""))
            packets = [packet for packet in part.demux(stream) if packet.size]
            assert packets[0].is_keyframe
        with av.open(str(path)) as part:
            offset = int(part.metadata[OFFSET])
            ratio = part.streams.video[0].time_base or 0
            for frame in part.decode(video=0):
                assert (frame.pts or 0) * ratio == (UNEVEN[number] - offset) * UNIT
                assert number_of(frame) == number
                number += 1
    assert number == len(UNEVEN)
    assert len(set(headers)) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_pictures_give_the_same_file(tmp_path: Path, codec: str) -> None:
    coding = coding_of(codec)
    data = []
    for name in ("a", "b"):
        packets = []
        for path in write_segments(tmp_path / name, coding, film_info(), EVEN[:12], 1):
            with av.open(str(path)) as part:
                packets += [bytes(packet) for packet in part.demux(video=0)]
        data.append(packets)
    assert data[0] == data[1]


def test_encoders_are_silent(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from tests.video.test_encode import coding_of, film_info, write_segments, EVEN\n"
        "for codec in ('libx265', 'libsvtav1', 'libx264', 'libvpx-vp9'):\n"
        "    write_segments(Path(sys.argv[1]), coding_of(codec), film_info(), EVEN[:6], 1)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s"), root], capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""


def test_a_picture_of_another_size_or_format_is_a_mistake(tmp_path: Path) -> None:
    coding = coding_of()
    made = encoder(tmp_path / "a.nut", coding)
    for other in (replace(coding, width=98), replace(coding, pix_fmt="yuv444p")):
        with pytest.raises(ValueError, match="a picture of"):
            made.add(picture(other, 0, 0))
    made.abandon()


def test_an_abandoned_segment_leaves_nothing(tmp_path: Path) -> None:
    made = encoder(tmp_path / "a.nut", coding_of())
    for number, time in enumerate(EVEN[:20]):
        made.add(picture(coding_of(), number, time))
    made.abandon()
    assert list(tmp_path.iterdir()) == []
    made.abandon()
    encoder(tmp_path / "b.nut", coding_of()).abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    made = encoder(tmp_path / "none" / "a.nut", coding_of())
    with pytest.raises(OutputError, match=r"film\.mkv: cannot be written") as caught:
        write_all(made, coding_of())
    assert "a.nut" not in str(caught.value)
    made.abandon()


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("codec", ["ffv1", "prores", "libx264"])
def test_a_full_disk_is_said_with_the_films_name(tmp_path: Path, codec: str) -> None:
    coding = coding_of(codec)
    path = tmp_path / f"a.{coding.segment_format}"
    path.symlink_to(FULL)
    made = encoder(path, coding)
    with pytest.raises(DiskFullError, match=r"film\.mkv: the disk is full"):
        write_all(made, coding)
    made.abandon()
    assert list(tmp_path.iterdir()) == []
    assert FULL.exists()


def test_what_an_encoder_does_not_take_is_said(tmp_path: Path) -> None:
    coding = replace(coding_of(), width=97)
    with pytest.raises(OutputError, match=r"film\.mkv: libx264 does not encode it in 97×64 yuv420p"):
        encoder(tmp_path / "a.nut", coding)
    assert list(tmp_path.iterdir()) == []
