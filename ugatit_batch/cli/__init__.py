"""The command line: one file a command, parsing and wiring only.

Heavy packages are imported inside command bodies, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from ugatit_batch import __version__
from ugatit_batch.cli.shared import INTERRUPTED
from ugatit_batch.errors import UgatitBatchError

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_COMMANDS = {
    "translate": "translate",
    "watch": "watch",
    "train": "train",
    "evaluate": "evaluate",
    "build-engine": "build_engine",
    "models": "models",
    "serve": "serve",
    "plugin": "plugin",
    "bench": "bench",
    "doctor": "doctor",
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"ugatit_batch.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={
        "auto_envvar_prefix": "UGATIT_BATCH",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
    },
)
@click.version_option(__version__, prog_name="ugatit-batch")
def cli() -> None:
    """Translate pictures with U-GAT-IT models, and train such models.

    \b
    ugatit-batch translate ./photos --model ink
    ugatit-batch train --source ./cats --target ./dogs --name cat2dog
    ugatit-batch models list
    """  # noqa: D301 - click needs the character, not the backslash


def main() -> None:
    """Run the program and leave with its exit code; errors go to stderr in a line or two."""
    traced = _asks_for_traceback(sys.argv[1:])
    if not traced:
        sys.excepthook = _say_unexpected
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Arrows and foreign file names must not end a run whose output goes to an old code page.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UgatitBatchError as error:
        if traced:
            traceback.print_exc()
        click.echo(f"ugatit-batch: {error.message}", err=True)
        if error.hint:
            click.echo(f"  → {error.hint}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read stdout has left, as `head` does; without this Python complains as it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("ugatit-batch: interrupted; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _asks_for_traceback(arguments: list[str]) -> bool:
    flags = [a for a in arguments if a.startswith("-v") and set(a[1:]) == {"v"}]
    return sum(len(flag) - 1 for flag in flags) + arguments.count("--verbose") >= 2


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_unexpected(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> Any:
    click.echo(f"ugatit-batch: unexpected {kind.__name__}: {error}", err=True)
    click.echo("  → this is a fault of the program; run again with -v -v and report what it prints", err=True)
