"""A tiny data set and recipe, and calling the program on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.testing import CliRunner

from ugatit_batch.cli import cli
from ugatit_batch.errors import UgatitBatchError
from ugatit_training.checkpoint import list_checkpoints

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
steps = 6
image_size = 32
load_size = 36
light = true
channels = 4
residual_blocks = 1
discriminator_channels = 4
workers = 0
report_every = 2
sample_every = 4
checkpoint_every = 3
"""


@dataclass
class Place:
    """A data set, a recipe, and where runs and models go."""

    data: Path
    recipe: Path
    runs: Path
    models: Path

    def options(self) -> list[str]:
        """What every call here needs."""
        folders = ["--out", str(self.runs), "--models-dir", str(self.models)]
        return ["--recipe", str(self.recipe), "--device", "cpu", *folders]

    def steps_saved(self, name: str = "cat2dog") -> list[int]:
        return [c.step for c in list_checkpoints(self.runs / name / "checkpoints")]


@dataclass
class Outcome:
    """How a call ended, as `main` would have it."""

    code: int
    out: str
    err: str


def invoke(*arguments: object) -> Outcome:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    error = result.exception
    if error is None:
        return Outcome(result.return_value or 0, result.stdout, result.stderr)
    if isinstance(error, UgatitBatchError):
        return Outcome(error.exit_code, result.stdout, f"{result.stderr}{error.message}\n{error.hint}\n")
    if isinstance(error, click.ClickException):
        return Outcome(error.exit_code, result.stdout, f"{result.stderr}{error.format_message()}\n")
    raise error
