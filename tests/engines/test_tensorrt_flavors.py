"""What only one flavor of TensorRT has, and that the calls that are made exist.

`tensorrt` itself needs a GPU to build; here a small stand-in for its module keeps what it was told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch.errors import (
    DeviceError,
    EngineBuildError,
    EngineDamagedError,
    EngineLibraryError,
    EngineUnfitError,
    MemoryLacksError,
    UgatitBatchError,
    UsageError,
)
from ugatit_engines import build_engine as building
from ugatit_engines import tensorrt_build, tensorrt_runtime
from ugatit_engines.build_engine import build_engine, choose_targets
from ugatit_engines.engine_files import list_engines
from ugatit_engines.onnx_export import Graph
from ugatit_engines.tensorrt_build import build_plan

from ..fakes import make_model
from .engine_support import ADA, HOPPER, LINUX, SQUARE, TURING_CARD

if TYPE_CHECKING:
    from types import ModuleType

    from ugatit_engines.machine import Gpu
    from ugatit_engines.tensorrt_library import Capability, Flavor


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


class Tensor:
    def __init__(self, name: str, dtype: str, *shape: int) -> None:
        self.name, self.dtype, self.shape = name, Named(dtype), shape


class StandIn:
    """The part of `tensorrt` that building uses. What it measures is remembered as one byte a build."""

    __version__ = "10.14.1"

    def __init__(self) -> None:
        self.used: list[tuple[int, str]] = []

    def use(self, device: int) -> contextlib.AbstractContextManager[None]:
        self.used.append((device, threading.current_thread().name))
        return contextlib.nullcontext()

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal"

    class IProgressMonitor:
        pass

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class Network:
        num_inputs, num_outputs, num_layers = 1, 2, 7

        def get_input(self, _index: int) -> Tensor:
            return Tensor("pixels", "UINT8", -1, 32, 32, 3)

        def get_output(self, index: int) -> Tensor:
            return [Tensor("translated", "UINT8", -1, 32, 32, 3), Tensor("attention", "FLOAT", -1, 8, 8)][
                index
            ]

    class OnnxParser:
        def __init__(self, _network: Any, _logger: Any) -> None:
            pass

        def parse_from_file(self, _path: str) -> bool:
            return True

    class Cache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return self.content

    class Profile:
        def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
            assert name == "pixels"
            assert [shape[0] for shape in shapes] == [1, 8, 32]

    class BuilderFlag:
        TF32 = "TF32"

    class Config:
        progress_monitor: Any = None
        flags = frozenset({"TF32"})
        cache: Any = None

        def add_optimization_profile(self, profile: Any) -> None:
            assert isinstance(profile, StandIn.Profile)

        def clear_flag(self, flag: str) -> None:
            self.flags -= {flag}

        def create_timing_cache(self, content: bytes) -> StandIn.Cache:
            return StandIn.Cache(content)

        def set_timing_cache(self, cache: StandIn.Cache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if cache.content == b"of another GPU":
                return False
            self.cache = cache
            return True

    class Runtime:
        def __init__(self, logger: Any) -> None:
            logger.log("error", "CUDA driver version is insufficient")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    class Builder:
        plan: bytes | None = b"a plan"

        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> StandIn.Network:
            assert flags == 2
            return StandIn.Network()

        def create_builder_config(self) -> StandIn.Config:
            return StandIn.Config()

        def create_optimization_profile(self) -> StandIn.Profile:
            return StandIn.Profile()

        def build_serialized_network(self, _network: Any, config: Any) -> bytes | None:
            assert "TF32" not in config.flags, "fp32 is not ten bits of a product"
            config.cache.content += b"."
            if self.plan is None:
                for message in ("node_conv2d_3: no implementation", "no implementation", "node_conv2d_3: no"):
                    self.logger.log("error", message)
                self.logger.log("info", "chatter")
            return self.plan


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    # There is no GPU to be made the current one of a thread.
    monkeypatch.setattr("torch.cuda.device", stand_in.use)
    for module in (tensorrt_build, building):
        monkeypatch.setattr(module, "load_library", lambda _flavor: stand_in)
    return stand_in


def test_tensorrt_keeps_what_it_measured_for_the_next_build(
    tmp_path: Path, library: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_model(tmp_path / "ink")
    graph = Graph(tmp_path / "x.onnx", (), 1, 1, 21)
    monkeypatch.setattr(building, "export_onnx", lambda *_arguments, **_options: graph)
    timings = tmp_path / "engines/timing-10.14.1-8.9.cache"

    def build() -> bytes:
        build_engine(
            bundle,
            "a2b",
            tmp_path / "engines",
            flavor="tensorrt",
            precision="fp32",
            profile=SQUARE,
            targets=((8, 9),),
            machine=LINUX,
            gpu=dataclasses.replace(ADA, index=1),
            progress=lambda *_: None,
        )
        return timings.read_bytes()

    assert build() == b"."
    assert library.used == [(1, "MainThread"), (1, "build-engine")], "a GPU is current in one thread alone"
    assert build() == b".."
    timings.write_bytes(b"of another GPU")
    assert build() == b"."
    (found,) = list_engines(tmp_path / "engines")
    assert found.plan.name == "a2b-tensorrt-fp32-32.plan"
    assert found.record is not None
    assert (found.record.version, found.record.capabilities) == ("10.14.1", ("8.9",))
    assert found.record.outputs[1].shape == (-1, 8, 8)


def test_a_build_that_fails_says_what_the_library_said(
    tmp_path: Path, library: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn.Builder, "plan", None)
    with pytest.raises(EngineBuildError) as refused:
        build_plan("tensorrt", tmp_path / "x.onnx", SQUARE)
    assert refused.value.message == (
        "x.onnx: tensorrt could not build the engine: "
        "node_conv2d_3: no implementation; no implementation; node_conv2d_3: no"
    )


@pytest.mark.parametrize(
    ("flavor", "gpu", "wanted", "expected"),
    [
        ("tensorrt", HOPPER, None, [(9, 0)]),
        ("tensorrt", ADA, (8, 9), [(8, 9)]),
        ("tensorrt-rtx", None, None, [(8, 0), (8, 6), (8, 9), (12, 0), (12, 1)]),
        ("tensorrt-rtx", ADA, None, [(8, 0), (8, 6), (8, 9), (12, 0), (12, 1)]),
        ("tensorrt-rtx", TURING_CARD, None, [(7, 5)]),
        ("tensorrt-rtx", TURING_CARD, (8, 0), [(8, 0), (8, 6), (8, 9), (12, 0), (12, 1)]),
        ("tensorrt-rtx", None, (7, 5), [(7, 5)]),
    ],
)
def test_for_which_gpus_an_engine_is_built(
    flavor: Flavor, gpu: Gpu | None, wanted: Capability | None, expected: list[Capability]
) -> None:
    assert list(choose_targets(flavor, gpu, wanted)) == expected


def test_tensorrt_builds_on_its_gpu_alone() -> None:
    with pytest.raises(DeviceError, match="PyTorch finds none"):
        choose_targets("tensorrt", None)
    with pytest.raises(UsageError, match=r"builds for the GPU at hand, 9\.0"):
        choose_targets("tensorrt", HOPPER, (8, 0))


OBJECTS = {
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "self._cache": "IRuntimeCache",
    "self._config": "IRuntimeConfig",
}


@pytest.mark.parametrize(("variable", "kind"), OBJECTS.items())
def test_the_calls_that_running_makes_exist(variable: str, kind: str) -> None:
    """Running needs a GPU; that no call is misspelt can be seen without one."""
    trt: ModuleType = pytest.importorskip("tensorrt_rtx")
    source = Path(tensorrt_runtime.__file__).read_text("utf-8")
    # Only where it is an object of the library: an attribute called, set or read.
    used = set(re.findall(rf"(?<![\w.]){re.escape(variable)}\.(\w+)", source))
    assert used, f"nothing is asked of {variable}"
    assert [name for name in sorted(used) if not hasattr(getattr(trt, kind), name)] == []
    constants = set(re.findall(r"\btrt\.(\w+)(?:\.(\w+))?", source))
    for name, member in constants - {("CudaGraphStrategy", "")}:
        assert hasattr(trt, name), name
        assert not member or hasattr(getattr(trt, name), member), member


def test_a_library_that_does_not_start_says_why(library: StandIn) -> None:
    from ugatit_engines.tensorrt_library import start, the_logger

    logger = the_logger(library)
    assert the_logger(library) is logger, "the library keeps the first one it is given"
    logger.log("error", "of something earlier")
    with pytest.raises(EngineLibraryError, match="does not start: CUDA driver version is insufficient"):
        start(library.Runtime, "tensorrt", logger)


@pytest.mark.parametrize(
    ("reasons", "kind"),
    [
        (["MALFORMED_ENGINE"], EngineDamagedError),
        (["VERSION_MISMATCH"], EngineUnfitError),
        (["UNSUPPORTED_CC"], EngineUnfitError),
        (["INSUFFICIENT_GPU_MEMORY"], MemoryLacksError),
        (["OLD_CUDA_DRIVER"], EngineLibraryError),
        (["OLD_CUDA_RUNTIME", "CUDA_ERROR"], EngineLibraryError),
        ([], EngineUnfitError),
    ],
)
def test_the_diagnostics_of_tensorrt_for_rtx_are_told_apart(
    reasons: list[str], kind: type[UgatitBatchError]
) -> None:
    trt: ModuleType = pytest.importorskip("tensorrt_rtx")
    assert set(reasons) <= set(trt.EngineInvalidityDiagnostics.__members__)
    error = tensorrt_runtime.explain_refusal("x.plan: tensorrt-rtx", reasons)
    assert type(error) is kind
    assert ", ".join(reasons) in error.message
    assert error.hint
