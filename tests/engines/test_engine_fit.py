from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch import models
from ugatit_batch.bundle import Bundle, WorkingSize
from ugatit_batch.errors import DeviceError, EngineLibraryError, EngineUnfitError, UgatitBatchError
from ugatit_batch.images.geometry import Sizing
from ugatit_engines import engine_fit
from ugatit_engines.engine_files import FoundEngine
from ugatit_engines.engine_fit import Need, build_command, choose_flavor, misfit, misfit_with_run
from ugatit_engines.profiles import choose_profile

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
    broken = dataclasses.replace(libraries(tensorrt_rtx=None), broken=frozenset({"tensorrt-rtx"}))
    unloadable = tell(bundle, broken)
    assert isinstance(unloadable, EngineLibraryError)
    assert "cannot be loaded" in unloadable.message
    assert "doctor" in unloadable.hint
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
    assert error.hint == "use --size 64, or use --backend torch"
    fixed = tell(bundle, need=Need(sizing=free(None)))
    assert fixed is not None
    assert fixed.hint == "use --backend torch"


def test_the_command_builds_what_was_needed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need("fp32", 16, free(100))
    assert build_command(bundle, "b2a", need) == (
        f"ugatit-batch build-engine {bundle.path} --reverse --precision fp32 --batch 1,16 --size 8-100"
    )
    faces = dataclasses.replace(bundle, working_size=WorkingSize("square", 64))
    assert str(build_command(faces, "a2b", Need(None, 1, square(128)))).endswith("--batch 1 --size 128")
    assert str(build_command(bundle, "a2b", Need(sizing=free(64)))).endswith(str(bundle.path))
    one_way = dataclasses.replace(bundle, directions={"b2a": bundle.directions["b2a"]})
    assert "--reverse" in str(build_command(one_way, "b2a", ANYTHING))
    monkeypatch.setattr(engine_fit, "default_models_dir", lambda: bundle.path.parent)
    assert build_command(bundle, "a2b", ANYTHING) == "ugatit-batch build-engine cat2dog"


def test_a_model_that_came_along_is_named_with_its_models_folder(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "bundled_models_dir", lambda: bundle.path.parent)
    monkeypatch.setattr(engine_fit, "default_models_dir", lambda: tmp_path / "usual")
    usual, other = (tmp_path / name / "cat2dog/engines" for name in ("usual", "an other"))
    assert build_command(bundle, "a2b", ANYTHING, usual) == "ugatit-batch build-engine cat2dog"
    assert build_command(bundle, "a2b", ANYTHING, other) == (
        f"ugatit-batch build-engine cat2dog --models-dir '{tmp_path / 'an other'}'"
    )


@pytest.mark.parametrize("batch", [None, 1, 2, 256, 257])
@pytest.mark.parametrize(
    ("squares", "side"),
    [(False, side) for side in (None, 1, 8, 12, 61, 64, 100, 1024, 16384, 20000)]
    + [(True, side) for side in (8, 12, 64, 100, 1024, 16384)],
)
def test_what_the_command_builds_fits_what_it_was_needed_for(
    bundle: Bundle, squares: bool, side: int | None, batch: int | None
) -> None:
    shape = dataclasses.replace(bundle, working_size=WorkingSize("square" if squares else "native", 64))
    need = Need("fp16", batch, Sizing(square=squares, side=side), exact=True)
    command = build_command(shape, "a2b", need)
    if command is None:
        assert side is None or side > 16384 or batch == 257 or (side == 16384 and batch in (2, 256))
        return
    words = shlex.split(command)
    given = dict(zip(words[3::2], words[4::2], strict=True))
    profile = choose_profile(shape, given.get("--size", "model"), given.get("--batch", "auto"))
    assert misfit_with_run(record(shape, profile=profile), need) is None


def test_a_range_that_begins_late_is_for_those_who_ask_for_it(bundle: Bundle) -> None:
    assert tell(bundle, need=Need(sizing=free(64)), profile=RANGE) is None
    error = tell(bundle, need=Need(sizing=free(64), exact=True), profile=RANGE)
    assert isinstance(error, EngineUnfitError)
    assert error.reason == "size"


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
