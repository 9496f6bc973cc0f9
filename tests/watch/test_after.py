from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ugatit_batch.errors import DiskFullError, InputChangedError, OutputError
from ugatit_batch.watch import after as after_module
from ugatit_batch.watch.after import After
from ugatit_batch.watch.read_back import StoppedError

from ..fakes import paint, tree
from ..test_full_disk import fill, small_disk
from ..video.film_makers import make_film
from .inputs import OLD, put, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return paint(tmp_path / "outbox" / "a.png")


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at hand")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_an_input_stays_where_it_is_to_be_kept(inbox: Path, tmp_path: Path) -> None:
    source = put(inbox / "a.png")
    assert After("keep", inbox).apply(source, version_of(source), tmp_path / "no result") is None
    assert source.read_bytes() == b"an input"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".avif", ".tiff"])
def test_an_input_is_deleted_when_its_result_reads_back(inbox: Path, tmp_path: Path, suffix: str) -> None:
    source = put(inbox / "a.png")
    made = paint(tmp_path / f"a{suffix}")
    sidecar = tmp_path / "a.attention.npy"
    np.save(sidecar, np.zeros((4, 6), np.float32))
    assert After("delete", inbox).apply(source, version_of(source), made, [sidecar], 1) is None
    assert list(inbox.iterdir()) == []


@pytest.mark.parametrize("mode", ["move", "delete"])
def test_an_input_that_changed_stays(inbox: Path, result: Path, tmp_path: Path, mode: Any) -> None:
    source = put(inbox / "a.png")
    before = version_of(source)
    source.write_bytes(b"a newer input")
    done = tmp_path / "done" if mode == "move" else None
    with pytest.raises(InputChangedError, match="changed while it was translated"):
        After(mode, inbox, done).apply(source, before, result)
    assert source.read_bytes() == b"a newer input"
    source.unlink()
    with pytest.raises(InputChangedError, match="is gone"):
        After(mode, inbox, done).apply(source, before, result)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("mode", ["move", "delete"])
def test_an_input_that_changes_while_its_result_is_read_stays(
    inbox: Path, tmp_path: Path, mode: Any, result: Path
) -> None:
    source = put(inbox / "a.png")
    before = version_of(source)

    def write_again() -> bool:
        source.write_bytes(b"newer")
        return False

    done = tmp_path / "done" if mode == "move" else None
    with pytest.raises(InputChangedError):
        After(mode, inbox, done).apply(source, before, result, should_stop=write_again)
    assert tree(inbox) == {"a.png": b"newer"}
    assert not done or tree(done) == {}


