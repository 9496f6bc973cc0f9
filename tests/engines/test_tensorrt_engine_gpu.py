"""Engines of TensorRT, built and run on the NVIDIA GPU that is here. Run by `make gpu`."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_batch.bundle import GeneratorConfig, WorkingSize
from ugatit_batch.errors import EngineUnfitError
from ugatit_batch.frames import Batch
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import run
from ugatit_batch.planning import Naming, plan
from ugatit_batch.settings import Settings, choose_sizing
from ugatit_engines import open_engine as opening
from ugatit_engines.build_engine import build_engine, choose_targets
from ugatit_engines.engine_files import FoundEngine, write_engine
from ugatit_engines.machine import Gpu, this_machine
from ugatit_engines.open_engine import open_engine
from ugatit_engines.profiles import Profile, Span
from ugatit_engines.specimens import texture, write_pictures, write_random_bundle
from ugatit_engines.tensorrt_engine import TensorRTTranslator
from ugatit_engines.tensorrt_library import (
    FLAVORS,
    PORTABLE,
    TURING,
    library_version,
    name_capability,
    rtx_runs_on,
)
from ugatit_engines.torch_engine import TorchTranslator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels, Translated
    from ugatit_engines.engine_record import EnginePrecision
    from ugatit_engines.tensorrt_library import Flavor

    Build = Callable[[str, EnginePrecision], tuple[Bundle, FoundEngine]]

pytestmark = pytest.mark.gpu

CONFIGS = {
    "light": GeneratorConfig(16, residual_blocks=2, light=True, image_size=64),
    "full": GeneratorConfig(16, residual_blocks=2, light=False, image_size=64),
}
SIDES = {"light": Span(32, 64, 96), "full": Span.one(64)}


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return this_machine().gpus[0]


@pytest.fixture(scope="module", params=FLAVORS)
def flavor(request: pytest.FixtureRequest, gpu: Gpu) -> Flavor:
    found: Flavor = request.param
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    if library_version(found) is None:
        pytest.skip(f"{found} is not installed, or cannot be loaded")
    if found == "tensorrt-rtx" and not rtx_runs_on(gpu.capability):
        pytest.skip(f"{found} does not know compute capability {name_capability(gpu.capability)}")
    return found


@pytest.fixture(scope="module")
def build(flavor: Flavor, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A small model's engine, each built when it is first asked for, alone in its folder."""
    folder = tmp_path_factory.mktemp(flavor)
    bundles = {kind: write_random_bundle(folder / kind, config) for kind, config in CONFIGS.items()}
    built: dict[tuple[str, EnginePrecision], FoundEngine] = {}

    def get(kind: str, precision: EnginePrecision) -> tuple[Bundle, FoundEngine]:
        if (flavor, precision, gpu.capability) == ("tensorrt-rtx", "fp32", TURING):
            pytest.skip("TensorRT for RTX has no float32 there")
        if (kind, precision) not in built:
            built[kind, precision] = build_engine(
                bundles[kind],
                "a2b",
                folder / f"{kind}-{precision}",
                flavor=flavor,
                precision=precision,
                profile=Profile(Span(1, 2, 4), SIDES[kind], SIDES[kind]),
                targets=choose_targets(flavor, gpu),
                machine=this_machine(),
                gpu=gpu,
                progress=lambda *_: None,
            )
        return bundles[kind], built[kind, precision]

    return get


def pictures(count: int, width: int = 64, height: int = 64) -> Pixels:
    side = max(width, height)
    return np.stack([texture(side, np.random.default_rng(i))[:height, :width] for i in range(count)])


def on_cpu(bundle: Bundle, batches: list[Batch]) -> list[Translated]:
    return list(TorchTranslator(bundle, "a2b", torch.device("cpu"), "fp32", 1).translate(iter(batches)))


