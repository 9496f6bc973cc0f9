"""Choosing the engine of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ugatit_engines.devices import choose_device, choose_precision
from ugatit_engines.torch_engine import TorchTranslator

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_engines.devices import Precision


def open_engine(
    bundle: Bundle,
    direction: Direction,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    batch_size: int | None = None,
) -> TorchTranslator:
    """A model's generator, ready to run.

    Args:
        bundle: the model.
        direction: which way.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `N`.
        precision: of weights and activations.
        batch_size: None: what suits the device.

    Raises:
        UsageError, DeviceError, BundleError, MemoryLacksError: it cannot be had, and why.
    """
    chosen = choose_device(device)
    return TorchTranslator(bundle, direction, chosen, choose_precision(precision, chosen), batch_size)
