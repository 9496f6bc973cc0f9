from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_training import loop
from ugatit_training.step import LOSS_NAMES

from .training_place import RECIPE, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def training(tmp_path: Path, one_thread: None) -> Place:
    """Three pictures of A and two of B."""
    rng = np.random.default_rng(1)
    data = tmp_path / "data/cat2dog"
    for name, count in (("trainA", 3), ("trainB", 2)):
        (data / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / name / f"{index}.png")
    (tmp_path / "tiny.toml").write_text(RECIPE, "utf-8")
    return Place(data, tmp_path / "tiny.toml", tmp_path / "runs", tmp_path / "models")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Replace the step by one that costs nothing, and sends a signal after so many."""

    def install(interrupt_at: int = 0, number: int = 0, times: int = 1) -> list[int]:
        taken: list[int] = []

        def step(*_: Any) -> Tensor:
            taken.append(len(taken) + 1)
            if len(taken) == interrupt_at:
                for _time in range(times):
                    os.kill(os.getpid(), number)
            return torch.full((len(LOSS_NAMES),), float(len(taken)))

        monkeypatch.setattr(loop, "make_step", lambda *_: step)
        return taken

    return install
