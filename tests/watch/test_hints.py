from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.watch.hearing import Watcher
from ugatit_batch.watch.hints import Hints, Touched

if TYPE_CHECKING:
    from collections.abc import Iterator

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux")
pytestmark = pytest.mark.usefixtures("no_thread_stays")
posix = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@pytest.fixture
def watcher(root: Path, poll: bool) -> Iterator[Watcher]:
    watcher = Watcher(root, poll=poll)
    with watcher.hints:
        assert watcher.hints.polling == poll
        assert watcher.hints.reason is None
        yield watcher
        assert watcher.hints.alive
    assert not watcher.hints.alive


# What arrives.


def test_a_file_that_is_written(watcher: Watcher, root: Path) -> None:
    started = time.monotonic()
    (root / "a.png").write_bytes(b"a")
    watcher.wait(lambda: watcher.woken)
    touched = watcher.take()
    if root / "a.png" in touched.files:
        assert started <= touched.files[root / "a.png"] <= time.monotonic()
    watcher.wait_for("a.png")
    assert watcher.events >= 1
    watcher.settle()
    assert watcher.hints.take() == Touched()


def test_files_that_come_by_rename_or_link(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    for name in ("moved.png", "hard.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "moved.png").rename(root / "moved.png")
    watcher.wait_for("moved.png")
    (root / "hard.png").hardlink_to(tmp_path / "hard.png")
    watcher.wait_for("hard.png")
    # One within the tree is no renaming of the other name.
    (root / "again.png").hardlink_to(root / "hard.png")
    watcher.wait_for("again.png")


@posix
def test_a_link_that_comes(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    (tmp_path / "target.png").write_bytes(b"t")
    (tmp_path / "folder").mkdir()
    (root / "link.png").symlink_to(tmp_path / "target.png")
    watcher.wait_for("link.png")
    # What is in the folder has to be found by walking it.
    (root / "link").symlink_to(tmp_path / "folder")
    watcher.wait(lambda: root / "link" in watcher.folders)


def test_a_folder_that_comes_with_all_that_is_in_it(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "sub" / "deep").mkdir(parents=True)
    for name in ("1.png", "sub/2.png", "sub/deep/3.png"):
        (tmp_path / "new" / name).write_bytes(b"x")
    (tmp_path / "new").rename(root / "new")
    watcher.wait_for("new/1.png", "new/sub/2.png", "new/sub/deep/3.png")
    watcher.wait(lambda: root / "new" in watcher.folders)

    (root / "new" / "sub" / "deep" / "later.png").write_bytes(b"x")
    watcher.wait_for("new/sub/deep/later.png")


def test_folders_that_are_made_and_filled_at_once(watcher: Watcher, root: Path) -> None:
    for number in range(30):
        folder = root / f"{number}" / "a" / "b"
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(b"x")
    wanted = [f"{number}/a/b/x.png" for number in range(30)]
    watcher.wait(lambda: all(watcher.covers(root / name) for name in wanted))

    watcher.files.clear()
    for name in wanted:
        (root / name).with_name("y.png").write_bytes(b"y")
    watcher.wait_for(*(name.replace("x.png", "y.png") for name in wanted))


def test_a_folder_that_is_renamed(watcher: Watcher, root: Path) -> None:
    (root / "New folder" / "sub").mkdir(parents=True)
    (root / "New folder" / "sub" / "a.png").write_bytes(b"a")
    watcher.settle()
    (root / "New folder").rename(root / "named")
    watcher.wait_for("named/sub/a.png")
    watcher.wait(lambda: root / "named" in watcher.folders)
    watcher.settle()
    watcher.files.clear()

    (root / "named" / "sub" / "b.png").write_bytes(b"b")
    watcher.wait_for("named/sub/b.png")
    watcher.settle()
    assert not any("New folder" in path.parts for path in watcher.files)


def test_a_folder_that_is_renamed_as_soon_as_it_is_made(watcher: Watcher, root: Path) -> None:
    (root / "New folder").mkdir()
    (root / "New folder").rename(root / "named")
    watcher.wait(lambda: root / "named" in watcher.folders)
    watcher.settle()
    (root / "named" / "a.png").write_bytes(b"a")
    watcher.wait_for("named/a.png")


def test_a_temporary_name_and_then_the_final_one(watcher: Watcher, root: Path) -> None:
    with (root / ".a.png.Xy12").open("wb") as handle:
        handle.write(b"a")
        handle.flush()
        if watcher.hints.polling:
            watcher.wait_for(".a.png.Xy12")
    (root / ".a.png.Xy12").rename(root / "a.png")
    watcher.wait_for("a.png")


def test_a_file_that_another_one_replaces(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    (root / "a.png").write_bytes(b"old")
    watcher.settle()
    watcher.files.clear()
    (tmp_path / "a.png").write_bytes(b"new")
    (tmp_path / "a.png").replace(root / "a.png")
    watcher.wait_for("a.png")
    watcher.settle()
    watcher.files.clear()
    (root / "b").write_bytes(b"newer")
    (root / "b").replace(root / "a.png")
    watcher.wait_for("a.png")


def test_a_file_that_is_preallocated_closed_and_then_written(watcher: Watcher, root: Path) -> None:
    path = root / "film.mp4"
    with path.open("wb") as handle:
        handle.truncate(1 << 20)
    watcher.settle()
    assert path in watcher.files
    watcher.files.clear()
    with path.open("rb+") as handle:
        handle.write(b"film")
    watcher.wait_for("film.mp4")


def test_our_own_reading_is_no_event(watcher: Watcher, root: Path) -> None:
    path = root / "sub" / "a.png"
    path.parent.mkdir()
    path.write_bytes(bytes(1000))
    watcher.settle()
    watcher.events = 0
    until = time.monotonic() + 1
    reads = 0
    while time.monotonic() < until:
        assert len(path.read_bytes()) == 1000
        assert [entry.name for entry in os.scandir(path.parent)] == ["a.png"]
        reads += 1
    assert reads > 100
    watcher.take()
    assert watcher.events == 0


@linux
def test_of_a_long_film_the_beginning_and_the_end_are_told_and_not_each_write(root: Path) -> None:
    watcher = Watcher(root)
    with watcher.hints:
        with (root / "film.mp4").open("wb", buffering=0) as handle:
            for _ in range(2000):
                handle.write(bytes(100))
        watcher.settle()
        assert root / "film.mp4" in watcher.files
        assert watcher.events <= 6


def test_what_is_removed_is_no_event(watcher: Watcher, root: Path, tmp_path: Path) -> None:
    (root / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c.png"):
        (root / name).write_bytes(b"x")
    watcher.settle()
    watcher.settle()
    watcher.files.clear()
    watcher.folders.clear()
    (root / "a.png").unlink()
    shutil.rmtree(root / "sub")
    (root / "c.png").rename(tmp_path / "c.png")
    time.sleep(0.7)  # watchdog waits half a second for where a file was moved to
    watcher.settle()
    assert (watcher.files, watcher.folders) == (set(), set())


@posix
def test_names_that_are_no_text(tmp_path: Path, poll: bool) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 [x]\n*\\"))
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this file system takes text only")
    watcher = Watcher(root, poll=poll)
    with watcher.hints:
        for name in (b"\xff\xfe.png", "Ünïcödé 🎞.mp4".encode(), b"a\nb.png"):
            path = root / os.fsdecode(name)
            path.write_bytes(b"x")
            watcher.wait(lambda path=path: path in watcher.files)  # type: ignore[misc]
        assert watcher.hints.alive


@posix
def test_paths_come_below_the_folder_as_it_was_named(
    root: Path, tmp_path: Path, poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for named in (tmp_path / "link", Path("in"), Path("link"), Path("in/../in"), Path()):
        watcher = Watcher(named, poll=poll)
        with watcher.hints:
            assert watcher.hints.alive
            watcher.settle()
            (named / "a.png").write_bytes(named.name.encode() + b"x")
            watcher.wait_for("a.png")


@posix
def test_links_that_lead_back_are_not_followed(root: Path, poll: bool) -> None:
    for number in range(5):
        (root / f"back{number}").symlink_to(root)
    watcher = Watcher(root, poll=poll)
    with watcher.hints:
        (root / "a.png").write_bytes(b"x")
        watcher.wait_for("a.png")
        watcher.settle()
        assert watcher.files | watcher.folders == set()


def test_of_folders_in_folders_the_outermost_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "a" / "b").mkdir(parents=True)
    hints = Hints(root, lambda: None)
    with hints:
        (tmp_path / "new").rename(root / "new")
        time.sleep(0.5)
        assert list(hints.take().folders) == [root / "new"]
