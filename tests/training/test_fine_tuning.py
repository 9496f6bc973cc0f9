from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig, load_bundle
from ugatit_batch.errors import BundleError, ConfigError, ModelNotFoundError
from ugatit_training.fine_tuning import find_start, initial_weights, missing_directions, shape_overrides
from ugatit_training.run_folder import RunInfo, open_run
from ugatit_training.state import new_state

from ..fakes import make_model
from .tiny import CPU, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.fine_tuning import Start

TINY = GeneratorConfig(channels=4, residual_blocks=1, light=True, image_size=32)


def start(tmp_path: Path, shape: GeneratorConfig = TINY, **more: Any) -> Start:
    make_model(tmp_path / "models/start", shape, **more)
    return find_start("start", tmp_path / "models", tmp_path / "run")


def test_a_start_knows_its_model(tmp_path: Path) -> None:
    found = start(tmp_path)
    bundle = load_bundle(tmp_path / "models/start")
    assert found.record == {"model": "start", "a2b": bundle.digest("a2b"), "b2a": bundle.digest("b2a")}
    assert found.shape == TINY
    assert found.bundle == bundle
    assert missing_directions(found) == []
    assert find_start(str(tmp_path / "models/start"), tmp_path, tmp_path / "run") == found


def test_an_unknown_model_is_named_by_the_option(tmp_path: Path) -> None:
    start(tmp_path)
    with pytest.raises(ModelNotFoundError, match="--init-from strat: no such model") as caught:
        find_start("strat", tmp_path / "models", tmp_path / "run")
    assert "did you mean start?" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_skip": False}, "do not add their input"),
        ({"style_relu": False}, "without ReLU"),
        ({"variance": "nested"}, "variance is nested"),
    ],
)
def test_generators_that_cannot_be_trained_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"--init-from start: .*{words}"):
        start(tmp_path, dataclasses.replace(TINY, **change))


@pytest.mark.parametrize(
    ("shape", "config", "changed"),
    [
        ({}, {}, {}),
        ({"image_size": 64}, {}, {}),
        ({"channels": 8}, {}, {"channels": 8}),
        ({"residual_blocks": 2}, {}, {"residual_blocks": 2}),
        ({"norm": "in"}, {}, {"norm": "in"}),
        ({"variance": "unbiased"}, {}, {"variance": "unbiased"}),
        ({}, {"light": False}, {"light": True}),
        ({}, {"cam": "none"}, {"cam": "generator"}),
        ({}, {"cam": "discriminator"}, {"cam": "both"}),
        ({"attention": False}, {}, {"cam": "discriminator"}),
        ({"attention": False}, {"cam": "generator"}, {"cam": "none"}),
        ({"light": False}, {"light": False}, {}),
        ({"light": False, "image_size": 48}, {}, {"light": False, "image_size": 48}),
        (
            {"light": False},
            {"working_mode": "native", "working_side": 512},
            {"light": False, "working_mode": "square", "working_side": 0},
        ),
    ],
)
def test_the_shape_is_the_models(
    tmp_path: Path, shape: dict[str, Any], config: dict[str, Any], changed: dict[str, Any]
) -> None:
    found = start(tmp_path, dataclasses.replace(TINY, **shape))
    before = tiny(**config)
    assert shape_overrides(found, before, {}) == changed
    after = dataclasses.replace(before, **changed | {"load_size": 64}).generator()
    assert dataclasses.replace(after, image_size=found.shape.image_size) == found.shape
    for name in changed:
        with pytest.raises(ConfigError, match=f"{name} = .* contradicts --init-from start"):
            shape_overrides(found, before, {name: getattr(before, name)})


def test_a_runs_generators_have_the_models_weights(tmp_path: Path) -> None:
    found = start(tmp_path)
    assert found.bundle is not None
    config = tiny()
    anew, begun = (new_state(config, CPU, initial=i) for i in (None, initial_weights(found.bundle, config)))
    for direction in found.bundle.directions:
        weights = found.bundle.weights(direction)
        taken = begun.networks.get_submodule(direction).state_dict()
        assert taken.keys() == weights.keys()
        assert all(np.array_equal(taken[name].numpy(), array) for name, array in weights.items())
    for name, tensor in begun.networks.a.state_dict().items():
        assert torch.equal(tensor, anew.networks.a.state_dict()[name]), "discriminators start as ever"


def test_a_missing_direction_starts_anew(tmp_path: Path) -> None:
    found = start(tmp_path, directions=("b2a",))
    assert missing_directions(found) == ["a2b"]
    assert found.bundle is not None
    assert set(initial_weights(found.bundle, tiny())) == {"b2a"}


def test_weights_of_another_shape_are_damage(tmp_path: Path) -> None:
    found = start(tmp_path)
    assert found.bundle is not None
    lying = dataclasses.replace(found.bundle, generator=dataclasses.replace(TINY, channels=8))
    with pytest.raises(BundleError, match=r"models/start: damaged model: the weights of a2b"):
        initial_weights(lying, tiny(channels=8))


def test_once_there_is_a_checkpoint_the_model_is_not_needed(tmp_path: Path) -> None:
    found = start(tmp_path, dataclasses.replace(TINY, norm="in"))
    run = tmp_path / "run"
    info = RunInfo("0123", "/a", "/b", ("a", "b"), (1, 1), initial=found.record)
    open_run(run, tiny(norm="in"), info)
    assert find_start("start", tmp_path / "models", run) == found, "no checkpoint yet"
    (run / "checkpoints").mkdir()
    (run / "checkpoints/step-00000002.pt").write_bytes(b"")
    assert find_start("start", tmp_path / "nowhere", run) == dataclasses.replace(found, bundle=None)
    with pytest.raises(ModelNotFoundError):
        find_start("other", tmp_path / "nowhere", run)
    for spoil in (lambda: (run / "config.toml").write_bytes(b"\xff"), (run / "config.toml").unlink):
        spoil()
        with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
            find_start("start", tmp_path / "models", run)
