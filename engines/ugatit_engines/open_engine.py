"""Choosing the engine of a model: PyTorch, or TensorRT where one was built that fits."""

from __future__ import annotations

from dataclasses import dataclass
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
from ugatit_engines.devices import choose_device, choose_precision, split_devices
from ugatit_engines.engine_files import list_engines, of_direction, preference
from ugatit_engines.engine_fit import Need, add_command, build_command, misfit
from ugatit_engines.machine import choose_gpu, this_machine
from ugatit_engines.several import SeveralTranslator, averages_on_one_device
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
    smooth: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """A model's generator, ready to run.

    Args:
        bundle: the model.
        direction: which way.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `N`; or several GPUs, such as `0,1`, which share the work.
        precision: of weights and activations.
        batch_size: None: what suits the device.
        backend: `auto` takes a TensorRT engine where one fits everything that is asked for, and PyTorch
            otherwise; `tensorrt` takes an engine or nothing.
        engines: folder of the model's engines; None: it has none.
        sizing: of the pictures that come; None: nobody knows.
        smooth: whether batches will ask for averaging of the style, which PyTorch alone does, on one device.
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
    if backend == "tensorrt" and smooth:
        raise UsageError("--smooth: TensorRT engines do not average the style", "use --backend torch")
    names = split_devices(device)
    if len(names) > 1 and smooth:
        raise averages_on_one_device()
    opening = _Opening(bundle, direction, precision, batch_size, engines, sizing, smooth=smooth, say=say)
    opened = [opening.open(name, backend) for name in names]
    if len(opened) == 1:
        return opened[0]
    # Pictures of one run should look as from one engine, whichever device they were on.
    kinds = {(type(engine), engine.precision) for engine in opened}
    if len(kinds) > 1 and backend == "tensorrt":
        raise UsageError(
            f"--device {device}: no engine fits all of them in one precision",
            "use --precision fp16, or --backend torch",
        )
    if len(kinds) > 1:
        say("PyTorch instead of TensorRT: no engine fits all of the devices")
        opened.clear()  # before PyTorch looks how much memory is free
        opened = [opening.open(name, "torch") for name in names]
    return SeveralTranslator(opened)


@dataclass(frozen=True)
class _Opening:
    """What is asked of each device alike; see `open_engine`."""

    bundle: Bundle
    direction: Direction
    precision: Precision | Literal["auto"]
    batch_size: int | None
    engines: Path | None
    sizing: Sizing | None
    smooth: bool
    say: Callable[[str], None]

    def open(self, device: str, backend: Backend) -> TorchTranslator | TensorRTTranslator:
        """The engine of one device."""
        if backend != "torch" and self.precision != "bf16":
            named = backend == "tensorrt"
            precision = None if self.precision == "auto" else self.precision
            need = Need(precision, self.batch_size, self.sizing, exact=not named)
            opened = self._open_tensorrt(device, need, named=named)
            if opened is not None:
                return opened
        chosen = choose_device(device)
        translator = TorchTranslator(
            self.bundle,
            self.direction,
            chosen,
            choose_precision(self.precision, chosen),
            self.batch_size,
        )
        if self.smooth:
            translator.check_smooth()
        return translator

    def _open_tensorrt(self, device: str, need: Need, *, named: bool) -> TensorRTTranslator | None:
        bundle, direction, folder = self.bundle, self.direction, self.engines
        found = [] if folder is None else [e for e in list_engines(folder) if of_direction(e, direction)]
        if named and device == "cpu":
            raise UsageError(
                "--device cpu: TensorRT engines run on NVIDIA GPUs",
                "leave --device out, or use --backend torch",
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
            if error is None and self.smooth:
                self.say("PyTorch instead of TensorRT: --smooth: TensorRT engines do not average the style")
                return None
            if error is None and gpu is not None:
                try:
                    return TensorRTTranslator(engine, gpu, need.batch_size)
                except UgatitBatchError as refused:
                    add_command(refused, command)
                    error = refused
            if error is not None:
                errors.append(error)
                if not named:
                    self.say(f"PyTorch instead of TensorRT: {error}")
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
