from __future__ import annotations

import dataclasses
import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ugatit_batch.errors import DatasetError, EnvironmentLacksError, MemoryLacksError
from ugatit_training import scores
from ugatit_training.data import Domains, open_rgb, to_network
from ugatit_training.evaluate import (
    Subject,
    check_evaluable,
    evaluate,
    evaluate_run,
    find_test_pictures,
    work,
    write_loss_chart,
)
from ugatit_training.features import FeatureNetwork
from ugatit_training.generator import Generator, GeneratorOutput
from ugatit_training.kid import composite_mean, composite_weighted, kid, kid_paper
from ugatit_training.model import UGATIT

from .tiny import CPU, assert_identical, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.evaluate import Evaluation

KERNEL = torch.randn(12, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def describe(pictures: Tensor) -> Tensor:
    """Features that tell pictures apart by colour and texture."""
    assert pictures.dtype == torch.uint8
    x = nn.functional.interpolate(pictures.float() / 255, (32, 32), mode="bilinear")
    return nn.functional.relu(nn.functional.conv2d(x, KERNEL)).mean((2, 3))


FEATURES = FeatureNetwork("describe", "0" * 64, CPU, describe)


class Copying(Generator):
    """Gives back what it is given."""

    def forward(self, x: Tensor) -> GeneratorOutput:
        return GeneratorOutput(x, torch.zeros(len(x), 2), x[:, 0, ::4, ::4])


def folder_of(place: Path, count: int, seed: int, brightness: int = 0) -> Path:
    """Smooth pictures of various sizes."""
    rng = np.random.default_rng(seed)
    place.mkdir(parents=True)
    for index in range(count):
        coarse = rng.integers(brightness, 156 + brightness, (4, 5, 3), dtype=np.uint8)
        size = (40 + index % 9, 55 - index % 9)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(place / f"{index}.png")
    return place


@pytest.fixture
def pictures(tmp_path: Path) -> Domains:
    """Fourteen dark pictures of A, twelve bright ones of B."""
    return domains_of(folder_of(tmp_path / "a", 14, 1), folder_of(tmp_path / "b", 12, 2, 99))


def domains_of(a: Path, b: Path) -> Domains:
    return Domains(tuple(sorted(a.iterdir())), tuple(sorted(b.iterdir())))


def copying() -> Subject:
    config = tiny().generator()
    return Subject({"a2b": Copying(config), "b2a": Copying(config)}, {}, ("dark", "bright"))


def networks(**changes: Any) -> UGATIT:
    """Of a run in training."""
    torch.manual_seed(3)
    return UGATIT(tiny(**changes)).train()


# What is written and said


def test_everything_is_written_and_the_json_says_it(tmp_path: Path, pictures: Domains) -> None:
    subject = Subject.of_run(networks(), ("cat", "dog"))
    found = evaluate(subject, "a2b", pictures, tmp_path / "out", features=FEATURES, about={"model": "m"})
    names = {"contact-sheet.png", "attention.png", "rho.png", "evaluation.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert {path.name for path in found.files.values()} == names
    written = json.loads((tmp_path / "out/evaluation.json").read_text("utf-8"))
    assert written == {"model": "m"} | json.loads(json.dumps(found.to_json()))
    assert list(written["scores"]) == [
        *("kid", "kid-paper", "kid-paper-source", "kid-paper-mean", "kid-paper-weighted"),
    ]
    assert written["scores"]["kid"].keys() == {"value", "error", "error_kind", "parts", "part_size"}
    assert (written["sources"], written["targets"], written["size"]) == (14, 12, 32)
    assert (written["features"], written["features_sha256"]) == ("describe", "0" * 64)
    assert (written["direction"], written["domains"]) == ("a2b", ["cat", "dog"])
    assert list(written["rho"]) == ["cat → dog", "dog → cat"]
    layer = {"mean": 1.0, "least": 1.0, "median": 1.0, "greatest": 1.0}
    assert written["rho"]["cat → dog"]["block 1, norm 1"] == layer
    with Image.open(tmp_path / "out/attention.png") as sheet:
        assert sheet.size == (6 + 5 * 134, 24 + 8 * 134)
    with Image.open(tmp_path / "out/contact-sheet.png") as sheet:
        assert sheet.size == (6 + 8 * 134, 24 + 4 * 134)


def test_without_features_there_is_no_kid(tmp_path: Path, pictures: Domains) -> None:
    done: list[int] = []
    found = evaluate(copying(), "a2b", pictures, tmp_path / "out", progress=done.append)
    assert (found.scores, found.features) == ({}, None)
    assert (tmp_path / "out/contact-sheet.png").is_file()
    assert done == []
    assert work(pictures, None) == 0


def test_progress_counts_every_picture(tmp_path: Path, pictures: Domains) -> None:
    done: list[int] = []
    evaluate(copying(), "a2b", pictures, tmp_path, features=FEATURES, batch_size=5, progress=done.append)
    assert done == [5, 5, 4, 5, 5, 2]
    assert sum(done) == work(pictures, FEATURES)


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, 5),
        ({"cam": "generator"}, 3),
        ({"cam": "discriminator"}, 4),
        ({"cam": "none"}, 0),
        ({"norm": "gn"}, 5),
    ],
    ids=str,
)
def test_ablations_leave_out_what_they_do_not_have(
    tmp_path: Path, pictures: Domains, changes: dict[str, Any], columns: int
) -> None:
    subject = Subject.of_run(networks(**changes), ("A", "B"))
    for name in ("attention.png", "rho.png"):
        (tmp_path / name).write_text("of an earlier evaluation")
    found = evaluate(subject, "b2a", pictures, tmp_path)
    assert (tmp_path / "rho.png").is_file() == ("norm" not in changes) == ("rho" in found.files)
    assert (tmp_path / "attention.png").is_file() == bool(columns) == ("attention" in found.files)
    if columns:
        with Image.open(tmp_path / "attention.png") as sheet:
            assert sheet.width == 6 + columns * 134


