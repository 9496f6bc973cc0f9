"""That the networks learn anything at all: real photographs, and a simple drawing of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from ugatit_training.data import find_domains

from .tiny import run_to, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_training.data import Domains


def draw(photo: Pixels) -> Pixels:
    """Dark lines on paper where the light changes."""
    grey = photo.mean(2)
    lines = np.hypot(np.gradient(grey, axis=0), np.gradient(grey, axis=1))
    ink = (255 - np.clip(lines * 6, 0, 230)).astype(np.uint8)
    return np.stack([ink, ink, (ink * 0.85).astype(np.uint8)], -1)


def save_crops(folder: Path, pictures: list[Pixels], side: int) -> None:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        for index in range(6):
            left = index * (picture.shape[1] - side) // 5
            top = (picture.shape[0] - side) * (index % 3) // 2
            crop = Image.fromarray(picture[top : top + side, left : left + side])
            crop.save(folder / f"{number}-{index}.png")


@pytest.fixture
def photos_and_drawings(tmp_path: Path) -> Domains:
    # Files that come inside scikit-image itself.
    cat, cup, astronaut, rocket = (
        getattr(photographs, name)() for name in ("chelsea", "coffee", "astronaut", "rocket")
    )
    save_crops(tmp_path / "a", [cat, cup], 160)
    save_crops(tmp_path / "b", [draw(astronaut), draw(rocket)], 160)
    return find_domains(tmp_path / "a", tmp_path / "b")


def test_the_losses_of_both_domains_fall(photos_and_drawings: Domains, tmp_path: Path) -> None:
    config = tiny(
        steps=60,
        channels=8,
        discriminator_channels=8,
        learning_rate=1e-3,
        report_every=20,
        checkpoint_every=1000,
        sample_every=1000,
        cam_weight=20.0,
    )
    first, _, last = (report.losses for report in run_to(config, photos_and_drawings, tmp_path / "run"))
    for letter in ("a", "b"):
        before, after = (losses[f"cycle_{letter}"] + losses[f"identity_{letter}"] for losses in (first, last))
        assert after < 0.93 * before, letter
        assert last[f"cam_{letter}"] < 0.9 * first[f"cam_{letter}"], letter
