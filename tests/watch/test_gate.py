from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.errors import PictureError
from ugatit_batch.watch.gate import Arrival, Gate, Version, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.watch.ready import Look

A, B, C = Path("a.png"), Path("b.png"), Path("c.png")
BROKEN = PictureError("is cut short")


class Disk:
    """Files that are there as long as `versions` has them."""

    def __init__(self) -> None:
        self.versions: dict[Path, Version] = {}
        self.looks: dict[Path, Look] = {}
        self.looked: list[Path] = []
        self.asked = 0

    def write(self, path: Path, size: int, mtime: int = 0) -> Version:
        self.versions[path] = Version(size, mtime)
        return self.versions[path]

    def version(self, path: Path) -> Version | None:
        self.asked += 1
        return self.versions.get(path)

    def look(self, path: Path) -> Look:
        self.looked.append(path)
        return self.looks.get(path, "whole")

    def gate(self, settle: float = 2.0, pauses: tuple[float, ...] = (10.0, 40.0)) -> Gate:
        return Gate(settle, pauses, self.look, self.version)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def when(gate: Gate, until: float, step: float = 0.25) -> Iterator[tuple[float, Arrival]]:
    """What comes out, and when, where time goes by without a touch."""
    now = 0.0
    while now <= until:
        for arrival in gate.advance(now):
            yield now, arrival
        now += step


def test_ready_once_it_has_settled(disk: Disk) -> None:
    version, gate = disk.write(A, 10), disk.gate()
    assert gate.next() is None
    gate.touch(A, 0.0)
    assert A in gate
    assert len(gate) == 1
    assert gate.next() == 0.0
    assert gate.advance(0.0) == []
    assert gate.next() == 2.0
    assert gate.advance(1.99) == []
    assert disk.looked == []
    assert gate.advance(2.0) == [Arrival(A, version)]
    assert A not in gate
    assert len(gate) == 0
    assert gate.next() is None
    assert gate.advance(1000.0) == []


def test_a_file_that_grows_is_ready_one_settle_after_its_last_change(disk: Disk) -> None:
    gate = disk.gate()
    for now in range(100):
        disk.write(A, now)
        gate.touch(A, float(now))
        assert gate.advance(float(now)) == []
    assert disk.looked == []
    assert gate.advance(100.9) == []
    assert gate.advance(101.0) == [Arrival(A, Version(99, 0))]


def test_a_change_that_nobody_told_of_is_seen(disk: Disk) -> None:
    gate = disk.gate()
    disk.write(A, 1)
    gate.touch(A, 0.0)
    gate.advance(0.0)
    version = disk.write(A, 1, mtime=-5)  # the clock was set back
    assert gate.advance(2.0) == []
    assert gate.advance(3.9) == []
    assert gate.advance(4.0) == [Arrival(A, version)]


def test_a_touch_alone_postpones(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 1)
    gate.touch(A, 0.0)
    gate.advance(0.0)
    gate.touch(A, 1.5)
    gate.advance(1.5)
    assert gate.advance(3.4) == []
    assert gate.advance(3.5) == [Arrival(A, version)]


def test_touches_without_end_postpone_to_ten_times_settle(disk: Disk) -> None:
    gate = disk.gate()
    disk.write(A, 1)
    for now in range(100):
        gate.touch(A, float(now))
        if gate.advance(float(now)):
            break
    assert now == 20


def test_what_has_vanished_is_dropped(disk: Disk) -> None:
    gate = disk.gate()
    gate.touch(A, 0.0)  # was never there
    disk.write(B, 1)
    gate.touch(B, 0.0)
    assert gate.advance(0.0) == []
    assert A not in gate
    del disk.versions[B]
    assert gate.advance(2.0) == []
    assert len(gate) == 0
    disk.write(C, 1)
    disk.looks[C] = "gone"
    gate.touch(C, 3.0)
    assert list(when(gate, 60)) == []
    assert gate.next() is None


def test_a_program_is_dropped(disk: Disk) -> None:
    gate = disk.gate()
    disk.write(A, 1)
    disk.looks[A] = "other"
    gate.touch(A, 0.0)
    assert list(when(gate, 60)) == []
    assert disk.looked == [A]
    assert gate.next() is None


