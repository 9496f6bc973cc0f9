from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from ugatit_batch import __version__, errors
from ugatit_batch.cli import cli
from ugatit_batch.errors import UgatitBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..conftest import Outcome

    Program = Callable[..., Outcome]

HEAVY = ["av", "numpy", "PIL", "psutil", "rich", "safetensors", "torch", "torchvision"]

LOOK = """
import contextlib, io, json, sys
from ugatit_batch.cli import cli
loaded = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        cli.main([*command, "--help"], standalone_mode=False)
    assert "Usage:" in shown.getvalue(), command
    loaded[" ".join(command)] = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps(loaded))
"""


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and every group, the program itself first."""
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def test_no_help_imports_anything_heavy() -> None:
    paths = list(commands())
    assert {(), ("translate",), ("train",), ("models",), ("models", "import")} <= set(paths)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(paths), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded == {" ".join(path): [] for path in paths}


@pytest.mark.parametrize("path", list(commands()), ids=lambda path: " ".join(path) or "ugatit-batch")
def test_help_tells_of_every_option(program: Program, path: tuple[str, ...]) -> None:
    outcome = program(*path, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "\\b" not in outcome.out
    assert program(*path, "-h").out == outcome.out
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert all(flag in outcome.out for flag in parameter.opts)


def test_the_version_is_told(program: Program) -> None:
    assert __version__ in program("--version").out


@pytest.mark.parametrize(
    "arguments",
    [(), ("paint",), ("translate",), ("translate", "a", "--nonsense"), ("models", "bake")],
    ids=str,
)
def test_wrong_usage_ends_with_2(program: Program, arguments: tuple[str, ...]) -> None:
    outcome = program(*arguments)
    assert outcome.code == 2
    assert "Usage:" in outcome.err
    assert "Traceback" not in outcome.err


def all_errors(kind: type[UgatitBatchError] = UgatitBatchError) -> list[type[UgatitBatchError]]:
    return [kind, *(error for inner in kind.__subclasses__() for error in all_errors(inner))]


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = dict(re.findall(r"(\w+Error)\s+(\d)", errors.__doc__ or ""))
    own = [kind for kind in all_errors() if kind.__module__ == errors.__name__]
    assert {name: int(code) for name, code in drawn.items()} == {
        kind.__name__: kind.exit_code for kind in own
    }


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.PictureError, 1),
        (errors.OutputError, 1),
        (errors.UsageError, 2),
        (errors.SizeError, 2),
        (errors.NothingToDoError, 3),
        (errors.ModelNotFoundError, 4),
        (errors.BundleError, 4),
        (errors.MemoryLacksError, 4),
        (errors.OutputBusyError, 4),
        (errors.DiskFullError, 5),
    ],
)
def test_each_error_ends_the_program_with_its_code(
    program: Program, monkeypatch: pytest.MonkeyPatch, kind: type[UgatitBatchError], code: int
) -> None:
    def fail(*_: object) -> None:
        raise kind("a.png: went wrong", "do this next")

    monkeypatch.setattr("ugatit_batch.models.find_model", fail)
    outcome = program("models", "info", "ink")
    assert outcome.code == code
    assert outcome.err == "ugatit-batch: a.png: went wrong\n  → do this next\n"
    assert outcome.out == ""


@pytest.mark.parametrize("flags", [["-v", "-v"], ["-vv"], ["--verbose", "--verbose"], ["-v", "--verbose"]])
def test_a_traceback_comes_only_when_asked_for_twice(program: Program, flags: list[str]) -> None:
    once = program("translate", "missing", "-m", "none", "-v")
    twice = program("translate", "missing", "-m", "none", *flags)
    assert "Traceback" not in once.err
    assert "Traceback" in twice.err
    assert once.code == twice.code == 4
    assert "--model none: no such model" in twice.err


def test_a_fault_of_the_program_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from ugatit_batch.cli import main

    def fail(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("ugatit_batch.models.find_model", fail)
    monkeypatch.setattr(sys, "argv", ["ugatit-batch", "models", "info", "ink"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    sys.excepthook(ZeroDivisionError, caught.value, None)
    said = capsys.readouterr().err
    assert said.startswith("ugatit-batch: unexpected ZeroDivisionError: division by zero\n")
    assert "-v -v" in said


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_leaves_is_no_fault() -> None:
    command = [sys.executable, "-m", "ugatit_batch", "models", "list", "--json"]
    # Gone before the program starts: closed only afterwards, it may have been read from.
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
