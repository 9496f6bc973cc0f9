from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_batch import __version__
from ugatit_batch.bundle import load_bundle
from ugatit_batch.errors import BundleError, ConfigError
from ugatit_engines.torch_engine import load_generator
from ugatit_training.checkpoint import list_checkpoints, save_checkpoint
from ugatit_training.finish import is_own_checkpoint, write_model
from ugatit_training.generator import Generator
from ugatit_training.model import UGATIT, Optimizers
from ugatit_training.run_folder import RunInfo, model_belongs_to, open_run

from .published_reference import randomize
from .tiny import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Direction

CONFIG = tiny(light=False)
INFO = RunInfo(
    mark="0123",
    source="/a",
    target="/b",
    domains=("photo", "ink"),
    pictures=(5, 7),
    sources=("own photographs",),
    licence="CC0-1.0",
)


@pytest.fixture
def networks() -> UGATIT:
    networks = UGATIT(CONFIG)
    for seed, generator in enumerate(networks.generators()):
        randomize(generator, seed)
    return networks


@pytest.fixture
def checkpoint(tmp_path: Path, networks: UGATIT) -> Path:
    run = tmp_path / "runs/ink"
    open_run(run, CONFIG, INFO)
    optimizers = Optimizers(networks, CONFIG)
    return save_checkpoint(run / "checkpoints", 7, networks, optimizers, keep=1).path


def test_the_model_says_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models/ink"
    written = write_model(checkpoint, "ink", folder)
    bundle = load_bundle(folder)
    assert bundle.name == "ink"
    assert bundle.domains == ("photo", "ink")
    assert bundle.generator == CONFIG.generator()
    assert bundle.working_size == CONFIG.working_size()
    assert bundle.sources == ("own photographs",)
    assert bundle.licence == "CC0-1.0"
    assert bundle.training == {
        "program": f"ugatit-batch {__version__}",
        "run": "0123",
        "step": 7,
        "pictures": {"a": 5, "b": 7},
        "config": asdict(CONFIG),
    }
    assert [written.digest(d) for d in ("a2b", "b2a")] == [bundle.digest(d) for d in ("a2b", "b2a")]
    assert model_belongs_to(folder, INFO)
    assert is_own_checkpoint(checkpoint)
    assert not is_own_checkpoint(folder / "bundle.json")


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_the_model_makes_the_training_networks_pictures(
    checkpoint: Path, tmp_path: Path, networks: UGATIT, direction: Direction
) -> None:
    bundle = write_model(checkpoint, "ink", tmp_path / "ink")
    assert {array.dtype for array in bundle.weights(direction).values()} == {np.dtype(np.float16)}
    trained = networks.get_submodule(direction)
    rounded = Generator(CONFIG.generator())
    rounded.load_state_dict({k: v.half().float() for k, v in trained.state_dict().items()})
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        ours, exact, wanted = load_generator(bundle, direction)(x), trained(x).image, rounded(x).image
    assert torch.equal(ours.image, wanted)
    assert 0 < (ours.image - exact).abs().max() < 0.02


def test_fp32_keeps_every_bit(checkpoint: Path, tmp_path: Path, networks: UGATIT) -> None:
    bundle = write_model(checkpoint, "ink", tmp_path / "ink", directions=["b2a"], storage="fp32")
    assert list(bundle.directions) == ["b2a"]
    weights = bundle.weights("b2a")
    trained = networks.b2a.state_dict()
    assert weights.keys() == trained.keys()
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in trained.items())


def test_finishing_again_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ink"
    write_model(checkpoint, "ink", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_model(checkpoint, "ink", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(before) == 3


def test_a_later_checkpoint_replaces_the_model(checkpoint: Path, tmp_path: Path, networks: UGATIT) -> None:
    first = write_model(checkpoint, "ink", tmp_path / "ink")
    with torch.no_grad():
        networks.a2b.out.weight.add_(1)
    later = save_checkpoint(checkpoint.parent, 9, networks, Optimizers(networks, CONFIG), keep=2)
    second = write_model(later.path, "ink", tmp_path / "ink")
    assert second.training["step"] == 9
    assert second.digest("a2b") != first.digest("a2b")
    assert second.digest("b2a") == first.digest("b2a")
    assert len(list((tmp_path / "ink").iterdir())) == 3


def test_damage_is_named(checkpoint: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"step-00000007\.pt: damaged checkpoint"):
            write_model(checkpoint, "ink", tmp_path / "ink")
    for other in ([1], 7, None, {"step": 1}, {"step": 1, "networks": None}, {"step": 1, "networks": {}}):
        torch.save(other, checkpoint)
        with pytest.raises(BundleError, match=r"step-00000007\.pt: damaged checkpoint"):
            write_model(checkpoint, "ink", tmp_path / "ink")
    assert not (tmp_path / "ink").exists()
    checkpoint.write_bytes(content)
    (checkpoint.parent.parent / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"run\.json"):
        write_model(checkpoint, "ink", tmp_path / "ink")
    assert len(list_checkpoints(checkpoint.parent)) == 1
