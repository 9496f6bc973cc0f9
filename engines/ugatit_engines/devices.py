"""Which device and which precision a translation runs with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import psutil
import torch

from ugatit_batch.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from ugatit_batch.bundle import GeneratorConfig

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# Peak bytes that a forward pass takes in float32, a pixel and a channel of width (docs/performance.md).
_BYTES_PER_PIXEL_AND_CHANNEL = 26


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
        raise UsageError(f"--device {name}: no such device", "use auto, cpu, cuda or cuda:1")
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


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """fp16 on a GPU and fp32 on a CPU where nobody says otherwise.

    Raises:
        DeviceError: the device does not have that precision.
    """
    if name == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError("--precision bf16: this GPU does not have it", "use --precision fp16")
    return name


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken now."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


def bytes_per_pixel(config: GeneratorConfig, precision: Precision) -> float:
    """Peak memory of one forward pass a pixel of input, weights apart."""
    # Normalisation works in float32 whatever the precision, so half the type is not half the memory.
    share = 1.0 if precision == "fp32" else 0.75
    return _BYTES_PER_PIXEL_AND_CHANNEL * config.channels * share
