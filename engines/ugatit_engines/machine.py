"""What this machine is, as far as engines care."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ugatit_engines.devices import choose_device
from ugatit_engines.tensorrt_library import FLAVORS, is_installed, library_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ugatit_engines.tensorrt_library import Capability, Flavor

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    index: int
    """After `cuda:`."""
    name: str
    capability: Capability
    memory: int
    """In bytes."""


@dataclass(frozen=True)
class Machine:
    """Whatever decides whether an engine runs here."""

    system: str
    """`linux`, `windows` or `darwin`."""
    architecture: str
    """`x86_64` or `aarch64`."""
    gpus: tuple[Gpu, ...] = ()
    libraries: Mapping[Flavor, str | None] = field(default_factory=dict)
    """Exact version of each flavor of TensorRT; None where it is missing or cannot be loaded."""
    broken: frozenset[Flavor] = frozenset()
    """Flavors that are installed and cannot be loaded."""


def this_machine() -> Machine:
    """The machine that this process runs on."""
    architecture = platform.machine().lower()
    libraries = {flavor: library_version(flavor) for flavor in FLAVORS}
    return Machine(
        platform.system().lower(),
        _ARCHITECTURES.get(architecture, architecture),
        find_gpus(),
        libraries,
        frozenset(flavor for flavor in FLAVORS if libraries[flavor] is None and is_installed(flavor)),
    )


def find_gpus() -> tuple[Gpu, ...]:
    """All NVIDIA GPUs that PyTorch can use."""
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(Gpu(index, facts.name, (facts.major, facts.minor), facts.total_memory))
    return tuple(found)


def choose_gpu(device: str, machine: Machine) -> Gpu | None:
    """The GPU of a `--device` value; None where the machine has none, or the value is `cpu`.

    Raises:
        UsageError, DeviceError: as `choose_device`.
    """
    if not machine.gpus and device == "auto":
        return None
    chosen = choose_device(device)
    return None if chosen.type == "cpu" else machine.gpus[chosen.index or 0]
