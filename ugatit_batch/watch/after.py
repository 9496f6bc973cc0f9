"""What happens to an input that is done: it stays, is moved away, or is deleted.

It goes only when its result has been read back and is safe on the disk. Knows nothing of models, and nothing
of how inputs are found.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Literal

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import DiskFullError, InputChangedError, OutputError
from ugatit_batch.watch.gate import Version
from ugatit_batch.watch.read_back import StoppedError, read_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


Mode = Literal["keep", "move", "delete"]

_BLOCK = 1 << 20  # bytes that are copied at once
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
"""What file systems say that know no fsync of folders."""


class After:
    """Takes inputs away that are done, or does not.

    Args:
        mode: what to do with them.
        folder: that they lie below.
        done: where `move` puts them, in the same tree; on any disk.
    """

    def __init__(self, mode: Mode, folder: Path, done: Path | None = None) -> None:
        if mode == "move" and done is None:
            raise ValueError("`move` needs a folder to move to")
        self.mode = mode
        self._folder, self._done = folder, done
        self._device: int | None = None

    def apply(
        self,
        source: Path,
        version: Version,
        result: Path,
        sidecars: Sequence[Path] = (),
        frames: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Path | None:
        """Do with one input what is to be done.

        Whatever goes wrong, and whenever this is killed, the input stays, or its result is safe; calling it
        again goes on from there. A link is moved or deleted, not the file that it leads to.

        Args:
            source: the input, as it was found below the folder.
            version: of the input that the result was made from.
            result: what was made of it.
            sidecars: its attention.
            frames: pictures in it; None where nobody knows.
            should_stop: asked again and again; the work may take as long as reading a film of hours.

        Returns:
            Where the input is now; None where it stayed or was deleted.

        Raises:
            InputChangedError: the input is not what was translated any more.
            OutputError: the result is missing or damaged, or the input may not be moved or deleted.
            DiskFullError: there is no room for it where it is moved to.
            StoppedError: `should_stop` said so.
        """
        if self.mode == "keep":
            return None
        try:
            # Before minutes of reading, what can be told at once.
            _check_version(source, version)
            if not os.access(source.parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._explained(source, error) from error
        if _is_same(source, result):
            raise OutputError(f"{result}: is the input {source} itself", "give another folder with --output")
        read_back(result, sidecars, frames, should_stop)
        try:
            for place in {path.parent for path in (result, *sidecars)}:
                _make_safe(place)
            if self._done is not None:
                self._check_done(self._done)
                return self._move(source, version, self._done / source.relative_to(self._folder), should_stop)
            _check_version(source, version)
            source.unlink()
        except OSError as error:
            raise self._explained(source, error) from error
        return None

    def _move(self, source: Path, version: Version, wanted: Path, should_stop: Callable[[], bool]) -> Path:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        number = _first_free(wanted)
        place, made = _numbered(wanted, max(number - 1, 0)), False
        # A run that was killed may have put it there, and not have taken it from here.
        if number == 0 or not _is_copy(source, place):
            _check_version(source, version)
            place, stays = _put(source, version, wanted, number, should_stop)
            if not stays:
                return place
            made = True
        try:
            _make_safe(place.parent)
            _check_version(source, version)
        except (OSError, InputChangedError):
            if made:
                place.unlink()
            raise
        # Gone meanwhile, or by a first try of which a network disk did not tell.
        source.unlink(missing_ok=True)
        return place

    def _check_done(self, done: Path) -> None:
        """Do not fill the folder that a disk was mounted on, once the disk has been seen."""
        if self._device is None:
            done.mkdir(parents=True, exist_ok=True)
            self._device = done.stat().st_dev
        elif not done.is_dir() or done.stat().st_dev != self._device:
            raise OutputError(
                f"{done}: the folder for what is done is gone, or not on the disk where it was",
                "make it again, or mount its disk; inputs stay where they are until then",
            )

    def _explained(self, source: Path, error: OSError) -> DiskFullError | OutputError:
        full = explain_os_error(error, source if self._done is None else self._done)
        if isinstance(full, DiskFullError):
            return DiskFullError(full.message, f"free some room; {source} stays where it is until then")
        reason = error.strerror or str(error)
        if self._done is None:
            return OutputError(
                f"{source}: is done, but cannot be deleted: {reason}",
                f"let this program write to {source.parent}, or use --after keep",
            )
        return OutputError(
            f"{source}: is done, but cannot be moved to {self._done}: {reason}",
            f"let this program write to {source.parent} and to {self._done}, or use --after keep",
        )


def _check_version(source: Path, version: Version) -> None:
    """Raise where the input is not what was translated any more."""
    try:
        now = Version.of(source.stat())
    except FileNotFoundError as error:
        raise InputChangedError(f"{source}: is gone", "nothing has to be done") from error
    if now != version:
        raise InputChangedError(
            f"{source}: changed while it was translated", "it stays, and is translated again"
        )


def _make_safe(folder: Path) -> None:
    """Keep the names in a folder, and its own above it, through a power cut. Windows does so by itself."""
    if sys.platform == "win32":
        return
    folder = folder.resolve()
    device = folder.stat().st_dev
    for place in (folder, *folder.parents):
        try:
            if place.stat().st_dev != device:
                return
            handle = os.open(place, os.O_RDONLY)
        except PermissionError:
            # Nor may it be written, then, so that no name in it is new.
            return
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
        finally:
            os.close(handle)


def _numbered(wanted: Path, number: int) -> Path:
    return wanted if number == 0 else wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")


def _first_free(wanted: Path) -> int:
    """A number that makes a name that is free, after one that is taken; with few looks among thousands."""
    taken, free = -1, 0
    while os.path.lexists(_numbered(wanted, free)):
        taken, free = free, 2 * free + 1
    while free - taken > 1:
        middle = (taken + free) // 2
        if os.path.lexists(_numbered(wanted, middle)):
            taken = middle
        else:
            free = middle
    return free


def _put(
    source: Path, version: Version, wanted: Path, number: int, should_stop: Callable[[], bool]
) -> tuple[Path, bool]:
    """Give an input a place of its own; return it, and whether the input is still where it was, too."""
    if source.is_symlink():
        leads_to = _leads_to(source)
        return _named(lambda place: _symlink(place, leads_to), wanted, number)
    try:
        return _named(lambda place: _link(source, place), wanted, number)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    with _copied(source, version, wanted, should_stop) as partial:
        return _named(lambda place: _link(partial, place), wanted, number)[0], True


def _named(give: Callable[[Path], bool], wanted: Path, number: int) -> tuple[Path, bool]:
    """Give the first name that nobody has taken; `give` says whether its file kept the old one, too."""
    while True:
        place = _numbered(wanted, number)
        try:
            return place, give(place)
        except FileExistsError:
            number += 1


def _link(file: Path, place: Path) -> bool:
    """Give a file another name and take nobody's; return whether it kept the old one, too."""
    try:
        place.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
        # No second names on this disk, or not for the files of others.
        if os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from error
        file.rename(place)
        return False
    return True


