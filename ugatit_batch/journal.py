"""What has been done in one output folder, so that a killed run goes on where it was.

A SQLite file `.ugatit-batch.sqlite` in the output folder. Whoever has it open is the only run in that folder.
Knows nothing of pictures or models.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import DiskFullError, OutputBusyError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

NAME = ".ugatit-batch.sqlite"
State = Literal["started", "replacing", "done", "failed", "left"]
"""`replacing`: begun while an older output is there. It and `started` stay where a run was killed. `left`: is
not to be done in this version."""

_FAILED_AND_OLDER_THERE = "failed, older there"
"""As it is written down: failed, and the output is there as an older version of the input gave it."""

# Paths, and errors that name them, are bytes: not every file name is text.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    input   BLOB    NOT NULL,  -- absolute path
    size    INTEGER NOT NULL,  -- bytes
    mtime   INTEGER NOT NULL,  -- nanoseconds
    bundle  TEXT    NOT NULL,  -- hash of the direction's shape and weights
    options TEXT    NOT NULL,  -- hash of everything else that decides the output
    output  BLOB    NOT NULL,  -- path below the output folder, which may be moved
    state   TEXT    NOT NULL,
    error   BLOB    NOT NULL,
    PRIMARY KEY (input, bundle, options)
) WITHOUT ROWID
"""
_INDEX = "CREATE INDEX IF NOT EXISTS outputs ON files (output)"


@dataclass(frozen=True)
class Key:
    """What one output was made from. The same key gives the same output."""

    input: str
    """Absolute path."""
    size: int
    """Bytes."""
    mtime: int
    """Nanoseconds."""
    bundle: str
    """Hash of the model's direction."""
    options: str
    """Hash of everything else that decides the output."""


@dataclass(frozen=True)
class Entry:
    """What the journal knows of one key."""

    state: State
    output: str
    error: str


@dataclass(frozen=True)
class Maker:
    """What an output was made from last, or is being made from."""

    key: Key
    state: State
    """`failed` where an older version of that input gave the output, and the present one has failed."""


