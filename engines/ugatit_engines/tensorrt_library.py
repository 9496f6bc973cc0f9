"""The two flavors of TensorRT: which there are, what is installed, and which GPUs each runs on.

`tensorrt` runs on any NVIDIA GPU; its engines fit the GPU they were built on, and building needs that GPU.
`tensorrt-rtx` (TensorRT for RTX) runs on GeForce and RTX cards; its engines are built without a GPU, fit all
of those cards, and are compiled for the one at hand when they are first used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Literal

from ugatit_batch.errors import EngineLibraryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Flavor = Literal["tensorrt", "tensorrt-rtx"]
FLAVORS: tuple[Flavor, ...] = ("tensorrt", "tensorrt-rtx")
MODULES: Mapping[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

Capability = tuple[int, int]
"""CUDA compute capability: major, minor."""
PORTABLE: tuple[Capability, ...] = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""What one engine of TensorRT for RTX fits; cards that come after these too."""
TURING: Capability = (7, 5)
"""Has engines of its own."""
_NEWEST = 12
_REMEMBERED = 5  # errors


def rtx_runs_on(capability: Capability) -> bool:
    """Whether TensorRT for RTX knows such a GPU; the data-centre ones (9.0, 10.x) it does not."""
    return capability == TURING or fits_portable(capability)


def fits_portable(capability: Capability) -> bool:
    """Whether an engine of TensorRT for RTX without a GPU of its own fits such a GPU."""
    return capability in PORTABLE or capability[0] >= _NEWEST


def name_capability(capability: Capability) -> str:
    """For people and files: `8.9`."""
    return f"{capability[0]}.{capability[1]}"


def is_installed(flavor: Flavor) -> bool:
    """Whether its Python package is there; whether it can be loaded is another matter."""
    return importlib.util.find_spec(MODULES[flavor]) is not None


def load_library(flavor: Flavor) -> Any:
    """The flavor's Python module.

    Raises:
        EngineLibraryError: it is not installed, or its libraries are missing.
    """
    if not is_installed(flavor):
        raise EngineLibraryError(f"{flavor} is not installed", install_hint(flavor))
    try:
        module = importlib.import_module(MODULES[flavor])
        if not isinstance(module.__version__, str):
            raise TypeError(f"its version is {module.__version__!r}")
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise EngineLibraryError(
            f"{flavor} is installed, but cannot be loaded: {reason}", f"install it anew: {_command(flavor)}"
        ) from error
    return module


def library_version(flavor: Flavor) -> str | None:
    """Its exact version, or None where it cannot be loaded."""
    try:
        return str(load_library(flavor).__version__)
    except EngineLibraryError:
        return None


def install_hint(flavor: Flavor) -> str:
    """What to do where it is missing."""
    return f"install it: {_command(flavor)}"


def _command(flavor: Flavor) -> str:
    return f"pip install 'ugatit-batch[{flavor}]'"


def start(kind: Callable[[Any], Any], flavor: Flavor, logger: Any) -> Any:
    """A Builder or Runtime of the library.

    Raises:
        EngineLibraryError: it does not start, without a driver that it likes for one; with its words.
    """
    logger.forget()
    try:
        return kind(logger)
    except (TypeError, RuntimeError) as error:
        # "factory function returned nullptr"
        raise EngineLibraryError(
            f"{flavor} does not start: {logger.words()}", "see `ugatit-batch doctor`"
        ) from error


@functools.cache
def the_logger(trt: Any) -> Any:
    """The library's logger, one a process: it keeps errors, instead of writing them to stderr.

    `words()` are what has gone wrong since `forget()`, for people. `tensorrt` keeps the first logger that it
    is given whatever comes later, so there is one for all.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors = [*self.errors[1 - _REMEMBERED :], message]

        def forget(self) -> None:
            self.errors = []

        def words(self) -> str:
            return "; ".join(dict.fromkeys(self.errors)) or "it does not say why"

    return Logger()
