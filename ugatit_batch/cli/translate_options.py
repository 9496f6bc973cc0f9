"""The options that `translate` and `watch` share; `choices` reads their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ugatit_batch.cli import shared
from ugatit_batch.cli.film_options import FILM_FORMATS, film_options

if TYPE_CHECKING:
    from collections.abc import Sequence

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
Option = Callable[[Any], Any]
"""What `click.option` gives."""

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


def translation_options(
    *,
    output: str,
    if_exists: Sequence[str],
    report: str,
    own: Sequence[Option],
    if_exists_help: str = "Where an output is there already; update makes it anew if its input has changed.",
) -> Callable[[CommandT], CommandT]:
    """All of them.

    The values of `recursive`, `if_exists`, `report`, `as_json`, `verbose` and `quiet` are the command's own
    business; `choices.open_choices` reads those of the others.

    Args:
        output: help of `--output`.
        if_exists: choices of `--if-exists`, the default first.
        report: help of `--report`.
        own: options of the command alone, which stand between those that decide the results and those that
            decide what is said.
        if_exists_help: help of `--if-exists`, where its choices are not those of `translate`.
    """

    def decorate(command: CommandT) -> CommandT:
        for option in reversed((*_where(output, if_exists, if_exists_help), *_HOW, *own, *_said(report))):
            command = option(command)
        return command

    return decorate


def _where(output: str, if_exists: Sequence[str], if_exists_help: str) -> tuple[Option, ...]:
    """With which model, and what the outputs are called."""
    return (
        click.option(
            "-m", "--model", required=True, help="A model's name, its folder, or a published checkpoint."
        ),
        click.option("--reverse", is_flag=True, help="Translate B → A."),
        click.option("-o", "--output", type=click.Path(path_type=Path), help=output),
        click.option(
            "--recursive/--no-recursive", default=True, show_default=True, help="Folders inside folders."
        ),
        click.option(
            "--name",
            "template",
            cls=shared.FlagNamedOption,
            default="{parent}/{stem}{ext}",
            show_default=True,
            help="Output names, from {parent}, {stem}, {ext} and {model}.",
        ),
        click.option(
            "--if-exists",
            type=click.Choice(if_exists),
            default=if_exists[0],
            show_default=True,
            help=if_exists_help,
        ),
    )


_HOW: tuple[Option, ...] = (
    click.option(
        "-f",
        "--format",
        "format_",
        cls=shared.FlagNamedOption,
        type=click.Choice(["auto", *PICTURE_FORMATS, *FILM_FORMATS]),
        multiple=True,
        help="Of pictures, or of films; repeat it for one of each.  [default: auto, which keeps the input's]",
    ),
    click.option(
        "-q",
        "--quality",
        type=click.IntRange(1, 100),
        default=95,
        show_default=True,
        help="JPEG, WebP, AVIF.",
    ),
    click.option(
        "--size",
        type=_SizeType(),
        default="model",
        show_default=True,
        help="What the network sees: the model's own size, the picture's, or at most so many pixels a side.",
    ),
    click.option(
        "--fit",
        type=click.Choice(["pad", "crop", "stretch"]),
        default="pad",
        show_default=True,
        help="How a picture comes into a square, where the network wants one.",
    ),
    click.option(
        "--output-size",
        type=click.Choice(["source", "network"]),
        default="source",
        show_default=True,
        help="Give back the input's size, or leave the network's.",
    ),
    click.option(
        "--alpha",
        type=click.Choice(["keep", "drop"]),
        default="keep",
        show_default=True,
        help="Transparency.",
    ),
    click.option(
        "--metadata",
        type=click.Choice(["keep", "drop"]),
        default="keep",
        show_default=True,
        help="EXIF, XMP, resolution; titles and such of films.",
    ),
    click.option(
        "--attention",
        multiple=True,
        type=click.Choice(["none", "heatmap", "overlay", "mask", "npy"]),
        help="Attention beside each output, of films as films; repeatable.  [default: none]",
    ),
    click.option(
        "-b",
        "--batch-size",
        type=shared.BatchType(),
        default="auto",
        show_default=True,
        help="Pictures at once; halved where memory runs out.",
    ),
    shared.engine_options,
    shared.backend_option,
    film_options,
)


def _said(report: str) -> tuple[Option, ...]:
    return (
        click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help=report),
        shared.json_option,
        shared.models_dir_option,
        shared.verbose_option,
        click.option("--quiet", is_flag=True, help="Only say what failed."),
    )
