"""The ways in which files arrive in a folder, each with delays drawn at random.

Each way is a function of the inbox, a place outside of it on the same disk, a name, and a source of chance;
it gives the names below the inbox that have to be translated.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    Way = Callable[[Path, Path, str, random.Random], list[str]]


def picture(chance: random.Random, side: int = 24, format_: str = "PNG") -> bytes:
    """A small picture that cannot be read when a part is missing."""
    noise = np.random.default_rng(chance.getrandbits(32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with io.BytesIO() as stream:
        Image.fromarray(noise).save(stream, format_)
        return stream.getvalue()


def pause(chance: random.Random, most: float = 0.12) -> None:
    time.sleep(chance.random() * most)


def written(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    (inbox / f"{name}.png").write_bytes(picture(chance))
    return [f"{name}.png"]


def slowly(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    """In twenty pieces by one writer."""
    content = picture(chance, 40)
    with (inbox / f"{name}.png").open("wb", buffering=0) as handle:
        for number in range(20):
            handle.write(content[len(content) * number // 20 : len(content) * (number + 1) // 20])
            pause(chance)
    return [f"{name}.png"]


def reopened(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    """In pieces, opened and closed for each, some of them longer apart than a file takes to settle."""
    content = picture(chance, 40)
    for number in range(5):
        with (inbox / f"{name}.png").open("ab") as handle:
            handle.write(content[len(content) * number // 5 : len(content) * (number + 1) // 5])
        pause(chance, 0.4)
    return [f"{name}.png"]


def preallocated(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    """At its full size from the beginning, closed, and filled later."""
    content, path = picture(chance, 40), inbox / f"{name}.png"
    with path.open("wb") as handle:
        handle.truncate(len(content))
    pause(chance, 0.4)
    with path.open("r+b", buffering=0) as handle:
        for number in range(5):
            handle.write(content[len(content) * number // 5 : len(content) * (number + 1) // 5])
            pause(chance)
    return [f"{name}.png"]


def as_rsync(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    temporary = inbox / f".{name}.png.a8Xq2Z"
    temporary.write_bytes(picture(chance))
    pause(chance, 0.5)
    temporary.rename(inbox / f"{name}.png")
    return [f"{name}.png"]


def as_browser(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    content, temporary = picture(chance, 40), inbox / f"{name}.png.crdownload"
    with temporary.open("wb", buffering=0) as handle:
        handle.write(content[:500])
        pause(chance, 0.5)
        handle.write(content[500:])
    temporary.rename(inbox / f"{name}.png")
    return [f"{name}.png"]


def moved_in(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    away = outside / f"{name}.png"
    away.write_bytes(picture(chance))
    pause(chance)
    away.rename(inbox / f"{name}.png")
    return [f"{name}.png"]


def hard_link(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    away = outside / f"{name}.png"
    away.write_bytes(picture(chance))
    os.link(away, inbox / f"{name}.png")
    return [f"{name}.png"]


def symlink(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    away = outside / f"{name}.png"
    away.write_bytes(picture(chance))
    (inbox / f"{name}.png").symlink_to(away)
    return [f"{name}.png"]


def folder_moved_in(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    names = [f"{name}/{below}.png" for below in ("a", "b/c", "b/d/e")]
    for below in names:
        (outside / below).parent.mkdir(parents=True, exist_ok=True)
        (outside / below).write_bytes(picture(chance))
    (outside / name).rename(inbox / name)
    pause(chance)
    (inbox / name / "b" / "d" / "late.png").write_bytes(picture(chance))
    return [*names, f"{name}/b/d/late.png"]


def folders_made(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    """Folder in folder, and a file at once: before anybody can watch the inner one."""
    (inbox / name / "x" / "y").mkdir(parents=True)
    (inbox / name / "x" / "y" / "1.png").write_bytes(picture(chance))
    pause(chance)
    (inbox / name / "x" / "2.png").write_bytes(picture(chance))
    return [f"{name}/x/y/1.png", f"{name}/x/2.png"]


def read_by_others(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    path = inbox / f"{name}.png"
    path.write_bytes(picture(chance))
    for _ in range(10):
        with contextlib.suppress(FileNotFoundError):  # an input that is done may be deleted
            path.read_bytes()
        pause(chance)
    return [f"{name}.png"]


def touched(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    """Its rights change now and then; its content and its time do not."""
    path = inbox / f"{name}.png"
    path.write_bytes(picture(chance))
    for mode in (0o600, 0o640, 0o644):
        with contextlib.suppress(FileNotFoundError):
            path.chmod(mode)
        pause(chance)
    return [f"{name}.png"]


def copied_with_its_time(inbox: Path, outside: Path, name: str, chance: random.Random) -> list[str]:
    """As `cp -p`: its time is years ago, or, by a clock that was set back since, in the future."""
    path = inbox / f"{name}.png"
    path.write_bytes(picture(chance))
    stamp = time.time() + chance.choice([-1e8, 1e7])
    os.utime(path, (stamp, stamp))
    return [f"{name}.png"]


WAYS: tuple[Way, ...] = (
    written,
    slowly,
    reopened,
    preallocated,
    as_rsync,
    as_browser,
    moved_in,
    hard_link,
    symlink,
    folder_moved_in,
    folders_made,
    read_by_others,
    touched,
    copied_with_its_time,
)
