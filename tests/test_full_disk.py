from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.journal import NAME, Journal

from .fakes import pixels_of, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Outcome


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of that size, mounted on a new folder."""
    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs, which is Linux")
    folder.mkdir()
    size = f"size={kilobytes}k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, leave: int) -> None:
    """Take all room of a disk but `leave` kilobytes."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as handle:
        while True:
            handle.write(bytes(4096))
    size = path.stat().st_size
    with path.open("rb+") as handle:
        handle.truncate(max(0, size - leave * 1024))


# From no room for the journal to room for most of the pictures.
@pytest.mark.parametrize("leave", [0, 12, 40, 150, 400])
def test_a_full_disk_ends_with_5_and_the_same_command_goes_on(
    program: Callable[..., Outcome], tmp_path: Path, leave: int
) -> None:
    noise = np.random.default_rng(3)
    (tmp_path / "p").mkdir()
    for number in range(40):
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "p" / f"{number:02}.png")
    with small_disk(tmp_path / "disk", 4096) as disk:
        out = disk / "out"
        command = ("translate", tmp_path / "p", "-m", "own", "-o", out, "--attention", "heatmap")
        fill(disk / "filler", leave)

        outcome = program(*command)
        assert outcome.code == 5
        assert "the disk is full" in outcome.err
        assert "run the same command again" in outcome.err
        assert "Traceback" not in outcome.err
        done = tree(out)
        assert len(done) < 80
        for name in done:
            assert "partial" not in name
            assert pixels_of(out / name).shape == (64, 64, 3)
            assert name.endswith(".heatmap.png") or f"{name[:-4]}.heatmap.png" in done

        (disk / "filler").unlink()
        again = program(*command, "--json")
        assert again.code == 0, again.err
        assert len(again.lines()) == 40
        after = tree(out)
        assert len(after) == 80
        assert all(after[name] == content for name, content in done.items())
        assert (out / NAME).is_file()
        Journal(out).close()
