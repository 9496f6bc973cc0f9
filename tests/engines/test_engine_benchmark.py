"""`benchmarks/engine.py`: its arithmetic, and all of it at a tiny size on the processor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.errors import EngineUnfitError
from ugatit_engines import measure
from ugatit_engines.specimens import write_random_bundle
from ugatit_engines.torch_engine import TorchTranslator

from ..fakes import InvertingTranslator, colours, paint
from .engine_support import ADA, LINUX
from .programs import load_benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

CPU = torch.device("cpu")
TINY = [
    "--device",
    "cpu",
    "--size",
    "32",
    "--channels",
    "4",
    "--least",
    "0",
    "--count",
    "3",
    "--threads",
    "1",
]
STAGES = {"run_per_second", "run_to_network", "slowest", "run_to_slowest"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "_SHORTEST", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = load_benchmark("engine", monkeypatch)
    monkeypatch.setitem(module.MatmulPeak.__init__.__globals__, "_SIDES", {"cpu": (16, 32)})
    return module


@pytest.fixture
def contestants(benchmark: ModuleType) -> ModuleType:
    return sys.modules["benchmarks.contestants"]


@pytest.fixture
def matmul_peak(benchmark: ModuleType) -> ModuleType:
    return sys.modules["benchmarks.matmul_peak"]


class Clock:
    """Time that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, _: object = None) -> None:
        self.now += 0.25


def closed_form(light: bool) -> int:
    """Width 64, 256²: twice outputs × inputs × kernel × places; a transposed layer counts its input's."""
    layers = [(64, 3, 49, 256), (128, 64, 9, 128), (256, 128, 9, 64), (256, 256, 1, 64)]
    layers += [(256, 256, 9, 64)] * 16
    layers += [(128, 256, 16, 66), (64, 128, 16, 130), (3, 64, 49, 256)]
    style = [256 if light else 256 * 64 * 64, 256, 256, 256]
    return 2 * (sum(o * i * k * side**2 for o, i, k, side in layers) + sum(256 * inputs for inputs in style))


@pytest.mark.parametrize(("light", "gflop"), [(True, 94.1), (False, 94.7)])
def test_operations_are_those_of_the_layers(matmul_peak: ModuleType, light: bool, gflop: float) -> None:
    counted = matmul_peak.count_operations(GeneratorConfig(64, 4, light=light, image_size=256), 256)
    assert counted == closed_form(light)
    assert counted / 1e9 == pytest.approx(gflop, abs=0.1)


