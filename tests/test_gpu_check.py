"""`make gpu`, as small as it goes, on the processor."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from PIL import Image

from .training.tiny import domain_folders

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "scripts/gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    spec.loader.exec_module(module)
    return module


ROOT = Path(__file__).parents[1]


def test_all_of_it_at_a_tiny_size(
    gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Networks so small lose most of their time to threads that wait for each other.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source, target = domain_folders(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ["--source", str(source), "--target", str(target), "--out", str(out), "--device", "cpu"]
    arguments += ["--size", "32", "--channels", "4", "--rounds", "2", "--steps", "6"]
    assert gpu_check.main(arguments) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["machine"]["gpu"] is None
    assert report["train_step"]["exit"] == 0
    assert report["engines"]["exit"] == 0
    assert report["training"]["steps"] == report["training"]["of"] == 6
    assert report["training"]["steps_per_second"] > 0
    assert report["training"]["predicted_bytes"] > 2**20
    assert report["training"]["last_losses"] != report["training"]["first_losses"]
    steps = json.loads((out / "train_step.json").read_text("utf-8"))
    assert set(steps["to_published"]) == {"ours", "bf16"}
    assert len(steps["rounds"]) == 2
    engines = json.loads((out / "engines.json").read_text("utf-8"))
    assert set(engines["engines"]) == {"torch fp32"}
    assert engines["size"] == 32
    assert "run_to_network" in engines["engines"]["torch fp32"]
    for name in ("sheet-a2b", "sheet-b2a", "losses", "rho"):
        with Image.open(out / f"{name}.png") as picture:
            assert len(set(picture.convert("L").tobytes())) > 10, name
    assert len([path for path in out.iterdir() if path.is_file()]) <= 11
    printed = capsys.readouterr().out
    assert "steps/s\npeak: " in printed
    assert "of the matmul peak\n" in printed

    # Again into the same folder: nothing of the first call is in the way, and nothing else is touched.
    (out / "note.txt").write_text("mine", "utf-8")
    (out / "packages").mkdir()
    (out / "run/left").write_text("by the first", "utf-8")
    arguments[-1] = "4"
    assert gpu_check.main([*arguments, "--only", "training"]) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["training"]["steps"] == report["training"]["of"] == 4
    assert (out / "note.txt").read_text("utf-8") == "mine"
    assert (out / "packages").is_dir()
    assert (out / "train_step.json").is_file()
    assert (out / "engines.json").is_file()
    assert not (out / "run/left").exists()


def test_a_folder_that_is_no_run_stays(
    gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = domain_folders(tmp_path / "data")
    mine = tmp_path / "out/run/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", "utf-8")
    arguments = ["--source", str(source), "--target", str(target), "--out", str(tmp_path / "out")]
    assert gpu_check.main([*arguments, "--device", "cpu"]) == 1
    assert mine.read_text("utf-8") == "mine"
    error = capsys.readouterr().err
    assert "is no run folder" in error
    assert "\nuse another --out" in error


def test_what_is_wrong_is_told_without_a_traceback(
    gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing")
    arguments = ["--source", missing, "--target", missing + "-too", "--out", str(tmp_path / "out")]
    assert gpu_check.main([*arguments, "--device", "cpu"]) == 1
    assert f"{missing}: no such folder\n" in capsys.readouterr().err


def test_missing_packages_are_told_first() -> None:
    command = [sys.executable, "-S", "-E", str(ROOT / "scripts/gpu_check.py")]  # without site-packages
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr == (
        "this Python lacks torch, psutil, safetensors, filelock, tomli_w, numpy, av, Pillow, platformdirs, "
        "pytest; carry their wheels in a folder: make gpu WHEELS=folder …\n"
    )


def test_a_third_of_the_time_is_the_trainings(gpu_check: ModuleType) -> None:
    clock = gpu_check.Clock(10)
    ends = [clock.until(share) for share in gpu_check.ENDS.values()]
    assert ends == sorted(ends)
    assert 600 - ends[-1] - 600 * gpu_check._SPARE >= 0.33 * 600
    assert ends[0] == pytest.approx(120, abs=5)


def test_engines_are_told_in_a_few_lines(gpu_check: ModuleType, tmp_path: Path) -> None:
    error = {"max": 3.0, "mean": 0.2, "over_1": 0.01, "attention": 0.001}
    measured = {
        "pictures_per_second": {"1": 500.0, "32": 2400.5},
        "share_of_peak": {"1": 0.07, "32": 0.31},
        "run_to_network": 0.97,
    }
    figures = {
        "engines": {"torch fp16": {"error": error} | measured, "tensorrt fp16": {"error": error}},
        "failed": {"tensorrt-rtx fp16": "EngineUnfitError: UNSUPPORTED_CC\nand more"},
        "left_out": {"tensorrt fp32": "out of time"},
    }
    (tmp_path / "engines.json").write_text(json.dumps(figures), "utf-8")
    lines = gpu_check.table({"engines": {"exit": 0}}, tmp_path).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "torch fp16, batch 1 500.0 /s 0.070 of the matmul peak",
        "torch fp16, batch 32 2400.5 /s 0.310 of the matmul peak",
        "torch fp16 3 levels at most, 0.200 on average; folder run / engine 0.970",
        "tensorrt fp16 3 levels at most, 0.200 on average",
        "tensorrt-rtx fp16 EngineUnfitError: UNSUPPORTED_CC and more",
        "tensorrt fp32 out of time",
    ]
    (tmp_path / "engines.json").unlink()
    assert gpu_check.table({"engines": {"exit": 1}}, tmp_path) == "engines: no figures"


def test_tests_that_build_engines_are_last(gpu_check: ModuleType) -> None:
    names = ["a/test_tensorrt_engine_gpu.py", "b/test_memory_gpu.py", "c/test_step_gpu.py"]
    assert [str(path) for path in sorted(map(Path, names), key=gpu_check._when)] == names[::-1]


def test_what_pytest_said_is_found(gpu_check: ModuleType) -> None:
    ended = "a.py::test_b PASSED\n= slowest 10 durations =\n=== 1 failed, 20 passed in 61.2s (0:01:01) ===\n"
    assert gpu_check._tally(ended) == "1 failed, 20 passed in 61.2s (0:01:01)"
    assert gpu_check._tally("a PASSED\nb \n3 GiB\nPASSED\nc FAILED\n") == (
        "not finished: 2 passed, 1 failed, 0 error"
    )


def test_the_benchmark_ends_at_its_time_with_a_round(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/train_step.py"), "--size", "32", "--channels", "4"]
    command += ["--ways", "ours; contiguous; recorded; compiled", "--rounds", "100000", "--seconds", "0"]
    command += ["--device", "cpu", "--threads", "1", "--results", str(tmp_path), "--save", "steps"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1, told.stderr
    kept = json.loads((tmp_path / "steps.json").read_text("utf-8"))
    assert len(kept["rounds"]) == 1
    assert set(kept["milliseconds"]) == {"published", "ours", "contiguous"}
    assert set(kept["failed"]) == {"recorded", "compiled"}  # no GPU; and no time left
    assert "no NVIDIA GPU" in kept["failed"]["recorded"]
    assert (tmp_path / "steps.md").read_text("utf-8") in told.stdout


def test_a_part_that_fails_is_told(gpu_check: ModuleType, tmp_path: Path) -> None:
    found = gpu_check.run_part("part", [sys.executable, "-c", "print(7); raise SystemExit(3)"], 60, tmp_path)
    assert (found["exit"], found["last_lines"]) == (3, ["7"])
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert gpu_check.run_part("part", slow, 1, tmp_path)["exit"] == "out of time"


def test_what_a_part_has_started_ends_with_it(gpu_check: ModuleType, tmp_path: Path) -> None:
    child = "import os, time; os.setpgrp(); print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = gpu_check.run_part("part", [sys.executable, "-c", parent], 3, tmp_path)
    assert found["exit"] == "out of time"
    (number,) = found["last_lines"]
    until = time.monotonic() + 10
    while psutil.pid_exists(int(number)) and psutil.Process(int(number)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_training_ends_when_the_time_is_up(gpu_check: ModuleType, tmp_path: Path) -> None:
    source, target = domain_folders(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ["--source", str(source), "--target", str(target), "--out", str(out), "--device", "cpu"]
    arguments += ["--size", "32", "--channels", "4", "--steps", "100000", "--only", "training"]
    assert gpu_check.main([*arguments, "--minutes", "0.1"]) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert 0 < report["training"]["steps"] < 100_000
    assert report["seconds"] < 120
