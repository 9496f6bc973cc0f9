"""Inputs that were translated."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ugatit_batch.watch.gate import Version

if TYPE_CHECKING:
    from pathlib import Path

OLD = 1_500_000_000_123_456_700
"""A time of change, in nanoseconds, that no file gets by itself and every file system holds."""


def put(path: Path, content: bytes = b"an input") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))
    return path


def version_of(path: Path) -> Version:
    return Version.of(path.stat())