def test_an_open_file_is_waited_for_without_end(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 1)
    disk.looks[A] = "open"
    gate.touch(A, 0.0)
    now, times = 0.0, []
    while now < 1000:
        due = gate.next()
        assert due is not None
        now = due
        before = len(disk.looked)
        assert gate.advance(now) == []
        if len(disk.looked) > before:
            times.append(now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[:5] == [2, 4, 8, 16, 30]
    assert set(gaps[5:]) == {30}
    disk.looks[A] = "whole"
    assert gate.advance(now + 30) == [Arrival(A, version)]


def test_a_touch_of_an_open_file_brings_the_next_look_near(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 1)
    disk.looks[A] = "open"
    gate.touch(A, 0.0)
    assert list(when(gate, 40)) == []
    due = gate.next()
    assert due is not None
    assert due > 44
    disk.looks[A] = "whole"  # closed, with nothing more written
    gate.touch(A, 41.0)
    gate.advance(41.0)
    assert gate.advance(43.0) == [Arrival(A, version)]


def test_touches_without_end_of_an_open_file_cost_a_look_a_settle(disk: Disk) -> None:
    gate = disk.gate()
    disk.write(A, 1)
    disk.looks[A] = "open"
    for tick in range(1000):
        gate.touch(A, tick / 10)
        gate.advance(tick / 10)
    assert 3 <= len(disk.looked) <= 50


def test_an_error_is_tried_again_and_then_given_up(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 0)
    disk.looks[A] = BROKEN
    gate.touch(A, 0.0)
    assert list(when(gate, 300)) == [(52.0, Arrival(A, version, BROKEN))]
    assert disk.looked == [A] * 3
    assert A not in gate
    assert gate.next() is None


def test_an_error_that_passes_is_none(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 5)
    disk.looks[A] = BROKEN
    gate.touch(A, 0.0)
    gate.advance(0.0)
    gate.advance(2.0)
    disk.looks[A] = "whole"
    assert gate.advance(11.9) == []
    assert gate.advance(12.0) == [Arrival(A, version)]


def test_without_pauses_the_first_error_is_the_last(disk: Disk) -> None:
    gate = disk.gate(pauses=())
    version = disk.write(A, 5)
    disk.looks[A] = BROKEN
    gate.touch(A, 0.0)
    assert list(when(gate, 60)) == [(2.0, Arrival(A, version, BROKEN))]


def test_a_change_while_it_pauses_begins_from_the_start(disk: Disk) -> None:
    gate = disk.gate()
    disk.write(A, 5)
    disk.looks[A] = BROKEN
    gate.touch(A, 0.0)
    gate.advance(0.0)
    gate.advance(2.0)  # the first error: 10 s
    gate.advance(12.0)  # the second: 40 s
    version = disk.write(A, 6)
    gate.touch(A, 20.0)
    gate.advance(20.0)
    assert gate.next() == 22.0
    assert gate.advance(22.0) == []
    assert gate.next() == 32.0  # the first pause again
    assert list(when(gate, 300)) == [(72.0, Arrival(A, version, BROKEN))]


def test_a_touch_alone_does_not_reset_the_tries(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 5)
    disk.looks[A] = BROKEN
    given_up = []
    for tick in range(400):
        gate.touch(A, float(tick))
        given_up += [(tick, arrival) for arrival in gate.advance(float(tick))]
        if given_up:
            break
    assert given_up == [(70, Arrival(A, version, BROKEN))]
    assert len(disk.looked) == 3


def test_what_is_handed_out_comes_again_only_when_it_has_changed(disk: Disk) -> None:
    gate = disk.gate()
    disk.write(A, 1)
    gate.touch(A, 0.0)
    gate.advance(0.0)
    assert len(gate.advance(2.0)) == 1
    gate.touch(A, 3.0)
    assert gate.advance(3.0) == []
    assert gate.advance(60.0) == []
    assert len(gate) == 0
    version = disk.write(A, 2)
    gate.touch(A, 61.0)
    gate.advance(61.0)
    assert gate.advance(63.0) == [Arrival(A, version)]


def test_what_is_done_with_may_come_again(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 1)
    gate.touch(A, 0.0)
    gate.advance(0.0)
    gate.advance(2.0)
    gate.forget(A)
    gate.touch(A, 3.0)
    gate.advance(3.0)
    assert gate.advance(5.0) == [Arrival(A, version)]


def test_failures_count_with_errors_of_looking(disk: Disk) -> None:
    gate = disk.gate()
    version = disk.write(A, 1)
    disk.looks[A] = BROKEN
    gate.touch(A, 0.0)
    gate.advance(0.0)
    gate.advance(2.0)
    disk.looks[A] = "whole"
    (arrival,) = gate.advance(12.0)
    assert gate.again(arrival, BROKEN, 20.0)  # the second pause
    assert A in gate
    assert gate.advance(59.9) == []
    assert gate.advance(60.0) == [Arrival(A, version)]
    assert not gate.again(arrival, BROKEN, 61.0)
    assert A not in gate
    assert gate.next() is None
    gate.forget(A)


def test_again_of_what_nothing_is_known_of(disk: Disk) -> None:
    gate = disk.gate(pauses=(10.0,))
    arrival = Arrival(A, disk.write(A, 1))
    assert gate.again(arrival, BROKEN, 0.0)
    assert list(when(gate, 30)) == [(10.0, arrival)]
    assert not gate.again(arrival, BROKEN, 31.0)


def test_again_of_what_has_changed_meanwhile(disk: Disk) -> None:
    gate = disk.gate(pauses=())
    disk.write(A, 1)
    gate.touch(A, 0.0)
    gate.advance(0.0)
    (old,) = gate.advance(2.0)
    version = disk.write(A, 2)
    gate.touch(A, 3.0)
    gate.advance(3.0)
    assert gate.again(old, BROKEN, 4.0)  # pending
    (new,) = gate.advance(5.0)
    assert new == Arrival(A, version)
    assert gate.again(old, BROKEN, 6.0)  # handed out
    assert not gate.again(new, BROKEN, 6.0)


def test_a_change_between_two_tries_begins_from_the_start(disk: Disk) -> None:
    gate = disk.gate(pauses=(10.0,))
    disk.write(A, 1)
    gate.touch(A, 0.0)
    gate.advance(0.0)
    (arrival,) = gate.advance(2.0)
    assert gate.again(arrival, BROKEN, 3.0)
    version = disk.write(A, 2)
    assert gate.advance(13.0) == []
    (arrival,) = gate.advance(15.0)
    assert arrival == Arrival(A, version)
    assert gate.again(arrival, BROKEN, 16.0)


def test_they_come_in_the_order_in_which_they_became_ready(disk: Disk) -> None:
    gate = disk.gate()
    for path, at in ((C, 0.0), (B, 1.0), (A, 1.0)):
        disk.write(path, 1)
        gate.touch(path, at)
        gate.advance(at)
    assert [arrival.path for arrival in gate.advance(50.0)] == [C, A, B]


def test_few_at_a_time(disk: Disk) -> None:
    gate = disk.gate()
    paths = [Path(f"{index}.png") for index in range(10)]
    for path in paths:
        disk.write(path, 1)
        gate.touch(path, 0.0)
    gate.advance(0.0)
    found = []
    while (due := gate.next()) is not None:
        assert due <= 5.0
        some = gate.advance(5.0, most=3)
        assert 1 <= len(some) <= 3
        found += [arrival.path for arrival in some]
    assert found == paths


def test_a_file_that_never_rests_does_not_hold_up_a_call(tmp_path: Path) -> None:
    sizes = iter(range(1, 10**9))
    gate = Gate(0.0, (), lambda _: "whole", lambda _: Version(next(sizes), 0))
    gate.touch(A, 0.0)
    assert [gate.advance(tick / 100) for tick in range(300)] == [[]] * 300


def test_a_backlog_costs_a_few_looks_each(disk: Disk) -> None:
    count = 5_000
    paths = [Path(f"{index:06}.png") for index in range(count)]
    gate = disk.gate()
    for path in paths:
        disk.write(path, 1)
        gate.touch(path, 0.0)
    assert gate.advance(0.0) == []
    for path in paths:
        gate.touch(path, 1.0)
    assert gate.advance(2.0) == []
    assert [arrival.path for arrival in gate.advance(3.0)] == paths
    assert len(disk.looked) == count
    assert disk.asked == 3 * count
    for path in paths:
        gate.forget(path)
    assert len(gate) == 0


def test_versions_of_real_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert version_of(path) is None
    assert version_of(tmp_path) is None
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 123_456_789_012))
    assert version_of(path) == Version(3, 123_456_789_012)
    assert version_of(path / "b.png") is None


def test_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    gate = Gate(2.0, (), lambda _: "whole")
    gate.touch(path, 0.0)
    gate.advance(0.0)
    path.write_bytes(b"abcd")
    assert gate.advance(2.0) == []
    (arrival,) = gate.advance(4.0)
    assert arrival.version.size == 4
