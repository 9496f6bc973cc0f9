from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch.bundle import Bundle, WorkingSize
from ugatit_batch.errors import DeviceError, EngineLibraryError, EngineUnfitError, UgatitBatchError
from ugatit_batch.images.geometry import Sizing
from ugatit_engines import engine_fit
from ugatit_engines.engine_files import FoundEngine
from ugatit_engines.engine_fit import Need, build_command, choose_flavor, misfit

from ..fakes import make_model
from .engine_support import ADA, BOTH, HOPPER, LINUX, RANGE, TURING_CARD, record

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_engines.machine import Gpu, Machine

ANYTHING = Need()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_model(tmp_path_factory.mktemp("models") / "cat2dog", working=WorkingSize("native", 64))


def tell(
    bundle: Bundle,
    machine: Machine = LINUX,
    gpu: Gpu | None = ADA,
    need: Need = ANYTHING,
    **changes: Any,
) -> UgatitBatchError | None:
    found = FoundEngine(bundle.path / "engines/x.plan", record(bundle, **changes))
    return misfit(found, bundle, "a2b", machine, gpu, need)


def libraries(**versions: str | None) -> Machine:
    return dataclasses.replace(LINUX, libraries={k.replace("_", "-"): v for k, v in versions.items()})  # type: ignore[misc]


def test_an_engine_fits_what_it_was_built_for(bundle: Bundle) -> None:
    assert tell(bundle) is None
    assert tell(bundle, flavor="tensorrt", version="10.14.1", capabilities=("8.9",)) is None
    assert tell(bundle, dataclasses.replace(LINUX, system="windows")) is None, "they are portable"


@pytest.mark.parametrize(
    ("machine", "gpu", "changes", "reason", "says"),
    [
        (LINUX, ADA, {"model_sha256": "0" * 64}, "model", "from another model, or from an older cat2dog"),
        (LINUX, ADA, {"direction": "b2a"}, "model", "another model"),
        (libraries(tensorrt="10.14.1", tensorrt_rtx=None), ADA, {}, "flavor", "installed is tensorrt"),
        (LINUX, ADA, {"version": "1.8.0"}, "version", "tensorrt-rtx 1.8.0, installed is 1.7.1"),
        (LINUX, ADA, {"version": "1.7.1.1"}, "version", "installed is 1.7.1"),
        (
            dataclasses.replace(LINUX, architecture="aarch64"),
            ADA,
            {},
            "system",
            "linux x86_64, this is linux",
        ),
        (
            dataclasses.replace(LINUX, system="windows"),
            ADA,
            {"flavor": "tensorrt", "version": "10.14.1", "capabilities": ("8.9",)},
            "system",
            "this is windows x86_64",
        ),
        (LINUX, HOPPER, {}, "gpu", "H100 has 9.0"),
        (LINUX, TURING_CARD, {}, "gpu", "GeForce RTX 2080 has 7.5"),
        (LINUX, ADA, {"capabilities": ("7.5",)}, "gpu", "built for compute capability 7.5"),
        (
            LINUX,
            ADA,
            {"flavor": "tensorrt", "version": "10.14.1", "capabilities": ("9.0",)},
            "gpu",
            "GeForce RTX 4090 has 8.9",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    bundle: Bundle, machine: Machine, gpu: Gpu, changes: dict[str, Any], reason: str, says: str
) -> None:
    error = tell(bundle, machine, gpu, **changes)
    assert isinstance(error, EngineUnfitError)
    assert error.reason == reason
    assert says in error.message
    assert error.exit_code == 4
    assert f"ugatit-batch build-engine {bundle.path}" in error.hint


def test_no_library_and_no_gpu_are_told_apart(bundle: Bundle) -> None:
    lacking = tell(bundle, libraries(tensorrt=None, tensorrt_rtx=None))
    assert isinstance(lacking, EngineLibraryError)
    assert "pip install 'ugatit-batch[tensorrt-rtx]'" in lacking.hint
    blind = tell(bundle, gpu=None)
    assert isinstance(blind, DeviceError)
    assert "needs an NVIDIA GPU" in blind.message


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (12, 0), (12, 1), (13, 0)])
def test_portable_engines_fit_ampere_and_later(bundle: Bundle, capability: tuple[int, int]) -> None:
    assert tell(bundle, gpu=dataclasses.replace(ADA, capability=capability)) is None


