"""Kernel Inception Distance between two sets of features, in two protocols.

`kid` is what is usually meant by KID today. `kid-paper` is how the paper's tables were measured, with the two
composites of the authors' own metric program (taki0112/GAN_Metrics-Tensorflow). Kernel and estimator are
torch-fidelity's: torchmetrics draws its subsets from torch's global generator, which belongs to a training.

Knows nothing of pictures or networks.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ugatit_batch.errors import DatasetError, EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    FeatureArray = NDArray[np.floating[Any]]

Protocol = Literal["kid", "kid-paper"]
PROTOCOLS: tuple[Protocol, ...] = ("kid", "kid-paper")

SUBSETS = 100
LARGEST_SUBSET = 1000
BLOCK = 10
SEED = 2020
_KERNEL: dict[str, Any] = {
    "kid_kernel": "poly",
    "kid_kernel_poly_degree": 3,
    "kid_kernel_poly_gamma": None,  # one over the number of features, 2048 for Inception
    "kid_kernel_poly_coef0": 1.0,
}


@dataclass(frozen=True)
class Score:
    """One distance, ×100 as the paper prints it. It can fall below 0 where two sets are alike."""

    value: float
    """Mean over the parts."""
    error: float
    """How far it is to be trusted; of what kind, `error_kind` says."""
    error_kind: Literal["standard deviation", "standard error"]
    """Of the parts' values, or of their mean."""
    parts: int
    """Subsets or blocks."""
    part_size: int
    """Pictures of each set in a part; of a block, at most."""


def load_library() -> Any:
    """torch-fidelity's KID.

    Raises:
        EnvironmentLacksError: it is not installed.
    """
    try:
        return importlib.import_module("torch_fidelity.metric_kid")
    except ImportError as error:
        raise EnvironmentLacksError(
            f"KID needs torch-fidelity, which cannot be imported: {error}",
            "pip install 'ugatit-batch[evaluate]', or leave KID out with --protocol none",
        ) from error


def check_counts(protocols: Sequence[Protocol], counts: Sequence[int], what: str) -> None:
    """Make sure that there are enough pictures, before any work.

    Args:
        protocols: which are wanted.
        counts: pictures in each set.
        what: names the sets, for the message.

    Raises:
        DatasetError: there are too few.
    """
    fewest, most = min(counts), max(counts)
    if "kid" in protocols and fewest < 4:
        raise DatasetError(f"{what}: KID needs 4 pictures in each", "give more pictures")
    blocks = _block_count(most)
    if "kid-paper" in protocols and (blocks < 2 or fewest // blocks < 2):
        raise DatasetError(
            f"{what}: kid-paper needs more than {BLOCK} pictures, and 2 of each set in each of "
            f"{blocks} blocks",
            "give more pictures, or --protocol kid",
        )


def kid(fakes: FeatureArray, reals: FeatureArray) -> Score:
    """The unbiased estimate with (x·y/D + 1)³, mean and deviation over 100 subsets of min(1000, N/2).

    N is the size of the smaller set. The subsets are drawn from a generator of their own.

    Args:
        fakes: N×D features.
        reals: M×D features.

    Raises:
        DatasetError: fewer than 4 in a set.
        EnvironmentLacksError: torch-fidelity is not installed.
    """
    check_counts(["kid"], [len(fakes), len(reals)], f"{len(fakes)} and {len(reals)} pictures")
    size = min(LARGEST_SUBSET, min(len(fakes), len(reals)) // 2)
    estimate = load_library().kernel_mmd
    rng = np.random.RandomState(SEED)
    estimates = []
    # As torch-fidelity draws them; its own loop leaves the thread of a progress bar behind.
    for _ in range(SUBSETS):
        x, y = (
            np.asarray(features, np.float64)[rng.choice(len(features), size, replace=False)]
            for features in (fakes, reals)
        )
        estimates.append(estimate(x, y, **_KERNEL))
    mean, deviation = 100 * float(np.mean(estimates)), 100 * float(np.std(estimates))
    return Score(mean, deviation, "standard deviation", SUBSETS, size)


def kid_paper(fakes: FeatureArray, reals: FeatureArray) -> Score:
    """The mean of unbiased estimates over blocks of 10 shuffled pictures, and its standard error.

    Sets of unequal size are cut into equally many blocks, none with more than 10 of either.

    Args:
        fakes: N×D features of pictures resized to 299².
        reals: M×D features of such.

    Raises:
        DatasetError: too few for two blocks, or for two of each set in a block.
        EnvironmentLacksError: torch-fidelity is not installed.
    """
    check_counts(["kid-paper"], [len(fakes), len(reals)], f"{len(fakes)} and {len(reals)} pictures")
    kernel = load_library().kernel_poly
    count = _block_count(max(len(fakes), len(reals)))
    blocks = (
        np.array_split(np.asarray(features, np.float64)[order], count)
        for features, order in zip((fakes, reals), _shuffled(len(fakes), len(reals)), strict=True)
    )
    estimates = np.array([_unbiased(x, y, kernel) for x, y in zip(*blocks, strict=True)])
    error = 100 * float(estimates.std(ddof=1)) / math.sqrt(count)
    return Score(100 * float(estimates.mean()), error, "standard error", count, BLOCK)


def composite_mean(target: Score, source: Score) -> Score:
    """0.5·(KID(target, fake) + KID(source, fake)): the authors' program when the paper appeared."""
    return _combined(target, source, 0.5, 0.5)


def composite_weighted(target: Score, source: Score) -> Score:
    """(0.02·KID(target, fake) + 0.98·KID(source, fake)) / 2: the authors' program since."""
    return _combined(target, source, 0.02 / 2, 0.98 / 2)


def _combined(target: Score, source: Score, weight: float, source_weight: float) -> Score:
    # The authors' program combines the errors in the same way as the values.
    return Score(
        weight * target.value + source_weight * source.value,
        weight * target.error + source_weight * source.error,
        target.error_kind,
        target.parts,
        target.part_size,
    )


def _shuffled(fakes: int, reals: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Fixed random orders of two sets."""
    rng = np.random.default_rng(SEED)
    first = rng.permutation(fakes)
    if fakes != reals:
        return first, rng.permutation(reals)
    # Two sets of equal size may be pictures and their translations. One order, moved on by a block, keeps
    # each apart from its own: in one block they would pull the estimate below 0.
    return first, np.roll(first, -(-fakes // _block_count(fakes)))


def _block_count(pictures: int) -> int:
    return math.ceil(pictures / BLOCK)


def _unbiased(x: FeatureArray, y: FeatureArray, kernel: Any) -> float:
    """Squared maximum mean discrepancy; torch-fidelity's own wants two sets of one size."""
    within = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (_of(kernel, x, x), _of(kernel, y, y))
    ]
    return float(sum(within) - 2 * _of(kernel, x, y).mean())


def _of(kernel: Any, x: FeatureArray, y: FeatureArray) -> FeatureArray:
    values: FeatureArray = kernel(x, y, **_KERNEL)
    return values
