from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ugatit_batch.errors import DatasetError, EnvironmentLacksError
from ugatit_training.kid import (
    SEED,
    SUBSETS,
    Score,
    check_counts,
    composite_mean,
    composite_weighted,
    kid,
    kid_paper,
    load_library,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Features = NDArray[np.float64]

DIMENSION = 6
NEAR = np.full(DIMENSION, 0.3)
FAR = np.array([1.6, -0.9, 1.2, 0.0, 0.5, 1.0])
SPREAD = {"near": 0.8, "far": 0.5}
BOTH = pytest.mark.parametrize("measure", [kid, kid_paper])


def draw(which: str, count: int, seed: int) -> Features:
    """Features from a normal distribution."""
    mean = NEAR if which == "near" else FAR
    return np.random.default_rng(seed).normal(mean, SPREAD[which], (count, DIMENSION))


def moments(which: str) -> tuple[Features, Features, Features]:
    """E[x], E[x⊗x] and E[x⊗x⊗x] of a normal distribution with the covariance σ²·1."""
    mean, variance, one = (NEAR if which == "near" else FAR), SPREAD[which] ** 2, np.eye(DIMENSION)
    second = np.einsum("i,j->ij", mean, mean) + variance * one
    mixed = np.einsum("i,jk->ijk", mean, one)
    third = np.einsum("i,j,k->ijk", mean, mean, mean) + variance * (
        mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)
    )
    return mean, second, third


def expected_kernel(first: str, second: str) -> float:
    """E[(x·y/D + 1)³] of independent x and y: the binomial of the moments of x·y."""
    one, two, three = (
        float((a * b).sum()) / DIMENSION**power
        for power, (a, b) in enumerate(zip(moments(first), moments(second), strict=True), 1)
    )
    return float(three + 3 * two + 3 * one + 1)


def closed_form(first: str, second: str) -> float:
    """KID × 100 of the distributions themselves."""
    within = expected_kernel(first, first) + expected_kernel(second, second)
    return 100 * (within - 2 * expected_kernel(first, second))


def test_the_moments_are_those_of_the_distribution() -> None:
    x, y = draw("far", 200_000, 1), draw("near", 200_000, 2)
    drawn = ((x * y).sum(1) / DIMENSION + 1) ** 3
    assert drawn.mean() == pytest.approx(expected_kernel("far", "near"), abs=4 * drawn.std() / 200_000**0.5)


@BOTH
def test_known_distributions_give_the_closed_form_value(measure: Callable[..., Score]) -> None:
    expected = closed_form("near", "far")
    scores = [measure(draw("near", 320, seed), draw("far", 320, seed + 50)) for seed in range(4)]
    for score in scores:
        assert abs(score.value - expected) < 3 * score.error
        assert score.error < expected / 6, "too wide to tell a wrong kernel from the right one"
    values = [score.value for score in scores]
    assert np.mean(values) == pytest.approx(expected, rel=0.08)


@BOTH
def test_the_estimate_is_unbiased(measure: Callable[..., Score]) -> None:
    """Small sets of one distribution: a biased estimate would be far above 0."""
    values = [measure(draw("near", 44, seed), draw("near", 44, seed + 500)).value for seed in range(40)]
    error = np.std(values, ddof=1) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    diagonal = ((np.square(draw("near", 5000, 3)).sum(1) / DIMENSION + 1) ** 3).mean()
    smallest_bias = 100 * 2 * (diagonal - expected_kernel("near", "near")) / 22
    assert 3 * error < smallest_bias / 2


@BOTH
def test_identical_sets_are_at_0(measure: Callable[..., Score]) -> None:
    features = draw("far", 400, 5)
    score = measure(features, features.copy())
    assert abs(score.value) < 2 * score.error
    assert score.error < closed_form("near", "far") / 5


@BOTH
def test_the_same_call_gives_the_same_and_draws_from_no_global_generator(
    measure: Callable[..., Score],
) -> None:
    near, far = draw("near", 60, 1), draw("far", 50, 2)
    state, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - the global one is meant
    first = measure(near, far)
    np.testing.assert_equal(np.random.get_state(), legacy)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    assert measure(near, far) == first


@BOTH
def test_single_precision_is_enough_for_the_features(measure: Callable[..., Score]) -> None:
    near, far = draw("near", 60, 1), draw("far", 60, 2)
    assert measure(near.astype(np.float32), far.astype(np.float32)).value == pytest.approx(
        measure(near, far).value, rel=1e-5
    )


