"""The PyTorch engine on an NVIDIA GPU. Run by `make gpu`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.frames import Averaging, Batch
from ugatit_engines.specimens import write_random_bundle
from ugatit_engines.torch_engine import TorchTranslator

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels, Style
    from ugatit_engines.devices import Precision

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda:0")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_random_bundle(tmp_path / "model", GeneratorConfig(16, light=True, image_size=64))


def frames(count: int, side: int = 64) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [Batch(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.parametrize(("precision", "levels"), [("fp32", 1), ("fp16", 4), ("bf16", 16)])
def test_a_gpu_gives_what_a_cpu_gives(bundle: Bundle, precision: Precision, levels: int) -> None:
    batches = frames(5)
    on_cpu = list(TorchTranslator(bundle, "a2b", torch.device("cpu")).translate(iter(batches)))
    on_gpu = list(TorchTranslator(bundle, "a2b", CUDA, precision).translate(iter(batches)))
    assert len(on_gpu) == len(on_cpu) == 3
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one.pixels.shape == other.pixels.shape
        far = np.abs(one.pixels.astype(int) - other.pixels.astype(int))
        assert np.percentile(far, 99.9) <= levels
        assert one.attention.shape == other.attention.shape
        scale = np.abs(other.attention).max()
        assert np.abs(one.attention - other.attention).max() <= 0.05 * scale


def test_a_batch_that_does_not_fit_is_halved(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    translator = TorchTranslator(bundle, "a2b", CUDA, "fp32", 8)
    (expected, *_) = translator.translate(iter(frames(8)[:1]))
    true, seen = torch.nn.Conv2d.forward, []

    def scarce(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return true(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", scarce)
    fresh = TorchTranslator(bundle, "a2b", CUDA, "fp32", 8)
    (found, *_) = fresh.translate(iter(frames(8)[:1]))
    assert max(seen) == 8
    assert np.abs(found.pixels.astype(int) - expected.pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_style_is_averaged_however_the_film_is_cut_into_batches(
    bundle: Bundle, precision: Precision
) -> None:
    film = np.concatenate([batch.pixels for batch in frames(5)])
    cuts = np.isin(np.arange(15), (0, 6))

    def averaged(translator: TorchTranslator, size: int) -> tuple[Pixels, Style]:
        parts = [slice(start, start + size) for start in range(0, 15, size)]
        batches = (Batch(film[part], Averaging(0.8, cuts[part])) for part in parts)
        found = list(translator.translate(batches))
        styles = [one.style for one in found if one.style is not None]
        return np.concatenate([one.pixels for one in found]), np.concatenate(styles)

    on_gpu = TorchTranslator(bundle, "a2b", CUDA, precision)
    pixels, style = averaged(on_gpu, 1)
    for size in (3, 4, 15):
        other_pixels, other_style = averaged(on_gpu, size)
        assert np.allclose(other_style, style, rtol=1e-2, atol=1e-3 * np.abs(style).max())
        assert np.percentile(np.abs(other_pixels.astype(int) - pixels), 99.9) <= 4
    _, on_cpu = averaged(TorchTranslator(bundle, "a2b", torch.device("cpu")), 5)
    assert np.abs(style - on_cpu).max() <= 0.02 * np.abs(on_cpu).max()
    free = np.concatenate([one.pixels for one in on_gpu.translate(iter(frames(5)))])
    assert not np.array_equal(free, pixels)
    for keep, where in ((0.0, cuts), (0.8, np.ones(15, bool))):
        (same,) = on_gpu.translate(iter([Batch(film, Averaging(keep, where))]))
        (plain,) = on_gpu.translate(iter([Batch(film)]))
        assert np.array_equal(same.pixels, plain.pixels)
