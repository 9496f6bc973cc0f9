from __future__ import annotations

import dataclasses
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch.errors import ConfigError
from ugatit_training.config import (
    ABLATIONS,
    DIFF_AUGMENTATIONS,
    RECIPES,
    TrainConfig,
    config_to_toml,
    load_config,
    paper_load_size,
    parse_config,
)

if TYPE_CHECKING:
    from pathlib import Path


# Recipes


@pytest.mark.parametrize("name", [*RECIPES, *ABLATIONS])
def test_every_recipe_loads(name: str) -> None:
    config = load_config(name, {})
    assert config.generator().light == config.light
    assert config.working_size().mode == config.working_mode
    assert parse_config(config_to_toml(config), "again") == config


def test_the_papers_numbers() -> None:
    config = load_config("paper", {})
    assert config == TrainConfig()
    expected = {
        "steps": 1_000_000,
        "batch_size": 1,
        "image_size": 256,
        "load_size": 286,
        "flip": 0.5,
        "channels": 64,
        "residual_blocks": 4,
        "light": False,
        "discriminator_channels": 64,
        "learning_rate": 1e-4,
        "weight_decay": 1e-4,
        "precision": "fp32",
        "crop_scale": None,
        "adversarial_weight": 1,
        "cycle_weight": 10,
        "identity_weight": 10,
        "cam_weight": 1000,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_light_differs_from_the_paper_in_light_alone() -> None:
    assert load_config("light", {}) == dataclasses.replace(load_config("paper", {}), light=True)


TABLE_1: dict[str, dict[str, Any]] = {
    "ablation-in": {"norm": "in"},
    "ablation-ln": {"norm": "ln"},
    "ablation-adain": {"norm": "adain"},
    "ablation-gn": {"norm": "gn"},
    "ablation-no-cam": {"cam": "none"},
    "ablation-no-generator-cam": {"cam": "discriminator"},
    "ablation-no-discriminator-cam": {"cam": "generator"},
}


def test_every_row_of_table_1_is_the_paper_with_one_thing_changed() -> None:
    assert set(ABLATIONS) == TABLE_1.keys()
    for name, changed in TABLE_1.items():
        config = load_config(name, {})
        assert config == dataclasses.replace(load_config("paper", {}), **changed), name
        assert config.generator().norm == changed.get("norm", "adalin")
        assert config.generator().attention == (changed.get("cam", "both") in ("both", "generator"))


def test_every_recipe_file_is_offered_and_the_other_way_round() -> None:
    files = resources.files("ugatit_training").joinpath("recipes").iterdir()
    found = {file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")}
    assert found == {*RECIPES, *ABLATIONS}


def test_what_is_not_the_papers_is_off() -> None:
    for name in (*RECIPES, *ABLATIONS):
        config = load_config(name, {})
        assert (config.ema, config.diff_augment, config.replay_pool) == (0.0, (), 0), name
        assert config.accumulate == 1


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("steps = 7\nlight = true\n", "utf-8")
    assert load_config(str(path), {"batch_size": 3}) == TrainConfig(steps=7, light=True, batch_size=3)


def test_no_such_recipe(tmp_path: Path) -> None:
    for name in ("papr", str(tmp_path), str(tmp_path / "none.toml")):
        with pytest.raises(ConfigError, match="neither a recipe nor a file") as caught:
            load_config(name, {})
        assert "paper, light, small" in caught.value.hint
        assert all(ablation in caught.value.hint for ablation in ABLATIONS)


# TOML


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(crop_scale=(0.25, 1.0), light=True, working_mode="native", working_side=1024),
        TrainConfig(learning_rate=1.0 / 3, precision="bf16", seed=2**40, flip=0.0, workers=0),
        TrainConfig(norm="gn", cam="discriminator", variance="unbiased", tf32=False, share_fakes=False),
        TrainConfig(join_passes=False, channels_last=False, fused_adam=False, compile=True, cuda_graphs=True),
        TrainConfig(diff_augment=("color", "cutout"), replay_pool=50, ema=0.999, accumulate=4),
        TrainConfig(checkpoint_activations=True, evaluate_every=5000, diff_augment=("translation",)),
    ],
)
def test_toml_round_trip(config: TrainConfig) -> None:
    assert parse_config(config_to_toml(config), "text") == config


