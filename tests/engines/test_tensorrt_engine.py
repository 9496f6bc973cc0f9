"""The flow of batches through an engine, with a GPU that is pretended by PyTorch on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ugatit_batch.errors import EngineError, MemoryLacksError, SizeError, UgatitBatchError
from ugatit_batch.frames import Batch, Translated
from ugatit_engines import tensorrt_engine
from ugatit_engines.engine_files import FoundEngine
from ugatit_engines.profiles import Profile, Span
from ugatit_engines.tensorrt_engine import TensorRTTranslator
from ugatit_engines.torch_engine import TorchTranslator

from ..fakes import colours, make_model
from .engine_support import ADA, RANGE, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels

PROFILE = Profile(Span(2, 4, 8), Span.one(32), Span.one(32))
CPU = torch.device("cpu")


class PretendedGpu:
    """What happened, in order, and what shall go wrong."""

    def __init__(self, bundle: Bundle) -> None:
        self.network = TorchTranslator(bundle, "a2b", CPU, "fp32")
        self.shapes: list[tuple[int, ...]] = []
        self.under_way = self.most_under_way = self.caches_kept = 0
        self.refuses: Callable[[int], bool] = lambda _number: False

    def session(self, found: Any, _device: torch.device) -> PretendedGpu:
        self.record = found.record
        return self

    def keep_cache(self) -> None:
        self.caches_kept += 1

    def run(self, pixels: Pixels) -> Translated:
        if self.refuses(len(self.shapes)):
            raise EngineError("tensorrt-rtx failed: it does not say why")
        self.shapes.append(pixels.shape)
        (translated,) = self.network.translate(iter([Batch(pixels)]))
        return translated


class PretendedSlot:
    def __init__(self, gpu: PretendedGpu) -> None:
        self._gpu, self._busy = gpu, False
        self._rest = np.zeros((0, 0, 0, 3), np.uint8)

    def submit(self, pixels: Pixels, batch: int, run: Callable[[Pixels], Translated]) -> None:
        assert not self._busy, "a slot was used again before its results were waited for"
        assert batch >= len(pixels)
        if self._rest.shape != (batch, *pixels.shape[1:]):
            self._rest = np.zeros((batch, *pixels.shape[1:]), np.uint8)
        self._rest[: len(pixels)] = pixels
        self._result, self._count = run(self._rest.copy()), len(pixels)
        self._busy = True
        self._gpu.under_way += 1
        self._gpu.most_under_way = max(self._gpu.most_under_way, self._gpu.under_way)

    def wait(self) -> Translated:
        assert self._busy
        self._busy = False
        self._gpu.under_way -= 1
        return Translated(self._result.pixels[: self._count], self._result.attention[: self._count])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("models") / "cat2dog")


@pytest.fixture
def gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    pretended = PretendedGpu(bundle)
    monkeypatch.setattr(tensorrt_engine, "Session", pretended.session)
    monkeypatch.setattr(tensorrt_engine, "Streams", lambda _device: pretended)
    monkeypatch.setattr(tensorrt_engine, "Slot", PretendedSlot)
    return pretended


def opened(bundle: Bundle, batch: int | None = None, profile: Profile = PROFILE) -> TensorRTTranslator:
    found = FoundEngine(bundle.path / "engines/x.plan", record(bundle, profile=profile))
    return TensorRTTranslator(found, ADA, batch)


def batches(*counts: int, side: int = 32) -> list[Batch]:
    made, seed = [], 0
    for count in counts:
        made.append(Batch(np.stack([colours(side, side, seed + i) for i in range(count)])))
        seed += count
    return made


def same(bundle: Bundle, found: list[Translated], given: list[Batch]) -> None:
    expected = list(TorchTranslator(bundle, "a2b", CPU, "fp32").translate(iter(given)))
    assert [t.pixels.shape for t in found] == [b.pixels.shape for b in given]
    for one, other in zip(found, expected, strict=True):
        # Batches of another size round otherwise.
        assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
        np.testing.assert_allclose(one.attention, other.attention, rtol=1e-3, atol=1e-3)


def test_batches_come_back_in_order_and_up_to_three_are_under_way(bundle: Bundle, gpu: PretendedGpu) -> None:
    given = batches(4, 4, 4, 4, 4, 3)
    found = list(opened(bundle).translate(iter(given)))
    same(bundle, found, given)
    assert gpu.most_under_way == 3
    assert gpu.under_way == 0
    assert gpu.caches_kept == 1


def test_the_rest_of_a_run_is_filled_up_to_a_shape_that_is_compiled(
    bundle: Bundle, gpu: PretendedGpu
) -> None:
    translator = opened(bundle)
    given = batches(4, 3, 1)
    same(bundle, list(translator.translate(iter(given))), given)
    assert [shape[0] for shape in gpu.shapes] == [4, 4, 4]


def test_a_run_of_a_few_pictures_is_not_filled_up(bundle: Bundle, gpu: PretendedGpu) -> None:
    given = batches(3, 1)
    same(bundle, list(opened(bundle).translate(iter(given))), given)
    assert [shape[0] for shape in gpu.shapes] == [3, 2], "but for the least that the engine takes"


def test_sizes_are_filled_up_each_for_itself(bundle: Bundle, gpu: PretendedGpu) -> None:
    given = [*batches(2), *batches(1, side=48), *batches(1)]
    same(bundle, list(opened(bundle, 2, RANGE).translate(iter(given))), given)
    assert [shape[:2] for shape in gpu.shapes] == [(2, 32), (1, 48), (2, 32)]


@pytest.mark.parametrize("count", [5, 8, 11, 12, 13, 30])
def test_a_batch_larger_than_was_asked_for_is_split(bundle: Bundle, gpu: PretendedGpu, count: int) -> None:
    given = batches(4, count, 4, count)
    same(bundle, list(opened(bundle).translate(iter(given))), given)
    assert {shape[0] for shape in gpu.shapes} == {4}
    assert gpu.most_under_way == 3


def test_the_batch_size_is_the_one_it_was_tuned_for_or_given(bundle: Bundle, gpu: PretendedGpu) -> None:
    assert opened(bundle).batch_size == 4
    translator = opened(bundle, 8)
    assert translator.batch_size == 8
    given = batches(8, 5)
    same(bundle, list(translator.translate(iter(given))), given)
    assert [shape[0] for shape in gpu.shapes] == [8, 8]


@pytest.mark.parametrize(("bad", "kind"), [(48, SizeError), (30, SizeError)])
def test_a_size_that_was_not_built_for_fails_after_what_came_before(
    bundle: Bundle, gpu: PretendedGpu, bad: int, kind: type[UgatitBatchError]
) -> None:
    translator = opened(bundle)
    given = [*batches(4, 4), *batches(1, side=bad), *batches(4)]
    stream = translator.translate(iter(given))
    found: list[Translated] = []
    with pytest.raises(kind, match="32×32 pixels only"):
        found.extend(stream)
    same(bundle, found, given[:2])
    rest = list(translator.translate(iter(given[3:])))
    same(bundle, rest, given[3:])
    assert gpu.under_way == 0


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_failure_of_the_library_comes_in_its_place_and_calling_again_goes_on(
    bundle: Bundle, gpu: PretendedGpu, number: int
) -> None:
    translator = opened(bundle)
    given = batches(4, 4, 4, 4, 4, 4)
    gpu.refuses = lambda at: at == number
    found: list[Translated] = []
    with pytest.raises(EngineError):
        found.extend(translator.translate(iter(given)))
    same(bundle, found, given[:number])
    gpu.refuses = lambda _at: False
    same(bundle, list(translator.translate(iter(given[number:]))), given[number:])


def test_leaving_early_waits_for_what_is_under_way(bundle: Bundle, gpu: PretendedGpu) -> None:
    translator = opened(bundle)
    stream = translator.translate(iter(batches(4, 4, 4, 4, 4)))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert gpu.under_way == 0
    assert gpu.caches_kept == 1
    given = batches(4)
    same(bundle, list(translator.translate(iter(given))), given)


def test_an_endless_stream_is_taken_a_few_batches_ahead(bundle: Bundle, gpu: PretendedGpu) -> None:
    taken = 0

    def endless() -> Iterator[Batch]:
        nonlocal taken
        (one,) = batches(4)
        while True:
            taken += 1
            yield one

    stream = opened(bundle).translate(endless())
    for _ in range(5):
        next(stream)
    assert taken <= 5 + 3


def test_it_says_what_it_is(tmp_path: Path, bundle: Bundle, gpu: PretendedGpu) -> None:
    found = FoundEngine(
        tmp_path / "x.plan", record(bundle, flavor="tensorrt", version="10.14.1", precision="fp32")
    )
    translator = TensorRTTranslator(found, ADA)
    assert translator.describe() == "GeForce RTX 4090, fp32, TensorRT 10.14.1"
    assert translator.precision == "fp32"


def test_no_memory_names_the_size() -> None:
    from ugatit_engines.tensorrt_runtime import too_large

    error = too_large(640, 480, torch.device("cuda:1"))
    assert isinstance(error, MemoryLacksError)
    assert "640×480" in error.message
    assert "cuda:1" in error.message
