"""Options that several commands have, and opening the model that one of them names."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.images.geometry import Sizing
    from ugatit_engines.open_engine import Engine

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")


INTERRUPTED = 130
"""Exit code of a run that Ctrl-C has ended."""


@contextlib.contextmanager
def interrupted_with(message: Callable[[], str]) -> Iterator[None]:
    """End with words of one's own at Ctrl-C, where the same command does not go on as `main` would say.

    Args:
        message: what is left, asked for when it has come to that.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        click.echo(f"ugatit-batch: interrupted; {message()}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from interrupt


class FlagNamedOption(click.Option):
    """An option whose variable is named after its flag, where its parameter in Python is called otherwise."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value; None where it is empty or not set."""
        flag = max(self.opts, key=len).lstrip("-").replace("-", "_").upper()
        return os.environ.get(f"{ctx.auto_envvar_prefix}_{flag}") or None


class BatchType(click.ParamType[int | None]):
    """`auto` or a number."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """None for `auto`."""
        if value == "auto" or value is None:
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither auto nor a number above 0", param, ctx)
        return int(value)


class SecondsType(click.FloatRange):
    """Seconds in a range; `nan` is neither less nor more than anything, and passes a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number of seconds, and no other kind of float."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def models_dir_option(command: CommandT) -> CommandT:
    """`--models-dir`."""
    return click.option(
        "--models-dir",
        envvar="UGATIT_BATCH_MODELS_DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where trained and imported models are kept.  [default: your data folder]",
    )(command)


def verbose_option(command: CommandT) -> CommandT:
    """`-v`."""
    return click.option("-v", "--verbose", count=True, help="Say more; twice: tracebacks too.")(command)


def json_option(command: CommandT) -> CommandT:
    """`--json`."""
    return click.option(
        "--json", "as_json", cls=FlagNamedOption, is_flag=True, help="Results for programs on stdout."
    )(command)


def engine_options(command: CommandT) -> CommandT:
    """`--device`, `--precision`."""
    command = click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Of the network; auto is fp16 on a GPU, and on a CPU bf16 where it has AMX, else fp32.",
    )(command)
    return click.option(
        "-d",
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:1; 0,1 for two GPUs.",
    )(command)


def backend_option(command: CommandT) -> CommandT:
    """`--backend`."""
    return click.option(
        "--backend",
        type=click.Choice(["auto", "torch", "tensorrt"]),
        default="auto",
        show_default=True,
        help="Engine; auto is TensorRT where an engine was built that fits, and PyTorch otherwise.",
    )(command)


def read_domains(text: str) -> tuple[str, str]:
    """The two names of a `--domains` value.

    Raises:
        UsageError: it is not two names with a comma between.
    """
    first, _, second = (part.strip() for part in text.partition(","))
    if not first or not second or "," in second:
        raise click.UsageError(f"--domains {text}: give two names with a comma between, such as photo,ink.")
    return first, second


def models_folder(given: Path | None) -> Path:
    """The user's models folder."""
    from ugatit_batch.models import default_models_dir

    return given or default_models_dir()


@contextlib.contextmanager
def opened_model(name: str, models_dir: Path | None) -> Iterator[Bundle]:
    """The model behind a `--model` value: a name, a bundle folder, or a published checkpoint file.

    Raises:
        ModelNotFoundError, BundleError: there is none, or it is damaged.
    """
    from ugatit_batch.models import find_model

    path = Path(name)
    if path.suffix.lower() not in _CHECKPOINT_SUFFIXES or not path.is_file():
        yield find_model(name, models_folder(models_dir))
        return

    from ugatit_batch.bundle import save_bundle
    from ugatit_training.published import import_checkpoint

    imported = import_checkpoint(path, name=path.stem, domains=("A", "B"))
    for note in imported.notes:
        click.echo(note, err=True)
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as folder:
        yield save_bundle(imported.bundle, imported.weights, Path(folder) / path.stem)


def open_translator(
    bundle: Bundle,
    direction: Direction,
    sizing: Sizing,
    *,
    device: str,
    precision: str,
    backend: str,
    batch_size: int | None,
    models_dir: Path | None,
    quiet: bool = False,
    smooth: bool = False,
) -> Engine:
    """The engine that the options ask for; why one that was built is passed over goes to stderr.

    Raises:
        UgatitBatchError: as `open_engine`.
    """
    from ugatit_engines.engine_files import engines_folder
    from ugatit_engines.open_engine import open_engine

    return open_engine(
        bundle,
        direction,
        device,
        cast(Any, precision),
        batch_size,
        backend=cast(Any, backend),
        engines=engines_folder(bundle, models_folder(models_dir)),
        sizing=sizing,
        say=lambda text: None if quiet else click.echo(text, err=True),
        smooth=smooth,
    )


def is_cuda(device: str) -> bool:
    """Whether a `--device` value means one or several NVIDIA GPUs on this machine."""
    from ugatit_engines.devices import choose_device, split_devices

    return choose_device(split_devices(device)[0]).type == "cuda"


def choose_direction(bundle: Bundle, reverse: bool) -> Direction:
    """A → B, or B → A with `--reverse`.

    Raises:
        UsageError: the model has no such direction.
    """
    from ugatit_batch.errors import UsageError

    direction: Direction = "b2a" if reverse else "a2b"
    if direction not in bundle.directions:
        raise UsageError(
            f"model {bundle.name} only translates {bundle.describe_directions()}",
            "leave --reverse out" if reverse else "add --reverse",
        )
    return direction
