"""Engines that TensorRT for RTX builds here and now; it needs no GPU for that."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig, WorkingSize
from ugatit_batch.errors import EngineBuildError, EngineLibraryError, UsageError
from ugatit_batch.models import bundled_models_dir, find_model
from ugatit_engines import build_engine as building
from ugatit_engines import tensorrt_library
from ugatit_engines.build_engine import build_engine, choose_targets
from ugatit_engines.engine_files import list_engines
from ugatit_engines.machine import this_machine
from ugatit_engines.onnx_export import export_onnx
from ugatit_engines.profiles import Profile, Span, choose_profile
from ugatit_engines.specimens import write_random_bundle
from ugatit_engines.tensorrt_build import build_plan
from ugatit_engines.tensorrt_library import PORTABLE, library_version

from ..fakes import make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_engines.engine_files import FoundEngine
    from ugatit_engines.engine_record import EnginePrecision
    from ugatit_engines.onnx_export import Graph

trt = pytest.importorskip("tensorrt_rtx")
onnx = pytest.importorskip("onnx")

SMALL = Profile(Span(1, 2, 4), Span.one(32), Span.one(32))


def silent(_phase: str, _step: int, _steps: int) -> None:
    pass


def build(
    bundle: Bundle,
    folder: Path,
    precision: EnginePrecision = "fp16",
    profile: Profile = SMALL,
    progress: Callable[[str, int, int], None] = silent,
    **options: Any,
) -> FoundEngine:
    given = {"flavor": "tensorrt-rtx", "targets": PORTABLE} | options
    return build_engine(
        bundle,
        "a2b",
        folder,
        precision=precision,
        profile=profile,
        machine=this_machine(),
        gpu=None,
        progress=progress,
        **given,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def exported(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    path = tmp_path_factory.mktemp("graph") / "a2b.onnx"
    return export_onnx(tiny, "a2b", path, precision="fp16", profile=SMALL)


@pytest.fixture
def quick(exported: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of `tiny` is exported once for several tests."""
    monkeypatch.setattr(building, "export_onnx", lambda *_arguments, **_options: exported)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("models") / "wide"
    return write_random_bundle(folder, GeneratorConfig(channels=64, light=True, image_size=256))


def check(found: FoundEngine, bundle: Bundle, precision: str, profile: Profile) -> None:
    """What the library itself recorded of the network that it built."""
    record = found.record
    assert record is not None
    height, width = (-1 if not span.fixed else span.most for span in (profile.height, profile.width))
    low = -1 if height < 0 else height // 4
    assert [(t.name, t.dtype, t.shape) for t in (*record.inputs, *record.outputs)] == [
        ("pixels", "UINT8", (-1, height, width, 3)),
        ("translated", "UINT8", (-1, height, width, 3)),
        ("attention", "FLOAT", (-1, low, low)),
    ]
    assert record.profile == profile
    assert (record.flavor, record.precision, record.version) == ("tensorrt-rtx", precision, trt.__version__)
    assert record.capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert record.model_sha256 == bundle.digest("a2b")
    assert len(found.read()) == record.plan_bytes
    # As much as the weights, and little more: nothing is stored twice.
    values = sum(array.size for array in bundle.weights("a2b").values())
    assert record.plan_bytes > values * (2 if precision == "fp16" else 4) * 0.8


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_model_that_comes_along(tmp_path: Path, precision: EnginePrecision) -> None:
    ink = find_model("ink", bundled_models_dir())
    profile = choose_profile(ink, "128-512", "1,8,32")
    check(build(ink, tmp_path, precision, profile), ink, precision, profile)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_light_generator_of_the_papers_width(
    tmp_path: Path, wide: Bundle, precision: EnginePrecision
) -> None:
    profile = choose_profile(wide, "128-512", "1,8,32")
    check(build(wide, tmp_path, precision, profile), wide, precision, profile)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_full_generator(tmp_path: Path, precision: EnginePrecision) -> None:
    full = write_random_bundle(tmp_path / "full", GeneratorConfig(channels=64, light=False, image_size=256))
    profile = choose_profile(full, "model", "1,8,32")
    check(build(full, tmp_path, precision, profile), full, precision, profile)


