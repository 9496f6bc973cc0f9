"""An engine in memory, and what carries pictures to it and back: all that touches a GPU.

PyTorch owns every buffer and stream; TensorRT is given addresses and a stream.
"""

from __future__ import annotations

import atexit
import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import torch

from ugatit_batch.atomic import replacing
from ugatit_batch.errors import (
    EngineDamagedError,
    EngineError,
    EngineLibraryError,
    EngineUnfitError,
    MemoryLacksError,
    UgatitBatchError,
)
from ugatit_engines.tensorrt_library import load_library, start, the_logger

if TYPE_CHECKING:
    from torch import Tensor

    from ugatit_engines.engine_files import FoundEngine

Shape = tuple[int, int, int, int]
"""N×H×W×3."""

_REPORT = "use --backend torch, and report this"


class Session:
    """A deserialised engine with its execution context.

    Args:
        found: the engine; that it fits the machine has been checked.
        device: the GPU.

    Raises:
        EngineLibraryError: the flavor is not installed, or does not start.
        EngineDamagedError: the plan is not what its sidecar says.
        EngineUnfitError: the library itself says that the engine does not fit.
        MemoryLacksError: the GPU has too little memory for the largest batch of the largest picture.
        EngineError: the library refuses the plan; the message has its words.
    """

    # What was opened, in the order in which it was; `close` works on one that was not opened to the end, too.
    _runtime: Any = None
    _engine: Any = None
    _cache: Any = None
    _config: Any = None
    _context: Any = None

    def __init__(self, found: FoundEngine, device: torch.device) -> None:
        plan = found.read()
        if found.record is None:
            raise ValueError("an engine without a sidecar has no plan")
        self._found, self._device = found, device
        self.record = found.record
        trt = load_library(self.record.flavor)
        self._logger = the_logger(trt)
        self._cached, self._news = b"", False
        self._shape: Shape | None = None
        self._buffers: dict[str, Tensor] = {}
        _OPEN.add(self)
        with torch.cuda.device(device):
            # PyTorch's context has to be there before TensorRT looks for one; its cache holds memory back.
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            self._open(trt, plan)

    def _open(self, trt: Any, plan: bytes) -> None:
        name, flavor = self._found.plan, self.record.flavor
        self._runtime = start(trt.Runtime, flavor, self._logger)
        self._check_header(trt, plan)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{name}: {flavor} refuses the engine: {self._logger.words()}", "build it again"
            )
        self._context = self._create_context(trt)
        if self._context is None:
            raise MemoryLacksError(
                f"{name}: {flavor} cannot run the engine: {self._logger.words()}",
                "build one with a smaller --batch or --size, or use --backend torch",
            )

    def _check_header(self, trt: Any, plan: bytes) -> None:
        """TensorRT for RTX can tell from the first bytes; `tensorrt` tells as it reads the whole."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, diagnostics = self._runtime.get_engine_validity(plan[: self._runtime.engine_header_size])
        if validity != trt.EngineValidity.INVALID:
            return
        members = trt.EngineInvalidityDiagnostics.__members__
        reasons = [name for name, flag in members.items() if int(diagnostics) & int(flag)]
        raise explain_refusal(f"{self._found.plan}: {self.record.flavor}", reasons)

    def _create_context(self, trt: Any) -> Any:
        if not hasattr(trt, "CudaGraphStrategy"):
            return self._engine.create_execution_context()
        self._config = self._engine.create_runtime_config()
        self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._cached = self._found.cache.read_bytes()
            # Kernels of another card or driver are refused, and compiled anew.
            self._cache.deserialize(self._cached)
        self._logger.forget()
        self._config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(self._config)

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
        self._logger.forget()
        with torch.cuda.stream(stream):
            outputs = {"translated": translated, "attention": attention}
            self._bind(pixels, outputs, stream)
            # The engine always sees the same addresses, as a recorded CUDA graph wants them.
            self._buffers["pixels"].copy_(pixels)
            if not self._context.execute_async_v3(stream.cuda_stream):
                words = self._logger.words()
                if "memory" in words.lower():
                    raise too_large(pixels.shape[2], pixels.shape[1], self._device)
                raise EngineError(f"{self._found.plan}: {self.record.flavor} failed: {words}", _REPORT)
            for name, tensor in outputs.items():
                tensor.copy_(self._buffers[name])

    def _bind(self, pixels: Tensor, outputs: dict[str, Tensor], stream: torch.cuda.Stream) -> None:
        count, height, width, channels = pixels.shape
        shape = (count, height, width, channels)
        if shape == self._shape:
            return
        stream.synchronize()
        # Until all of it is bound, the addresses are those of buffers that are gone.
        self._shape = None
        try:
            tensors = {"pixels": pixels, **outputs}
            self._buffers = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        except torch.OutOfMemoryError as error:
            raise too_large(width, height, self._device) from error
        bound = self._context.set_input_shape("pixels", shape) and all(
            self._context.set_tensor_address(name, tensor.data_ptr())
            for name, tensor in self._buffers.items()
        )
        if not bound:
            raise EngineError(
                f"{self._found.plan}: {self.record.flavor} does not take {count} pictures of "
                f"{width}×{height}: {self._logger.words()}",
                "build one with another --batch or --size",
            )
        self._shape, self._news = shape, True

    def keep_cache(self) -> None:
        """Write compiled kernels beside the plan, where there may be new ones; the next start is quicker."""
        if self._cache is None or not self._news:
            return
        self._news = False
        with torch.cuda.device(self._device):
            content = self._cache.serialize()
        if content is None or bytes(content) == self._cached:
            return
        # Only time is lost without it.
        with contextlib.suppress(UgatitBatchError), replacing(self._found.cache) as partial:
            partial.write_bytes(bytes(content))
            self._cached = bytes(content)

    def close(self) -> None:
        """Let go of all of it, the youngest first: a cache has to outlive the contexts that use it."""
        self._context = self._config = None
        self._cache = None
        self._engine = None
        self._runtime = None

    __del__ = close


_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """While Python is still whole: the library has threads that compile, and log through it."""
    for session in list(_OPEN):
        session.close()


def explain_refusal(whose: str, reasons: list[str]) -> UgatitBatchError:
    """What TensorRT for RTX has against an engine, by the names of its diagnostics.

    Args:
        whose: plan and flavor, for the message.
        reasons: names of `EngineInvalidityDiagnostics`.
    """
    words = f"{whose} says that the engine does not run here: {', '.join(reasons) or 'it does not say why'}"
    found = set(reasons)
    if "MALFORMED_ENGINE" in found:
        return EngineDamagedError(words, "build it again")
    if "VERSION_MISMATCH" in found:
        return EngineUnfitError("version", words, "build it again")
    if "INSUFFICIENT_GPU_MEMORY" in found:
        return MemoryLacksError(words, "build one with a smaller --batch or --size, or use --backend torch")
    if found & {"OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR"}:
        return EngineLibraryError(words, "update NVIDIA's driver, or use --backend torch")
    return EngineUnfitError("gpu", words, "build it again for this GPU")


def too_large(width: int, height: int, device: torch.device) -> MemoryLacksError:
    """What is said of pictures for which a GPU has no memory left."""
    return MemoryLacksError(
        f"{width}×{height}: too large for the memory of {device}",
        "use a smaller --batch-size or --size, or --device cpu",
    )
