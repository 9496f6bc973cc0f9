"""A watch folder that is killed at any moment while files arrive, and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .fakes import pixels_of, tree
from .killing import FORKS

if TYPE_CHECKING:
    from pathlib import Path

KILLER = (
    FORKS
    + """
import ugatit_engines.open_engine
import ugatit_batch.watch.service
from PIL import Image
from tests.watch.arrivals import WAYS, picture

folder, after, models, kills, files, seed = sys.argv[1:]
chance = random.Random(int(seed))
inbox, outbox, done, outside = (Path(folder) / name for name in ("inbox", "outbox", "done", "outside"))
inbox.mkdir(), outside.mkdir()
told = Path(folder) / "arrived"


def arrive():
    # A process of its own: what is forked while a file is open has it open, too.
    own = random.Random(chance.random())
    number = count = 0
    with told.open("w") as handle:
        while count < int(files):
            names = own.choice(WAYS)(inbox, outside, f"{number:04}", own)
            handle.write(" ".join(names) + "\\n")
            handle.flush()
            number, count = number + 1, count + len(names)
    os._exit(0)


def expected():
    # What has arrived by now; whole lines only.
    return told.read_text().rpartition("\\n")[0].split()


def watch():
    more = ["--done", str(done)] if after == "move" else []
    return start("watch", str(inbox), "--model", "ink", "--output", str(outbox), "--models-dir", models,
                 "--settle", "0.15", "--batch-size", "2", "--after", after, "--attention", "mask", *more)


def readable(name):
    try:
        for path in (outbox / name, (outbox / name).with_suffix(".mask.png")):
            with Image.open(path) as image:
                image.load()
        return True
    except FileNotFoundError:
        return False


def check():
    \"\"\"Nothing that has arrived is lost, now.\"\"\"
    names = expected()
    for name in names:
        there = os.path.lexists(inbox / name)
        kept = after == "move" and os.path.lexists(done / name)
        # In this order: it may go while it is looked for.
        if not readable(name) and not there and not kept:
            assert readable(name), name
    return names


told.touch()
arriving = os.fork()
if not arriving:
    arrive()
report = {"killed": 0, "moments": []}
for _ in range(int(kills)):
    child = watch()
    time.sleep(chance.random() * 1.2)
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    report["killed"] += 1
    names = check()
    report["moments"].append([len(names), sum(map(readable, names))])
child = watch()
assert ended(arriving) == 0
names, deadline = expected(), time.monotonic() + 120
while not all(map(readable, names)) or (after != "keep" and any(os.path.lexists(inbox / n) for n in names)):
    assert time.monotonic() < deadline, [n for n in names if not readable(n) or os.path.lexists(inbox / n)]
    assert ended(child, wait=False) is None
    time.sleep(0.05)
check()
os.kill(child, signal.SIGTERM)
report["code"] = ended(child)
report["expected"] = sorted(names)
print(json.dumps(report))
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("after", "kills", "files", "seed"),
    [
        ("delete", 4, 24, 1),
        pytest.param("keep", 40, 200, 2, marks=pytest.mark.slow),
        pytest.param("move", 40, 200, 3, marks=pytest.mark.slow),
        pytest.param("delete", 60, 300, 4, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_or_done_twice(
    tmp_path: Path, models_dir: Path, after: str, kills: int, files: int, seed: int
) -> None:
    arguments = [str(tmp_path), after, str(models_dir), str(kills), str(files), str(seed)]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.path.dirname(os.path.dirname(__file__)),  # noqa: PTH120
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["killed"], report["code"]) == (kills, 0)
    expected = report["expected"]
    assert len(expected) >= files
    # Some kills fell between the first result and the last.
    assert any(0 < made < arrived for arrived, made in report["moments"]), report["moments"]

    masks = [name.removesuffix(".png") + ".mask.png" for name in expected]
    assert sorted(tree(tmp_path / "outbox")) == sorted([*expected, *masks])
    for name in expected:
        assert pixels_of(tmp_path / "outbox" / name).shape[2] == 3
    left = {"keep": expected, "move": [], "delete": []}[after]
    assert [name for name in sorted(tree(tmp_path / "inbox")) if name in expected] == left
    moved = sorted(tree(tmp_path / "done")) if after == "move" else []
    assert moved == (expected if after == "move" else [])
