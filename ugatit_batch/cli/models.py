"""`ugatit-batch models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from ugatit_batch.bundle import Direction
    from ugatit_batch.models import FoundModel


@click.group()
def command() -> None:
    """See, import, export and remove models."""


@command.command("list")
@shared.json_option
@shared.models_dir_option
def list_command(*, as_json: bool, models_dir: Path | None) -> None:
    """Which models there are."""
    from ugatit_batch.models import list_models

    found = list(list_models(shared.models_folder(models_dir)))
    if as_json:
        click.echo(json.dumps([_describe(model) for model in found], indent=2))
        return
    from ugatit_batch.display import show_models

    show_models(found)
    for model in found:
        if model.error is not None:
            click.echo(str(model.error), err=True)


def _describe(model: FoundModel) -> dict[str, Any]:
    bundle = model.bundle
    if bundle is None:
        return {"name": model.path.name, "path": str(model.path), "error": str(model.error)}
    return {
        "name": bundle.name,
        "directions": {d: bundle.describe_direction(d) for d in bundle.directions},
        "size": {"mode": bundle.working_size.mode, "side": bundle.working_size.side},
        "light": bundle.generator.light,
        "bundled": model.bundled,
        "path": str(model.path),
        "engines": [],
    }


@command.command()
@click.argument("model")
@shared.models_dir_option
def info(*, model: str, models_dir: Path | None) -> None:
    """What one model is, and whether its files are whole."""
    from ugatit_batch.models import find_model

    bundle = find_model(model, shared.models_folder(models_dir))
    click.echo(bundle.path)
    click.echo((bundle.path / "bundle.json").read_text("utf-8"), nl=False)
    for direction in bundle.directions:
        count = sum(array.size for array in bundle.weights(direction).values())
        click.echo(f"{bundle.describe_direction(direction)}: {count:,} parameters, checksum right")
    if bundle.generator.norm != "adalin":
        click.echo(f"normalisation {bundle.generator.norm} throughout the decoder, instead of AdaLIN and LIN")
    if not bundle.generator.attention:
        click.echo("no class activation map, and so no attention maps")


@command.command("import")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Of the model.  [default: the file's]")
@click.option(
    "--domains", default="A,B", show_default=True, help="Names of A and B, of a published checkpoint."
)
@click.option(
    "--era",
    type=click.Choice(["current", "before-2019-08-27", "before-2019-08-07"]),
    default="current",
    show_default=True,
    help="State of the published program that trained it, which the file does not tell.",
)
@click.option(
    "--direction",
    type=click.Choice(["both", "a2b", "b2a"]),
    default="both",
    show_default=True,
    help="Of a checkpoint of this program.",
)
@click.option(
    "--weights",
    type=click.Choice(["raw", "ema"]),
    help="Of a checkpoint of this program: as trained, or their average.  [default: ema where it has one]",
)
@shared.models_dir_option
def import_command(
    *,
    file: Path,
    name: str | None,
    domains: str,
    era: str,
    direction: str,
    weights: str | None,
    models_dir: Path | None,
) -> None:
    """Take in a model.

    FILE is a checkpoint of the published PyTorch program (.pt, .pth, .safetensors), a checkpoint of this
    program's own runs (RUN/checkpoints/step-NNNNNNNN.pt), or what `models export` wrote (.zip). Nothing in a
    file is ever executed.
    """
    from ugatit_batch.bundle import DIRECTIONS, check_name, save_bundle
    from ugatit_batch.errors import UsageError
    from ugatit_batch.models import import_archive, model_folder
    from ugatit_training.finish import is_own_checkpoint, write_model
    from ugatit_training.published import import_checkpoint

    place = shared.models_folder(models_dir)
    archived = file.suffix.lower() == ".zip"
    own = not archived and is_own_checkpoint(file)
    _refuse_given("a checkpoint of this program", own, "direction", "weights")
    _refuse_given("a published checkpoint", not own and not archived, "domains", "era")
    names = shared.read_domains(domains)
    name = check_name(name or (file.parent.parent.name if own else file.stem))
    folder = model_folder(name, place)
    if folder.exists():
        raise UsageError(
            f"{name}: there is a model of that name in {folder}",
            f"use --name, or `ugatit-batch models remove {name}` first",
        )
    if archived:
        bundle = import_archive(file, name, folder)
    elif own:
        wanted = DIRECTIONS if direction == "both" else (cast("Direction", direction),)
        bundle = write_model(file, name, folder, wanted, weights=cast(Any, weights))
    else:
        imported = import_checkpoint(file, name=name, domains=names, era=cast(Any, era))
        for note in imported.notes:
            click.echo(note, err=True)
        bundle = save_bundle(imported.bundle, imported.weights, folder)
    click.echo(f"model {bundle.name} ({bundle.describe_directions()}) is in {bundle.path}", err=True)


def _refuse_given(kind: str, fits: bool, *options: str) -> None:
    """Options on the command line that concern another kind of file; variables may stay set."""
    context = click.get_current_context()
    for option in options:
        if not fits and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{option} is for {kind}, which this file is not.")


@command.command()
@click.argument("model")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@shared.models_dir_option
def export(*, model: str, file: Path | None, models_dir: Path | None) -> None:
    """Write a model into one file (NAME.zip) that `models import` takes in elsewhere."""
    from ugatit_batch.models import export_archive, find_model

    bundle = find_model(model, shared.models_folder(models_dir))
    target = export_archive(bundle, file or Path(f"{bundle.name}.zip"))
    click.echo(f"model {bundle.name} is in {target}", err=True)


@command.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared.models_dir_option
def remove(*, model: str, yes: bool, models_dir: Path | None) -> None:
    """Delete a model from the models folder."""
    from ugatit_batch.bundle import remove_bundle
    from ugatit_batch.errors import UsageError
    from ugatit_batch.models import find_folder, is_bundled

    place = shared.models_folder(models_dir)
    folder = find_folder(model, place)
    if is_bundled(folder):
        raise UsageError(f"{model}: comes with ugatit-batch and stays", "only your own models can be removed")
    if folder.resolve().parent != place.resolve():
        raise UsageError(f"{model}: is not in {place}", "delete that folder yourself")
    if not yes:
        click.confirm(f"Delete {folder}?", abort=True, err=True)
    remove_bundle(folder)
    click.echo(f"model {model} is gone", err=True)
