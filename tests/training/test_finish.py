from __future__ import annotations

import dataclasses
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_batch import __version__
from ugatit_batch.bundle import load_bundle
from ugatit_batch.errors import BundleError, ConfigError, UsageError
from ugatit_engines.torch_engine import load_generator
from ugatit_training.checkpoint import list_checkpoints, save_checkpoint
from ugatit_training.ema import Average
from ugatit_training.finish import is_own_checkpoint, write_model
from ugatit_training.generator import Generator
from ugatit_training.model import UGATIT, Optimizers
from ugatit_training.run_folder import RunInfo, model_belongs_to, open_run
from ugatit_training.state import TrainingState

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
    return save(run / "checkpoints", 7, networks)


def save(folder: Path, step: int, networks: UGATIT, average: Average | None = None) -> Path:
    state = TrainingState(networks, Optimizers(networks, CONFIG), average)
    saved = save_checkpoint(folder, step, state, keep=2)
    assert saved is not None
    return saved.path


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
        "weights": "raw",
        "pictures": {"a": 5, "b": 7},
        "config": asdict(CONFIG) | {"diff_augment": []},
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


def test_a_run_that_keeps_an_average_gives_that(checkpoint: Path, tmp_path: Path, networks: UGATIT) -> None:
    average = Average(networks, 0.9)
    for seed, generator in enumerate(average.generators()):
        randomize(generator, seed + 10)
    both = save(checkpoint.parent, 8, networks, average)
    for weights, said, generators in (
        (None, "ema", average.generators()),
        ("ema", "ema", average.generators()),
        ("raw", "raw", networks.generators()),
    ):
        bundle = write_model(both, "ink", tmp_path / "ink", storage="fp32", weights=weights)  # type: ignore[arg-type]
        assert bundle.training["weights"] == said
        for direction, generator in zip(("a2b", "b2a"), generators, strict=True):
            found = bundle.weights(direction)  # type: ignore[arg-type]
            assert all(np.array_equal(found[n], t.numpy()) for n, t in generator.state_dict().items())
    assert write_model(checkpoint, "ink", tmp_path / "ink").training["weights"] == "raw"
    with pytest.raises(UsageError, match="keeps no moving average"):
        write_model(checkpoint, "ink", tmp_path / "none", weights="ema")
    assert not (tmp_path / "none").exists()


def test_the_model_says_what_it_was_started_from(checkpoint: Path, tmp_path: Path) -> None:
    started = dataclasses.replace(INFO, initial={"model": "wash", "a2b": "00ff"})
    run = tmp_path / "runs/started"
    open_run(run, CONFIG, started)
    (run / "checkpoints").mkdir()
    moved = checkpoint.rename(run / "checkpoints" / checkpoint.name)
    bundle = write_model(moved, "ink", tmp_path / "ink")
    assert load_bundle(bundle.path).training["initial"] == {"model": "wash", "a2b": "00ff"}


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
    later = save(checkpoint.parent, 9, networks)
    second = write_model(later, "ink", tmp_path / "ink")
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
    config = checkpoint.parent.parent / "config.toml"
    whole = config.read_bytes()
    for spoil in (lambda: config.write_bytes(b"steps = 1 # \xff"), config.unlink):
        spoil()
        with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
            write_model(checkpoint, "ink", tmp_path / "ink")
    config.write_bytes(whole)
    (checkpoint.parent.parent / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"run\.json"):
        write_model(checkpoint, "ink", tmp_path / "ink")
    assert len(list_checkpoints(checkpoint.parent)) == 1
