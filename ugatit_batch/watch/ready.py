"""Whether a file may be read: nobody writes it any more, and it begins as a picture or a film does.

Knows nothing of time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Literal

from ugatit_batch.errors import FilmError, PictureError, UgatitBatchError
from ugatit_batch.images.read import check_header
from ugatit_batch.planning import is_film
from ugatit_batch.video.containers import is_program
from ugatit_batch.video.lengths import is_cut_short
from ugatit_batch.video.probe import probe_film, unreadable

Look = Literal["whole", "gone", "open", "other"] | UgatitBatchError
"""Of a file: ready to be read, not there, written by another program, no film after all, or why it cannot
be opened."""

_GONE = (FileNotFoundError, NotADirectoryError)
_TELLING = frozenset(
    {
        *("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "jfs", "msdos"),
        *("nilfs2", "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "udf", "vfat", "xfs", "zfs"),
    }
)
"""File systems on which the kernel itself counts who writes. Network file systems refuse leases for reasons
of their own, and a file on one of those would be taken to be open for ever."""


def look(path: Path) -> Look:
    """Whether a picture or a film can be begun with. Takes about a millisecond, for films some more.

    A picture's header and a film's first picture are read; a film must be as long as it says itself.

    Returns:
        `whole`; `gone` where there is no file; `open` where another program writes it; `other` for a program
        in TypeScript; or the error that translating it would begin with.
    """
    try:
        status = path.stat()
    except _GONE:
        return "gone"
    except (OSError, ValueError) as error:
        return _unreadable(path, error)
    if not stat.S_ISREG(status.st_mode):
        return "gone"
    if is_open_for_writing(path):
        return "open"
    if status.st_size and is_program(path):
        return "other"
    try:
        if is_film(path):
            probe_film(path)
            if is_cut_short(path):
                return FilmError(f"{path}: is cut short", "copy it again from where it came from")
        else:
            check_header(path)
    except UgatitBatchError as error:
        return "gone" if not os.path.lexists(path) else error
    except _GONE:
        return "gone"
    except OSError as error:
        return _unreadable(path, error)
    return "whole"


def _unreadable(path: Path, error: Exception) -> FilmError | PictureError:
    if is_film(path):
        return unreadable(path, error)
    reason = getattr(error, "strerror", None) or str(error)
    return PictureError(f"{path}: cannot be opened: {reason}", "look at the file and its disk")


if sys.platform == "linux":
    import fcntl

    def is_open_for_writing(path: Path) -> bool:
        """Whether any program has a file open to write it. False where that cannot be known.

        It cannot for files of other users, unless this is root, and on network disks.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return _is_lease_refused(descriptor) and _file_system(descriptor) in _TELLING
        finally:
            os.close(descriptor)

    def _is_lease_refused(descriptor: int) -> bool:
        """Ask for a lease to read, which the kernel gives only where nobody writes, and give it back."""
        try:
            # Who opens the file to write meanwhile is held up, and we are told so by a signal. The usual one,
            # SIGIO, would end this process; this one does nothing unless somebody waits for it.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            if fcntl.fcntl(descriptor, fcntl.F_GETSIG) != signal.SIGURG:
                return False
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        with contextlib.suppress(OSError):  # closing gives it back, too
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False

    def _file_system(descriptor: int) -> str | None:
        """The type of the file system that an open file is on, as the kernel names it."""
        # By the mount's number: on btrfs and overlays the device's number is not that of the mount.
        try:
            information = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii")
            number = information.partition("mnt_id:")[2].split()[0]
            mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
        except (OSError, IndexError):
            return None
        for mount in mounts:
            place, _, kind = mount.decode("utf-8", "surrogateescape").partition(" - ")
            if place.split(" ", 1)[0] == number:
                return kind.split(" ", 1)[0]
        return None

elif sys.platform == "win32":

    def is_open_for_writing(path: Path) -> bool:
        """Whether another program keeps a file to itself. False where that cannot be known."""
        try:
            with path.open("rb"):
                return False
        except PermissionError:
            return True
        except OSError:
            return False

else:

    def is_open_for_writing(path: Path) -> bool:  # noqa: ARG001
        """Always False: this system does not tell."""
        return False
