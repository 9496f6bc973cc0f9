from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ugatit_batch.errors import UsageError
from ugatit_batch.frames import Averaging, Batch
from ugatit_engines import torch_engine
from ugatit_engines.deploy_form import DeployGenerator
from ugatit_engines.open_engine import open_engine
from ugatit_engines.torch_engine import TorchTranslator, load_generator

from ..fakes import TINY, colours, full, make_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels, Style, Translated
    from ugatit_engines.devices import Precision

CPU = torch.device("cpu")
COUNT = 11
KEEP = 0.8
CUTS = np.isin(np.arange(COUNT), (0, 4, 5))
NO_CUTS = np.zeros(COUNT, bool)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("light") / "ink")


@pytest.fixture(scope="module")
def film() -> Pixels:
    """Pictures of unlike styles, so that an average is far from each of them."""
    return np.stack([colours(32, 24, seed) for seed in range(COUNT)])


def styles_of(bundle: Bundle, film: Pixels) -> Style:
    """γ and β of each picture, N×K, by the generator as it was trained."""
    generator = load_generator(bundle, "a2b")
    found: list[tuple[Tensor, Tensor]] = []
    assert generator.style is not None
    generator.style.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.inference_mode():
        generator(torch.from_numpy(film).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return torch.cat(found[0], dim=1).numpy()


def averaged_by_hand(styles: Style, cuts: Sequence[bool], keep: float = KEEP) -> Style:
    averages = [styles[0].astype(np.float64)]
    for own, cut in zip(styles[1:], cuts[1:], strict=True):
        averages.append(own if cut else keep * averages[-1] + (1 - keep) * own)
    return np.stack(averages).astype(np.float32)


def translate(
    translator: TorchTranslator,
    film: Pixels,
    cuts: Any = CUTS,
    sizes: Sequence[int] = (COUNT,),
    keep: float = KEEP,
    before: Style | None = None,
) -> Translated:
    """The film cut into batches of these sizes, and the results together again."""
    ends = np.cumsum(sizes)
    batches = [
        Batch(
            film[end - size : end], Averaging(keep, cuts[end - size : end], before if end == size else None)
        )
        for end, size in zip(ends.tolist(), sizes, strict=True)
    ]
    assert ends[-1] == len(film)
    parts = list(translator.translate(iter(batches)))
    together: list[Any] = [
        np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(parts[0])
    ]
    return type(parts[0])(*together)


def plain(translator: TorchTranslator, film: Pixels) -> Translated:
    (found,) = translator.translate(iter([Batch(film)]))
    assert found.style is None
    return found


def assert_near(found: Translated, expected: Translated, levels: int = 1) -> None:
    assert found.style is not None
    assert expected.style is not None
    assert np.allclose(found.style, expected.style, rtol=1e-4, atol=1e-5)
    assert np.abs(found.pixels.astype(int) - expected.pixels).max() <= levels


def test_the_style_is_the_average_that_is_written_down(bundle: Bundle, film: Pixels) -> None:
    own = styles_of(bundle, film)
    found = translate(TorchTranslator(bundle, "a2b", CPU), film)
    assert found.style is not None
    assert found.style.dtype == np.float32
    assert found.style.shape == (COUNT, 2 * 4 * TINY.channels)
    assert np.allclose(found.style, averaged_by_hand(own, CUTS.tolist()), rtol=1e-3, atol=1e-4)
    assert np.abs(found.style[3] - own[3]).max() > 0.05 * own.std()


def test_the_decoder_works_with_the_averaged_style(bundle: Bundle, film: Pixels) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    found = translate(translator, film)
    assert found.style is not None
    gamma, beta = torch.from_numpy(found.style).chunk(2, dim=1)
    x = torch.from_numpy(film).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        image, _ = DeployGenerator(load_generator(bundle, "a2b"))(x, lambda _gamma, _beta: (gamma, beta))
    expected = ((image + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(found.pixels - expected).max() <= 1
    free = plain(translator, film)
    assert np.abs(found.pixels.astype(int) - free.pixels).mean() > 1
    assert np.array_equal(found.attention, free.attention)


@pytest.mark.parametrize("sizes", [[1] * COUNT, [3, 1, 7], [4, 1, 6], [10, 1]])
def test_however_the_film_is_cut_into_batches(bundle: Bundle, film: Pixels, sizes: list[int]) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    assert_near(translate(translator, film, sizes=sizes), translate(translator, film))


@pytest.mark.parametrize("done", range(1, COUNT))
def test_it_goes_on_after_any_picture(bundle: Bundle, film: Pixels, done: int) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    undisturbed = translate(translator, film, sizes=[1] * COUNT)
    assert undisturbed.style is not None
    rest = COUNT - done
    resumed = translate(translator, film[done:], CUTS[done:], [1] * rest, before=undisturbed.style[done - 1])
    # Bit for bit: the style before is all that goes from one picture to the next.
    assert resumed.style is not None
    assert np.array_equal(resumed.style, undisturbed.style[done:])
    assert np.array_equal(resumed.pixels, undisturbed.pixels[done:])


def test_each_call_is_a_film_of_its_own(bundle: Bundle, film: Pixels) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    first = translate(translator, film, NO_CUTS)
    second = translate(translator, film, NO_CUTS)
    assert first.style is not None
    assert second.style is not None
    assert np.array_equal(first.style, second.style)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("keep", "cuts"), [(0.0, NO_CUTS), (KEEP, ~NO_CUTS), (1.0, ~NO_CUTS)])
def test_nothing_to_average_changes_no_pixel(
    bundle: Bundle, film: Pixels, precision: Precision, keep: float, cuts: Any
) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU, precision)
    assert np.array_equal(translate(translator, film, cuts, keep=keep).pixels, plain(translator, film).pixels)


def test_a_film_that_stands_still_changes_no_pixel(bundle: Bundle, film: Pixels) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    still = np.repeat(film[:1], 6, axis=0)
    found = translate(translator, still, NO_CUTS[:6], [1] * 6, keep=0.9)
    for pixels in found.pixels:
        assert np.array_equal(pixels, plain(translator, film[:1]).pixels[0])


def test_in_half_precision_the_average_is_kept_whole(bundle: Bundle, film: Pixels) -> None:
    found = translate(TorchTranslator(bundle, "a2b", CPU, "bf16"), film, NO_CUTS, keep=0.95)
    assert found.style is not None
    rounded = torch.from_numpy(found.style).bfloat16().float().numpy()
    assert np.array_equal(found.style[0], rounded[0])
    assert np.mean(found.style[1:] != rounded[1:]) > 0.9


def test_no_scene_shows_in_the_next(bundle: Bundle, film: Pixels) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    cut = np.arange(COUNT) == 4
    together = translate(translator, film, cut)
    alone = translate(translator, film[4:], NO_CUTS[4:], [COUNT - 4])
    assert together.style is not None
    assert alone.style is not None
    assert np.allclose(together.style[4:], alone.style, rtol=1e-4, atol=1e-5)
    other = translate(translator, np.concatenate([film[:4][::-1], film[4:]]), cut)
    assert np.array_equal(other.pixels[4:], together.pixels[4:])


class Scarce:
    """Has room for two pictures at once, and finds out only after the style was averaged."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward
        self.tried: list[int] = []

    def __call__(self, pixels: Tensor, part: Any) -> Any:
        self.tried.append(len(pixels))
        found = self.forward(pixels, part)
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return found


def test_work_that_is_done_again_averages_once(
    bundle: Bundle, film: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = translate(TorchTranslator(bundle, "a2b", CPU), film, NO_CUTS)
    translator = TorchTranslator(bundle, "a2b", CPU)
    scarce = Scarce(translator._forward)
    monkeypatch.setattr(translator, "_forward", scarce)
    found = translate(translator, film, NO_CUTS, [8, 3])
    assert scarce.tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert_near(found, expected)


def test_a_batch_in_parts_is_one_average(
    bundle: Bundle, film: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = translate(TorchTranslator(bundle, "a2b", CPU), film, NO_CUTS)
    monkeypatch.setattr(torch_engine, "_INDEXED", 3 * 32 * 24 * (TINY.channels + 1))
    assert_near(translate(TorchTranslator(bundle, "a2b", CPU), film, NO_CUTS), expected)


def test_who_writes_over_a_result_does_not_change_the_next(bundle: Bundle, film: Pixels) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    expected = translate(translator, film, NO_CUTS, [1] * COUNT)
    stream = translator.translate(Batch(film[i : i + 1], Averaging(KEEP, NO_CUTS[:1])) for i in range(COUNT))
    for index, translated in enumerate(stream):
        assert translated.style is not None
        assert expected.style is not None
        assert np.array_equal(translated.style[0], expected.style[index])
        translated.style[:] = 1e6


def test_a_full_model_averages_too(tmp_path: Path) -> None:
    translator = open_engine(make_model(tmp_path / "full", full()), "a2b", "cpu", "fp32", smooth=True)
    assert isinstance(translator, TorchTranslator)
    film = np.stack([colours(32, 32, seed) for seed in range(4)])
    found = translate(translator, film, NO_CUTS[:4], [1] * 4)
    assert_near(found, translate(translator, film, NO_CUTS[:4], [4]))
    assert not np.array_equal(found.pixels[1:], plain(translator, film).pixels[1:])


def test_a_model_with_one_style_for_all_is_refused(tmp_path: Path, film: Pixels) -> None:
    one_style = make_model(tmp_path / "plain", dataclasses.replace(TINY, norm="in"))
    with pytest.raises(UsageError, match="--smooth: model plain has no adaptive style"):
        open_engine(one_style, "a2b", "cpu", smooth=True)
    translator = open_engine(one_style, "a2b", "cpu", "fp32")
    assert isinstance(translator, TorchTranslator)
    with pytest.raises(UsageError, match="no adaptive style"):
        translate(translator, film)
    assert plain(translator, film).pixels.shape == film.shape


@pytest.mark.parametrize(
    "averaging",
    [
        Averaging(1.5, NO_CUTS),
        Averaging(float("nan"), NO_CUTS),
        Averaging(0.5, NO_CUTS[:2]),
        Averaging(0.5, NO_CUTS, np.zeros(7, np.float32)),
    ],
)
def test_what_cannot_be_averaged_is_not(bundle: Bundle, film: Pixels, averaging: Averaging) -> None:
    translator = TorchTranslator(bundle, "a2b", CPU)
    with pytest.raises(ValueError, match=r"keep|cuts|7 values"):
        list(translator.translate(iter([Batch(film, averaging)])))
