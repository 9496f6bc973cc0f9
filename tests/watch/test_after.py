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
from PIL import Image

from ugatit_batch.errors import DiskFullError, InputChangedError, OutputError
from ugatit_batch.watch import after as after_module
from ugatit_batch.watch.after import After, StoppedError, read_back
from ugatit_batch.watch.gate import Version

from ..fakes import colours, paint, tree
from ..test_full_disk import fill, small_disk
from ..video.film_makers import FAST, damage, make_film, packets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..conftest import Outcome

OLD = 1_500_000_000_123_456_700
"""A time of change, in nanoseconds, that no file gets by itself and every file system holds."""


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


def put(path: Path, content: bytes = b"an input") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))
    return path


def version_of(path: Path) -> Version:
    return Version.of(path.stat())


def animate(path: Path, seeds: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(colours(24, 16, seed)) for seed in seeds]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[50] * len(images))
    return path


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


def spoil_middle(path: Path) -> None:
    damage(path, [(path.stat().st_size // 2, 8)])


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    "spoil", [halve, empty, blank, Path.unlink, make_folder, link_to_nothing, spoil_middle]
)
@pytest.mark.parametrize("which", ["a.png", "a.heatmap.png"])
@pytest.mark.parametrize("mode", ["move", "delete"])
def test_an_input_stays_where_its_result_does_not_read_back(
    inbox: Path, tmp_path: Path, mode: Any, which: str, spoil: Callable[[Path], None]
) -> None:
    source = put(inbox / "a.png")
    made, sidecar = paint(tmp_path / "a.png"), paint(tmp_path / "a.heatmap.png")
    spoil(tmp_path / which)
    done = tmp_path / "done" if mode == "move" else None
    with pytest.raises(OutputError, match=r"does not read back .* its input stays") as caught:
        After(mode, inbox, done).apply(source, version_of(source), made, [sidecar], 1)
    assert caught.value.message.startswith(str(tmp_path / which))
    assert "made again" in caught.value.hint
    assert tree(inbox) == {"a.png": b"an input"}
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif", ".avif", ".tiff"])
def test_a_picture_that_is_cut_short_does_not_read_back(tmp_path: Path, suffix: str) -> None:
    path = paint(tmp_path / f"a{suffix}", 200, 100)
    read_back(path, frames=1)
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(OutputError):
        read_back(path, frames=1)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".avif"])
def test_an_animation_has_all_its_pictures(tmp_path: Path, suffix: str) -> None:
    path = animate(tmp_path / f"a{suffix}", [1, 2, 3])
    read_back(path, frames=3)
    read_back(path)
    with pytest.raises(OutputError, match="3 pictures, and should have 2"):
        read_back(path, frames=2)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".avif"])
@pytest.mark.parametrize("seeds", [[1, 1, 2], [1, 1, 1]])
def test_equal_pictures_that_were_joined_when_they_were_written_are_not_missed(
    tmp_path: Path, suffix: str, seeds: list[int]
) -> None:
    read_back(animate(tmp_path / f"a{suffix}", seeds), frames=3)


def test_an_animation_as_a_still_has_one_picture(tmp_path: Path) -> None:
    read_back(paint(tmp_path / "a.jpg"), frames=12)


