from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.bundle import Bundle, GeneratorConfig, WorkingSize
from ugatit_batch.errors import SizeError, UgatitBatchError, UsageError
from ugatit_engines.profiles import Profile, Span, choose_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

SQUARE = Bundle("cat2dog", ("cat", "dog"), GeneratorConfig(), WorkingSize("square", 256), {})
NATIVE = dataclasses.replace(SQUARE, working_size=WorkingSize("native", 1024))
FULL = dataclasses.replace(SQUARE, generator=GeneratorConfig(light=False, image_size=128))


def spans(profile: Profile) -> list[Sequence[int]]:
    return [(s.least, s.best, s.most) for s in (profile.batch, profile.height, profile.width)]


@pytest.mark.parametrize(
    ("bundle", "size", "expected", "label"),
    [
        (SQUARE, "model", [(256, 256, 256)] * 2, "256"),
        (NATIVE, "model", [(8, 768, 1024)] * 2, "8-1024"),
        (FULL, "model", [(128, 128, 128)] * 2, "128"),
        (FULL, "128", [(128, 128, 128)] * 2, "128"),
        (SQUARE, "512", [(512, 512, 512)] * 2, "512"),
        (NATIVE, "8-512", [(8, 260, 512)] * 2, "8-512"),
        (SQUARE, "128-512", [(128, 320, 512)] * 2, "128-512"),
        (SQUARE, "128-256-512", [(128, 256, 512)] * 2, "128-512"),
        (SQUARE, "64-68", [(64, 64, 68)] * 2, "64-68"),
    ],
)
def test_sizes(bundle: Bundle, size: str, expected: list[tuple[int, int, int]], label: str) -> None:
    profile = choose_profile(bundle, size, "1,2,4")
    assert spans(profile) == [(1, 2, 4), *expected]
    assert profile.label == label
    assert profile.any_size == ("-" in label)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [("1,8,32", (1, 8, 32)), ("4", (4, 4, 4)), ("2,16", (2, 16, 16)), (" 1, 2 ,3", (1, 2, 3))],
)
def test_batches(batch: str, expected: tuple[int, int, int]) -> None:
    assert spans(choose_profile(SQUARE, "model", batch))[0] == expected


@pytest.mark.parametrize(
    ("size", "expected"), [("128", (1, 8, 32)), ("256", (1, 8, 32)), ("512", (1, 2, 8)), ("4096", (1, 1, 1))]
)
def test_large_pictures_come_in_smaller_batches(size: str, expected: tuple[int, int, int]) -> None:
    assert spans(choose_profile(SQUARE, size))[0] == expected


def test_shapes_are_what_tensorrt_is_told() -> None:
    profile = choose_profile(SQUARE, "128-512", "1,8,32")
    assert profile.shapes() == ((1, 128, 128, 3), (8, 320, 320, 3), (32, 512, 512, 3))


def test_what_an_engine_takes_is_what_its_translator_says() -> None:
    fixed, free = choose_profile(SQUARE, "512").size_rule, choose_profile(SQUARE, "128-512").size_rule
    fixed.check(512, 512)
    with pytest.raises(SizeError, match="512×512 pixels only"):
        fixed.check(512, 384)
    free.check(128, 512)
    with pytest.raises(SizeError, match="sides of 128 to 512"):
        free.check(128, 516)
    with pytest.raises(SizeError, match="128 pixels or more"):
        free.check(124, 512)


@pytest.mark.parametrize(
    ("bundle", "size", "batch", "kind", "says"),
    [
        (SQUARE, "big", "auto", UsageError, "no such size"),
        (SQUARE, "0", "auto", SizeError, "divide by 4"),
        (SQUARE, "512x384", "auto", UsageError, "no such size"),
        (SQUARE, "２５６", "auto", UsageError, "no such size"),
        (SQUARE, "9" * 5000, "auto", UsageError, "no such size"),
        (SQUARE, "model", "9" * 5000, UsageError, "not batch sizes"),
        (SQUARE, "256-256", "auto", UsageError, "not a range"),
        (NATIVE, "256", "auto", UsageError, "as 8-256"),
        (NATIVE, "8", "auto", UsageError, "as 8-12"),
        (SQUARE, "16384", "256", SizeError, "32 bits"),
        (SQUARE, "1024", "32", SizeError, "32 pictures of 1024×1024"),
        (SQUARE, "255", "auto", SizeError, "use 252"),
        (SQUARE, "4", "auto", SizeError, "use 8"),
        (SQUARE, "99999", "auto", SizeError, "use 16384"),
        (SQUARE, "512-128", "auto", UsageError, "not a range"),
        (SQUARE, "128-640-512", "auto", UsageError, "not a range"),
        (FULL, "256", "auto", SizeError, "128×128 pixels only"),
        (FULL, "64-128", "auto", SizeError, "full model"),
        (SQUARE, "model", "0", UsageError, "--batch 0"),
        (SQUARE, "model", "8,1", UsageError, "smallest first"),
        (SQUARE, "model", "1,2,3,4", UsageError, "batch sizes"),
        (SQUARE, "model", "many", UsageError, "--batch many"),
        (SQUARE, "model", "1,,3", UsageError, "--batch 1,,3"),
        (SQUARE, "model", "1000", UsageError, "1 to 256"),
    ],
)
def test_what_cannot_be_built_is_refused(
    bundle: Bundle, size: str, batch: str, kind: type[UgatitBatchError], says: str
) -> None:
    with pytest.raises(kind) as refused:
        choose_profile(bundle, size, batch)
    assert says in str(refused.value)


def test_spans_are_in_order() -> None:
    with pytest.raises(ValueError, match="not in order"):
        Span(8, 4, 32)
    assert Span.one(3).fixed
    assert [n for n in range(6) if Span(2, 3, 4).holds(n)] == [2, 3, 4]
