from __future__ import annotations

import inspect
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_batch.bundle import GeneratorConfig, load_bundle
from ugatit_batch.errors import PictureError
from ugatit_batch.frames import Batch
from ugatit_batch.images.write import Encoding
from ugatit_batch.pipeline import Pipeline
from ugatit_batch.settings import Settings, choose_sizing
from ugatit_engines import measure
from ugatit_engines.measure import (
    WORKERS,
    Workload,
    alternate,
    describe_machine,
    error_levels,
    exhaust_in_thread,
    keep_record,
    median,
    median_ratio,
    summarize,
)
from ugatit_engines.open_engine import open_engine
from ugatit_engines.specimens import texture, write_pictures, write_random_bundle
from ugatit_engines.torch_engine import load_generator

from .programs import load_benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIDE = 32
CONFIG = GeneratorConfig(4, residual_blocks=1, variance="unbiased")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measure, "_SHORTEST", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_workload(tmp_path: Path, count: int = 3, encoding: Encoding | None = None) -> Workload:
    for name in ("pictures", "outputs"):
        (tmp_path / name).mkdir()
    write_pictures(tmp_path / "pictures", count, SIDE)
    bundle = write_random_bundle(tmp_path / "model", CONFIG)
    translator = open_engine(bundle, "a2b", "cpu", "fp32", 2)
    settings = Settings(choose_sizing(bundle), encoding or Encoding("png"))
    digest = bundle.digest("a2b")
    return Workload(tmp_path / "pictures", translator, digest, settings, tmp_path / "outputs")


class TestWorkload:
    def test_every_stage_has_a_speed_and_leaves_nothing(self, tmp_path: Path) -> None:
        work = make_workload(tmp_path)
        assert work.network_size == (SIDE, SIDE)
        rates = {name: contestant() for name, contestant in work.contestants().items()}
        assert set(rates) == {"run", "network", "decode", "encode"}
        assert all(rate > 0 for rate in rates.values())
        assert list((tmp_path / "outputs").iterdir()) == []
        assert len(list((tmp_path / "pictures").iterdir())) == 3

    @pytest.mark.parametrize("format_", ["auto", "jpg", "webp"])
    def test_formats(self, tmp_path: Path, format_: Any) -> None:
        work = make_workload(tmp_path, 1, Encoding(format_))
        assert work.run() > 0
        assert work.encode() > 0

    def test_a_damaged_picture_is_no_figure(self, tmp_path: Path) -> None:
        work = make_workload(tmp_path)
        work.pictures[1].write_bytes(b"no picture")
        with pytest.raises(PictureError, match="picture-00001"):
            work.run()

    def test_workers_are_what_a_run_has(self) -> None:
        parameters = inspect.signature(Pipeline).parameters
        assert parameters["readers"].default == parameters["writers"].default == WORKERS


class TestErrorLevels:
    def test_levels_between_the_results_of_two_precisions(self, tmp_path: Path) -> None:
        work = make_workload(tmp_path)
        bundle = load_bundle(tmp_path / "model")
        reference = load_generator(bundle, "a2b")
        exact = error_levels(work.translator, reference, work.frames())
        assert exact.mean <= 0.01
        half = error_levels(open_engine(bundle, "a2b", "cpu", "bf16"), reference, work.frames())
        assert half.max >= half.mean > exact.mean

    def test_another_generator_is_far_away(self, tmp_path: Path) -> None:
        work = make_workload(tmp_path)
        other = load_generator(load_bundle(tmp_path / "model"), "b2a")
        far = error_levels(work.translator, other, work.frames())
        assert far.max > far.mean > 5

    def test_a_part_of_a_large_picture_is_compared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = make_workload(tmp_path)
        reference = load_generator(load_bundle(tmp_path / "model"), "a2b")
        seen: list[torch.Size] = []
        reference.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
        monkeypatch.setattr(measure, "_COMPARED_SIDE", 16)
        error_levels(work.translator, reference, work.frames())
        assert seen == [(1, 3, 16, 16)] * 2


class TestRounds:
    def test_contestants_take_turns_and_the_warm_up_does_not_count(self) -> None:
        calls: list[str] = []

        def contestant(name: str) -> float:
            calls.append(name)
            return float(len(calls))

        contestants = {name: lambda name=name: contestant(name) for name in "ab"}
        rounds = list(alternate(contestants, 2))
        assert "".join(calls) == "ababab"
        assert rounds == [{"a": 3, "b": 4}, {"a": 5, "b": 6}]

    def test_medians(self) -> None:
        rounds = [{"a": 1.0, "b": 2.0}, {"a": 8.0, "b": 4.0}, {"a": 3.0, "b": 3.0}]
        assert median(rounds, "a") == 3
        assert median_ratio(rounds, "a", "b") == 1

    def test_the_slowest_stage_counts_its_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measure, "usable_cores", lambda: 8)
        one = {"run": 9.0, "network": 18.0, "decode": 100.0, "encode": 10.0}
        assert summarize([one]).slowest == "network"
        found = summarize([one | {"encode": 5.0}])
        assert found.slowest == "encode"
        assert found.ratio == 0.5
        assert found.ratio_to_slowest == pytest.approx(0.9)

    def test_one_core_gives_no_second_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measure, "usable_cores", lambda: 1)
        one = {"run": 9.0, "network": 18.0, "decode": 100.0, "encode": 10.0}
        assert summarize([one]).slowest == "encode"