def test_a_model_has_no_discriminators(tmp_path: Path, pictures: Domains) -> None:
    subject = Subject({"a2b": networks().a2b}, {}, ("A", "B"))
    evaluate(subject, "a2b", pictures, tmp_path)
    with Image.open(tmp_path / "attention.png") as sheet:
        assert sheet.width == 6 + 3 * 134


# What is compared with what


def squares(paths: tuple[Path, ...], side: int) -> Tensor:
    """The whole pictures, resized once."""
    images = [open_rgb(path).resize((side, side), Image.Resampling.BILINEAR) for path in paths]
    return torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_scores_are_those_of_fakes_targets_and_sources(
    tmp_path: Path, pictures: Domains, direction: Any
) -> None:
    """By hand, with a generator that copies: at its own size for kid, at 299 for kid-paper."""
    found = evaluate(copying(), direction, pictures, tmp_path, features=FEATURES, batch_size=4).scores
    source, target = (pictures.a, pictures.b) if direction == "a2b" else (pictures.b, pictures.a)
    fakes = squares(source, 32)
    enlarged = [
        np.array(Image.fromarray(one.permute(1, 2, 0).numpy()).resize((299, 299), Image.Resampling.BILINEAR))
        for one in fakes
    ]
    paper = FEATURES.extract(torch.from_numpy(np.stack(enlarged)).permute(0, 3, 1, 2))
    expected_target = kid_paper(paper, FEATURES.extract(squares(target, 299)))
    expected_source = kid_paper(paper, FEATURES.extract(squares(source, 299)))
    expected = {
        "kid": kid(FEATURES.extract(fakes), FEATURES.extract(squares(target, 32))),
        "kid-paper": expected_target,
        "kid-paper-source": expected_source,
        "kid-paper-mean": composite_mean(expected_target, expected_source),
        "kid-paper-weighted": composite_weighted(expected_target, expected_source),
    }
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        assert found[name].value == pytest.approx(score.value, rel=1e-3, abs=0.05), name
        assert found[name].error == pytest.approx(score.error, rel=1e-3, abs=0.05), name
    # Were source and target swapped, it would show.
    assert found["kid-paper"].value > 5 * abs(found["kid-paper-source"].value)
    assert found["kid-paper"].value > 5 * found["kid-paper"].error


