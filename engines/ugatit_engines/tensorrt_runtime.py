"""An engine in memory, and what carries pictures to it and back: all that touches a GPU.

PyTorch owns every buffer and stream; TensorRT is given addresses and a stream.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ugatit_batch.atomic import replacing
from ugatit_batch.errors import EngineError, EngineUnfitError, MemoryLacksError, UgatitBatchError
from ugatit_batch.frames import Translated
from ugatit_engines.tensorrt_library import load_library, new_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ugatit_batch.frames import Pixels
    from ugatit_engines.engine_files import FoundEngine

Shape = tuple[int, int, int, int]
"""N×H×W×3."""


class Session:
    """A deserialised engine with its execution context.

    Args:
        found: the engine; that it fits the machine has been checked.
        device: the GPU.

    Raises:
        EngineLibraryError: the flavor is not installed.
        EngineDamagedError: the plan is not what its sidecar says.
        EngineUnfitError: the library itself says that the engine does not fit.
        MemoryLacksError: the GPU has too little memory for the largest batch of the largest picture.
        EngineError: the library refuses the plan; the message has its words.
    """

    def __init__(self, found: FoundEngine, device: torch.device) -> None:
        plan = found.read()
        if found.record is None:
            raise ValueError("an engine without a sidecar has no plan")
        self._found, self._device = found, device
        self.record = found.record
        trt = load_library(self.record.flavor)
        self._logger = new_logger(trt)
        with torch.cuda.device(device):
            # PyTorch's context has to be there before TensorRT looks for one.
            torch.cuda.current_stream(device).synchronize()
            self._runtime = trt.Runtime(self._logger)
            self._check_header(trt, plan)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(
                    f"{found.plan}: {self.record.flavor} refuses the engine: {self._logger.words()}",
                    "build it again",
                )
            self._cache: Any = None
            self._cached = b""
            self._context = self._create_context(trt)
        if self._context is None:
            raise MemoryLacksError(
                f"{found.plan}: {self.record.flavor} cannot run the engine: {self._logger.words()}",
                "build one with a smaller --batch or --size, or use --backend torch",
            )
        self._shape: Shape | None = None
        self._buffers: dict[str, Tensor] = {}

    def _check_header(self, trt: Any, plan: bytes) -> None:
        """TensorRT for RTX can tell from the first bytes; `tensorrt` tells as it reads the whole."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, diagnostics = self._runtime.get_engine_validity(plan[: self._runtime.engine_header_size])
        if validity != trt.EngineValidity.INVALID:
            return
        members = trt.EngineInvalidityDiagnostics.__members__
        reasons = [name for name, flag in members.items() if int(diagnostics) & int(flag)]
        raise EngineUnfitError(
            "version" if "VERSION_MISMATCH" in reasons else "gpu",
            f"{self._found.plan}: {self.record.flavor} says that the engine does not fit: "
            f"{', '.join(reasons) or 'it does not say why'}",
            "build it again; an old driver may have to be updated first",
        )

    def _create_context(self, trt: Any) -> Any:
        if not hasattr(trt, "CudaGraphStrategy"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._cached = self._found.cache.read_bytes()
            # Kernels of another card or driver are refused, and compiled anew.
            self._cache.deserialize(self._cached)
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def run(self, pixels: Tensor, translated: Tensor, attention: Tensor, stream: torch.cuda.Stream) -> None:
        """Enqueue one batch.

        Args:
            pixels: uint8, N×H×W×3, on the GPU.
            translated: of the same shape and type, to be filled.
            attention: float32, N×H/4×W/4, to be filled.
            stream: on which all of it happens.

        Raises:
            MemoryLacksError: there is no room for the buffers.
            EngineError: the library refused; the message has its words.
        """
        with torch.cuda.stream(stream):
            outputs = {"translated": translated, "attention": attention}
            self._bind(pixels, outputs, stream)
            # The engine always sees the same addresses, as a recorded CUDA graph wants them.
            self._buffers["pixels"].copy_(pixels)
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise EngineError(
                    f"{self._found.plan}: {self.record.flavor} failed: {self._logger.words()}",
                    "use --backend torch, and report this",
                )
            for name, tensor in outputs.items():
                tensor.copy_(self._buffers[name])

    def _bind(self, pixels: Tensor, outputs: dict[str, Tensor], stream: torch.cuda.Stream) -> None:
        count, height, width, channels = pixels.shape
        shape = (count, height, width, channels)
        if shape == self._shape:
            return
        stream.synchronize()
        try:
            tensors = {"pixels": pixels, **outputs}
            self._buffers = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        except torch.OutOfMemoryError as error:
            raise too_large(width, height, self._device) from error
        if not self._context.set_input_shape("pixels", shape):
            raise EngineError(
                f"{self._found.plan}: {self.record.flavor} does not take {count} pictures of "
                f"{width}×{height}: {self._logger.words()}",
                "build one with another --batch or --size",
            )
        for name, tensor in self._buffers.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        self._shape = shape

    def keep_cache(self) -> None:
        """Write compiled kernels beside the plan, where there are new ones; the next start is quicker."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize())
        if content == self._cached:
            return
        # Only time is lost without it.
        with contextlib.suppress(UgatitBatchError), replacing(self._found.cache) as partial:
            partial.write_bytes(content)
            self._cached = content


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
            torch.cuda.Event()  # type: ignore[no-untyped-call]
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
        self._count, height, width = pixels.shape[:3]
        self._allocate((batch, height, width, 3))
        self._host_in[: self._count].copy_(torch.from_numpy(pixels))
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
        """The results, as arrays of their own."""
        self._done.synchronize()
        pixels, attention = (np.array(host[: self._count].numpy()) for host in self._host_out)
        return Translated(pixels, attention)

    def _allocate(self, shape: Shape) -> None:
        if shape == self._shape:
            return
        count, height, width, _ = shape
        shapes = [(shape, torch.uint8), ((count, height // 4, width // 4), torch.float32)]
        device = self._streams.device
        try:
            self._host_in = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
            self._device_in = torch.empty(shape, dtype=torch.uint8, device=device)
            self._host_out = [torch.empty(s, dtype=kind, pin_memory=True) for s, kind in shapes]
            self._device_out = [torch.empty(s, dtype=kind, device=device) for s, kind in shapes]
        except torch.OutOfMemoryError as error:
            raise too_large(width, height, device) from error
        # Made on the current stream, used on others.
        torch.cuda.current_stream(device).synchronize()
        self._shape = shape


def too_large(width: int, height: int, device: torch.device) -> MemoryLacksError:
    """What is said of pictures for which a GPU has no memory left."""
    return MemoryLacksError(
        f"{width}×{height}: too large for the memory of {device}",
        "use a smaller --batch-size or --size, or --device cpu",
    )