def test_progress_is_told_from_the_export_to_the_end(tmp_path: Path, tiny: Bundle) -> None:
    told: list[tuple[str, int, int]] = []
    build(tiny, tmp_path, progress=lambda *step: told.append(step))
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert phases[0] == "Exporting the graph"
    assert "Building engine" in phases
    assert all(step <= steps for _, step, steps in told if steps)
    far = [step / steps for phase, step, steps in told if phase == "Building engine"]
    assert far == sorted(far)
    assert far[-1] > 0.7


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("when", ["Exporting the graph", "Building engine"])
def test_what_progress_raises_ends_the_build_and_the_older_engine_stays(
    tmp_path: Path, tiny: Bundle, when: str
) -> None:
    older = build(tiny, tmp_path)

    def stop(phase: str, _step: int, _steps: int) -> None:
        if phase == when:
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        build(tiny, tmp_path, profile=SMALL, progress=stop)
    assert set(threading.enumerate()) <= before
    assert [f.record for f in list_engines(tmp_path)] == [older.record]
    assert len(older.read()) > 1000
    assert {p.suffix for p in tmp_path.iterdir()} == {".plan", ".json", ".lock"}


@pytest.mark.usefixtures("quick")
def test_ctrl_c_arrives_while_the_library_is_at_work(tmp_path: Path, tiny: Bundle) -> None:
    def press(phase: str, step: int, _steps: int) -> None:
        if phase == "Building engine" and step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(tiny, tmp_path, progress=press)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_turing_gets_an_engine_of_its_own_in_half_precision(tmp_path: Path, tiny: Bundle) -> None:
    targets = choose_targets("tensorrt-rtx", None, (7, 5))
    found = build(tiny, tmp_path, targets=targets)
    assert found.record is not None
    assert found.record.capabilities == ("7.5",)
    assert "sm75" in found.plan.name
    with pytest.raises(UsageError, match="--precision fp32"):
        build(tiny, tmp_path, "fp32", targets=targets)


def graph(path: Path, operator: str) -> Path:
    """An ONNX file of one operation between the engine's input and output."""
    helper, kinds = onnx.helper, onnx.TensorProto
    tensors = [
        helper.make_tensor_value_info(name, kinds.FLOAT, ["n", 32, 32, 3])
        for name in ("pixels", "translated")
    ]
    node = helper.make_node(operator, ["pixels"], ["translated"], name="the_one_layer")
    model = helper.make_model(
        helper.make_graph([node], "one", tensors[:1], tensors[1:]),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    onnx.save(model, path)
    return path


def test_the_parsers_words_come_with_the_layers_name(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError) as refused:
        build_plan("tensorrt-rtx", graph(tmp_path / "odd.onnx", "Wings"), SMALL)
    message = refused.value.message
    assert message.startswith("odd.onnx: tensorrt-rtx cannot read the model's graph: ")
    assert "the_one_layer" in message
    assert "Wings" in message


def test_the_builders_words_are_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = Profile(Span.one(1), Span.one(64), Span.one(64))
    with pytest.raises(EngineBuildError, match=r"(?s)could not build the engine: .*pixels.*64.*32"):
        build_plan("tensorrt-rtx", graph(tmp_path / "plain.onnx", "Relu"), other)
    assert capfd.readouterr() == ("", ""), "the library writes to nobody's terminal"


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(graph(tmp_path / "whole.onnx", "Relu").read_bytes()[:40])
    with pytest.raises(EngineBuildError, match=r"cut\.onnx: .*cannot read"):
        build_plan("tensorrt-rtx", path, SMALL)


def test_a_library_that_is_missing_or_broken_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_library, "is_installed", lambda _flavor: False)
    with pytest.raises(EngineLibraryError, match=r"tensorrt is not installed .*\[tensorrt\]"):
        build_plan("tensorrt", tmp_path / "x.onnx", SMALL)
    assert library_version("tensorrt-rtx") is None
    monkeypatch.undo()

    def broken(_name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(tensorrt_library, "is_installed", lambda _flavor: True)
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(EngineLibraryError, match=r"cannot be loaded: libnvinfer\.so"):
        build_plan("tensorrt", tmp_path / "x.onnx", SMALL)
    assert library_version("tensorrt") is None


def test_the_size_of_a_native_model_goes_from_its_smallest_to_its_own(tmp_path: Path) -> None:
    native = make_model(tmp_path / "native", working=WorkingSize("native", 64))
    profile = choose_profile(native)
    found = build(native, tmp_path / "engines", profile=profile)
    assert found.plan.name == "a2b-tensorrt-rtx-fp16-8-64.plan"
    check(found, native, "fp16", profile)
