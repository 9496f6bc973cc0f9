"""Sessions and slots with memory of the CPU in place of a GPU's.

The library is a stand-in that does what a context does: it is given shapes and addresses, and fills what lies
at those addresses. Streams do their work at once, which hides mistakes in their order and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

from ugatit_batch.errors import (
    EngineDamagedError,
    EngineError,
    EngineLibraryError,
    MemoryLacksError,
    UgatitBatchError,
)
from ugatit_batch.frames import Batch
from ugatit_engines import tensorrt_engine, tensorrt_runtime, tensorrt_slots
from ugatit_engines.tensorrt_engine import TensorRTTranslator
from ugatit_engines.tensorrt_runtime import Session
from ugatit_engines.torch_engine import TorchTranslator

from ..fakes import colours, make_model
from .engine_support import ADA, PLAN, RANGE, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_engines.engine_files import FoundEngine

CPU = torch.device("cpu")


class Stream:
    cuda_stream = 1234

    def __init__(self, _device: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        assert event.recorded, "somebody waits for what nobody will say"


class Event:
    fails = False

    def __init__(self, blocking: bool = False) -> None:
        self.recorded = False

    def record(self, _stream: Stream) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded
        if Event.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Torch:
    """PyTorch as the runtime sees it, with a GPU that is the CPU."""

    cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        stream=lambda _stream: contextlib.nullcontext(),
        device=lambda _device: contextlib.nullcontext(),
        current_stream=Stream,
        synchronize=lambda _device: None,
        empty_cache=lambda: None,
    )
    full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_: Any) -> torch.device:
        return CPU

    def empty(self, *shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory and self.full:
            raise RuntimeError("CUDA error: out of memory")
        return torch.empty(*shape, **options).fill_(99)

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.empty_like(tensor).fill_(99)

    def zeros(self, *shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return torch.zeros(*shape, **options)


class Library:
    """TensorRT for RTX, as far as running goes."""

    __version__ = "1.7.1"

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal"

    class CudaGraphStrategy:
        WHOLE_GRAPH_CAPTURE = "whole"

    class EngineValidity:
        INVALID, VALID = 2, 0

    class EngineInvalidityDiagnostics:
        __members__: ClassVar = {"VERSION_MISMATCH": 1, "MALFORMED_ENGINE": 32}

    def __init__(self, bundle: Bundle) -> None:
        self.network = TorchTranslator(bundle, "a2b", CPU, "fp32")
        self.validity: tuple[int, int] = (0, 0)
        self.refuses_plan = self.refuses_context = False
        self.most_side, self.words = 64, ""
        self.kernels = b""
        self.cache_given = b""
        self.alive: list[tuple[str, weakref.ref[Any]]] = []
        self.gone: list[str] = []

    def made(self, name: str, thing: Any) -> Any:
        weakref.finalize(thing, self.gone.append, name)
        return thing

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return self.made("runtime", Runtime(self, logger))


class Runtime:
    engine_header_size = 4

    def __init__(self, library: Library, logger: Any) -> None:
        self.library, self.logger = library, logger

    def get_engine_validity(self, header: bytes) -> tuple[int, int]:
        assert header == PLAN[:4]
        return self.library.validity

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert plan == PLAN
        if self.library.refuses_plan:
            self.logger.log("error", "unsupported driver")
            return None
        return self.library.made("engine", Engine(self.library, self.logger))


class Engine:
    def __init__(self, library: Library, logger: Any) -> None:
        self.library, self.logger = library, logger

    def create_runtime_config(self) -> Any:
        return self.library.made("config", Config(self.library))

    def create_execution_context(self, config: Any) -> Any:
        assert config.cuda_graph_strategy == "whole"
        assert config.cache is not None
        if self.library.refuses_context:
            self.logger.log("error", "out of memory")
            return None
        return self.library.made("context", Context(self.library, self.logger))


class Config:
    cuda_graph_strategy = "disabled"
    cache: Any = None

    def __init__(self, library: Library) -> None:
        self.library = library

    def create_runtime_cache(self) -> Any:
        return self.library.made("cache", Cache(self.library))

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


class Cache:
    def __init__(self, library: Library) -> None:
        self.library = library

    def deserialize(self, content: bytes) -> bool:
        self.library.cache_given = content
        return True

    def serialize(self) -> bytes | None:
        return self.library.kernels or None


class Context:
    def __init__(self, library: Library, logger: Any) -> None:
        self.library, self.logger = library, logger
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "pixels"
        if max(shape[1:3]) > self.library.most_side:
            self.logger.log("error", "dimensions out of the profile")
            return False
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == Stream.cuda_stream
        if self.library.words:
            self.logger.log("error", self.library.words)
            return False
        count, height, width, _ = self.shape
        (out,) = self.library.network.translate(
            iter([Batch(self._at("pixels", self.shape, np.uint8).copy())])
        )
        self._at("translated", self.shape, np.uint8)[:] = out.pixels
        self._at("attention", (count, height // 4, width // 4), np.float32)[:] = out.attention
        self.library.kernels += b"%dx%d;" % (height, width)
        return True

    def _at(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("models") / "cat2dog")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Torch]:
    fake = Torch()
    for module in (tensorrt_engine, tensorrt_runtime, tensorrt_slots):
        monkeypatch.setattr(module, "torch", fake)
    yield fake
    Event.fails = False


@pytest.fixture
def library(bundle: Bundle, pretended: Torch, monkeypatch: pytest.MonkeyPatch) -> Library:
    fake = Library(bundle)
    monkeypatch.setattr(tensorrt_runtime, "load_library", lambda _flavor: fake)
    return fake


@pytest.fixture
def found(tmp_path: Path, bundle: Bundle) -> FoundEngine:
    return place(tmp_path / "engines", bundle, profile=RANGE)


def batches(*shapes: tuple[int, int, int]) -> list[Batch]:
    return [
        Batch(np.stack([colours(width, height, 10 * i + j) for j in range(count)]))
        for i, (count, height, width) in enumerate(shapes)
    ]


def same(bundle: Bundle, translator: TensorRTTranslator, given: list[Batch]) -> None:
    found = list(translator.translate(iter(given)))
    expected = list(TorchTranslator(bundle, "a2b", CPU, "fp32").translate(iter(given)))
    assert len(found) == len(given)
    for one, other in zip(found, expected, strict=True):
        assert one.pixels.shape == other.pixels.shape
        assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
        np.testing.assert_allclose(one.attention, other.attention, rtol=1e-3, atol=1e-3)


def test_pictures_go_through_and_come_back_in_their_own_memory(
    bundle: Bundle, library: Library, found: FoundEngine
) -> None:
    translator = TensorRTTranslator(found, ADA)
    given = batches((2, 32, 32), (2, 32, 32), (1, 32, 32), (2, 48, 64), (2, 32, 32), (5, 16, 20))
    same(bundle, translator, given)
    results = list(translator.translate(iter(given[:2])))
    kept = results[0].pixels.copy()
    list(translator.translate(iter(given)))
    np.testing.assert_array_equal(results[0].pixels, kept)


def test_kernels_that_were_compiled_are_there_the_next_time(
    bundle: Bundle, library: Library, found: FoundEngine
) -> None:
    translator = TensorRTTranslator(found, ADA)
    assert library.cache_given == b""
    same(bundle, translator, batches((2, 32, 32)))
    assert found.cache.read_bytes() == b"32x32;"
    library.kernels = b"as if there were news"
    same(bundle, translator, batches((2, 32, 32)))
    assert found.cache.read_bytes() == b"32x32;", "no shape is new, nothing is looked at"
    same(bundle, translator, batches((2, 48, 48)))
    assert b"48x48" in found.cache.read_bytes()
    TensorRTTranslator(found, ADA)
    assert library.cache_given == found.cache.read_bytes()


def test_a_cache_that_cannot_be_kept_costs_nothing_but_time(
    bundle: Bundle, library: Library, found: FoundEngine
) -> None:
    translator = TensorRTTranslator(found, ADA)
    found.cache.mkdir()
    same(bundle, translator, batches((2, 32, 32)))
    assert found.cache.is_dir()


def test_a_shape_that_is_refused_does_not_spoil_those_before(
    bundle: Bundle, library: Library, found: FoundEngine
) -> None:
    library.most_side = 32
    translator = TensorRTTranslator(found, ADA)
    with pytest.raises(EngineError, match=r"2 pictures of 48×48: dimensions out of the profile") as refused:
        list(translator.translate(iter(batches((2, 32, 32), (2, 48, 48)))))
    assert refused.value.hint
    same(bundle, translator, batches((2, 32, 32), (2, 32, 32), (2, 32, 32), (2, 32, 32)))


def test_the_library_failing_is_told_in_its_words(
    bundle: Bundle, library: Library, found: FoundEngine
) -> None:
    translator = TensorRTTranslator(found, ADA)
    library.words = "myelin: illegal instruction"
    with pytest.raises(EngineError, match="tensorrt-rtx failed: myelin: illegal instruction"):
        list(translator.translate(iter(batches((2, 32, 32)))))
    library.words = "Out of memory while compiling"
    with pytest.raises(MemoryLacksError, match="32×32"):
        list(translator.translate(iter(batches((2, 32, 32)))))
    library.words = ""
    same(bundle, translator, batches((2, 32, 32)))


def test_the_gpu_failing_is_an_error_of_ours_and_loses_no_slot(
    bundle: Bundle, library: Library, found: FoundEngine
) -> None:
    translator = TensorRTTranslator(found, ADA)
    Event.fails = True
    for _ in range(5):
        with pytest.raises(EngineError, match="illegal memory access"):
            list(translator.translate(iter(batches((2, 32, 32), (2, 32, 32), (2, 32, 32)))))
    Event.fails = False
    same(bundle, translator, batches((2, 32, 32), (2, 32, 32), (2, 32, 32), (2, 32, 32)))


def test_no_memory_names_the_size(
    bundle: Bundle, library: Library, found: FoundEngine, pretended: Torch
) -> None:
    translator = TensorRTTranslator(found, ADA)
    pretended.full = True
    for shape in ((2, 32, 32), (2, 48, 32)):
        with pytest.raises(MemoryLacksError, match=f"{shape[2]}×{shape[1]}"):
            list(translator.translate(iter(batches(shape))))
    pretended.full = False
    same(bundle, translator, batches((2, 32, 32), (2, 48, 32)))


def _spoil(name: str, value: Any) -> Callable[[Library], None]:
    return lambda library: setattr(library, name, value)


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (_spoil("validity", (2, 1)), UgatitBatchError, "VERSION_MISMATCH"),
        (_spoil("validity", (2, 32)), EngineDamagedError, "MALFORMED_ENGINE"),
        (_spoil("refuses_plan", True), EngineError, "refuses the engine: unsupported driver"),
        (_spoil("refuses_context", True), MemoryLacksError, "cannot run the engine: out of memory"),
    ],
)
def test_what_cannot_be_opened_is_told(
    library: Library,
    found: FoundEngine,
    spoil: Callable[[Library], None],
    kind: type[UgatitBatchError],
    says: str,
) -> None:
    spoil(library)
    with pytest.raises(kind, match=says):
        Session(found, CPU)


def test_a_runtime_that_does_not_start_is_told(
    library: Library, found: FoundEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def null(_logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(library, "Runtime", null)
    with pytest.raises(EngineLibraryError, match="tensorrt-rtx does not start"):
        Session(found, CPU)


def test_the_youngest_goes_first(library: Library, found: FoundEngine) -> None:
    session = Session(found, CPU)
    session.close()
    gc.collect()
    assert library.gone[0] == "context"
    assert library.gone.index("context") < library.gone.index("cache") < library.gone.index("engine")
    assert library.gone[-1] == "runtime"
    session.close()


def test_what_is_still_open_is_closed_before_python_is_gone(library: Library, found: FoundEngine) -> None:
    session = Session(found, CPU)
    tensorrt_runtime._close_all()
    assert library.gone[-1] == "runtime"
    assert session.record == found.record