class Journal:
    """The journal of one output folder. Safe to use from several threads.

    Raises:
        OutputBusyError: another run has this folder open.
        DiskFullError, OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=0.2, check_same_thread=False)
        except OSError as error:
            raise explain_os_error(error, folder) from error
        except sqlite3.Error as error:
            raise self._explained(error) from error
        try:
            # Exclusive: the file stays locked until it is closed, and a kill unlocks it.
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(_SCHEMA)
            self._database.execute(_INDEX)
            self._database.commit()
        except sqlite3.Error as error:
            self._database.close()
            raise self._explained(error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back to other runs."""
        with self._lock:
            self._database.close()

    def find(self, key: Key) -> Entry | None:
        """What is known of exactly this input with exactly these settings."""
        query = (
            "SELECT state, output, error FROM files "
            "WHERE input = ? AND bundle = ? AND options = ? AND size = ? AND mtime = ?"
        )
        values = (os.fsencode(key.input), key.bundle, key.options, key.size, key.mtime)
        try:
            with self._lock:
                row = self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return None if row is None else Entry(_state(row[0]), self._whole(row[1]), os.fsdecode(row[2]))

    def record(self, key: Key, state: State, output: str, error: str = "") -> None:
        """Set what is known of a key.

        What was known of an older version of the same input is forgotten, and so is what the same output was
        made from before; where it has failed, that an older version has given the output is still known.
        """
        path, below = os.fsencode(key.input), self._below(output)
        kept: str = state
        try:
            with self._lock, self._database:
                if state != "failed":
                    self._database.execute(
                        "DELETE FROM files WHERE output = ? AND state != 'failed'", (below,)
                    )
                elif self._has_output(path, key, below):
                    kept = _FAILED_AND_OLDER_THERE
                self._database.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (path, key.size, key.mtime, key.bundle, key.options, below, kept, os.fsencode(error)),
                )
        except sqlite3.Error as failure:
            raise self._explained(failure) from failure

    def leave(self, keys: Iterable[Key]) -> None:
        """Set these versions as not to be done, all or none; what is known of an input already stays."""
        rows = (
            (os.fsencode(key.input), key.size, key.mtime, key.bundle, key.options, b"", "left", b"")
            for key in keys
        )
        try:
            with self._lock, self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error as failure:
            raise self._explained(failure) from failure

    def _has_output(self, path: bytes, key: Key, below: bytes) -> bool:
        """Whether an output is there that an input gave with these settings."""
        row = self._database.execute(
            "SELECT 1 FROM files WHERE input = ? AND bundle = ? AND options = ? AND output = ? "
            "AND state NOT IN ('failed', 'left')",
            (path, key.bundle, key.options, below),
        ).fetchone()
        return row is not None and os.path.exists(self._whole(below))  # noqa: PTH110 - any name

    def forget(self, path: str, bundle: str, options: str) -> None:
        """Nothing is known any more of an input with these settings, in whatever version. As in Key."""
        try:
            with self._lock, self._database:
                self._database.execute(
                    "DELETE FROM files WHERE input = ? AND bundle = ? AND options = ?",
                    (os.fsencode(path), bundle, options),
                )
        except sqlite3.Error as failure:
            raise self._explained(failure) from failure

    def maker(self, output: str) -> Maker | None:
        """What an output was made from, or is being made from; None where that is not known."""
        return self.makers(output).get(self._whole(self._below(output)))

    def makers(self, output: str) -> dict[str, Maker]:
        """What is known of an output, and of those whose names differ in the suffix alone, by their paths."""
        folder, name = os.path.split(self._below(output))
        stem = os.path.splitext(name)[0]  # noqa: PTH122 - of bytes
        # "/" comes after ".".
        first, last = (os.path.join(folder, stem + end) for end in (b".", b"/"))  # noqa: PTH118
        try:
            with self._lock:
                rows = self._database.execute(
                    "SELECT output, state, input, size, mtime, bundle, options FROM files "
                    "WHERE state NOT IN ('failed', 'left') AND (output = ? OR output > ? AND output < ?)",
                    (self._below(output), first, last),
                ).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return {
            self._whole(row[0]): Maker(Key(os.fsdecode(row[2]), *row[3:]), _state(row[1]))
            for row in rows
            if os.path.splitext(os.path.basename(row[0]))[0] == stem  # noqa: PTH119, PTH122
        }

    def unfinished(self) -> list[str]:
        """Outputs that were begun and not finished."""
        try:
            with self._lock:
                rows = self._database.execute(
                    "SELECT output FROM files WHERE state NOT IN ('done', 'left')"
                ).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        return [self._whole(row[0]) for row in rows]

    def _below(self, output: str) -> bytes:
        return os.fsencode(os.path.relpath(output, self.path.parent))

    def _whole(self, below: bytes) -> str:
        return os.path.normpath(self.path.parent / os.fsdecode(below))

    def _explained(self, error: sqlite3.Error) -> OutputBusyError | DiskFullError | OutputError:
        # The lower byte is the kind, the upper one its variant; errors of Python's own module have none.
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutputBusyError(
                f"{self.path.parent}: another run writes to this folder",
                "wait until it is done, or choose another folder with --output",
            )
        if kind == sqlite3.SQLITE_FULL:
            return DiskFullError(
                f"{self.path}: the disk is full",
                "free some room, or write to another disk with --output, and run the same command again",
            )
        if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return OutputError(
                f"{self.path}: damaged journal",
                "delete it: files that have their output are skipped all the same",
            )
        return OutputError(
            f"{self.path.parent}: cannot be written: {error}", "choose another folder with --output"
        )


def _state(kept: str) -> State:
    return "failed" if kept == _FAILED_AND_OLDER_THERE else cast(State, kept)
