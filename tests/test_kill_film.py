"""Films that are killed at any moment, and started again until they are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from .killing import FORKS
from .video.film_makers import make_film

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

KILLER = (
    FORKS
    + """
import ugatit_engines.open_engine
from ugatit_batch import jobs
source, plain, killed, models, kills, seed, *more = sys.argv[1:]
chance = random.Random(int(seed))
folder = Path(killed).parent


def translate(out):
    return start("translate", source, "--model", "ink", "--output", out, "--models-dir", models,
                 "--batch-size", "1", "--segment", "5", "--attention", "mask", "--attention", "npy", *more)


def far():
    \"\"\"What a run has written: grows all the time.\"\"\"
    try:
        return sum(1 for path in folder.rglob("*") if path.suffix != ".json")
    except OSError:
        return 0


assert ended(translate(plain)) == 0
report = {"killed": 0, "starts": 0, "segments": []}
while True:
    before = far()
    child = translate(killed)
    report["starts"] += 1
    code = None
    if report["killed"] < int(kills):
        # Most kills fall into the work, some into its beginning, some into joining.
        if chance.random() < 0.8:
            # So few that the film is not done before all kills.
            more_files = chance.randint(1, 3) if int(kills) > 3 else chance.randint(2, 12)
            while code is None and far() < before + more_files:
                code = ended(child, wait=False)
                time.sleep(0.004)
        time.sleep(chance.random() * 0.02)
        if code is None:
            os.kill(child, signal.SIGKILL)
    code = ended(child) if code is None else code
    if code == -signal.SIGKILL:
        report["killed"] += 1
        assert not Path(killed).exists() or not list(folder.glob(".*"))
        report["segments"].append(len(list(folder.rglob("*.result.nut"))))
        continue
    report["code"] = code
    break
print(json.dumps(report))
"""
)


def pictures(path: Path) -> tuple[list[int | None], NDArray[np.int64]]:
    """Timestamps, and luma of every picture."""
    with av.open(path) as film:
        frames = [(frame.pts, frame.to_ndarray(format="gray").astype(int)) for frame in film.decode(video=0)]
    return [pts for pts, _ in frames], np.stack([levels for _, levels in frames])


def sound(path: Path) -> list[tuple[int | None, int]]:
    """Every packet of it."""
    with av.open(path) as film:
        if not film.streams.audio:
            return []
        return [(packet.pts, zlib.crc32(bytes(packet))) for packet in film.demux(audio=0)]


# libx264 is not the same from run to run for pictures as small as these (its lookahead, with AVX-512,
# with one thread too); FFV1 is exact.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("kills", "seed", "suffix", "more"),
    [
        (3, 1, ".mkv", ["--smooth", "--codec", "ffv1"]),
        pytest.param(20, 2, ".mkv", ["--smooth", "--codec", "ffv1"], marks=pytest.mark.slow),
        pytest.param(20, 3, ".mp4", [], marks=pytest.mark.slow),
    ],
)
def test_a_killed_film_goes_on_to_the_same_result(
    tmp_path: Path, models_dir: Path, kills: int, seed: int, suffix: str, more: list[str]
) -> None:
    source = tmp_path / f"film{suffix}"
    make_film(source, count=300, size=(64, 48), rate=Fraction(5, 2), sound=True, options={"bf": "2"})
    for name in ("plain", "killed"):
        (tmp_path / name).mkdir()
    plain, killed = (tmp_path / name / f"out{suffix}" for name in ("plain", "killed"))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *map(str, (source, plain, killed, models_dir, kills, seed)), *more],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["killed"], report["code"], report["starts"]) == (kills, 0, kills + 1), report
    # Some of them were killed in the middle.
    assert any(count > 0 for count in report["segments"]), report
    names = sorted(path.name for path in plain.parent.iterdir())
    assert names == sorted([f"out{suffix}", f"out.mask{suffix}", "out.attention.npy"])
    assert sorted(path.name for path in killed.parent.iterdir()) == names
    furthest = 0 if "ffv1" in more else 24
    for name in (f"out{suffix}", f"out.mask{suffix}"):
        (times, expected), (killed_times, got) = (pictures(f.parent / name) for f in (plain, killed))
        assert len(times) == 300
        assert killed_times == times
        assert np.abs(got - expected).max() <= furthest
        assert sound(killed.parent / name) == sound(plain.parent / name)
    assert len(sound(killed)) > 5000
    arrays = [(folder / "out.attention.npy").read_bytes() for folder in (plain.parent, killed.parent)]
    assert arrays[0] == arrays[1]
