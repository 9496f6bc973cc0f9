"""`ugatit-batch train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ugatit_batch.cli import shared, train_setup

if TYPE_CHECKING:
    from ugatit_training.fine_tuning import Start


@click.command()
@click.argument("dataset", required=False, type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="Folder of domain A, instead of DATASET.")
@click.option("--target", type=click.Path(path_type=Path), help="Folder of domain B, instead of DATASET.")
@click.option("--name", help="Of the run and the model.  [default: the data set's folder, or SOURCE2TARGET]")
@click.option("--domains", help="Names of A and B, such as photo,ink.  [default: the folders' names]")
@click.option(
    "--recipe",
    default="light",
    show_default=True,
    help="paper, light, small, ink, an ablation-* of table 1, or a TOML file.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--size", type=click.IntRange(min=32), help="Training size in pixels, instead of the recipe's.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Instead of the recipe's.")
@click.option("--evaluate-every", type=click.IntRange(min=0), help="Steps between two evaluations; 0: none.")
@click.option(
    "--set",
    "assignments",
    cls=shared.FlagNamedOption,
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any field of the config that --dry-run prints, as TOML or a plain word; repeatable.",
)
@click.option("--init-from", metavar="MODEL", help="Start the generators from a model: its name or folder.")
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
@click.option(
    "--features",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Feature network with which evaluations measure KID, too.",
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Read every picture, and look for copies, before the first step.",
)
@click.option("--tensorboard", is_flag=True, help="Losses and samples for TensorBoard, in RUN/tensorboard.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only print the resolved config and the memory it needs; pictures are not looked at.",
)
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
    evaluate_every: int | None,
    assignments: tuple[str, ...],
    init_from: str | None,
    device: str,
    out: Path,
    licence: str,
    about: tuple[str, ...],
    features: Path | None,
    check: bool,
    tensorboard: bool,
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
    from ugatit_training.config import config_to_toml

    source, target = train_setup.choose_folders(dataset, source, target)
    name = name or train_setup.default_name(dataset, source, target)
    names = train_setup.choose_domains(domains, source, target)
    run = out / name
    flags = {"steps": steps, "batch_size": batch_size, "image_size": size, "precision": precision}
    flags["evaluate_every"] = evaluate_every
    given = train_setup.merge_flags(flags, train_setup.read_assignments(assignments))
    start: Start | None = None
    if init_from is not None:
        from ugatit_training.fine_tuning import find_start

        start = find_start(init_from, shared.models_folder(models_dir), run)
    config, notes = train_setup.resolve_config(recipe, given, start)
    if dry_run:
        for note in notes:
            click.echo(note, err=True)
        click.echo(config_to_toml(config), nl=False)
        from ugatit_engines.devices import choose_device, free_memory
        from ugatit_training.acceleration import check_device
        from ugatit_training.memory import statement

        chosen = choose_device(device)
        check_device(config, chosen)
        click.echo(statement(config, chosen, free_memory(chosen)), err=True)
        return 0

    from ugatit_batch.cli.train_run import Wanted, run_training

    return run_training(
        Wanted(
            name=name,
            config=config,
            notes=tuple(notes),
            start=start,
            source=source,
            target=target,
            domains=names,
            run=run,
            models=shared.models_folder(models_dir),
            device=device,
            licence=licence,
            about=about,
            features=features,
            check=check,
            tensorboard=tensorboard,
            as_json=as_json,
            quiet=quiet,
        )
    )