def test_identical_folders_are_at_0(tmp_path: Path) -> None:
    a, b = folder_of(tmp_path / "a", 60, 7), folder_of(tmp_path / "b", 60, 7)
    found = evaluate(copying(), "a2b", domains_of(a, b), tmp_path / "out", features=FEATURES).scores
    for name in ("kid", "kid-paper", "kid-paper-source"):
        assert abs(found[name].value) < 2 * found[name].error, name


def test_only_the_protocol_that_is_asked_for(tmp_path: Path, pictures: Domains) -> None:
    sizes: list[tuple[int, ...]] = []

    def watched(batch: Tensor) -> Tensor:
        sizes.append(tuple(batch.shape[2:]))
        return describe(batch)

    features = dataclasses.replace(FEATURES, call=watched)
    plain = evaluate(copying(), "a2b", pictures, tmp_path, features=features, protocols=["kid"])
    assert list(plain.scores) == ["kid"]
    assert set(sizes) == {(32, 32)}
    sizes.clear()
    paper = evaluate(copying(), "a2b", pictures, tmp_path, features=features, protocols=["kid-paper"])
    assert "kid" not in paper.scores
    assert len(paper.scores) == 4
    assert set(sizes) == {(299, 299)}


def test_order_and_batches_change_nothing(tmp_path: Path, pictures: Domains) -> None:
    subject = Subject.of_run(networks(), ("A", "B"))
    shuffled = Domains(*(tuple(random.Random(4).sample(p, len(p))) for p in (pictures.a, pictures.b)))
    one = evaluate(subject, "a2b", pictures, tmp_path / "one", features=FEATURES)
    other = evaluate(subject, "a2b", shuffled, tmp_path / "other", features=FEATURES, batch_size=6)
    for name, score in one.scores.items():
        assert other.scores[name].value == pytest.approx(score.value, rel=1e-3, abs=1e-3)
    for name in ("contact-sheet.png", "attention.png", "rho.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_same_call_gives_the_same(tmp_path: Path, pictures: Domains) -> None:
    def run() -> Evaluation:
        return evaluate(Subject.of_run(networks(), ("A", "B")), "a2b", pictures, tmp_path, features=FEATURES)

    first = run()
    torch.rand(5)
    np.random.rand(5)  # noqa: NPY002 - the global one is meant
    assert run().to_json() == first.to_json()


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_the_target_domains_discriminators_judge_the_results(
    tmp_path: Path, pictures: Domains, direction: Any
) -> None:
    run = networks()
    judged: list[Tensor] = []
    judge, other = (run.b, run.a) if direction == "a2b" else (run.a, run.b)
    for network in (judge.local_, judge.global_):
        network.register_forward_pre_hook(lambda _, inputs: judged.append(inputs[0]))
    for network in (other.local_, other.global_):
        network.register_forward_pre_hook(lambda *_: pytest.fail("the source domain's"))
    evaluate(Subject.of_run(run, ("A", "B")), direction, pictures, tmp_path)
    sources = pictures.a if direction == "a2b" else pictures.b
    generator = run.a2b if direction == "a2b" else run.b2a
    with torch.no_grad():
        results = [generator(to_network(squares((path,), 32), CPU)).image for path in sources]
    assert len(judged) == 2 * len(results)
    for index, result in enumerate(results):
        torch.testing.assert_close(judged[2 * index], result)
        torch.testing.assert_close(judged[2 * index + 1], result)


# Within a training


def test_a_training_is_left_as_it_was(tmp_path: Path, pictures: Domains) -> None:
    run = networks()
    run.b.global_.eval()
    before = {name: value.clone() for name, value in run.state_dict().items()}
    modes = [module.training for module in run.modules()]
    state, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    python = random.getstate()
    found = evaluate_run(run, pictures, tmp_path, 1000, features=FEATURES, batch_size=3)
    assert list(found) == ["a2b", "b2a"]
    assert (tmp_path / "step-00001000-a2b/evaluation.json").is_file()
    assert json.loads((tmp_path / "step-00001000-b2a/evaluation.json").read_text("utf-8"))["step"] == 1000
    assert_identical(run.state_dict(), before)
    assert [module.training for module in run.modules()] == modes
    assert all(parameter.grad is None for parameter in run.parameters())
    assert all(parameter.requires_grad for parameter in run.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_equal(np.random.get_state(), legacy)  # noqa: NPY002
    assert random.getstate() == python


def test_a_failure_brings_training_mode_back(
    tmp_path: Path, pictures: Domains, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run = networks()
    monkeypatch.setattr(scores, "_translate", full)
    with pytest.raises(MemoryLacksError, match="2 pictures at once"):
        evaluate_run(run, pictures, tmp_path, 1, features=FEATURES, batch_size=2)
    assert all(module.training for module in run.modules())


def test_other_generators_can_stand_in(tmp_path: Path, pictures: Domains) -> None:
    """As the moving average does."""
    run, config = networks(), tiny().generator()
    average = [Copying(config), Copying(config)]
    found = evaluate_run(run, pictures, tmp_path, 1, generators=average, features=FEATURES)
    same = evaluate(copying(), "a2b", pictures, tmp_path / "x", features=FEATURES)
    assert found["a2b"].scores == same.scores


def test_a_run_takes_the_test_folders_beside_its_own(tmp_path: Path) -> None:
    folders = {
        name: folder_of(tmp_path / name, 2, seed)
        for seed, name in enumerate(("trainA", "trainB", "testA", "testB", "photos"))
    }
    train = (folders["trainA"], folders["trainB"])
    assert find_test_pictures(*train) == domains_of(folders["testA"], folders["testB"])
    other = (folders["photos"], folders["trainB"])
    assert find_test_pictures(*other) == domains_of(*other)
    for path in folders["testB"].iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="testB: no picture in it"):
        find_test_pictures(*train)
    folders["testB"].rmdir()
    assert find_test_pictures(*train) == domains_of(*train)


def test_a_bad_line_does_not_spoil_the_loss_curves(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "cycle_a": 1.0, "cycle_b": 2.0}) for step in range(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "oops", "7", *lines[1:]]) + "\n")
    assert write_loss_chart(tmp_path, tmp_path / "out") == tmp_path / "out/losses.png"