def test_kid_is_what_torch_fidelity_says() -> None:
    near, far = draw("near", 60, 1), draw("far", 50, 2)
    theirs = load_library().kid_features_to_metric(
        torch.from_numpy(near), torch.from_numpy(far), kid_subset_size=25, rng_seed=SEED, verbose=False
    )
    ours = kid(near, far)
    assert ours.value == 100 * theirs["kernel_inception_distance_mean"]
    assert ours.error == 100 * theirs["kernel_inception_distance_std"]


@pytest.mark.parametrize(("fakes", "reals", "size"), [(60, 60, 30), (60, 41, 20), (2600, 2400, 1000)])
def test_kid_takes_half_of_the_smaller_set_a_thousand_at_most(
    monkeypatch: pytest.MonkeyPatch, fakes: int, reals: int, size: int
) -> None:
    assert SUBSETS == 100
    monkeypatch.setattr("ugatit_training.kid.SUBSETS", 2)
    sizes: list[int] = []

    def estimate(x: Features, y: Features, **_: Any) -> float:
        sizes.extend([len(x), len(y)])
        return 1.0

    monkeypatch.setattr(load_library(), "kernel_mmd", estimate)
    score = kid(draw("near", fakes, 1), draw("near", reals, 2))
    assert sizes == [size] * 4
    assert (score.value, score.parts, score.part_size) == (100, 2, size)
    assert score.error_kind == "standard deviation"


@pytest.mark.parametrize(
    ("fakes", "reals", "blocks"), [(100, 100, 10), (120, 140, 14), (22, 11, 3), (11, 11, 2)]
)
def test_kid_paper_takes_blocks_of_ten(fakes: int, reals: int, blocks: int) -> None:
    score = kid_paper(draw("near", fakes, 1), draw("far", reals, 2))
    assert (score.parts, score.error_kind) == (blocks, "standard error")


def test_kid_paper_is_the_mean_and_the_standard_error_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the order left as it is, against the plain definition."""

    class Unshuffled:
        def permutation(self, count: int) -> Any:
            return np.arange(count)

    monkeypatch.setattr("ugatit_training.kid.np.random.default_rng", lambda _: Unshuffled())
    rng = np.random.RandomState(3)
    x, y = rng.normal(size=(20, 4)), rng.normal(1, 1, size=(15, 4))

    def mean_kernel(a: Features, b: Features) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a is not b or i != j]
        return float(np.mean([(a[i] @ b[j] / 4 + 1) ** 3 for i, j in pairs]))

    estimates = [
        mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
        for a, b in ((x[:10], y[:8]), (x[10:], y[8:]))
    ]
    score = kid_paper(x, y)
    assert score.value == pytest.approx(100 * np.mean(estimates))
    assert score.error == pytest.approx(100 * abs(estimates[0] - estimates[1]) / 2)


def test_the_shuffle_mixes_sorted_pictures() -> None:
    """Two kinds of pictures, one behind the other in both sets but the other way round."""
    near, far = draw("near", 100, 1), draw("far", 100, 2)
    score = kid_paper(np.concatenate([near, far]), np.concatenate([far, near]))
    assert abs(score.value) < 3 * score.error
    assert abs(score.value) < closed_form("near", "far") / 5


def test_pictures_are_kept_apart_from_their_own_translations() -> None:
    """Even where k(x, x) is far above k(x, y), as with few pictures of many features."""
    features = np.random.default_rng(1).normal(0, 3, (100, 40))
    score = kid_paper(features, features)
    assert abs(score.value) < 2 * score.error


def test_the_composites_are_those_of_the_authors() -> None:
    target = Score(3.0, 0.5, "standard error", 10, 10)
    source = Score(11.0, 0.1, "standard error", 10, 10)
    assert composite_mean(target, source) == Score(7.0, 0.3, "standard error", 10, 10)
    weighted = composite_weighted(target, source)
    assert weighted.value == pytest.approx((0.02 * 3 + 0.98 * 11) / 2)
    assert weighted.error == pytest.approx((0.02 * 0.5 + 0.98 * 0.1) / 2)


@pytest.mark.parametrize(
    ("protocol", "counts", "words"),
    [
        ("kid", (3, 50), "KID needs 4 pictures in each"),
        ("kid-paper", (10, 10), "more than 10 pictures"),
        ("kid-paper", (100, 19), "2 of each set in each of 10 blocks"),
    ],
)
def test_too_few_pictures_are_refused(protocol: Any, counts: tuple[int, int], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        check_counts([protocol], counts, "a and b")
    measure = {"kid": kid, "kid-paper": kid_paper}[protocol]
    with pytest.raises(DatasetError, match=words):
        measure(*(draw("near", count, 1) for count in counts))


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.metric_kid", None)
    with pytest.raises(EnvironmentLacksError, match=r"pip install 'ugatit-batch\[evaluate\]'"):
        kid(draw("near", 20, 1), draw("near", 20, 2))
