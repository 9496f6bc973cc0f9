from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.walk import walk

if TYPE_CHECKING:
    from pathlib import Path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")


def names(folder: Path, found: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_files_come_in_order_and_with_their_status(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.txt", "a/c", "a/a.jpg", "a b", "ä", "c/d/e")))
    found = list(walk(tmp_path))
    assert names(tmp_path, [path for path, _ in found]) == ["a/a.jpg", "a/c", "a b", "b.txt", "c/d/e", "ä"]
    assert all(os.path.samestat(status, path.stat()) for path, status in found)


def test_hidden_names_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a", tmp_path / ".b", tmp_path / ".git" / "c", tmp_path / "d" / ".e")
    assert names(tmp_path, [path for path, _ in walk(tmp_path)]) == ["a"]


def test_folders_that_are_to_be_skipped_are_not_entered(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1", tmp_path / "b" / "2", tmp_path / "b" / "c" / "3")
    asked: list[Path] = []

    def skip(folder: Path) -> bool:
        asked.append(folder)
        return folder.name == "b"

    assert names(tmp_path, [path for path, _ in walk(tmp_path, skip=skip)]) == ["a/1"]
    assert names(tmp_path, asked) == ["a", "b"]
    assert names(tmp_path, [path for path, _ in walk(tmp_path, recursive=False)]) == []


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "p", tmp_path / "elsewhere"
    touch(folder / "sub" / "a", elsewhere / "b")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "gone").symlink_to(tmp_path / "missing")
    (folder / "link").symlink_to(elsewhere)
    (folder / "file").symlink_to(elsewhere / "b")
    assert names(folder, [path for path, _ in walk(folder)]) == ["file", "link/b", "sub/a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path, [path for path, _ in walk(tmp_path)]) == ["a"]


def test_folders_that_cannot_be_looked_into_are_told(tmp_path: Path) -> None:
    problems: list[tuple[Path, OSError]] = []
    found = walk(tmp_path / "missing", problem=lambda folder, error: problems.append((folder, error)))
    assert list(found) == []
    ((folder, error),) = problems
    assert folder == tmp_path / "missing"
    assert isinstance(error, FileNotFoundError)
    assert list(walk(tmp_path / "missing")) == []


def test_a_folder_that_vanishes_on_the_way_does_not_end_the_walk(tmp_path: Path) -> None:
    touch(tmp_path / "a", tmp_path / "b" / "c", tmp_path / "d")
    problems: list[Path] = []
    found = walk(tmp_path, problem=lambda folder, _: problems.append(folder))
    assert next(found)[0].name == "a"
    (tmp_path / "b" / "c").unlink()
    (tmp_path / "b").rmdir()
    assert [path.name for path, _ in found] == ["d"]
    # It was seen, and not there any more when its turn came.
    assert problems == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    touch(tmp_path / name)
    assert [path.name for path, _ in walk(tmp_path)] == [name]


def test_folders_in_folders_without_end_are_a_problem_and_no_crash(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(400):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (tmp_path / "a.txt").touch()
    problems: list[Path] = []
    found = [path for path, _ in walk(tmp_path, problem=lambda path, _: problems.append(path))]
    assert found == [tmp_path / "a.txt"]
    assert len(problems) == 1
