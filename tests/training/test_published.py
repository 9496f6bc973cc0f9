from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from ugatit_batch.bundle import DIRECTIONS, WorkingSize, load_bundle, save_bundle
from ugatit_training.generator import Generator

from .importing import read
from .published_reference import (
    PublishedDiscriminator,
    PublishedGenerator,
    State,
    make,
    save_legacy,
    save_safetensors,
    save_zip,
    small_states,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ugatit_batch.bundle import Direction
    from ugatit_training.published import Era, Imported


def build(imported: Imported, direction: Direction = "a2b", *, changes: Mapping[str, Any] = {}) -> Generator:
    config = dataclasses.replace(imported.bundle.generator, **changes)
    generator = Generator(config)
    state = {k: torch.from_numpy(v) for k, v in imported.weights[direction].items()}
    generator.load_state_dict(state, strict=True)
    return generator.eval()


@torch.no_grad()
def largest_difference(ours: Generator, reference: PublishedGenerator, height: int, width: int) -> float:
    """Over image, logits and attention, the latter two relative to their own magnitude."""
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1
    image, logits, attention = ours(x)
    expected = reference(x)
    assert 0.1 < expected[0].std() < 0.9, "a saturated or empty picture would prove nothing"
    differences = [(image - expected[0]).abs().max()]
    for mine, theirs in ((logits, expected[1]), (attention, expected[2][:, 0])):
        assert mine.shape == theirs.shape
        differences.append((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1))
    return float(torch.stack(differences).max())


SIZES = [
    pytest.param({"light": True}, (64, 64), id="light"),
    pytest.param({"light": True}, (48, 100), id="light, not square"),
    pytest.param({"light": True, "blocks": 6}, (64, 32), id="light, six blocks"),
    pytest.param({"light": True, "ch": 64}, (64, 64), id="light, at its full width"),
    pytest.param({"light": False}, (64, 64), id="full"),
    pytest.param({"light": False, "ch": 4, "size": 96, "blocks": 2}, (96, 96), id="full, another size"),
    pytest.param({"light": False, "ch": 1, "size": 32}, (32, 32), id="full, one channel"),
]


@pytest.mark.parametrize(("options", "size"), SIZES)
def test_imported_generator_gives_the_programs_pixels(
    checkpoint: Path, options: dict[str, Any], size: tuple[int, int]
) -> None:
    reference = make(**options)
    torch.save({"genA2B": reference.state_dict()}, checkpoint)
    imported = read(checkpoint)
    assert largest_difference(build(imported), reference, *size) <= 1e-5
    config = imported.bundle.generator
    assert config.channels == options.get("ch", 8)
    assert config.residual_blocks == options.get("blocks", 4)
    assert config.light == options["light"]
    assert config.image_size == (256 if config.light else options.get("size", 64))
    assert imported.bundle.working_size == WorkingSize("square", config.image_size)


@pytest.mark.parametrize("light", [True, False])
def test_variances_are_told_apart(checkpoint: Path, light: bool) -> None:
    reference = make(light=light)
    torch.save(reference.state_dict(), checkpoint)
    imported = read(checkpoint)
    assert imported.bundle.generator.variance == "unbiased"
    assert largest_difference(build(imported, changes={"variance": "biased"}), reference, 64, 64) > 1e-5
    biased = make(light=light, variance="biased")
    assert largest_difference(build(imported, changes={"variance": "biased"}), biased, 64, 64) <= 1e-5


@pytest.mark.parametrize(
    ("era", "options"),
    [
        ("current", {}),
        ("before-2019-08-27", {"skip": False, "variance": "nested"}),
        ("before-2019-08-07", {"skip": False, "variance": "nested", "style_relu": False}),
    ],
)
def test_each_era_computes_as_its_program_did(checkpoint: Path, era: Era, options: dict[str, Any]) -> None:
    reference = make(light=False, **options)
    torch.save(reference.state_dict(), checkpoint)
    imported = read(checkpoint, era)
    assert largest_difference(build(imported), reference, 64, 64) <= 1e-5
    config = imported.bundle.generator
    assert (config.decoder_skip, config.style_relu) == (not options, options.get("style_relu", True))
    assert "August 2019 was assumed" in imported.notes[0]
    for change in ({"decoder_skip": not config.decoder_skip}, {"style_relu": not config.style_relu}):
        assert largest_difference(build(imported, changes=change), reference, 64, 64) > 1e-5


@pytest.mark.parametrize("era", ["current", "before-2019-08-27", "before-2019-08-07"])
def test_keys_without_relu_show_their_age(checkpoint: Path, era: Era) -> None:
    state = make(ch=2, skip=False, style_relu=False).state_dict()
    assert "FC.1.weight" in state
    torch.save(state, checkpoint)
    imported = read(checkpoint, era)
    assert not imported.bundle.generator.style_relu
    assert not imported.bundle.generator.decoder_skip
    assert "before 7 August 2019" in imported.notes[0]


Form = tuple["Callable[[dict[str, State]], Mapping[str, Any]]", tuple[str, ...]]

FORMS: dict[str, Form] = {
    "all networks": (lambda s: s, ("a2b", "b2a")),
    "generators only": (lambda s: {k: v for k, v in s.items() if k.startswith("gen")}, ("a2b", "b2a")),
    "A → B only": (lambda s: {"genA2B": s["genA2B"]}, ("a2b",)),
    "B → A only": (lambda s: {"genB2A": s["genB2A"]}, ("b2a",)),
    "bare": (lambda s: s["genA2B"], ("a2b",)),
    "module. inside": (
        lambda s: {k: {f"module.{key}": t for key, t in v.items()} for k, v in s.items()},
        ("a2b", "b2a"),
    ),
    "module. outside": (lambda s: {f"module.{k}": v for k, v in s.items()}, ("a2b", "b2a")),
    "bare, module.": (lambda s: {f"module.{k}": t for k, t in s["genA2B"].items()}, ("a2b",)),
    "parameters": (
        lambda s: {"genA2B": {k: nn.Parameter(t) for k, t in s["genA2B"].items()}},
        ("a2b",),
    ),
    "float64": (lambda s: {"genA2B": {k: t.double() for k, t in s["genA2B"].items()}}, ("a2b",)),
}


@pytest.mark.parametrize(
    ("save", "suffix"), [(save_zip, ".pt"), (save_legacy, ".pth"), (save_safetensors, ".safetensors")]
)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_checkpoint(
    tmp_path: Path, form: str, save: Callable[[Mapping[str, Any], Path], None], suffix: str
) -> None:
    choose, directions = FORMS[form]
    states = small_states()
    path = tmp_path / f"model{suffix}"
    save(choose(states), path)
    imported = read(path)
    assert tuple(imported.weights) == directions
    for direction, network in zip(DIRECTIONS, ("genA2B", "genB2A"), strict=True):
        if direction not in directions:
            continue
        arrays = imported.weights[direction]
        assert len(arrays) == 44
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(arrays["out.weight"], states[network]["UpBlock2.11.weight"].numpy())
        np.testing.assert_array_equal(
            arrays["up_norms.1.beta"], states[network]["UpBlock2.8.beta"].numpy().ravel()
        )
        build(imported, direction)


def test_half_precision_becomes_float32(checkpoint: Path) -> None:
    state = make(ch=2).state_dict()
    for dtype in (torch.float16, torch.bfloat16):
        torch.save({k: t.to(dtype) for k, t in state.items()}, checkpoint)
        array = read(checkpoint).weights["a2b"]["down.0.weight"]
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state["DownBlock.1.weight"].to(dtype).float().numpy())


