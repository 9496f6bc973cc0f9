from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ugatit_batch.errors import DiskFullError, MemoryLacksError, OutputError, PictureError
from ugatit_batch.pipeline import Pipeline

from .fakes import InvertingTranslator
from .works import Gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.frames import Attention, Batch, Pixels, Translated

    Outcome = dict[int, int | UgatitBatchError]


@dataclass(frozen=True)
class Item:
    """Frames filled with the item's number; `fault` is raised after the first `good` of them."""

    number: int
    good: int = 1
    fault: BaseException | None = None

    def frames(self) -> Iterator[Pixels]:
        for _ in range(self.good):
            yield np.full((8, 8, 3), self.number, np.uint8)
        if self.fault is not None:
            raise self.fault


def same(item: Item) -> Item:
    return item


def first_value(_item: Item, pixels: list[Pixels], _attention: list[Attention]) -> int:
    return int(pixels[0][0, 0, 0])


def run(
    items: list[Item],
    translator: InvertingTranslator,
    open_item: Callable[[Item], Item] = same,
    finish: Callable[[Item, list[Pixels], list[Attention]], int] = first_value,
) -> Outcome:
    """Every item must come back exactly once, and no thread may stay."""
    before = set(threading.enumerate())
    outcome: Outcome = {}
    for item, result in Pipeline[Item, int](lambda item: Gathered(open_item(item), finish), translator).run(
        items
    ):
        assert item.number not in outcome
        outcome[item.number] = result
    assert set(threading.enumerate()) <= before
    assert set(outcome) == {item.number for item in items}
    return outcome


def failed(outcome: Outcome) -> set[int]:
    good = {number for number, result in outcome.items() if result == 255 - number}
    return set(outcome) - good


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_item_that_cannot_be_opened_fails_alone(batch_size: int) -> None:
    def open_item(item: Item) -> Item:
        if item.number % 7 == 3:
            raise PictureError(f"{item.number}: empty")
        return item

    outcome = run([Item(n) for n in range(40)], InvertingTranslator(batch_size), open_item)
    assert failed(outcome) == {3, 10, 17, 24, 31, 38}
    assert str(outcome[10]) == "10: empty"


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("good", [0, 1, 9])
def test_an_item_that_is_damaged_midway_fails_alone(good: int, ahead: int) -> None:
    damaged = PictureError("damaged at frame 10")
    items = [Item(n, good, damaged) if n % 5 == 2 else Item(n, 3) for n in range(30)]
    outcome = run(items, InvertingTranslator(4, ahead=ahead))
    assert failed(outcome) == {2, 7, 12, 17, 22, 27}
    assert outcome[7] is damaged


def holds(*numbers: int) -> Callable[[Pixels], bool]:
    return lambda pixels: bool(np.isin(pixels[:, 0, 0, 0], numbers).any())


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
@pytest.mark.parametrize("bad", [(0,), (7,), (39,), (5, 6, 7, 8), tuple(range(40))])
def test_a_batch_that_fails_takes_no_other_with_it(ahead: int, bad: tuple[int, ...]) -> None:
    for translator in (
        InvertingTranslator(1, ahead=ahead, breaks=holds(*bad)),
        InvertingTranslator(1, ahead=ahead, refuses=holds(*bad)),
    ):
        outcome = run([Item(n) for n in range(40)], translator)
        assert failed(outcome) == set(bad)
        assert all(isinstance(outcome[number], MemoryLacksError) for number in bad)


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_batches_taken_ahead_are_not_lost_when_they_fail_in_different_ways(ahead: int) -> None:
    taken: list[int] = []

    def refuses_from_the_second_time(pixels: Pixels) -> bool:
        number = int(pixels[0, 0, 0, 0])
        taken.append(number)
        return number % 4 == 3 and taken.count(number) > 1

    translator = InvertingTranslator(
        1, ahead=ahead, refuses=refuses_from_the_second_time, breaks=holds(2, 6, 10, 14)
    )
    outcome = run([Item(n) for n in range(20)], translator)
    assert {2, 6, 10, 14} <= failed(outcome) <= {2, 6, 10, 14, 3, 7, 11, 15, 19}


