from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_engines import build_engine as building
from ugatit_engines import machine as machines
from ugatit_engines.engine_files import list_engines
from ugatit_engines.tensorrt_library import library_version

from ..engines.engine_support import ADA, LINUX
from ..fakes import paint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Outcome

    Program = Callable[..., Outcome]

pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    """Models of one's own, that get engines."""
    folder = tmp_path / "models"
    shutil.copytree(models_dir, folder)
    return folder


def test_an_engine_is_built_kept_and_told(program: Program, models: Path) -> None:
    built = program("build-engine", "ink", "--models-dir", models, "--batch", "1,2,4", "--json")
    assert built.code == 0, built.err
    (line,) = built.lines()
    (found,) = list_engines(models / "ink/engines")
    assert line == json.loads(json.dumps(found.to_json()))
    assert line["path"] == str(models / "ink/engines/a2b-tensorrt-rtx-fp16-32.plan")
    assert line["version"] == library_version("tensorrt-rtx")
    assert line["profile"]["batch"] == {"least": 1, "best": 2, "most": 4}
    assert "ink (photo → ink) · tensorrt-rtx, fp16" in built.err
    assert "batches of 1 to 4, best 2" in built.err
    assert "this machine has no NVIDIA GPU" in built.err
    assert f"ugatit-batch translate ./photos --model {models / 'ink'} --backend tensorrt" in built.err
    assert len(found.read()) > 10_000


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Building costs nothing here, and is only written down."""
    calls: list[dict[str, Any]] = []

    def build(bundle: Any, direction: str, folder: Path, **options: Any) -> Any:
        calls.append({"model": bundle.name, "direction": direction, "folder": folder} | options)
        options["progress"]("Building engine", 1, 6)
        raise KeyboardInterrupt if bundle.name == "oneway" else EnoughError

    monkeypatch.setattr(building, "build_engine", build)
    return calls


class EnoughError(Exception):
    pass


def asked(program: Program, calls: list[dict[str, Any]], *arguments: object) -> dict[str, Any]:
    with pytest.raises(EnoughError):
        program("build-engine", *arguments)
    return calls[-1]


def test_what_is_asked_for_arrives(
    program: Program, models: Path, pretended: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--models-dir", models)
    plain = asked(program, pretended, "own", *place)
    assert (plain["direction"], plain["flavor"], plain["precision"]) == ("a2b", "tensorrt-rtx", "fp16")
    assert plain["profile"].label == "8-64"
    assert plain["folder"] == models / "own/engines"
    given = asked(
        program, pretended, "own", *place, "--reverse", "--precision", "fp32", "--size", "16-32", "-b", "2,3"
    )
    assert (given["direction"], given["precision"], given["profile"].label) == ("b2a", "fp32", "16-32")
    assert (given["profile"].batch.least, given["profile"].batch.most) == (2, 3)
    assert asked(program, pretended, "own", *place, "--compute-capability", "7.5")["targets"] == ((7, 5),)
    monkeypatch.setattr(machines, "this_machine", lambda: LINUX)
    monkeypatch.setattr(machines, "choose_gpu", lambda *_: ADA)
    built_here = asked(program, pretended, "own", *place, "--flavor", "tensorrt")
    assert (built_here["flavor"], built_here["targets"]) == ("tensorrt", ((8, 9),))


def test_both_directions(program: Program, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ..engines.engine_support import place

    def build(bundle: Any, direction: str, folder: Path, **_: Any) -> Any:
        return place(folder, bundle, direction=direction)

    monkeypatch.setattr(building, "build_engine", build)
    done = program("build-engine", "ink", "--both", "--models-dir", models, "--json")
    assert done.code == 0
    assert [line["direction"] for line in done.lines()] == ["a2b", "b2a"]
    one = program("build-engine", "oneway", "--both", "--models-dir", models, "--json")
    assert [line["direction"] for line in one.lines()] == ["a2b"]


def test_ctrl_c_after_the_first_of_two_says_which_was_written(
    program: Program, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ..engines.engine_support import place

    def build(bundle: Any, direction: str, folder: Path, **_: Any) -> Any:
        if direction == "b2a":
            raise KeyboardInterrupt
        return place(folder, bundle, direction=direction)

    monkeypatch.setattr(building, "build_engine", build)
    stopped = program("build-engine", "ink", "--both", "--models-dir", models)
    assert stopped.code == 130
    assert "interrupted; the engine for photo → ink was written, no other" in stopped.err


def test_a_file_of_the_models_name_is_not_the_model(
    program: Program,
    models: Path,
    pretended: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").write_text("", "utf-8")
    assert asked(program, pretended, "own", "--models-dir", models)["model"] == "own"


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    program: Program, models: Path, tmp_path: Path
) -> None:
    (models / "ink/engines").write_text("in the way", "utf-8")
    refused = program("build-engine", "ink", "--models-dir", models)
    assert refused.code == 1
    assert "choose another --models-dir" in refused.err


def test_ctrl_c_says_that_nothing_was_written(
    program: Program, models: Path, pretended: list[dict[str, Any]]
) -> None:
    stopped = program("build-engine", "oneway", "--models-dir", models)
    assert stopped.code == 130
    assert "interrupted; no engine was written" in stopped.err
    assert not (models / "oneway/engines").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nobody"], 4, "no such model"),
        (["ink", "--both", "--reverse"], 2, "give one of them"),
        (["oneway", "--reverse"], 2, "only translates photo → ink"),
        (["ink", "--flavor", "tensorrt"], 4, "it builds on the GPU that the engine is for"),
        (["ink", "--flavor", "openvino"], 2, "openvino"),
        (["ink", "--precision", "bf16"], 2, "bf16"),
        (["ink", "--size", "33"], 2, "use 32"),
        (["ink", "--batch", "8,1"], 2, "smallest first"),
        (["whole", "--size", "64"], 2, "32×32 pixels only"),
        (["ink", "--compute-capability", "7.5", "--precision", "fp32"], 2, "use --precision fp16"),
        (["ink", "--device", "wheel"], 2, "--device wheel"),
    ],
)
def test_what_cannot_be_built_is_told(
    program: Program, models: Path, arguments: list[str], code: int, says: str
) -> None:
    refused = program("build-engine", *arguments, "--models-dir", models)
    assert refused.code == code
    assert says in refused.err
    assert refused.out == ""


def test_a_checkpoint_has_to_be_taken_in_first(program: Program, models: Path, tmp_path: Path) -> None:
    (tmp_path / "selfie.pt").write_bytes(b"")
    refused = program("build-engine", tmp_path / "selfie.pt", "--models-dir", models)
    assert refused.code == 2
    assert f"ugatit-batch models import {tmp_path / 'selfie.pt'}" in refused.err


def test_translate_asks_for_the_engine_by_name(program: Program, models: Path, tmp_path: Path) -> None:
    from ugatit_batch.models import find_model

    from ..engines.engine_support import place

    folder = paint(tmp_path / "photos/a.png").parent
    call = ("translate", folder, "--model", "ink", "--models-dir", models, "-o", tmp_path / "out")
    missing = program(*call, "--backend", "tensorrt")
    assert missing.code == 4
    assert "needs" in missing.err or "run on NVIDIA GPUs" in missing.err
    place(models / "ink/engines", find_model("ink", models), version="0.0.1")
    unfit = program(*call, "--backend", "tensorrt")
    assert unfit.code == 4
    assert "built by tensorrt-rtx 0.0.1, installed is" in unfit.err
    assert f"ugatit-batch build-engine {models / 'ink'}" in unfit.err
    assert not (tmp_path / "out").exists(), "nothing was done"
    done = program(*call, "--precision", "fp32")
    assert done.code == 0
    assert "PyTorch" in done.err
