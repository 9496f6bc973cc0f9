"""Choosing the engine of a model: PyTorch, or TensorRT where one was built that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from ugatit_batch.errors import (
    DeviceError,
    EngineError,
    EngineMissingError,
    EngineUnfitError,
    MemoryLacksError,
    UgatitBatchError,
    UsageError,
)
from ugatit_batch.frames import Translator
from ugatit_engines.devices import choose_device, choose_precision
from ugatit_engines.engine_files import list_engines, of_direction, preference
from ugatit_engines.engine_fit import Need, add_command, build_command, misfit
from ugatit_engines.machine import choose_gpu, this_machine
from ugatit_engines.tensorrt_engine import TensorRTTranslator
from ugatit_engines.torch_engine import TorchTranslator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.images.geometry import Sizing
    from ugatit_engines.devices import Precision

Backend = Literal["auto", "torch", "tensorrt"]


class Engine(Translator, Protocol):
    """A Translator that can say what it is."""

    @property
    def precision(self) -> Precision:
        """Of weights and activations."""

    def describe(self) -> str:
        """For people: device, precision, engine."""


def open_engine(
    bundle: Bundle,
    direction: Direction,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    batch_size: int | None = None,
    *,
    backend: Backend = "auto",
    engines: Path | None = None,
    sizing: Sizing | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """A model's generator, ready to run.

    Args:
        bundle: the model.
        direction: which way.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `N`.
        precision: of weights and activations.
        batch_size: None: what suits the device.
        backend: `auto` takes a TensorRT engine where one fits everything that is asked for, and PyTorch
            otherwise; `tensorrt` takes an engine or nothing.
        engines: folder of the model's engines; None: it has none.
        sizing: of the pictures that come; None: nobody knows.
        say: is told, for people, why `auto` passes over an engine on a machine with a GPU.

    Raises:
        UsageError, DeviceError, BundleError, MemoryLacksError: it cannot be had, and why.
        EngineError: `tensorrt` was asked for, and there is no engine that fits; the hint is the command that
            builds it.
    """
    if backend == "tensorrt" and precision == "bf16":
        raise UsageError(
            "--precision bf16: TensorRT engines come in fp16 and fp32",
            "use --precision fp16, or --backend torch",
        )
    if backend != "torch" and precision != "bf16":
        named = backend == "tensorrt"
        need = Need(None if precision == "auto" else precision, batch_size, sizing, exact=not named)
        opened = _open_tensorrt(bundle, direction, device, need, engines, named=named, say=say)
        if opened is not None:
            return opened
    chosen = choose_device(device)
    return TorchTranslator(bundle, direction, chosen, choose_precision(precision, chosen), batch_size)


def _open_tensorrt(
    bundle: Bundle,
    direction: Direction,
    device: str,
    need: Need,
    folder: Path | None,
    *,
    named: bool,
    say: Callable[[str], None],
) -> TensorRTTranslator | None:
    found = [] if folder is None else [e for e in list_engines(folder) if of_direction(e, direction)]
    if named and device == "cpu":
        raise UsageError(
            "--device cpu: TensorRT engines run on NVIDIA GPUs", "leave --device out, or use --backend torch"
        )
    if not named and (not found or choose_device(device).type == "cpu"):
        return None
    machine = this_machine()
    gpu = choose_gpu(device, machine)
    command = build_command(bundle, direction, need, folder)
    if not found:
        if gpu is None:
            raise DeviceError(
                "--backend tensorrt: engines run on NVIDIA GPUs, and PyTorch finds none",
                "use --backend torch",
            )
        raise EngineMissingError(
            f"--backend tensorrt: {bundle.name} has no engine for {bundle.describe_direction(direction)}",
            "use --backend torch: no engine does what this run needs"
            if command is None
            else f"build one: {command}",
        )
    errors: list[UgatitBatchError] = []
    for engine in sorted(found, key=preference):
        error = misfit(engine, bundle, direction, machine, gpu, need)
        if error is None and gpu is not None:
            try:
                return TensorRTTranslator(engine, gpu, need.batch_size)
            except UgatitBatchError as refused:
                add_command(refused, command)
                error = refused
        if error is not None:
            errors.append(error)
            if not named:
                say(f"PyTorch instead of TensorRT: {error}")
    if named:
        # What fits nearly says most about what to do.
        raise max(errors, key=_closeness)
    return None


_STAGES = ("model", "flavor", "version", "system", "gpu", "precision", "batch", "size")


def _closeness(error: UgatitBatchError) -> int:
    """The later a check has failed, the more fits."""
    if isinstance(error, EngineUnfitError):
        return _STAGES.index(error.reason)
    return len(_STAGES) if isinstance(error, DeviceError | EngineError | MemoryLacksError) else -1
