"""Whatever arrives in whatever way is translated once, and not before it is whole."""

from __future__ import annotations

import random
import shutil
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ..fakes import pixels_of, tree
from .arrivals import WAYS, picture, slowly
from .watching import Watching

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files that are open cannot be moved there")

SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 52))]


@pytest.mark.parametrize("poll", [False, True], ids=["told", "polled"])
@pytest.mark.parametrize("seed", SEEDS)
def test_each_file_is_translated_once(tmp_path: Path, seed: int, poll: bool) -> None:
    chance = random.Random(seed)
    outside = tmp_path / "outside"
    outside.mkdir()
    ways = [*WAYS] * 2
    chance.shuffle(ways)
    expected: list[str] = []
    threads = []
    with Watching(tmp_path, poll=poll, rescan=3600) as watching:
        for number, way in enumerate(ways):
            own = random.Random(chance.getrandbits(32))

            def arrive(way=way, name=f"{number:02}-{way.__name__}", own=own) -> None:  # type: ignore[no-untyped-def]
                expected.extend(way(watching.inbox, outside, name, own))

            threads.append(threading.Thread(target=arrive))
            threads[-1].start()
            threading.Event().wait(chance.random() * 0.2)
        for thread in threads:
            thread.join()
        watching.until_done(len(expected))
        assert sorted(watching.results("done")) == sorted(expected)
        assert watching.results("failed") == watching.results("skipped") == []
    assert watching.frames == len(expected)
    assert sorted(tree(watching.outbox)) == sorted(expected)
    for name in expected:
        assert np.array_equal(pixels_of(watching.outbox / name), 255 - pixels_of(watching.inbox / name))


@pytest.mark.parametrize("poll", [False, True], ids=["told", "polled"])
def test_a_folder_of_500_is_moved_in_while_another_is_being_written(tmp_path: Path, poll: bool) -> None:
    chance = random.Random(5)
    away = tmp_path / "away"
    content = [picture(chance, 8) for _ in range(10)]
    for number in range(500):
        path = away / f"{number % 7}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[number % 10])
    with Watching(tmp_path, poll=poll, rescan=3600, batch_size=32) as watching:
        (watching.inbox / "other").mkdir()
        writer = threading.Thread(
            target=lambda: [slowly(watching.inbox / "other", away, str(n), chance) for n in range(2)]
        )
        writer.start()
        shutil.move(away, watching.inbox / "moved")
        writer.join()
        watching.until_done(502)
        done = watching.results("done")
    assert len(done) == len(set(done)) == watching.frames == 502
    # A burst goes through together, as a folder does, and not file by file.
    assert len(watching.translator.shapes) < 502 / 4
