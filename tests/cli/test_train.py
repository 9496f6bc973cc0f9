from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from PIL import Image

from ugatit_batch.bundle import load_bundle
from ugatit_training.config import load_config, parse_config
from ugatit_training.step import LOSS_NAMES

from .training_place import RECIPE, Place, invoke

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def place(training: Place) -> Place:
    return training


# From pictures to a model


def test_a_data_set_becomes_a_model_that_translates(place: Place, tmp_path: Path) -> None:
    trained = invoke(
        "train", place.data, *place.options(), "--steps", 2, "--licence", "CC0-1.0", "--about", "mine"
    )
    assert trained.code == 0
    assert trained.out == ""
    assert "cat2dog: A (3) → B (2) on cpu" in trained.err
    assert "translate PICTURES --model cat2dog" in trained.err
    bundle = load_bundle(place.models / "cat2dog")
    assert (bundle.name, bundle.domains) == ("cat2dog", ("A", "B"))
    assert (bundle.training["step"], bundle.licence, bundle.sources) == (2, "CC0-1.0", ("mine",))
    run = place.runs / "cat2dog"
    assert {path.name for path in run.iterdir() if path.name != ".lock"} == {
        *("config.toml", "run.json", "pictures.json", "metrics.jsonl", "samples", "checkpoints"),
    }
    for reverse in ([], ["--reverse"]):
        output = tmp_path / f"out{len(reverse)}"
        picture = place.data / "trainA/0.png"
        translated = invoke(
            *("translate", picture, "--model", "cat2dog", "--models-dir", place.models, *reverse),
            *("--output", output / "new.png", "--device", "cpu"),
        )
        assert translated.code == 0, translated.err
        with Image.open(output / "new.png") as image:
            assert image.size == (48, 40)


def test_two_folders_with_names_of_their_own(place: Place, pretend: Callable[..., list[int]]) -> None:
    pretend()
    folders = ("--source", place.data / "trainA", "--target", place.data / "trainB")
    assert invoke("train", *folders, *place.options()).code == 0
    assert load_bundle(place.models / "trainA2trainB").domains == ("A", "B")
    named = invoke("train", *folders, *place.options(), "--name", "zoo", "--domains", " cat , dog ")
    assert named.code == 0
    assert load_bundle(place.models / "zoo").domains == ("cat", "dog")
    assert place.steps_saved("zoo") == [3, 6]


def test_a_folder_called_train_keeps_its_name(
    place: Place, tmp_path: Path, pretend: Callable[..., list[int]]
) -> None:
    pretend()
    for old, new in (("trainA", "cats/train"), ("trainB", "dogs/trainDogs")):
        (tmp_path / new).parent.mkdir()
        (place.data / old).rename(tmp_path / new)
    folders = ("--source", tmp_path / "cats/train", "--target", tmp_path / "dogs/trainDogs")
    assert invoke("train", *folders, *place.options(), "--name", "zoo").code == 0
    assert load_bundle(place.models / "zoo").domains == ("train", "Dogs")


def test_json_is_a_line_a_report(place: Place, pretend: Callable[..., list[int]]) -> None:
    pretend()
    outcome = invoke("train", place.data, *place.options(), "--json", "--quiet")
    assert outcome.code == 0
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    run = place.runs / "cat2dog"
    assert lines[0].keys() == {
        *("step", "steps", "losses", "learning_rate", "steps_per_second", "sample", "checkpoint", "memory"),
        *("evaluation", "scores"),
    }
    assert lines[0]["steps"] == 6
    assert lines[0]["losses"] == dict.fromkeys(LOSS_NAMES, 1.5)
    samples = [line["sample"] for line in lines]
    assert samples == [None, None, *(str(run / f"samples/step-0000000{s}-a2b.png") for s in (4, 6))]
    checkpoints = [line["checkpoint"] for line in lines]
    assert checkpoints[0] is checkpoints[2] is None
    assert checkpoints[1] == str(run / "checkpoints/step-00000003.pt")
    assert "losses" not in outcome.err
    assert "cycle_a" not in outcome.err


