from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch import models
from ugatit_batch.bundle import MANIFEST
from ugatit_batch.errors import BundleError, EngineDamagedError, EngineLibraryError, EngineUnfitError
from ugatit_engines import doctor, doctor_findings, doctor_packages
from ugatit_engines.devices import choose_device, choose_precision
from ugatit_engines.doctor import diagnose
from ugatit_engines.doctor_findings import explain_default, look_at_default, look_at_gpus
from ugatit_engines.doctor_packages import examine_library, find_packages, look_at_library, look_at_packages
from ugatit_engines.engine_files import list_engines
from ugatit_engines.engine_status import check_engines, check_models, writing_error
from ugatit_engines.machine import Gpu, Machine

from ..fakes import make_model, tree
from .engine_support import ADA, BOTH, HOPPER, LINUX, PLAN, place

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_engines.doctor import Diagnosis
    from ugatit_engines.doctor_findings import Finding

PACKAGES = ("onnx", "onnxscript", "pillow-heif", "torch-fidelity", "tensorboard")
NEITHER: Any = {"tensorrt": None, "tensorrt-rtx": None}
BARE = Machine("linux", "x86_64", (), NEITHER)
MAC = Machine("darwin", "aarch64", (), NEITHER)
SECOND = Gpu(1, "RTX A2000", (8, 6), 12 << 30)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "no models in the package")
    return make_model(tmp_path / "models/ink", directions=("a2b",))


def diagnose_as(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Diagnosis:
    monkeypatch.setattr(doctor, "this_machine", lambda: machine)
    monkeypatch.setattr(doctor_packages, "is_installed", lambda flavor: bool(machine.libraries[flavor]))
    return diagnose(folder)


def of(diagnosis: Diagnosis, topic: str) -> list[Finding]:
    return [finding for finding in diagnosis.findings if finding.topic == topic]


def test_a_bare_machine_is_told_how_to_get_the_rest(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_packages", lambda: dict.fromkeys(PACKAGES))
    monkeypatch.setattr(doctor_findings, "_cuda_error", lambda: "Found no NVIDIA driver on your system.")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    diagnosis = diagnose_as(BARE, bundle.path.parent, monkeypatch)
    missing = {f.topic: f.hint for f in diagnosis.findings if f.state == "missing"}
    assert missing == {
        "gpu": "for an NVIDIA GPU, install its driver: https://www.nvidia.com/drivers",
        "tensorrt": "install it: pip install 'ugatit-batch[tensorrt]'",
        "tensorrt-rtx": "install it: pip install 'ugatit-batch[tensorrt-rtx]'",
        "onnx": "install it: pip install 'ugatit-batch[tensorrt-rtx]'",
        "heif": "pip install 'ugatit-batch[heif]'",
        "evaluate": "pip install 'ugatit-batch[evaluate]'",
        "tensorboard": "pip install 'ugatit-batch[tensorboard]'",
    }
    assert (diagnosis.count("missing"), diagnosis.count("problem")) == (7, 0)
    assert not any(diagnosis.packages.values())


def test_looking_changes_nothing_and_the_facts_are_for_programs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(bundle.path / "engines", bundle)
    before = tree(bundle.path.parent)
    diagnosis = diagnose_as(LINUX, bundle.path.parent, monkeypatch)
    assert tree(bundle.path.parent) == before
    facts = json.loads(json.dumps(diagnosis.to_json()))
    assert facts["gpus"] == [{"name": ADA.name, "compute_capability": "8.9", "memory": 24 << 30}]
    assert [(one["flavor"], one["version"], one["gpus"]) for one in facts["tensorrt"]] == [
        ("tensorrt", "10.14.1", [0]),
        ("tensorrt-rtx", "1.7.1", [0]),
    ]
    (model,) = facts["models"]
    (engine,) = model["engines"]
    assert (model["name"], model["error"], engine["fits"], engine["misfit"]) == ("ink", None, True, None)
    assert engine["plan_bytes"] == len(PLAN)
    assert facts["default"]["device"] == str(choose_device("auto"))
    assert facts["cpu"]["cores"] >= 1
    assert facts["cpu"]["memory"] > 1 << 28


def test_gpus_are_named_and_old_ones_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_120", "sm_75", "sm_90a", "compute_120"])
    old = Gpu(1, "GeForce GTX 1080", (6, 1), 8 << 30)
    new, pascal = look_at_gpus(Machine("linux", "x86_64", (ADA, old), BOTH))
    assert (new.state, new.text) == ("ok", f"cuda:0 is {ADA.name}, compute capability 8.9, 24.0 GiB")
    assert pascal.state == "problem"
    assert "6.1" in pascal.text
    assert "from 7.5 on" in pascal.text
    assert "--device cpu" in pascal.hint
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a"])
    assert [finding.state for finding in look_at_gpus(Machine("linux", "x86_64", (old,), BOTH))] == ["ok"]


@pytest.mark.parametrize(
    ("words", "visible", "state", "text", "hint"),
    [
        ("Found no NVIDIA driver on your system.", None, "missing", "no NVIDIA driver", "install its driver"),
        ("No CUDA GPUs are available", "", "missing", "CUDA_VISIBLE_DEVICES is ''", "unset"),
        ("No CUDA GPUs are available", None, "missing", "driver, but no GPU", ""),
        ("", None, "missing", "driver, but no GPU", ""),
        ("The NVIDIA driver on your system is too old", "0", "problem", "is too old", "renew"),
    ],
)
def test_why_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, words: str, visible: str | None, state: str, text: str, hint: str
) -> None:
    def refuse() -> None:
        if words:
            raise RuntimeError(f"{words}\nand more")

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (finding,) = look_at_gpus(BARE)
    assert finding.state == state
    assert text in finding.text
    assert "and more" not in finding.text
    assert hint in finding.hint
    assert bool(hint) == bool(finding.hint)


@pytest.mark.parametrize("driver", [True, False])
def test_a_build_for_cpus_alone(monkeypatch: pytest.MonkeyPatch, driver: bool) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor_findings, "_has_driver", lambda: driver)
    (finding,) = look_at_gpus(BARE)
    assert finding.state == "missing"
    assert "built for CPUs alone" in finding.text
    assert "install a CUDA build of PyTorch" in finding.hint
    assert ("install its driver" in finding.hint) is not driver
    assert "built for CPUs alone" in doctor_findings.look_at_torch().text


