from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.errors import (
    DeviceError,
    EngineDamagedError,
    EngineError,
    EngineLibraryError,
    EngineMissingError,
    EngineUnfitError,
    UgatitBatchError,
    UsageError,
)
from ugatit_batch.images.geometry import Sizing
from ugatit_engines import devices, tensorrt_engine, tensorrt_runtime
from ugatit_engines import machine as machines
from ugatit_engines import open_engine as opening
from ugatit_engines.open_engine import open_engine
from ugatit_engines.several import SeveralTranslator
from ugatit_engines.tensorrt_engine import TensorRTTranslator
from ugatit_engines.torch_engine import TorchTranslator

from ..fakes import make_model
from .engine_support import ADA, BOTH, HOPPER, LINUX, RANGE, TURING_CARD, place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_engines.machine import Gpu, Machine

CUDA = torch.device("cuda", 0)
SQUARE_32 = Sizing(square=True, side=32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_model(tmp_path_factory.mktemp("models") / "cat2dog")


class Opened:
    """What a session of TensorRT would be: here it only reads its plan."""

    def __init__(self, found: Any, device: torch.device) -> None:
        found.read()
        self.record, self.device = found.record, device


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Pretend to be on a machine, with PyTorch still on the CPU."""

    def pretend(machine: Machine) -> None:
        monkeypatch.setattr(opening, "this_machine", lambda: machine)

        def choose_device(name: str) -> torch.device:
            return CUDA if machine.gpus and name in ("auto", "cuda") else devices.choose_device(name)

        monkeypatch.setattr(opening, "choose_device", choose_device)
        monkeypatch.setattr(machines, "choose_device", choose_device)
        monkeypatch.setattr(tensorrt_engine, "Session", Opened)
        monkeypatch.setattr(tensorrt_engine, "Streams", lambda _device: None)
        monkeypatch.setattr(tensorrt_engine, "Slot", lambda _streams: None)

        def on_cpu(
            bundle: Bundle, direction: Any, device: torch.device, precision: Any, batch: int | None
        ) -> TorchTranslator:
            assert device == (CUDA if machine.gpus else torch.device("cpu"))
            return TorchTranslator(bundle, direction, torch.device("cpu"), precision, batch)

        monkeypatch.setattr(opening, "TorchTranslator", on_cpu)

    return pretend


def test_auto_takes_an_engine_that_fits(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]
) -> None:
    on(LINUX)
    place(tmp_path, bundle, precision="fp32")
    place(tmp_path, bundle, profile=RANGE)
    place(tmp_path, bundle)
    said: list[str] = []
    opened = open_engine(bundle, "a2b", engines=tmp_path, sizing=SQUARE_32, say=said.append)
    assert isinstance(opened, TensorRTTranslator)
    assert (opened.precision, opened.batch_size, opened.size_rule.fixed) == ("fp16", 8, (32, 32))
    assert opened.describe() == "GeForce RTX 4090, fp16, TensorRT for RTX 1.7.1"
    assert not said
    whole = open_engine(bundle, "a2b", "auto", "fp32", 3, engines=tmp_path)
    assert isinstance(whole, TensorRTTranslator)
    assert (whole.precision, whole.batch_size) == ("fp32", 3)
    free = Sizing(square=False, side=64)
    assert isinstance(open_engine(bundle, "a2b", engines=tmp_path, sizing=free), TorchTranslator)
    asked_for = open_engine(bundle, "a2b", backend="tensorrt", engines=tmp_path, sizing=free)
    assert isinstance(asked_for, TensorRTTranslator)
    assert asked_for.size_rule.maximum == 64


def test_auto_says_why_it_passes_over_an_engine(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]
) -> None:
    on(LINUX)
    place(tmp_path, bundle, version="1.6.0")
    place(tmp_path, bundle, precision="fp32").plan.write_bytes(b"cut")
    place(tmp_path, bundle, direction="b2a")
    said: list[str] = []
    opened = open_engine(bundle, "a2b", engines=tmp_path, say=said.append)
    assert isinstance(opened, TorchTranslator)
    assert len(said) == 2
    assert "PyTorch instead of TensorRT" in said[0]
    assert "1.6.0, installed is 1.7.1" in said[0]
    assert "3 bytes long" in said[1]


@pytest.mark.parametrize("gpus", [(), (ADA,)])
def test_auto_without_an_engine_or_a_gpu_is_pytorch(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None], gpus: tuple[Gpu, ...]
) -> None:
    on(dataclasses.replace(LINUX, gpus=gpus))
    if not gpus:
        place(tmp_path, bundle)
    said: list[str] = []
    assert isinstance(open_engine(bundle, "a2b", engines=tmp_path, say=said.append), TorchTranslator)
    assert not said


def test_pytorch_by_name_looks_at_no_engine(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]
) -> None:
    on(LINUX)
    place(tmp_path, bundle)
    assert isinstance(open_engine(bundle, "a2b", backend="torch", engines=tmp_path), TorchTranslator)


def refused(bundle: Bundle, engines: Path | None, *arguments: Any, **options: Any) -> UgatitBatchError:
    with pytest.raises(UgatitBatchError) as error:
        open_engine(bundle, "a2b", *arguments, backend="tensorrt", engines=engines, **options)
    return error.value


def test_tensorrt_by_name_without_an_engine(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]
) -> None:
    on(LINUX)
    for folder in (None, tmp_path):
        error = refused(bundle, folder, "auto", "fp32", sizing=Sizing(square=True, side=64))
        assert isinstance(error, EngineMissingError)
        assert "cat2dog has no engine for photo → ink" in error.message
        command = f"ugatit-batch build-engine {bundle.path} --precision fp32 --size 64"
        assert error.hint == f"build one: {command}"


@pytest.mark.parametrize(
    ("machine", "changes", "kind", "says"),
    [
        (LINUX, {"version": "2.0.0"}, EngineUnfitError, "built by tensorrt-rtx 2.0.0"),
        (LINUX, {"model_sha256": "f" * 64}, EngineUnfitError, "another model"),
        (dataclasses.replace(LINUX, gpus=(HOPPER,)), {}, EngineUnfitError, "H100 has 9.0"),
        (LINUX, {"precision": "fp32"}, EngineUnfitError, "works in fp32, not in fp16"),
        (
            dataclasses.replace(LINUX, libraries={"tensorrt": "10.14.1", "tensorrt-rtx": None}),
            {},
            EngineUnfitError,
            "needs tensorrt-rtx",
        ),
        (dataclasses.replace(LINUX, libraries={}), {}, EngineLibraryError, "not installed"),
        (dataclasses.replace(LINUX, gpus=()), {}, DeviceError, "needs an NVIDIA GPU"),
    ],
)
def test_tensorrt_by_name_never_falls_back(
    tmp_path: Path,
    bundle: Bundle,
    on: Callable[[Machine], None],
    machine: Machine,
    changes: dict[str, Any],
    kind: type[UgatitBatchError],
    says: str,
) -> None:
    on(machine)
    place(tmp_path, bundle, **changes)
    error = refused(bundle, tmp_path, "auto", "fp16")
    assert type(error) is kind
    assert says in error.message
    assert error.exit_code == 4
    if kind is EngineUnfitError:
        assert "ugatit-batch build-engine" in error.hint


def test_a_truncated_plan_is_refused_before_the_gpu_is_touched(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(LINUX)
    monkeypatch.setattr(tensorrt_engine, "Session", tensorrt_runtime.Session)
    found = place(tmp_path, bundle)
    found.plan.write_bytes(found.plan.read_bytes()[:-1])
    # There is no GPU, and perhaps no library: whatever came before the check would fail with other words.
    assert isinstance(refused(bundle, tmp_path), EngineDamagedError)


def test_of_several_that_do_not_fit_the_nearest_is_named(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]
) -> None:
    on(LINUX)
    place(tmp_path, bundle, version="1.0.0")
    place(tmp_path, bundle, profile=RANGE)
    error = refused(bundle, tmp_path, sizing=Sizing(square=True, side=128))
    assert isinstance(error, EngineUnfitError)
    assert error.reason == "size"
    assert "--size 128" in error.hint


def test_tensorrt_needs_a_gpu_and_a_precision_it_has(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]
) -> None:
    on(dataclasses.replace(LINUX, gpus=()))
    assert isinstance(refused(bundle, tmp_path), DeviceError)
    assert isinstance(refused(bundle, tmp_path, "auto", "bf16"), UsageError)
    on(LINUX)
    place(tmp_path, bundle)
    assert isinstance(refused(bundle, tmp_path, "cpu"), UsageError)
    assert isinstance(refused(bundle, tmp_path, "wheel"), UsageError)


def test_what_the_library_refuses_is_said_and_auto_goes_on(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(LINUX)
    place(tmp_path, bundle)

    def refuse(*_: Any) -> None:
        raise EngineError("cat2dog.plan: tensorrt-rtx refuses the engine: driver too old")

    monkeypatch.setattr(tensorrt_engine, "Session", refuse)
    said: list[str] = []
    assert isinstance(open_engine(bundle, "a2b", engines=tmp_path, say=said.append), TorchTranslator)
    assert "driver too old" in said[0]
    assert "driver too old" in refused(bundle, tmp_path).message


def test_the_second_gpu_is_asked_for_by_its_number(
    tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    second: Gpu = dataclasses.replace(ADA, index=1, name="second")
    on(dataclasses.replace(LINUX, gpus=(HOPPER, second), libraries=BOTH))
    monkeypatch.setattr(machines, "choose_device", lambda _: torch.device("cuda", 1))
    place(tmp_path, bundle)
    opened = open_engine(bundle, "a2b", "cuda:1", backend="tensorrt", engines=tmp_path)
    assert isinstance(opened, TensorRTTranslator)
    assert opened.device == torch.device("cuda", 1)
    assert opened.describe().startswith("second, ")


def test_smooth_passes_over_engines(tmp_path: Path, bundle: Bundle, on: Callable[[Machine], None]) -> None:
    on(LINUX)
    assert isinstance(refused(bundle, tmp_path, smooth=True), UsageError)
    said: list[str] = []
    open_engine(bundle, "a2b", engines=tmp_path, smooth=True, say=said.append)
    assert not said
    place(tmp_path, bundle)
    error = refused(bundle, tmp_path, smooth=True)
    assert isinstance(error, UsageError)
    assert error.message == "--smooth: TensorRT engines do not average the style"
    assert error.hint == "use --backend torch"
    opened = open_engine(bundle, "a2b", engines=tmp_path, smooth=True, say=said.append)
    assert isinstance(opened, TorchTranslator)
    assert said == ["PyTorch instead of TensorRT: --smooth: TensorRT engines do not average the style"]


@pytest.fixture
def on_two(on: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[Gpu], None]:
    """Pretend to have an Ada card, and another behind it."""

    def pretend(second: Gpu) -> None:
        on(dataclasses.replace(LINUX, gpus=(ADA, dataclasses.replace(second, index=1, name="second"))))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(opening, "choose_device", devices.choose_device)
        monkeypatch.setattr(machines, "choose_device", devices.choose_device)

        def on_cpu(
            bundle: Bundle, direction: Any, device: torch.device, precision: Any, batch: int | None
        ) -> TorchTranslator:
            opened = TorchTranslator(bundle, direction, torch.device("cpu"), precision, batch)
            monkeypatch.setattr(opened, "describe", lambda: f"{device}, {precision}")
            return opened

        monkeypatch.setattr(opening, "TorchTranslator", on_cpu)

    return pretend


def test_several_gpus_are_one_engine(tmp_path: Path, bundle: Bundle, on_two: Callable[[Gpu], None]) -> None:
    on_two(ADA)
    in_pytorch = open_engine(bundle, "a2b", "0,1", "fp32", 3, engines=tmp_path)
    assert isinstance(in_pytorch, SeveralTranslator)
    assert in_pytorch.describe() == "cuda:0, fp32 + cuda:1, fp32"
    assert in_pytorch.batch_size == 3
    place(tmp_path, bundle)
    said: list[str] = []
    opened = open_engine(bundle, "a2b", "cuda:1,cuda:0", engines=tmp_path, say=said.append)
    assert isinstance(opened, SeveralTranslator)
    assert opened.describe() == (
        "second, fp16, TensorRT for RTX 1.7.1 + GeForce RTX 4090, fp16, TensorRT for RTX 1.7.1"
    )
    assert (opened.batch_size, opened.size_rule.fixed, opened.precision) == (8, (32, 32), "fp16")
    assert not said
    with pytest.raises(UsageError, match="--smooth needs one device"):
        open_engine(bundle, "a2b", "0,1", engines=tmp_path, smooth=True)


def test_several_gpus_run_one_kind_of_engine(
    tmp_path: Path, bundle: Bundle, on_two: Callable[[Gpu], None]
) -> None:
    on_two(TURING_CARD)
    place(tmp_path, bundle)
    said: list[str] = []
    opened = open_engine(bundle, "a2b", "0,1", engines=tmp_path, say=said.append)
    assert opened.describe() == "cuda:0, fp16 + cuda:1, fp16"
    assert "second has 7.5" in said[0]
    assert said[1] == "PyTorch instead of TensorRT: no engine fits all of the devices"
    assert isinstance(refused(bundle, tmp_path, "0,1"), EngineUnfitError)


def test_several_gpus_run_one_precision(
    tmp_path: Path, bundle: Bundle, on_two: Callable[[Gpu], None]
) -> None:
    on_two(TURING_CARD)
    place(tmp_path, bundle)
    place(tmp_path, bundle, precision="fp32", capabilities=("7.5",))
    said: list[str] = []
    opened = open_engine(bundle, "a2b", "0,1", engines=tmp_path, say=said.append)
    assert opened.describe() == "cuda:0, fp16 + cuda:1, fp16"
    error = refused(bundle, tmp_path, "0,1")
    assert error.message == "--device 0,1: no engine fits all of them in one precision"
    with_one = open_engine(bundle, "a2b", "0", engines=tmp_path)
    assert isinstance(with_one, TensorRTTranslator)
