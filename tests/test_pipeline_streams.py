"""Films in the pipeline: frames written as they come, alone in their batches, style kept along them."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ugatit_batch.errors import FilmError, OutputError
from ugatit_batch.frames import Smoothing, Translated
from ugatit_batch.pipeline import Pipeline

from .fakes import InvertingTranslator
from .works import Gathered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.frames import Attention, Batch, Finished, Pixels

    Outcome = dict[int, "list[int] | UgatitBatchError"]


@dataclass(frozen=True)
class Item:
    """A film of `count` frames, or a picture; each frame holds the item's number and its own."""

    number: int
    count: int = 1
    film: bool = False
    fault: int | None = None

    def frames(self) -> Iterator[Pixels]:
        for index in range(self.count):
            if index == self.fault:
                raise FilmError(f"{self.number}: damaged")
            pixels = np.full((8, 8, 3), self.number, np.uint8)
            pixels[..., 1], pixels[..., 2] = index % 256, index // 256
            yield pixels


def numbers(item: Item, pixels: list[Pixels], attention: list[Attention]) -> list[int]:
    """The frames that came back, by their own numbers."""
    inverted = [255 - frame[0, 0] for frame in pixels]
    assert all(frame[0] == item.number for frame in inverted)
    assert len(attention) == len(pixels)
    return [int(frame[1]) + 256 * int(frame[2]) for frame in inverted]


def opened(item: Item) -> Gathered[Item, list[int]]:
    return Gathered(item, numbers, streams=item.film)


def run(pipeline: Pipeline[Item, list[int]], items: list[Item]) -> Outcome:
    before = set(threading.enumerate())
    outcome: Outcome = {}
    for item, result in pipeline.run(items):
        assert item.number not in outcome
        outcome[item.number] = result
    assert set(threading.enumerate()) <= before
    return outcome


class Separating(InvertingTranslator):
    """Notes which items' frames came in one call."""

    def __init__(self, *arguments: int, ahead: int = 0) -> None:
        super().__init__(*arguments, ahead=ahead)
        self.calls: list[set[int]] = []

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        def seen() -> Iterator[Batch]:
            for batch in batches:
                self.calls[-1] |= {int(number) for number in batch.pixels[:, 0, 0, 0]}
                yield batch

        self.calls.append(set())
        yield from super().translate(seen())


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_films_and_pictures_come_back_whole_and_in_order(batch_size: int, ahead: int) -> None:
    chance = random.Random(7)
    items = [
        Item(number, chance.choice((1, 5, 40)), film=True) if chance.random() < 0.4 else Item(number)
        for number in range(60)
    ]
    translator = Separating(batch_size, ahead=ahead)
    outcome = run(Pipeline(opened, translator), items)
    assert outcome == {item.number: list(range(item.count)) for item in items}
    films = {item.number for item in items if item.film}
    for call in translator.calls:
        assert not call & films or len(call) == 1


def test_the_frames_of_a_film_fill_their_batches() -> None:
    translator = InvertingTranslator(4, ahead=1, before=lambda _: time.sleep(0.002))
    run(Pipeline(opened, translator), [Item(1, 100, film=True)])
    assert sum(shape[0] == 4 for shape in translator.shapes) >= 15


class Held:
    """Counts the frames of a film that were read and are not written."""

    def __init__(self, writing: float) -> None:
        self._lock, self._writing = threading.Lock(), writing
        self.now = self.most = 0

    def open(self, item: Item) -> Gathered[Item, int]:
        held = self

        class Counted(Item):
            def frames(self) -> Iterator[Pixels]:
                for pixels in super().frames():
                    with held._lock:
                        held.now += 1
                        held.most = max(held.most, held.now)
                    yield pixels

        def written(_item: Item, _finished: Finished) -> None:
            time.sleep(held._writing)
            with held._lock:
                held.now -= 1

        counted = Counted(item.number, item.count, item.film, item.fault)
        return Gathered[Item, int](counted, lambda _i, pixels, _a: len(pixels), streams=True, add=written)


@pytest.mark.parametrize(("writing", "network"), [(0.002, 0.0), (0.0, 0.002)])
@pytest.mark.parametrize("ahead", [0, 2])
def test_however_long_a_film_a_fixed_number_of_frames_is_held(
    writing: float, network: float, ahead: int
) -> None:
    held = Held(writing)
    translator = InvertingTranslator(4, ahead=ahead, before=lambda _: time.sleep(network))
    (entry,) = Pipeline(held.open, translator, 2, 2).run([Item(1, 300, film=True)])
    assert entry[1] == 300
    assert held.now == 0
    assert 1 < held.most <= 2 + 1 + (ahead + 2) * 4 + 2 * 2


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_slow_film_does_not_keep_results_back(ahead: int) -> None:
    """The third frame comes only when the first has been written."""
    written = threading.Event()
    seen: list[bool] = []

    class Slow(Item):
        def frames(self) -> Iterator[Pixels]:
            for index, pixels in enumerate(super().frames()):
                if index == 2:
                    seen.append(written.wait(20))
                yield pixels

    def open_item(item: Item) -> Gathered[Item, list[int]]:
        slow = Slow(item.number, item.count, item.film)
        return Gathered(slow, numbers, streams=True, add=lambda _i, _f: written.set())

    outcome = run(Pipeline(open_item, InvertingTranslator(4, ahead=ahead)), [Item(1, 5, film=True)])
    assert outcome == {1: [0, 1, 2, 3, 4]}
    assert seen == [True]


