from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import WorkingSize
from ugatit_batch.errors import (
    BundleError,
    DeviceError,
    MemoryLacksError,
    SizeError,
    UgatitBatchError,
    UsageError,
)
from ugatit_batch.frames import Batch
from ugatit_engines import devices, torch_engine
from ugatit_engines.devices import bytes_per_pixel, choose_device, choose_precision, split_devices
from ugatit_engines.open_engine import open_engine
from ugatit_engines.torch_engine import TorchTranslator, load_generator

from ..fakes import TINY, colours, full, make_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels, Translated
    from ugatit_engines.devices import Precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("light") / "ink")


@pytest.fixture(scope="module")
def full_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_model(tmp_path_factory.mktemp("full") / "ink", full())


def pictures(count: int, width: int = 32, height: int = 32, first: int = 0) -> Pixels:
    return np.stack([colours(width, height, seed) for seed in range(first, first + count)])


def direct(bundle: Bundle, pixels: Pixels) -> tuple[Pixels, Tensor]:
    """What the generator gives, called by hand."""
    generator = load_generator(bundle, "a2b").to(memory_format=torch.channels_last)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        output = generator(x)
    image = ((output.image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return image.permute(0, 2, 3, 1).numpy(), output.attention


def assert_same(found: Pixels, expected: Pixels) -> None:
    """Sums in another order may round a value to the next level, seldom."""
    far = np.abs(found.astype(int) - expected)
    assert far.max() <= 1
    assert far.mean() <= 0.002


def translate(translator: TorchTranslator, *batches: Pixels) -> list[Translated]:
    return list(translator.translate(Batch(pixels) for pixels in batches))


@pytest.mark.parametrize(("width", "height"), [(32, 32), (40, 24), (64, 8), (8, 12)])
def test_fp32_is_the_generator_rounded_to_bytes(bundle: Bundle, width: int, height: int) -> None:
    pixels = pictures(3, width, height)
    (found,) = translate(TorchTranslator(bundle, "a2b", CPU), pixels)
    image, attention = direct(bundle, pixels)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == (3, height, width, 3)
    assert found.attention.dtype == np.float32
    assert found.attention.shape == (3, height // 4, width // 4)
    assert_same(found.pixels, image)
    assert np.allclose(found.attention, attention.numpy(), rtol=1e-3, atol=1e-4)
    assert found.pixels.std() > 10


def test_the_input_is_left_as_it_was(bundle: Bundle) -> None:
    pixels = pictures(2)
    before = pixels.copy()
    translate(TorchTranslator(bundle, "a2b", CPU), pixels)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_cpu_is_close(bundle: Bundle, precision: Precision) -> None:
    pixels = pictures(2)
    (exact,) = translate(TorchTranslator(bundle, "a2b", CPU), pixels)
    (half,) = translate(TorchTranslator(bundle, "a2b", CPU, precision), pixels)
    error = np.mean((exact.pixels.astype(float) - half.pixels) ** 2)
    assert error > 0
    assert 10 * np.log10(255**2 / error) > 35
    assert half.attention.dtype == np.float32


def test_a_batch_and_a_stream_keep_their_order(bundle: Bundle) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU, batch_size=4)
    batches = [pictures(4), pictures(2, 40, 24), pictures(1, 8, 8), pictures(3)]
    found = translate(translator, *batches)
    assert [one.pixels.shape for one in found] == [batch.shape for batch in batches]
    for batch, together in zip(batches, found, strict=True):
        for index in range(len(batch)):
            (alone,) = translate(translator, batch[index : index + 1])
            assert abs(alone.pixels[0].astype(int) - together.pixels[index]).max() <= 1
            assert np.allclose(alone.attention[0], together.attention[index], rtol=1e-3, atol=1e-4)


def test_each_direction_has_its_own_weights(bundle: Bundle) -> None:
    pixels = pictures(1)
    (there,) = translate(TorchTranslator(bundle, "a2b", CPU), pixels)
    (back,) = translate(TorchTranslator(bundle, "b2a", CPU), pixels)
    assert not np.array_equal(there.pixels, back.pixels)


def test_a_full_model_takes_one_size(full_bundle: Bundle) -> None:
    translator = TorchTranslator(full_bundle, "a2b", CPU)
    translator.size_rule.check(32, 32)
    for height, width in ((64, 64), (16, 64), (32, 36)):
        with pytest.raises(SizeError, match="32×32 pixels only"):
            translator.size_rule.check(height, width)
    pixels = pictures(2)
    (found,) = translate(translator, pixels)
    assert_same(found.pixels, direct(full_bundle, pixels)[0])


def test_a_size_that_does_not_fit_is_refused_with_one_that_does(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_engine, "free_memory", lambda _: 2**30)
    rule = TorchTranslator(bundle, "a2b", CPU).size_rule
    assert rule.max_pixels is not None
    assert rule.max_pixels * bytes_per_pixel(TINY, "fp32") <= 2**30
    with pytest.raises(SizeError, match="too large for the free memory") as caught:
        rule.check(40000, 40000)
    sizes = re.findall(r"--size (\d+)", caught.value.hint)
    side = int(sizes[0])
    rule.check(side, side)
    with pytest.raises(SizeError):
        rule.check(side + 4, side + 4)


def test_norms_that_are_written_out_take_more_memory() -> None:
    nested = dataclasses.replace(TINY, variance="nested")
    for precision in ("fp32", "bf16"):
        fused = bytes_per_pixel(TINY, precision)
        assert bytes_per_pixel(nested, precision) > fused
        assert bytes_per_pixel(TINY, precision, "cuda") > fused
    assert bytes_per_pixel(TINY, "bf16") < bytes_per_pixel(TINY, "fp32")


class ShortOfMemory:
    """Stands in for `_forward`: inverts colours, and has room for a fixed number of pixels."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []

    def __call__(self, pixels: Tensor, part: None) -> tuple[Tensor, Tensor]:
        count, height, width = pixels.shape[:3]
        self.tried.append(count)
        if count * height * width > self.room:
            raise torch.OutOfMemoryError("out of memory")
        attention = pixels[:, ::4, ::4].float().mean(-1)
        return 255 - pixels, attention


@pytest.fixture
def short(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> tuple[TorchTranslator, ShortOfMemory]:
    translator = TorchTranslator(bundle, "a2b", CPU, batch_size=8)
    forward = ShortOfMemory(3 * 32 * 32)
    monkeypatch.setattr(translator, "_forward", forward)
    return translator, forward


def test_out_of_memory_halves_the_batch_and_goes_on(short: tuple[TorchTranslator, ShortOfMemory]) -> None:
    translator, forward = short
    batches = [pictures(8), pictures(8, 32, 32, first=8), pictures(5), pictures(3, 16, 16)]
    found = translate(translator, *batches)
    for batch, translated in zip(batches, found, strict=True):
        assert np.array_equal(translated.pixels, 255 - batch)
        assert np.allclose(translated.attention, batch[:, ::4, ::4].mean(-1))
    assert forward.tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 3]


def test_a_batch_stays_below_what_cuda_can_count(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "_INDEXED", 3 * 32 * 32 * (bundle.generator.channels + 1))
    translator = TorchTranslator(bundle, "a2b", CPU, batch_size=8)
    forward = ShortOfMemory(8 * 32 * 32)
    monkeypatch.setattr(translator, "_forward", forward)
    (translated,) = translate(translator, pictures(8))
    assert np.array_equal(translated.pixels, 255 - pictures(8))
    assert forward.tried == [3, 3, 2]


def test_one_picture_that_does_not_fit_is_an_error_and_the_next_is_not(
    short: tuple[TorchTranslator, ShortOfMemory],
) -> None:
    translator, _ = short
    with pytest.raises(MemoryLacksError, match="64×64: too large for the memory of cpu") as caught:
        translate(translator, pictures(4, 64, 64))
    assert "smaller --size" in caught.value.hint
    (found,) = translate(translator, pictures(2))
    assert np.array_equal(found.pixels, 255 - pictures(2))


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_batch_that_fails_comes_after_those_before_it(
    short: tuple[TorchTranslator, ShortOfMemory], ahead: int
) -> None:
    translator, _ = short
    translator.ahead = ahead
    given: list[Translated] = []
    batches = iter([Batch(pictures(1)), Batch(pictures(2)), Batch(pictures(1, 64, 64)), Batch(pictures(3))])

    def take(batches: Iterator[Batch]) -> None:
        given.extend(translator.translate(batches))

    stream = translator.translate(batches)
    given.append(next(stream))
    given.append(next(stream))
    with pytest.raises(MemoryLacksError):
        next(stream)
    assert [len(one.pixels) for one in given] == [1, 2]
    take(batches)
    assert [len(one.pixels) for one in given] == [1, 2, 3]


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    made = make_model(tmp_path / "ink")
    manifest = made.path / "bundle.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"channels": 4', '"channels": 8'))
    with pytest.raises(BundleError, match=r"the weights do not fit bundle\.json") as caught:
        open_engine(_load(made.path), "a2b", "cpu")
    assert str(made.path) in caught.value.message
    assert len(caught.value.message) < 2000


def _load(folder: Path) -> Bundle:
    from ugatit_batch.bundle import load_bundle

    return load_bundle(folder)


def test_a_direction_that_is_missing_is_a_usage_error(tmp_path: Path) -> None:
    made = make_model(tmp_path / "ink", working=WorkingSize("native", 64), directions=("a2b",))
    with pytest.raises(UsageError, match="only translates photo → ink"):
        open_engine(made, "b2a", "cpu")


def test_a_cpu_takes_one_picture_at_a_time_unless_told(bundle: Bundle) -> None:
    assert open_engine(bundle, "a2b", "cpu").batch_size == 1
    assert open_engine(bundle, "a2b", "cpu", batch_size=5).batch_size == 5


@pytest.mark.parametrize(("fast", "words"), [(True, "cpu, bf16 (--precision fp32"), (False, "cpu, fp32, ")])
def test_people_are_told_the_precision(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fast: bool, words: str
) -> None:
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: fast)
    assert open_engine(bundle, "a2b", "cpu").describe().startswith(words)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("tpu", UsageError),
        ("cuda:x", UsageError),
        ("", UsageError),
        ("cuda", DeviceError),
        ("1", DeviceError),
    ],
)
def test_a_device_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[UgatitBatchError]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=f"--device {name}"):
        choose_device(name)


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == choose_device("1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="there are 2 GPUs"):
        choose_device("cuda:2")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("value", ["0,1", "cuda:0,cuda:1", "cuda, 1"])
def test_several_devices_are_named_with_commas(two_gpus: None, value: str) -> None:
    indices = [choose_device(name).index for name in split_devices(value)]
    assert indices == [0, 1]


@pytest.mark.parametrize("value", ["auto", "cpu", "cuda:1", "nonsense"])
def test_one_device_stays_as_it_is(value: str) -> None:
    assert split_devices(value) == [value]


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("0,0", UsageError, "--device 0,0: 0 and 0 are one GPU"),
        ("cuda,0", UsageError, "cuda and 0 are one GPU"),
        ("cpu,cpu", UsageError, "--device cpu,cpu: several devices are numbers of GPUs"),
        ("0,cpu", UsageError, "numbers of GPUs"),
        ("auto,1", UsageError, "numbers of GPUs"),
        ("0,", UsageError, "numbers of GPUs"),
        ("0,tpu", UsageError, "--device tpu: no such device"),
        ("0,2", DeviceError, "there are 2 GPUs"),
    ],
)
def test_devices_that_do_not_go_together_are_named(
    two_gpus: None, value: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        split_devices(value)


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "aarch64", "bf16": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_fast_where_matrices_have_hardware(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert devices.has_fast_bf16() is fast
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not devices.has_fast_bf16()


def test_an_old_pytorch_knows_of_no_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not devices.has_fast_bf16()


def test_the_precision_suits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    for fast, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(devices, "has_fast_bf16", lambda fast=fast: fast)
        assert choose_precision("auto", CPU) == precision
    assert choose_precision("auto", gpu) == "fp16"
    assert choose_precision("bf16", CPU) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(DeviceError, match="bf16"):
        choose_precision("bf16", gpu)
