"""`ugatit-batch translate`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ugatit_batch.cli.choices import open_choices
from ugatit_batch.cli.report import reporter
from ugatit_batch.cli.translate_options import translation_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ugatit_batch.jobs import IfExists
    from ugatit_batch.planning import Naming, Plan


_OWN = (
    click.option(
        "--on-error",
        type=click.Choice(["continue", "stop"]),
        default="continue",
        show_default=True,
        help="After an input that failed.",
    ),
    click.option("--dry-run", is_flag=True, help="Only say what would be done."),
)


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@translation_options(
    output="Folder, or a file for a single input.  [default: INPUT_MODEL beside the input]",
    if_exists=("skip", "update", "overwrite", "rename", "error"),
    report="A JSON line a file, into this file.",
    own=_OWN,
)
def command(
    *,
    inputs: tuple[Path, ...],
    recursive: bool,
    if_exists: IfExists,
    on_error: str,
    dry_run: bool,
    report: Path | None,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **values: Any,
) -> int:
    """Translate pictures, films, and folders of both.

    Folders are looked through with everything in them, and their tree is mirrored. Run the same command
    again, and it goes on where it was: what is done is skipped, what failed is tried again, and a film goes
    on after its last whole segment.

    \b
    ugatit-batch translate ./photos --model ink
    ugatit-batch translate cat.jpg --model ink -o drawing.png --attention overlay
    ugatit-batch translate film.mp4 --model ink --smooth
    """  # noqa: D301 - click needs the character, not the backslash
    from ugatit_batch.display.translate import TranslateDisplay
    from ugatit_batch.jobs import run
    from ugatit_batch.planning import plan

    with open_choices(values) as choices:
        planned = plan(inputs, choices.naming, recursive)
        films = [job.target for job in planned.jobs if job.is_film]
        _check_used(choices.naming, values, len(films), len(planned.jobs))
        settings = choices.settings(films)
        if dry_run:
            _say_plan(planned, as_json)
            return 0

        translator, settings = choices.open_engine(settings, has_films=bool(films), quiet=quiet)
        unit = "files" if films else "pictures"
        title = choices.title(translator)
        display = TranslateDisplay(title, len(planned.jobs), unit, verbose=bool(verbose), quiet=quiet)
        bundle = choices.bundle.digest(choices.direction)
        results = run(planned, translator, bundle, settings, if_exists, watch=display.watch)
        write_line = reporter(report)
        failed = 0
        with display, contextlib.closing(results):
            for result in results:
                display.show(result)
                write_line(result)
                if as_json:
                    click.echo(json.dumps(result.to_json()))
                failed += result.status == "failed"
                if failed and on_error == "stop":
                    break
            display.summarize(planned.ignored, planned.places())
    return 1 if failed else 0


def _check_used(naming: Naming, values: Mapping[str, Any], films: int, jobs: int) -> None:
    """Refuse what was asked for by a flag and cannot have an effect.

    Raises:
        UsageError: it is for films, or for pictures, and there is none.
    """
    from ugatit_batch.errors import UsageError

    source = click.get_current_context().get_parameter_source
    given = {name for name in ("format_", "start", "end") if source(name) is ParameterSource.COMMANDLINE}
    picture_format, film_format = naming.encoding.format, naming.container
    named = [f"--format {film_format}"] if film_format != "auto" and "format_" in given else []
    named += [f"--{name}" for name in ("start", "end") if name in given and values[name] is not None]
    if named and not films:
        raise UsageError(f"{named[0]}: there is no film among the inputs", "leave it out")
    if picture_format != "auto" and "format_" in given and films == jobs:
        raise UsageError(
            f"--format {picture_format}: there is no picture among the inputs",
            "films are written as mp4, mov, mkv or webm",
        )


def _say_plan(planned: Plan, as_json: bool) -> None:
    for job in planned.jobs:
        if as_json:
            line = {"input": str(job.source), "output": str(job.target), "status": "planned"}
            click.echo(json.dumps(line))
        else:
            there = "  (is there already)" if os.path.exists(job.target) else ""  # noqa: PTH110
            click.echo(f"{click.format_filename(job.source)} → {click.format_filename(job.target)}{there}")
    for _, error in planned.problems:
        click.echo(str(error), err=True)
    click.echo(
        f"{_count(planned)}; {planned.ignored} other files are left alone; nothing was done",
        err=True,
    )


def _count(planned: Plan) -> str:
    films = sum(job.is_film for job in planned.jobs)
    pictures = f"{len(planned.jobs) - films} pictures"
    return f"{pictures}, {films} films" if films else pictures
