"""`make gpu`, as small as it goes, on the processor."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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


def test_all_of_it_at_a_tiny_size(gpu_check: ModuleType, tmp_path: Path) -> None:
    source, target = domain_folders(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ["--source", str(source), "--target", str(target), "--out", str(out), "--device", "cpu"]
    arguments += ["--size", "32", "--channels", "4", "--rounds", "2", "--steps", "6"]
    assert gpu_check.main(arguments) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["machine"]["gpu"] is None
    assert report["train_step"]["exit"] == 0
    assert report["training"]["steps"] == report["training"]["of"] == 6
    assert report["training"]["steps_per_second"] > 0
    assert report["training"]["predicted_bytes"] > 2**20
    assert report["training"]["last_losses"] != report["training"]["first_losses"]
    steps = json.loads((out / "train_step.json").read_text("utf-8"))
    assert set(steps["to_published"]) == {"ours", "bf16"}
    assert len(steps["rounds"]) == 2
    for name in ("sheet-a2b", "sheet-b2a", "losses", "rho"):
        with Image.open(out / f"{name}.png") as picture:
            assert len(set(picture.convert("L").tobytes())) > 10, name
    assert len([path for path in out.iterdir() if path.is_file()]) <= 8


def test_a_part_that_fails_is_told(gpu_check: ModuleType, tmp_path: Path) -> None:
    found = gpu_check.run_part("part", [sys.executable, "-c", "print(7); raise SystemExit(3)"], 60, tmp_path)
    assert (found["exit"], found["last_lines"]) == (3, ["7"])
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert gpu_check.run_part("part", slow, 1, tmp_path)["exit"] == "out of time"


def test_a_training_ends_when_the_time_is_up(gpu_check: ModuleType, tmp_path: Path) -> None:
    source, target = domain_folders(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ["--source", str(source), "--target", str(target), "--out", str(out), "--device", "cpu"]
    arguments += ["--size", "32", "--channels", "4", "--steps", "100000", "--only", "training"]
    assert gpu_check.main([*arguments, "--minutes", "0.1"]) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert 0 < report["training"]["steps"] < 100_000
    assert report["seconds"] < 120
