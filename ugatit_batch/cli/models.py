"""`ugatit-batch models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.models import FoundModel
    from ugatit_engines.engine_files import FoundEngine
    from ugatit_engines.engine_status import EngineStatus


@click.group()
def command() -> None:
    """See, import, export and remove models."""


@command.command("list")
@shared.json_option
@shared.models_dir_option
def list_command(*, as_json: bool, models_dir: Path | None) -> None:
    """Which models there are."""
    from ugatit_batch.models import list_models

    place = shared.models_folder(models_dir)
    found = list(list_models(place))
    if as_json:
        click.echo(json.dumps([_describe(model, place) for model in found], indent=2))
        return
    from ugatit_batch.display.tables import show_models

    show_models(found)
    for model in found:
        if model.error is not None:
            click.echo(str(model.error), err=True)


def _describe(model: FoundModel, place: Path) -> dict[str, Any]:
    from ugatit_engines.engine_files import engines_folder, list_engines

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
        "engines": [_describe_engine(engine) for engine in list_engines(engines_folder(bundle, place))],
    }


def _describe_engine(engine: FoundEngine) -> dict[str, Any]:
    record = engine.record
    if record is None:
        return engine.to_json()
    return {
        "path": str(engine.plan),
        "flavor": record.flavor,
        "precision": record.precision,
        "size": record.profile.label,
        "direction": record.direction,
    }


@command.command()
@click.argument("model")
@shared.json_option
@shared.models_dir_option
def info(*, model: str, as_json: bool, models_dir: Path | None) -> None:
    """What one model is, whether it is whole, and which of its engines fit here.

    --json prints one object: name, path, bundled (came with ugatit-batch), manifest (its bundle.json),
    parameters (a direction: how many), engines (path, what the sidecar says, fits, and misfit: null, or why
    not; of a damaged one path, error, fits and misfit).
    """
    from ugatit_batch.bundle import MANIFEST
    from ugatit_batch.models import find_model, is_bundled

    place = shared.models_folder(models_dir)
    bundle = find_model(model, place)
    manifest = (bundle.path / MANIFEST).read_text("utf-8")
    counts = {d: sum(array.size for array in bundle.weights(d).values()) for d in bundle.directions}
    engines = _check_engines(bundle, place)
    if as_json:
        line = {
            "name": bundle.name,
            "path": str(bundle.path),
            "bundled": is_bundled(bundle.path),
            "manifest": json.loads(manifest),
            "parameters": counts,
            "engines": [engine.to_json() for engine in engines],
        }
        click.echo(json.dumps(line, indent=2, ensure_ascii=False))
        return
    click.echo(bundle.path)
    click.echo(manifest, nl=False)
    for direction, count in counts.items():
        click.echo(f"{bundle.describe_direction(direction)}: {count:,} parameters, checksum right")
    if bundle.generator.norm != "adalin":
        click.echo(f"normalisation {bundle.generator.norm} throughout the decoder, instead of AdaLIN and LIN")
    if not bundle.generator.attention:
        click.echo("no class activation map, and so no attention maps")
    for engine in engines:
        click.echo(engine.describe())
    if not engines:
        click.echo("no engines")


def _check_engines(bundle: Bundle, place: Path) -> Sequence[EngineStatus]:
    from ugatit_engines.engine_files import engines_folder, list_engines

    found = list(list_engines(engines_folder(bundle, place)))
    if not found:
        return ()

    from ugatit_engines.engine_status import check_engines
    from ugatit_engines.machine import this_machine

    return check_engines(bundle, found, this_machine(), thorough=True)


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
    from ugatit_batch.bundle import DIRECTIONS, MANIFEST, check_name, save_bundle
    from ugatit_batch.errors import UsageError
    from ugatit_batch.models import import_archive, is_free, model_folder
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
    if (folder / MANIFEST).exists():
        raise UsageError(
            f"{name}: there is a model of that name in {folder}",
            f"use --name, or `ugatit-batch models remove {name}` first",
        )
    if not is_free(folder):
        raise UsageError(f"{folder}: has files in it that are of no model", "use --name, or move them away")
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
@click.option("--engines", is_flag=True, help="Its TensorRT engines alone; the model stays.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared.models_dir_option
def remove(*, model: str, engines: bool, yes: bool, models_dir: Path | None) -> None:
    """Delete a model and its engines from the models folder, or the engines of any model."""
    from ugatit_batch.bundle import remove_bundle
    from ugatit_batch.errors import UsageError
    from ugatit_batch.models import find_folder, is_bundled

    place = shared.models_folder(models_dir)
    if engines:
        _remove_engines(model, place, yes=yes)
        return
    folder = find_folder(model, place)
    if is_bundled(folder):
        raise UsageError(f"{model}: comes with ugatit-batch and stays", "only your own models can be removed")
    if folder.resolve().parent != place.resolve():
        raise UsageError(f"{model}: is not in {place}", "delete that folder yourself")
    if not yes:
        click.confirm(f"Delete {folder}?", abort=True, err=True)
    remove_bundle(folder)
    click.echo(f"model {model} is gone", err=True)


def _remove_engines(model: str, place: Path, *, yes: bool) -> None:
    from ugatit_batch.errors import NothingToDoError
    from ugatit_engines.engine_files import find_plans, remove_engines
    from ugatit_engines.engine_status import find_engines_folder

    folder = find_engines_folder(model, place)
    count = len(find_plans(folder))
    if not count:
        raise NothingToDoError(f"{model}: there are no engines in {folder}", "nothing was deleted")
    many = "1 engine" if count == 1 else f"{count} engines"
    if not yes:
        click.confirm(f"Delete {many} in {folder}?", abort=True, err=True)
    remove_engines(folder)
    click.echo(f"{many} of {model} {'is' if count == 1 else 'are'} gone", err=True)
