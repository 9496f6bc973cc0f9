from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ugatit_batch.errors import FilmError
from ugatit_batch.video.decode import Mark
from ugatit_batch.video.lengths import is_cut_short
from ugatit_batch.video.losses import Clock, Ledger

from .film_makers import cut_short, damage, make_film, packets_of, timestamps_of
from .test_decode import reader, told

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = {"preset": "fast", "g": "20", "bf": "2"}
OPTIONS = {"libx264": GROUPS, "libx265": {"g": "20"}}


def spoil(path: Path, which: list[int]) -> list[int]:
    """Damage the middle of packets; their timestamps."""
    packets = packets_of(path)
    damage(path, [(packets[k][0] + packets[k][1] // 4, packets[k][1] // 2) for k in which])
    return sorted(packets[k][2] or 0 for k in which)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("film.mp4", "libx264", "yuv420p"),
        ("film.mkv", "libx265", "yuv420p"),
        ("film.mov", "prores_ks", "yuv422p10le"),
        ("film.mkv", "ffv1", "yuv420p"),
        ("film.avi", "mpeg4", "yuv420p"),
        ("film.avi", "libx264", "yuv420p"),
    ],
)
@pytest.mark.parametrize(("which", "threads"), [([30], 1), ([11, 31, 45], 4), ([59], 4)], ids=str)
def test_damage_costs_pictures_and_not_the_timing(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, which: list[int], threads: int
) -> None:
    path = tmp_path / name
    make_film(path, codec=codec, pix_fmt=pix_fmt, count=60, options=OPTIONS.get(codec))
    whole = list(reader(path).frames())
    spoil(path, which)

    film = reader(path, threads=threads)
    frames = list(film.frames())

    assert [frame.pts for frame in frames] == [frame.pts for frame in whole]
    # By chance the rest of a packet of a few bytes may still be a picture, though another one.
    others = sum(frame.checksum != other.checksum for frame, other in zip(frames, whole, strict=True))
    assert max(film.repeated, others) >= 1
    assert film.repeated <= 25
    assert film.repeated == sum(frame.repeated for frame in frames)
    for before, frame in pairwise(frames):
        if frame.repeated:
            assert frame.checksum == before.checksum
            assert not frame.cut


def test_damage_in_h264_costs_just_the_pictures_that_were_hit(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=60, options={"preset": "fast", "g": "20", "bf": "2", "refs": "1"})
    whole = {frame.pts: frame for frame in reader(path).frames()}
    lost = spoil(path, [17, 38])

    frames = list(reader(path).frames())

    assert [frame.pts for frame in frames if frame.repeated] == lost
    good = [frame for frame in frames if not frame.repeated]
    assert all(np.abs(f.pixels.astype(int) - whole[f.pts].pixels).mean() < 4 for f in good)


def test_the_first_pictures_lost_are_the_first_good_one(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=60, options={"preset": "fast", "g": "20", "bf": "0"})
    position, size, _ = packets_of(path)[0]
    damage(path, [(position + 4, size - 4)])

    film = reader(path)
    frames = list(film.frames())

    assert [frame.pts for frame in frames] == [index * 512 for index in range(60)]
    assert 1 <= film.repeated <= 20
    assert [frame.repeated for frame in frames] == [True] * film.repeated + [False] * (60 - film.repeated)
    assert len({frame.checksum for frame in frames[: film.repeated + 1]}) == 1
    assert [frame.cut for frame in frames] == [True] + [False] * 59


@pytest.mark.parametrize("index", [5, 19, 20, 31, 32, 40])
def test_going_on_in_a_damaged_film(tmp_path: Path, index: int) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=60, options={"preset": "fast", "g": "20", "bf": "0"})
    spoil(path, [0, 32])
    whole = list(reader(path).frames())

    rest = list(reader(path, after=Mark(whole[index].pts, whole[index].checksum)).frames())

    assert told(rest) == told(whole[index + 1 :])


def test_going_on_after_seeking_in_a_damaged_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    make_film(path, count=200, rate=5, options={"preset": "fast", "g": "10", "bf": "2"})
    spoil(path, [22, 100, 101, 155])
    whole = list(reader(path).frames())
    assert sum(frame.repeated for frame in whole) >= 3

    for index in (90, 101, 120, 154, 155, 156):
        rest = list(reader(path, after=Mark(whole[index].pts, whole[index].checksum)).frames())
        assert told(rest) == told(whole[index + 1 :])


