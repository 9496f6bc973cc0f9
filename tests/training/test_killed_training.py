"""Trainings that are killed at any moment, and started again until they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.bundle import DIRECTIONS, load_bundle
from ugatit_training.config import config_to_toml
from ugatit_training.run_folder import read_metrics

from ..killing import FORKS
from .tiny import assert_identical, domain_folders, newest, tiny

if TYPE_CHECKING:
    from pathlib import Path

KILLER = (
    FORKS
    + """
import ugatit_batch.cli.train_run
a, b, place, recipe, kills, seed = sys.argv[1:]
chance = random.Random(int(seed))


def train(name):
    return start("train", "--source", a, "--target", b, "--name", name, "--recipe", recipe,
                 "--out", place + "/runs", "--models-dir", place + "/models")


def written():
    # The folder, and all that is in it: checkpoints, sheets and lines of metrics, whole ones and others.
    return [(p, p.stat().st_size) for p in Path(place, "runs/killed").rglob("*") if p.exists()]


assert ended(train("whole")) == 0
report = {"killed": 0, "starts": 0}
while True:
    child = train("killed")
    report["starts"] += 1
    code = None
    if report["killed"] < int(kills):
        for _ in range(chance.randrange(1, 12)):
            before = written()
            while code is None and written() == before:
                code = ended(child, wait=False)
                time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
    code = ended(child) if code is None else code
    if code != -signal.SIGKILL:
        report["code"] = code
        break
    report["killed"] += 1
print(json.dumps(report))
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("kills", "steps", "seed"),
    [
        (3, 24, 1),
        pytest.param(10, 150, 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_as_an_undisturbed_one(
    tmp_path: Path, kills: int, steps: int, seed: int
) -> None:
    a, b = domain_folders(tmp_path / "data")
    recipe = tmp_path / "recipe.toml"
    extras: dict[str, Any] = {"ema": 0.9, "replay_pool": 4, "diff_augment": ("color", "translation")}
    config = tiny(
        steps=steps, learning_rate=1e-3, sample_every=9, checkpoint_every=3, keep_checkpoints=2, **extras
    )
    recipe.write_text(config_to_toml(config))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *map(str, (a, b, tmp_path, recipe, kills, seed))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == {"killed": kills, "starts": kills + 1, "code": 0}
    whole, killed = tmp_path / "runs/whole", tmp_path / "runs/killed"
    assert_identical(newest(whole), newest(killed))
    lines = [[line | {"steps_per_second": 0} for line in read_metrics(run)] for run in (whole, killed)]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == list(range(1, steps + 1))
    bundles = [load_bundle(tmp_path / "models" / run.name) for run in (whole, killed)]
    for direction in DIRECTIONS:
        assert bundles[0].digest(direction) == bundles[1].digest(direction)
    assert not list(killed.rglob("*partial*"))
    assert torch.isfinite(newest(killed)["networks"]["a2b.out.weight"]).all()
