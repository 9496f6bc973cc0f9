"""What is installed on this machine, what it can run, and how to get the rest.

Looks, and changes nothing. Knows nothing of how findings are shown.
"""

from __future__ import annotations

import platform
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ugatit_batch import __version__
from ugatit_engines import doctor_findings as look
from ugatit_engines.devices import choose_device, choose_precision
from ugatit_engines.doctor_findings import Finding
from ugatit_engines.doctor_packages import (
    EXPORT_PACKAGES,
    Library,
    examine_library,
    find_packages,
    look_at_library,
    look_at_packages,
)
from ugatit_engines.engine_status import ModelStatus, check_models, writing_error
from ugatit_engines.machine import Machine, this_machine
from ugatit_engines.measure import describe_machine
from ugatit_engines.tensorrt_library import FLAVORS, name_capability

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ugatit_engines.devices import Precision


@dataclass(frozen=True)
class Default:
    """What `translate` takes where nobody says otherwise."""

    device: str
    precision: Precision
    reason: str
    """For people."""


@dataclass(frozen=True)
class Processor:
    """The CPU and its memory."""

    name: str
    cores: int
    """That this process may use."""
    memory: int
    """In bytes, whether it is free or not."""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found: the facts, and what they come to."""

    machine: Machine
    processor: Processor
    default: Default
    libraries: tuple[Library, ...]
    packages: Mapping[str, str | None]
    """Versions of optional packages; None: not installed."""
    models_dir: Path
    models: tuple[ModelStatus, ...]
    findings: tuple[Finding, ...]

    def count(self, state: look.State) -> int:
        """How many findings are of a state."""
        return sum(finding.state == state for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """For programs; the keys are in the help of `doctor`."""
        cpu = self.processor
        return {
            "version": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "cpu": {"name": cpu.name, "cores": cpu.cores, "memory": cpu.memory},
            "gpus": [
                {"name": g.name, "compute_capability": name_capability(g.capability), "memory": g.memory}
                for g in self.machine.gpus
            ],
            "default": {
                "device": self.default.device,
                "precision": self.default.precision,
                "reason": self.default.reason,
            },
            "tensorrt": [
                {
                    "flavor": library.flavor,
                    "version": library.version,
                    "error": None if library.error is None else str(library.error),
                    "builds": library.builds,
                    "gpus": list(library.gpus),
                }
                for library in self.libraries
            ],
            "packages": dict(self.packages),
            "models_dir": str(self.models_dir),
            "models": [model.to_json() for model in self.models],
            "findings": [
                {"topic": f.topic, "state": f.state, "text": f.text, "hint": f.hint} for f in self.findings
            ],
        }


def diagnose(models_dir: Path) -> Diagnosis:
    """Look at everything; it takes as long as loading PyTorch and TensorRT does.

    Args:
        models_dir: the user's models folder.
    """
    with warnings.catch_warnings():
        # PyTorch warns of what is a finding here: an old driver, a GPU that it has no kernels for.
        warnings.simplefilter("ignore")
        machine = this_machine()
        gpus = tuple(look.look_at_gpus(machine))
        device = choose_device("auto")
        precision = choose_precision("auto", device)
    default = Default(str(device), precision, look.explain_default(device.type, precision))
    packages = find_packages()
    exports = all(packages[name] for name in EXPORT_PACKAGES)
    libraries = tuple(examine_library(flavor, machine, exports=exports) for flavor in FLAVORS)
    models, error = _find_models(models_dir, machine)
    processor, about_processor = _examine_processor()
    findings = (
        look.look_at_program(),
        look.look_at_torch(),
        *gpus,
        about_processor,
        look.look_at_default(default.device, default.precision, default.reason),
        *(look_at_library(library, machine, exports=exports) for library in libraries),
        *look_at_packages(packages, machine),
        look.look_at_folder(models_dir, len(models), error),
        *(finding for model in models for finding in look.look_at_model(model)),
    )
    return Diagnosis(machine, processor, default, libraries, packages, models_dir, models, findings)


def _find_models(models_dir: Path, machine: Machine) -> tuple[tuple[ModelStatus, ...], OSError | None]:
    models: list[ModelStatus] = []
    try:
        models.extend(check_models(models_dir, machine))
    except OSError as error:
        return tuple(models), error
    return tuple(models), writing_error(models_dir)


def _examine_processor() -> tuple[Processor, Finding]:
    cpu, memory = describe_machine(torch.device("cpu")), psutil.virtual_memory()
    cores = f"{cpu.cores} {'core' if cpu.cores == 1 else 'cores'}"
    text = f"{cpu.cpu}, {cores}, {look.gib(memory.total)} of memory"
    found = Finding("cpu", "ok", text, detail=f"{look.gib(memory.available)} of the memory are free")
    return Processor(cpu.cpu, cpu.cores, int(memory.total)), found
