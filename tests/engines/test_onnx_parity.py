"""The exported graph against the generator that was trained, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from ugatit_batch.bundle import GeneratorConfig, load_bundle
from ugatit_batch.models import bundled_models_dir
from ugatit_engines.onnx_export import export_onnx
from ugatit_engines.profiles import Profile, Span
from ugatit_engines.specimens import texture, write_random_bundle
from ugatit_engines.torch_engine import load_generator

from ..fakes import make_model
from .strict_onnx import run_strictly
from .test_deploy_form import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels

    Outputs = tuple[NDArray[np.uint8], NDArray[np.float32]]
    Graphs = Callable[[str, Literal["fp32", "fp16"]], Path]

WIDE = GeneratorConfig(channels=64, residual_blocks=1)
FULL = replace(WIDE, channels=16, light=False, image_size=64, norm="adain", style_relu=False)
SIDES = Span(8, 64, 256)
ANY_SIZE = Profile(Span(1, 2, 8), SIDES, SIDES)


def only(side: int) -> Profile:
    return Profile(Span(1, 2, 8), Span.one(side), Span.one(side))


def pictures(count: int, width: int, height: int) -> Pixels:
    side = max(width, height)
    return np.stack([texture(side, np.random.default_rng(i))[:height, :width] for i in range(count)])


def eager(bundle: Bundle, pixels: Pixels, encoder_scale: float = 1.0) -> Outputs:
    generator = load_generator(bundle, "a2b")
    for parameter in (*generator.down.parameters(), *generator.encoder.parameters()):
        parameter.mul_(encoder_scale)
    with torch.inference_mode():
        output = generator(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    image = ((output.image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return image.permute(0, 2, 3, 1).numpy(), output.attention.numpy()


def onnx_runtime(path: Path, pixels: Pixels) -> Outputs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image, attention = session.run(["translated", "attention"], {"pixels": pixels})
    return np.asarray(image), np.asarray(attention)


def strictly(model: onnx.ModelProto, pixels: Pixels) -> Outputs:
    outputs, largest = run_strictly(model, pixels)
    assert 0 < largest < np.inf
    return outputs["translated"].numpy(), outputs["attention"].numpy()


def levels(found: Outputs, expected: Outputs) -> NDArray[np.int16]:
    """The difference a value, of 255 levels; and what all comparisons have in common."""
    assert [one.shape for one in found] == [one.shape for one in expected]
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    assert expected[0].std() > 2
    error: NDArray[np.int16] = np.abs(found[0].astype(np.int16) - expected[0].astype(np.int16))
    return error


def assert_same_in_fp32(found: Outputs, expected: Outputs) -> None:
    error = levels(found, expected)
    assert error.max() <= 1
    assert (error > 0).mean() <= 1e-3
    assert np.abs(found[1] - expected[1]).max() <= 1e-4 * np.abs(expected[1]).max()


def assert_close_in_fp16(found: Outputs, expected: Outputs, mean: float = 0.4) -> None:
    error = levels(found, expected)
    assert error.max() <= 4
    assert error.mean() <= mean
    assert np.abs(found[1] - expected[1]).max() <= 1e-2 * np.abs(expected[1]).max()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Bundle]:
    return {
        "bundled": load_bundle(bundled_models_dir() / "ink"),
        "wide": write_random_bundle(folder / "wide", WIDE),
    }


@pytest.fixture(scope="module")
def graphs(folder: Path, bundles: dict[str, Bundle]) -> Graphs:
    """Exports for any size, each made when it is first asked for."""

    def graph(name: str, precision: Literal["fp32", "fp16"]) -> Path:
        path = folder / f"{name}-{precision}.onnx"
        if not path.exists():
            export_onnx(bundles[name], "a2b", path, precision=precision, profile=ANY_SIZE)
        return path

    return graph


@pytest.mark.parametrize(("count", "width", "height"), [(1, 96, 96), (3, 64, 64), (2, 72, 40), (1, 8, 8)])
@pytest.mark.parametrize("name", ["bundled", "wide"])
def test_fp32_in_onnx_runtime_is_the_generator(
    bundles: dict[str, Bundle],
    graphs: Graphs,
    name: str,
    count: int,
    width: int,
    height: int,
) -> None:
    pixels = pictures(count, width, height)
    assert_same_in_fp32(onnx_runtime(graphs(name, "fp32"), pixels), eager(bundles[name], pixels))


@pytest.mark.parametrize(("count", "width", "height"), [(1, 128, 128), (2, 72, 40)])
@pytest.mark.parametrize("name", ["bundled", "wide"])
def test_fp16_is_close_to_the_generator(
    bundles: dict[str, Bundle],
    graphs: Graphs,
    name: str,
    count: int,
    width: int,
    height: int,
) -> None:
    pixels, model = pictures(count, width, height), onnx.load(graphs(name, "fp16"))
    assert_close_in_fp16(strictly(model, pixels), eager(bundles[name], pixels))


SCALE = 200.0
"""Makes variances that half precision cannot hold of features that it can."""


def scale_encoder(model: onnx.ModelProto) -> int:
    """Multiply the encoder's convolutions by `SCALE`; return how many there are."""
    scaled = 0
    for one in model.graph.initializer:
        if one.name.startswith(("generator.down.", "generator.encoder.")):
            array = numpy_helper.to_array(one)
            one.CopyFrom(numpy_helper.from_array((array * SCALE).astype(array.dtype), one.name))
            scaled += 1
    return scaled


