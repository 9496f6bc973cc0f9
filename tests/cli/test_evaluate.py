from __future__ import annotations

import json
import urllib.error
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ..fakes import paint
from .training_place import invoke

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Outcome
    from .training_place import Place

    Program = Callable[..., Outcome]


class Colours(nn.Module):
    """A feature network: means of colours and of their squares."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() / 64
        return torch.cat([y.mean((2, 3)), y.square().mean((2, 3))], 1)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "colours.pt2"
    auto = torch.export.Dim.AUTO
    example = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    exported = torch.export.export(Colours(), (example,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    torch.export.save(exported, path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> list[object]:
    """--source with 13 pictures and --target with 11."""
    for name, count in (("testA", 13), ("testB", 11)):
        for index in range(count):
            paint(tmp_path / name / f"{index}.png", 40, 32, seed=index + count)
    return ["--source", tmp_path / "testA", "--target", tmp_path / "testB", "--device", "cpu"]


def test_a_model_is_measured_and_drawn(
    program: Program, folders: list[object], features: Path, tmp_path: Path
) -> None:
    outcome = program("evaluate", "ink", *folders, "--features", features, "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.lines()
    assert line == json.loads((tmp_path / "out/evaluation.json").read_text("utf-8"))
    assert (line["model"], line["direction"], line["checkpoint"]) == ("ink", "a2b", None)
    assert (line["sources"], line["targets"], line["features"]) == (13, 11, str(features))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"contact-sheet.png", "attention.png", "rho.png", "evaluation.json"}
    assert "ink · photo → ink · cpu" in outcome.err
    for name, score in line["scores"].items():
        assert f"{score['value']:.3f} ± {score['error']:.3f} ({score['error_kind']}" in outcome.err, name
    assert f"results are in {tmp_path / 'out'}" in outcome.err


def test_reverse_translates_the_target_folder(
    program: Program, folders: list[object], features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--reverse", "--protocol", "kid", "--features", features, "--json", "--batch-size", 4]
    outcome = program("evaluate", "ink", *folders, *options)
    assert outcome.code == 0, outcome.err
    (line,) = outcome.lines()
    assert (line["direction"], line["sources"], line["targets"]) == ("b2a", 11, 13)
    assert list(line["scores"]) == ["kid"]
    assert (tmp_path / "evaluation-ink-reverse/rho.png").is_file()
    assert "ink → photo" in outcome.err


def test_without_a_protocol_nothing_has_to_be_fetched(
    program: Program, folders: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.hub.urlopen", None)
    outcome = program("evaluate", "oneway", *folders, "--protocol", "none")
    assert (outcome.code, outcome.out) == (0, "")
    assert (tmp_path / "evaluation-oneway/contact-sheet.png").is_file()
    assert "±" not in outcome.err


def test_a_run_shows_its_discriminators_and_its_losses(
    training: Place, folders: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("train", training.data, *training.options(), "--domains", "cat,dog").code == 0
    run = training.runs / "cat2dog"
    outcome = invoke("evaluate", run, *folders, "--protocol", "none", "--json")
    assert outcome.code == 0
    line = json.loads(outcome.out)
    assert (line["model"], line["step"], line["weights"]) == ("cat2dog-6", 6, "raw")
    assert line["domains"] == ["cat", "dog"]
    assert list(line["rho"]) == ["cat → dog", "dog → cat"]
    folder = tmp_path / "evaluation-cat2dog-6"
    with Image.open(folder / "attention.png") as sheet:
        assert sheet.width == 6 + 5 * 134
    assert (folder / "losses.png").is_file()


# What cannot be done


@pytest.mark.parametrize(
    ("model", "options", "code", "words"),
    [
        ("nothing", [], 4, "nothing: no such model, run or checkpoint"),
        ("runs/checkpoints/none.pt", [], 4, "runs/checkpoints/none.pt: no such model, run or checkpoint"),
        ("oneway", ["--reverse"], 2, "only translates"),
        ("ink", ["--device", "tpu"], 2, "--device tpu"),
        ("ink", ["--protocol", "fid"], 2, "--protocol"),
        ("ink", ["--protocol", "none", "--features", "x.pt2"], 2, "--features does nothing"),
        ("ink", ["--features", "x.pt2"], 4, "--features x.pt2: cannot be read"),
        ("ink", ["--batch-size", "0"], 2, "--batch-size"),
    ],
)
def test_wrong_calls_say_what_was_wrong(
    program: Program,
    folders: list[object],
    tmp_path: Path,
    model: str,
    options: list[str],
    code: int,
    words: str,
) -> None:
    outcome = program("evaluate", model, *folders, "-o", tmp_path / "out", *options)
    assert outcome.code == code
    assert words in outcome.err
    assert "--model " not in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_called_one(
    training: Place, folders: list[object], tmp_path: Path
) -> None:
    assert invoke("train", training.data, *training.options(), "--steps", 2).code == 0
    missing = training.runs / "cat2dog/checkpoints/none.pt"
    outcome = invoke("evaluate", missing, *folders, "-o", tmp_path / "out")
    assert outcome.code == 4
    assert f"{missing}: no such model, run or checkpoint" in outcome.err
    assert "a checkpoint in one" in outcome.err
    assert "models import" not in outcome.err


def test_folders_that_cannot_be_used_are_named(program: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "one/a.png")
    for source, words in ((tmp_path / "nowhere", "no such folder"), (tmp_path / "empty", "no picture in it")):
        outcome = program("evaluate", "ink", "--source", source, "--target", tmp_path / "one")
        assert outcome.code == 1
        assert f"{source}: {words}" in outcome.err
    assert program("evaluate", "ink", "--source", tmp_path).code == 2


def test_too_few_pictures_leave_nothing_behind(
    program: Program, folders: list[object], features: Path, tmp_path: Path
) -> None:
    for path in list((tmp_path / "testB").iterdir())[3:]:
        path.unlink()
    outcome = program("evaluate", "ink", *folders, "--features", features, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "13 source and 3 target pictures" in outcome.err
    assert not (tmp_path / "out").exists()


def test_without_a_network_the_message_says_what_to_do(
    program: Program, folders: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    outcome = program("evaluate", "ink", *folders, "-o", tmp_path / "out")
    assert outcome.code == 4
    assert "weights-inception-2015-12-05-6726825d.pth: cannot be had" in outcome.err
    assert "--features FILE" in outcome.err
    assert outcome.out == ""
    assert not (tmp_path / "out").exists()


def test_interrupting_says_that_nothing_is_kept(
    program: Program, folders: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ugatit_training.evaluate.evaluate", interrupt)
    outcome = program("evaluate", "ink", *folders, "--protocol", "none", "-o", tmp_path / "out")
    assert outcome.code == 130
    assert "the same command starts anew" in outcome.err
