"""What a device can multiply, and what a generator asks of it. Knows nothing of engines or pictures."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from ugatit_engines.deploy_form import DeployGenerator
from ugatit_training.acceleration import current
from ugatit_training.generator import Generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ugatit_batch.bundle import GeneratorConfig

_SIDES = {"cuda": (4096, 8192), "cpu": (512, 1024)}
_MOST_CALLS = 2**16


def count_operations(config: GeneratorConfig, side: int) -> int:
    """Multiplications and additions of convolutions and FCs for one picture, in the deploy form.

    Args:
        config: of the generator.
        side: of the square picture, in pixels.
    """
    with torch.device("meta"):
        generator = DeployGenerator(Generator(config))
        picture = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        generator(picture)
    return int(counter.get_total_flops())


def seconds_a_call(work: Callable[[], object], device: torch.device, least: float) -> float:
    """How long one call takes, over as many calls as take `least` seconds; on a GPU by events."""
    count = 1
    while True:
        seconds = _seconds(work, count, device)
        if seconds >= least or count >= _MOST_CALLS:
            return seconds / count
        count = min(_MOST_CALLS, max(2 * count, int(1.1 * count * least / max(seconds, 1e-6))))


def _seconds(work: Callable[[], object], count: int, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(count):
            work()
        return time.perf_counter() - started
    with current(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        for _ in range(count):
            work()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000


class MatmulPeak:
    """The best rate of square matrix products in one type, TF32 off.

    Args:
        dtype: of the matrices; sums are the library's.
        device: on which.
        sides: of the matrices; None: what is large enough for the device.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, sides: Sequence[int] | None = None) -> None:
        self._device = device
        generator = torch.Generator().manual_seed(0)
        self._pairs = [
            tuple(torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
            for side in sides or _SIDES[device.type]
        ]

    @torch.inference_mode()
    def measure(self, least: float) -> float:
        """Operations a second, two a product; each size goes on for `least` seconds."""
        rates = []
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            for one, other in self._pairs:
                multiply = partial(torch.matmul, one, other, out=torch.empty_like(one))
                multiply()
                rates.append(2 * len(one) ** 3 / seconds_a_call(multiply, self._device, least))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        return max(rates)