def test_a_call_is_timed_over_as_many_as_are_needed(
    matmul_peak: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(matmul_peak, "time", clock)
    assert matmul_peak.seconds_a_call(clock.work, CPU, 5.0) == 0.25
    started = clock.now
    assert matmul_peak.seconds_a_call(clock.work, CPU, 0.0) == 0.25
    assert clock.now - started == 0.25, "once is enough for no time at all"


def test_the_peak_is_the_best_of_all_sizes(matmul_peak: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([2.0, 64.0])
    monkeypatch.setattr(matmul_peak, "seconds_a_call", lambda *_: next(taken))
    assert matmul_peak.MatmulPeak(torch.float32, CPU, (16, 32)).measure(0.0) == 16**3


def test_the_rate_of_an_engine_counts_all_that_it_was_given(
    contestants: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(contestants, "time", clock)
    engine = InvertingTranslator(before=clock.work)
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    assert contestants.bare_rate(engine, pixels, 1.0) == 16.0
    assert contestants.bare_rate(engine, pixels, 0.0) == 16.0
    assert len(engine.shapes) == 4 + 1


def test_parity_is_in_levels_and_shares(contestants: ModuleType) -> None:
    frames = [colours(8, 8, seed) for seed in range(2)]
    pixels = np.stack([255 - frame for frame in frames]).astype(np.int16)
    attention = np.stack([frame[::4, ::4].mean(-1) for frame in frames])
    off = pixels.copy()
    off[0, 0, 0, 0] += 5
    off[1, 0, 0, :2] -= 1
    task = SimpleNamespace(frames=[*frames, frames[0]], expected=(off, attention * 1.25))
    found = contestants.parity(task, InvertingTranslator())
    values = 3 * 8 * 8 * 3
    assert found == {
        "max": 5.0,
        "mean": pytest.approx(12 / values, rel=1e-3),
        "over_1": pytest.approx(2 / values, rel=1e-3),
        "attention": pytest.approx(0.2, rel=1e-3),
    }


def run(benchmark: ModuleType, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = benchmark.main([*TINY, "--results", str(folder), "--save", "x", *arguments])
    return code, json.loads((folder / "x.json").read_text("utf-8"))


def test_all_figures_at_a_tiny_size(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--precisions", "fp32,bf16", "--batches", "2,1", "--rounds", "2", "--compared", "2")
    code, figures = run(benchmark, tmp_path, *arguments)
    assert code == 0
    assert (figures["failed"], figures["left_out"]) == ({}, {})
    assert set(figures["engines"]) == {"torch fp32", "torch bf16"}
    for one in figures["engines"].values():
        for what in ("", "forward_"):
            assert set(one[f"{what}pictures_per_second"]) == set(one[f"{what}share_of_peak"]) == {"1", "2"}
            for batch, rate in one[f"{what}pictures_per_second"].items():
                assert rate > 0
                assert one[f"{what}share_of_peak"][batch] > 0
        assert one.keys() >= STAGES
        assert one["run_to_network"] > 0
    exact, rounded = (figures["engines"][f"torch {precision}"] for precision in ("fp32", "bf16"))
    assert exact["error"]["max"] <= 1
    assert exact["error"]["mean"] < rounded["error"]["mean"]
    assert 0 < rounded["error"]["attention"] < 0.2
    assert set(figures["matmul_tflops"]) == {"fp32", "bf16"}
    assert len(figures["rounds"]) == 2
    assert figures["batches"] == [1, 2]
    assert (figures["machine"]["gpu"], figures["compared"], figures["pictures"]) == (None, 2, 3)
    line = (tmp_path / "x.md").read_text("utf-8")
    assert line in capsys.readouterr().out
    assert f"torch fp32 {exact['pictures_per_second']['1']:g} at batch 1" in line
    assert f"a folder run {exact['run_to_network']:g} of that" in line

    # What is kept can be computed again from the rounds.
    shares = [one["torch fp32, batch 2"] / one["matmul fp32"] for one in figures["rounds"]]
    expected = np.median(shares) * figures["gflop_a_picture"] / 1e3
    assert exact["share_of_peak"]["2"] == pytest.approx(expected, rel=1e-2)


class Tiring(TorchTranslator):
    """Refuses after so many calls."""

    left = 9

    def translate(self, batches: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the card\nfell off the bus")
        return super().translate(batches)


def test_an_engine_that_fails_is_told_and_the_others_go_on(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT in pretence: one works, one is out of time, one fails later, one does not fit."""
    plans = [("tensorrt", "fp32"), ("tensorrt", "fp16"), ("tensorrt-rtx", "fp32"), ("tensorrt-rtx", "fp16")]
    kept: list[dict[str, str]] = []

    def pretend(task: Any, flavor: str, precision: str, time_is_up: Any) -> Any:
        assert not time_is_up()
        kept.append(json.loads((tmp_path / "x.json").read_text("utf-8"))["failed"])
        if (flavor, precision) == ("tensorrt", "fp16"):
            raise benchmark.OutOfTime
        if (flavor, precision) == ("tensorrt-rtx", "fp16"):
            raise EngineUnfitError("gpu", "tensorrt-rtx says: UNSUPPORTED_CC")
        kind = Tiring if flavor == "tensorrt-rtx" else TorchTranslator
        facts = {"seconds_to_build": 1.5, "plan_bytes": 7}
        return facts, lambda batch: kind(task.bundle, task.direction, CPU, "fp32", batch)

    monkeypatch.setattr(benchmark, "with_tensorrt", pretend)
    monkeypatch.setattr(benchmark, "find_plans", lambda _task: (plans, {"tensorrt-rtx"}, {"another"}))
    code, figures = run(benchmark, tmp_path, "--rounds", "4")
    assert code == 0, "what does not know this GPU may fail"
    assert set(figures["engines"]) == {"torch fp32", "tensorrt fp32", "tensorrt-rtx fp32"}
    assert figures["engines"]["tensorrt fp32"].keys() >= STAGES | {
        "seconds_to_build",
        "plan_bytes",
        "to_torch",
    }
    assert "to_torch" not in figures["engines"]["torch fp32"]
    assert figures["failed"] == {
        "tensorrt-rtx fp32": "RuntimeError: the card\nfell off the bus",
        "tensorrt-rtx fp16": "EngineUnfitError: tensorrt-rtx says: UNSUPPORTED_CC",
    }
    assert figures["left_out"] == {
        "another": "not installed",
        "tensorrt fp16": "out of time while it was built",
    }
    assert len(figures["rounds"]) == 4
    assert all("torch fp32, encode" in one for one in figures["rounds"])
    line = (tmp_path / "x.md").read_text("utf-8")
    assert "tensorrt-rtx fp32 failed: RuntimeError: the card fell off the bus" in line
    assert "tensorrt fp16 was left out: out of time while it was built" in line
    # Had one of them ended the process, the figures so far and its name would be there.
    assert [list(failed)[-1] for failed in kept] == [f"{flavor} {precision}" for flavor, precision in plans]
    assert set(kept[0].values()) == {"it ended this program"}


def test_an_engine_that_should_run_and_does_not_is_a_failure(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_task: Any, _precision: str) -> Any:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(benchmark, "with_torch", broken)
    code, figures = run(benchmark, tmp_path, "--rounds", "1")
    assert code == 1
    assert figures["failed"] == {"torch fp32": "RuntimeError: no kernel image"}
    assert figures["engines"] == {}


def test_the_time_that_is_up_leaves_a_round_and_no_building(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "find_plans", lambda _task: ([("tensorrt", "fp16")], set(), set()))
    code, figures = run(benchmark, tmp_path, "--rounds", "1000", "--seconds", "0")
    assert code == 0
    assert len(figures["rounds"]) == 1
    assert figures["left_out"] == {"tensorrt fp16": "out of time"}


def test_given_pictures_come_again_where_they_are_few(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real"
    paint(real / "a.png", 48, 40, seed=1)
    paint(real / "below/b.jpg", 33, 50, seed=2)
    (real / "notes.txt").write_text("mine", "utf-8")
    arguments = ("--pictures", str(real), "--rounds", "1", "--count", "5")
    code, figures = run(benchmark, tmp_path / "results", *arguments)
    assert (code, figures["pictures"], figures["compared"]) == (0, 5, 4)
    (tmp_path / "empty").mkdir()
    assert benchmark.main([*TINY, "--pictures", str(tmp_path / "empty")]) == 1
    assert f"{tmp_path / 'empty'}: no picture in it" in capsys.readouterr().err


def test_a_model_is_found_by_name_or_folder(benchmark: ModuleType, contestants: ModuleType) -> None:
    ink = contestants.find_bundle(benchmark.parse(["--model", "ink"]), Path())
    assert ink.name == "ink"
    assert contestants.find_bundle(benchmark.parse(["--model", str(ink.path)]), Path()).path == ink.path


@pytest.mark.parametrize("wrong", [["--batches", "0"], ["--batches", "a"], ["--precisions", "int8"]])
def test_what_is_no_batch_or_precision_is_refused(benchmark: ModuleType, wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(wrong)


def task_of(tmp_path: Path) -> Any:
    bundle = write_random_bundle(tmp_path / "model", GeneratorConfig(4, 1, light=True, image_size=32))
    return SimpleNamespace(
        bundle=bundle, direction="a2b", device=CPU, side=32, batches=(1, 2, 4), scratch=tmp_path
    )


def test_plans_are_built_here(
    contestants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnx")
    monkeypatch.setattr("ugatit_engines.machine.this_machine", lambda: LINUX)
    monkeypatch.setattr("ugatit_engines.machine.choose_gpu", lambda *_: ADA)
    opened: list[Any] = []
    monkeypatch.setattr(
        "ugatit_engines.tensorrt_engine.TensorRTTranslator", lambda *given: opened.append(given)
    )
    task = task_of(tmp_path)
    with pytest.raises(contestants.OutOfTime):
        contestants.with_tensorrt(task, "tensorrt-rtx", "fp16", lambda: True)
    facts, opener = contestants.with_tensorrt(task, "tensorrt-rtx", "fp16", lambda: False)
    assert facts["plan_bytes"] > 1000
    assert facts["seconds_to_build"] > 0
    opener(2)
    ((found, gpu, batch),) = opened
    assert (gpu, batch) == (ADA, 2)
    assert found.record.profile.shapes() == ((1, 32, 32, 3), (2, 32, 32, 3), (4, 32, 32, 3))


def test_what_should_work_is_tried_first(contestants: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    task = SimpleNamespace(on_gpu=True, device=CPU, precisions=("fp32", "fp16"))
    library = "ugatit_engines.tensorrt_library.is_installed"
    monkeypatch.setattr(library, lambda _flavor: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    plans, unfit, missing = contestants.find_plans(task)
    both = [("tensorrt", "fp16"), ("tensorrt", "fp32"), ("tensorrt-rtx", "fp16"), ("tensorrt-rtx", "fp32")]
    assert (plans, unfit, missing) == (both, {"tensorrt-rtx"}, set())
    monkeypatch.setattr(library, lambda flavor: flavor == "tensorrt-rtx")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    assert contestants.find_plans(task) == (both[2:], set(), {"tensorrt"})
    task.on_gpu = False
    assert contestants.find_plans(task) == ([], set(), set())
