from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import distributed

from ugatit_batch.bundle import load_bundle
from ugatit_batch.cli import train_run
from ugatit_batch.errors import ConfigError, DeviceError, ProcessLostError
from ugatit_training.acceleration import check_device, make_step
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.config import config_to_toml
from ugatit_training.data import Domains, draws, find_domains
from ugatit_training.distributed import ALONE, World, is_distributed, main_process, open_world, own_device
from ugatit_training.draw import Draw
from ugatit_training.state import new_state

from .tiny import CPU, assert_identical, domain_folders, newest, tiny

if TYPE_CHECKING:
    from ugatit_training.config import TrainConfig


# Adam's first step is the rate in the direction of each gradient's sign: where a gradient is rounding alone,
# two ways to compute it can end up to twice the rate apart.
CONFIG = tiny(steps=20, report_every=1, checkpoint_every=10, learning_rate=1e-4)
EXTRAS = tiny(steps=6, learning_rate=1e-3, replay_pool=2, ema=0.5, diff_augment=("color", "cutout"))


@dataclass(frozen=True)
class Ended:
    """What trainings of several processes left behind."""

    place: Path
    reports: dict[str, dict[str, Any]]
    """By scenario: exit codes and errors."""

    def kept(self, name: str, step: int, rank: int) -> dict[str, Any]:
        path = self.place / name / f"step{step}-rank{rank}.pt"
        found: dict[str, Any] = torch.load(path, weights_only=True)
        return found

    def domains(self) -> Domains:
        return find_domains(self.place / "data/trainA", self.place / "data/trainB")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    place = tmp_path_factory.mktemp("together")
    a, b = domain_folders(place / "data")

    def scenario(name: str, config: TrainConfig, folder: str, **more: Any) -> dict[str, Any]:
        common = {"name": name, "place": str(place / folder), "a": str(a), "b": str(b)}
        return common | {"config": dataclasses.asdict(config)} | more

    scenarios = [
        scenario("together", dataclasses.replace(CONFIG, ema=0.5), "together"),
        scenario("stopped", EXTRAS, "parts", stop_after=3),
        scenario("resumed", EXTRAS, "parts"),
        scenario("whole", EXTRAS, "whole"),
        scenario("alone", dataclasses.replace(EXTRAS, steps=7), "parts", processes=1),
        scenario("others", tiny(steps=2), "others", other_config=True),
    ]
    program = Path(__file__).parent / "processes.py"
    done = subprocess.run(
        [sys.executable, str(program), json.dumps(scenarios)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Ended(place, {line["name"]: line for line in lines})


def test_two_processes_take_the_step_of_one_with_the_doubled_batch(ended: Ended) -> None:
    doubled = dataclasses.replace(CONFIG, batch_size=2)
    first = next(draws(ended.domains(), doubled, 0, CPU))
    state = new_state(doubled, CPU)
    losses = make_step(state, doubled)(first)
    pair = ended.kept("together", 1, 0)
    torch.testing.assert_close(torch.tensor(list(pair["losses"].values())), losses, rtol=1e-5, atol=1e-7)
    # Adam's first moment is half of the gradient that DistributedDataParallel has averaged.
    found, expected = (
        torch.cat([entry["exp_avg"].flatten() for entry in entries.values()])
        for entries in (pair["generators"], state.optimizers.generators.state_dict()["state"])
    )
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    before = new_state(doubled, CPU).networks.state_dict()
    moved = []
    for name, wanted in state.networks.state_dict().items():
        weight = pair["networks"][name]
        torch.testing.assert_close(weight, wanted, rtol=0, atol=2.1 * CONFIG.learning_rate)
        apart = ((weight - wanted).abs() > 0.01 * CONFIG.learning_rate).float().mean().item()
        assert apart < 0.01, name
        moved.append(not torch.equal(weight, before[name]))
    assert sum(moved) > 0.9 * len(moved)
    single = new_state(CONFIG, CPU)
    make_step(single, CONFIG)(Draw(first.a[:1], first.b[:1]))
    alone = single.networks.state_dict()["a2b.out.weight"]
    assert not torch.allclose(pair["networks"]["a2b.out.weight"], alone, atol=1e-6)


@pytest.mark.parametrize("step", [1, 10, 20])
def test_both_processes_stay_equal(ended: Ended, step: int) -> None:
    first, second = (ended.kept("together", step, rank) for rank in (0, 1))
    for part in ("networks", "generators"):
        assert_identical(first[part], second[part])
    assert first["losses"] == second["losses"]
    assert any(name.endswith("spectral.u") for name in first["networks"])


def test_the_main_process_alone_writes(ended: Ended) -> None:
    assert ended.kept("together", 10, 0)["checkpoint"] == "step-00000010.pt"
    assert ended.kept("together", 10, 1)["checkpoint"] is None
    assert ended.kept("together", 10, 0)["average"]
    assert not ended.kept("together", 10, 1)["average"]
    run = ended.place / "together/run"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 20
    assert_identical(newest(run)["networks"], ended.kept("together", 20, 1)["networks"])


def test_a_stop_told_to_one_process_stops_both(ended: Ended) -> None:
    assert ended.reports["stopped"]["codes"] == [0, 0]
    checkpoints = list_checkpoints(ended.place / "parts/run/checkpoints")
    assert 3 in [checkpoint.step for checkpoint in checkpoints]
    pools = [ended.kept("parts", 3, rank)["pool"] for rank in (0, 1)]
    assert not torch.equal(*pools)


def test_both_processes_resume_as_if_undisturbed(ended: Ended) -> None:
    assert ended.reports["resumed"]["codes"] == ended.reports["whole"]["codes"] == [0, 0]
    for rank in (0, 1):
        assert_identical(ended.kept("parts", 6, rank), ended.kept("whole", 6, rank))


def test_replay_pools_tie_a_run_to_its_number_of_processes(ended: Ended) -> None:
    report = ended.reports["alone"]
    assert report["codes"] == [1]
    assert "replay pools of 2 processes, not 1" in report["errors"]["error0"]


def test_processes_that_start_from_different_configs_are_refused(ended: Ended) -> None:
    report = ended.reports["others"]
    assert report["codes"] == [1, 1]
    for message in report["errors"].values():
        assert message.startswith("ConfigError: the config of process 1 is not that of process 0")


def test_torchrun_trains_a_model(folders: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(config_to_toml(tiny(steps=3, report_every=1)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "ugatit_batch", "train", "--source", str(folders[0]), "--target", str(folders[1])),
            *("--name", "pair", "--recipe", str(recipe), "--out", str(tmp_path / "runs"), "--json"),
            *("--models-dir", str(tmp_path / "models"), "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert done.stderr.count("model pair is in") == 1
    assert "and 1 more" in done.stderr
    assert load_bundle(tmp_path / "models/pair").training["step"] == 3


def test_a_main_process_that_finds_something_wrong_ends_both(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    world = World(0, 2)
    monkeypatch.setattr(World, "share", lambda _self, value: told.append(value))
    with pytest.raises(ConfigError), train_run._agreed(world):
        raise ConfigError("wrong", "right")
    assert told == [False]
    monkeypatch.setattr(World, "share", lambda _self, value: False)
    with train_run._agreed(World(1, 2)) as others_go_on:
        pass
    assert not others_go_on()


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not is_distributed()
    assert main_process()
    with open_world(CPU) as world:
        assert world == ALONE
        assert world.main
        assert world.any(True)
        assert not world.any(False)
        assert world.share(3) == 3
        assert world.gather("x") == ["x"]
    assert own_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda:0")) == torch.device("cuda:1")
    assert own_device(CPU) == CPU
    assert not main_process()
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match="process 2 of this machine has no GPU") as caught:
        own_device(torch.device("cuda:0"))
    assert "--nproc-per-node" in caught.value.hint


def test_a_process_that_is_gone_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(distributed, "new_group", lambda **_: None)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with pytest.raises(ProcessLostError, match="another process"), open_world(CPU):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shape mismatch"), open_world(CPU):
        raise RuntimeError("shape mismatch")


def test_cuda_graphs_need_a_gpu_and_one_process() -> None:
    config = tiny(cuda_graphs=True)
    with pytest.raises(ConfigError, match="cpu is no NVIDIA GPU"):
        check_device(config, CPU, ALONE)
    with pytest.raises(ConfigError, match="2 processes"):
        check_device(config, torch.device("cuda:0"), World(0, 2))
