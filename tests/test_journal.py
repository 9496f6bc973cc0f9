from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.errors import DiskFullError, OutputBusyError, OutputError
from ugatit_batch.journal import NAME, Entry, Journal, Key, Maker

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.journal import State

KEY = Key("/in/a.png", 123, 456789, "bundle", "options")


def record_many(journal: Journal) -> None:
    for number in range(1000):
        journal.record(dataclasses.replace(KEY, input=f"/in/{number}"), "done", f"/out/{number}")


OWNER = """
import sys
from pathlib import Path
from ugatit_batch.journal import Journal, Key
journal = Journal(Path(sys.argv[1]))
journal.record(Key("/in/a.png", 123, 456789, "bundle", "options"), "started", "/out/a.png")
print("open", flush=True)
sys.stdin.read()
"""


def test_what_is_recorded_is_found_again_by_a_later_run(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.find(KEY) is None
        journal.record(KEY, "started", "/out/a.png")
        assert journal.find(KEY) == Entry("started", "/out/a.png", "")
        journal.record(KEY, "failed", "/out/a.png", "cut short")
    with Journal(tmp_path) as journal:
        assert journal.find(KEY) == Entry("failed", "/out/a.png", "cut short")
        journal.record(KEY, "done", "/out/a.png")
    with Journal(tmp_path) as journal:
        assert journal.find(KEY) == Entry("done", "/out/a.png", "")


@pytest.mark.parametrize(
    "change",
    [{"input": "/in/b.png"}, {"size": 124}, {"mtime": 456790}, {"bundle": "other"}, {"options": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_another_key_is_another_output(tmp_path: Path, change: dict[str, str | int]) -> None:
    with Journal(tmp_path) as journal:
        journal.record(KEY, "done", "/out/a.png")
        assert journal.find(dataclasses.replace(KEY, **change)) is None  # type: ignore[arg-type]


def test_a_changed_input_is_known_by_its_newest_version_only(tmp_path: Path) -> None:
    newer = dataclasses.replace(KEY, size=999)
    with Journal(tmp_path) as journal:
        journal.record(KEY, "done", "/out/a.png")
        journal.record(newer, "done", "/out/a.png")
        assert journal.find(KEY) is None
        assert journal.find(newer) is not None


def test_an_output_is_known_by_what_it_was_made_from_last(tmp_path: Path) -> None:
    other = dataclasses.replace(KEY, options="other")
    with Journal(tmp_path) as journal:
        journal.record(KEY, "done", "/out/a.png")
        journal.record(other, "done", "/out/a.png")
        assert journal.find(other) == Entry("done", "/out/a.png", "")
        assert journal.find(KEY) is None


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"/in/\xff\xfe.png")
    key = dataclasses.replace(KEY, input=name)
    with Journal(tmp_path) as journal:
        journal.record(key, "failed", name, f"{name}: is empty")
    with Journal(tmp_path) as journal:
        assert journal.find(key) == Entry("failed", name, f"{name}: is empty")


def test_a_second_opener_is_told_that_the_folder_is_taken(tmp_path: Path) -> None:
    with (
        Journal(tmp_path),
        pytest.raises(OutputBusyError, match="another run writes to this folder") as caught,
    ):
        Journal(tmp_path)
    assert caught.value.exit_code == 4
    assert str(tmp_path) in caught.value.message
    Journal(tmp_path).close()


def owner_of(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_gives_the_folder_back_and_leaves_what_it_recorded(
    tmp_path: Path, end: signal.Signals
) -> None:
    with owner_of(tmp_path) as process:
        with pytest.raises(OutputBusyError):
            Journal(tmp_path)
        process.send_signal(end)
        process.wait(20)
    with Journal(tmp_path) as journal:
        assert journal.find(KEY) == Entry("started", "/out/a.png", "")


def test_several_threads_record_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:

        def record(number: int) -> None:
            for step in range(20):
                key = dataclasses.replace(KEY, input=f"/in/{number}-{step}.png")
                journal.record(key, "done", f"/out/{number}-{step}.png")

        threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(4):
            for step in range(20):
                assert journal.find(dataclasses.replace(KEY, input=f"/in/{number}-{step}.png")) is not None


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database " * 100)
    with pytest.raises(OutputError, match=r"ugatit-batch\.sqlite: damaged journal") as caught:
        Journal(tmp_path)
    assert "delete it" in caught.value.hint
    (tmp_path / NAME).unlink()
    Journal(tmp_path).close()


def test_a_journal_with_damaged_pages_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for number in range(300):
            journal.record(dataclasses.replace(KEY, input=f"/in/{number}.png"), "done", f"/out/{number}.png")
    content = bytearray((tmp_path / NAME).read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(OutputError, match="damaged journal") as caught, Journal(tmp_path) as journal:
        journal.find(KEY)
    assert "delete it" in caught.value.hint


@pytest.mark.parametrize("name", ["full", "locked", "database"])
def test_a_folder_that_cannot_be_made_is_not_taken_for_anything_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a file in the way")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        Journal(tmp_path / name / "out")
    assert not isinstance(caught.value, DiskFullError)
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / name)


def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal._database.execute("PRAGMA max_page_count=5")
        with pytest.raises(DiskFullError, match="the disk is full") as caught:
            record_many(journal)
    assert caught.value.exit_code == 5
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    with Journal(tmp_path) as journal:
        assert journal.find(dataclasses.replace(KEY, input="/in/0")) is not None


OTHER = dataclasses.replace(KEY, input="/in/b.png")


def test_makers_of_outputs_are_known(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        out = str(tmp_path / "a.png")
        assert journal.maker(out) is None
        states: tuple[State, ...] = ("started", "replacing", "done")
        for state in states:
            journal.record(KEY, state, out)
            assert journal.maker(out) == Maker(KEY, state)
        journal.record(OTHER, "started", out)
        assert journal.maker(out) == Maker(OTHER, "started")
        assert journal.find(KEY) is None


def test_a_failure_makes_nothing_and_takes_nothing_from_others(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        out = str(tmp_path / "a.png")
        journal.record(KEY, "failed", out, "damaged")
        assert journal.maker(out) is None
        journal.record(KEY, "done", out)
        journal.record(OTHER, "failed", out, "another's")
        assert journal.maker(out) == Maker(KEY, "done")
        assert journal.find(OTHER) == Entry("failed", out, "another's")
        # And what has failed is still known so when the other one is made anew.
        journal.record(KEY, "replacing", out)
        assert journal.find(OTHER) == Entry("failed", out, "another's")


@pytest.mark.parametrize("before", ["started", "replacing", "done"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_failure_of_a_newer_version_leaves_the_output_its_maker(
    tmp_path: Path, before: State, is_there: bool
) -> None:
    newer = dataclasses.replace(KEY, mtime=999)
    out = tmp_path / "a.png"
    if is_there:
        out.write_bytes(b"of the older version")
    with Journal(tmp_path) as journal:
        journal.record(KEY, before, str(out))
        for key in (newer, dataclasses.replace(newer, size=7)):
            journal.record(key, "failed", str(out), "damaged")
            assert journal.find(key) == Entry("failed", str(out), "damaged")
            assert journal.maker(str(out)) == (Maker(key, "failed") if is_there else None)
        assert journal.unfinished() == [str(out)]


def test_what_is_forgotten_is_forgotten_in_every_version_and_alone(tmp_path: Path) -> None:
    others = [OTHER, dataclasses.replace(KEY, bundle="other"), dataclasses.replace(KEY, options="other")]
    with Journal(tmp_path) as journal:
        for number, key in enumerate((KEY, *others)):
            journal.record(key, "done", str(tmp_path / f"{number}.png"))
        journal.forget(KEY.input, KEY.bundle, KEY.options)
        assert journal.find(KEY) is None
        assert journal.maker(str(tmp_path / "0.png")) is None
        assert all(journal.find(key) is not None for key in others)
        journal.forget("/in/never.png", "bundle", "options")


@pytest.mark.parametrize("folder", ["", "sub"])
def test_outputs_of_other_suffixes_are_found_together(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    names = ["a.png", "a.jpg", "a.b.png", "a (1).png", "a.mkv", "A.png", "ab.png", "b.png"]
    with Journal(tmp_path) as journal:
        for number, name in enumerate(names):
            key = dataclasses.replace(KEY, input=f"/in/{number}")
            journal.record(key, "done", str(place / name))
        journal.record(OTHER, "done", str(tmp_path / "other" / "a.png"))
        found = journal.makers(str(place / "a.png"))
        assert sorted(found) == sorted(str(place / name) for name in ("a.png", "a.jpg", "a.mkv"))
        assert found[str(place / "a.jpg")].key.input == "/in/1"


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_makers_whose_names_are_no_text_are_known(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    key = dataclasses.replace(KEY, input=f"/in/{name}.png")
    with Journal(tmp_path) as journal:
        journal.record(key, "done", str(tmp_path / f"{name}.png"))
        assert journal.maker(str(tmp_path / f"{name}.png")) == Maker(key, "done")
        journal.forget(key.input, key.bundle, key.options)
        assert journal.find(key) is None