def test_whole_numbers_pass_for_floats_and_lists_for_pairs() -> None:
    config = parse_config("learning_rate = 1\ncrop_scale = [1, 1]", "text")
    assert type(config.learning_rate) is float
    assert config.crop_scale == (1.0, 1.0)
    assert type(config.crop_scale[0]) is float


def test_text_that_is_no_toml_names_the_place() -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: not TOML: .*line 2"):
        parse_config("steps = 1\nsteps 2\n", "mine.toml")


@pytest.mark.parametrize("text", ["stepz = 1", "[optimizer]\nlearning_rate = 1e-4"])
def test_unknown_fields(text: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: unknown field '(stepz|optimizer)'") as caught:
        parse_config(text, "mine.toml")
    assert "learning_rate" in caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        'steps = "many"',
        "steps = 1.5",
        "steps = true",
        "light = 1",
        'learning_rate = "1e-4"',
        "learning_rate = true",
        "flip = [0.5]",
        'precision = "fp16"',
        "precision = 16",
        "precision = []",
        'working_mode = "any"',
        "crop_scale = 0.5",
        "crop_scale = true",
        "crop_scale = []",
        "crop_scale = [0.5]",
        "crop_scale = [0.1, 0.5, 1.0]",
        'crop_scale = ["a", "b"]',
        "crop_scale = [true, true]",
        'crop_scale = "ab"',
        "seed = 1979-05-27",
        "image_size = '64'",
        'norm = "bn"',
        "norm = true",
        'cam = "neither"',
        "cam = false",
        'variance = "nested"',
        "tf32 = 1",
        'compile = "yes"',
        "accumulate = 2.0",
        "ema = true",
        'ema = "0.9"',
        'diff_augment = "color"',
        "diff_augment = true",
        "diff_augment = [1]",
        'diff_augment = [["color"]]',
        "replay_pool = 0.5",
        "replay_pool = true",
    ],
)
def test_values_of_the_wrong_type_name_the_field(line: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.toml: {line.split(maxsplit=1)[0]} = "):
        parse_config(line, "mine.toml")


@pytest.mark.parametrize(
    "line",
    [
        "steps = 0",
        "steps = -1",
        "batch_size = 0",
        "image_size = 0",
        "image_size = 16",
        "image_size = 130",
        "load_size = 200",
        "channels = 0",
        "residual_blocks = 0",
        "discriminator_channels = 0",
        "learning_rate = 0",
        "learning_rate = -1e-4",
        "learning_rate = nan",
        "learning_rate = inf",
        "weight_decay = -0.1",
        "weight_decay = nan",
        "adversarial_weight = -1",
        "cycle_weight = nan",
        "identity_weight = inf",
        "cam_weight = -1000",
        "flip = 1.5",
        "flip = -0.5",
        "flip = nan",
        "seed = -1",
        "workers = -1",
        "report_every = 0",
        "sample_every = 0",
        "checkpoint_every = 0",
        "keep_checkpoints = 0",
        "crop_scale = [0, 1]",
        "crop_scale = [0.9, 0.5]",
        "crop_scale = [0.5, 1.5]",
        "crop_scale = [nan, 1.0]",
        "working_side = -4",
        "accumulate = 0",
        "accumulate = -1",
        "ema = 1",
        "ema = 1.0",
        "ema = -0.5",
        "ema = nan",
        'diff_augment = ["colour"]',
        'diff_augment = ["color", "blur"]',
        'diff_augment = [""]',
        "replay_pool = -1",
        "evaluate_every = -1",
    ],
)
def test_values_out_of_range_name_the_field(line: str) -> None:
    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]) as caught:
        parse_config(line, "mine.toml")
    assert caught.value.hint


