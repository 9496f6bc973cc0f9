"""Which networks a server uses: the models there are, and the engine of each, as `translate` opens it.

Knows nothing of requests.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from ugatit_batch.errors import DeviceError
from ugatit_batch.models import default_models_dir, list_models
from ugatit_engines.devices import (
    bytes_per_pixel,
    choose_device,
    choose_precision,
    free_memory,
    split_devices,
)
from ugatit_engines.engine_files import engines_folder
from ugatit_engines.open_engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.frames import SizeRule, Translator
    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.models import FoundModel
    from ugatit_engines.devices import Precision
    from ugatit_engines.open_engine import Backend, Engine

_SHARE = 0.8  # of the free memory, as engines take it themselves


class Opening(Protocol):
    """Opens what a server translates with."""

    @property
    def device(self) -> str:
        """Device and precision, for people."""

    def models(self) -> list[FoundModel]:
        """The models there are now, each name once; damaged ones have an error."""

    def open(self, bundle: Bundle, direction: Direction, sizing: Sizing) -> Translator:
        """A model, ready to run.

        Raises:
            UgatitBatchError: it cannot be used.
        """

    def rule(self, bundle: Bundle, translator: Translator) -> SizeRule:
        """Which sizes a model that has been opened takes at this moment."""


class EngineOpening:
    """See `Opening`.

    Args:
        device, precision, backend: as `open_engine` takes them.
        models_dir: the user's models.
        say: is told why an engine that was built is passed over.

    Raises:
        UsageError, DeviceError: there is no such device, or it lacks the precision or the backend.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        backend: Backend = "auto",
        *,
        models_dir: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._name, self._precision, self._backend, self._say = device, precision, backend, say
        self._models_dir = models_dir or default_models_dir()
        # What cannot be is said at the start, and not to the first editor.
        self._device = choose_device(split_devices(device)[0])
        chosen = choose_precision(precision, self._device)
        if backend == "tensorrt" and self._device.type != "cuda":
            raise DeviceError(
                "--backend tensorrt: engines run on NVIDIA GPUs, and PyTorch finds none",
                "use --backend torch",
            )
        self.device = f"{device if ',' in device else self._device.type}, {chosen}"

    def models(self) -> list[FoundModel]:
        """See `Opening`."""
        by_name: dict[str, FoundModel] = {}
        for model in list_models(self._models_dir):
            by_name.setdefault(model.path.name, model)
        return list(by_name.values())

    def open(self, bundle: Bundle, direction: Direction, sizing: Sizing) -> Engine:
        """See `Opening`."""
        return open_engine(
            bundle,
            direction,
            self._name,
            self._precision,
            backend=self._backend,
            engines=engines_folder(bundle, self._models_dir),
            sizing=sizing,
            say=self._say,
        )

    def rule(self, bundle: Bundle, translator: Translator) -> SizeRule:
        """See `Opening`. On a CPU an engine goes by the memory that was free when it was opened."""
        precision: Precision = getattr(translator, "precision", "fp32")
        if self._device.type != "cpu":
            return translator.size_rule
        pixels = free_memory(self._device) * _SHARE / bytes_per_pixel(bundle.generator, precision)
        return dataclasses.replace(translator.size_rule, max_pixels=max(1, int(pixels)))