# The same command again


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_the_same_command_resumes(
    place: Place, pretend: Callable[..., list[int]], number: int, code: int
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    pretend(4, number)
    stopped = invoke("train", place.data, *place.options())
    assert stopped.code == code
    assert "the same command goes on from there" in stopped.err
    assert place.steps_saved() == [3, 4]
    assert not place.models.exists()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    taken = pretend()
    resumed = invoke("train", place.data, *place.options())
    assert resumed.code == 0
    assert len(taken) == 2
    assert load_bundle(place.models / "cat2dog").training["step"] == 6


def test_a_signal_during_the_last_step_does_not_lose_the_model(
    place: Place, pretend: Callable[..., list[int]]
) -> None:
    pretend(6, signal.SIGTERM)
    assert invoke("train", place.data, *place.options()).code == 0
    assert load_bundle(place.models / "cat2dog").training["step"] == 6


def test_a_second_signal_ends_at_once(place: Place, pretend: Callable[..., list[int]]) -> None:
    taken = pretend(2, signal.SIGINT, 2)
    with pytest.raises(click.Abort):
        invoke("train", place.data, *place.options())
    assert len(taken) == 2
    assert place.steps_saved() == []


def test_a_finished_run_says_so_and_makes_sure_of_the_model(
    place: Place, pretend: Callable[..., list[int]]
) -> None:
    taken = pretend()
    command = ("train", place.data, *place.options())
    assert "already" not in invoke(*command).err
    folder = place.models / "cat2dog"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    again = invoke(*command)
    assert again.code == 0
    assert f"{place.runs / 'cat2dog'}: already at step 6, its last" in again.err
    assert f"model cat2dog is in {folder}" in again.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(taken) == 6


def test_more_steps_go_on_and_fewer_are_refused(place: Place, pretend: Callable[..., list[int]]) -> None:
    taken = pretend()
    command = ("train", place.data, *place.options())
    assert invoke(*command).code == 0
    fewer = invoke(*command, "--steps", 5)
    assert fewer.code == 2
    assert "already at step 6, beyond steps = 5" in fewer.err
    assert "steps = 6\n" in (place.runs / "cat2dog/config.toml").read_text("utf-8")
    assert invoke(*command, "--steps", 8).code == 0
    assert len(taken) == 8
    assert load_bundle(place.models / "cat2dog").training["step"] == 8


def test_another_run_of_that_name_is_refused(place: Place, pretend: Callable[..., list[int]]) -> None:
    pretend()
    command = ("train", place.data, *place.options())
    assert invoke(*command).code == 0
    other = invoke(*command, "--batch-size", 2)
    assert other.code == 2
    assert "batch_size was 1, now 2" in other.err
    folders = ("--source", place.data / "trainB", "--target", place.data / "trainA", "--name", "cat2dog")
    swapped = invoke("train", *folders, *place.options())
    assert swapped.code == 2
    assert "this run was started with source" in swapped.err


def test_a_model_from_elsewhere_is_not_replaced(
    place: Place, tmp_path: Path, pretend: Callable[..., list[int]]
) -> None:
    pretend()
    assert invoke("train", place.data, *place.options()).code == 0
    manifest = (place.models / "cat2dog/bundle.json").read_bytes()
    taken = pretend()
    elsewhere = invoke("train", place.data, *place.options(), "--out", tmp_path / "other")
    assert elsewhere.code == 2
    assert "there is a model of that name, from elsewhere" in elsewhere.err
    assert not (tmp_path / "other").exists(), "a refused run must leave nothing behind"
    assert taken == []
    assert (place.models / "cat2dog/bundle.json").read_bytes() == manifest


# Dry run


def test_dry_run_prints_the_config_and_the_memory_it_needs(place: Place) -> None:
    outcome = invoke("train", place.data, *place.options(), "--steps", 9, "--dry-run", "--device", "cpu")
    assert outcome.code == 0
    assert parse_config(outcome.out, "stdout") == load_config(str(place.recipe), {"steps": 9})
    said = re.search(r"memory: a step needs ([\d.]+) MiB .* GiB are free on cpu", outcome.err)
    assert said is not None
    assert 1 < float(said[1]) < 500
    assert not place.runs.exists()


@pytest.mark.parametrize("recipe", ["paper", "light", "small", "ink"])
def test_overrides(place: Place, recipe: str) -> None:
    options = ("--steps", 9, "--size", 64, "--precision", "bf16", "--batch-size", 2, "--dry-run")
    outcome = invoke("train", place.data, "--recipe", recipe, *options)
    assert outcome.code == 0
    config = parse_config(outcome.out, "stdout")
    changed = (config.steps, config.image_size, config.load_size, config.precision, config.batch_size)
    assert changed == (9, 64, 72, "bf16", 2)
    kept = load_config(recipe, {})
    assert (config.channels, config.crop_scale) == (kept.channels, kept.crop_scale)


def test_light_is_the_recipe_unless_said_otherwise(place: Place) -> None:
    outcome = invoke("train", place.data, "--dry-run")
    assert parse_config(outcome.out, "stdout") == load_config("light", {})


# Wrong calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give either DATASET, or both"),
        (["--source", "x"], "Give either DATASET, or both"),
        (["DATA", "--target", "x"], "Give either DATASET, or both"),
        (["DATA", "more"], "unexpected extra argument"),
        (["DATA", "--steps", "0"], "--steps"),
        (["DATA", "--steps", "many"], "--steps"),
        (["DATA", "--size", "16"], "--size"),
        (["DATA", "--size", "50"], "image_size = 50"),
        (["DATA", "--batch-size", "0"], "--batch-size"),
        (["DATA", "--precision", "fp8"], "--precision"),
        (["DATA", "--recipe", "nope"], "--recipe nope"),
        (["DATA", "--domains", "cat"], "--domains cat"),
        (["DATA", "--domains", "cat,"], "--domains cat,"),
        (["DATA", "--domains", "a,b,c"], "--domains a,b,c"),
        (["DATA", "--name", "a/b"], "'a/b' cannot be a model's name"),
        (["DATA", "--colour", "red"], "--colour"),
    ],
)
def test_wrong_arguments_end_with_2(place: Place, arguments: list[str], words: str) -> None:
    given = [str(place.data) if a == "DATA" else a for a in arguments]
    outcome = invoke("train", *place.options(), *given)
    assert outcome.code == 2
    assert words in outcome.err
    assert not place.runs.exists()
    assert not place.models.exists()


