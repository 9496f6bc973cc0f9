from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from ugatit_batch import models
from ugatit_engines import doctor, doctor_packages

from ..engines.engine_support import LINUX, PLAN, place
from ..fakes import make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_engines.engine_files import FoundEngine

    from ..conftest import Outcome

    Program = Callable[..., Outcome]

KEYS = {
    *("version", "python", "system", "torch", "cuda", "cpu", "gpus", "default", "tensorrt", "packages"),
    *("models_dir", "models", "findings"),
}
INNER = {
    "cpu": {"name", "cores", "memory"},
    "gpus": {"name", "compute_capability", "memory"},
    "default": {"device", "precision", "reason"},
    "tensorrt": {"flavor", "version", "error", "builds", "gpus"},
    "models": {"name", "path", "bundled", "error", "engines"},
    "findings": {"topic", "state", "text", "hint"},
}


@pytest.fixture
def engine(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FoundEngine:
    """An engine of `ink` that fits this machine, which has a GPU and TensorRT."""
    monkeypatch.setattr(doctor, "this_machine", lambda: LINUX)
    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "none")
    monkeypatch.setenv("UGATIT_BATCH_MODELS_DIR", str(tmp_path / "models"))
    bundle = make_model(tmp_path / "models/ink", directions=("a2b",))
    return place(bundle.path / "engines", bundle)


def test_json_is_one_object_with_the_promised_keys(program: Program, engine: FoundEngine) -> None:
    outcome = program("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    said = json.loads(outcome.out)
    assert set(said) == KEYS
    for name, keys in INNER.items():
        inner = said[name][0] if isinstance(said[name], list) else said[name]
        assert set(inner) == keys, name
    assert {finding["state"] for finding in said["findings"]} <= {"ok", "missing"}
    assert said["models"][0]["engines"][0]["path"] == str(engine.plan)
    words = set(re.findall(r"\w+", program("doctor", "--help").out))
    assert words >= KEYS.union(*INNER.values())


def test_lines_for_people(program: Program, engine: FoundEngine) -> None:
    outcome = program("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert not any(line != line.rstrip() for line in lines)
    topics = [line.split()[1] for line in lines[:-2] if line[:1] != " "]
    expected = ["program", "pytorch", "gpu", "cpu", "translate", "tensorrt", "tensorrt-rtx", "onnx", "heif"]
    assert topics == [*expected, "evaluate", "tensorboard", "models", "model", "engine"]
    assert f"ink: engine {engine.plan.stem} fits this machine" in outcome.out
    assert lines[-1].startswith("nothing is broken")
    assert str(engine.plan) not in outcome.out
    more = program("doctor", "-v")
    assert f"{engine.plan}: tensorrt-rtx 1.7.1, fp16" in more.out
    assert len(more.out.splitlines()) > len(lines)


def test_a_terminal_sees_the_same_words(
    program: Program, engine: FoundEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    coloured = program("doctor").out
    assert "\x1b[" in coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert max(len(line) for line in plain.splitlines()) <= 90
    monkeypatch.delenv("FORCE_COLOR")
    lacking = set(program("doctor").out.split()) - set(plain.split())
    assert all(len(word) > 60 for word in lacking), "only what is too long for a line is cut"


def test_what_is_missing_is_no_failure(
    program: Program, engine: FoundEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict.fromkeys(doctor_packages.find_packages())
    monkeypatch.setattr(doctor, "find_packages", lambda: found)
    outcome = program("doctor")
    assert outcome.code == 0
    for extra in ("heif", "evaluate", "tensorboard"):
        assert f"→ pip install 'ugatit-batch[{extra}]'" in outcome.out
    assert "nothing is broken; 4 optional things are missing" in outcome.out


def test_what_is_broken_ends_with_4(program: Program, engine: FoundEngine, tmp_path: Path) -> None:
    engine.plan.write_bytes(PLAN[1:])
    for flags in ((), ("--json",)):
        assert program("doctor", *flags).code == 4
    outcome = program("doctor")
    assert "1 thing is broken" in outcome.out
    assert f"{engine.plan}: damaged engine" in outcome.out
    engine.plan.write_bytes(PLAN)
    assert program("doctor").code == 0
    (tmp_path / "file").write_bytes(b"")
    outcome = program("doctor", "--models-dir", tmp_path / "file/models")
    assert outcome.code == 4
    assert "cannot be used" in outcome.out
