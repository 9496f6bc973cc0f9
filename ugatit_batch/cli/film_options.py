"""The options of `translate` and `watch` that concern films."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import click

from ugatit_batch.cli.shared import FlagNamedOption
from ugatit_batch.video.info import AudioChoice, Codec, FilmFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ugatit_batch.video.info import FilmOptions

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

FILM_FORMATS = tuple(name for name in get_args(FilmFormat) if name != "auto")
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)


class TimeType(click.ParamType[Fraction]):
    """Seconds, minutes and seconds, or hours, minutes and seconds."""

    name = "[[H:]M:]S"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        """Seconds."""
        if isinstance(value, Fraction):
            return value
        found = _TIME.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no time such as 90, 1:30 or 0:01:30.5", param, ctx)
        hours, minutes, seconds = (Fraction(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + seconds


def film_options(command: CommandT) -> CommandT:
    """All of them; `read_film_options` puts their values together."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--codec",
        type=click.Choice(get_args(Codec)),
        default="auto",
        show_default=True,
        help="Of films; auto is libx264, and libvpx-vp9 in WebM.",
    ),
    click.option(
        "--crf",
        type=click.IntRange(0, 255),
        help="Quality of films in the codec's scale; less is better.  [default: 18 with libx264]",
    ),
    click.option("--preset", help="Speed of the codec, in its own words.  [default: veryfast with libx264]"),
    click.option(
        "--pix-fmt",
        default="auto",
        show_default=True,
        metavar="FORMAT",
        help="Pixel format of films; auto keeps depth and chroma as far as the codec takes them.",
    ),
    click.option(
        "--audio",
        type=click.Choice(get_args(AudioChoice)),
        default="copy",
        show_default=True,
        help="Sound of films; copy encodes anew only what the container cannot hold.",
    ),
    click.option(
        "--subtitles",
        type=click.Choice(["copy", "none"]),
        default="copy",
        show_default=True,
        help="Subtitles of films.",
    ),
    click.option("--start", type=TimeType(), help="Where in a film to begin."),
    click.option("--end", type=TimeType(), help="Where in a film to end."),
    click.option(
        "--segment",
        type=click.IntRange(1, 86400),
        default=60,
        show_default=True,
        metavar="SECONDS",
        help="A killed film goes on after the last whole piece of so many seconds.",
    ),
    click.option(
        "--resume/--no-resume", default=True, show_default=True, help="Go on with a film that was killed."
    ),
    click.option(
        "--smooth/--no-smooth",
        default=False,
        show_default=True,
        help="Average the style along a film, so that it flickers less; PyTorch only.",
    ),
    click.option(
        "--hwaccel",
        cls=FlagNamedOption,
        default="auto",
        show_default=True,
        metavar="auto|none|NAME",
        help="Hardware that decodes films; auto is cuda with a CUDA device, where it answers.",
    ),
)


def read_film_options(
    values: Mapping[str, Any], format_: FilmFormat, metadata: str, targets: Iterable[Path] | None
) -> FilmOptions:
    """What `film_options` have brought.

    Args:
        values: by the names of the parameters; others are left alone.
        format_: container.
        metadata: `keep` or `drop`.
        targets: where the results go; None where it is not known which films will come. Then options are
            refused that go into no container which `format_` may come to.

    Raises:
        UsageError: they contradict each other, or a film's container.
        EnvironmentLacksError: this machine lacks the hardware that was named.
    """
    from ugatit_batch.errors import UsageError
    from ugatit_batch.video.codecs import check_options
    from ugatit_batch.video.hardware import check_hwaccel
    from ugatit_batch.video.info import FilmOptions

    start, end = values["start"], values["end"]
    if end is not None and end <= (start or 0):
        raise UsageError(
            f"--end {float(end):g}: is not after --start", "both are counted from the film's beginning"
        )
    names = (
        "codec",
        "crf",
        "preset",
        "pix_fmt",
        "audio",
        "subtitles",
        "segment",
        "resume",
        "smooth",
        "hwaccel",
    )
    options = FilmOptions(
        format=format_,
        metadata=cast(Any, metadata),
        start=start,
        end=end,
        **{name: values[name] for name in names},
    )
    check_hwaccel(options.hwaccel)
    if targets is None:
        _check_any(options)
        return options
    for target in {target.suffix.lower(): target for target in targets}.values():
        check_options(options, target)
    return options


def _check_any(options: FilmOptions) -> None:
    """Refuse what goes into no container.

    Raises:
        UsageError, EnvironmentLacksError: as `check_options`, of the container that takes most.
    """
    from ugatit_batch.errors import EnvironmentLacksError, UsageError
    from ugatit_batch.video.codecs import check_options

    containers = ("mkv", "mp4", "mov", "webm") if options.format == "auto" else (options.format,)
    refused: list[UsageError | EnvironmentLacksError] = []
    for container in containers:
        try:
            check_options(options, Path(f"*.{container}"))
        except (UsageError, EnvironmentLacksError) as error:
            refused.append(error)
        else:
            return
    raise refused[0]
