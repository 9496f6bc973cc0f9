from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ugatit_batch.pipeline import Pipeline, Settled

from .fakes import InvertingTranslator
from .works import Gathered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.frames import Attention, Pixels

    Results = dict[int, "tuple[int, ...] | UgatitBatchError"]


@dataclass(frozen=True)
class Item:
    """`count` frames, each filled with the item's number."""

    number: int
    height: int = 8
    width: int = 8
    count: int = 1

    def frames(self) -> Iterator[Pixels]:
        for _ in range(self.count):
            yield np.full((self.height, self.width, 3), self.number, np.uint8)


def finish(item: Item, pixels: list[Pixels], attention: list[Attention]) -> tuple[int, ...]:
    """Check that an item got back what was made of its own frames."""
    assert len(attention) == len(pixels) == item.count
    for image, weights in zip(pixels, attention, strict=True):
        assert image.shape == (item.height, item.width, 3)
        assert weights.shape == (item.height // 4, item.width // 4)
        assert (image == 255 - item.number).all()
        assert (weights == item.number).all()
    return tuple(int(image[0, 0, 0]) for image in pixels)


def opened(item: Item) -> Gathered[Item, tuple[int, ...]]:
    return Gathered(item, finish)


def run(items: Iterable[Item], translator: InvertingTranslator) -> Results:
    outcome: Results = {}
    for item, result in Pipeline(opened, translator).run(items):
        assert item.number not in outcome
        outcome[item.number] = result
    return outcome


def mixed(count: int) -> list[Item]:
    chance = random.Random(5)
    return [
        Item(number, chance.choice((8, 12, 16)), chance.choice((8, 20)), chance.choice((1, 1, 1, 3, 7)))
        for number in range(count)
    ]


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_item_of_a_mixed_lot_comes_back_once(batch_size: int, ahead: int) -> None:
    items = mixed(120)
    outcome = run(items, InvertingTranslator(batch_size, ahead=ahead))
    assert outcome == {item.number: (255 - item.number,) * item.count for item in items}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_batch_holds_one_size_and_no_more_than_asked_for(batch_size: int) -> None:
    items = mixed(120)
    translator = InvertingTranslator(batch_size)
    run(items, translator)
    assert max(shape[0] for shape in translator.shapes) == batch_size
    frames: Counter[tuple[int, ...]] = Counter()
    for number, *shape in translator.shapes:
        frames[tuple(shape)] += number
    wanted: Counter[tuple[int, ...]] = Counter()
    for item in items:
        wanted[item.height, item.width, 3] += item.count
    assert frames == wanted


def test_items_of_one_size_fill_their_batches() -> None:
    translator = InvertingTranslator(4, before=lambda _: time.sleep(0.002))
    run([Item(number) for number in range(100)], translator)
    assert sum(shape[0] == 4 for shape in translator.shapes) >= 15


def test_no_items_end_well() -> None:
    assert run([], InvertingTranslator(4, ahead=1)) == {}


def test_an_item_without_frames_is_finished() -> None:
    assert run([Item(1, count=0), Item(2)], InvertingTranslator(4)) == {1: (), 2: (253,)}


class Counted:
    """Counts how many items are opened and not finished."""

    def __init__(self, delay: float) -> None:
        self._lock = threading.Lock()
        self._delay = delay
        self.now = self.most = self.drawn = 0

    def draw(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            self.drawn += 1
            yield item

    def open(self, item: Item) -> Gathered[Item, tuple[int, ...]]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        return Gathered(item, self.finish)

    def finish(self, item: Item, pixels: list[Pixels], attention: list[Attention]) -> tuple[int, ...]:
        time.sleep(self._delay)
        result = finish(item, pixels, attention)
        with self._lock:
            self.now -= 1
        return result


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("slow", ["translator", "writer", "consumer"])
def test_only_a_fixed_number_of_items_is_held(slow: str, batch_size: int) -> None:
    readers, writers = 2, 2
    bound = readers + 1 + 2 * batch_size + 2 * writers
    counted = Counted(0.004 if slow == "writer" else 0.0)
    delay = 0.004 if slow == "translator" else 0.0
    translator = InvertingTranslator(batch_size, before=lambda _: time.sleep(delay))
    pipeline = Pipeline(counted.open, translator, readers, writers)
    done = 0
    for _ in pipeline.run(counted.draw(Item(number % 200) for number in range(150))):
        done += 1
        if slow == "consumer":
            time.sleep(0.001)
    assert done == 150
    assert counted.now == 0
    assert 1 < counted.most <= bound


def test_reading_does_not_run_ahead_of_a_translator_that_stands_still() -> None:
    standing, bound = threading.Event(), 2 + 1 + 2 * 2 + 2 * 2
    counted = Counted(0.0)
    translator = InvertingTranslator(2, before=lambda _: standing.wait(20))
    pipeline = Pipeline(counted.open, translator)
    results = pipeline.run(counted.draw(Item(number) for number in range(100)))
    threading.Timer(0.4, standing.set).start()
    next(results)
    assert counted.most <= bound
    assert counted.drawn <= 100
    assert len(list(results)) == 99
    assert counted.most <= bound


def slowly(first: Item, then: Item, go_on: threading.Event, seen: list[bool]) -> Iterator[Item]:
    yield first
    seen.append(go_on.wait(20))
    yield then


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_lone_item_does_not_wait_for_its_successor(ahead: int) -> None:
    go_on, seen = threading.Event(), list[bool]()
    translator = InvertingTranslator(8, ahead=ahead)
    results = Pipeline(opened, translator).run(slowly(Item(1), Item(2), go_on, seen))
    item, result = next(results)
    assert (item.number, result) == (1, (254,))
    assert seen == []
    go_on.set()
    assert [item.number for item, _ in results] == [2]
    assert seen == [True]


def test_stopping_finishes_what_was_begun() -> None:
    begun = []
    stop = threading.Event()

    def open_item(item: Item) -> Gathered[Item, tuple[int, ...]]:
        begun.append(item.number)
        if item.number == 5:
            stop.set()
        return opened(item)

    pipeline = Pipeline(open_item, InvertingTranslator(4))
    done = {item.number for item, _ in pipeline.run((Item(n % 250) for n in range(10**9)), stop.is_set)}
    assert done == set(begun)
    assert len(done) >= 6


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_consumer_that_leaves_early_ends_all_threads(after: int) -> None:
    before = set(threading.enumerate())
    worked: list[object] = []
    translator = InvertingTranslator(2, ahead=1, before=worked.append)
    results = Pipeline(opened, translator).run(Item(n % 250) for n in range(10**9))
    for _ in range(after):
        next(results)
    results.close()
    assert set(threading.enumerate()) <= before
    count = len(worked)
    time.sleep(0.05)
    assert len(worked) == count


def test_an_item_that_needs_no_work_does_not_wait_for_those_that_do() -> None:
    arrived = threading.Event()

    def items() -> Iterator[Item | Settled[Item, tuple[int, ...]]]:
        yield Settled(Item(1), (7,))
        # The consumer has to see the first before the second comes at all.
        assert arrived.wait(10)
        yield Item(2)

    outcome: Results = {}
    for item, result in Pipeline(opened, InvertingTranslator(4)).run(items()):
        outcome[item.number] = result
        arrived.set()
    assert outcome == {1: (7,), 2: (253,)}