def _symlink(place: Path, leads_to: str) -> bool:
    place.symlink_to(leads_to)
    return True


def _leads_to(link: Path) -> str:
    """The absolute path that a link holds, or means."""
    return os.path.join(link.parent.resolve(), os.readlink(link))  # noqa: PTH115, PTH118 - `..` stays


@contextlib.contextmanager
def _copied(source: Path, version: Version, wanted: Path, should_stop: Callable[[], bool]) -> Iterator[Path]:
    """A whole copy beside `wanted`, under a hidden name that is gone afterwards."""
    # Of the source's name, so that two watched folders may have one folder for what is done.
    digest = hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:32]
    partial = wanted.with_name(f".{digest}.partial{wanted.suffix}")
    try:
        partial.unlink(missing_ok=True)
        with source.open("rb") as reading, partial.open("xb") as writing:
            while block := reading.read(_BLOCK):
                if should_stop():
                    raise StoppedError
                writing.write(block)
            writing.flush()
            os.fsync(writing.fileno())
        if partial.stat().st_size != version.size:
            raise InputChangedError(f"{source}: changed while it was moved", "it is translated again")
        # Disks without owners and permissions refuse them.
        with contextlib.suppress(PermissionError):
            shutil.copystat(source, partial)
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _is_same(source: Path, result: Path) -> bool:
    with contextlib.suppress(OSError):
        return source.samefile(result)
    return False


def _is_copy(source: Path, place: Path) -> bool:
    """Whether `place` is what moving `source` there makes."""
    if source.is_symlink() or place.is_symlink():
        return source.is_symlink() and place.is_symlink() and _leads_to(source) == _leads_to(place)
    here, there = source.stat(), place.stat()
    if os.path.samestat(here, there):
        return True
    return Version.of(here) == Version.of(there) and filecmp.cmp(source, place, shallow=False)