def test_loss_curves_are_those_of_the_run(tmp_path: Path) -> None:
    assert write_loss_chart(tmp_path, tmp_path / "out") is None
    lines = [{"step": step, "cycle_a": 1.0, "cycle_b": 2.0} for step in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = write_loss_chart(tmp_path, tmp_path / "out")
    assert path == tmp_path / "out/losses.png"
    assert path.is_file()


# What cannot be evaluated


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((14, 3), "14 source and 3 target pictures: KID needs 4"),
        ((8, 30), "8 source and 30 target pictures: kid-paper needs more than 10"),
    ],
)
def test_too_few_pictures_are_refused_before_any_work(
    tmp_path: Path, pictures: Domains, counts: tuple[int, int], words: str
) -> None:
    few = Domains(
        *((paths * 3)[:count] for paths, count in zip((pictures.a, pictures.b), counts, strict=True))
    )
    with pytest.raises(DatasetError, match=words):
        evaluate(copying(), "a2b", few, tmp_path / "out", features=FEATURES)
    with pytest.raises(DatasetError, match=words):
        check_evaluable(few, "a2b")
    check_evaluable(pictures, "a2b")
    check_evaluable(pictures, "b2a")
    assert not (tmp_path / "out").exists()


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, pictures: Domains) -> None:
    pictures.b[5].write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"b/3\.png"):
        evaluate(copying(), "a2b", pictures, tmp_path / "out", features=FEATURES)


def test_a_missing_library_is_told_before_any_work(
    tmp_path: Path, pictures: Domains, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.metric_kid", None)
    with pytest.raises(EnvironmentLacksError, match="ugatit-batch"):
        evaluate(copying(), "a2b", pictures, tmp_path / "out", features=FEATURES)
    evaluate(copying(), "a2b", pictures, tmp_path / "out")
    assert (tmp_path / "out/rho.png").is_file()
