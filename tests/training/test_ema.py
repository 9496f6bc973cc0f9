from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch

from ugatit_training.acceleration import make_step
from ugatit_training.distributed import World
from ugatit_training.generator import Generator
from ugatit_training.samples import write_samples
from ugatit_training.state import new_state

from .tiny import CPU, assert_identical, newest, random_draw, run_to, tiny, trained

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.state import TrainingState

CONFIG = tiny(learning_rate=1e-2, ema=0.7)


def raw(state: TrainingState) -> dict[str, Tensor]:
    weights = state.networks.state_dict()
    return {name: tensor.clone() for name, tensor in weights.items() if name.startswith(("a2b.", "b2a."))}


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_average_is_the_closed_form(steps: int, channels_last: bool) -> None:
    config = dataclasses.replace(CONFIG, channels_last=channels_last)
    state = new_state(config, CPU)
    step = make_step(state, config)
    history = [raw(state)]
    for number in range(steps):
        step(random_draw(config, number))
        history.append(raw(state))
    assert state.average is not None
    average = state.average.state_dict()
    assert average.keys() == history[0].keys()
    for name, tensor in average.items():
        expected = 0.7**steps * history[0][name].double()
        for number in range(1, steps + 1):
            expected += 0.3 * 0.7 ** (steps - number) * history[number][name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)
    assert steps == 0 or not torch.equal(average["a2b.out.weight"], history[-1]["a2b.out.weight"])


def test_a_step_of_several_parts_counts_once() -> None:
    config = dataclasses.replace(CONFIG, accumulate=2)
    state = new_state(config, CPU)
    before = raw(state)["a2b.out.weight"]
    make_step(state, config)(random_draw(config))
    assert state.average is not None
    expected = 0.7 * before + 0.3 * raw(state)["a2b.out.weight"]
    torch.testing.assert_close(state.average.a2b.out.weight, expected)


def test_the_average_is_never_fed_back(domains: Domains, tmp_path: Path) -> None:
    config = tiny(steps=4, learning_rate=1e-3)
    run_to(config, domains, tmp_path / "without")
    run_to(dataclasses.replace(config, ema=0.5), domains, tmp_path / "with")
    one, other = newest(tmp_path / "without"), newest(tmp_path / "with")
    assert one.pop("ema") is None
    assert other.pop("ema")
    assert_identical(one, other)


def test_the_average_learns_nothing_itself() -> None:
    state = trained(CONFIG, 2)
    assert state.average is not None
    for average, generator in zip(state.average.generators(), state.networks.generators(), strict=True):
        assert not any(p.requires_grad for p in average.parameters())
        assert all(p.requires_grad for p in generator.parameters())
        assert {p.data_ptr() for p in average.parameters()}.isdisjoint(
            p.data_ptr() for p in generator.parameters()
        )
    held = {
        id(p)
        for optimizer in (state.optimizers.generators, state.optimizers.discriminators)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert held == {id(p) for p in state.networks.parameters()}


def test_the_best_generators_are_the_average_where_there_is_one() -> None:
    with_average, without = trained(CONFIG), trained(dataclasses.replace(CONFIG, ema=0.0))
    assert with_average.average is not None
    assert with_average.best_generators == [with_average.average.a2b, with_average.average.b2a]
    assert without.average is None
    assert without.best_generators == [without.networks.a2b, without.networks.b2a]


def test_only_the_main_process_keeps_an_average() -> None:
    assert new_state(CONFIG, CPU, World(0, 2)).average is not None
    assert new_state(CONFIG, CPU, World(1, 2)).average is None


def sheet_of(
    weights: dict[str, Tensor], config: TrainConfig, domains: Domains, folder: Path
) -> dict[str, bytes]:
    generators = []
    for name in ("a2b", "b2a"):
        generators.append(Generator(config.generator()))
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
        generators[-1].load_state_dict(own)
        if config.channels_last:
            generators[-1].to(memory_format=torch.channels_last)
    write_samples(generators, domains, config, folder, config.steps)
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_sample_sheets_are_made_of_the_average(domains: Domains, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=4)
    run_to(config, domains, tmp_path)
    content = newest(tmp_path)
    written = {path.name: path.read_bytes() for path in (tmp_path / "samples").glob("*.png")}
    assert len(written) == 2
    assert sheet_of(content["ema"], config, domains, tmp_path / "average") == written
    assert sheet_of(content["networks"], config, domains, tmp_path / "raw") != written
