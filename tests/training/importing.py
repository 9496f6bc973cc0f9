"""How the tests of imported checkpoints import them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ugatit_training.published import Era, Imported, import_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, era: Era = "current") -> Imported:
    return import_checkpoint(path, name="selfie2anime", domains=("selfie", "anime"), era=era)
