"""The smallest run there can be: its config, its pictures, and what it leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_training.acceleration import make_step
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.config import TrainConfig
from ugatit_training.diff_augment import NUMBERS
from ugatit_training.draw import AUGMENTED, Draw
from ugatit_training.loop import train
from ugatit_training.replay_pool import decide
from ugatit_training.state import new_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ugatit_training.data import Domains
    from ugatit_training.loop import Step
    from ugatit_training.state import TrainingState


# Worker processes: what they warn of concerns machines and Python versions, not this program.
with_workers = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning", "ignore:.*multi-threaded:DeprecationWarning"
)

CPU = torch.device("cpu")

_TINY: dict[str, Any] = {
    "steps": 12,
    "image_size": 32,
    "load_size": 36,
    "light": True,
    "workers": 0,
    "channels": 4,
    "residual_blocks": 1,
    "discriminator_channels": 4,
    "report_every": 1,
    "sample_every": 100,
    "checkpoint_every": 4,
    "keep_checkpoints": 3,
}


def tiny(**changes: Any) -> TrainConfig:
    return TrainConfig(**(_TINY | changes))


def batch(count: int = 1, size: int = 32) -> tuple[Tensor, Tensor]:
    """Pictures of A and of B that can be told apart."""
    a, b = torch.rand(2, count, 3, size, size)
    return a * 1.5 - 1, b * 1.5 - 0.5


def random_draw(config: TrainConfig, number: int = 0) -> Draw:
    """What step `number` (from 0) of a run is given; the pictures come from torch's global generator."""
    count = config.batch_size * config.accumulate
    augment = torch.rand(count, AUGMENTED, NUMBERS) if config.diff_augment else None
    replay = None
    if config.replay_pool:
        replay = torch.from_numpy(decide(config.replay_pool, (config.seed,), number * count, count))
    return Draw(*batch(count, config.image_size), augment, replay)


def trained(config: TrainConfig, steps: int = 1) -> TrainingState:
    """The state after some steps on random pictures."""
    state = new_state(config, CPU)
    step = make_step(state, config)
    for number in range(steps):
        step(random_draw(config, number))
    return state


def domain_folders(place: Path) -> tuple[Path, Path]:
    """trainA with five pictures and trainB with seven, smooth and of various sizes."""
    rng = np.random.default_rng(1)
    for name, count in (("trainA", 5), ("trainB", 7)):
        (place / name).mkdir(parents=True)
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            size = (40 + 3 * index, 52 - 2 * index)
            coarse.resize(size, Image.Resampling.BICUBIC).save(place / name / f"{index}.png")
    return place / "trainA", place / "trainB"


def run_to(config: TrainConfig, domains: Domains, run: Path, stop_after: int | None = None) -> list[Step]:
    """Train until the end, or for so many steps before `should_stop` says so."""
    taken = 0

    def should_stop() -> bool:
        nonlocal taken
        taken += 1
        return taken == stop_after

    return list(train(config, domains, run, CPU, should_stop))


def newest(run: Path) -> dict[str, Any]:
    """The content of the newest checkpoint."""
    path = list_checkpoints(run / "checkpoints")[-1].path
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def flatten(state: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one mapping, so that two states can be compared leaf by leaf."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = dict(enumerate(state)).items()
    else:
        return {name: state}
    return {key: leaf for k, v in items for key, leaf in flatten(v, f"{name}.{k}").items()}


def assert_identical(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Bit for bit."""
    one, other = flatten(ours), flatten(theirs)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name
