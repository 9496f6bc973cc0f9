"""`benchmarks/watch_burst.py`: at a tiny size, and once with a burst that a folder may really see."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ..engines.programs import load_benchmark

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture
def watch_burst(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = load_benchmark("watch_burst", monkeypatch)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def measured(
    watch_burst: ModuleType, monkeypatch: pytest.MonkeyPatch, models_dir: Path, *words: str
) -> dict[str, Any]:
    model = ["--model", "ink", "--models-dir", str(models_dir), "--device", "cpu", "--save", "here"]
    monkeypatch.setattr(sys, "argv", ["watch_burst.py", *model, *words])
    watch_burst.main()
    figures = json.loads((watch_burst.RESULTS / "here.json").read_text("utf-8"))
    assert isinstance(figures, dict)
    return figures


def test_measures_and_keeps(
    watch_burst: ModuleType,
    models_dir: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--files", "40", "--singles", "1", "--known", "0", "--settle", "0.3", "--quiet", "1"]
    figures = measured(watch_burst, monkeypatch, models_dir, *words, "--rescan", "1")
    assert list(scratch.iterdir()) == []
    assert 0.3 < figures["seconds_to_first"] <= figures["seconds_to_last"]
    assert figures["files_per_second"] == pytest.approx(40 / figures["seconds_to_last"], rel=0.01)
    resident = figures["resident_mib"]
    assert 50 < resident["loaded"] <= resident["peak"] + 1
    assert figures["growth_mib"] == pytest.approx(resident["whole"] - resident["tenth"], abs=0.11)
    assert figures["latency_seconds"] > 0
    assert 0 <= figures["quiet_percent_of_a_core"] < 50
    assert 0 <= figures["look_seconds"] < 1
    assert (figures["files"], figures["arrived"], figures["known"]) == (40, "as a folder", None)
    assert "40 pictures" in (watch_burst.RESULTS / "here.md").read_text("utf-8")
    printed = capsys.readouterr()
    assert f"{figures['files_per_second']}/s" in printed.out
    assert "40 done" in printed.err


@pytest.mark.slow
def test_files_that_are_known(
    watch_burst: ModuleType, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--known", "20", "--settle", "0.3", "--quiet", "1", "--rescan", "2", "--device", "cpu"]
    options = watch_burst.parse([*words, "--models-dir", str(models_dir)])
    monkeypatch.setattr(watch_burst, "_IN_A_FOLDER", 15)
    figures = watch_burst.measure_known(tmp_path, "ink", options, 0.0)
    assert sorted(path.name for path in (tmp_path / "known").iterdir()) == ["0000", "0001"]
    assert len(list((tmp_path / "known-out").rglob("*.jpg"))) == 20
    assert (figures["files"], figures["look_every_seconds"], figures["poll_every_seconds"]) == (20, 2, 1)
    assert 0 <= figures["look_seconds"] < 1
    assert figures["resident_mib_before"] > 50
    assert figures["poll_resident_mib"] > 50


def test_what_is_wrong_is_no_figure(
    watch_burst: ModuleType, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, words = tmp_path / "inbox", ["--models-dir", models_dir, "--settle", "0.1", "--device", "cpu"]
    inbox.mkdir()
    watch_burst.write_many(tmp_path / "two", 2)
    with watch_burst.Watcher(inbox, "ink", *words) as watcher:
        assert watch_burst.measure_burst(watcher, tmp_path / "two", 2, one_by_one=True).last > 0
        watcher.check(2, watch_burst.SIZE)
        with pytest.raises(RuntimeError, match="2 results for 2 inputs of 3"):
            watcher.check(3, watch_burst.SIZE)

        made = watcher.outbox / "000000.jpg"
        Image.new("RGB", (9, 9)).save(made)
        with pytest.raises(RuntimeError, match="became a picture of"):
            watcher.check(2, watch_burst.SIZE)
        made.write_bytes(b"")
        with pytest.raises(OSError, match=made.name):
            watcher.check(2, watch_burst.SIZE)

        # Written again, it is done again.
        shutil.copyfile(inbox / "000001.jpg", inbox / "000000.jpg")
        with pytest.raises(RuntimeError, match="done again"):
            watcher.result()
    with (
        pytest.raises(RuntimeError, match="nothing"),
        watch_burst.Watcher(inbox, "nothing", *words),
    ):
        pass


@pytest.mark.parametrize("wrong", [["--files", "0"], ["--singles", "0"], ["--known", "-1"], ["--quiet", "0"]])
def test_nothing_to_measure(watch_burst: ModuleType, wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        watch_burst.parse(wrong)


@pytest.mark.slow
def test_a_large_burst_is_done_once_in_flat_memory(
    watch_burst: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--files", "5000", "--singles", "3", "--known", "2000", "--quiet", "30", "--rescan", "20"]
    # That each picture is done once, and its result is there, the program sees to itself.
    figures = measured(watch_burst, monkeypatch, models_dir, *words)
    assert figures["growth_mib"] < 40
    assert figures["quiet_percent_of_a_core"] < 3
