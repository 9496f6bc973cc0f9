"""Compiled steps on an NVIDIA GPU: apart from the others, since nothing may have been compiled there before.

Run by `make gpu`, with one config for all that can share it, so that PyTorch finds compiled code again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch

from ugatit_training.acceleration import float32_products
from ugatit_training.data import find_domains
from ugatit_training.loop import train

from .test_step_gpu import CONFIG, CUDA, assert_same_steps, build, draw, far_apart
from .tiny import domain_folders, newest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]

PLAIN = dataclasses.replace(CONFIG, tf32=False, learning_rate=1e-6)
COMPILED = dataclasses.replace(PLAIN, compile=True)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """What other networks were traced for counts towards a limit, after which nothing is compiled."""
    torch.compiler.reset()  # code on disk stays


def test_compiling_does_not_change_the_gradients() -> None:
    (ours, take_step), (plain, take_plain_step) = build(COMPILED), build(PLAIN)
    with float32_products(PLAIN):
        losses, expected = take_step(draw(1)), take_plain_step(draw(1))
    assert far_apart(ours, plain) <= 1e-3
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=0)


def test_a_compiled_recorded_step_is_the_step() -> None:
    assert_same_steps(dataclasses.replace(COMPILED, cuda_graphs=True), PLAIN)


def test_a_compiled_recorded_run_with_an_average_resumes(tmp_path: Path) -> None:
    domains = find_domains(*domain_folders(tmp_path / "data"))
    config = dataclasses.replace(COMPILED, cuda_graphs=True, ema=0.9, steps=12, checkpoint_every=6)
    taken = 0

    def after_six() -> bool:
        nonlocal taken
        taken += 1
        return taken == 6

    list(train(config, domains, tmp_path / "run", CUDA, after_six))
    assert newest(tmp_path / "run")["step"] == 6
    reports = list(train(config, domains, tmp_path / "run", CUDA))
    assert [report.step for report in reports] == list(range(7, 13))
    state = newest(tmp_path / "run")
    apart = [
        float((value - state["networks"][name]).abs().max())
        for name, value in state["ema"].items()
        if value.is_floating_point()
    ]
    assert 0 < max(apart) < 1e-4  # an average follows, and is not the weights
    assert all(value.isfinite().all() for value in state["networks"].values())