def test_avif_lacks_a_picture(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="2 pictures, and should have 3"):
        read_back(animate(tmp_path / "a.avif", [1, 2]), frames=3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), "cannot be read"),
        (lambda path: path.open("ab").write(b"more") and None, "bytes, and should have"),
        (lambda path: path.write_bytes(b"PK\x03\x04 something else"), "cannot be read"),
        (lambda path: np.save(path, np.zeros((2, 8, 6), np.float32)), "2 pictures, and should have 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_array_that_does_not_fit_its_file(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    result, array = paint(tmp_path / "a.png"), tmp_path / "a.attention.npy"
    np.save(array, np.zeros((3, 8, 6), np.float32))
    read_back(result, [array], 3)
    spoil(array)
    with pytest.raises(OutputError, match=said):
        read_back(result, [array], 3)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("film.mp4", "libx264", "yuv420p"),
        ("film.mkv", "libx264", "yuv420p"),
        ("film.mkv", "libx265", "yuv420p10le"),
        ("film.webm", "libvpx-vp9", "yuv420p"),
        ("film.mp4", "libsvtav1", "yuv420p"),
        ("film.mov", "prores_ks", "yuv422p10le"),
        ("film.mkv", "ffv1", "yuv420p"),
    ],
)
@pytest.mark.parametrize("count", [1, 40])
def test_a_film_is_read_to_its_last_picture(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, count: int
) -> None:
    path = tmp_path / name
    gop = {"g": "15", "bf": "2", "preset": "fast"} if codec in ("libx264", "libx265") else {}
    make_film(
        path,
        codec=codec,
        pix_fmt=pix_fmt,
        count=count,
        options={**FAST.get(codec, {}), **gop},
        sound=count > 1 and not name.endswith("webm"),
    )
    read_back(path, frames=count)
    read_back(path)
    with pytest.raises(OutputError, match=f"{count} pictures, and should have {count + 1}"):
        read_back(path, frames=count + 1)


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv", "film.webm"])
@pytest.mark.parametrize("share", [0.3, 0.98])
def test_a_film_that_is_cut_short_does_not_read_back(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    make_film(path, codec=codec, container_options={"movflags": "faststart"} if name[5:7] == "mp" else {})
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(OutputError, match="does not read back"):
        read_back(path)


@pytest.mark.parametrize(("which", "said"), [(0, "first"), (-1, "last")])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_first_and_the_last_picture_of_a_film_are_decoded(
    tmp_path: Path, which: int, said: str, codec: str
) -> None:
    path = tmp_path / "film.mkv"
    make_film(path, codec=codec, count=20, options={"g": "8"})
    read_back(path, frames=20)
    position, size, _ = packets_of(path)[which]
    damage(path, [(position + 20, size)])
    with pytest.raises(OutputError, match=f"its {said} picture|cannot be read"):
        read_back(path, frames=20)


def test_the_attention_of_a_film_has_as_many_pictures(inbox: Path, tmp_path: Path) -> None:
    source = put(inbox / "film.mp4")
    result, sidecar = tmp_path / "film.mp4", tmp_path / "film.overlay.mp4"
    make_film(result, count=12)
    make_film(sidecar, count=11)
    with pytest.raises(OutputError, match=r"overlay\.mp4: .* 11 pictures, and should have 12"):
        After("delete", inbox).apply(source, version_of(source), result, [sidecar], 12)
    make_film(sidecar, count=12)
    After("delete", inbox).apply(source, version_of(source), result, [sidecar], 12)
    assert not source.exists()


def test_what_the_program_writes_reads_back(
    program: Callable[..., Outcome], inbox: Path, tmp_path: Path
) -> None:
    make_film(inbox / "film.mp4", count=70, sound=True)
    make_film(inbox / "old.avi", codec="mpeg4", count=20)
    animate(inbox / "moving.gif", [1, 2, 3])
    paint(inbox / "still.jpg")
    kinds = ("--attention", "overlay", "--attention", "npy")
    outcome = program(
        *("translate", inbox, "-m", "ink", "-o", tmp_path / "out", "--json", "--segment", "1", *kinds)
    )
    assert outcome.code == 0
    lines = [line for line in outcome.lines() if line.get("status") == "done"]
    assert sorted(line["frames"] for line in lines) == [1, 3, 20, 70]
    taking = After("delete", inbox)
    for line in lines:
        source, sidecars = Path(line["input"]), [Path(path) for path in line["attention"]]
        assert len(sidecars) == 2
        taking.apply(source, version_of(source), Path(line["output"]), sidecars, line["frames"])
    assert tree(inbox) == {}


# What may not go.


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
