from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.errors import OutputBusyError, PictureError
from ugatit_batch.watch import desk, service
from ugatit_batch.watch.ready import look

from ..fakes import colours, paint, pixels_of, tree
from ..test_full_disk import fill, small_disk
from ..video.film_makers import make_film, timestamps_of
from .watching import SETTLE, Watching


def test_what_is_there_comes_first_and_only_once(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "inbox" / f"{number}.png", seed=number)
    for number, expected in enumerate((["0.png", "1.png", "2.png", "new0.png"], ["new1.png"])):
        with Watching(tmp_path) as watching:
            paint(watching.inbox / f"new{number}.png")
            watching.until_done(len(expected))
        assert sorted(watching.results("done")) == expected
        assert watching.results("skipped") == watching.results("failed") == []
    assert len(tree(tmp_path / "outbox")) == 5


def test_what_is_there_can_be_left_alone_until_it_changes(tmp_path: Path) -> None:
    old = paint(tmp_path / "inbox" / "old.png")
    paint(tmp_path / "inbox" / "older.png")
    with Watching(tmp_path, existing=False, rescan=SETTLE) as watching:
        paint(watching.inbox / "new.png")
        watching.until_done(1)
        assert watching.results("done") == ["new.png"]
        paint(old, seed=3)
        watching.until_done(2)
    assert watching.results("done") == ["new.png", "old.png"]


def test_an_input_that_changes_is_translated_again(tmp_path: Path) -> None:
    with Watching(tmp_path) as watching:
        path = paint(watching.inbox / "a.png")
        watching.until_done(1)
        paint(path, seed=5)
        watching.until_done(2)
        assert np.array_equal(pixels_of(watching.outbox / "a.png"), 255 - pixels_of(path))
        # Another program puts an older file there, with the time it had.
        older = paint(tmp_path / "older.png", seed=9)
        os.utime(older, (1e9, 1e9))
        older.rename(path)
        watching.until_done(3)
        assert np.array_equal(pixels_of(watching.outbox / "a.png"), 255 - pixels_of(path))
    assert sorted(tree(watching.outbox)) == ["a.png"]


def test_results_and_hidden_and_temporary_files_are_left_alone(tmp_path: Path) -> None:
    with Watching(tmp_path, rescan=2 * SETTLE) as watching:
        inside = watching.inbox / "outbox"
        for name in (".a.png", "b.png.part", "c.partial.png", "~$d.png", ".stfolder/e.png", "@eaDir/f.png"):
            paint(watching.inbox / (name if name.endswith("png") else "x.png"))
            if not name.endswith("png"):
                (watching.inbox / "x.png").rename(watching.inbox / name)
        paint(watching.inbox / "real.png")
        watching.until_done(1)
        time.sleep(4 * SETTLE)
    assert watching.results("done") == ["real.png"]
    assert not inside.exists()


def test_an_output_folder_inside_is_no_input(tmp_path: Path) -> None:
    with Watching(tmp_path, leave_out=(tmp_path / "inbox" / "out",), rescan=2 * SETTLE) as watching:
        paint(watching.inbox / "out" / "result.png")
        paint(watching.inbox / "a.png")
        watching.until_done(1)
        time.sleep(3 * SETTLE)
    assert watching.results("done") == ["a.png"]


def test_what_nobody_told_of_is_found_by_a_rescan(tmp_path: Path) -> None:
    """A folder that is reached over a link is not watched."""
    away = tmp_path / "away"
    away.mkdir()
    with Watching(tmp_path, rescan=1.5) as watching:
        (watching.inbox / "link").symlink_to(away)
        time.sleep(3 * SETTLE)
        paint(away / "a.png")
        watching.until_done(1)
    assert watching.results("done") == ["link/a.png"]