def test_a_mac_is_offered_no_tensorrt(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_packages", lambda: dict.fromkeys(PACKAGES))
    diagnosis = diagnose_as(MAC, bundle.path.parent, monkeypatch)
    for topic in ("gpu", "tensorrt", "tensorrt-rtx"):
        (finding,) = of(diagnosis, topic)
        assert (finding.state, finding.hint) == ("missing", "")
        assert "macOS" in finding.text
    assert of(diagnosis, "onnx") == []
    assert not any(library.builds for library in diagnosis.libraries)


@pytest.mark.parametrize("fast", [True, False])
def test_the_default_is_explained(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr("ugatit_engines.devices.has_fast_bf16", lambda: fast)
    precision = choose_precision("auto", torch.device("cpu"))
    finding = look_at_default("cpu", precision, explain_default("cpu", precision))
    said = (
        "multiplies bfloat16 in hardware; --precision fp32" if fast else "nothing that makes bfloat16 faster"
    )
    assert finding.text.startswith("cpu, bf16: " if fast else "cpu, fp32: ")
    assert said in finding.text
    half = choose_precision("auto", torch.device("cuda"))
    finding = look_at_default("cuda:0", half, explain_default("cuda", half))
    assert "a TensorRT engine where one fits, or else PyTorch on cuda:0, fp16: half precision" in finding.text


@pytest.mark.parametrize(
    ("flavor", "gpus", "exports", "builds", "runs", "words"),
    [
        ("tensorrt-rtx", (), True, True, (), "1.7.1: can build engines; there is no GPU to run them"),
        ("tensorrt-rtx", (ADA,), False, False, (0,), "cannot build engines without onnx and onnxscript"),
        ("tensorrt-rtx", (HOPPER,), True, True, (), "no GPU here can run them"),
        ("tensorrt-rtx", (HOPPER, SECOND), True, True, (1,), "cuda:1 (RTX A2000) can run them"),
        ("tensorrt", (), True, False, (), "10.14.1: cannot build engines without a GPU"),
        ("tensorrt", (HOPPER, SECOND), True, True, (0, 1), "cuda:0 (H100), cuda:1 (RTX A2000) can run them"),
    ],
)
def test_what_each_flavor_can_do(
    flavor: Any, gpus: tuple[Gpu, ...], exports: bool, builds: bool, runs: tuple[int, ...], words: str
) -> None:
    machine = Machine("linux", "x86_64", gpus, BOTH)
    library = examine_library(flavor, machine, exports=exports)
    assert (library.builds, library.gpus) == (builds, runs)
    finding = look_at_library(library, machine, exports=exports)
    assert finding.state == "ok"
    assert words in finding.text


def test_a_library_that_cannot_be_loaded_is_a_problem(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(flavor: str) -> None:
        raise EngineLibraryError(
            f"{flavor} is installed, but: libnvinfer.so.10 is missing", "install it anew"
        )

    monkeypatch.setattr(doctor_packages, "load_library", refuse)
    monkeypatch.setattr(doctor, "this_machine", lambda: BARE)
    monkeypatch.setattr(doctor_packages, "is_installed", lambda flavor: flavor == "tensorrt")
    diagnosis = diagnose(bundle.path.parent)
    (finding,) = of(diagnosis, "tensorrt")
    assert (finding.state, finding.hint) == ("problem", "install it anew")
    assert "libnvinfer.so.10" in finding.text
    assert diagnosis.count("problem") == 1
    assert [one["error"] is None for one in diagnosis.to_json()["tensorrt"]] == [False, True]


def test_packages_are_found_by_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else name)
        patch.setattr(importlib.metadata, "version", lambda name: f"1 of {name}")
        found = find_packages()
    assert found == {name: f"1 of {name}" for name in PACKAGES} | {"onnx": None}
    there = dict.fromkeys(PACKAGES, "1.0") | {"onnxscript": None, "tensorboard": None}
    findings = {finding.topic: finding for finding in look_at_packages(there, BARE)}
    assert findings["heif"].text == "pillow-heif 1.0 reads HEIC pictures"
    assert findings["onnx"].text == "onnxscript not installed: for `build-engine`"
    assert findings["onnx"].hint == "install it: pip install 'ugatit-batch[tensorrt-rtx]'"
    assert {topic for topic, finding in findings.items() if finding.state == "missing"} == {
        "onnx",
        "tensorboard",
    }


def test_damaged_models_and_engines_are_problems_and_unfit_engines_are_not(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    for name in ("cut", "lost", "broken"):
        make_model(folder / name, directions=("a2b",))
    (weights,) = (folder / "cut").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    (lost,) = (folder / "lost").glob("*.safetensors")
    lost.unlink()
    (folder / "broken" / MANIFEST).write_text("{", "utf-8")
    place(bundle.path / "engines", bundle)
    older = place(bundle.path / "engines", bundle, precision="fp32", version="1.6.0")
    half = place(bundle.path / "engines", bundle, flavor="tensorrt", version="10.14.1", capabilities=("8.9",))
    half.plan.write_bytes(PLAN[:-1])
    diagnosis = diagnose_as(LINUX, folder, monkeypatch)
    problems = [finding.text for finding in diagnosis.findings if finding.state == "problem"]
    where = (folder / "broken", weights, half.plan, lost)
    assert [str(path) in text for path, text in zip(where, problems, strict=True)] == [True] * 4
    engines = {finding.text: finding for finding in of(diagnosis, "engine")}
    assert sorted(finding.state for finding in engines.values()) == ["missing", "ok", "problem"]
    (unfit,) = (finding for finding in engines.values() if finding.state == "missing")
    assert older.plan.stem in unfit.text
    assert "tensorrt-rtx 1.6.0, installed is 1.7.1" in unfit.text
    assert "ugatit-batch build-engine" in unfit.hint
    assert of(diagnosis, "models")[0].text == f"4 models; yours belong in {folder}"


def test_a_changed_byte_shows_where_checksums_are_compared(bundle: Bundle) -> None:
    engine = place(bundle.path / "engines", bundle)
    engine.plan.write_bytes(bytes([PLAN[0] ^ 1]) + PLAN[1:])
    found = list(list_engines(engine.plan.parent))
    (quick,) = check_engines(bundle, found, LINUX, thorough=False)
    assert quick.misfit is None
    (status,) = check_engines(bundle, found, LINUX, thorough=True)
    assert isinstance(status.misfit, EngineDamagedError)
    assert status.damaged
    assert "checksum" in status.describe()
    assert "ugatit-batch build-engine" in status.hint
    assert status.to_json()["plan_bytes"] == len(PLAN)


def test_an_engine_fits_where_any_gpu_of_the_machine_runs_it(bundle: Bundle) -> None:
    found = [place(bundle.path / "engines", bundle)]

    def judge(*gpus: Gpu) -> str | None:
        (status,) = check_engines(bundle, found, Machine("linux", "x86_64", gpus, BOTH), thorough=False)
        assert status.describe().endswith("fits this machine") == (status.misfit is None)
        return status.reason

    assert judge(HOPPER, SECOND) is None
    assert "H100 has 9.0" in (judge(HOPPER) or "")
    assert judge() == "engine a2b-tensorrt-rtx-fp16-32 needs an NVIDIA GPU, and PyTorch finds none"


def test_an_engine_of_a_direction_that_is_gone_is_of_another_model(bundle: Bundle, tmp_path: Path) -> None:
    two = make_model(tmp_path / "two")
    found = [place(bundle.path / "engines", two, direction="b2a")]
    (status,) = check_engines(bundle, found, LINUX, thorough=False)
    assert isinstance(status.misfit, EngineUnfitError)
    assert status.misfit.reason == "model"


def test_models_are_listed_with_what_is_wrong(bundle: Bundle) -> None:
    (weights,) = bundle.path.glob("*.safetensors")
    (status,) = check_models(bundle.path.parent, BARE)
    assert (status.name, status.error, status.engines) == ("ink", None, ())
    weights.write_bytes(b"")
    (status,) = check_models(bundle.path.parent, BARE)
    assert isinstance(status.error, BundleError)
    assert "damaged model" in str(status.to_json()["error"])


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    assert writing_error(tmp_path) is None
    assert writing_error(tmp_path / "not/made/yet") is None
    assert writing_error(tmp_path / "file/models") is not None
    assert sorted(tmp_path.rglob("*")) == before
    (finding,) = of(diagnose_as(BARE, tmp_path / "file/models", monkeypatch), "models")
    assert finding.state == "problem"
    assert str(tmp_path / "file/models") in finding.text
    assert "--models-dir" in finding.hint
    (finding,) = of(diagnose_as(BARE, tmp_path / "new", monkeypatch), "models")
    assert (finding.state, finding.text.endswith("new, not made yet")) == ("ok", True)
