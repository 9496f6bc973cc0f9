"""Which batches and picture sizes an engine is built for: TensorRT's optimization profile.

Knows nothing of TensorRT or of torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import SizeError, UsageError
from ugatit_batch.frames import SizeRule

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle

_BATCHES = (1, 8, 32)
_BATCH_PIXELS = _BATCHES[2] * 256 * 256  # at once, where nobody says otherwise
_LARGEST_BATCH, _LARGEST_SIDE = 256, 16384
_INDEXED = 2**31 - 1
_SIDE = r"\d{1,6}"


@dataclass(frozen=True)
class Span:
    """The values that one dimension may take, and the one that speed is tuned for."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.best <= self.most:
            raise ValueError(f"not in order: {self.least}, {self.best}, {self.most}")

    @classmethod
    def one(cls, value: int) -> Span:
        """A dimension that does not change."""
        return cls(value, value, value)

    @property
    def fixed(self) -> bool:
        """Whether there is one value only."""
        return self.least == self.most

    def holds(self, value: int) -> bool:
        """Whether the dimension may take it."""
        return self.least <= value <= self.most


@dataclass(frozen=True)
class Profile:
    """Batches, heights and widths in pixels that one engine takes."""

    batch: Span
    height: Span
    width: Span

    @property
    def any_size(self) -> bool:
        """Whether height and width are dynamic."""
        return not (self.height.fixed and self.width.fixed)

    @property
    def label(self) -> str:
        """Of the sizes, in an engine's file name and after `--size`: `256`, `64-1024`."""
        if self.any_size:
            return f"{self.height.least}-{self.height.most}"
        return f"{self.height.most}"

    @property
    def size_rule(self) -> SizeRule:
        """What a translator with such an engine says of its sizes."""
        if not self.any_size:
            return SizeRule(fixed=(self.height.most, self.width.most))
        return SizeRule(minimum=self.height.least, maximum=self.height.most)

    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Least, best and largest input, each N×H×W×3."""
        b, h, w = self.batch, self.height, self.width
        return (
            (b.least, h.least, w.least, 3),
            (b.best, h.best, w.best, 3),
            (b.most, h.most, w.most, 3),
        )


def choose_profile(bundle: Bundle, size: str = "model", batch: str = "auto") -> Profile:
    """The profile of `--size` and `--batch`.

    Args:
        bundle: the model.
        size: `model`, the side of a square, or a range of sides `LEAST-MOST` or `LEAST-BEST-MOST`.
        batch: `auto`, or up to three numbers with commas between: least, best and most; two are least and
            most, one is all three.

    Raises:
        UsageError: not such a value.
        SizeError: the model does not take such pictures.
    """
    sides = _choose_sides(bundle, size)
    pixels = sides.most * sides.most
    if batch == "auto":
        # Memory is taken for the largest batch of the largest picture: fewer of them where they are large.
        most = max(1, min(_BATCHES[2], _BATCH_PIXELS // pixels))
        span = Span(1, max(1, most // 4), most)
    else:
        span = _choose_batch(batch)
    if span.most * pixels * bundle.generator.channels > _INDEXED:
        raise SizeError(
            f"{span.most} pictures of {sides.most}×{sides.most} at once: more values in one of the network's "
            "tensors than are counted in 32 bits",
            "use a smaller --batch or --size",
        )
    return Profile(span, sides, sides)


def _choose_sides(bundle: Bundle, size: str) -> Span:
    generator, working = bundle.generator, bundle.working_size
    native = generator.light and working.mode == "native"
    if size == "model":
        if not generator.light:
            return Span.one(generator.image_size)
        if working.mode == "square":
            return Span.one(working.side)
        least = SizeRule().minimum
        # Most photographs are 4:3 or 3:2, and come in with their longer side as long as may be.
        return Span(least, max(least, working.side * 3 // 4 // 4 * 4), working.side)
    if re.fullmatch(_SIDE, size, re.ASCII):
        span = Span.one(_side(size, size))
        if native:
            raise UsageError(
                f"--size {size}: {bundle.name} takes pictures in their own shape, not as squares",
                f"give the shortest and the longest side, as {SizeRule().minimum}-{max(span.most, 12)}",
            )
    elif re.fullmatch(f"{_SIDE}-{_SIDE}(-{_SIDE})?", size, re.ASCII):
        sides = [_side(size, text) for text in size.split("-")]
        if sides != sorted(sides) or sides[0] == sides[-1]:
            raise UsageError(f"--size {size}: not a range", "give the smallest side first, as 128-512")
        span = Span(sides[0], sides[1] if len(sides) == 3 else (sides[0] + sides[-1]) // 8 * 4, sides[-1])
    else:
        raise UsageError(
            f"--size {size[:40]}: no such size",
            "give a side (256), or the shortest and the longest side (128-512)",
        )
    if not generator.light and span != Span.one(generator.image_size):
        side = generator.image_size
        raise SizeError(
            f"--size {size}: {bundle.name} is a full model and takes {side}×{side} pixels only",
            "leave --size out; a light model takes other sizes",
        )
    return span


def _choose_batch(batch: str) -> Span:
    parts = [part.strip() for part in batch.split(",")]
    whole = all(re.fullmatch(r"\d{1,6}", part, re.ASCII) for part in parts)
    numbers = [int(part) for part in parts] if whole else []
    inside = all(1 <= number <= _LARGEST_BATCH for number in numbers)
    if not 1 <= len(numbers) <= 3 or numbers != sorted(numbers) or not inside:
        raise UsageError(
            f"--batch {batch[:40]}: not batch sizes from 1 to {_LARGEST_BATCH}, the smallest first",
            "give the least, the best and the most, such as --batch 1,8,32, or one number",
        )
    return Span(numbers[0], numbers[1] if len(numbers) == 3 else numbers[-1], numbers[-1])


def _side(size: str, text: str) -> int:
    side, rule = int(text), SizeRule()
    if side % rule.multiple or not rule.minimum <= side <= _LARGEST_SIDE:
        raise SizeError(
            f"--size {size}: a side must divide by {rule.multiple} and be {rule.minimum} to {_LARGEST_SIDE}",
            f"use {max(rule.minimum, min(side // rule.multiple * rule.multiple, _LARGEST_SIDE))}",
        )
    return side
