from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ugatit_batch.atomic import explain_os_error, is_partial, partial_path, remove_partials, replacing
from ugatit_batch.errors import DiskFullError, OutputError

FULL_DEVICE = Path("/dev/full")


def write_then_fail(target: Path) -> None:
    with replacing(target) as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError


def write_to_full_disk(target: Path) -> None:
    with replacing(target) as partial:
        partial.write_bytes(b"half")
        FULL_DEVICE.write_bytes(b"the other half")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.png"
    with replacing(target) as partial:
        partial.write_bytes(b"whole")
        assert names(target.parent) == [".a.partial.png"]
    assert names(target.parent) == ["a.png"]
    assert target.read_bytes() == b"whole"


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_then_fail(target)
    assert names(tmp_path) == ["a.png"]
    assert target.read_bytes() == b"old"


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    with pytest.raises(DiskFullError, match=r"a\.png: the disk is full") as caught:
        write_to_full_disk(target)
    assert caught.value.exit_code == 5
    assert "the same command again" in caught.value.hint
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_and_no_quota_are_both_a_full_disk(number: int) -> None:
    error = explain_os_error(OSError(number, os.strerror(number)), Path("a"))
    assert isinstance(error, DiskFullError)
    assert "--" not in error.hint, "commands call that option differently"


def test_other_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "a.png"
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: ") as caught, replacing(target):
        raise AssertionError("not reached")
    assert "output folder" in caught.value.hint
    assert "--" not in caught.value.hint, "commands call that option differently"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError), replacing(tmp_path / "a.png"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["a.png", "ä ö.jpg", "-a.webp", "no suffix", "x" * 251 + ".png", "€" * 80 + ".tiff"]
)
def test_the_partial_name_fits_and_is_known_again(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    partial = partial_path(target)
    assert partial.parent == tmp_path
    assert partial.suffix == (target.suffix or ".partial")
    assert is_partial(partial.name)
    assert not is_partial(name)
    assert len(os.fsencode(partial.name)) <= 255
    with replacing(target) as path:
        path.write_bytes(b"x")
    assert names(tmp_path) == [name]


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / "a.partial.png", tmp_path / ".hidden.png", tmp_path / "sub" / "a.png"]
    left = [tmp_path / ".a.partial.png", tmp_path / "sub" / ".b.partial.jpg", tmp_path / "sub" / ".c.partial"]
    (tmp_path / "sub").mkdir()
    for path in (*kept, *left):
        path.write_bytes(b"x")
    assert remove_partials(tmp_path) == 3
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in left)
