"""What can be known of the training pictures before the first step.

Whether each can be read, whether they are few, and whether folders that should have nothing in common do.

What was found readable is remembered by size and time of change, so that a resumed run decodes nothing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ugatit_batch.atomic import replacing
from ugatit_batch.errors import DatasetError
from ugatit_training.data import Domains, list_pictures, open_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path

NAMED = 10
"""How many files a message names before it counts the rest."""
FEW = 100
"""Under so many pictures of a domain a warning is due; the paper's data sets have 400 and more."""
_FORMAT = 1

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Checked:
    """How far the check is."""

    done: int
    """Pictures looked at."""
    total: int
    warnings: tuple[str, ...] = ()
    """What somebody should know before the run begins; complete with the last one that is yielded."""


@dataclass(frozen=True)
class _File:
    """A file as it was when it was looked at."""

    size: int
    changed: int
    """Time of the last change in nanoseconds."""
    sha256: str | None = None
    """Of the content, where somebody asked."""


def find_test_folders(source: Path, target: Path) -> tuple[Path | None, Path | None]:
    """The folders `testA` and `testB` beside the training folders `trainA` and `trainB`.

    Args:
        source: the training folder of A.
        target: of B.

    Returns:
        None in the place of one that is missing; both None where the training folders are called otherwise.
    """
    if (source.name, target.name) != ("trainA", "trainB"):
        return None, None
    a, b = source.parent / "testA", target.parent / "testB"
    return a if a.is_dir() else None, b if b.is_dir() else None


def find_tests(source: Path, target: Path) -> Domains:
    """The pictures of `find_test_folders`; none where a folder is missing."""
    folders = find_test_folders(source, target)
    return Domains(*(() if folder is None else list_pictures(folder) for folder in folders))


def check_pictures(
    domains: Domains, tests: Domains, per_step: int, memory: Path, workers: int | None = None
) -> Generator[Checked]:
    """Decode every training picture to its last pixel, and look for what would spoil a run.

    Args:
        domains: the training pictures.
        tests: test pictures, which are only compared; empty where there are none.
        per_step: pictures of each domain that one step takes.
        memory: JSON file of what was found in earlier checks; written when everything can be read.
        workers: threads; Pillow decodes without Python's lock. None: the processor's cores, 8 at most. Each
            holds one picture at a time.

    Yields:
        After each picture, and a last time with the warnings.

    Raises:
        DatasetError: pictures cannot be read; it names them. Nothing was written.
        DiskFullError, OutputError: `memory` cannot be written.
    """
    workers = workers or min(os.cpu_count() or 1, 8)
    groups = (domains.a, domains.b, tests.a, tests.b)
    found = {path: _look(path) for group in groups for path in group}
    before = _recall(memory)
    known: dict[Path, _File] = {}
    for path, file in found.items():
        earlier = before.get(str(path.absolute()))
        if file is not None and earlier is not None and _same(file, earlier):
            known[path] = earlier
    trained = dict.fromkeys((*domains.a, *domains.b))
    fresh = [path for path in trained if path not in known]
    done = len(trained) - len(fresh)
    yield Checked(done, len(trained))

    unreadable: list[DatasetError] = []
    with _pool(workers) as pool:
        for _, error in _in_order(pool, _decode, fresh, workers):
            done += 1
            if error is not None:
                unreadable.append(error)
            yield Checked(done, len(trained))
        if unreadable:
            raise _explain(unreadable, len(trained))
        files = {path: known.get(path, file) for path, file in found.items() if file is not None}
        for path, digest in _in_order(pool, _digest, _worth_hashing(files, groups), workers):
            files[path] = replace(files[path], sha256=digest)
    remembered = {
        str(path.absolute()): file for path, file in files.items() if path in trained or file.sha256
    }
    if remembered != before:
        _remember(memory, remembered)
    yield Checked(done, len(trained), (*_too_few(domains, per_step), *_copies(files, domains, tests)))


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that take nothing new up once the block is left."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Outcome], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Outcome]]:
    """Each item with what `work` makes of it, a few ahead of whoever reads."""
    waiting = iter(items)
    ahead = deque((item, pool.submit(work, item)) for item in islice(waiting, 2 * workers))
    while ahead:
        item, future = ahead.popleft()
        yield item, future.result()
        ahead.extend((item, pool.submit(work, item)) for item in islice(waiting, 1))


