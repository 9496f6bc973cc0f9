"""Films on a disk without room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from .test_full_disk import fill, small_disk
from .video.film_makers import make_film, timestamps_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.frames import Pixels

    from .conftest import Outcome


def noise(index: int) -> Pixels:
    return np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)


# From no room at all to room for some of the segments, and to room for all of them but not for joining them.
@pytest.mark.parametrize("leave", [0, 40, 400, 1200])
def test_a_full_disk_ends_with_5_and_the_same_command_goes_on(
    program: Callable[..., Outcome], tmp_path: Path, leave: int
) -> None:
    source = tmp_path / "film.mkv"
    make_film(source, count=100, size=(64, 64), pictures=noise)
    with small_disk(tmp_path / "disk", 4096) as disk:
        # The network gives far less detail than noise: without loss, and with its raw attention.
        place = ("translate", source, "-m", "own", "-o", disk / "out.mkv")
        command = (*place, "--codec", "ffv1", "--segment", "1", "--attention", "npy")
        fill(disk / "filler", leave)

        outcome = program(*command)
        assert outcome.code == 5, outcome.err
        assert "the disk is full" in outcome.err
        assert "Traceback" not in outcome.err
        assert {path.name for path in disk.iterdir() if not path.name.startswith(".")} <= {
            "filler",
            "out.attention.npy",
        }

        (disk / "filler").unlink()
        again = program(*command, "--json")
        assert again.code == 0, again.err
        assert again.lines()[0]["frames"] == 100
        assert timestamps_of(disk / "out.mkv") == timestamps_of(source)
        assert {path.name for path in disk.iterdir()} == {"out.mkv", "out.attention.npy"}