@pytest.mark.parametrize("ahead", [0, 1])
def test_only_the_items_of_the_failed_batch_fail(ahead: int) -> None:
    together: list[set[int]] = []

    def breaks(pixels: Pixels) -> bool:
        numbers = {int(value) for value in pixels[:, 0, 0, 0]}
        if 6 in numbers:
            together.append(numbers)
        return 6 in numbers

    outcome = run([Item(n) for n in range(20)], InvertingTranslator(4, ahead=ahead, breaks=breaks))
    assert failed(outcome) == together[-1]
    assert len(together[-1]) <= 4


def test_a_film_of_which_one_batch_failed_fails_once() -> None:
    items = [Item(1, good=20), Item(2)]
    outcome = run(items, InvertingTranslator(4, ahead=1, breaks=holds(1)))
    assert failed(outcome) == {1}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_item_that_cannot_be_written_fails_alone(batch_size: int) -> None:
    def finish(item: Item, pixels: list[Pixels], attention: list[Attention]) -> int:
        if item.number == 6:
            raise OutputError("6: no folder")
        return first_value(item, pixels, attention)

    outcome = run([Item(n) for n in range(20)], InvertingTranslator(batch_size), finish=finish)
    assert failed(outcome) == {6}
    assert str(outcome[6]) == "6: no folder"


class UnexpectedError(Exception):
    """Not one of the project's own."""


def raise_in_open(item: Item) -> Item:
    if item.number == 9:
        raise UnexpectedError("open")
    return item


def raise_in_finish(item: Item, _p: list[Pixels], _a: list[Attention]) -> int:
    if item.number == 9:
        raise UnexpectedError("finish")
    return 0


def raise_in_network(pixels: Pixels) -> bool:
    if holds(9)(pixels):
        raise UnexpectedError("network")
    return False


def items_that_break() -> Iterator[Item]:
    yield from (Item(n) for n in range(9))
    raise UnexpectedError("items")


@pytest.mark.parametrize("stage", ["open", "frames", "network", "finish", "items", "journal"])
def test_a_fault_of_the_program_ends_the_run_and_is_raised(stage: str) -> None:
    before = set(threading.enumerate())
    translator = InvertingTranslator(2, ahead=1, breaks=raise_in_network if stage == "network" else holds())
    fault = UnexpectedError("frames") if stage == "frames" else None
    endless: Iterator[Item] = (Item(n % 250, fault=fault if n == 9 else None) for n in range(10**9))
    if stage == "items":
        endless = items_that_break()
    elif stage == "journal":
        endless = iter_then_full()
    open_item = raise_in_open if stage == "open" else same
    finish = raise_in_finish if stage == "finish" else first_value
    pipeline = Pipeline[Item, int](lambda item: Gathered(open_item(item), finish), translator)
    with pytest.raises(DiskFullError if stage == "journal" else UnexpectedError, match=stage):
        for _ in pipeline.run(endless):
            pass
    assert set(threading.enumerate()) <= before


def iter_then_full() -> Iterator[Item]:
    """The project's own errors end the run as well where no item is to blame."""
    yield from (Item(n) for n in range(9))
    raise DiskFullError("journal")


class Forgetful(InvertingTranslator):
    """Gives back one batch fewer than it takes."""

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        next(batches, None)
        yield from super().translate(batches)


def test_a_translator_that_loses_a_batch_is_found_out() -> None:
    with pytest.raises(RuntimeError, match="batch"):
        run([Item(n) for n in range(10)], Forgetful(1))


def test_work_ends_soon_after_the_consumer_left() -> None:
    worked: list[object] = []

    def work(pixels: Pixels) -> None:
        worked.append(pixels)
        time.sleep(0.02)

    pipeline = Pipeline[Item, int](
        lambda item: Gathered(item, first_value), InvertingTranslator(1, before=work)
    )
    results = pipeline.run(Item(n) for n in range(200))
    next(results)
    begun = len(worked)
    results.close()
    # The one in work, and one that may have been handed over while this thread looked away.
    assert len(worked) <= begun + 1
