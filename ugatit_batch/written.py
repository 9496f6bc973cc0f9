"""What media code says of an input that it has translated and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Written:
    """What came of one input."""

    frames: int
    """1 for a still."""
    attention: tuple[Path, ...] = ()
    """Sidecars that were written."""
    notes: tuple[str, ...] = ()
    """What was reduced or left out, a clause each."""
    flicker: dict[str, float] | None = None
    """Of a film: `source` and `result`, in levels of 0 to 255."""


NOTHING = Written(0)
"""Of an input of which nothing came."""