def halve_normalisation(model: onnx.ModelProto) -> None:
    """What the graph would be with everything in half precision."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for one in model.graph.initializer:
        if one.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(one).astype(np.float16)
            one.CopyFrom(numpy_helper.from_array(array, one.name))


@pytest.mark.parametrize("name", ["bundled", "wide"])
def test_fp16_holds_features_of_any_range(bundles: dict[str, Bundle], graphs: Graphs, name: str) -> None:
    pixels, model = pictures(1, 96, 96), onnx.load(graphs(name, "fp16"))
    assert scale_encoder(model) == 3 + 2 * bundles[name].generator.residual_blocks
    assert_close_in_fp16(strictly(model, pixels), eager(bundles[name], pixels, SCALE))


@pytest.mark.parametrize("name", ["bundled", "wide"])
def test_half_precision_statistics_would_be_seen(
    bundles: dict[str, Bundle], graphs: Graphs, name: str
) -> None:
    pixels, model = pictures(1, 96, 96), onnx.load(graphs(name, "fp16"))
    scale_encoder(model)
    halve_normalisation(model)
    outputs, largest = run_strictly(model, pixels)
    assert largest == np.inf
    error = outputs["translated"].numpy().astype(int) - eager(bundles[name], pixels, SCALE)[0]
    assert np.abs(error).mean() > 4


def test_a_full_generator_with_its_weights_outside(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    bundle, path = write_random_bundle(folder / "full", FULL), folder / "full.onnx"
    caplog.set_level("INFO")
    capfd.readouterr()
    graph = export_onnx(bundle, "a2b", path, precision="fp32", profile=only(64), embedded_bytes=0)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert graph.files == (path, folder / "full.onnx.data")
    assert path.stat().st_size < 2**20 < graph.files[1].stat().st_size
    assert graph.bytes == sum(file.stat().st_size for file in graph.files)
    for count in (1, 3):
        pixels = pictures(count, 64, 64)
        assert_same_in_fp32(onnx_runtime(path, pixels), eager(bundle, pixels))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(tmp_path: Path, name: str) -> None:
    config = VARIANTS[name]
    bundle = make_model(tmp_path / "model", replace(config, residual_blocks=1))
    profile = ANY_SIZE if config.light else only(config.image_size)
    pixels = pictures(2, 72, 40) if config.light else pictures(2, config.image_size, config.image_size)
    expected = eager(bundle, pixels)
    fp32, fp16 = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    export_onnx(bundle, "a2b", fp32, precision="fp32", profile=profile)
    assert_same_in_fp32(onnx_runtime(fp32, pixels), expected)
    export_onnx(bundle, "a2b", fp16, precision="fp16", profile=profile)
    # So narrow a network averages little: a sum of few products keeps more of their rounding.
    assert_close_in_fp16(strictly(onnx.load(fp16), pixels), expected, mean=0.8)


@pytest.mark.slow
def test_a_full_generator_of_256(tmp_path: Path) -> None:
    bundle = write_random_bundle(tmp_path / "full", GeneratorConfig(light=False, image_size=256))
    pixels = pictures(1, 256, 256)
    expected = eager(bundle, pixels)
    fp32, fp16 = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    export_onnx(bundle, "a2b", fp32, precision="fp32", profile=only(256))
    assert_same_in_fp32(onnx_runtime(fp32, pixels), expected)
    export_onnx(bundle, "a2b", fp16, precision="fp16", profile=only(256))
    assert_close_in_fp16(strictly(onnx.load(fp16), pixels), expected)