def test_a_file_that_never_becomes_whole_fails_once_and_stays_failed(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "bad.png").write_bytes(b"no picture at all")
    whole = paint(tmp_path / "whole.png", 64, 64).read_bytes()
    (tmp_path / "inbox" / "half.png").write_bytes(whole[: len(whole) // 2])
    with Watching(tmp_path, settle=0.02, rescan=1) as watching:
        watching.until(lambda: len(watching.results("failed")) == 2)
        time.sleep(1.5)
        assert sorted(watching.results("failed")) == ["bad.png", "half.png"]
    with Watching(tmp_path, settle=0.02, rescan=1) as watching:
        time.sleep(1)
        assert watching.results("failed") == []
        (watching.inbox / "half.png").write_bytes(whole)
        watching.until_done(1)
    assert watching.results("done") == ["half.png"]


def test_two_inputs_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    with Watching(tmp_path) as watching:
        paint(watching.inbox / "a.png", seed=1)
        watching.until_done(1)
        paint(watching.inbox / "a.bmp", seed=2)
        watching.until(lambda: watching.results("failed") == ["a.bmp"])
        (error,) = watching.errors()
        assert "a.png" in error
        assert "a.bmp" in error
    assert np.array_equal(pixels_of(watching.outbox / "a.png"), 255 - colours(24, 16, 1))


@pytest.mark.parametrize("after", ["move", "delete"])
def test_an_input_goes_when_its_result_is_there(tmp_path: Path, after: str) -> None:
    with Watching(tmp_path, after=after, attention=("mask",)) as watching:
        for seed in range(2):
            # The same name again is another picture.
            paint(watching.inbox / "day" / "a.png", seed=seed)
            watching.until_done(seed + 1)
            watching.until(lambda: not (watching.inbox / "day" / "a.png").exists())
    results = sorted(tree(watching.outbox))
    assert results == ["day/a (1).mask.png", "day/a (1).png", "day/a.mask.png", "day/a.png"]
    for name, seed in (("a.png", 0), ("a (1).png", 1)):
        assert np.array_equal(pixels_of(watching.outbox / "day" / name), 255 - colours(24, 16, seed))
    if after == "move":
        assert sorted(tree(watching.done)) == ["day/a (1).png", "day/a.png"]


@pytest.mark.parametrize("after", ["keep", "delete"])
def test_a_film_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    monkeypatch.setattr(service, "PATIENCE", 0.2)
    source = tmp_path / "inbox" / "film.mkv"
    source.parent.mkdir()
    make_film(source, codec="ffv1", count=120)
    times, frames, stops = timestamps_of(source), 0, 0
    while True:
        with Watching(tmp_path, after=after, batch_size=2, before=lambda _: time.sleep(0.02)) as watching:
            watching.until(lambda: bool(watching.results("done")) or watching.frames >= 50)
        frames += watching.frames
        if watching.results("done"):
            break
        stops += 1
        assert source.exists()
    assert stops >= 1
    # Only what was on its way when it stopped was translated again.
    assert frames <= 120 + 40 * stops
    assert timestamps_of(watching.outbox / "film.mkv") == times
    assert sorted(tree(watching.outbox)) == ["film.mkv"]
    assert source.exists() == (after == "keep")


def test_pictures_do_not_wait_for_all_films(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    for number in range(3):
        make_film(tmp_path / "inbox" / f"{number}.mkv", codec="ffv1", count=30)
    slow = 0.1
    with Watching(tmp_path, before=lambda _: time.sleep(slow)) as watching:
        watching.until(lambda: watching.frames > 0)
        paint(watching.inbox / "a.png")
        watching.until_done(4)
    assert watching.results("done").index("a.png") < 3


def test_once_ends_by_itself(tmp_path: Path) -> None:
    for number in range(5):
        paint(tmp_path / "inbox" / f"{number}.png", seed=number)
    (tmp_path / "inbox" / "bad.png").write_bytes(b"no picture")
    with Watching(tmp_path, once=True) as watching:
        watching.wait()
    assert len(watching.results("done")) == 5
    assert watching.results("failed") == ["bad.png"]


def test_an_output_folder_belongs_to_one_service(tmp_path: Path) -> None:
    with Watching(tmp_path), pytest.raises(OutputBusyError, match="outbox"), Watching(tmp_path):
        pass


@pytest.mark.parametrize("after", ["move", "delete"])
def test_one_service_takes_inputs_away(tmp_path: Path, after: str) -> None:
    """The other one has another output folder."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inbox").symlink_to(tmp_path / "inbox")
    with (
        Watching(tmp_path, after=after),
        pytest.raises(OutputBusyError, match="inbox"),
        Watching(tmp_path / "other", after=after),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_an_output_folder_that_is_removed_is_waited_for(tmp_path: Path) -> None:
    with Watching(tmp_path) as watching:
        paint(watching.inbox / "a.png")
        watching.until_done(1)
        shutil.rmtree(watching.outbox)
        paint(watching.inbox / "b.png")
        watching.until(lambda: bool(watching.notices("waiting")))
        assert "gone" in watching.notices("waiting")[0]
        assert not watching.outbox.exists()
        watching.outbox.mkdir()
        watching.until(lambda: sorted(tree(watching.outbox)) == ["a.png", "b.png"])
        assert watching.notices("resumed")
    assert watching.results("failed") == []


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_a_watched_folder_that_is_removed_is_waited_for(tmp_path: Path) -> None:
    with Watching(tmp_path) as watching:
        paint(watching.inbox / "a.png")
        watching.until_done(1)
        shutil.rmtree(watching.inbox)
        watching.until(lambda: bool(watching.notices("waiting")))
        watching.inbox.mkdir()
        paint(watching.inbox / "sub" / "b.png")
        watching.until_done(2)
        paint(watching.inbox / "sub" / "c.png")
        watching.until_done(3)
    assert watching.results("done") == ["a.png", "sub/b.png", "sub/c.png"]


def test_a_disk_that_goes_and_comes_back(tmp_path: Path) -> None:
    """Unmounted, the folder that it was mounted on is there, and empty."""
    with small_disk(tmp_path / "inbox", 4096):
        with Watching(tmp_path) as watching:
            paint(watching.inbox / "a.png")
            watching.until_done(1)
            subprocess.run(["umount", "--lazy", watching.inbox], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", watching.inbox], check=True)
            paint(watching.inbox / "b.png")
            watching.until_done(2)
        assert watching.results("done") == ["a.png", "b.png"]


def test_results_do_not_go_where_their_disk_was_mounted(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with small_disk(tmp_path / "outbox", 4096):
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "outbox"], check=True)
        with Watching(tmp_path) as watching:
            paint(watching.inbox / "a.png")
            watching.until_done(1)
            kept = tmp_path / "kept"
            kept.mkdir()
            subprocess.run(["mount", "--bind", watching.outbox, kept], check=True)
            try:
                subprocess.run(["umount", "--lazy", watching.outbox], check=True)
                paint(watching.inbox / "b.png")
                watching.until(lambda: bool(watching.notices("waiting")))
                time.sleep(1)
                assert tree(watching.outbox) == {}
                subprocess.run(["mount", "--bind", kept, watching.outbox], check=True)
                watching.until_done(2)
            finally:
                subprocess.run(["umount", "--lazy", kept], check=True)
        assert sorted(tree(watching.outbox)) == ["a.png", "b.png"]
        subprocess.run(["umount", "--lazy", watching.outbox], check=True)


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    noise = np.random.default_rng(3)
    with small_disk(tmp_path / "outbox", 4096):
        with Watching(tmp_path, rescan=3600) as watching:
            paint(watching.inbox / "first.png")
            watching.until_done(1)
            fill(watching.outbox / "filler", 150)
            for number in range(30):
                pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(watching.inbox / f"{number:02}.png")
            watching.until(lambda: any("full" in text for text in watching.notices("waiting")))
            for name in tree(watching.outbox):
                assert name == "filler" or pixels_of(watching.outbox / name).size
            (watching.outbox / "filler").unlink()
            # What was written when the disk was full, and not yet told of, is there already.
            watching.until(lambda: len(watching.results("done") + watching.results("skipped")) == 31)
            watching.until(lambda: "going on" in watching.notices("resumed"))
        assert len(watching.notices("waiting")) == 1
        assert watching.results("failed") == []
        assert len(tree(watching.outbox)) == 31


def test_a_trouble_is_not_tried_again_with_every_event(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    ended = threading.Event()

    def write_log() -> None:
        while not ended.wait(0.02):
            (tmp_path / "inbox" / "a.log").write_text("no picture")

    with small_disk(tmp_path / "outbox", 4096), Watching(tmp_path, rescan=3600) as watching:
        fill(watching.outbox / "filler", 0)
        writer = threading.Thread(target=write_log)
        writer.start()
        noise = np.random.default_rng(3).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(watching.inbox / "a.png")
        watching.until(lambda: bool(watching.notices("waiting")))
        before = watching.frames
        time.sleep(2.5)
        assert watching.frames <= before + 3
        ended.set()
        writer.join()
        assert len(watching.notices("waiting")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_file_that_stays_open_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_LONG_OPEN", 1.0)
    whole = paint(tmp_path / "whole.png").read_bytes()
    with Watching(tmp_path, rescan=1) as watching:
        with (watching.inbox / "a.png").open("wb", buffering=0) as handle:
            handle.write(whole)
            watching.until(lambda: bool(watching.notices("problem")))
            time.sleep(2)
            assert watching.results("done") == []
        watching.until_done(1)
    (said,) = watching.notices("problem")
    assert "a.png: another program keeps it open" in said


def test_a_clock_that_is_set_back_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    with Watching(tmp_path, rescan=1) as watching:
        paint(watching.inbox / "a.png")
        watching.until_done(1)
        monkeypatch.setattr(time, "time", lambda: now() - 86400 * 365)
        path = paint(watching.inbox / "b.png")
        os.utime(path, (now() - 86400 * 365,) * 2)
        watching.until_done(2)
        # Older than what its result was made from.
        paint(watching.inbox / "a.png", seed=4)
        os.utime(watching.inbox / "a.png", (now() - 86400 * 365,) * 2)
        watching.until_done(3)
    assert watching.results("done") == ["a.png", "b.png", "a.png"]


def test_it_cannot_begin_without_its_folder(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    watching.inbox.rmdir()
    with pytest.raises(PictureError, match="is not there"), watching:
        pass


def test_a_file_that_may_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it may be, though neither its size nor its time has changed."""
    locked = {"a.png"}
    access, seen = os.access, look
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in locked and access(path, mode))
    refusal = PictureError("a.png: may not be read", "change its permissions")
    monkeypatch.setattr(desk, "look", lambda path: refusal if path.name in locked else seen(path))
    with Watching(tmp_path, settle=0.02, rescan=1) as watching:
        paint(watching.inbox / "a.png")
        watching.until(lambda: watching.results("failed") == ["a.png"])
        time.sleep(3)
        assert watching.results("failed") == ["a.png"]
        locked.clear()
        watching.until_done(1)


def test_a_folder_that_cannot_be_looked_into_is_told_of_once(tmp_path: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("root may look everywhere")
    locked = tmp_path / "inbox" / "locked"
    paint(locked / "a.png")
    locked.chmod(0)
    with Watching(tmp_path, rescan=1) as watching:
        time.sleep(2.5)
        assert len(watching.notices("problem")) == 1
        locked.chmod(0o755)
        watching.until_done(1)


def test_what_came_while_it_ran_is_not_left_alone_after_a_restart(tmp_path: Path) -> None:
    """`--no-existing` means what was there before."""
    paint(tmp_path / "inbox" / "old.png")
    with Watching(tmp_path, existing=False, before=lambda _: time.sleep(0.3), batch_size=1) as watching:
        for number in range(30):
            paint(watching.inbox / f"{number:02}.png", seed=number)
        watching.until(lambda: bool(watching.results("done")))
    first = watching.results("done")
    assert len(first) < 30
    with Watching(tmp_path, existing=False) as watching:
        watching.until_done(30 - len(first))
    assert sorted(first + watching.results("done")) == [f"{number:02}.png" for number in range(30)]


def test_once_leaves_what_changes_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_STUCK", 3)
    paint(tmp_path / "inbox" / "whole.png")
    ended = threading.Event()

    def camera() -> None:
        number = 0
        while not ended.wait(0.05):
            number += 1
            paint(tmp_path / "frame.png", seed=number).rename(tmp_path / "inbox" / "camera.png")

    writer = threading.Thread(target=camera)
    writer.start()
    try:
        with Watching(tmp_path, once=True, settle=1.0) as watching:
            watching.wait()
    finally:
        ended.set()
        writer.join()
    assert watching.results("done") == ["whole.png"]
    assert watching.notices("left") == ["1 files are still being written and left for the next run"]


def test_each_version_that_fails_is_told_of(tmp_path: Path) -> None:
    """With the same words, too."""
    whole = paint(tmp_path / "whole.png", 64, 64).read_bytes()
    with Watching(tmp_path, settle=0.02) as watching:
        for count in (1, 2):
            (watching.inbox / "half.png").write_bytes(whole[: len(whole) // (count + 1)])
            watching.until(lambda count=count: len(watching.results("failed")) == count)  # type: ignore[misc]


def test_an_output_folder_that_is_removed_in_the_middle_is_not_made_anew(tmp_path: Path) -> None:
    for number in range(40):
        paint(tmp_path / "inbox" / f"{number:02}.png", seed=number)
    with Watching(tmp_path, batch_size=2, before=lambda _: time.sleep(0.1)) as watching:
        watching.until(lambda: len(watching.results("done")) >= 5)
        watching.outbox.rename(tmp_path / "away")
        watching.until(lambda: bool(watching.notices("waiting")))
        time.sleep(1)
        assert not watching.outbox.exists()
        (tmp_path / "away").rename(watching.outbox)
        watching.until(lambda: len(tree(watching.outbox)) == 40)
    assert watching.results("failed") == []


def test_inputs_do_not_go_where_a_disk_was_mounted(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with small_disk(tmp_path / "done", 4096):
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "done"], check=True)
        with Watching(tmp_path, after="move") as watching:
            paint(watching.inbox / "a.png")
            watching.until(lambda: (watching.done / "a.png").exists())
            subprocess.run(["umount", "--lazy", watching.done], check=True)
            paint(watching.inbox / "b.png")
            watching.until(lambda: bool(watching.notices("problem")))
            assert "not on the disk" in watching.notices("problem")[0]
        assert tree(watching.done) == {}
        assert sorted(tree(watching.inbox)) == [".ugatit-batch.lock", "b.png"]


def test_an_interrupted_input_keeps_the_name_it_had_begun_with(tmp_path: Path) -> None:
    """And does not take the result of another one, whose input is gone, for its own mask."""
    paint(tmp_path / "inbox" / "a.mask.png", seed=3)
    with Watching(tmp_path, after="delete", attention=("mask",)) as watching:
        watching.until(lambda: not (watching.inbox / "a.mask.png").exists())
    first = (watching.outbox / "a.mask.png").read_bytes()
    held = threading.Event()
    with Watching(tmp_path, after="delete", attention=("mask",), before=lambda _: held.wait(5)) as watching:
        paint(watching.inbox / "a.png", seed=5)
        watching.until(lambda: watching.frames > 0)
        watching.service.stop()
        time.sleep(service.PATIENCE + 0.5)
        held.set()
    with Watching(tmp_path, after="delete", attention=("mask",)) as watching:
        watching.until(lambda: not (watching.inbox / "a.png").exists())
    assert (watching.outbox / "a.mask.png").read_bytes() == first
    assert "a (1).png" in tree(watching.outbox)
