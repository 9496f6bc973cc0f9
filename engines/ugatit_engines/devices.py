"""Which device and which precision a translation runs with."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Literal

import psutil
import torch

from ugatit_batch.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ugatit_batch.bundle import GeneratorConfig

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# Peak bytes that a forward pass takes, a pixel and a channel of width (docs/performance.md): in float32 with
# fused norms, in bfloat16 with them, and in float32 and in a half with norms that are written out.
_FUSED, _FUSED_HALF, _WRITTEN_OUT, _WRITTEN_OUT_HALF = 16, 10, 26, 19.5


def choose_device(name: str) -> torch.device:
    """The device of a `--device` value.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N` or `N`.

    Raises:
        UsageError: not such a value.
        DeviceError: that device is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"(?:cuda(?::(\d+))?|(\d+))", name)
    if match is None:
        raise UsageError(f"--device {name}: no such device", "use auto, cpu, cuda, cuda:1, or 0,1 for two")
    index = int(match[1] or match[2] or 0)
    if not torch.cuda.is_available():
        raise DeviceError(
            f"--device {name}: PyTorch finds no NVIDIA GPU",
            "use --device cpu, or install NVIDIA's driver and a CUDA build of PyTorch",
        )
    if index >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0", "use cuda:0"
        )
    return torch.device("cuda", index)


def split_devices(value: str) -> list[str]:
    """The names in a `--device` value: one, or those of several GPUs with commas between.

    Args:
        value: `auto`, `cpu`, `cuda`, `cuda:N` or `N`; or several of the last three, such as `0,1`.

    Raises:
        UsageError: of several one is no GPU, or one is there twice.
        DeviceError: one of several is not there.
    """
    names = [name.strip() for name in value.split(",")]
    if len(names) == 1:
        return [value]
    seen: dict[torch.device, str] = {}
    for name in names:
        if name in ("auto", "cpu", ""):
            raise UsageError(
                f"--device {value}: several devices are numbers of GPUs",
                "use such as 0,1, or one device alone",
            )
        device = choose_device(name)
        if device in seen:
            raise UsageError(f"--device {value}: {seen[device]} and {name} are one GPU", "name each once")
        seen[device] = name
    return names


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Where nobody says otherwise, fp16 on a GPU, and on a CPU bf16 if it is faster there, else fp32.

    Raises:
        DeviceError: the device does not have that precision.
    """
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if has_fast_bf16() else "fp32"
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError("--precision bf16: this GPU does not have it", "use --precision fp16")
    return name


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware made for it, which is AMX.

    Vector instructions alone (AVX512_BF16) took longer than float32 for convolutions where it was measured
    (docs/performance.md), and emulation takes several times as long. ARM's were not measured.
    """
    # From the processor itself: oneDNN's own answer is yes where it only emulates. Not in every PyTorch.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities.get("amx_bf16") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if allowed not in ("ALL", "DEFAULT") and "AMX" not in allowed:
        return False
    # The system has to lend the tiles to a process: containers and virtual machines may not.
    return bool(getattr(torch.cpu, "_init_amx", lambda: True)())


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken now."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


def bytes_per_pixel(config: GeneratorConfig, precision: Precision, device: str = "cpu") -> float:
    """Peak memory of one forward pass a pixel of input, weights apart; `device` is a type of devices."""
    fused = device == "cpu" and config.variance != "nested"
    whole, half = (_FUSED, _FUSED_HALF) if fused else (_WRITTEN_OUT, _WRITTEN_OUT_HALF)
    return config.channels * (whole if precision == "fp32" else half)