def test_pictures_that_cannot_be_used_end_with_1(place: Place, tmp_path: Path) -> None:
    missing = invoke("train", tmp_path / "nowhere", *place.options())
    assert missing.code == 1
    assert "nowhere/trainA: no such folder" in missing.err
    assert not place.runs.exists()
    for path in (place.data / "trainB").iterdir():
        path.write_text("no picture", "utf-8")
    damaged = invoke("train", place.data, *place.options())
    assert damaged.code == 1
    assert f"{place.data / 'trainB'}" in damaged.err
    assert "is not a picture" in damaged.err


# As a program


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX's")
def test_sigterm_to_the_whole_group_ends_well(place: Place, pretend: Callable[..., list[int]]) -> None:
    """As `timeout`, and a terminal's Ctrl-C, send it: to the worker processes, too."""
    changed = RECIPE.replace("workers = 0", "workers = 1").replace("report_every = 2", "report_every = 1")
    place.recipe.write_text(changed, "utf-8")
    options = ["train", str(place.data), *place.options(), "--json"]
    command = [sys.executable, "-m", "ugatit_batch", *options, "--steps", "100000"]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert started.stdout is not None
    try:
        lines = [started.stdout.readline() for _ in range(2)]
        os.killpg(started.pid, signal.SIGTERM)
        out, err = started.communicate(timeout=120)
    finally:
        if started.poll() is None:
            started.kill()
    assert started.returncode == 0, err
    assert err.count("stopping after this step") == 1
    assert "Traceback" not in err
    steps = [json.loads(line)["step"] for line in (*lines, *out.splitlines())]
    assert steps == list(range(1, len(steps) + 1))
    assert place.steps_saved()[-1] == steps[-1]
    place.recipe.write_text(RECIPE, "utf-8")
    pretend()
    assert invoke(*options, "--steps", steps[-1] + 1).code == 0
    assert load_bundle(place.models / "cat2dog").training["step"] == steps[-1] + 1
