from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from ugatit_training.config import DIFF_AUGMENTATIONS
from ugatit_training.diff_augment import NUMBERS, diff_augment
from ugatit_training.discriminator import Discriminator
from ugatit_training.draw import AUGMENTED

from .tiny import tiny, trained

if TYPE_CHECKING:
    from ugatit_training.discriminator import DiscriminatorOutput

# The paper's own words (its official program), a picture and a pixel at a time.


def uniform(number: float, low: int, high: int) -> int:
    """A whole number of [low, high) from one of [0, 1)."""
    return low + int(number * (high - low))


def color(picture: Tensor, numbers: list[float]) -> Tensor:
    brightness, saturation, contrast = numbers[:3]
    picture = picture + (brightness - 0.5)
    grey = picture.mean(0)
    picture = torch.stack([(channel - grey) * (saturation * 2) + grey for channel in picture])
    mean = picture.mean()
    return (picture - mean) * (contrast + 0.5) + mean


def translation(picture: Tensor, numbers: list[float]) -> Tensor:
    _, height, width = picture.shape
    down, right = int(height / 8 + 0.5), int(width / 8 + 0.5)
    down, right = uniform(numbers[3], -down, down + 1), uniform(numbers[4], -right, right + 1)
    moved = torch.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                moved[:, y, x] = picture[:, y + down, x + right]
    return moved


def cutout(picture: Tensor, numbers: list[float]) -> Tensor:
    _, height, width = picture.shape
    rows, columns = int(height / 2 + 0.5), int(width / 2 + 0.5)
    down, right = (
        uniform(number, 0, size + (1 - hole % 2))
        for number, size, hole in ((numbers[5], height, rows), (numbers[6], width, columns))
    )
    picture = picture.clone()
    for y in range(rows):
        for x in range(columns):
            picture[
                :,
                min(max(y + down - rows // 2, 0), height - 1),
                min(max(x + right - columns // 2, 0), width - 1),
            ] = 0
    return picture


BY_THE_PAPER = {"color": color, "translation": translation, "cutout": cutout}
SIZES = [(16, 16), (13, 10), (8, 27)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "kinds", [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout"), ()]
)
def test_pictures_are_augmented_as_in_the_paper(kinds: tuple[str, ...], size: tuple[int, int]) -> None:
    x, noise = torch.rand(40, 3, *size) * 2 - 1, torch.rand(40, NUMBERS)
    ours = diff_augment(x, noise, kinds)
    for picture, mine, numbers in zip(x, ours, noise.tolist(), strict=True):
        expected = picture
        for kind in kinds:
            expected = BY_THE_PAPER[kind](expected, numbers)
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, x) == (not kinds)


def test_the_order_of_the_kinds_is_the_papers_whatever_the_config_says() -> None:
    x, noise = torch.rand(8, 3, 16, 16), torch.rand(8, NUMBERS)
    assert DIFF_AUGMENTATIONS == ("color", "translation", "cutout")
    assert torch.equal(
        diff_augment(x, noise, DIFF_AUGMENTATIONS), diff_augment(x, noise, DIFF_AUGMENTATIONS[::-1])
    )


@pytest.mark.parametrize("size", [16, 24, 30, 256])
def test_every_shift_comes_and_none_beyond(size: int) -> None:
    reach = int(size / 8 + 0.5)
    numbers = torch.linspace(0, 1, 4 * (2 * reach + 1) + 1)
    numbers[-1] = 1 - 2**-24
    noise = torch.full((len(numbers), NUMBERS), 0.5)
    noise[:, 3] = numbers
    rows = torch.arange(1.0, size + 1).view(1, 1, size, 1).expand(len(numbers), 3, size, 4)
    moved = diff_augment(rows, noise, ["translation"])[:, 0, :, 0]
    shifts = {int(row[row > 0][0] - 1 - (row > 0).nonzero()[0, 0]) for row in moved}
    assert shifts == set(range(-reach, reach + 1))


@pytest.mark.parametrize("size", [16, 18, 30])
def test_a_hole_has_half_the_side_unless_it_lies_over_the_edge(size: int) -> None:
    numbers = torch.linspace(0, 1 - 2**-24, 200)
    noise = torch.full((200, NUMBERS), 0.5)
    noise[:, 6] = numbers
    cut = diff_augment(torch.ones(200, 3, size, size), noise, ["cutout"])
    widths = (cut[:, 0, size // 2] == 0).sum(1)
    assert widths.max() == size // 2
    assert 0 < widths.min() <= size // 4 + 1
    assert (cut == 0).flatten(1).any(1).all()


def test_noise_of_one_half_leaves_colours_alone() -> None:
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(diff_augment(x, torch.full((3, NUMBERS), 0.5), ["color"]), x)


def test_each_picture_has_its_own_numbers() -> None:
    x = torch.rand(1, 3, 16, 16).expand(3, 3, 16, 16)
    noise = torch.rand(3, NUMBERS)
    noise[2] = noise[0]
    one, other, again = diff_augment(x, noise, DIFF_AUGMENTATIONS)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", DIFF_AUGMENTATIONS)
def test_gradients_are_those_of_the_paper(kind: str) -> None:
    x = torch.rand(6, 3, 10, 12, requires_grad=True)
    noise = torch.rand(6, NUMBERS)
    upstream = torch.randn(6, 3, 10, 12)
    (ours,) = torch.autograd.grad(diff_augment(x, noise, [kind]), x, upstream)
    expected = torch.stack(
        [BY_THE_PAPER[kind](p, numbers) for p, numbers in zip(x, noise.tolist(), strict=True)]
    )
    (theirs,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours.abs().sum() > 0


@pytest.mark.parametrize("kind", DIFF_AUGMENTATIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_type_and_pictures_stay_whatever_the_layout(kind: str, layout: torch.memory_format) -> None:
    x = torch.rand(2, 3, 16, 16).bfloat16()
    before, noise = x.clone(), torch.rand(2, NUMBERS)
    ours = diff_augment(x.to(memory_format=layout), noise, [kind])
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), diff_augment(x.float(), noise, [kind]), rtol=0.02, atol=0.02)
    assert torch.equal(x, before)


def test_nothing_is_drawn() -> None:
    x, noise = torch.rand(2, 3, 16, 16), torch.rand(2, NUMBERS)
    before = torch.get_rng_state()
    diff_augment(x, noise, DIFF_AUGMENTATIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_shows_no_discriminator_an_untouched_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def whiten(x: Tensor, noise: Tensor, kinds: tuple[str, ...]) -> Tensor:
        assert kinds == ("cutout",)
        asked.append(noise)
        return x * 0 + 1

    seen: list[Tensor] = []
    forward = Discriminator.forward

    def see(self: Discriminator, x: Tensor, passes: int = 1) -> DiscriminatorOutput:
        seen.append(x)
        return forward(self, x, passes)

    monkeypatch.setattr("ugatit_training.step.diff_augment", whiten)
    monkeypatch.setattr(Discriminator, "forward", see)
    trained(tiny(diff_augment=("cutout",), batch_size=2))
    assert len(seen) == 8
    assert all(x.eq(1).all() for x in seen)
    # Six batches, each with numbers of its own.
    assert len({tuple(noise.flatten().tolist()) for noise in asked}) == len(asked) == AUGMENTED
