from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_full_disk import small_disk
from tests.watch.hearing import Watcher
from ugatit_batch.errors import PictureError
from ugatit_batch.watch.hints import Hints

if TYPE_CHECKING:
    from collections.abc import Callable

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux")
pytestmark = pytest.mark.usefixtures("no_thread_stays")
posix = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@linux
def test_folders_of_one_name_that_were_moved_out_one_after_another(root: Path, tmp_path: Path) -> None:
    for ending in ("close", "remove"):
        watcher = Watcher(root)
        with watcher.hints:
            outside = tmp_path / ending
            outside.mkdir()
            for number in range(2):
                (root / "a").mkdir()
                watcher.settle()
                (root / "a").rename(outside / f"{number}")
                watcher.settle()
            (root / "a").mkdir()
            watcher.settle()
            (root / "a").rmdir()
            if ending == "remove":
                shutil.rmtree(outside)
            watcher.settle()
            assert watcher.hints.alive


# How it ends.


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace(folder: Path) -> None:
    # At once, and the new one may get the old one's number.
    shutil.rmtree(folder)
    folder.mkdir()


def rename_and_make_anew(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()


def put_a_file_there(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


@posix
@pytest.mark.parametrize("end", [remove, rename, rename_and_make_anew, put_a_file_there])
def test_it_is_not_alive_once_its_folder_is_gone(root: Path, poll: bool, end: Callable[[Path], None]) -> None:
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"x")
    watcher = Watcher(root, poll=poll)
    with watcher.hints:
        assert watcher.hints.alive
        end(root)
        watcher.wait(lambda: not watcher.hints.alive)


@posix
def test_a_folder_that_was_made_anew_is_watched_again(root: Path, poll: bool) -> None:
    watcher = Watcher(root, poll=poll)
    with contextlib.ExitStack() as stack:
        stack.enter_context(watcher.hints)
        replace(root)
        if not poll:
            watcher.wait(lambda: not watcher.hints.alive)
        # Polling looks at whatever stands there, and goes on where the new folder has the old one's number.
        if not watcher.hints.alive:
            watcher = Watcher(root, poll=poll)
            stack.enter_context(watcher.hints)
        (root / "a.png").write_bytes(b"x")
        watcher.wait(lambda: watcher.covers(root / "a.png"))
        assert watcher.hints.alive


def test_unmounting_ends_it_even_where_the_same_is_mounted_again(tmp_path: Path, poll: bool) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 64), contextlib.ExitStack() as stack:
        watcher = Watcher(disk, poll=poll)
        stack.enter_context(watcher.hints)
        (disk / "a.png").write_bytes(b"x")
        watcher.wait_for("a.png")
        before = disk.stat()
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(disk)], check=True)
        is_same = (before.st_dev, before.st_ino) == (disk.stat().st_dev, disk.stat().st_ino)
        if poll and is_same:
            assert watcher.hints.alive
        else:
            watcher.wait(lambda: not watcher.hints.alive)
            watcher = Watcher(disk, poll=poll)
            stack.enter_context(watcher.hints)
        (disk / "b.png").write_bytes(b"x")
        watcher.wait_for("b.png")
    assert not watcher.hints.alive


def test_mounting_over_it_ends_it(root: Path, poll: bool) -> None:
    watcher = Watcher(root, poll=poll)
    with watcher.hints:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "none", str(root)], check=False, stderr=subprocess.DEVNULL
        )
        if mounted.returncode:
            pytest.skip("may not mount a tmpfs")
        try:
            watcher.wait(lambda: not watcher.hints.alive)
        finally:
            subprocess.run(["umount", "--lazy", str(root)], check=True)


SILENT = """
import shutil, sys, time
from pathlib import Path
from ugatit_batch.watch.hints import Hints
root, poll = Path(sys.argv[1]), sys.argv[2] == "True"
for number in range(200):
    (root / str(number) / "sub").mkdir(parents=True)
hints = Hints(root, lambda: None, poll=poll, interval=0.02)
shutil.rmtree(root)
while hints.alive:
    time.sleep(0.01)
hints.close()
for _ in range(20):
    root.mkdir()
    with Hints(root, lambda: None, poll=poll, interval=0.02):
        (root / "a").touch()
        shutil.rmtree(root)
"""


