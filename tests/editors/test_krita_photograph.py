"""What a person gets: a photograph, the model that comes along, a soft selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from skimage import data

from .krita import command_line, use_krita

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.editor


def test_a_selection_of_a_photograph_becomes_a_drawing(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    photograph = data.astronaut()  # type: ignore[no-untyped-call]
    session = use_krita(tmp_path, models, "photograph", photograph)
    assert session.told("photograph")["said"].startswith("Done")
    drawn = session.pixels("photograph", 512, 512)
    rows, columns = np.nonzero(drawn[..., 3])
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    # The soft edge reaches beyond what was asked for, and not over the whole picture.
    assert 340 < right - left < 400
    assert 420 < bottom - top < 480
    part = photograph[top:bottom, left:right]
    made = command_line(tmp_path / "expected", models, {"part": part}, model="ink")["part"][0]
    inside = drawn[top:bottom, left:right]
    assert np.abs(inside[..., :3].astype(int) - made)[inside[..., 3] == 255].max() <= 1
    # A drawing, and no grey mush.
    assert made.std() > 40
