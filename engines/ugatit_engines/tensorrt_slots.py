"""What carries batches to a GPU and back, while it works on others: pinned buffers, streams and events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ugatit_batch.errors import EngineError
from ugatit_batch.frames import Translated
from ugatit_engines.tensorrt_runtime import too_large

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.frames import Pixels
    from ugatit_engines.tensorrt_runtime import Shape


class Streams:
    """Three streams of one GPU, so that copies overlap the work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.inward, self.work, self.outward = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for _ in range(3)
        )


class Slot:
    """Pinned and device buffers for one batch on its way through the streams.

    Args:
        streams: shared by all slots.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._shape: Shape | None = None
        self._loaded, self._ran, self._done = (
            # Waiting for one leaves the core to those who decode.
            torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            for _ in range(3)
        )
        self._count = 0

    def submit(self, pixels: Pixels, batch: int, run: Callable[..., None]) -> None:
        """Enqueue copying in, the work, and copying out; the slot has been waited for, or is new.

        Args:
            pixels: uint8, N×H×W×3; may change as soon as this returns.
            batch: at least N; the rest is whatever was there before.
            run: `Session.run`.

        Raises:
            MemoryLacksError, EngineError: as `Session.run`.
        """
        with torch.cuda.device(self._streams.device):  # of this thread, which may not have opened the engine
            self._count, height, width = pixels.shape[:3]
            self._allocate((batch, height, width, 3))
            self._host_in.numpy()[: self._count] = pixels
            streams = self._streams
            with torch.cuda.stream(streams.inward):
                self._device_in.copy_(self._host_in, non_blocking=True)
                self._loaded.record(streams.inward)
            streams.work.wait_event(self._loaded)
            run(self._device_in, *self._device_out, streams.work)
            self._ran.record(streams.work)
            streams.outward.wait_event(self._ran)
            with torch.cuda.stream(streams.outward):
                for host, device in zip(self._host_out, self._device_out, strict=True):
                    host[: self._count].copy_(device[: self._count], non_blocking=True)
                self._done.record(streams.outward)

    def wait(self) -> Translated:
        """The results, as arrays of their own.

        Raises:
            EngineError: the GPU failed at this batch, or at an earlier one.
        """
        try:
            self._done.synchronize()
        except RuntimeError as error:
            raise EngineError(f"the GPU failed: {error}", "use --backend torch, and report this") from error
        pixels, attention = (np.array(host[: self._count].numpy()) for host in self._host_out)
        return Translated(pixels, attention)

    def _allocate(self, shape: Shape) -> None:
        if shape == self._shape:
            return
        self._shape = None
        count, height, width, _ = shape
        shapes = [(shape, torch.uint8), ((count, height // 4, width // 4), torch.float32)]
        device = self._streams.device
        try:
            self._host_in = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
            self._device_in = torch.empty(shape, dtype=torch.uint8, device=device)
            self._host_out = [torch.empty(s, dtype=kind, pin_memory=True) for s, kind in shapes]
            self._device_out = [torch.empty(s, dtype=kind, device=device) for s, kind in shapes]
        except RuntimeError as error:  # so is what pinned memory is refused with
            raise too_large(width, height, device) from error
        # Made on the current stream, used on others.
        torch.cuda.current_stream(device).synchronize()
        self._shape = shape
