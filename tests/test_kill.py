"""Runs that are killed at any moment, and started again until they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .fakes import paint, tree
from .killing import FORKS

if TYPE_CHECKING:
    from pathlib import Path

KILLER = (
    FORKS
    + """
import ugatit_engines.open_engine
from ugatit_batch import jobs
source, plain, killed, models, kills, seed = sys.argv[1:]
chance = random.Random(int(seed))


def translate(out):
    return start("translate", source, "--model", "ink", "--output", out, "--models-dir", models,
                 "--batch-size", "1", "--attention", "overlay")


def whole_files(out):
    return {str(path) for path in Path(out).rglob("*") if path.is_file() and not path.name.startswith(".")}


assert ended(translate(plain)) == 0
report = {"killed": 0, "starts": 0, "left": []}
while True:
    before = whole_files(killed)
    child = translate(killed)
    report["starts"] += 1
    code = None
    if report["killed"] < int(kills):
        # Most kills fall into the work, some into its beginning.
        if chance.random() < 0.8:
            while code is None and len(whole_files(killed)) <= len(before):
                code = ended(child, wait=False)
                time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
    code = ended(child) if code is None else code
    if code == -signal.SIGKILL:
        report["killed"] += 1
        for path in whole_files(killed):
            same = Path(plain) / Path(path).relative_to(killed)
            if Path(path).read_bytes() != same.read_bytes():
                report["left"].append(path)
        continue
    report["code"] = code
    break
print(json.dumps(report))
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("kills", "pictures", "seed"),
    [
        (3, 60, 1),
        pytest.param(20, 400, 2, marks=pytest.mark.slow),
        pytest.param(20, 400, 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_result(
    tmp_path: Path, models_dir: Path, kills: int, pictures: int, seed: int
) -> None:
    source, plain, killed = tmp_path / "p", tmp_path / "plain", tmp_path / "killed"
    for number in range(pictures):
        paint(source / f"{number % 3}" / f"{number:03}.png", 160, 120, number)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *map(str, (source, plain, killed, models_dir, kills, seed))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] == kills, report
    assert (report["code"], report["left"], report["starts"]) == (0, [], kills + 1)
    expected = tree(plain)
    assert len(expected) == 2 * pictures
    assert tree(killed) == expected