def _look(path: Path) -> _File | None:
    with contextlib.suppress(OSError):
        status = path.stat()
        return _File(status.st_size, status.st_mtime_ns)
    return None


def _same(file: _File, earlier: _File) -> bool:
    return (file.size, file.changed) == (earlier.size, earlier.changed)


def _decode(path: Path) -> DatasetError | None:
    try:
        open_rgb(path)
    except DatasetError as error:
        return error
    return None


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's content; None where it cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as handle:
        return hashlib.file_digest(handle, partial(hashlib.sha256, usedforsecurity=False)).hexdigest()
    return None


def _explain(errors: list[DatasetError], total: int) -> DatasetError:
    if len(errors) == 1:
        return errors[0]
    named = "\n".join(f"  {error.message}" for error in errors[:NAMED])
    more = f"\n  and {len(errors) - NAMED} more" if len(errors) > NAMED else ""
    return DatasetError(
        f"{len(errors)} of {total} training pictures cannot be read:\n{named}{more}",
        "copy them again, or take them out of the folder",
    )


# Warnings


def _too_few(domains: Domains, per_step: int) -> Iterator[str]:
    for name, paths in (("A", domains.a), ("B", domains.b)):
        folder = os.path.commonpath([path.parent for path in paths])
        if len(paths) < per_step:
            yield (
                f"{folder}: {len(paths)} pictures of domain {name} are fewer than the {per_step} of "
                "a step, which sees some of them more than once"
            )
        elif len(paths) < FEW:
            yield (
                f"{folder}: only {len(paths)} pictures of domain {name}; under {FEW} or so the networks can "
                "learn them by heart"
            )


def _worth_hashing(files: Mapping[Path, _File], groups: tuple[tuple[Path, ...], ...]) -> list[Path]:
    """Files without a digest whose size another folder has, too: no other can have the same content."""
    holders = Counter(size for group in groups for size in {files[p].size for p in group if p in files})
    return [path for path, file in files.items() if file.sha256 is None and holders[file.size] > 1]


def _copies(files: Mapping[Path, _File], domains: Domains, tests: Domains) -> Iterator[str]:
    pairs = (
        (domains.a, tests.a, "both for training and for the test of domain A; the test will flatter"),
        (domains.b, tests.b, "both for training and for the test of domain B; the test will flatter"),
        (domains.a, domains.b, "in both domains"),
    )
    for left, right, where in pairs:
        contents = {digest: path for path, digest in reversed(_digests(left, files))}
        same = [(contents[digest], path) for path, digest in _digests(right, files) if digest in contents]
        if same:
            named = "".join(f"\n  {one} = {other}" for one, other in same[:NAMED])
            more = f"\n  and {len(same) - NAMED} more" if len(same) > NAMED else ""
            noun = "picture is" if len(same) == 1 else "pictures are"
            yield f"{len(same)} {noun} {where}:{named}{more}"


def _digests(paths: Iterable[Path], files: Mapping[Path, _File]) -> list[tuple[Path, str]]:
    return [(p, digest) for p in paths if p in files and (digest := files[p].sha256) is not None]


# Memory


def _recall(memory: Path) -> dict[str, _File]:
    """What an earlier check found, by absolute path; nothing where the file is missing or damaged."""
    try:
        data = json.loads(memory.read_text("utf-8"))
        if data["format"] != _FORMAT:
            return {}
        return {path: _File(int(size), int(changed), digest) for path, size, changed, digest in data["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remember(memory: Path, files: Mapping[str, _File]) -> None:
    lines = [json.dumps([path, f.size, f.changed, f.sha256]) for path, f in files.items()]
    with replacing(memory) as unfinished:
        unfinished.write_text(f'{{"format": {_FORMAT}, "files": [\n' + ",\n".join(lines) + "\n]}\n", "utf-8")
