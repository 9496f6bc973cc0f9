"""The files below a folder, in a fixed order. Knows nothing of what they are."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DEEPEST = 200
"""Folders inside one another that are looked into; names alone end it at about 2,000."""


def walk(
    folder: Path,
    *,
    skip: Callable[[Path], bool] = lambda _: False,
    recursive: bool = True,
    problem: Callable[[Path, OSError], object] = lambda _path, _error: None,
) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below a folder, sorted by name in each folder, with the status of each. No hidden ones.

    Links are followed, but never back into a folder that they are in. Nothing is read ahead: what changes in
    folders that are still to come is seen.

    Args:
        folder: where to look.
        skip: asked for each folder below before it is entered; True leaves it out.
        recursive: whether folders inside are entered at all.
        problem: is told of each folder that cannot be looked into, and why.
    """

    def visit(directory: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, os.stat_result]]:
        try:
            status = directory.stat()
            with os.scandir(directory) as entries:
                found = sorted(entry.name for entry in entries)
        except OSError as error:
            problem(directory, error)
            return
        here = above | {(status.st_dev, status.st_ino)}
        if len(here) > _DEEPEST:
            problem(directory, OSError(errno.ELOOP, "too many folders in folders"))
            return
        for name in found:
            if name.startswith("."):  # half-written files too
                continue
            path = directory / name
            try:
                status = path.stat()
            except OSError:  # a link to nothing or to itself
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status
            elif stat.S_ISDIR(status.st_mode):
                is_circle = (status.st_dev, status.st_ino) in here
                if recursive and not is_circle and not skip(path):
                    yield from visit(path, here)

    return visit(folder, frozenset())
