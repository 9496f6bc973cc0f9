"""Everything this project raises on purpose, with the exit code that each one ends the program with.

UgatitBatchError            1
├── UsageError              2   what was asked for cannot be done as asked
│   ├── SizeError           2   the network cannot take that picture size
│   └── ConfigError         2   a training config or recipe is wrong
├── NothingToDoError        3   no picture and no film in the inputs
├── EnvironmentLacksError   4   something has to be installed, freed or built first
│   ├── ModelNotFoundError  4   no model of that name
│   ├── BundleError         4   a model on disk is damaged, or is not a model
│   ├── DeviceError         4   the device that was asked for is not there
│   ├── MemoryLacksError    4   the device has too little memory for this size
│   ├── OutputBusyError     4   another run writes to the same output folder
│   └── EngineError         4   a TensorRT engine cannot be used
│       ├── EngineMissingError  4   nobody has built one
│       ├── EngineLibraryError  4   TensorRT is not installed, or cannot be loaded
│       ├── EngineUnfitError    4   it was built for another model, GPU, version, system, size or batch
│       └── EngineDamagedError  4   its files are not what was built
├── DiskFullError           5   no room left where the output goes
├── PictureError            1   one input could not be read; the others go on
├── FilmError               1   one film could not be read; the others go on
├── OutputError             1   one output could not be written; the others go on
├── InputChangedError       1   one input changed while it was translated, and stays for another time
├── DatasetError            1   the training pictures cannot be used
├── EngineBuildError        1   TensorRT could not build an engine
├── TrainingDivergedError   1   a loss is no longer a finite number
└── ProcessLostError        1   another process of a training of several has ended

Every message says which file or option, what was wrong, and (as `hint`) what to do next.
Knows nothing of pictures, models or the command line.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class UgatitBatchError(Exception):
    """Base of the tree.

    Args:
        message: what was wrong, naming the file or the option.
        hint: what to do next; shown on a line of its own.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(UgatitBatchError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class SizeError(UsageError):
    """The network cannot take that picture size."""


class ConfigError(UsageError):
    """A training config or recipe is wrong."""


class NothingToDoError(UgatitBatchError):
    """There is no picture and no film in the inputs."""

    exit_code = 3


class EnvironmentLacksError(UgatitBatchError):
    """Something has to be installed, freed or built first."""

    exit_code = 4


class ModelNotFoundError(EnvironmentLacksError):
    """No model of that name."""


class BundleError(EnvironmentLacksError):
    """A model on disk is damaged, or is not a model."""


class DeviceError(EnvironmentLacksError):
    """The device that was asked for is not there."""


class MemoryLacksError(EnvironmentLacksError):
    """The device has too little memory for this size."""


class OutputBusyError(EnvironmentLacksError):
    """Another run writes to the same output folder."""


class EngineError(EnvironmentLacksError):
    """A TensorRT engine cannot be used."""


class EngineMissingError(EngineError):
    """Nobody has built one."""


class EngineLibraryError(EngineError):
    """TensorRT is not installed, or cannot be loaded."""


class EngineUnfitError(EngineError):
    """An engine was built for something else.

    Args:
        reason: for what.
        message, hint: as everywhere.
    """

    def __init__(self, reason: Misfit, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.reason = reason


Misfit = Literal["model", "flavor", "version", "system", "gpu", "precision", "size", "batch"]
"""In what an engine does not fit."""


class EngineDamagedError(EngineError):
    """An engine's files are not what was built."""


class DiskFullError(UgatitBatchError):
    """No room left where the output goes."""

    exit_code = 5


class PictureError(UgatitBatchError):
    """One input could not be read; the others go on."""


class FilmError(UgatitBatchError):
    """One film could not be read; the others go on."""


class OutputError(UgatitBatchError):
    """One output could not be written; the others go on."""


class InputChangedError(UgatitBatchError):
    """One input changed while it was translated: it stays, and what it is now has yet to be translated."""


class DatasetError(UgatitBatchError):
    """The training pictures cannot be used."""


class EngineBuildError(UgatitBatchError):
    """TensorRT could not build an engine."""


class TrainingDivergedError(UgatitBatchError):
    """A loss is no longer a finite number."""


class ProcessLostError(UgatitBatchError):
    """Another process of a training of several has ended."""