def test_turing_has_engines_of_its_own(bundle: Bundle) -> None:
    assert tell(bundle, gpu=TURING_CARD, capabilities=("7.5",)) is None


def square(side: int) -> Sizing:
    return Sizing(square=True, side=side)


def free(side: int | None) -> Sizing:
    return Sizing(square=False, side=side)


@pytest.mark.parametrize(
    ("need", "changes", "reason"),
    [
        (Need("fp16"), {}, None),
        (Need("fp32"), {}, "precision"),
        (Need("fp32"), {"precision": "fp32"}, None),
        (Need(batch_size=32), {}, None),
        (Need(batch_size=33), {}, "batch"),
        (Need(sizing=square(32)), {}, None),
        (Need(sizing=square(64)), {}, "size"),
        (Need(sizing=square(64)), {"profile": RANGE}, None),
        (Need(sizing=square(68)), {"profile": RANGE}, "size"),
        (Need(sizing=free(32)), {}, "size"),
        (Need(sizing=free(64)), {"profile": RANGE}, None),
        (Need(sizing=free(61)), {"profile": RANGE}, None),
        (Need(sizing=free(65)), {"profile": RANGE}, "size"),
    ],
)
def test_what_a_run_needs(bundle: Bundle, need: Need, changes: dict[str, Any], reason: str | None) -> None:
    error = tell(bundle, need=need, **changes)
    if reason is None:
        assert error is None
    else:
        assert isinstance(error, EngineUnfitError)
        assert error.reason == reason


def test_pictures_of_any_size_are_for_pytorch(bundle: Bundle) -> None:
    error = tell(bundle, need=Need(sizing=free(None)), profile=RANGE)
    assert error is not None
    assert "any size" in error.message
    assert error.hint.startswith("use --size 64, or build one that fits")
    fixed = tell(bundle, need=Need(sizing=free(None)))
    assert fixed is not None
    assert fixed.hint.startswith("build one that fits")


def test_the_command_builds_what_was_needed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need("fp32", 16, free(100))
    assert build_command(bundle, "b2a", need) == (
        f"ugatit-batch build-engine {bundle.path} --reverse --precision fp32 --batch 1,16 --size 8-100"
    )
    assert build_command(bundle, "a2b", Need(None, 1, square(128))).endswith("--batch 1 --size 128")
    assert build_command(bundle, "a2b", Need(sizing=free(64))).endswith(str(bundle.path))
    one_way = dataclasses.replace(bundle, directions={"b2a": bundle.directions["b2a"]})
    assert "--reverse" in build_command(one_way, "b2a")
    monkeypatch.setattr(engine_fit, "default_models_dir", lambda: bundle.path.parent)
    assert build_command(bundle) == "ugatit-batch build-engine cat2dog"


@pytest.mark.parametrize(
    ("gpu", "installed", "flavor"),
    [
        (None, BOTH, "tensorrt-rtx"),
        (ADA, BOTH, "tensorrt-rtx"),
        (ADA, {"tensorrt": "10.14.1", "tensorrt-rtx": None}, "tensorrt"),
        (ADA, {"tensorrt": None, "tensorrt-rtx": None}, "tensorrt-rtx"),
        (TURING_CARD, BOTH, "tensorrt-rtx"),
        (HOPPER, {"tensorrt": None, "tensorrt-rtx": "1.7.1"}, "tensorrt"),
    ],
)
def test_the_flavor_that_suits_a_gpu(gpu: Gpu | None, installed: Any, flavor: str) -> None:
    assert choose_flavor(gpu, dataclasses.replace(LINUX, libraries=installed)) == flavor


def test_a_damaged_engine_says_so_with_the_command(tmp_path: Path, bundle: Bundle) -> None:
    from ugatit_batch.errors import EngineDamagedError

    found = FoundEngine(tmp_path / "x.plan", None, EngineDamagedError("x.plan.json: damaged engine: cut off"))
    error = misfit(found, bundle, "a2b", LINUX, ADA, ANYTHING)
    assert isinstance(error, EngineDamagedError)
    assert "ugatit-batch build-engine" in error.hint
