"""Which files and folders are looked at in a watched folder.

Knows names and places, nothing of what is in a file or of when it came.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ugatit_batch.planning import is_media, same_name
from ugatit_batch.walk import walk
from ugatit_batch.watch.gate import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_UNFINISHED = frozenset({".part", ".partial", ".temp", ".tmp", ".crdownload", ".filepart"})
"""Before the suffix proper, of what is still being made: yt-dlp's `film.temp.mp4`, `film.part.mp4`.

Most programs put theirs last, as in `film.mp4.part`, which makes it the name of neither picture nor film.
"""
_OWNERS = "~$"
"""What Office puts before the name of a file that it has open."""

_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@tmp"),  # Synology: thumbnails, the bin, old versions
        *("@recycle", "@recently-snapshot", "@__thumb"),  # QNAP
        *("$recycle.bin", "system volume information", "lost+found"),  # the roots of disks
        *("network trash folder", "temporary items", "~snapshot"),  # of file servers
    }
)
"""Folders that systems keep for themselves, in lower case. Others, such as `.stfolder`, are hidden ones."""
_DOWNLOAD = ".download"
"""Ends the folder `film.mp4.download`, in which Safari keeps the first part of `film.mp4`."""


class Rules:
    """What is looked at below one folder.

    Left alone are hidden names, what other programs are still making, folders that systems keep for
    themselves, and all that is neither picture nor film. The folder's own path may be of any kind.

    Args:
        folder: the watched folder; it need not be there.
        leave_out: folders of which nothing is an input, such as that of the outputs, by whatever way they are
            come upon. One that the watched folder lies in leaves out nothing of the watched folder.
        recursive: whether folders in it are looked into.
    """

    def __init__(self, folder: Path, leave_out: Sequence[Path] = (), *, recursive: bool = True) -> None:
        self.folder = folder
        self._recursive = recursive
        self._real = _real(folder)
        trees = [_real(path) for path in leave_out]
        self._around = [tree for tree in trees if self._real.is_relative_to(tree)]
        self._trees = [tree for tree in trees if tree not in self._around]

    def wants(self, path: Path) -> bool:
        """Whether a file is looked at, by its name and place alone; it need not be there any more."""
        return _is_wanted(path) and self.enters(path.parent)

    def enters(self, folder: Path) -> bool:
        """Whether a folder is looked into: the watched one or one below, which need not be there any more."""
        if folder == self.folder:
            return True
        try:
            parts = folder.relative_to(self.folder).parts
        except ValueError:  # not below it
            return False
        if not self._recursive or any(_is_closed(name) for name in parts):
            return False
        real = _real(folder)
        return not self._is_left_out(real) and not self._leads_back(parts, real)

    def files(
        self, below: Path | None = None, problem: Callable[[Path, OSError], object] = lambda *_: None
    ) -> Iterator[tuple[Path, Version]]:
        """The files that are there and are looked at, in a fixed order.

        Args:
            below: the folder to begin at: the watched one or one below it; None: the watched one.
            problem: is told of each folder that cannot be looked into, and why. That a folder below the
                watched one is gone is none.
        """
        start = self.folder if below is None else below
        if not self.enters(start):
            return

        def tell(folder: Path, error: OSError) -> None:
            if folder == self.folder or not isinstance(error, FileNotFoundError | NotADirectoryError):
                problem(folder, error)

        def skip(folder: Path) -> bool:
            return not self.enters(folder)

        for path, status in walk(start, skip=skip, recursive=self._recursive, problem=tell):
            if _is_wanted(path):
                yield path, Version.of(status)

    def _is_left_out(self, real: Path) -> bool:
        if any(real.is_relative_to(tree) for tree in self._trees):
            return True
        # A link in the watched folder leads into a tree that the watched folder lies in.
        return not real.is_relative_to(self._real) and any(real.is_relative_to(tree) for tree in self._around)

    def _leads_back(self, parts: tuple[str, ...], real: Path) -> bool:
        """Whether a link on the way leads to a folder that it is in."""
        if real == _plain(self._real.joinpath(*parts)):  # no link at all
            return False
        way = [self._real]
        way += [_real(self.folder.joinpath(*parts[: count + 1])) for count in range(len(parts))]
        return len(set(way)) < len(way)


def _is_wanted(path: Path) -> bool:
    """Whether a file of this name may be a finished picture or film."""
    name = path.name
    if name.startswith((".", _OWNERS)) or not is_media(path):
        return False
    return Path(path.stem).suffix.lower() not in _UNFINISHED


def _is_closed(name: str) -> bool:
    """Whether a folder of this name is not looked into."""
    lower = name.lower()
    if lower.startswith(".") or lower in _FOLDERS:
        return True
    return lower.endswith(_DOWNLOAD) and is_media(Path(lower.removesuffix(_DOWNLOAD)))


def _real(folder: Path) -> Path:
    """Equal for all ways to one folder; also for one that is not there."""
    return _plain(Path(os.path.realpath(folder)))


def _plain(path: Path) -> Path:
    """Equal for two spellings of one path."""
    return Path(same_name(path))
