"""`ugatit-batch train`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ugatit_training.loop import Step


@click.command()
@click.argument("dataset", required=False, type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="Folder of domain A, instead of DATASET.")
@click.option("--target", type=click.Path(path_type=Path), help="Folder of domain B, instead of DATASET.")
@click.option("--name", help="Of the run and the model.  [default: the data set's folder, or SOURCE2TARGET]")
@click.option("--domains", help="Names of A and B, such as photo,ink.  [default: the folders' names]")
@click.option(
    "--recipe", default="light", show_default=True, help="paper, light, small, ink, or a TOML file."
)
@click.option("--steps", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--size", type=click.IntRange(min=32), help="Training size in pixels, instead of the recipe's.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Instead of the recipe's.")
@click.option("-d", "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where run folders are.",
)
@click.option("--licence", default="", help="Terms of the finished model, kept in it.")
@click.option("--about", multiple=True, help="Where the pictures come from, kept in the model; repeatable.")
@click.option("--dry-run", is_flag=True, help="Only print the resolved config.")
@shared.json_option
@shared.models_dir_option
@shared.verbose_option
@click.option("--quiet", is_flag=True, help="Only say what went wrong.")
def command(
    *,
    dataset: Path | None,
    source: Path | None,
    target: Path | None,
    name: str | None,
    domains: str | None,
    recipe: str,
    steps: int | None,
    batch_size: int | None,
    size: int | None,
    precision: str | None,
    device: str,
    out: Path,
    licence: str,
    about: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    models_dir: Path | None,
    verbose: int,  # noqa: ARG001 - read by `main` for tracebacks
    quiet: bool,
) -> int:
    """Train a model from two folders of pictures.

    DATASET has the folders trainA and trainB. The same command goes on where an earlier one ended. The
    finished model is ready for `ugatit-batch translate --model NAME`.

    \b
    ugatit-batch train ./cat2dog --recipe light
    ugatit-batch train --source ./photos --target ./drawings --name drawing --recipe small
    """  # noqa: D301 - click needs the character, not the backslash
    from ugatit_training.config import config_to_toml, load_config

    source, target = _folders(dataset, source, target)
    name = name or _default_name(dataset, source, target)
    given = {"steps": steps, "batch_size": batch_size, "image_size": size, "precision": precision}
    config = load_config(recipe, {k: v for k, v in given.items() if v is not None})
    if dry_run:
        click.echo(config_to_toml(config), nl=False)
        return 0

    from ugatit_batch.display import TrainDisplay
    from ugatit_batch.errors import UsageError
    from ugatit_batch.models import model_folder
    from ugatit_engines.devices import choose_device
    from ugatit_training.checkpoint import list_checkpoints
    from ugatit_training.data import find_domains
    from ugatit_training.finish import write_model
    from ugatit_training.loop import train
    from ugatit_training.run_folder import RunInfo, held, mark_of, model_belongs_to, open_run

    folder = model_folder(name, shared.models_folder(models_dir))
    chosen = choose_device(device)
    pictures = find_domains(source, target)
    run = out / name
    info = RunInfo(
        mark=mark_of(run),
        source=str(source.resolve()),
        target=str(target.resolve()),
        domains=_domain_names(domains, source, target),
        pictures=(len(pictures.a), len(pictures.b)),
        sources=about,
        licence=licence,
    )
    if not model_belongs_to(folder, info):
        raise UsageError(
            f"--name {name}: there is a model of that name, from elsewhere",
            f"use another --name, or `ugatit-batch models remove {name}`",
        )
    with held(run):
        info = open_run(run, config, info)
        a, b = info.domains
        title = f"{name}: {a} ({len(pictures.a)}) → {b} ({len(pictures.b)}) on {chosen}"
        report: Step | None = None
        with _stopping() as should_stop, TrainDisplay(title, config.steps, quiet=quiet) as display:
            for report in train(config, pictures, run, chosen, lambda: should_stop.number != 0):
                display.show(report)
                if as_json:
                    click.echo(_json_line(report))
        if should_stop.number and report is not None and report.step < config.steps:
            click.echo(f"stopped, with a checkpoint in {run}; the same command goes on from there", err=True)
            return 0 if should_stop.number == signal.SIGTERM else 130
        if report is None:
            click.echo(f"{run}: already at step {config.steps}, its last", err=True)
        bundle = write_model(list_checkpoints(run / "checkpoints")[-1].path, name, folder)
        click.echo(f"model {bundle.name} is in {folder}", err=True)
        click.echo(f"  → ugatit-batch translate PICTURES --model {bundle.name}", err=True)
    return 0


def _folders(dataset: Path | None, source: Path | None, target: Path | None) -> tuple[Path, Path]:
    if dataset is not None and source is None and target is None:
        return dataset / "trainA", dataset / "trainB"
    if dataset is None and source is not None and target is not None:
        return source, target
    raise click.UsageError("Give either DATASET, or both --source and --target.")


def _default_name(dataset: Path | None, source: Path, target: Path) -> str:
    return (
        dataset.resolve().name if dataset is not None else f"{source.resolve().name}2{target.resolve().name}"
    )


def _domain_names(domains: str | None, source: Path, target: Path) -> tuple[str, str]:
    if domains is None:
        first, second = (path.resolve().name for path in (source, target))
        return first.removeprefix("train") or first, second.removeprefix("train") or second
    first, comma, second = domains.partition(",")
    if not comma or not first.strip() or not second.strip() or "," in second:
        raise click.UsageError(
            f"--domains {domains}: give two names with a comma between, such as photo,ink."
        )
    return first.strip(), second.strip()


def _json_line(report: Step) -> str:
    line: dict[str, Any] = dataclasses.asdict(report)
    line["sample"], line["checkpoint"] = (
        None if path is None else str(path) for path in (report.sample, report.checkpoint)
    )
    return json.dumps(line)


@dataclasses.dataclass
class _Signal:
    """The signal that asked for an end; 0 for none."""

    number: int = 0


@contextlib.contextmanager
def _stopping() -> Iterator[_Signal]:
    """Ctrl-C and SIGTERM end the run after the step at hand; a second one at once."""
    received = _Signal()

    def ask(number: int, _frame: FrameType | None) -> None:
        if received.number:
            raise KeyboardInterrupt
        received.number = number
        click.echo("stopping after this step, with a checkpoint …", err=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
