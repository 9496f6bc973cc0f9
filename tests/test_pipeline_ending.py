"""Runs that end early: in their own time, or with what a later run can go on from."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ugatit_batch.errors import DiskFullError, FilmError, OutputError
from ugatit_batch.pipeline import Pipeline

from .fakes import InvertingTranslator
from .works import Gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.frames import Attention, Finished, Pixels

ENDLESS = 10**9


@dataclass(frozen=True)
class Item:
    """A film of `count` frames, or a picture."""

    number: int
    count: int = 1
    film: bool = False

    def frames(self) -> Iterator[Pixels]:
        for _ in range(self.count):
            yield np.full((8, 8, 3), self.number, np.uint8)


def count_of(_item: Item, pixels: list[Pixels], _attention: list[Attention]) -> int:
    return len(pixels)


class Works:
    """All works of a run, by the number of the item."""

    def __init__(self, add: Callable[[Item, Finished], object] = lambda _i, _f: None) -> None:
        self.add = add
        self.by_number: dict[int, Gathered[Item, int]] = {}

    def open(self, item: Item) -> Gathered[Item, int]:
        work = Gathered(item, count_of, streams=item.film, add=self.add)
        self.by_number[item.number] = work
        return work

    def ends(self, number: int) -> list[str]:
        return self.by_number[number].ends


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_patience_ends_a_film_that_goes_on_and_on() -> None:
    stop = threading.Event()
    works = Works(lambda item, _: stop.set() if item.film else None)
    items = [Item(0), Item(1, ENDLESS, film=True), Item(2, ENDLESS, film=True)]
    pipeline = Pipeline[Item, int](works.open, InvertingTranslator(2, before=lambda _: time.sleep(0.002)))
    results = list(pipeline.run(items, stop.is_set, patience=0.2))
    assert [(item.number, result) for item, result in results] == [(0, 1)]
    assert works.ends(1) == ["frames", "pause"]
    # The other one was opened ahead at most.
    assert all(works.ends(number) == ["abandon"] for number in works.by_number if number == 2)


def test_with_patience_enough_what_was_begun_is_finished() -> None:
    stop = threading.Event()
    works = Works(lambda item, _: stop.set() if item.film else None)
    pipeline = Pipeline[Item, int](works.open, InvertingTranslator(2, before=lambda _: time.sleep(0.001)))
    items = (Item(number % 250, 200, film=True) for number in range(ENDLESS))
    results = list(pipeline.run(items, stop.is_set, patience=60))
    assert [result for _, result in results] == [200] * len(works.by_number)
    assert all(work.ends == ["frames", "finish"] for work in works.by_number.values())


def test_stopping_is_noticed_while_nothing_comes() -> None:
    """The items stand still, the network stands still, and nobody has asked whether to stop."""
    works, begun, stop = Works(), threading.Event(), threading.Event()

    def stand(_: Pixels) -> None:
        begun.set()
        stop.set()
        assert pipeline._given_up.wait(20)

    pipeline = Pipeline[Item, int](works.open, InvertingTranslator(1, before=stand))
    results = list(pipeline.run([Item(1, 5, film=True)], stop.is_set, patience=0.05))
    assert begun.is_set()
    assert results == []
    assert works.ends(1) == ["frames", "pause"]
    assert len(works.by_number[1].pixels) < 5


def test_what_is_finished_while_the_run_ends_has_its_result() -> None:
    stop, asked = threading.Event(), threading.Event()

    def finish(_item: Item, pixels: list[Pixels], _attention: list[Attention]) -> int:
        stop.set()
        # Longer than patience.
        time.sleep(0.5)
        asked.set()
        return len(pixels)

    works: list[Gathered[Item, int]] = []

    def open_item(item: Item) -> Gathered[Item, int]:
        works.append(Gathered(item, finish))
        return works[-1]

    pipeline = Pipeline[Item, int](open_item, InvertingTranslator(1))
    results = list(pipeline.run([Item(1)], stop.is_set, patience=0.1))
    assert asked.is_set()
    assert [result for _, result in results] == [1]
    assert works[0].ends == ["frames", "finish"]


def test_no_patience_at_all_ends_before_anything() -> None:
    works = Works()
    pipeline = Pipeline[Item, int](works.open, InvertingTranslator(1))
    results = list(pipeline.run((Item(n % 250) for n in range(ENDLESS)), lambda: True, patience=0))
    assert results == []
    assert works.by_number == {}


def test_an_item_that_has_failed_is_abandoned_and_not_paused() -> None:
    """Its failure is on its way to the write threads, which stand still, when the consumer leaves."""
    standing, failed = threading.Event(), threading.Event()

    class Damaged(Item):
        def frames(self) -> Iterator[Pixels]:
            yield from super().frames()
            failed.set()
            raise FilmError("damaged")

    def stand(_item: Item, _finished: Finished) -> None:
        assert standing.wait(20)

    works = Works(stand)
    pipeline = Pipeline[Item, int](works.open, InvertingTranslator(1))
    results = pipeline.run([Item(0, 0), Damaged(1, 3, film=True)])
    assert next(results)[0].number == 0
    assert failed.wait(20)
    # Until the network's thread has taken in that it has failed.
    deadline = time.monotonic() + 20
    while not any(ticket.failed for ticket in pipeline._begun) and time.monotonic() < deadline:
        time.sleep(0.005)
    threading.Timer(0.2, standing.set).start()
    results.close()
    # Its steps are taken one by one: after the one that stood still, none is.
    assert works.ends(1) == ["frames", "abandon"]


class UnexpectedError(Exception):
    """Not one of the project's own."""


class Unpausable(Gathered[Item, int]):
    """Of which nothing can be kept."""

    error: UgatitBatchError

    def pause(self) -> None:
        super().pause()
        raise self.error


@pytest.mark.parametrize("error", [None, OutputError("no folder"), DiskFullError("full")])
@pytest.mark.parametrize("end", ["left", "patience", "fault"])
def test_all_that_has_not_failed_is_paused_and_what_cannot_be_hides_nothing(
    end: str, error: UgatitBatchError | None
) -> None:
    standing, begun, stop = threading.Event(), threading.Event(), threading.Event()
    works: dict[int, Gathered[Item, int]] = {}

    def add(item: Item, _: Finished) -> None:
        if item.number == 2:
            begun.set()
        elif item.number == 1:
            assert standing.wait(20)

    def open_item(item: Item) -> Gathered[Item, int]:
        kind = Gathered if error is None else Unpausable
        work = works[item.number] = kind(item, count_of, streams=item.film, add=add)
        if error is not None and isinstance(work, Unpausable):
            work.error = error
        return work

    def items() -> Iterator[Item]:
        # The first is finished at once, the second cannot be written on, and the third is in work.
        yield from (Item(0, 0), Item(1, 3, film=True), Item(2, ENDLESS, film=True))
        assert begun.wait(20)
        if end == "fault":
            raise UnexpectedError

    results = Pipeline[Item, int](open_item, InvertingTranslator(1)).run(items(), stop.is_set, 0.1)
    assert next(results)[0].number == 0
    assert begun.wait(20)
    timer = threading.Timer(0.3, standing.set)
    timer.start()
    if end == "left":
        results.close()
    elif end == "patience":
        stop.set()
        assert list(results) == []
    else:
        with pytest.raises(UnexpectedError):
            list(results)
    timer.join()
    assert works[1].ends == works[2].ends == ["frames", "pause"]