def assert_close(
    found: list[Translated], expected: list[Translated], precision: EnginePrecision = "fp16"
) -> None:
    assert [one.pixels.shape for one in found] == [one.pixels.shape for one in expected]
    assert [one.attention.shape for one in found] == [one.attention.shape for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert other.pixels.std() > 10
        error = np.abs(one.pixels.astype(np.int16) - other.pixels)
        far = np.abs(one.attention - other.attention).max() / np.abs(other.attention).max()
        if precision == "fp32":
            assert error.max() <= 1
            assert (error > 0).mean() <= 1e-3
            assert far <= 1e-3
        else:
            assert error.max() <= 4
            assert error.mean() <= 0.4
            assert far <= 1e-2


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("kind", ["light", "full"])
def test_an_engine_gives_what_pytorch_gives(
    build: Build, gpu: Gpu, kind: str, precision: EnginePrecision
) -> None:
    bundle, found = build(kind, precision)
    translator = TensorRTTranslator(found, gpu)
    batches = [Batch(pictures(2))]
    assert_close(list(translator.translate(iter(batches))), on_cpu(bundle, batches), precision)
    assert translator.describe().startswith(f"{gpu.name}, {precision}, TensorRT")


def test_one_engine_takes_batches_and_sizes_as_they_come(build: Build, gpu: Gpu) -> None:
    bundle, found = build("light", "fp16")
    before = found.plan.stat()
    translator = TensorRTTranslator(found, gpu, 4)
    shapes = [(4, 64, 64), (1, 64, 64), (3, 96, 32), (4, 96, 32), (2, 96, 32), (9, 64, 64), (1, 36, 96)]
    batches = [Batch(pictures(*shape)) for shape in shapes]
    assert_close(list(translator.translate(iter(batches))), on_cpu(bundle, batches))
    assert_close(list(translator.translate(iter(batches[:2]))), on_cpu(bundle, batches[:2]))
    assert found.plan.stat() == before


def test_results_are_in_order(build: Build, gpu: Gpu) -> None:
    bundle, found = build("light", "fp16")
    given = pictures(20)
    batches = [Batch(given[at : at + 3]) for at in range(0, len(given), 3)]
    results = list(TensorRTTranslator(found, gpu, 2).translate(iter(batches)))
    got = np.concatenate([one.pixels for one in results]).astype(np.int16)
    expected = np.concatenate([one.pixels for one in on_cpu(bundle, batches)])
    far = np.stack([np.abs(one - expected).mean((1, 2, 3)) for one in got])
    assert far.argmin(axis=1).tolist() == list(range(20))


def test_leaving_early_and_opening_again(build: Build, gpu: Gpu) -> None:
    bundle, found = build("light", "fp16")
    batches = [Batch(pictures(2))] * 8
    expected = on_cpu(bundle, batches[:1])
    for _ in range(3):
        translator = TensorRTTranslator(found, gpu, 2)
        stream = translator.translate(iter(batches))
        assert_close([next(stream)], expected)
        stream.close()  # type: ignore[attr-defined]
        assert_close(list(translator.translate(iter(batches[:1]))), expected)
        del stream, translator
        gc.collect()
        torch.cuda.synchronize()


def test_kernels_are_kept_for_the_next_start(build: Build, gpu: Gpu, flavor: Flavor) -> None:
    bundle, found = build("light", "fp16")
    batches = [Batch(pictures(2))]
    expected = on_cpu(bundle, batches)
    found.cache.unlink(missing_ok=True)
    assert_close(list(TensorRTTranslator(found, gpu, 2).translate(iter(batches))), expected)
    assert found.cache.is_file() == (flavor == "tensorrt-rtx")
    assert_close(list(TensorRTTranslator(found, gpu, 2).translate(iter(batches))), expected)
    if flavor == "tensorrt-rtx":
        assert found.cache.stat().st_size > 0
        found.cache.write_bytes(b"kernels of another card")
        assert_close(list(TensorRTTranslator(found, gpu, 2).translate(iter(batches))), expected)
        assert found.cache.read_bytes() != b"kernels of another card"


def test_auto_takes_it_for_a_folder(build: Build, tmp_path: Path) -> None:
    bundle, found = build("light", "fp16")
    bundle = dataclasses.replace(bundle, working_size=WorkingSize("square", 64))
    told: list[str] = []
    translator = open_engine(bundle, "a2b", engines=found.plan.parent, say=told.append)
    assert isinstance(translator, TensorRTTranslator), told
    (tmp_path / "in").mkdir()
    sources = write_pictures(tmp_path / "in", 11, 64, suffix=".png")
    settings = Settings(choose_sizing(bundle), Encoding("png"))
    naming = Naming(tmp_path / "out", "test", settings.encoding)
    results = list(run(plan([tmp_path / "in"], naming), translator, bundle.digest("a2b"), settings))
    assert [(one.status, one.error) for one in results] == [("done", None)] * 11
    targets = {one.source.name: one.target for one in results}
    for source in sources:
        with Image.open(source) as picture, Image.open(targets[source.name]) as result:
            (expected,) = on_cpu(bundle, [Batch(np.array(picture)[None])])
            error = np.abs(np.asarray(result).astype(np.int16) - expected.pixels[0])
        assert error.max() <= 4


@pytest.mark.parametrize("reason", ["version", "gpu"])
def test_what_cannot_fit_is_refused_before_the_gpu_is_touched(
    build: Build, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    bundle, found = build("light", "fp16")
    assert found.record is not None
    other = PORTABLE if gpu.capability == TURING else (TURING,)
    changed = dataclasses.replace(
        found.record,
        **{"version": "0.0.1"}
        if reason == "version"
        else {"capabilities": tuple(map(name_capability, other))},
    )
    write_engine(tmp_path, changed, found.read())

    def never(*_arguments: object) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr(opening, "TensorRTTranslator", never)
    with pytest.raises(EngineUnfitError) as refused:
        open_engine(bundle, "a2b", backend="tensorrt", engines=tmp_path)
    assert refused.value.reason == reason
    told: list[str] = []
    assert isinstance(open_engine(bundle, "a2b", engines=tmp_path, say=told.append), TorchTranslator)
    assert len(told) == 1


PROGRAM = """
import sys, threading
from pathlib import Path
import numpy as np
from ugatit_batch.frames import Batch
from ugatit_engines.engine_files import list_engines
from ugatit_engines.machine import this_machine
from ugatit_engines.tensorrt_engine import TensorRTTranslator

(found,) = list_engines(Path(sys.argv[1]))
translator = TensorRTTranslator(found, this_machine().gpus[0], 2)
batches = [Batch(np.zeros((2, 64, 64, 3), np.uint8))] * 5
thread = threading.Thread(target=lambda: print(len(list(translator.translate(iter(batches))))))
thread.start()
thread.join()
"""


def test_a_program_that_ends_with_an_engine_open_ends_well(build: Build) -> None:
    _, found = build("light", "fp16")
    command = [sys.executable, "-c", PROGRAM, str(found.plan.parent)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (told.returncode, told.stdout) == (0, "5\n"), told.stderr
    assert "Error" not in told.stderr