def test_notes_say_what_was_assumed_and_left_out(checkpoint: Path) -> None:
    torch.save(small_states(), checkpoint)
    notes = read(checkpoint).notes
    assert len(notes) == 3
    assert "since 27 August 2019 was assumed" in notes[0]
    assert "256 pixels were assumed" in notes[1]
    assert "disGA, disGB, disLA, disLB" in notes[2]
    torch.save(make(ch=2, light=False).state_dict(), checkpoint)
    notes = read(checkpoint).notes
    assert len(notes) == 2
    assert "A → B" in notes[1]


def test_an_import_can_be_saved_as_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(small_states(), checkpoint)
    imported = read(checkpoint)
    save_bundle(imported.bundle, imported.weights, tmp_path / "models" / "selfie2anime")
    bundle = load_bundle(tmp_path / "models" / "selfie2anime")
    assert bundle.domains == ("selfie", "anime")
    assert bundle.training == {"program": "UGATIT-pytorch", "imported_from": checkpoint.name}
    np.testing.assert_array_equal(bundle.weights("b2a")["out.weight"], imported.weights["b2a"]["out.weight"])


def test_reference_has_the_published_keys_and_sizes() -> None:
    with torch.device("meta"):
        light, full = PublishedGenerator(64, light=True), PublishedGenerator(64, light=False)
        local, wide = PublishedDiscriminator(64, 3), PublishedDiscriminator(64, 5)
    networks = (light, full, local, wide)
    assert [len(network.state_dict()) for network in networks] == [44, 44, 27, 35]
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [
        10_589_888,
        278_959_808,
        3_290_560,
        53_130_176,
    ]
    assert set(light.state_dict()) == set(full.state_dict())
    for key in (
        "DownBlock.15.conv_block.5.weight",
        "UpBlock1_4.norm2.rho",
        "UpBlock2.8.gamma",
        "FC.2.weight",
    ):
        assert key in light.state_dict()
    assert {"model.10.weight_orig", "conv.weight_u", "conv1x1.bias"} < set(local.state_dict())
    assert "model.16.bias" in wide.state_dict()