class TestThread:
    def test_goes_through_all_in_another_thread(self) -> None:
        seen: list[int] = []

        def steps() -> Iterator[None]:
            for _ in range(3):
                seen.append(threading.get_ident())
                yield

        exhaust_in_thread(steps())
        assert len(seen) == 3
        assert threading.get_ident() not in seen

    def test_errors_come_out(self) -> None:
        def steps() -> Iterator[None]:
            yield
            raise PictureError("a.png: is cut short")

        with pytest.raises(PictureError, match="cut short"):
            exhaust_in_thread(steps())


def test_machine() -> None:
    machine = describe_machine(torch.device("cpu"))
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.threads == 1
    assert machine.gpu is None


def test_records(tmp_path: Path) -> None:
    path = keep_record(tmp_path / "results", "here", {"ratio": 0.97}, "On this machine: 0.97.")
    assert json.loads(path.read_text("utf-8")) == {"ratio": 0.97}
    assert (tmp_path / "results" / "here.md").read_text("utf-8") == "On this machine: 0.97.\n"


class TestSpecimens:
    def test_pictures_are_textured_and_differ(self, tmp_path: Path) -> None:
        paths = write_pictures(tmp_path, 40, SIDE)
        assert len({path.read_bytes() for path in paths}) == 40
        with Image.open(paths[0]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
            assert np.asarray(image).std() > 20

    def test_coarse_is_stronger_than_fine(self) -> None:
        pixels = texture(128, np.random.default_rng(0)).astype(float).mean(2)
        spectrum = np.abs(np.fft.rfft2(pixels - pixels.mean()))
        assert spectrum[1:4, 1:4].mean() > 10 * spectrum[40:60, 40:60].mean()

    def test_a_side_that_is_too_small(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="16"):
            write_pictures(tmp_path, 1, 8)

    def test_random_weights_give_a_picture(self, tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        bundle = write_random_bundle(tmp_path / "model", GeneratorConfig(8))
        assert torch.equal(before, torch.random.get_rng_state())
        pixels = texture(64, np.random.default_rng(1))[None]
        translated = next(open_engine(bundle, "b2a", "cpu").translate(iter([Batch(pixels)])))
        assert 15 < translated.pixels.std() < 80
        assert np.ptp(translated.attention) > 0


class TestBenchmarks:
    def test_the_published_loop_gives_our_pictures(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder_run = load_benchmark("folder_run", monkeypatch)
        paths = write_pictures(tmp_path, 2, SIDE, suffix=".png")
        bundle = write_random_bundle(tmp_path / "model", CONFIG)
        networks = [load_generator(bundle, direction) for direction in bundle.directions]
        loop = folder_run.PublishedLoop(*networks, SIDE, torch.device("cpu"))
        (tmp_path / "out").mkdir()
        stacks = list(loop.run(paths, tmp_path / "out"))
        assert [path.name for path in stacks] == ["A2B_1.png", "A2B_2.png"]
        for path, stack in zip(paths, stacks, strict=True):
            source = np.array(Image.open(path))
            parts = np.array(Image.open(stack)).reshape(7, SIDE, SIDE, 3).astype(int)
            assert np.array_equal(parts[0], source)
            expected = []
            for direction, given in (("b2a", source), ("a2b", source)):
                translator = open_engine(bundle, direction, "cpu", "fp32")  # type: ignore[arg-type]
                expected.append(next(translator.translate(iter([Batch(given[None])]))).pixels[0].astype(int))
            assert np.abs(parts[2] - expected[0]).max() <= 1
            assert np.abs(parts[4] - expected[1]).max() <= 1
            for heat in parts[[1, 3, 5]]:
                assert np.ptp(heat) > 100

    def test_a_flat_map_has_a_colour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        folder_run = load_benchmark("folder_run", monkeypatch)
        network = torch.nn.Identity()
        loop = folder_run.PublishedLoop(network, network, SIDE, torch.device("cpu"))
        heat = loop.heat_map(torch.ones(1, 8, 8))
        assert heat.shape == (SIDE, SIDE, 3)
        assert np.isfinite(heat).all()

    def test_folder_run_measures(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder_run = load_benchmark("folder_run", monkeypatch)
        options = folder_run.parse(
            [
                "--size",
                "32",
                "--channels",
                "4",
                "--pictures",
                "2",
                "--rounds",
                "1",
                "--device",
                "cpu",
                "--precision",
                "fp32",
            ]
        )
        figures = folder_run.measure(options)
        assert figures["run_to_published"] > 0
        assert figures["run_to_network"] > 0
        assert figures["error_levels"]["max"] <= 1
        assert set(figures["pictures_per_second"]) == {"run", "network", "decode", "encode", "published"}
        json.dumps(figures)
        assert "width 4, fp32" in folder_run.sentence(figures, figures["machine"])
        assert "round 1 of 1" in capsys.readouterr().err

    def test_memory_constants(self, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = load_benchmark("memory", monkeypatch)
        probes = [memory.Probe(16, 64, "fp32", 5_000_000), memory.Probe(16, 128, "fp32", 6_966_080)]
        assert probes[1].constant == pytest.approx(26.57, abs=0.01)
        assert memory.slope(probes) == pytest.approx(10.0, abs=0.01)

    def test_memory_is_followed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        folder_memory = load_benchmark("folder_memory", monkeypatch)
        samples = list(folder_memory.follow(40, 16, 2, 10))
        assert [sample.done for sample in samples] == [10, 20, 30, 40]
        assert all(sample.resident > 0 for sample in samples)