def test_nothing_is_printed_when_the_folder_goes(root: Path, poll: bool) -> None:
    command = [sys.executable, "-c", SILENT, str(root), str(poll)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_it_starts_and_ends_quickly_again_and_again(root: Path) -> None:
    for number in range(200):
        (root / f"{number}").mkdir()
    for poll in (False, True) * 5:
        started = time.monotonic()
        hints = Hints(root, lambda: None, poll=poll, interval=60.0)
        hints.close()
        hints.close()
        assert time.monotonic() - started < 1.5
        assert not hints.alive


def test_a_long_look_does_not_hold_up_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        (root / f"{number}.png").touch()
    looks = 0
    real = os.lstat

    def slow(path: Any) -> os.stat_result:
        nonlocal looks
        if threading.current_thread() is not threading.main_thread():
            looks += 1
            time.sleep(0.05)
        return real(path)

    monkeypatch.setattr(os, "lstat", slow)
    watcher = Watcher(root, poll=True)
    watcher.wait(lambda: looks > 2)
    started = time.monotonic()
    watcher.hints.close()
    assert time.monotonic() - started < 3
    assert looks < 200


# What goes wrong.


def test_a_folder_that_is_not_there(tmp_path: Path, poll: bool) -> None:
    before = list(logging.getLogger("watchdog").handlers)
    with pytest.raises(PictureError, match=r"none: cannot be watched: No such file"):
        Hints(tmp_path / "none", lambda: None, poll=poll)
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match=r"file: cannot be watched: "):
        Hints(tmp_path / "file", lambda: None, poll=poll)
    assert logging.getLogger("watchdog").handlers == before


@linux
def test_it_is_not_alive_once_events_were_lost(root: Path) -> None:
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if room > 20000:
        pytest.skip("the system's queue is very long")
    watcher = Watcher(root)
    with watcher.hints:
        reader: Any = watcher.hints._observer
        path = root / "a.png"
        other = root / "b.png"
        path.touch()
        other.touch()
        watcher.settle()
        with reader._inotify_fd._lock:
            for _ in range(room):
                os.close(os.open(path, os.O_WRONLY))
                os.close(os.open(other, os.O_WRONLY))
        watcher.wait(lambda: not watcher.hints.alive)
    again = Watcher(root)
    with again.hints:
        path.write_bytes(b"x")
        again.wait_for("a.png")
        assert again.hints.alive


LIMITED = """
import sys, time
from pathlib import Path
limit, value, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
Path("/proc/sys/user/" + limit).write_text(value)
from ugatit_batch.watch.hints import Hints
for number in range(int(sys.argv[4])):
    (root / str(number)).mkdir()
hints = Hints(root, lambda: None, interval=0.05)
print(hints.polling, hints.reason)
for number in range(20):
    (root / f"later{number}").mkdir()
for _ in range(10):
    time.sleep(0.05)
    hints.take()
print(hints.alive)
hints.close()
with Hints(root, lambda: None, interval=0.05) as again:
    (root / "later19" / "a.png").touch()
    said = set()
    for _ in range(400):
        if root / "later19" / "a.png" in said:
            break
        time.sleep(0.05)
        said |= again.take().files.keys()
    print(again.polling, again.alive, root / "later19" / "a.png" in said)
"""


def limited(root: Path, limit: str, value: int, folders: int) -> list[str]:
    """What Hints say where the system lets this user watch little: in a namespace, so for nobody else."""
    command = [
        *("unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED),
        *(limit, str(value), str(root), str(folders)),
    ]
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs namespaces, which are Linux")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "unshare failed" in ended.stderr or "/proc/sys/user" in ended.stderr:
        pytest.skip(f"may not make a namespace: {ended.stderr.splitlines()[-1]}")
    assert ended.stderr == ""
    assert ended.returncode == 0
    return ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("limit", "value", "name"),
    [
        ("max_inotify_instances", 0, "fs.inotify.max_user_instances"),
        ("max_inotify_watches", 0, "fs.inotify.max_user_watches"),
        ("max_inotify_watches", 5, "fs.inotify.max_user_watches"),
    ],
)
def test_where_the_system_lets_nobody_watch_more_it_polls_and_says_why(
    root: Path, limit: str, value: int, name: str
) -> None:
    first, alive, again = limited(root, limit, value, folders=10)
    assert first.startswith("True the system's limit of ")
    assert f"raise {name} with sysctl" in first
    assert (alive, again) == ("True", "True True True")


def test_it_is_not_alive_once_there_are_more_folders_than_may_be_watched(root: Path) -> None:
    first, alive, again = limited(root, "max_inotify_watches", 15, folders=5)
    assert first == "False None"
    assert (alive, again) == ("False", "True True True")


def test_a_system_that_cannot_tell_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(**_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("ugatit_batch.watch.hints.Observer", unable)
    with Hints(root, lambda: None) as hints:
        assert hints.polling
        assert hints.reason == "the system cannot tell of changes here: Function not implemented"
        assert hints.alive


def test_one_folder_that_cannot_be_read_does_not_end_polling(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "bad").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if os.fspath(path).endswith("bad"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    watcher = Watcher(root, poll=True)
    with watcher.hints:
        (root / "a.png").write_bytes(b"x")
        watcher.wait_for("a.png")
        assert watcher.hints.alive
