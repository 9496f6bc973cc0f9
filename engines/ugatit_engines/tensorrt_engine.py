"""The TensorRT engine: a built plan as a Translator. Both flavors, one code path."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

from ugatit_batch.errors import UgatitBatchError
from ugatit_batch.frames import Translated
from ugatit_engines.tensorrt_runtime import Session
from ugatit_engines.tensorrt_slots import Slot, Streams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.frames import Batch, Pixels
    from ugatit_engines.engine_files import FoundEngine
    from ugatit_engines.machine import Gpu

_SLOTS = 3  # batches at once: one copied in, one at work, one copied out
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}


class TensorRTTranslator:
    """An engine that runs on a GPU.

    Args:
        found: the engine; that it fits has been checked (`engine_fit`).
        gpu: on which it runs.
        batch_size: within the engine's profile; None: what it was tuned for.

    Raises:
        EngineError, MemoryLacksError: as `Session`.
    """

    def __init__(self, found: FoundEngine, gpu: Gpu, batch_size: int | None = None) -> None:
        self.device = torch.device("cuda", gpu.index)
        self._gpu = gpu
        self._session = Session(found, self.device)
        self.record = self._session.record
        self.precision = self.record.precision
        self.batch_size = batch_size or self.record.profile.batch.best
        self.size_rule = self.record.profile.size_rule
        self.ahead = _SLOTS
        streams = Streams(self.device)
        self._free = deque(Slot(streams) for _ in range(_SLOTS))
        self._full: set[tuple[int, int]] = set()

    def describe(self) -> str:
        """For people: device, precision, engine."""
        record = self.record
        return f"{self._gpu.name}, {record.precision}, {_TITLES[record.flavor]} {record.version}"

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        """See `Translator`. Up to three batches are on their way at once.

        Raises:
            SizeError: the engine was not built for pictures of this size.
            MemoryLacksError, EngineError: the GPU or the library cannot go on.
        """
        under_way = _UnderWay(self._free)
        try:
            for batch in batches:
                count = len(batch.pixels)
                for start in range(0, count, self.batch_size):
                    while not self._free:
                        yield from under_way.collect()
                    end = start + self.batch_size
                    try:
                        slot = self._submit(batch.pixels[start:end])
                    except UgatitBatchError:
                        while under_way:
                            yield from under_way.collect()
                        raise
                    under_way.add(slot, last=end >= count)
            while under_way:
                yield from under_way.collect()
        finally:
            while under_way:
                list(under_way.collect())
            self._session.keep_cache()

    def _submit(self, pixels: Pixels) -> Slot:
        self.size_rule.check(pixels.shape[1], pixels.shape[2])
        slot = self._free.popleft()
        try:
            slot.submit(pixels, self._batch_for(pixels), self._session.run)
        except UgatitBatchError:
            self._free.append(slot)
            raise
        return slot

    def _batch_for(self, pixels: Pixels) -> int:
        """How many go through at once: a run's rest is filled up, so that no new shape is compiled."""
        count, *size = pixels.shape[:3]
        side = (size[0], size[1])
        if count == self.batch_size:
            self._full.add(side)
        least = self.record.profile.batch.least
        return self.batch_size if side in self._full else max(count, least)


class _UnderWay:
    """Slots that are at work, in order; a batch larger than the engine's is in several.

    Args:
        free: gets back the slots that have been waited for.
    """

    def __init__(self, free: deque[Slot]) -> None:
        self._free = free
        self._slots: deque[tuple[Slot, bool]] = deque()
        self._parts: list[Translated] = []

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: Slot, *, last: bool) -> None:
        """Args: last says whether this is the end of a batch."""
        self._slots.append((slot, last))

    def collect(self) -> Iterator[Translated]:
        """Wait for the oldest slot; gives the batch if it was its last."""
        slot, last = self._slots.popleft()
        try:
            self._parts.append(slot.wait())
        finally:
            self._free.append(slot)
        if last:
            parts, self._parts = self._parts, []
            yield _joined(parts)


def _joined(parts: list[Translated]) -> Translated:
    if len(parts) == 1:
        return parts[0]
    return Translated(
        np.concatenate([part.pixels for part in parts]), np.concatenate([part.attention for part in parts])
    )
