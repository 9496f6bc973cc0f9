from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
import torch

from ugatit_batch.errors import BundleError, ConfigError
from ugatit_training.config import TrainConfig, config_to_toml
from ugatit_training.restore import find_checkpoint, restore_networks
from ugatit_training.run_folder import RunInfo

from .tiny import assert_identical, newest, run_to, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.data import Domains


def make_run(run: Path, domains: Domains, config: TrainConfig) -> Path:
    run_to(config, domains, run)
    info = RunInfo("mark", "a", "b", ("cat", "dog"), (5, 7))
    (run / "run.json").write_text(json.dumps(asdict(info)), "utf-8")
    (run / "config.toml").write_text(config_to_toml(config), "utf-8")
    return run


@pytest.fixture
def run(tmp_path: Path, domains: Domains) -> Path:
    return make_run(tmp_path / "run", domains, tiny(steps=3, checkpoint_every=1))


def test_a_run_gives_its_newest_checkpoint(run: Path, tmp_path: Path) -> None:
    newest_one = run / "checkpoints/step-00000003.pt"
    assert find_checkpoint(run) == newest_one
    older = run / "checkpoints/step-00000002.pt"
    assert find_checkpoint(older) == older
    assert find_checkpoint(run / "checkpoints/step-00000009.pt") is None
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "cat2dog") is None


def test_networks_come_back_as_they_were_and_draw_nothing(run: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    restored = restore_networks(run / "checkpoints/step-00000003.pt")
    assert torch.equal(torch.get_rng_state(), state)
    assert_identical(restored.networks.state_dict(), newest(run)["networks"])
    assert (restored.step, restored.run, restored.weights) == (3, run, "raw")
    assert restored.info.domains == ("cat", "dog")
    assert not any(module.training for module in restored.networks.modules())
    assert not any(parameter.requires_grad for parameter in restored.networks.parameters())


def test_where_there_is_an_average_it_is_taken_as_for_the_model(tmp_path: Path, domains: Domains) -> None:
    run = make_run(tmp_path / "run", domains, tiny(steps=2, ema=0.9))
    restored = restore_networks(run / "checkpoints/step-00000002.pt")
    saved = newest(run)
    assert restored.weights == "ema"
    found = restored.networks.state_dict()
    for name, value in found.items():
        assert torch.equal(value, saved["ema"].get(name, saved["networks"][name])), name
    assert any(not torch.equal(value, saved["networks"][name]) for name, value in found.items())


def test_a_run_without_a_checkpoint_is_named(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(BundleError, match="a run without a checkpoint"):
        find_checkpoint(run)


def test_damaged_files_are_named(run: Path) -> None:
    checkpoint = run / "checkpoints/step-00000003.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    with pytest.raises(BundleError, match=r"step-00000003\.pt: damaged checkpoint"):
        restore_networks(checkpoint)
    content = torch.load(run / "checkpoints/step-00000002.pt", weights_only=True)
    torch.save(content | {"ema": {"a2b.other": torch.zeros(1)}}, checkpoint)
    with pytest.raises(BundleError, match="its average is one of other networks"):
        restore_networks(checkpoint)
    (run / "config.toml").write_bytes(b"steps = 1 # \xff")
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: not UTF-8"):
        restore_networks(checkpoint)
    (run / "config.toml").unlink()
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
        restore_networks(checkpoint)