def test_an_input_that_changes_while_it_is_copied_stays(inbox: Path, result: Path, other_disk: Path) -> None:
    source = put(inbox / "a.png", bytes(3 << 20))
    before, asked = version_of(source), 0

    def write_again() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            with source.open("rb+") as file:
                file.write(b"other")
        return False

    with pytest.raises(InputChangedError):
        After("move", inbox, other_disk).apply(source, before, result, should_stop=write_again)
    assert list(other_disk.iterdir()) == []
    assert source.read_bytes()[:5] == b"other"


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_an_input_is_not_its_own_result(
    inbox: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    source = paint(inbox / "a.png")
    make(source, tmp_path / "b.png")
    with pytest.raises(OutputError, match="is the input"):
        After("delete", inbox).apply(source, version_of(source), tmp_path / "b.png")
    assert source.exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("mode", ["move", "delete"])
def test_an_input_that_may_not_be_taken_stays(mode: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        inbox, done = Path(place) / "inbox", Path(place) / "done"
        source, made = paint(inbox / "a.png"), paint(Path(place) / "out" / "a.png")
        done.mkdir()
        done.chmod(0o777)
        Path(place).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(OutputError, match=r"a\.png: is done, but cannot be .*: ") as caught:
                After(mode, inbox, done if mode == "move" else None).apply(source, version_of(source), made)
        finally:
            os.seteuid(0)
        assert str(inbox) in caught.value.hint
        assert source.exists()
        assert list(done.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_said(inbox: Path, result: Path, tmp_path: Path) -> None:
    source = put(inbox / "deep" / "a.png")
    (tmp_path / "done").write_bytes(b"a file")
    with pytest.raises(OutputError, match=r"cannot be moved to .*done"):
        After("move", inbox, tmp_path / "done").apply(source, version_of(source), result)
    assert source.exists()


def test_a_full_disk_keeps_the_input(inbox: Path, result: Path, tmp_path: Path) -> None:
    source = put(inbox / "a.png", bytes(2 << 20))
    with small_disk(tmp_path / "disk", 1024) as disk:
        fill(disk / "filler", 64)
        with pytest.raises(DiskFullError, match="the disk is full") as caught:
            After("move", inbox, disk / "done").apply(source, version_of(source), result)
        assert tree(disk / "done") == {}
    assert str(source) in caught.value.hint
    assert source.stat().st_size == 2 << 20


# Moving.


def test_moving_keeps_the_tree_and_takes_nobodys_name(inbox: Path, result: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    taking = After("move", inbox, done)
    places = []
    for number in range(4):
        source = put(inbox / "x" / "y" / "a.png", b"%d" % number)
        places.append(taking.apply(source, version_of(source), result))
        assert not source.exists()
    assert places[:2] == [done / "x" / "y" / "a.png", done / "x" / "y" / "a (1).png"]
    assert len(set(places)) == 4
    assert {path.read_bytes() for path in places if path} == {b"0", b"1", b"2", b"3"}
    assert {path.stat().st_mtime_ns for path in places if path} == {OLD}


def test_the_thousandth_of_a_name_is_not_looked_for_one_by_one(
    inbox: Path, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, asked = tmp_path / "done", 0
    put(done / "a.png")
    for number in range(1, 1000):
        (done / f"a ({number}).png").touch()
    there = os.path.lexists

    def count(path: str) -> bool:
        nonlocal asked
        asked += 1
        return there(path)

    monkeypatch.setattr(os.path, "lexists", count)
    source = put(inbox / "a.png")
    assert After("move", inbox, done).apply(source, version_of(source), result) == done / "a (1000).png"
    assert asked < 40


def test_a_name_that_is_taken_after_the_look_is_not_lost(
    inbox: Path, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_disk: Path
) -> None:
    monkeypatch.setattr(after_module, "_first_free", lambda _: 0)
    for done in (tmp_path / "done", other_disk):
        put(done / "a.png", b"of another")
        source = put(inbox / "a.png")
        place = After("move", inbox, done).apply(source, version_of(source), result)
        assert place == done / "a (1).png"
        assert tree(done) == {"a.png": b"of another", "a (1).png": b"an input"}


def test_moving_to_another_disk_keeps_content_and_time(inbox: Path, result: Path, other_disk: Path) -> None:
    content = os.urandom((1 << 20) + 5)
    source = put(inbox / "x" / "a.png", content)
    source.chmod(0o440)
    place = After("move", inbox, other_disk / "done").apply(source, version_of(source), result)
    assert place == other_disk / "done" / "x" / "a.png"
    assert place.read_bytes() == content
    assert place.stat().st_mtime_ns == OLD
    assert place.stat().st_mode & 0o777 == 0o440
    assert [path.name for path in place.parent.iterdir()] == ["a.png"]
    assert not source.exists()


def test_a_disk_without_second_names(
    inbox: Path, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    done = tmp_path / "done"
    for number in range(3):
        source = put(inbox / "a.png", b"%d" % number)
        assert After("move", inbox, done).apply(source, version_of(source), result) is not None
    assert sorted(tree(done).values()) == [b"0", b"1", b"2"]
    # The name is taken after the look.
    monkeypatch.setattr(after_module, "_first_free", lambda _: 0)
    source = put(inbox / "a.png", b"3")
    After("move", inbox, done).apply(source, version_of(source), result)
    assert sorted(tree(done).values()) == [b"0", b"1", b"2", b"3"]


def test_a_link_is_deleted_and_not_its_file(inbox: Path, result: Path, tmp_path: Path) -> None:
    original = put(tmp_path / "kept" / "a.png")
    source = inbox / "a.png"
    source.symlink_to(original)
    After("delete", inbox).apply(source, version_of(source), result)
    assert original.exists()
    assert list(inbox.iterdir()) == []


@pytest.mark.parametrize("same_disk", [True, False])
def test_a_link_is_moved_and_still_leads_to_its_file(
    inbox: Path, result: Path, tmp_path: Path, other_disk: Path, same_disk: bool
) -> None:
    original = put(tmp_path / "kept" / "a.png")
    source = inbox / "x" / "a.png"
    source.parent.mkdir()
    source.symlink_to("../../kept/a.png")
    done = tmp_path / "done" if same_disk else other_disk
    put(done / "x" / "a.png")
    place = After("move", inbox, done).apply(source, version_of(source), result)
    assert place == done / "x" / "a (1).png"
    assert place.is_symlink()
    assert place.samefile(original)
    assert not source.is_symlink()


# Killed and stopped.


def test_stopping_keeps_the_input(inbox: Path, tmp_path: Path, other_disk: Path) -> None:
    source = put(inbox / "a.png", bytes(5 << 20))
    film = tmp_path / "film.mkv"
    make_film(film, count=20)
    taking = After("move", inbox, other_disk)
    # As it reads the film, as it decodes its end, as it copies.
    for patience in (0, 5, 25, 43):
        asked = partial(next, iter([False] * patience), True)
        with pytest.raises(StoppedError):
            taking.apply(source, version_of(source), film, frames=20, should_stop=asked)
        assert source.stat().st_size == 5 << 20
        assert list(other_disk.iterdir()) == []
    assert taking.apply(source, version_of(source), film, frames=20) == other_disk / "a.png"


@pytest.mark.parametrize("same_disk", [True, False])
def test_what_a_killed_run_has_moved_already_is_not_there_twice(
    inbox: Path, result: Path, tmp_path: Path, other_disk: Path, same_disk: bool
) -> None:
    done = tmp_path / "done" if same_disk else other_disk
    done.mkdir(exist_ok=True)
    put(done / "a.png", b"an older input")
    source = put(inbox / "a.png")
    if same_disk:
        (done / "a (1).png").hardlink_to(source)
    else:
        shutil.copy2(source, done / "a (1).png")
    assert After("move", inbox, done).apply(source, version_of(source), result) == done / "a (1).png"
    assert tree(done) == {"a.png": b"an older input", "a (1).png": b"an input"}
    assert not source.exists()


TAKES_AWAY = """
import sys
from pathlib import Path
from ugatit_batch.watch.after import After
from ugatit_batch.watch.gate import Version

mode, inbox, outbox = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
taking = After(mode, inbox, Path(sys.argv[4]) if mode == "move" else None)
print("begun", flush=True)
for source in sorted(inbox.iterdir()):
    taking.apply(source, Version.of(source.stat()), outbox / source.name, frames=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
@pytest.mark.parametrize("mode", ["move", "delete"])
def test_killed_at_any_moment_nothing_is_lost(
    inbox: Path, tmp_path: Path, other_disk: Path, mode: str
) -> None:
    random = np.random.default_rng(5)
    inputs = {f"{number:03}.png": random.bytes(300_000) for number in range(150)}
    for name, content in inputs.items():
        put(inbox / name, content)
        paint(tmp_path / "outbox" / name)
    command = [sys.executable, "-c", TAKES_AWAY, mode, str(inbox), str(tmp_path / "outbox"), str(other_disk)]
    killed = 0
    for _ in range(40):
        left = len(list(inbox.iterdir()))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            time.sleep(float(random.uniform(0, 0.1)) if killed < 4 else 0)
            if killed < 4:
                child.kill()
        code = child.returncode
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        here, there = tree(inbox), tree(other_disk)
        assert len(here) <= left
        seen = {name: content for name, content in there.items() if not name.startswith(".")}
        assert all(inputs[name] == content for name, content in [*here.items(), *seen.items()])
        if mode == "move":
            assert here.keys() | seen.keys() == inputs.keys()
        if code == 0:
            break
    assert killed >= 1
    assert tree(inbox) == {}
    assert tree(other_disk) == (inputs if mode == "move" else {})
