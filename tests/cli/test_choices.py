from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from ugatit_batch.cli.choices import open_choices
from ugatit_batch.cli.translate_options import translation_options
from ugatit_batch.errors import EnvironmentLacksError, UgatitBatchError, UsageError

from .test_translate_films import FILM_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable


@click.command()
@translation_options(
    output="Folder.",
    if_exists=("update", "skip"),
    report="Lines.",
    own=(click.option("--settle", type=float, default=2.0), click.option("--poll", is_flag=True)),
)
def service(**values: Any) -> dict[str, Any]:
    """A command with options of its own."""
    return values


@pytest.fixture
def read(models_dir: Path) -> Callable[..., dict[str, Any]]:
    """The values of a command line."""

    def call(*arguments: str) -> dict[str, Any]:
        line = ["-m", "ink", "--models-dir", str(models_dir), *arguments]
        values: dict[str, Any] = service.main(line, standalone_mode=False)
        return values

    return call


def test_a_command_has_its_own_options_between_those_of_all(read: Callable[..., dict[str, Any]]) -> None:
    names = [parameter.name for parameter in service.params]
    assert names[:6] == ["model", "reverse", "output", "recursive", "template", "if_exists"]
    assert names[-7:] == ["settle", "poll", "report", "as_json", "models_dir", "verbose", "quiet"]
    assert set(names) > FILM_OPTIONS
    values = read("--settle", "3")
    assert (values["settle"], values["poll"], values["if_exists"]) == (3.0, False, "update")
    with pytest.raises(click.BadParameter):
        read("--if-exists", "rename")


def test_choices_hold_what_was_asked_for(read: Callable[..., dict[str, Any]]) -> None:
    values = read(
        *("--reverse", "-o", "out", "--name", "{stem}-x", "-f", "webp", "-f", "mkv", "-q", "80"),
        *("--attention", "mask", "--attention", "none", "--size", "64", "--crf", "30", "--metadata", "drop"),
        *("--precision", "bf16", "-d", "cpu", "-b", "3", "--fit", "crop"),
    )
    with open_choices(values) as choices:
        naming = choices.naming
        assert (choices.bundle.name, choices.direction, naming.label) == ("ink", "b2a", "ink-reverse")
        assert (naming.output, naming.template, naming.attention) == (Path("out"), "{stem}-x", ("mask",))
        assert (naming.encoding.format, naming.encoding.quality, naming.container) == ("webp", 80, "mkv")
        settings = choices.settings(None)
        assert (settings.sizing.side, settings.sizing.fit) == (64, "crop")
        assert (settings.film.crf, settings.film.format, settings.film.metadata) == (30, "mkv", "drop")
        assert (settings.encoding, settings.attention) == (naming.encoding, naming.attention)
        engine, whole = choices.open_engine(settings, has_films=True, quiet=True)
        assert (whole.precision, whole.film.hwaccel) == ("bf16", "none")
        assert choices.title(engine).startswith("ink (ink → photo) · ")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (("-f", "webm", "--codec", "libx264"), UsageError, r"cannot be put into WEBM \(\*\.webm\)"),
        (("-f", "mov", "--audio", "opus"), UsageError, r"cannot be put into MOV \(\*\.mov\)"),
        (("-f", "mp4", "--crf", "60"), UsageError, "libx264 takes 0"),
        (("--crf", "64"), UsageError, "libx264 takes 0"),
        (("--codec", "prores", "--crf", "3"), UsageError, "prores has no such setting"),
        (("--preset", "swift"), UsageError, "--preset swift"),
        (("--pix-fmt", "yuv9"), UsageError, "--pix-fmt yuv9"),
        (("--start", "3", "--end", "2"), UsageError, "is not after --start"),
        (("--hwaccel", "abacus"), EnvironmentLacksError, "abacus"),
    ],
)
def test_what_no_film_can_be_is_refused_before_one_comes(
    read: Callable[..., dict[str, Any]], options: tuple[str, ...], kind: type[UgatitBatchError], words: str
) -> None:
    with open_choices(read(*options)) as choices, pytest.raises(kind, match=words):
        choices.settings(None)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--codec", "prores"),
        ("--codec", "libvpx-vp9"),
        ("--audio", "opus"),
        ("--audio", "aac"),
        ("--crf", "60"),
        ("-f", "mkv", "--audio", "opus"),
    ],
)
def test_what_some_film_can_be_is_taken(
    read: Callable[..., dict[str, Any]], options: tuple[str, ...]
) -> None:
    with open_choices(read(*options)) as choices:
        assert choices.settings(None) == choices.settings([])


def test_films_that_are_known_are_what_counts(read: Callable[..., dict[str, Any]]) -> None:
    with open_choices(read("--codec", "prores")) as choices:
        choices.settings([Path("a.mov")])
        with pytest.raises(UsageError, match="cannot be put into MP4"):
            choices.settings([Path("a.mov"), Path("b.mp4")])
