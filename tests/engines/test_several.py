"""Several translators as one: order, errors, threads; with fakes, and on two GPUs where there are."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.errors import MemoryLacksError, UsageError
from ugatit_batch.frames import Averaging, Batch, SizeRule
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import run
from ugatit_batch.planning import Naming, plan
from ugatit_batch.settings import Settings
from ugatit_engines.open_engine import open_engine
from ugatit_engines.several import SeveralTranslator, common_rule
from ugatit_engines.specimens import write_random_bundle

from ..fakes import InvertingTranslator, make_model, never, paint, pixels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels, Translated
    from ugatit_engines.open_engine import Engine


class Member(InvertingTranslator):
    """A fake engine that takes its time.

    Args:
        name: of its device.
        pauses: gives the seconds that a batch takes.
    """

    def __init__(self, name: str = "GPU", pauses: Callable[[], float] = float, **options: Any) -> None:
        super().__init__(before=self._note, **options)
        self.name, self.pauses = name, pauses
        self.begun: list[int] = []

    def describe(self) -> str:
        return f"{self.name}, fp32, PyTorch"

    def _note(self, pixels: Pixels) -> None:
        self.begun.append(number_of(pixels))
        time.sleep(self.pauses())


def together(*members: Member) -> SeveralTranslator:
    return SeveralTranslator(cast("list[Engine]", members))


def number_of(pixels: Pixels) -> int:
    return int(pixels[0, 0, 0, 0]) + 256 * int(pixels[0, 0, 0, 1])


def batches(count: int, first: int = 0) -> list[Batch]:
    """Batches of one picture that holds its own number."""
    return [
        Batch(np.full((1, 8, 8, 3), (number % 256, number // 256, 0), np.uint8))
        for number in range(first, first + count)
    ]


def numbers(results: list[Translated]) -> list[int]:
    return [number_of(255 - result.pixels) for result in results]


@pytest.fixture(autouse=True)
def all_threads_end() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def pauses(seed: int, longest: float = 0.002) -> Callable[[], float]:
    drawn = random.Random(seed)
    return lambda: drawn.random() * longest


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("members", [2, 3])
def test_results_come_in_order_whoever_is_faster(members: int, ahead: int, count: int) -> None:
    made = [Member(pauses=pauses(seed, 0.004 / (seed + 1)), ahead=ahead) for seed in range(members)]
    several = together(*made)
    assert numbers(list(several.translate(iter(batches(count))))) == list(range(count))
    assert sorted(number for member in made for number in member.begun) == list(range(count))
    if count >= 40:
        assert all(len(member.begun) > 2 for member in made)


def test_members_that_look_ahead_unlike_far_get_along() -> None:
    several = together(Member(ahead=5), Member(ahead=0), Member(ahead=2))
    assert several.ahead == 5 + 0 + 2 + 2
    assert numbers(list(several.translate(iter(batches(60))))) == list(range(60))


def test_a_member_that_takes_more_than_it_says_is_given_it() -> None:
    class Greedy(Member):
        def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
            self.ahead = 6
            return super().translate(batches)

    greedy = Greedy()
    assert greedy.ahead == 0
    several = together(greedy, Member())
    assert numbers(list(several.translate(iter(batches(40))))) == list(range(40))


def test_all_members_work_at_once() -> None:
    meeting = threading.Barrier(3, timeout=20)

    class Meeting(Member):
        def _note(self, pixels: Pixels) -> None:
            if not self.shapes:
                meeting.wait()

    several = together(Meeting(), Meeting(), Meeting())
    assert numbers(list(several.translate(iter(batches(9))))) == list(range(9))


class Source:
    """Batches that are counted as they are taken; taking them in two threads at once would be an error."""

    def __init__(self, count: int) -> None:
        self.left = deque(batches(count))
        self.taken = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.threads.add(threading.get_ident())
        if not self.left:
            raise StopIteration
        self.taken += 1
        return self.left.popleft()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_only_so_much_is_taken_ahead(ahead: int) -> None:
    # The first member stands still, the others could do everything.
    held = threading.Event()

    class Slow(Member):
        def _note(self, pixels: Pixels) -> None:
            held.wait(20)

    source = Source(100)
    several = together(Slow(ahead=ahead), Member(ahead=ahead), Member(ahead=ahead))
    stream = several.translate(source)
    worker = threading.Timer(0.2, held.set)
    worker.start()
    first = next(stream)
    assert numbers([first]) == [0]
    assert several.ahead < source.taken <= 3 * (ahead + 2) + 1
    assert numbers(list(stream)) == list(range(1, 100))
    assert source.threads == {threading.get_ident()}
    worker.join()


def test_the_first_result_does_not_wait_for_a_round() -> None:
    """With a source that gives the next batch only once the result of the last one was seen."""
    several = together(Member(), Member(), Member())
    seen: list[int] = []

    def one_at_a_time() -> Iterator[Batch]:
        yield batches(1, len(seen))[0]

    for _ in range(5):
        seen += numbers(list(several.translate(one_at_a_time())))
    assert seen == list(range(5))


def test_what_is_ready_is_given_while_the_source_goes_on() -> None:
    noted = threading.Semaphore(0)

    class Telling(Member):
        def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
            for translated in super().translate(batches):
                yield translated
                noted.release()

    given: list[Translated] = []
    behind: list[int] = []

    def slow() -> Iterator[Batch]:
        for batch in batches(8):
            behind.append(number_of(batch.pixels) - len(given))
            yield batch
            assert noted.acquire(timeout=20)

    for translated in together(Telling(), Telling()).translate(slow()):
        given.append(translated)
    assert numbers(given) == list(range(8))
    assert max(behind) <= 1


@pytest.mark.parametrize("stop_after", [0, 1, 7])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_leaving_early_ends_the_threads(ahead: int, stop_after: int) -> None:
    several = together(Member(ahead=ahead), Member(ahead=ahead))
    source = Source(100)
    with contextlib.closing(several.translate(source)) as stream:  # type: ignore[type-var]
        for expected in range(stop_after):
            assert numbers([next(stream)]) == [expected]
    assert threading.active_count() == 1
    rest = list(several.translate(source))
    assert numbers(rest)[-1] == 99


def test_a_source_that_fails_ends_the_threads() -> None:
    def broken() -> Iterator[Batch]:
        yield from batches(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(together(Member(ahead=1), Member(ahead=1)).translate(broken()))


def drive(several: SeveralTranslator, count: int) -> tuple[list[int], list[int]]:
    """As the protocol says: after an error the stream goes on behind the batch that was due."""
    left = deque(batches(count))
    good: list[int] = []
    bad: list[int] = []
    while left:
        pending: deque[Batch] = deque()

        def taken(pending: deque[Batch] = pending) -> Iterator[Batch]:
            while left:
                pending.append(left.popleft())
                yield pending[-1]

        try:
            for translated in several.translate(taken()):
                expected = number_of(pending.popleft().pixels)
                assert numbers([translated]) == [expected]
                good.append(expected)
        except MemoryLacksError:
            bad.append(number_of(pending.popleft().pixels))
            left.extendleft(reversed(pending))
        else:
            assert not pending
    return good, bad


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("how", ["refuses", "breaks"])
def test_a_batch_that_fails_takes_no_other_with_it(how: str, ahead: int) -> None:
    def fails(pixels: Pixels) -> bool:
        return number_of(pixels) % 7 in (3, 4)

    for seed in range(10):
        options: dict[str, Any] = {"ahead": ahead, how: fails}
        members = [Member(pauses=pauses(seed + n, 0.001), **options) for n in range(3)]
        good, bad = drive(together(*members), 30)
        assert bad == [n for n in range(30) if n % 7 in (3, 4)]
        assert good == [n for n in range(30) if n % 7 not in (3, 4)]


def test_a_member_that_always_fails_costs_what_it_was_given() -> None:
    several = together(Member(), Member(breaks=lambda _: True), Member(ahead=1))
    good, bad = drive(several, 40)
    assert sorted(good + bad) == list(range(40))
    assert good == sorted(good)
    assert bad
    assert len(good) >= 10


class Faulty(Member):
    """Breaks the protocol, or a library below it breaks."""

    def __init__(self, fault: BaseException | None, after: int) -> None:
        super().__init__()
        self.fault, self.after = fault, after

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        for count, translated in enumerate(super().translate(batches)):
            if count == self.after:
                break
            yield translated
        if self.fault is not None:
            raise self.fault


@pytest.mark.parametrize("after", [0, 2])
def test_what_is_no_error_of_a_batch_gets_through(after: int) -> None:
    fault = RuntimeError("CUDA error: an illegal memory access")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(together(Member(), Faulty(fault, after)).translate(iter(batches(30))))
    with pytest.raises(RuntimeError, match="fewer batches than it took"):
        list(together(Member(), Faulty(None, after)).translate(iter(batches(30))))


def test_an_error_that_is_of_no_batch_comes_last() -> None:
    """Where every batch came back, the error is not taken for that of another batch."""
    several = together(Member(), Faulty(MemoryLacksError("at the end"), 1000))
    stream = several.translate(iter(batches(10)))
    assert numbers([next(stream) for _ in range(10)]) == list(range(10))
    with pytest.raises(MemoryLacksError, match="at the end"):
        next(stream)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_over_pictures_with_members_that_fail_now_and_then(tmp_path: Path, ahead: int) -> None:
    for number in range(40):
        paint(tmp_path / "p" / f"{number:02}.png", 24, 16 + 4 * (number % 3), number)
    settings = Settings(Sizing(square=False, side=None), Encoding())
    for attempt in range(4):
        asked = itertools.count(attempt)

        def fails(_: Pixels, asked: Iterator[int] = asked) -> bool:
            return next(asked) % 6 == 5

        members = [
            Member(pauses=pauses(n), batch_size=3, ahead=ahead, breaks=fails, refuses=fails if n else never)
            for n in range(3)
        ]
        out = tmp_path / f"out{attempt}"
        planned = plan([tmp_path / "p"], Naming(out, "ink", Encoding()))
        done = 0
        for result in run(planned, together(*members), "model", settings):
            assert (result.status == "failed") == isinstance(result.error, MemoryLacksError)
            if result.status == "done":
                done += 1
                assert np.array_equal(pixels_of(result.target), 255 - pixels_of(result.source))
        assert len(list(out.glob("*.png"))) == done
        assert 0 < done < 40


def test_it_is_what_all_members_are() -> None:
    one, other = SizeRule(4, 8, 512, max_pixels=10**6), SizeRule(8, 16, 256)
    assert common_rule([one, other]) == SizeRule(8, 16, 256, None, 10**6)
    assert common_rule([SizeRule(), SizeRule()]) == SizeRule()
    fixed = SizeRule(fixed=(32, 64))
    assert common_rule([fixed, fixed, SizeRule()]).fixed == (32, 64)
    with pytest.raises(UsageError, match="different picture sizes: 64×32: this model takes 64×64"):
        common_rule([fixed, SizeRule(fixed=(64, 64))])
    with pytest.raises(UsageError, match="sides must divide by 48"):
        common_rule([fixed, SizeRule(48)])
    with pytest.raises(UsageError, match="up to 32 pixels, another's from 64"):
        common_rule([SizeRule(maximum=32), SizeRule(minimum=64)])


def test_people_are_told_the_devices() -> None:
    assert together(Member("H200"), Member("H200")).describe() == "2 × H200, fp32, PyTorch"
    unlike = together(Member("H200"), Member("A2", batch_size=4), Member("H200", batch_size=2))
    assert unlike.describe() == "2 × H200, fp32, PyTorch + A2, fp32, PyTorch"
    assert (unlike.batch_size, unlike.precision) == (1, "fp32")


def test_a_style_is_not_averaged_across_devices(tmp_path: Path) -> None:
    batch = Batch(batches(1)[0].pixels, Averaging(0.5, np.zeros(1, bool)))
    with pytest.raises(UsageError, match="--smooth needs one device"):
        list(together(Member(), Member()).translate(iter([batch])))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_what_one_gives(tmp_path: Path) -> None:
    bundle: Bundle = write_random_bundle(tmp_path / "m", GeneratorConfig(16, light=True, image_size=64))
    rng = np.random.default_rng(0)
    film = [Batch(rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)) for _ in range(12)]
    expected = list(open_engine(bundle, "a2b", "0", "fp32").translate(iter(film)))
    found = list(open_engine(bundle, "a2b", "0,1", "fp32").translate(iter(film)))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
        assert np.allclose(one.attention, other.attention, rtol=1e-3, atol=1e-4)


def test_several_need_gpus(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="numbers of GPUs"):
        open_engine(make_model(tmp_path / "ink"), "a2b", "cpu,cpu")
