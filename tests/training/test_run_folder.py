from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ugatit_batch.bundle import Bundle, GeneratorConfig, WorkingSize, save_bundle
from ugatit_batch.errors import BundleError, ConfigError, OutputBusyError
from ugatit_training.config import parse_config
from ugatit_training.loop import Step
from ugatit_training.run_folder import (
    RunInfo,
    append_metrics,
    check_run,
    cut_metrics,
    held,
    mark_of,
    model_belongs_to,
    open_run,
    read_config,
    read_info,
    read_metrics,
)

from .tiny import tiny

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS: dict[str, Any] = {
    "crop_scale": (0.5, 1.0),
    "flip": 0.25,
    "light": False,
    "norm": "in",
    "cam": "none",
    "variance": "unbiased",
    "precision": "bf16",
    "ema": 0.9,
    "diff_augment": ("color",),
    "replay_pool": 50,
    "seed": 1,
    "image_size": 36,
}
INFO = RunInfo(
    mark="0123", source="/data/trainA", target="/data/trainB", domains=("cat", "dog"), pictures=(5, 7)
)


def test_a_new_run_is_written_down(tmp_path: Path) -> None:
    run = tmp_path / "runs/cat2dog"
    config = tiny(crop_scale=(0.5, 1.0))
    assert open_run(run, config, INFO) == INFO
    assert read_info(run / "run.json") == INFO
    assert parse_config((run / "config.toml").read_text("utf-8"), "config.toml") == config
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "run.json"]


def test_what_is_said_again_replaces_what_was_said(tmp_path: Path) -> None:
    open_run(tmp_path, tiny(), INFO)
    again = dataclasses.replace(INFO, sources=("mine",), licence="CC0-1.0")
    assert open_run(tmp_path, tiny(), again) == again
    assert read_info(tmp_path / "run.json").licence == "CC0-1.0"
    assert open_run(tmp_path, tiny(), INFO) == again, "saying nothing must not take it back"


def test_one_training_a_run_folder(tmp_path: Path) -> None:
    first = held(tmp_path / "run")
    with first, pytest.raises(OutputBusyError, match="another training"), held(tmp_path / "run"):
        pytest.fail("two trainings write to one folder")
    with held(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_run_keeps_its_mark_and_others_have_another(tmp_path: Path) -> None:
    assert mark_of(tmp_path) != mark_of(tmp_path)
    open_run(tmp_path, tiny(), INFO)
    assert mark_of(tmp_path) == INFO.mark


def test_another_config_is_refused_with_all_differences(tmp_path: Path) -> None:
    open_run(tmp_path, tiny(), INFO)
    before = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        open_run(tmp_path, tiny(steps=99, batch_size=3, crop_scale=(0.5, 1.0), learning_rate=1e-3), INFO)
    assert caught.value.message == (
        f"{tmp_path}: a run with another config is there: batch_size was 1, now 3, "
        "crop_scale was None, now (0.5, 1.0), learning_rate was 0.0001, now 0.001"
    )
    assert "--name" in caught.value.hint
    assert (tmp_path / "config.toml").read_bytes() == before


def test_what_does_not_touch_the_weights_may_change(tmp_path: Path) -> None:
    open_run(tmp_path, tiny(), INFO)
    changes: dict[str, Any] = {
        "steps": 99,
        "workers": 3,
        "report_every": 7,
        "sample_every": 8,
        "checkpoint_every": 9,
        "keep_checkpoints": 1,
        "working_mode": "native",
        "working_side": 512,
        "evaluate_every": 11,
        "tf32": False,
        "share_fakes": False,
        "join_passes": False,
        "channels_last": False,
        "fused_adam": False,
        "compile": True,
        "cuda_graphs": True,
        "checkpoint_activations": True,
    }
    open_run(tmp_path, tiny(**changes), INFO)
    stored = parse_config((tmp_path / "config.toml").read_text("utf-8"), "config.toml")
    assert stored == tiny(**changes)
    may_not = {field.name for field in dataclasses.fields(stored)} - changes.keys()
    for name in sorted(may_not):
        other = _OTHERS.get(name) or getattr(stored, name) * 2
        with pytest.raises(ConfigError, match=rf"{name} was "):
            open_run(tmp_path, tiny(**{name: other}), INFO)


WASH = {"model": "wash", "a2b": "00ff"}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({}, WASH, "started without --init-from"),
        (WASH, {}, "started from model wash"),
        (WASH, {"model": "ink", "a2b": "0001"}, "started from model wash"),
        (WASH, {"model": "ink", "a2b": "00ff", "b2a": "0001"}, "started from model wash"),
        (WASH, WASH, None),
        (WASH, {"model": "copy", "a2b": "00ff"}, None),
        (WASH, {"model": "wash", "a2b": "0001"}, None),
    ],
)
def test_another_beginning_is_refused(
    tmp_path: Path, before: dict[str, str], now: dict[str, str], words: str | None
) -> None:
    open_run(tmp_path, tiny(), dataclasses.replace(INFO, initial=before))
    wanted = dataclasses.replace(INFO, initial=now)
    if words is not None:
        with pytest.raises(ConfigError, match=words):
            open_run(tmp_path, tiny(), wanted)
        assert read_info(tmp_path / "run.json").initial == before
        return
    assert open_run(tmp_path, tiny(), wanted).initial == now, "read again while there is no checkpoint"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000002.pt").write_bytes(b"")
    assert (
        open_run(tmp_path, tiny(), dataclasses.replace(INFO, initial=now | {"model": "more"})).initial == now
    )