@pytest.mark.parametrize("fault", [0, 1, 30])
def test_a_film_that_is_damaged_midway_fails_alone_and_is_abandoned(fault: int) -> None:
    works: dict[int, Gathered[Item, list[int]]] = {}

    def open_item(item: Item) -> Gathered[Item, list[int]]:
        works[item.number] = opened(item)
        return works[item.number]

    items = [Item(0), Item(1, 40, film=True, fault=fault), Item(2), Item(3, 9, film=True)]
    outcome = run(Pipeline(open_item, InvertingTranslator(4, ahead=1)), items)
    assert isinstance(outcome.pop(1), FilmError)
    assert outcome == {0: [0], 2: [0], 3: list(range(9))}
    assert works[1].ends == ["frames", "abandon"]
    assert works[3].ends == ["frames", "finish"]


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_film_that_the_network_refuses_is_not_read_to_its_end(ahead: int) -> None:
    read: list[int] = []

    class Endless(Item):
        def frames(self) -> Iterator[Pixels]:
            while self.film or not read:
                read.append(1)
                yield from super().frames()

    def open_item(item: Item) -> Gathered[Item, list[int]]:
        return Gathered(Endless(item.number, 1, item.film) if item.film else item, numbers, streams=item.film)

    def breaks(pixels: Pixels) -> bool:
        return bool((pixels[..., 0] == 1).any())

    translator = InvertingTranslator(2, ahead=ahead, breaks=breaks)
    outcome = run(Pipeline(open_item, translator), [Item(0), Item(1, film=True), Item(2), Item(3)])
    assert not isinstance(outcome.pop(1), list)
    assert outcome == {0: [0], 2: [0], 3: [0]}
    assert len(read) < 100


def test_a_film_that_cannot_be_written_is_not_read_to_its_end() -> None:
    def full(item: Item, finished: Finished) -> None:
        if item.number == 1 and 255 - int(finished.pixels[0, 0, 1]) == 3:
            raise OutputError("1: no room")

    works: dict[int, Gathered[Item, list[int]]] = {}

    def open_item(item: Item) -> Gathered[Item, list[int]]:
        works[item.number] = Gathered(item, numbers, streams=item.film, add=full)
        return works[item.number]

    items = [Item(1, 60000, film=True), Item(2, 5, film=True)]
    outcome = run(Pipeline(open_item, InvertingTranslator(2)), items)
    assert isinstance(outcome.pop(1), OutputError)
    assert outcome == {2: list(range(5))}
    assert len(works[1].pixels) == 3
    assert sorted(works[1].ends) == ["abandon", "frames"]


def test_a_run_that_is_left_in_the_middle_of_a_film_lets_go_of_it() -> None:
    works: list[Gathered[Item, list[int]]] = []
    begun = threading.Event()

    def open_item(item: Item) -> Gathered[Item, list[int]]:
        works.append(Gathered(item, numbers, streams=item.film, add=lambda _i, _f: begun.set()))
        return works[-1]

    before = set(threading.enumerate())
    items = [Item(0), *(Item(number, 60000, film=True) for number in range(1, 6))]
    results = Pipeline(open_item, InvertingTranslator(2, before=lambda _: time.sleep(0.001))).run(items)
    next(results)
    assert begun.wait(20)
    results.close()
    assert set(threading.enumerate()) <= before
    assert works[1].ends == ["frames", "pause"]
    # Those that were opened ahead and never read.
    assert all(work.ends == ["abandon"] for work in works[2:])


class Averaging(InvertingTranslator):
    """Counts pictures since the last cut: a style of which everything before it is a part."""

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        style = np.zeros(1, np.float32)
        asked: list[np.ndarray[tuple[int, int], np.dtype[np.float32]] | None] = []

        def watched() -> Iterator[Batch]:
            nonlocal style
            for batch in batches:
                if batch.averaging is None:
                    asked.append(None)
                else:
                    if batch.averaging.before is not None:
                        style = batch.averaging.before
                    rows = []
                    for cut in batch.averaging.cuts:
                        style = np.zeros(1, np.float32) if cut else style + 1
                        rows.append(style)
                    asked.append(np.stack(rows))
                yield batch

        for translated in super().translate(watched()):
            yield Translated(translated.pixels, translated.attention, asked.pop(0))


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_style_is_kept_along_a_film_and_no_further(batch_size: int, ahead: int, slow: bool) -> None:
    works: dict[int, Gathered[Item, list[int]]] = {}

    class Stuttering(Item):
        """Waits now and then longer than a translator is let wait for its next batch."""

        def frames(self) -> Iterator[Pixels]:
            for index, pixels in enumerate(super().frames()):
                if slow and index % 5 == 4:
                    time.sleep(0.05)
                yield pixels

    def open_item(item: Item) -> Gathered[Item, list[int]]:
        before = np.full(1, 100, np.float32) if item.number == 3 else None
        works[item.number] = Gathered(
            Stuttering(item.number, item.count, item.film),
            numbers,
            streams=item.film,
            smoothing=Smoothing(0.5, before) if item.film else None,
            cuts=lambda number: number in (() if item.number == 3 else (0, 7)),
        )
        return works[item.number]

    items = [Item(0), Item(1, 17, film=True), Item(2), Item(3, 6, film=True), Item(4)]
    run(Pipeline(open_item, Averaging(batch_size, ahead=ahead)), items)
    assert works[0].styles == works[2].styles == works[4].styles == [None]
    counted = [int(style[0]) for style in works[1].styles if style is not None]
    assert counted == [*range(7), *range(10)]
    # As from an earlier run that ended before its first frame.
    assert [int(style[0]) for style in works[3].styles if style is not None] == [*range(101, 107)]
