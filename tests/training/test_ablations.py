"""Table 1: every row trains, is saved, goes on, and gives a model that translates."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig, load_bundle
from ugatit_batch.frames import Batch
from ugatit_engines.torch_engine import TorchTranslator
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.config import ABLATIONS, load_config
from ugatit_training.discriminator import GLOBAL_STRIDED, LOCAL_STRIDED, Discriminator
from ugatit_training.finish import write_model
from ugatit_training.generator import Generator
from ugatit_training.model import UGATIT
from ugatit_training.run_folder import RunInfo, open_run
from ugatit_training.state import new_state

from .tiny import CPU, newest, run_to, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.normalization import Norm

SMALL: dict[str, Any] = {
    "steps": 20,
    "image_size": 32,
    "channels": 4,
    "residual_blocks": 1,
    "discriminator_channels": 4,
    "learning_rate": 1e-3,
    "workers": 0,
    "report_every": 5,
    "keep_checkpoints": 1,
}
INFO = RunInfo(mark="0123", source="/a", target="/b", domains=("photo", "ink"), pictures=(5, 7))
WITHOUT_GENERATOR_CAM = ("ablation-no-cam", "ablation-no-generator-cam")
WITHOUT_DISCRIMINATOR_CAM = ("ablation-no-cam", "ablation-no-discriminator-cam")
WITHOUT_STYLE = ("ablation-in", "ablation-ln", "ablation-gn")


@pytest.mark.parametrize("recipe", ABLATIONS)
def test_every_row_of_table_1_trains_and_translates(recipe: str, domains: Domains, tmp_path: Path) -> None:
    config = load_config(recipe, SMALL)
    run = tmp_path / "run"
    open_run(run, config, INFO)
    reports = run_to(config, domains, run, stop_after=12)
    reports += run_to(config, domains, run)
    assert [report.step for report in reports] == [5, 10, 12, 15, 20]

    # losses
    for report in reports:
        assert all(math.isfinite(value) for value in report.losses.values())
        cams = {report.losses[name] for name in ("cam_a", "cam_b")}
        assert (cams == {0.0}) == (recipe in WITHOUT_GENERATOR_CAM)

    # weights
    start = new_state(config, CPU).networks
    after = newest(run)["networks"]
    assert after.keys() == start.state_dict().keys()
    for name, parameter in start.named_parameters():
        # ρ is at its bounds at first, and may be pushed against them.
        if not name.endswith(".rho"):
            assert not torch.equal(after[name], parameter), name
    assert any(".style." in name for name in after) == (recipe not in WITHOUT_STYLE)
    assert any(name.startswith("a2b.cam.") for name in after) == (recipe not in WITHOUT_GENERATOR_CAM)
    assert any(name.startswith("b.local_.cam.") for name in after) == (
        recipe not in WITHOUT_DISCRIMINATOR_CAM
    )
    assert any(name.endswith(".rho") for name in after) == ("cam" in recipe)

    # model
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    write_model(checkpoint.path, "row", tmp_path / "row", storage="fp32")
    bundle = load_bundle(tmp_path / "row")
    assert bundle.generator == config.generator()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    translator = TorchTranslator(bundle, "b2a", CPU)
    start.load_state_dict(after)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = (start.b2a(x).image.permute(0, 2, 3, 1) + 1) * 127.5
    (translated,) = translator.translate(iter([Batch(pixels)]))
    assert np.abs(translated.pixels - expected.numpy()).max() <= 1


@pytest.mark.parametrize("recipe", ABLATIONS)
def test_rows_without_a_cam_have_no_logits(recipe: str) -> None:
    networks = UGATIT(load_config(recipe, SMALL))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    for generator in networks.generators():
        output = generator(x)
        assert (output.logits is None) == (recipe in WITHOUT_GENERATOR_CAM)
        assert output.attention.shape == (2, 8, 8)
        assert [part.logits is None for part in output.split(2)] == [output.logits is None] * 2
    for domain in (networks.a, networks.b):
        for judge in (domain.local_, domain.global_):
            judged = judge(x, 2)
            assert (judged.logits is None) == (recipe in WITHOUT_DISCRIMINATOR_CAM)
            assert [part.logits is None for part in judged.split(2)] == [judged.logits is None] * 2


def test_without_a_cam_features_pass_on() -> None:
    generator = Generator(GeneratorConfig(channels=2, residual_blocks=1, attention=False))
    met: list[torch.Tensor] = []
    generator.encoder[-1].register_forward_hook(lambda _module, _inputs, output: met.append(output))
    generator.decoder[0].register_forward_pre_hook(lambda _module, inputs: met.append(inputs[0]))
    output = generator(torch.rand(1, 3, 16, 16))
    assert torch.equal(*met)
    assert torch.equal(output.attention, met[0].sum(1))

    discriminator = Discriminator(2, attention=False)
    discriminator.convs[-1].register_forward_hook(lambda _module, _inputs, output: met.append(output))
    discriminator.classifier.register_forward_pre_hook(lambda _module, inputs: met.append(inputs[0]))
    discriminator(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(torch.nn.functional.leaky_relu(met[2], 0.2), met[3])


# How many parameters there are, by table 4 to 6


def generator_parameters(config: GeneratorConfig) -> int:
    ch, wide = config.channels, 4 * config.channels
    down = 3 * ch * 7 * 7 + ch * 2 * ch * 9 + 2 * ch * wide * 9
    blocks = 2 * config.residual_blocks * 2 * wide * wide * 9
    up = wide * 2 * ch * 9 + 2 * ch * ch * 9 + ch * 3 * 7 * 7
    attention = 2 * wide + 2 * wide * wide + wide
    flat = wide if config.light else wide * (config.image_size // 4) ** 2
    style = flat * wide + 3 * wide * wide
    in_blocks = 2 * config.residual_blocks * wide
    in_up = 2 * ch + ch
    norms = {
        "adalin": style + in_blocks + 3 * in_up,
        "adain": style + 2 * in_up,
    }.get(config.norm, 2 * in_blocks + 2 * in_up)
    return down + blocks + up + norms + (attention if config.attention else 0)


def discriminator_parameters(channels: int, strided: int, attention: bool) -> int:
    widths = [3, *(channels << layer for layer in range(strided + 1))]
    convs = sum(i * o * 16 + o for i, o in itertools.pairwise(widths))
    last = widths[-1]
    return convs + 16 * last + (2 * last + 2 * last * last + last if attention else 0)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


SHAPES = (GeneratorConfig(), GeneratorConfig(channels=6, residual_blocks=2, image_size=64))


@pytest.mark.parametrize("norm", ["adalin", "adain", "in", "ln", "gn"])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("light", [True, False])
def test_parameters_of_ablated_generators(norm: Norm, attention: bool, light: bool) -> None:
    for shape in SHAPES:
        config = dataclasses.replace(shape, norm=norm, attention=attention, light=light)
        with torch.device("meta"):
            assert parameters(Generator(config)) == generator_parameters(config)


def test_the_formula_gives_the_papers_own_numbers() -> None:
    assert generator_parameters(GeneratorConfig(light=False)) == 278_959_808
    assert generator_parameters(GeneratorConfig(light=True)) == 10_589_888
    assert discriminator_parameters(64, LOCAL_STRIDED, True) == 3_290_560
    assert discriminator_parameters(64, GLOBAL_STRIDED, True) == 53_130_176


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("strided", [LOCAL_STRIDED, GLOBAL_STRIDED])
def test_parameters_of_ablated_discriminators(strided: int, attention: bool) -> None:
    network = Discriminator(4, strided, attention=attention)
    assert parameters(network) == discriminator_parameters(4, strided, attention)


@pytest.mark.parametrize(
    ("cam", "generators", "discriminators"),
    [
        ("both", True, True),
        ("generator", True, False),
        ("discriminator", False, True),
        ("none", False, False),
    ],
)
def test_cam_says_which_networks_have_one(cam: str, generators: bool, discriminators: bool) -> None:
    config: TrainConfig = tiny(cam=cam)
    networks = UGATIT(config)
    assert [g.cam is not None for g in networks.generators()] == [generators] * 2
    judges = [d for domain in (networks.a, networks.b) for d in (domain.local_, domain.global_)]
    assert [judge.cam is not None for judge in judges] == [discriminators] * 4