def test_a_film_of_which_no_picture_is_good(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=20, options={"preset": "fast", "g": "5"})
    film = reader(path)
    damage(path, [(position, size) for position, size, _ in packets_of(path)])

    with pytest.raises(FilmError, match=r"film\.mp4: none of its pictures could be decoded"):
        list(film.frames())


@pytest.mark.parametrize(
    ("name", "share"),
    [
        (f"film.{suffix}", share)
        for suffix in ("mp4", "mkv", "webm", "ts", "avi")
        for share in (0.2, 0.5, 0.9, 0.99)
        # A fifth of so small an AVI file does not even hold its header.
        if (suffix, share) != ("avi", 0.2)
    ],
)
def test_a_film_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path: Path, name: str, share: float) -> None:
    whole = tmp_path / f"whole.{name}"
    codec = {"film.webm": "libvpx-vp9", "film.avi": "mpeg4"}.get(name, "libx264")
    faststart = {"movflags": "faststart"} if name.endswith("mp4") else None
    options = {"g": "10", **({"preset": "fast"} if codec == "libx264" else {})}
    make_film(whole, codec=codec, count=120, rate=10, options=options, container_options=faststart)
    cut_short(whole, tmp_path / name, share)

    film = reader(tmp_path / name)
    frames = list(film.frames())

    stamps = [frame.pts for frame in reader(whole).frames()]
    assert 120 * share * 0.3 < len(frames) <= 120
    assert [frame.pts for frame in frames[:-3]] == stamps[: len(frames) - 3]
    assert film.repeated <= 1
    says_its_length = not name.endswith("ts")
    assert is_cut_short(tmp_path / name) == says_its_length
    assert not is_cut_short(whole)
    if says_its_length:
        (note,) = (note for note in film.notes if "cut short" in note)
        if share < 0.99:
            assert note.startswith("the file is cut short: it ends at 0:")
            assert name.endswith("avi") or note.endswith(" of 0:12")


def test_a_whole_film_is_not_called_cut_short(tmp_path: Path) -> None:
    """Sound that is longer, and a start that is not 0, are no reason."""
    for name in ("film.mkv", "film.mp4"):
        path = tmp_path / name
        make_film(path, count=20, timestamps=[100 + index for index in range(20)], sound=True)
        film = reader(path)
        assert len(list(film.frames())) == 20
        assert film.notes == []


def test_fields_and_hidden_packets_are_not_taken_for_losses() -> None:
    """Every other packet never comes out: nothing is invented, even about damage."""
    ledger = Ledger()
    lost = []
    for index in range(100):
        ledger.sent(2 * index, 2, keyframe=index % 25 == 0)
        ledger.sent(2 * index + 1, 0, keyframe=False)
        if index == 60:
            ledger.damage()
            continue
        lost += ledger.came(2 * index)

    assert lost + ledger.end() == []


def test_losses_are_told_in_order_until_the_next_keyframe() -> None:
    ledger = Ledger()
    lost = []
    for index in range(60):
        ledger.sent(index, 1, keyframe=index % 20 == 0)
        if index == 25:
            ledger.damage()
        elif index not in (27, 28, 45):
            lost.append(ledger.came(index))

    assert [entry for entry in lost if entry] == [[(25, 1)], [(27, 1), (28, 1)]]
    assert ledger.end() == []


def test_a_silent_decoder_is_held_to_a_picture_a_packet() -> None:
    ledger = Ledger(silent=True)
    lost = []
    for index in range(40):
        ledger.sent(index, 1, keyframe=index % 20 == 0)
        if index != 25:
            lost += ledger.came(index)

    assert lost == [(25, 1)]


def test_the_clock_always_rises() -> None:
    clock = Clock(jump=100, usual=10)

    stamps = [
        (0, 10),
        (10, 10),
        (10, 10),
        (None, 10),
        (35, 0),
        (None, 0),
        (20, 10),
        (900, 10),
        (3, 10),
        (13, 10),
    ]
    given = [clock(stamp, duration) for stamp, duration in stamps]

    assert given == [0, 10, 11, 21, 35, 45, 46, 900, 910, 920]
    assert (clock.moved, clock.shifts) == (2, [907])


def test_timestamps_are_those_of_the_whole_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    make_film(path, count=60, options=GROUPS)
    before = timestamps_of(path)
    spoil(path, [30])

    assert [frame.pts for frame in reader(path).frames()] == before
