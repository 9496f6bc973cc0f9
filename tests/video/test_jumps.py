"""Sound where the time of a film jumps back, as in recordings that were put together."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.video.jumps import Jumps
from ugatit_batch.video.packets import Decoding
from ugatit_batch.video.probe import probe_film

from .writing_support import (
    TIMES,
    make_source,
    options,
    streams,
    write_film,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("audio", ["copy", "aac"])
def test_sound_goes_on_with_its_pictures_where_time_jumps_back(
    tmp_path: Path, suffix: str, audio: str
) -> None:
    once = make_source(tmp_path / "once.ts", muxer="mpegts", sound=[("ac3", "eng"), ("ac3", "deu")])
    path = tmp_path / "source.ts"
    path.write_bytes(once.path.read_bytes() * 2)
    info = probe_film(path)
    decoding = Decoding(info, None, 1)
    stamps = [shown.pts for shown in decoding.pictures()]
    assert len(stamps) == 2 * len(TIMES)
    (units,) = decoding.shifts
    shift = units * info.time_base
    assert shift == 3
    target = tmp_path / f"film{suffix}"
    notes = write_film(
        target, stamps, options(audio=audio), source=info, info=info, shifts=[shift], last_duration=3600
    )
    assert notes == []
    begin, end = stamps[0] * info.time_base - info.origin, 6 + stamps[0] * info.time_base - info.origin
    before = streams(once.path, "audio")
    for number, track in enumerate(streams(target, "audio")):
        assert abs(track.times[0] - begin) < Fraction(1, 10)
        assert abs(track.times[-1] + track.packets[-1][1] - end) < Fraction(1, 10)
        if audio == "copy":
            old = before[number]
            assert track.data == old.data * 2
            expected = [time - info.origin for time in old.times]
            expected += [time + shift for time in expected]
            # The second part's first packets give way to those of the first that sound after its pictures.
            late = [abs(one - other) for one, other in zip(track.times, expected, strict=True)]
            assert sum(one > Fraction(1, 1000) for one in late) <= 2
            assert max(late) < Fraction(1, 10)


def test_subtitles_and_streams_that_come_late_belong_to_the_part_they_are_in() -> None:
    jumps = Jumps([Fraction(60), Fraction(100)], 0)
    told: list[tuple[int, float, int]] = [
        *[(0, 0, 0), (1, 0, 0), (0, 59, 0), (1, 59, 0), (2, 58, 0)],
        # Sound jumps before the pictures do, and what is left of the first part comes late.
        *[(1, 0.5, 60), (0, 0, 60), (3, 59.5, 0), (0, 1, 60), (1, 39, 60)],
        # A subtitle whose own time has not fallen.
        *[(0, 58, 60), (2, 59, 60)],
        # Into the third part, without a packet of the second, or with one before the same time.
        *[(0, 0, 100), (3, 1, 100), (1, 1, 100), (2, 3, 100)],
        # There is no fourth one.
        *[(0, 5, 100), (0, 0, 100), (1, 0, 100)],
    ]
    for stream, time, shift in told:
        assert jumps.shift(stream, Fraction(time)) == shift


def test_a_joined_film_is_read_whole(tmp_path: Path) -> None:
    """The reader's own shift is the one that sound gets: both parts are there, one after the other."""
    once = make_source(tmp_path / "once.ts", muxer="mpegts")
    path = tmp_path / "source.ts"
    path.write_bytes(once.path.read_bytes() * 3)
    info = probe_film(path)
    decoding = Decoding(info, None, 1)
    stamps = [shown.pts * info.time_base for shown in decoding.pictures()]
    assert [units * info.time_base for units in decoding.shifts] == [3, 6]
    assert stamps[-1] - stamps[0] == 9 - Fraction(1, 25)
