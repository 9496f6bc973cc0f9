"""Runs that are killed at any moment, and started again until they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .fakes import paint, tree

if TYPE_CHECKING:
    from pathlib import Path

# Imports everything once and forks: PyTorch takes longer to import than all the pictures to translate.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path

import torch
import ugatit_engines.open_engine
from ugatit_batch import jobs
from ugatit_batch.cli import main

torch.set_num_threads(1)
source, plain, killed, models, kills, seed = sys.argv[1:]
chance = random.Random(int(seed))


def start(out):
    child = os.fork()
    if child:
        return child
    sys.argv = ["ugatit-batch", "translate", source, "--model", "ink", "--output", out, "--quiet",
                "--models-dir", models, "--batch-size", "1", "--device", "cpu", "--attention", "overlay"]
    try:
        main()
    except SystemExit as left:
        os._exit(left.code)
    finally:
        os._exit(99)


def ended(child, wait=True):
    found, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return None if found == 0 else os.waitstatus_to_exitcode(status)


def whole_files(out):
    return {str(path) for path in Path(out).rglob("*") if path.is_file() and not path.name.startswith(".")}


assert ended(start(plain)) == 0
report = {"killed": 0, "starts": 0, "left": []}
while True:
    before = whole_files(killed)
    child = start(killed)
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
