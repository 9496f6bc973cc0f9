"""`ugatit-batch translate`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from ugatit_batch.cli import shared
from ugatit_batch.cli.film_options import FILM_FORMATS, film_options, read_film_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.jobs import Result
    from ugatit_batch.planning import Plan


PICTURE_FORMATS = ("png", "jpg", "webp", "avif", "tiff")


class _SizeType(click.ParamType[str | int]):
    """`model`, `native` or a number of pixels."""

    name = "model|native|PIXELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        if value in ("model", "native"):
            return str(value)
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither model, native nor a number of pixels", param, ctx)
        return int(value)


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("-m", "--model", required=True, help="A model's name, its folder, or a published checkpoint.")
@click.option("--reverse", is_flag=True, help="Translate B → A.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder, or a file for a single input.  [default: INPUT_MODEL beside the input]",
)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Folders inside folders.")
@click.option(
    "--name",
    "template",
    cls=shared.FlagNamedOption,
    default="{parent}/{stem}{ext}",
    show_default=True,
    help="Output names, from {parent}, {stem}, {ext} and {model}.",
)
@click.option(
    "--if-exists",
    type=click.Choice(["skip", "overwrite", "rename", "error"]),
    default="skip",
    show_default=True,
    help="Where an output is there already.",
)
@click.option(
    "-f",
    "--format",
    "format_",
    cls=shared.FlagNamedOption,
    type=click.Choice(["auto", *PICTURE_FORMATS, *FILM_FORMATS]),
    multiple=True,
    help="Of pictures, or of films; repeat it for one of each.  [default: auto, which keeps the input's]",
)
@click.option(
    "-q", "--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="JPEG, WebP, AVIF."
)
@click.option(
    "--size",
    type=_SizeType(),
    default="model",
    show_default=True,
    help="What the network sees: the model's own size, the picture's, or at most so many pixels a side.",
)
@click.option(
    "--fit",
    type=click.Choice(["pad", "crop", "stretch"]),
    default="pad",
    show_default=True,
    help="How a picture comes into a square, where the network wants one.",
)
@click.option(
    "--output-size",
    type=click.Choice(["source", "network"]),
    default="source",
    show_default=True,
    help="Give back the input's size, or leave the network's.",
)
@click.option(
    "--alpha", type=click.Choice(["keep", "drop"]), default="keep", show_default=True, help="Transparency."
)
@click.option(
    "--metadata",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="EXIF, XMP, resolution; titles and such of films.",
)
@click.option(
    "--attention",
    multiple=True,
    type=click.Choice(["none", "heatmap", "overlay", "mask", "npy"]),
    help="Attention beside each output, of films as films; repeatable.  [default: none]",
)
@click.option(
    "-b",
    "--batch-size",
    type=shared.BatchType(),
    default="auto",
    show_default=True,
    help="Pictures at once; halved where memory runs out.",
)
@shared.engine_options
@shared.backend_option
@film_options
@click.option(
    "--on-error",
    type=click.Choice(["continue", "stop"]),
    default="continue",
    show_default=True,
    help="After an input that failed.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="A JSON line a file, into this file."
)
@shared.json_option
@shared.models_dir_option
@shared.verbose_option
@click.option("--quiet", is_flag=True, help="Only say what failed.")
def command(
    *,
    inputs: tuple[Path, ...],
    model: str,
    reverse: bool,
    output: Path | None,
    recursive: bool,
    template: str,
    if_exists: str,
    format_: tuple[str, ...],
    quality: int,
    size: str | int,
    fit: str,
    output_size: str,
    alpha: str,
    metadata: str,
    attention: tuple[str, ...],
    batch_size: int | None,
    device: str,
    precision: str,
    backend: str,
    on_error: str,
    dry_run: bool,
    report: Path | None,
    as_json: bool,
    models_dir: Path | None,
    verbose: int,
    quiet: bool,
    **film: Any,
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
    from ugatit_batch.errors import UsageError
    from ugatit_batch.images.write import Encoding
    from ugatit_batch.jobs import run
    from ugatit_batch.planning import Naming, plan
    from ugatit_batch.settings import Settings, choose_sizing

    kinds = tuple(dict.fromkeys(kind for kind in attention if kind != "none"))
    picture_format, film_format = _one_of_each(format_)
    encoding = Encoding(cast(Any, picture_format), quality, cast(Any, alpha), cast(Any, metadata))
    with shared.opened_model(model, models_dir) as bundle:
        direction = shared.choose_direction(bundle, reverse)
        if kinds and not bundle.generator.attention:
            raise UsageError(
                f"--attention {kinds[0]}: model {bundle.name} was trained without attention, it has no map",
                "leave --attention out, or use another model",
            )
        label = bundle.name + ("-reverse" if reverse else "")
        naming = Naming(output, label, encoding, template, cast(Any, kinds), cast(Any, film_format))
        planned = plan(inputs, naming, recursive)
        films = [job for job in planned.jobs if job.is_film]
        _check_used(picture_format, film_format, film, len(films), len(planned.jobs))
        options = read_film_options(film, cast(Any, film_format), metadata, films)
        sizing = choose_sizing(bundle, size, cast(Any, fit), cast(Any, output_size))
        if dry_run:
            _say_plan(planned, as_json)
            return 0

        translator = shared.open_translator(
            bundle,
            direction,
            sizing,
            device=device,
            precision=precision,
            backend=backend,
            batch_size=batch_size,
            models_dir=models_dir,
            quiet=quiet,
            smooth=options.smooth and bool(films),
        )
        if options.hwaccel == "auto" and not shared.is_cuda(device):
            options = dataclasses.replace(options, hwaccel="none")
        settings = Settings(sizing, encoding, cast(Any, kinds), translator.precision, options)
        title = f"{bundle.name} ({bundle.describe_direction(direction)}) · {translator.describe()}"
        unit = "files" if films else "pictures"
        display = TranslateDisplay(title, len(planned.jobs), unit, verbose=bool(verbose), quiet=quiet)
        results = run(
            planned,
            translator,
            bundle.digest(direction),
            settings,
            cast(Any, if_exists),
            watch=display.watch,
        )
        write_line = _reporter(report)
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


def _one_of_each(formats: tuple[str, ...]) -> tuple[str, str]:
    """The format of pictures and that of films.

    Raises:
        UsageError: two were given for one.
    """
    from ugatit_batch.errors import UsageError

    chosen = []
    for known in (PICTURE_FORMATS, FILM_FORMATS):
        named = list(dict.fromkeys(name for name in formats if name in known))
        if len(named) > 1:
            raise UsageError(f"--format {named[1]}: {named[0]} was given as well", "give one of them")
        chosen.append(named[0] if named else "auto")
    return chosen[0], chosen[1]


def _check_used(picture_format: str, film_format: str, film: dict[str, Any], films: int, jobs: int) -> None:
    """Refuse what was asked for by a flag and cannot have an effect.

    Raises:
        UsageError: it is for films, or for pictures, and there is none.
    """
    from ugatit_batch.errors import UsageError

    source = click.get_current_context().get_parameter_source
    given = {name for name in ("format_", "start", "end") if source(name) is ParameterSource.COMMANDLINE}
    named = [f"--format {film_format}"] if film_format != "auto" and "format_" in given else []
    named += [f"--{name}" for name in ("start", "end") if name in given and film[name] is not None]
    if named and not films:
        raise UsageError(f"{named[0]}: there is no film among the inputs", "leave it out")
    if picture_format != "auto" and "format_" in given and films == jobs:
        raise UsageError(
            f"--format {picture_format}: there is no picture among the inputs",
            "films are written as mp4, mov, mkv or webm",
        )


def _reporter(path: Path | None) -> Callable[[Result], None]:
    """A function that adds one result to `--report`."""
    from ugatit_batch.atomic import explain_os_error

    if path is None:
        return lambda _: None

    def write(mode: str, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open(mode, encoding="ascii") as handle:
                handle.write(text)
        except OSError as error:
            raise explain_os_error(error, path) from error

    modes = itertools.chain("w", itertools.repeat("a"))
    # Emptied with the first result: a run that is refused must not take an older report away.
    return lambda result: write(next(modes), json.dumps(result.to_json()) + "\n")


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
