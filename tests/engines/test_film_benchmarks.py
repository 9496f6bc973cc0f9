"""`benchmarks/film_*.py`, all of them at a tiny size on the processor."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.errors import FilmError
from ugatit_engines.specimens import write_film, write_random_bundle

from .programs import load_benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = ("--width", "48", "--height", "32")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert list(scratch.glob("ugatit-batch-*")) == []


class TestFilmRun:
    def test_measures_and_keeps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        film_run = load_benchmark("film_run", monkeypatch)
        monkeypatch.setattr(film_run, "RESULTS", tmp_path / "results")
        words = ["--seconds", "0.5", *SMALL, "--rounds", "2", "--preset", "ultrafast", "--save", "here"]
        monkeypatch.setattr(sys, "argv", ["film_run.py", *words])
        film_run.main()
        figures = json.loads((tmp_path / "results/here.json").read_text("utf-8"))
        assert figures["slowest"] in ("decode", "encode")
        for name in ("run_to_slowest", "run_to_side_by_side", "seconds_to_first", "seconds_after_last"):
            assert figures[name] > 0
        expected = {"run", "network", "decode", "encode", "join", "side_by_side"}
        assert set(figures["frames_per_second"]) == expected
        assert [set(one) for one in figures["rounds"]] == [expected] * 2
        assert (figures["pictures"], figures["size"], figures["codec_threads"]) == (12, [48, 32], 1)
        assert figures["codec_options"]["preset"] == "ultrafast"
        assert figures["bits_per_pixel"] > 0
        sentence = (tmp_path / "results/here.md").read_text("utf-8")
        assert "48×32" in sentence
        printed = capsys.readouterr()
        assert f"run / slowest stage: {figures['run_to_slowest']}" in printed.out
        assert "round 2 of 2" in printed.err

    @pytest.mark.parametrize("wrong", [["--seconds", "0"], ["--rounds", "0"]])
    def test_nothing_to_measure(self, monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
        with pytest.raises(SystemExit):
            load_benchmark("film_run", monkeypatch).parse(wrong)


class TestFilmMemory:
    def test_fresh_processes_are_compared(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        film_memory = load_benchmark("film_memory", monkeypatch)
        words = ["film_memory.py", "--minutes", "0.02", "0.04", *SMALL, "--segment", "1"]
        monkeypatch.setattr(sys, "argv", words)
        film_memory.main()
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert lines[-1].startswith("0.04 minutes / 0.02 minutes: ")

    def test_memory_is_followed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        film_memory = load_benchmark("film_memory", monkeypatch)
        write_film(tmp_path / "film.mp4", 60, 48, 32)
        found = film_memory.probe_here(tmp_path / "film.mp4", 60, 1)
        assert len(found.after_segments) == 2
        # The kernel counts both by the way, and not to the page.
        assert found.peak >= 0.9 * max(found.after_segments) > 0
        assert [path.name for path in tmp_path.glob("*.mp4")] == ["film.mp4"]

    def test_pictures_that_are_missing_are_no_figure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        film_memory = load_benchmark("film_memory", monkeypatch)
        write_film(tmp_path / "film.mp4", 10, 48, 32)
        with pytest.raises(RuntimeError, match="10 of 11"):
            film_memory.probe_here(tmp_path / "film.mp4", 11, 1)
        (tmp_path / "film.mp4").write_bytes(b"no film")
        with pytest.raises(FilmError, match="film"):
            film_memory.probe_here(tmp_path / "film.mp4", 10, 1)


class TestFilmFlicker:
    def test_both_results_are_held_against_the_source(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        film_flicker = load_benchmark("film_flicker", monkeypatch)
        write_film(tmp_path / "film.mp4", 30, 48, 32)
        write_random_bundle(tmp_path / "model", GeneratorConfig(4, residual_blocks=1))
        folder = tmp_path / "out"
        words = ["--frames", "10", "--start", "0.4", "--shown", "3", "--output", str(folder)]
        words += ["--device", "cpu", "--precision", "fp32", "--model", str(tmp_path / "model")]
        monkeypatch.setattr(sys, "argv", ["film_flicker.py", str(tmp_path / "film.mp4"), *words])
        film_flicker.main()
        figures = json.loads((folder / "figures.json").read_text("utf-8"))
        assert figures["source"] > 0
        assert figures["without"] > 0
        assert figures["with"] > 0
        assert (figures["content"]["pictures"], figures["content"]["cuts"]) == (10, 0)
        assert figures["content"]["difference"] > 0
        assert len(figures["content"]["with_smooth"]) == 3
        with Image.open(folder / "sheet.png") as sheet:
            assert sheet.size == (3 * 320, 3 * 213)
        printed = capsys.readouterr().out
        assert "flicker without" in printed
        assert "10 pictures, 0 cuts" in printed

    def test_a_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        film_flicker = load_benchmark("film_flicker", monkeypatch)
        write_film(tmp_path / "film.mp4", 30, 48, 32)
        part = film_flicker.part_of(tmp_path / "film.mp4", 0.2, 5)
        assert part == (Fraction(1, 5), Fraction(2, 5))
        whole = list(film_flicker.pictures(tmp_path / "film.mp4"))
        some = list(film_flicker.pictures(tmp_path / "film.mp4", part))
        assert len(whole) == 30
        assert len(some) == 5
        assert np.array_equal(some[0].pixels, whole[5].pixels)

    @pytest.mark.parametrize("wrong", [["--shown", "0"], ["--frames", "0"]])
    def test_nothing_to_see(self, monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
        with pytest.raises(SystemExit):
            load_benchmark("film_flicker", monkeypatch).parse(["film.mp4", *wrong])
