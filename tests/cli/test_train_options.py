from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest

from ugatit_batch.bundle import GeneratorConfig, load_bundle
from ugatit_training import data_checks
from ugatit_training.config import parse_config

from ..fakes import full, make_model
from .training_place import Place, invoke

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def place(training: Place) -> Place:
    return training


# --set


def resolved(place: Place, *arguments: object) -> Any:
    outcome = invoke("train", place.data, *place.options(), *arguments, "--dry-run")
    assert outcome.code == 0, outcome.err
    return parse_config(outcome.out, "stdout")


def test_set_takes_any_field_and_toml_or_a_word(place: Place) -> None:
    assignments = {
        "cam=none": ("cam", "none"),
        " norm = in ": ("norm", "in"),
        "ema=0.999": ("ema", 0.999),
        "flip=0": ("flip", 0.0),
        "compile=true": ("compile", True),
        "variance='unbiased'": ("variance", "unbiased"),
        'diff_augment=["color", "cutout"]': ("diff_augment", ("color", "cutout")),
        "crop_scale=[0.5, 1]": ("crop_scale", (0.5, 1.0)),
        "replay_pool=50": ("replay_pool", 50),
    }
    config = resolved(place, *(part for text in assignments for part in ("--set", text)))
    assert {name: getattr(config, name) for name, _ in assignments.values()} == dict(assignments.values())
    assert (config.channels, config.steps) == (4, 6), "the rest is the recipe's"


