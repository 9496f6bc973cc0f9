"""One line of Krita's settings: whether a plug-in is switched on. Every other byte stays as it is."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from ugatit_batch.atomic import replacing

if TYPE_CHECKING:
    from pathlib import Path

_GROUP = b"[python]"
_KEY = b"enable_ugatit"
_LINE = re.compile(rb"\s*" + _KEY + rb"\s*=\s*(.*?)\s*")


def is_enabled(settings: Path) -> bool:
    """Whether Krita loads the plug-in at its next start."""
    if not settings.is_file():
        return False
    lines = settings.read_bytes().splitlines(keepends=True)
    values = [found[1] for at in _own_lines(lines) if (found := _LINE.fullmatch(lines[at]))]
    return bool(values) and values[-1].lower() in (b"true", b"1", b"on", b"yes")


def enable(settings: Path) -> None:
    """Switch the plug-in on.

    Args:
        settings: kritarc; is made where there is none.

    Raises:
        OutputError, DiskFullError: it cannot be written; it is as it was.
    """
    before = settings.read_bytes() if settings.is_file() else b""
    lines, end = before.splitlines(keepends=True), b"\r\n" if b"\r\n" in before else b"\n"
    wanted = _KEY + b"=true" + end
    own = _own_lines(lines)
    if own:
        lines[own[0]] = wanted
        for at in reversed(own[1:]):
            del lines[at]
    elif (header := _header(lines)) is not None:
        if not lines[header].endswith((b"\n", b"\r")):
            lines[header] += end
        lines.insert(header + 1, wanted)
    else:
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            lines[-1] += end
        lines += [*([end] if lines else []), _GROUP + end, wanted]
    _write(settings, before, b"".join(lines))


def disable(settings: Path) -> None:
    """Take the line out again, and the group that is empty without it.

    Raises:
        OutputError, DiskFullError: kritarc cannot be written; it is as it was.
    """
    if not settings.is_file():
        return
    before = settings.read_bytes()
    lines = before.splitlines(keepends=True)
    own = _own_lines(lines)
    for at in reversed(own):
        del lines[at]
    header = _header(lines)
    if own and header is not None and not any(lines[at].strip() for at in _group(lines, header)):
        del lines[header]
        if header and not lines[header - 1].strip():
            del lines[header - 1]
    _write(settings, before, b"".join(lines))


def _write(settings: Path, before: bytes, after: bytes) -> None:
    if before == after:
        return
    target = settings.resolve()  # a link to a file that is kept elsewhere stays a link
    with replacing(target) as partial:
        partial.write_bytes(after)
        if target.exists():
            shutil.copymode(target, partial)


def _header(lines: list[bytes]) -> int | None:
    return next((at for at, line in enumerate(lines) if line.strip() == _GROUP), None)


def _group(lines: list[bytes], header: int) -> range:
    """The lines between a group's header and the next one."""
    after = range(header + 1, len(lines))
    return range(header + 1, next((at for at in after if lines[at].lstrip().startswith(b"[")), len(lines)))


def _own_lines(lines: list[bytes]) -> list[int]:
    header = _header(lines)
    return [] if header is None else [at for at in _group(lines, header) if _LINE.fullmatch(lines[at])]
