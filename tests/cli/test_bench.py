from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
from click.testing import CliRunner

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.cli import cli
from ugatit_batch.errors import ModelNotFoundError, SizeError
from ugatit_engines import measure, measure_film
from ugatit_engines.open_engine import open_engine
from ugatit_engines.specimens import write_random_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

KEYS = {
    *("model", "direction", "device", "engine", "precision", "batch_size", "size", "network_size", "format"),
    *("pictures", "rounds", "pictures_per_second", "ratio", "slowest", "ratio_to_slowest", "workers"),
    *("error_levels", "machine", "version"),
}
VIDEO_KEYS = KEYS - {"format", "pictures_per_second", "workers"} | {"frames_per_second", "video"}
VIDEO = {
    *("film_size", "codec", "codec_options", "codec_threads", "seconds_to_first", "seconds_after_last"),
}
TINY = ("--size", "32", "--pictures", "3", "--rounds", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(measure, "_SHORTEST", 0.0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert list(scratch.glob("ugatit-batch-*")) == []


@pytest.fixture
def model(tmp_path: Path) -> str:
    write_random_bundle(tmp_path / "models" / "tiny", GeneratorConfig(4, residual_blocks=1))
    return str(tmp_path / "models" / "tiny")


def bench(*words: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *words], standalone_mode=False)


def test_json_is_complete(model: str) -> None:
    result = bench("-m", model, *TINY, "--format", "png", "-b", "2", "--precision", "fp32", "--json")
    assert result.exception is None
    line: dict[str, Any] = json.loads(result.stdout)
    assert set(line) == KEYS
    assert set(line["pictures_per_second"]) == {"run", "network", "decode", "encode"}
    assert all(rate > 0 for rate in line["pictures_per_second"].values())
    assert line["ratio"] > 0
    assert line["ratio_to_slowest"] > 0
    assert set(line["error_levels"]) == {"mean", "max"}
    assert line["error_levels"]["mean"] <= line["error_levels"]["max"] <= 1
    assert line["slowest"] in ("decode", "network", "encode")
    assert (line["batch_size"], line["pictures"], line["rounds"]) == (2, 3, 2)
    assert (line["network_size"], line["precision"], line["format"]) == ([32, 32], "fp32", "png")
    assert set(line["machine"]) == {"cpu", "cores", "threads", "gpu", "system", "python", "torch"}
    assert "round 2" in result.stderr


def test_the_help_names_the_keys() -> None:
    words = re.findall(r"\w+", bench("--help").stdout)
    assert set(words) >= KEYS | VIDEO_KEYS | VIDEO


def test_a_table_for_people(model: str) -> None:
    result = bench("-m", "tiny", "--models-dir", model.removesuffix("tiny"), *TINY)
    assert result.exception is None
    for word in (
        "folder run",
        "bare network",
        "ratio",
        "decode",
        "encode",
        "slowest",
        "error",
        torch.__version__,
    ):
        assert word in result.stdout


def test_the_model_keeps_its_own_size(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "full", GeneratorConfig(2, residual_blocks=1, light=False, image_size=16))
    result = bench("-m", str(tmp_path / "full"), *TINY, "--json")
    assert result.exception is None
    line = json.loads(result.stdout)
    assert (line["size"], line["network_size"]) == (32, [16, 16])


def test_a_model_is_made_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugatit_batch.bundle.GeneratorConfig", lambda: GeneratorConfig(2, residual_blocks=1))
    result = bench(*TINY, "--rounds", "1", "--json")
    assert result.exception is None
    assert json.loads(result.stdout)["model"] == "random"


def test_an_unknown_model(tmp_path: Path) -> None:
    assert isinstance(bench("-m", "none", "--models-dir", str(tmp_path)).exception, ModelNotFoundError)


def test_a_size_that_does_not_fit(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugatit_engines.torch_engine.free_memory", lambda _: 2000)
    assert isinstance(bench("-m", model, *TINY).exception, SizeError)


def test_interrupted(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.Workload, "decode", interrupt)
    result = bench("-m", model, *TINY, "--json")
    assert result.return_value == 130
    assert result.stdout == ""
    assert "interrupted" in result.stderr


def test_a_film_in_json(model: str) -> None:
    words = ("--video", "--codec-threads", "1", "--preset", "ultrafast", "--crf", "30", "-b", "2")
    result = bench("-m", model, *TINY, *words, "--precision", "fp32", "--json")
    assert result.exception is None
    line: dict[str, Any] = json.loads(result.stdout)
    assert set(line) == VIDEO_KEYS
    assert list(line["frames_per_second"]) == ["run", "network", "decode", "encode", "join"]
    assert all(rate > 0 for rate in line["frames_per_second"].values())
    assert line["ratio"] > 0
    assert line["ratio_to_slowest"] > 0
    assert line["slowest"] in ("decode", "network", "encode")
    assert (line["size"], line["pictures"], line["rounds"]) == (32, 3, 2)
    assert set(line["video"]) == VIDEO
    assert line["video"]["film_size"] == [56, 32]
    assert (line["video"]["codec"], line["video"]["codec_threads"]) == ("libx264", 1)
    assert line["video"]["codec_options"] == {"preset": "ultrafast", "crf": "30"}
    assert line["video"]["seconds_to_first"] > 0
    assert line["video"]["seconds_after_last"] > 0
    assert line["error_levels"]["max"] <= 1
    assert "3 pictures of 56×32 in a film" in result.stderr


def test_a_table_of_a_film(model: str) -> None:
    result = bench("-m", model, *TINY, "--video")
    assert result.exception is None
    for word in (
        "film run",
        "bare network",
        "ratio",
        "decode",
        "encode",
        "libx264",
        "join",
        "slowest",
        "error",
    ):
        assert word in result.stdout


@pytest.mark.parametrize("codec", ["ffv1", "prores"])
def test_a_codec_has_a_container_that_takes_it(model: str, codec: str) -> None:
    result = bench("-m", model, *TINY, "--rounds", "1", "--video", "--codec", codec, "--json")
    assert result.exception is None
    assert json.loads(result.stdout)["video"]["codec"].startswith(codec)


def test_a_film_of_no_size_is_of_720_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class MeasuredError(Exception):
        pass

    def measured(path: Path, count: int, width: int, height: int) -> None:
        raise MeasuredError(count, width, height)

    monkeypatch.setattr("ugatit_batch.bundle.GeneratorConfig", lambda: GeneratorConfig(2, residual_blocks=1))
    monkeypatch.setattr("ugatit_engines.specimens.write_film", measured)
    error = bench("--video", "--device", "cpu").exception
    assert isinstance(error, MeasuredError)
    assert error.args == (16, 1280, 720)


def test_a_network_of_random_weights_sees_a_small_film(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugatit_batch.bundle.GeneratorConfig", lambda: GeneratorConfig(2, residual_blocks=1))
    words = ("--video", "--size", "180", "--pictures", "1", "--rounds", "1", "--device", "cpu")
    result = bench(*words, "--preset", "ultrafast", "--json")
    assert result.exception is None
    line = json.loads(result.stdout)
    assert (line["model"], line["network_size"]) == ("random", [256, 144])
    assert line["video"]["film_size"] == [320, 180]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--video", "--format", "png"), "--format is not for --video"),
        (("--codec-threads", "1"), "--codec-threads is for --video"),
        (("--codec", "libx265"), "--codec is for --video"),
        (("--crf", "20"), "--crf is for --video"),
        (("--preset", "fast"), "--preset is for --video"),
        (("--video", "--size", "145"), "--size 145"),
        (("--video", "--size", "9218"), "--size 9218"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], message: str) -> None:
    error = bench(*words).exception
    assert isinstance(error, click.UsageError)
    assert message in error.message


def test_variables_may_stay_set(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGATIT_BATCH_BENCH_CODEC_THREADS", "1")
    arguments = ["bench", "-m", model, *TINY, "--rounds", "1", "--json"]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False, auto_envvar_prefix="UGATIT_BATCH")
    assert result.exception is None


def test_several_devices_are_named_by_their_first(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugatit_engines.devices.split_devices", lambda value: [value.split(",")[0], "cpu"])
    monkeypatch.setattr(
        "ugatit_batch.cli.shared.open_translator",
        lambda bundle, direction, _sizing, **_options: open_engine(bundle, direction, "cpu", "fp32"),
    )
    result = bench("-m", model, *TINY, "--rounds", "1", "--device", "cpu,cpu", "--json")
    assert result.exception is None
    assert json.loads(result.stdout)["device"] == "cpu"


def test_a_film_interrupted(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_film.FilmWorkload, "encode", interrupt)
    result = bench("-m", model, *TINY, "--video", "--json")
    assert result.return_value == 130
    assert result.stdout == ""


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from ugatit_batch.cli import cli\n"
        "cli(['bench', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "  ugatit-batch bench --model ink" in done.stdout
