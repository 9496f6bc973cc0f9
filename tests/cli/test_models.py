from __future__ import annotations

import dataclasses
import json
import os
import random
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from ugatit_batch import models
from ugatit_batch.bundle import MANIFEST, load_bundle

from ..fakes import TINY, make_model, paint, tree
from ..training.published_reference import small_states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Outcome

    Program = Callable[..., Outcome]

KEYS = ["name", "directions", "size", "light", "bundled", "path", "engines"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> Path:
    """A models folder with `ink` in it, beside a package that brings `ink` and `wash`."""
    for name in ("wash", "ink"):
        make_model(tmp_path / "package" / name, directions=("a2b",))
    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "package")
    make_model(tmp_path / "models" / "ink")
    monkeypatch.setenv("UGATIT_BATCH_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_list_for_programs_has_the_promised_keys(program: Program, place: Path) -> None:
    listed = json.loads(program("models", "list", "--json").out)
    assert [list(model) for model in listed] == [KEYS] * 3
    assert [(model["name"], model["bundled"]) for model in listed] == [
        ("ink", False),
        ("ink", True),
        ("wash", True),
    ]
    assert listed[0] == {
        "name": "ink",
        "directions": {"a2b": "photo → ink", "b2a": "ink → photo"},
        "size": {"mode": "square", "side": 32},
        "light": True,
        "bundled": False,
        "path": str(place / "ink"),
        "engines": [],
    }


def test_the_list_for_people_names_every_model(program: Program, place: Path) -> None:
    outcome = program("models", "list")
    assert outcome.code == 0
    assert "comes with ugatit-batch" in outcome.out
    assert str(place / "ink") in outcome.out
    assert "photo → ink, ink → photo" in outcome.out
    assert "32²" in outcome.out


def test_an_empty_place_lists_nothing(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "none")
    outcome = program("models", "list", "--json", "--models-dir", tmp_path / "missing")
    assert (outcome.code, json.loads(outcome.out)) == (0, [])


def test_a_damaged_model_is_listed_and_can_be_removed(program: Program, place: Path) -> None:
    make_model(place / "broken")
    (place / "broken" / MANIFEST).write_text("{")
    listed = {model["name"]: model for model in json.loads(program("models", "list", "--json").out)}
    assert "damaged model" in listed["broken"]["error"]
    assert listed["broken"]["path"] == str(place / "broken")
    shown = program("models", "list")
    assert "damaged" in shown.out
    assert str(place / "broken") in shown.err
    assert program("models", "info", "broken").code == 4
    assert program("models", "remove", "broken", "--yes").code == 0
    assert not (place / "broken").exists()


def test_a_copied_folder_is_a_model_of_its_own_name(program: Program, place: Path) -> None:
    (place / "copy").mkdir()
    for path in (place / "ink").iterdir():
        (place / "copy" / path.name).write_bytes(path.read_bytes())
    names = [model["name"] for model in json.loads(program("models", "list", "--json").out)]
    assert names == ["copy", "ink", "ink", "wash"]
    assert program("models", "info", "copy").code == 0
    assert "models: copy, ink, wash" in program("models", "info", "none").err


def test_the_users_model_goes_before_the_packages(program: Program, place: Path) -> None:
    assert program("models", "info", "ink").out.startswith(f"{place / 'ink'}\n")
    assert program("models", "remove", "ink", "--yes").code == 0
    assert "package" in program("models", "info", "ink").out.splitlines()[0]


def test_the_info_says_whether_the_files_are_whole(program: Program, place: Path) -> None:
    outcome = program("models", "info", "ink")
    assert outcome.code == 0
    assert outcome.out.count("checksum right") == 2
    (path,) = (place / "ink").glob("b2a-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    outcome = program("models", "info", "ink")
    assert outcome.code == 4
    assert str(path) in outcome.err


def test_a_model_goes_through_a_zip_file_unchanged(
    program: Program, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (place / "ink").iterdir():
        os.utime(path, (0, 0))
    monkeypatch.chdir(tmp_path)
    assert program("models", "export", "ink").code == 0
    assert program("models", "export", "ink", tmp_path / "deep" / "other.zip").code == 0
    for file, flags, name in (("ink.zip", ["--name", "again"], "again"), ("deep/other.zip", [], "other")):
        outcome = program("models", "import", file, *flags)
        assert outcome.code == 0, outcome.err
        old, new = load_bundle(place / "ink"), load_bundle(place / name)
        assert new.name == name
        assert new.directions == old.directions
        assert [new.digest(d) for d in new.directions] == [old.digest(d) for d in old.directions]
        assert (new.domains, new.sources) == (old.domains, old.sources)


def test_a_name_that_is_taken_is_refused(program: Program, place: Path, tmp_path: Path) -> None:
    before = tree(place)
    program("models", "export", "ink", tmp_path / "ink.zip")
    outcome = program("models", "import", tmp_path / "ink.zip")
    assert outcome.code == 2
    assert "there is a model of that name" in outcome.err
    assert "models remove ink" in outcome.err
    assert tree(place) == before


def test_a_name_cannot_lead_out_of_the_models_folder(program: Program, place: Path, tmp_path: Path) -> None:
    program("models", "export", "ink", tmp_path / "ink.zip")
    before = set(tmp_path.rglob("*"))
    for name in ("../evil", "/tmp/evil", "..", "a/b"):
        outcome = program("models", "import", tmp_path / "ink.zip", "--name", name)
        assert outcome.code == 2
        assert "cannot be a model's name" in outcome.err
    assert set(tmp_path.rglob("*")) == before


def test_an_archive_writes_nothing_but_its_model(program: Program, place: Path, tmp_path: Path) -> None:
    program("models", "export", "ink", tmp_path / "ink.zip")
    with zipfile.ZipFile(tmp_path / "ink.zip", "a") as archive:
        for name in (
            "../evil.safetensors",
            f"{tmp_path}/evil.safetensors",
            "sub/evil.safetensors",
            "evil.py",
        ):
            archive.writestr(name, b"evil")
    before = set(tmp_path.rglob("*"))
    assert program("models", "import", tmp_path / "ink.zip", "--name", "new").code == 0
    new = {path for path in tmp_path.rglob("*") if "models/new" not in path.as_posix()}
    assert new == before
    assert set(tree(place / "new")) == {
        MANIFEST,
        *(e.file for e in load_bundle(place / "new").directions.values()),
    }


def test_a_damaged_archive_is_named_and_leaves_nothing(program: Program, place: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.zip"
    program("models", "export", "ink", file)
    whole = file.read_bytes()
    chance = random.Random(11)
    damaged = [whole[:length] for length in (0, 10, len(whole) // 2, len(whole) - 1)]
    for _ in range(60):
        flipped = bytearray(whole)
        start = chance.choice((0, len(whole) - 400, chance.randrange(len(whole))))
        flipped[min(start + chance.randrange(400), len(whole) - 1)] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        file.write_bytes(content)
        outcome = program("models", "import", file)
        assert outcome.code in (0, 2, 4)
        if outcome.code == 0:
            # A bit that does not count, such as one of a date.
            program("models", "remove", "new", "--yes")
        else:
            refused += 1
            assert "Traceback" not in outcome.err
        assert not (place / "new").exists()
    assert refused > 30


def test_an_archive_without_a_model_is_named(program: Program, place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    outcome = program("models", "import", tmp_path / "new.zip")
    assert outcome.code == 4
    assert "no model in it" in outcome.err


def test_a_published_checkpoint_is_taken_in_and_used(program: Program, place: Path, tmp_path: Path) -> None:
    torch.save(small_states(), tmp_path / "selfie.pt")
    outcome = program("models", "import", tmp_path / "selfie.pt", "--domains", "selfie,anime")
    assert outcome.code == 0, outcome.err
    assert "selfie → anime" in outcome.err
    assert load_bundle(place / "selfie").domains == ("selfie", "anime")
    assert program("models", "info", "selfie").code == 0


@pytest.mark.parametrize("domains", ["photo", "photo,", ",ink", "a,b,c", "", " , "])
def test_domains_are_two_names(program: Program, place: Path, tmp_path: Path, domains: str) -> None:
    torch.save(small_states(), tmp_path / "selfie.pt")
    outcome = program("models", "import", tmp_path / "selfie.pt", "--domains", domains)
    assert outcome.code == 2
    assert "give two names with a comma between, such as photo,ink" in outcome.err
    assert not (place / "selfie").exists()


def test_domains_without_a_word_are_a_and_b(program: Program, place: Path, tmp_path: Path) -> None:
    torch.save(small_states(), tmp_path / "selfie.pt")
    assert program("models", "import", tmp_path / "selfie.pt").code == 0
    assert load_bundle(place / "selfie").domains == ("A", "B")


@pytest.mark.parametrize(
    ("file", "option", "words"),
    [
        ("selfie.pt", ("--weights", "raw"), "--weights is for a checkpoint of this program"),
        ("selfie.pt", ("--direction", "a2b"), "--direction is for a checkpoint of this program"),
        ("ink.zip", ("--weights", "ema"), "--weights is for a checkpoint of this program"),
        ("ink.zip", ("--domains", "a,b"), "--domains is for a published checkpoint"),
        ("ink.zip", ("--era", "current"), "--era is for a published checkpoint"),
    ],
)
def test_an_option_for_another_kind_of_file_is_refused(
    program: Program, place: Path, tmp_path: Path, file: str, option: tuple[str, str], words: str
) -> None:
    torch.save(small_states(), tmp_path / "selfie.pt")
    program("models", "export", "ink", tmp_path / "ink.zip")
    outcome = program("models", "import", tmp_path / file, "--name", "new", *option)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (place / "new").exists()


def test_the_info_tells_of_ablations(program: Program, place: Path) -> None:
    usual = program("models", "info", "ink").out
    assert "instead of AdaLIN" not in usual
    assert "no attention maps" not in usual
    make_model(place / "ablated", dataclasses.replace(TINY, norm="gn", attention=False))
    ablated = program("models", "info", "ablated").out
    assert "normalisation gn throughout the decoder, instead of AdaLIN and LIN" in ablated
    assert "no class activation map, and so no attention maps" in ablated


def test_no_attention_of_a_model_without_it(program: Program, place: Path, tmp_path: Path) -> None:
    make_model(place / "ablated", dataclasses.replace(TINY, attention=False))
    picture = paint(tmp_path / "in/cat.png")
    command = ("translate", picture, "--model", "ablated", "--output", tmp_path / "out")
    outcome = program(*command, "--attention", "overlay")
    assert outcome.code == 2
    assert "--attention overlay: model ablated was trained without attention" in outcome.err
    assert not (tmp_path / "out").exists()
    for more in ((), ("--attention", "none")):
        done = program(*command, *more, "--if-exists", "overwrite")
        assert done.code == 0, done.err
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["cat.png"]


def test_a_model_of_the_package_stays(program: Program, place: Path, tmp_path: Path) -> None:
    for name in ("wash", tmp_path / "package" / "wash"):
        outcome = program("models", "remove", name, "--yes")
        assert outcome.code == 2
        assert "comes with ugatit-batch and stays" in outcome.err
    assert (tmp_path / "package" / "wash").is_dir()


def test_a_folder_somewhere_else_is_not_removed(program: Program, place: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "elsewhere" / "mine")
    outcome = program("models", "remove", tmp_path / "elsewhere" / "mine", "--yes")
    assert outcome.code == 2
    assert (tmp_path / "elsewhere" / "mine").is_dir()
    assert program("models", "remove", "..", "--yes").code != 0
    assert (place / "ink").is_dir()


def test_removing_asks_first(program: Program, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert program("models", "remove", "ink").code == 130
    assert (place / "ink").is_dir()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert program("models", "remove", "ink").code == 0
    assert not (place / "ink").exists()


def test_unknown_models_end_with_4(program: Program, place: Path) -> None:
    for command in (("info", "inc"), ("export", "inc"), ("remove", "inc", "--yes")):
        outcome = program("models", *command)
        assert outcome.code == 4
        assert "did you mean ink?" in outcome.err
