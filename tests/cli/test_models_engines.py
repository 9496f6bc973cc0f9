from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ugatit_batch import models
from ugatit_batch.bundle import MANIFEST, load_bundle
from ugatit_engines import machine
from ugatit_training.run_folder import RunInfo, model_belongs_to

from ..engines.engine_support import LINUX, PLAN, RANGE, place
from ..fakes import TINY, make_model, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.bundle import Bundle

    from ..conftest import Outcome

    Program = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> Path:
    """A models folder with `ink` in it, beside a package that brings `wash`."""
    make_model(tmp_path / "package/wash", directions=("a2b",))
    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "package")
    monkeypatch.setattr(machine, "this_machine", lambda: LINUX)
    make_model(tmp_path / "models/ink")
    monkeypatch.setenv("UGATIT_BATCH_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def ink(folder: Path) -> Bundle:
    return load_bundle(folder / "ink")


@pytest.fixture
def wash(folder: Path) -> Bundle:
    """Came with the package; its engine lies in the user's folder."""
    bundle = load_bundle(folder.parent / "package/wash")
    place(folder / "wash/engines", bundle)
    return bundle


def test_the_info_says_which_engines_fit(program: Program, ink: Bundle) -> None:
    assert program("models", "info", "ink").out.endswith("no engines\n")
    fits = place(ink.path / "engines", ink)
    older = place(ink.path / "engines", ink, precision="fp32", version="1.6.0")
    changed = place(ink.path / "engines", ink, profile=RANGE)
    changed.plan.write_bytes(PLAN[:-1] + b"!")
    outcome = program("models", "info", "ink")
    assert outcome.code == 0
    assert outcome.out.count("checksum right") == 2
    said = {line.split(": ")[0]: line for line in outcome.out.splitlines()[-3:]}
    assert said[str(fits.plan)].endswith("; fits this machine")
    assert "pictures of 32 pixels, batches of 1 to 32, best 8" in said[str(fits.plan)]
    assert "does not fit: engine" in said[str(older.plan)]
    assert "1.6.0, installed is 1.7.1 (build one that fits: ugatit-batch" in said[str(older.plan)]
    assert "damaged engine: its checksum" in said[str(changed.plan)]


def test_the_info_for_programs(program: Program, ink: Bundle) -> None:
    engines = ink.path / "engines"
    found = place(engines, ink)
    (engines / "b2a-tensorrt-fp16-32.plan.json").write_text("{", "utf-8")
    outcome = program("models", "info", "ink", "--json")
    said = json.loads(outcome.out)
    assert list(said) == ["name", "path", "bundled", "manifest", "parameters", "engines"]
    assert (said["name"], said["path"], said["bundled"]) == ("ink", str(ink.path), False)
    assert said["manifest"] == json.loads((ink.path / MANIFEST).read_text("utf-8"))
    assert set(said["parameters"]) == {"a2b", "b2a"}
    assert said["parameters"]["a2b"] == sum(array.size for array in ink.weights("a2b").values())
    good, bad = said["engines"]
    sidecar = json.loads((engines / f"{found.plan.name}.json").read_text("utf-8"))
    assert good == {"path": str(found.plan), **sidecar, "fits": True, "misfit": None}
    assert set(bad) == {"path", "error", "fits", "misfit"}
    assert not bad["fits"]
    assert "damaged engine" in bad["misfit"]


def test_the_list_for_programs_has_the_engines(program: Program, ink: Bundle, wash: Bundle) -> None:
    place(ink.path / "engines", ink, direction="b2a", precision="fp32", profile=RANGE)
    (ink.path / "engines/a2b-x.plan.json").write_text("[]", "utf-8")
    listed = {model["name"]: model for model in json.loads(program("models", "list", "--json").out)}
    assert list(listed) == ["ink", "wash"]
    damaged, whole = listed["ink"]["engines"]
    assert whole == {
        "path": str(ink.path / "engines/b2a-tensorrt-rtx-fp32-16-64.plan"),
        "flavor": "tensorrt-rtx",
        "precision": "fp32",
        "size": "16-64",
        "direction": "b2a",
    }
    assert set(damaged) == {"path", "error"}
    assert "damaged engine" in damaged["error"]
    (engine,) = listed["wash"]["engines"]
    assert (engine["size"], "models/wash/engines" in engine["path"].replace("\\", "/")) == ("32", True)


def test_the_list_needs_no_torch(ink: Bundle) -> None:
    place(ink.path / "engines", ink)
    code = (
        "import sys; from ugatit_batch.cli import cli\n"
        "cli(['models', 'list', '--json'], standalone_mode=False)\n"
        "assert not {'torch', 'PIL', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"flavor": "tensorrt-rtx"' in done.stdout


def test_removing_engines_leaves_the_model(program: Program, ink: Bundle) -> None:
    before = tree(ink.path)
    for reverse in ("a2b", "b2a"):
        place(ink.path / "engines", ink, direction=reverse).cache.write_bytes(b"kernels")
    outcome = program("models", "remove", "ink", "--engines", "--yes")
    assert (outcome.code, outcome.err) == (0, "2 engines of ink are gone\n")
    assert tree(ink.path) == before
    assert not (ink.path / "engines").exists()
    outcome = program("models", "remove", "ink", "--engines", "--yes")
    assert outcome.code == 3
    assert "no engines in" in outcome.err
    assert tree(ink.path) == before


def test_engines_of_a_model_of_the_package_can_be_removed(
    program: Program, wash: Bundle, folder: Path
) -> None:
    assert program("models", "remove", "wash", "--yes").code == 2
    outcome = program("models", "remove", "wash", "--engines", "--yes")
    assert (outcome.code, outcome.err) == (0, "1 engine of wash is gone\n")
    assert not (folder / "wash").exists()
    assert (wash.path / MANIFEST).is_file()


def test_engines_of_a_folder_of_a_damaged_model_and_of_none(
    program: Program, ink: Bundle, folder: Path, tmp_path: Path
) -> None:
    elsewhere = make_model(tmp_path / "elsewhere/mine")
    place(elsewhere.path / "engines", elsewhere)
    assert program("models", "remove", elsewhere.path, "--engines", "--yes").code == 0
    assert not (elsewhere.path / "engines").exists()
    place(ink.path / "engines", ink)
    (ink.path / MANIFEST).write_text("{", "utf-8")
    assert program("models", "remove", "ink", "--engines", "--yes").code == 0
    assert [path.name for path in ink.path.iterdir() if path.is_dir()] == []
    place(folder / "gone/engines", elsewhere)
    assert program("models", "remove", "gone", "--engines", "--yes").code == 0
    assert not (folder / "gone").exists()
    outcome = program("models", "remove", "gone", "--engines", "--yes")
    assert outcome.code == 4
    assert "no such model" in outcome.err


def test_files_of_others_beside_engines_stay_and_do_not_count(program: Program, ink: Bundle) -> None:
    place(ink.path / "engines", ink)
    (ink.path / "engines/resnet.plan").write_bytes(b"mine")
    assert program("models", "remove", "ink", "--engines", "--yes").err == "1 engine of ink is gone\n"
    assert [path.name for path in (ink.path / "engines").iterdir()] == ["resnet.plan"]
    assert program("models", "remove", "ink", "--engines", "--yes").code == 3


def test_removing_engines_asks_first(program: Program, ink: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = place(ink.path / "engines", ink)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    outcome = program("models", "remove", "ink", "--engines")
    assert outcome.code == 130
    assert "Delete 1 engine in" in outcome.err
    assert engine.plan.is_file()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert program("models", "remove", "ink", "--engines").code == 0
    assert not engine.plan.exists()


def test_removing_a_model_removes_its_engines(program: Program, ink: Bundle) -> None:
    place(ink.path / "engines", ink)
    assert program("models", "remove", "ink", "--yes").code == 0
    assert not ink.path.exists()


def test_engines_alone_do_not_take_a_name(
    program: Program, ink: Bundle, wash: Bundle, folder: Path, tmp_path: Path
) -> None:
    names = [model["name"] for model in json.loads(program("models", "list", "--json").out)]
    assert names == ["ink", "wash"]
    assert "package" in program("models", "info", "wash").out.splitlines()[0]
    info = RunInfo("mark", "a", "b", ("A", "B"), (1, 1))
    assert model_belongs_to(folder / "wash", info)
    assert not model_belongs_to(folder / "ink", info)
    make_model(folder / "other", dataclasses.replace(TINY, channels=8), directions=("a2b",))
    program("models", "export", "other", tmp_path / "wash.zip")
    outcome = program("models", "import", tmp_path / "wash.zip")
    assert outcome.code == 0, outcome.err
    said = json.loads(program("models", "info", "wash", "--json").out)
    assert (said["bundled"], said["path"]) == (False, str(folder / "wash"))
    (engine,) = said["engines"]
    assert not engine["fits"]
    assert "built from another model" in engine["misfit"]


def test_a_killed_import_does_not_take_a_name_and_files_of_others_do(
    program: Program, ink: Bundle, folder: Path, tmp_path: Path
) -> None:
    program("models", "export", "ink", tmp_path / "new.zip")
    (folder / "new").mkdir()
    (folder / "new/a2b-0123456789ab.safetensors").write_bytes(b"")
    (folder / "new/.bundle.partial.json").write_bytes(b"")
    assert program("models", "import", tmp_path / "new.zip").code == 0
    assert program("models", "info", "new").code == 0
    outcome = program("models", "import", tmp_path / "new.zip")
    assert outcome.code == 2
    assert "there is a model of that name" in outcome.err
    for name in ("notes.txt", "weights.safetensors"):
        (folder / "mine").mkdir(exist_ok=True)
        (folder / "mine" / name).write_text("mine", "utf-8")
        outcome = program("models", "import", tmp_path / "new.zip", "--name", "mine")
        assert outcome.code == 2
        assert "files in it that are of no model" in outcome.err
        (folder / "mine" / name).unlink()
    (folder / "file").write_text("mine", "utf-8")
    assert program("models", "import", tmp_path / "new.zip", "--name", "file").code == 2
    assert (folder / "file").read_text("utf-8") == "mine"
