"""Writing a file so that it is either whole or not there.

Knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING

from ugatit_batch.errors import DiskFullError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME_LIMIT = 255  # bytes in one file name: ext4, APFS and NTFS alike
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


def partial_path(target: Path) -> Path:
    """Name under which `target` is written until it is whole: `.NAME.partial.EXT` in the same folder."""
    name = f".{target.stem}.partial{target.suffix}"
    if len(os.fsencode(name)) > _NAME_LIMIT:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]
        name = f".{digest}.partial{target.suffix}"
    return target.with_name(name)


def is_partial(name: str) -> bool:
    """Whether a file name is one that `partial_path` makes."""
    return name.startswith(".") and (".partial." in name or name.endswith(".partial"))


def explain_os_error(error: OSError, target: Path) -> DiskFullError | OutputError:
    """The project's own error for an operating system's error while writing `target`."""
    if error.errno in _FULL:
        return DiskFullError(
            f"{target}: the disk is full",
            "free some room and run the same command again, or choose an output folder on another disk",
        )
    reason = error.strerror or str(error)
    return OutputError(f"{target}: cannot be written: {reason}", "choose another output folder")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path to write to: it becomes `target` when the block ends well, and disappears when not.

    Args:
        target: where the finished file goes; its folder is made when missing, an existing file is replaced.

    Raises:
        DiskFullError: no room is left; nothing is half written.
        OutputError: the folder or the file cannot be written.
    """
    partial = partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb+") as handle:
                os.fsync(handle.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, target) from error


def remove_partials(folder: Path) -> int:
    """Delete what a killed run left below `folder`; return how many files that were."""
    count = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            if is_partial(name):
                with contextlib.suppress(PermissionError):
                    (folder / directory / name).unlink(missing_ok=True)
                    count += 1
    return count