def test_a_seed_has_63_bits() -> None:
    assert parse_config(f"seed = {2**63 - 1}", "mine.toml").seed == 2**63 - 1
    for seed in (2**63, 99999999999999999999):
        with pytest.raises(ConfigError, match=f"seed = {seed}: must be below"):
            load_config("light", {"seed": seed})


def test_a_pool_below_0_is_not_called_a_small_one() -> None:
    with pytest.raises(ConfigError, match="replay_pool = -1: must not be below 0"):
        parse_config("replay_pool = -1", "mine.toml")


def test_values_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="working_mode"):
        parse_config('working_mode = "native"', "mine.toml")
    with pytest.raises(ConfigError, match="working side"):
        parse_config("working_side = 6", "mine.toml")
    with pytest.raises(ConfigError, match=r"accumulate = 2: .*joined passes") as caught:
        parse_config("accumulate = 2\njoin_passes = false", "mine.toml")
    assert caught.value.hint == "join_passes = true"
    with pytest.raises(ConfigError, match="replay_pool = 5 is smaller") as caught:
        parse_config("replay_pool = 5\nbatch_size = 3\naccumulate = 2", "mine.toml")
    assert caught.value.hint == "use 6 or more"


def test_values_that_do_go_together() -> None:
    assert parse_config("replay_pool = 6\nbatch_size = 3\naccumulate = 2", "mine.toml").replay_pool == 6
    assert not parse_config("accumulate = 1\njoin_passes = false", "mine.toml").join_passes
    assert parse_config(f"diff_augment = {list(DIFF_AUGMENTATIONS)}", "text").diff_augment == (
        *("color", "translation", "cutout"),
    )
    assert parse_config("ema = 0", "text").ema == 0.0


# Overrides


def test_overrides_win_over_the_recipe() -> None:
    config = parse_config("steps = 5\nbatch_size = 2", "text", {"steps": 9, "precision": "bf16"})
    assert (config.steps, config.batch_size, config.precision) == (9, 2, "bf16")


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", {}, (256, 286)),
        ("", {"image_size": 128}, (128, 143)),
        ("", {"image_size": 512}, (512, 572)),
        ("image_size = 128\nload_size = 176", {"image_size": 64}, (64, 72)),
        ("", {"image_size": 128, "load_size": 130}, (128, 130)),
        ("image_size = 128\nload_size = 176", {}, (128, 176)),
        ("image_size = 128", {}, (128, 143)),
        ("image_size = 512", {"steps": 3}, (512, 572)),
        ("image_size = 128", {"load_size": 200}, (128, 200)),
        ("load_size = 300", {}, (256, 300)),
    ],
)
def test_image_size_alone_takes_load_size_along(
    text: str, overrides: dict[str, Any], expected: tuple[int, int]
) -> None:
    config = parse_config(text, "text", overrides)
    assert (config.image_size, config.load_size) == expected


def test_the_papers_ratio() -> None:
    assert [paper_load_size(size) for size in (256, 128, 64)] == [286, 143, 72]


def test_overrides_of_lists_are_tuples_too() -> None:
    config = parse_config("", "text", {"diff_augment": ("color",)})
    assert config.diff_augment == ("color",)
    assert hash(config) == hash(TrainConfig(diff_augment=("color",)))


@pytest.mark.parametrize(
    "overrides", [{"image_size": "64"}, {"image_size": None}, {"stepz": 1}, {"steps": 0}]
)
def test_overrides_are_checked_like_the_text(overrides: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(overrides))):
        parse_config("", "text", overrides)


def test_the_working_size_is_the_training_size_unless_said_otherwise() -> None:
    assert TrainConfig().working_size().side == 256
    config = parse_config('light = true\nworking_mode = "native"\nworking_side = 1024', "text")
    assert (config.working_size().mode, config.working_size().side) == ("native", 1024)
