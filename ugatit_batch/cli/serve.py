"""`ugatit-batch serve`."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any, cast

import click

from ugatit_batch.cli import shared
from ugatit_batch.cli.stopping import Stopping

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_plugins.server import Server


@click.command()
@shared.engine_options
@shared.backend_option
@shared.models_dir_option
@click.option(
    "--idle",
    type=shared.SecondsType(min=0),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="End when nobody has asked for anything for so long; 0 is never.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Of this machine alone; 0 lets the system choose.",
)
@click.option(
    "--queue",
    "places",
    cls=shared.FlagNamedOption,
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    metavar="NUMBER",
    help="Pictures that are taken at once; who brings more is told to come again.",
)
@shared.json_option
@shared.verbose_option
def command(
    *,
    device: str,
    precision: str,
    backend: str,
    models_dir: Path | None,
    idle: float,
    port: int,
    places: int,
    as_json: bool,
    verbose: int,
) -> None:
    """Translate for image editors, with models that stay loaded.

    The plug-ins for Krita and GIMP start it by themselves, and it ends by itself. It answers programs on this
    machine alone that can read its token in your files. Ctrl-C or SIGTERM ends it when the picture at hand is
    done, a second one at once. plugins/PROTOCOL.md tells what it can be asked.

    \b
    ugatit-batch serve
    ugatit-batch serve --device cuda --idle 0 --json
    """  # noqa: D301 - click needs the character, not the backslash
    with Stopping() as stopping:
        from ugatit_plugins.discovery import state_dir
        from ugatit_plugins.server import Server, ServerOptions, serve

        def make() -> Server:
            # Not before it is sure that there is no other server: PyTorch takes its time.
            from ugatit_plugins.opening import EngineOpening
            from ugatit_plugins.protocol import Limits
            from ugatit_plugins.worker import Worker

            folder = shared.models_folder(models_dir)
            opening = EngineOpening(
                device, cast(Any, precision), cast(Any, backend), models_dir=folder, say=_say
            )
            server = Server(
                Worker(opening, Limits(queue=places)),
                ServerOptions(port, idle),
                _say if verbose else lambda _: None,
                _say if verbose > 1 else lambda _: None,
            )
            stopping.at_first(server.stop)
            return server

        asked = threading.Event()
        stopping.at_first(asked.set)
        serve(state_dir(), make, lambda server: _tell(server, as_json), asked.is_set)


def _tell(server: Server, as_json: bool) -> None:
    address = server.address
    if as_json:
        values = {
            "url": address.url,
            "token": address.token,
            "pid": address.pid,
            "protocol": address.protocol,
        }
        click.echo(json.dumps(values))
    else:
        click.echo(f"serving at {address.url} ({server.worker.device}); Ctrl-C ends it", err=True)


def _say(text: str) -> None:
    # Whoever has started it may have left since, and closed its end.
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=True)
