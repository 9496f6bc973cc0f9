"""What `doctor` looks at, one function a thing: what was found and, where something lacks, what to do."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ugatit_batch import __version__
from ugatit_engines.engine_files import describe
from ugatit_engines.tensorrt_library import name_capability

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ugatit_engines.devices import Precision
    from ugatit_engines.engine_status import EngineStatus, ModelStatus
    from ugatit_engines.machine import Machine
    from ugatit_engines.tensorrt_library import Capability

State = Literal["ok", "missing", "problem"]

_OTHER_BUILDS = "install a CUDA build of PyTorch: https://pytorch.org/get-started/locally/"
_DRIVER = "for an NVIDIA GPU, install its driver: https://www.nvidia.com/drivers"
_REASONS: Mapping[tuple[str, Precision], str] = {
    ("cuda", "fp16"): "half precision is fastest on a GPU; --precision fp32 is slower and closer",
    ("cpu", "bf16"): (
        "no GPU can be used, and this processor multiplies bfloat16 in hardware; "
        "--precision fp32 is slower and closer"
    ),
    ("cpu", "fp32"): "no GPU can be used, and this processor has nothing that makes bfloat16 faster",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    """Short, and the same on every machine."""
    state: State
    """`missing` is what could be had, and nothing needs it; `problem` is what is broken."""
    text: str
    """One line for people."""
    hint: str = ""
    """What to do next: mostly a command."""
    detail: str = ""
    """For those who want to know more."""


def look_at_program() -> Finding:
    """The program itself."""
    system = f"{platform.system()} {platform.machine()}"
    text = f"ugatit-batch {__version__}, Python {platform.python_version()}, {system}"
    return Finding("program", "ok", text, detail=f"in {sys.prefix}, on {platform.platform()}")


def look_at_torch() -> Finding:
    """PyTorch, and what it was built for."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"
    threads = f"threads for one operation: {torch.get_num_threads()}"
    return Finding("pytorch", "ok", f"{torch.__version__}, built for {built}", detail=threads)


def look_at_gpus(machine: Machine) -> Iterator[Finding]:
    """A finding a GPU, or one that says why there is none."""
    if not machine.gpus:
        yield _explain_no_gpu(machine)
    least = _least_capability()
    for gpu in machine.gpus:
        capability = name_capability(gpu.capability)
        text = f"cuda:{gpu.index} is {gpu.name}, compute capability {capability}, {gib(gpu.memory)}"
        if least is not None and gpu.capability < least:
            lacks = f"this PyTorch works from {name_capability(least)} on"
            yield Finding("gpu", "problem", f"{text}; {lacks}", f"use --device cpu, or {_OTHER_BUILDS}")
        else:
            yield Finding("gpu", "ok", text)


def _least_capability() -> Capability | None:
    """The oldest compute capability that PyTorch has kernels for; None where it does not tell."""
    kernels = (re.fullmatch(r"sm_(\d+)(\d)[af]?", name) for name in torch.cuda.get_arch_list())
    return min(((int(match[1]), int(match[2])) for match in kernels if match), default=None)


def _explain_no_gpu(machine: Machine) -> Finding:
    if machine.system == "darwin":
        return Finding("gpu", "missing", "none that can be used: only NVIDIA's are, and macOS has none")
    if torch.version.cuda is None:
        if _has_driver():
            text = "there is an NVIDIA driver, but this PyTorch is built for CPUs alone"
            return Finding("gpu", "missing", text, _OTHER_BUILDS)
        text = "none: this PyTorch is built for CPUs alone, and there is no NVIDIA driver"
        return Finding("gpu", "missing", text, f"{_DRIVER}, and {_OTHER_BUILDS}")
    words = _cuda_error()
    if "no NVIDIA driver" in words:
        return Finding("gpu", "missing", "none: there is no NVIDIA driver", _DRIVER)
    if words and "No CUDA GPUs" not in words:
        return Finding("gpu", "problem", f"cannot be used: {words}", "renew NVIDIA's driver, and restart")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        text = f"none can be seen: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return Finding("gpu", "missing", text, "unset CUDA_VISIBLE_DEVICES")
    return Finding("gpu", "missing", "none: there is an NVIDIA driver, but no GPU")


def _has_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def _cuda_error() -> str:
    """PyTorch's words for why there is no GPU."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return ""


def explain_default(kind: str, precision: Precision) -> str:
    """Why `translate` takes that precision on a device of that kind."""
    return _REASONS.get((kind, precision), "what is usual there")


def look_at_default(device: str, precision: Precision, reason: str) -> Finding:
    """What `translate` takes where nobody says otherwise."""
    text = f"{device}, {precision}: {reason}"
    if device != "cpu":
        text = f"a TensorRT engine where one fits, or else PyTorch on {text}"
    return Finding("translate", "ok", text)


def look_at_folder(folder: Path, count: int, error: OSError | None) -> Finding:
    """The models folder."""
    text = f"{count} {'model' if count == 1 else 'models'}; yours belong in {folder}"
    if error is not None:
        reason = error.strerror or str(error)
        hint = "make it writable, or name another folder by --models-dir or UGATIT_BATCH_MODELS_DIR"
        return Finding("models", "problem", f"{text}, which cannot be used: {reason}", hint)
    return Finding("models", "ok", text if folder.is_dir() else f"{text}, not made yet")


def look_at_model(model: ModelStatus) -> Iterator[Finding]:
    """A model, and a finding an engine."""
    engines = len(model.engines)
    kept = f"{engines} {'engine' if engines == 1 else 'engines'}" if engines else "no engines"
    if model.error is not None:
        yield Finding("model", "problem", model.error.message, model.error.hint)
    else:
        yield Finding("model", "ok", f"{model.name}: {kept}", detail=str(model.model.path))
    for engine in model.engines:
        yield _look_at_engine(model, engine)


def _look_at_engine(model: ModelStatus, engine: EngineStatus) -> Finding:
    error, detail = engine.misfit, describe(engine.found)
    if error is None:
        stem = engine.found.plan.stem
        return Finding("engine", "ok", f"{model.name}: engine {stem} fits this machine", detail=detail)
    if engine.damaged:
        return Finding("engine", "problem", error.message, engine.hint)
    return Finding("engine", "missing", f"{model.name}: {error.message}", engine.hint, detail)


def gib(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB"