def test_set_brings_the_load_size_along_as_the_flag_does(place: Place) -> None:
    assert resolved(place, "--set", "image_size=64") == resolved(place, "--size", 64)
    assert resolved(place, "--evaluate-every", 7) == resolved(place, "--set", "evaluate_every=7")
    assert resolved(place, "--evaluate-every", 7).evaluate_every == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "ema"], "write FIELD=VALUE"),
        (["--set", "=3"], "write FIELD=VALUE"),
        (["--set", "ema="], "write FIELD=VALUE"),
        (["--set", "emma=0.9"], "no field emma\ndid you mean ema?"),
        (["--set", "ema=0.9 0.8"], "neither a word nor a TOML value"),
        (["--set", "ema=1\nsteps=2"], "neither a word nor a TOML value"),
        (["--set", "ema=lots"], "ema = 'lots'"),
        (["--set", "ema=2"], "ema = 2.0: a decay lies between 0 and 1"),
        (["--set", "light=yes"], "light = 'yes'"),
        (["--set", "cam=some"], "one of both, generator, discriminator, none"),
        (["--set", "steps=3", "--set", "steps=4"], "--set steps: given twice"),
        (["--set", "steps=3", "--steps", "3"], "--steps and --set steps=3: give one"),
        (["--set", "image_size=64", "--size", "64"], "--size and --set image_size=64: give one"),
        (["--set", "evaluate_every=5", "--evaluate-every", "5"], "--evaluate-every and --set evaluate_every"),
    ],
)
def test_wrong_assignments_end_with_2(place: Place, arguments: list[str], words: str) -> None:
    outcome = invoke("train", place.data, *place.options(), *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert not place.runs.exists()


def test_the_help_names_the_ablations() -> None:
    from ugatit_training.config import ABLATIONS

    assert "ablation-*" in invoke("train", "--help").out
    assert invoke("train", "x", "--recipe", ABLATIONS[0], "--dry-run").code == 0


# --init-from


def finished(place: Place, name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((place.models / name / "bundle.json").read_text("utf-8"))
    return manifest


def test_a_run_starts_from_a_models_generators(place: Place, pretend: Callable[..., list[int]]) -> None:
    shape = GeneratorConfig(channels=8, residual_blocks=1, image_size=64)
    start = make_model(place.models / "start", shape)
    pretend()
    outcome = invoke("train", place.data, *place.options(), "--init-from", "start")
    assert outcome.code == 0, outcome.err
    assert "the generators start from model start, the discriminators anew" in outcome.err
    assert "as model start has it: channels = 8 instead of 4" in outcome.err
    made = load_bundle(place.models / "cat2dog")
    for direction in start.directions:
        before, after = start.weights(direction), made.weights(direction)
        assert all(np.array_equal(before[name].astype(np.float16), after[name]) for name in before)
    record = {"model": "start"}
    for direction in start.directions:
        record[direction] = start.digest(direction)
    assert made.training["initial"] == record
    assert json.loads((place.runs / "cat2dog/run.json").read_text("utf-8"))["initial"] == record
    assert made.generator.image_size == 32, "a light generator learns at the recipe's size"


def test_a_direction_that_a_model_lacks_starts_anew_and_that_is_said(
    place: Place, pretend: Callable[..., list[int]]
) -> None:
    start = make_model(place.models / "start", directions=("b2a",))
    pretend()
    outcome = invoke("train", place.data, *place.options(), "--init-from", place.models / "start")
    assert "model start has no generator a2b: that one starts anew" in outcome.err
    assert set(finished(place, "cat2dog")["training"]["initial"]) == {"model", "b2a"}
    weights = load_bundle(place.models / "cat2dog").weights("b2a")
    before = start.weights("b2a")
    assert all(np.array_equal(before[n].astype(np.float16), weights[n]) for n in before)


def test_a_full_model_brings_its_size(place: Place) -> None:
    make_model(place.models / "start", full(GeneratorConfig(channels=4, residual_blocks=2, image_size=48)))
    config = resolved(place, "--init-from", "start", "--set", "working_mode=square")
    assert (config.light, config.image_size, config.residual_blocks) == (False, 48, 2)
    assert config.load_size == 54
    outcome = invoke("train", place.data, *place.options(), "--init-from", "start", "--size", 32)
    assert outcome.code == 2
    assert (
        "image_size = 32 contradicts --init-from start, whose generators have image_size = 48" in outcome.err
    )


def test_a_resumed_run_goes_on_from_its_checkpoint(place: Place, pretend: Callable[..., list[int]]) -> None:
    make_model(place.models / "start", GeneratorConfig(channels=8, residual_blocks=1))
    make_model(place.models / "other", GeneratorConfig(channels=8, residual_blocks=1))
    pretend()
    command = ("train", place.data, *place.options(), "--init-from")
    assert invoke(*command, "start").code == 0
    other = invoke(*command, "other", "--steps", 8)
    assert other.code == 0, "a copy under another name is the same beginning"
    assert "the generators start" not in other.err
    make_model(place.models / "other", GeneratorConfig(channels=8, residual_blocks=1), directions=("a2b",))
    other = invoke(*command, "other", "--steps", 10)
    assert other.code == 2
    assert "this run was started from model start" in other.err
    assert "--init-from start" in other.err
    without = invoke("train", place.data, *place.options(), "--set", "channels=8", "--steps", 8)
    assert without.code == 2
    assert "this run was started from model start" in without.err
    (place.models / "start/bundle.json").unlink()
    taken = pretend()
    again = invoke(*command, "start", "--steps", 10)
    assert again.code == 0, again.err
    assert taken == [1, 2]
    assert "start from" not in again.err


def test_an_old_run_takes_no_new_beginning(place: Place, pretend: Callable[..., list[int]]) -> None:
    make_model(place.models / "start")
    pretend()
    assert invoke("train", place.data, *place.options()).code == 0
    outcome = invoke("train", place.data, *place.options(), "--init-from", "start")
    assert outcome.code == 2
    assert "was started without --init-from" in outcome.err


def test_without_a_checkpoint_the_model_is_read_again(
    place: Place, pretend: Callable[..., list[int]]
) -> None:
    make_model(place.models / "start", directions=("a2b",))
    pretend(1, 2, 2)
    command = ("train", place.data, *place.options(), "--init-from", "start")
    with pytest.raises(click.Abort):
        invoke(*command)
    start = make_model(place.models / "start", directions=("a2b", "b2a"))
    pretend()
    assert invoke(*command).code == 0
    assert finished(place, "cat2dog")["training"]["initial"]["b2a"] == start.digest("b2a")


def test_models_that_cannot_be_started_from(place: Place) -> None:
    command = ("train", place.data, *place.options(), "--init-from")
    unknown = invoke(*command, "nobody")
    assert unknown.code == 4
    assert "--init-from nobody: no such model" in unknown.err
    make_model(place.models / "old", GeneratorConfig(channels=4, residual_blocks=1, decoder_skip=False))
    old = invoke(*command, "old", "--dry-run")
    assert old.code == 2
    assert "can be used, but not trained here" in old.err
    assert "27 August 2019" in old.err
    assert not place.runs.exists()


# The check of the pictures


def test_unreadable_pictures_are_all_named_before_the_first_step(
    place: Place, pretend: Callable[..., list[int]]
) -> None:
    taken = pretend()
    for path in (place.data / "trainA/1.png", place.data / "trainB/0.png"):
        path.write_bytes(path.read_bytes()[:200])
    outcome = invoke("train", place.data, *place.options())
    assert outcome.code == 1
    assert "2 of 5 training pictures cannot be read" in outcome.err
    assert "trainA/1.png" in outcome.err
    assert "trainB/0.png" in outcome.err
    assert taken == []
    assert {path.name for path in (place.runs / "cat2dog").iterdir()} <= {".lock"}


def test_no_check_reads_nothing_beforehand(
    place: Place, pretend: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend()
    monkeypatch.setattr(data_checks, "open_rgb", lambda path: pytest.fail(f"{path} was read"))
    assert invoke("train", place.data, *place.options(), "--no-check").code == 0
    assert not (place.runs / "cat2dog/pictures.json").exists()


def test_a_resumed_run_reads_only_what_has_changed(
    place: Place, pretend: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend()
    command = ("train", place.data, *place.options())
    assert invoke(*command).code == 0
    monkeypatch.setattr(data_checks, "open_rgb", lambda path: pytest.fail(f"{path} was read"))
    assert invoke(*command, "--steps", 8).code == 0


def test_warnings_name_files_and_can_be_silenced(place: Place, pretend: Callable[..., list[int]]) -> None:
    pretend()
    copy = place.data / "testA/copy.png"
    copy.parent.mkdir()
    copy.write_bytes((place.data / "trainA/2.png").read_bytes())
    outcome = invoke("train", place.data, *place.options())
    assert outcome.code == 0
    assert f"{place.data / 'trainA/2.png'} = {copy}" in outcome.err
    assert "only 3 pictures of domain A" in outcome.err
    quiet = invoke("train", place.data, *place.options(), "--steps", 8, "--quiet")
    assert "copy.png" not in quiet.err


def test_another_run_of_that_name_is_refused_before_the_pictures_are_read(
    place: Place, pretend: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend()
    assert invoke("train", place.data, *place.options(), "--no-check").code == 0
    monkeypatch.setattr(data_checks, "open_rgb", lambda path: pytest.fail(f"{path} was read"))
    refused = invoke("train", place.data, *place.options(), "--batch-size", 2, "--steps", 8)
    assert refused.code == 2


# TensorBoard


def test_tensorboard_gets_every_step_once(place: Place, pretend: Callable[..., list[int]]) -> None:
    pretend(5, 2)
    command = ("train", place.data, *place.options(), "--tensorboard")
    assert invoke(*command).code == 130
    newest = sorted((place.runs / "cat2dog/checkpoints").iterdir())[-1]
    newest.unlink()
    pretend()
    assert invoke(*command).code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(place.runs / "cat2dog/tensorboard")).Reload()
    assert [event.step for event in read.Scalars("loss/cycle_a")] == [2, 3, 4, 6]
    assert [event.step for event in read.Images("samples/b2a")] == [4, 6]


def test_a_missing_package_ends_with_4_before_anything_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer", None)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    outcome = invoke("train", place.data, *place.options(), "--tensorboard")
    assert outcome.code == 4
    assert "pip install 'ugatit-batch[tensorboard]'" in outcome.err
    assert not place.runs.exists()


# EMA


def test_the_model_of_a_run_with_an_average_has_the_average(place: Place, tmp_path: Path) -> None:
    options = (*place.options(), "--set", "ema=0.9", "--set", "learning_rate=0.01", "--steps", 3)
    trained = invoke("train", place.data, *options)
    assert trained.code == 0, trained.err
    assert finished(place, "cat2dog")["training"]["weights"] == "ema"
    newest = sorted((place.runs / "cat2dog/checkpoints").iterdir())[-1]
    for weights in ("raw", "ema"):
        imported = invoke(
            "models", "import", newest, "--name", weights, "--weights", weights, "--models-dir", place.models
        )
        assert imported.code == 0, imported.err
    digests = {name: load_bundle(place.models / name).digest("a2b") for name in ("cat2dog", "raw", "ema")}
    assert digests["ema"] == digests["cat2dog"] != digests["raw"]


def test_a_run_without_its_config_is_not_gone_on_with(training: Place) -> None:
    assert invoke("train", training.data, *training.options(), "--steps", 2).code == 0
    (training.runs / "cat2dog/config.toml").unlink()
    again = invoke("train", training.data, *training.options(), "--steps", 4, "--batch-size", 2)
    assert again.code == 2
    assert "a run without its config.toml" in again.err
    assert training.steps_saved() == [2]


def test_numbers_beyond_all_machines_are_refused(training: Place) -> None:
    options = [training.data, *training.options()]
    seed = invoke("train", *options, "--dry-run", "--set", "seed=99999999999999999999")
    assert (seed.code, seed.out) == (2, "")
    assert "seed = 99999999999999999999: must be below 2**63" in seed.err
    for batch, words in ((10**9, "a training step needs"), (10**19, "too large to be counted")):
        refused = invoke("train", *options, "--set", f"batch_size={batch}")
        assert refused.code == 4
        assert words in refused.err
    assert not training.steps_saved()