def test_looking_writes_nothing(tmp_path: Path) -> None:
    assert check_run(tmp_path / "run", tiny(), INFO) == INFO
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "/other"}, "with source /data/trainA, not /other"),
        ({"target": "/other"}, "with target /data/trainB, not /other"),
        ({"domains": ("cat", "fox")}, r"with domains \('cat', 'dog'\), not \('cat', 'fox'\)"),
    ],
)
def test_other_pictures_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    open_run(tmp_path, tiny(), INFO)
    with pytest.raises(ConfigError, match=words):
        open_run(tmp_path, tiny(), dataclasses.replace(INFO, **change))
    assert read_info(tmp_path / "run.json") == INFO


def test_fewer_steps_than_were_taken_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    open_run(tmp_path, tiny(steps=12), INFO)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000012.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="already at step 12, beyond steps = 8") as caught:
        open_run(tmp_path, tiny(steps=8), INFO)
    assert "--steps 12" in caught.value.hint
    assert "steps = 12\n" in (tmp_path / "config.toml").read_text("utf-8")
    open_run(tmp_path, tiny(steps=12), INFO)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"mark": 1, "more": 2}', "7"])
def test_a_damaged_run_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"run\.json: damaged") as caught:
        open_run(tmp_path, tiny(), INFO)
    assert "--name" in caught.value.hint


@pytest.mark.parametrize("name", ["config.toml", "run.json"])
def test_checkpoints_without_what_they_belong_to_are_not_gone_on_with(tmp_path: Path, name: str) -> None:
    open_run(tmp_path, tiny(), INFO)
    (tmp_path / name).unlink()
    if name == "config.toml":
        open_run(tmp_path, tiny(batch_size=2), INFO)
        (tmp_path / name).unlink()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000001.pt").write_bytes(b"")
    for config in (tiny(), tiny(batch_size=2)):
        with pytest.raises(ConfigError, match=f"a run without its {name}: ") as caught:
            open_run(tmp_path, config, INFO)
        assert caught.value.hint == "bring it back, or use another --name"
    assert not (tmp_path / name).exists()


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    open_run(tmp_path, tiny(batch_size=3), INFO)
    assert read_config(tmp_path) == tiny(batch_size=3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"steps = 1 # \xff\n", "cannot be read: not UTF-8"),
        (b"steps 1\n", "not TOML"),
        (b"stops = 1\n", "unknown field"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    open_run(tmp_path, tiny(), INFO)
    path = tmp_path / "config.toml"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            open_run(tmp_path, tiny(), INFO)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path)
    assert caught.value.message.startswith(f"{path}: ")
    assert words in caught.value.message


# Metrics


def report(step: int, loss: float) -> Step:
    return Step(step, 100, {"cycle_a": loss}, 1e-4, 2.123456)


def test_metrics_are_cut_at_the_step_that_is_resumed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        append_metrics(tmp_path, report(step, step / 7))
    lines = read_metrics(tmp_path)
    assert lines[1] == {
        "step": 20,
        "learning_rate": 1e-4,
        "steps_per_second": 2.1235,
        "cycle_a": 20 / 7,
    }
    cut_metrics(tmp_path, 20)
    assert read_metrics(tmp_path) == lines[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    cut_metrics(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    append_metrics(tmp_path, report(10, 0.5))
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 20, "cy')
    assert [line["step"] for line in read_metrics(tmp_path)] == [10]
    cut_metrics(tmp_path, 10)
    append_metrics(tmp_path, report(20, 0.4))
    text = (tmp_path / "metrics.jsonl").read_text("utf-8")
    assert [json.loads(line)["step"] for line in text.splitlines()] == [10, 20]


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"oops", b"7", b"null", b"[1]", b'"step"', b"{}", b"\xff\xfe", b"[" * 100000),
        b'{"cycle_a": 1}',
        *(b'{"step": null}', b'{"step": "9"}', b'{"step": true}', b'{"step": 9, "cycle_a": "much"}'),
    ],
    ids=lambda line: line[:20].decode(errors="replace"),
)
def test_bad_lines_are_left_out(tmp_path: Path, line: bytes) -> None:
    append_metrics(tmp_path, report(10, 0.5))
    with (tmp_path / "metrics.jsonl").open("ab") as handle:
        handle.write(line + b"\n")
    append_metrics(tmp_path, report(20, 0.4))
    assert [found["step"] for found in read_metrics(tmp_path)] == [10, 20]
    cut_metrics(tmp_path, 15)
    text = (tmp_path / "metrics.jsonl").read_text("utf-8")
    assert [json.loads(found)["step"] for found in text.splitlines()] == [10]


def test_there_need_be_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    cut_metrics(tmp_path / "new", 0)
    assert read_metrics(tmp_path / "new") == []


# The model's folder


def test_a_model_belongs_to_the_run_that_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "cat2dog"
    assert model_belongs_to(folder, INFO)
    bundle = Bundle("cat2dog", ("cat", "dog"), GeneratorConfig(), WorkingSize(), {}, {"run": "0123"})
    save_bundle(bundle, {"a2b": {"x": np.zeros(1, np.float16)}}, folder)
    assert model_belongs_to(folder, INFO)
    assert not model_belongs_to(folder, dataclasses.replace(INFO, mark="4567"))
    (folder / "bundle.json").write_text("{", "utf-8")
    with pytest.raises(BundleError):
        model_belongs_to(folder, INFO)
