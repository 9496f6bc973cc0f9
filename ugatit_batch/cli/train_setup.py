"""From the options of `ugatit-batch train` to a resolved config, folders and names."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Any

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch

    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.fine_tuning import Start

_FLAGS = {"image_size": "--size"}
_BARE_WORD = re.compile(r"[A-Za-z_][\w.-]*")


def read_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """What `--set` names, by field: a TOML value, or a bare word as a string.

    Raises:
        UsageError: one is not FIELD=VALUE, or a field is named twice.
        ConfigError: there is no such field.
    """
    from ugatit_batch.errors import ConfigError
    from ugatit_training.config import TrainConfig

    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise click.UsageError(f"--set {text}: write FIELD=VALUE, such as --set ema=0.999.")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"--set {text}: there is no field {name}", f"{guess}fields: {', '.join(fields)}"
            )
        if name in values:
            raise click.UsageError(f"--set {name}: given twice.")
        values[name] = _read_value(text, value)
    return values


def _read_value(assignment: str, value: str) -> Any:
    with contextlib.suppress(tomllib.TOMLDecodeError):
        found = tomllib.loads(f"value = {value}")
        if found.keys() == {"value"}:
            return found["value"]
    if _BARE_WORD.fullmatch(value):
        return value
    raise click.UsageError(
        f"--set {assignment}: {value} is neither a word nor a TOML value: 3, 0.5, true, [0.5, 1.0] or "
        '["color", "cutout"]; in a shell, put quotes around it.'
    )


def merge_flags(flags: Mapping[str, Any], assigned: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that either names; a flag that was not given is None.

    Raises:
        UsageError: both name the same.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name in assigned:
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise click.UsageError(f"{flag} and --set {name}={assigned[name]}: give one of them.")
    return given | dict(assigned)


def resolve_config(
    recipe: str, given: Mapping[str, Any], start: Start | None
) -> tuple[TrainConfig, list[str]]:
    """The config of a run, and what somebody should know of how it came about.

    Raises:
        ConfigError: the recipe or a value is wrong, or contradicts the model that the run starts from.
    """
    from ugatit_training.config import load_config

    config = load_config(recipe, given)
    if start is None:
        return config, []
    from ugatit_training.fine_tuning import missing_directions, shape_overrides

    model = start.record["model"]
    notes: list[str] = []
    if start.bundle is not None:
        notes.append(f"the generators start from model {model}, the discriminators anew")
        notes += [
            f"model {model} has no generator {d}: that one starts anew, too"
            for d in missing_directions(start)
        ]
    overrides = shape_overrides(start, config, given)
    if overrides and start.bundle is not None:
        changes = ", ".join(
            f"{name} = {value} instead of {getattr(config, name)}" for name, value in overrides.items()
        )
        notes.append(f"as model {model} has it: {changes}")
    return load_config(recipe, {**given, **overrides}), notes


def choose_folders(dataset: Path | None, source: Path | None, target: Path | None) -> tuple[Path, Path]:
    """The training folders of A and B.

    Raises:
        UsageError: neither a data set nor both folders are given, or more than that.
    """
    if dataset is not None and source is None and target is None:
        return dataset / "trainA", dataset / "trainB"
    if dataset is None and source is not None and target is not None:
        return source, target
    raise click.UsageError("Give either DATASET, or both --source and --target.")


def default_name(dataset: Path | None, source: Path, target: Path) -> str:
    """Of the run and the model."""
    if dataset is not None:
        return dataset.resolve().name
    return f"{source.resolve().name}2{target.resolve().name}"


def choose_domains(given: str | None, source: Path, target: Path) -> tuple[str, str]:
    """The names of A and B: those given, or the folders'.

    Raises:
        UsageError: `given` is not two names.
    """
    if given is not None:
        return shared.read_domains(given)
    first, second = (path.resolve().name for path in (source, target))
    return first.removeprefix("train") or first, second.removeprefix("train") or second


def check_data(
    domains: Domains, folders: tuple[Path, Path], per_step: int, run: Path, quiet: bool
) -> list[str]:
    """Look at all pictures before the first step, with progress on stderr; return the warnings.

    Args:
        domains: the training pictures.
        folders: that they are in; test pictures beside them must be others.
        per_step: how many of each domain a step takes.
        run: the run folder, which remembers what has been looked at.
        quiet: no progress.

    Raises:
        DatasetError: some cannot be read.
    """
    from ugatit_batch.display.train import CheckDisplay
    from ugatit_training.data_checks import check_pictures, find_tests

    checks = check_pictures(domains, find_tests(*folders), per_step, run / "pictures.json")
    warnings: list[str] = []
    with CheckDisplay(quiet=quiet) as display, contextlib.closing(checks):
        for checked in checks:
            display.show(checked)
            warnings.extend(checked.warnings)
    return warnings


def memory_of(device: torch.device) -> Callable[[], tuple[int, int] | None]:
    """A function that tells how many bytes of a GPU are used now, by anybody, and how many it has."""
    import torch

    if device.type != "cuda":
        return lambda: None

    def look() -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total

    return look
