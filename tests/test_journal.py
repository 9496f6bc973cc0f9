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
from ugatit_batch.journal import NAME, Entry, Journal, Key

if TYPE_CHECKING:
    from pathlib import Path

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
