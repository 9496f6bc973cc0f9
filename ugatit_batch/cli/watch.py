"""`ugatit-batch watch`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from ugatit_batch.cli import shared
from ugatit_batch.cli.choices import open_choices
from ugatit_batch.cli.report import reporter
from ugatit_batch.cli.stopping import Stopping
from ugatit_batch.cli.translate_options import translation_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.display.watch import WatchDisplay
    from ugatit_batch.jobs import Result
    from ugatit_batch.planning import Naming
    from ugatit_batch.watch.events import Event

_WARNINGS = {"waiting", "problem", "left"}
_STATUS_EVERY = 2.0  # seconds between two status lines for a supervisor, at least

_OWN = (
    click.option(
        "--settle",
        type=shared.SecondsType(0.1, 3600),
        default=2.0,
        show_default=True,
        metavar="SECONDS",
        help="A file is whole when it has not changed for so long, and opens.",
    ),
    click.option("--poll", is_flag=True, help="Look again and again by itself; network disks need it."),
    click.option(
        "--rescan",
        type=shared.SecondsType(1, 86400),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="How often everything is looked through for what nobody told of.",
    ),
    click.option(
        "--existing/--no-existing",
        default=True,
        show_default=True,
        help="What is there at the first start, too.",
    ),
    click.option(
        "--after",
        type=click.Choice(["keep", "move", "delete"]),
        default="keep",
        show_default=True,
        help="What happens to an input when its output has been read back.",
    ),
    click.option(
        "--done",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where --after move puts inputs.  [default: DIR_done beside the folder]",
    ),
    click.option("--once", is_flag=True, help="End when everything that is there is done."),
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@translation_options(
    output="Folder.  [default: DIR_MODEL beside the folder]",
    if_exists=("auto", "update", "skip", "rename", "error"),
    if_exists_help="Where an output is there already; auto is update, but rename with --after move and "
    "delete, as a new file of an old name is another picture then.",
    report="A JSON line a file, added to this file.",
    own=_OWN,
)
def command(
    *,
    folder: Path,
    recursive: bool,
    if_exists: str,
    settle: float,
    poll: bool,
    rescan: float,
    existing: bool,
    after: Literal["keep", "move", "delete"],
    done: Path | None,
    once: bool,
    report: Path | None,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **values: Any,
) -> int:
    """Translate whatever comes into a folder, until it is stopped.

    A file is translated once it has stopped changing and can be opened; files with temporary names, hidden
    ones and the results are left alone. What is done is remembered beside the results, so that a restart goes
    on where it was. Ctrl-C or SIGTERM ends it within seconds, a second one at once.

    \b
    ugatit-batch watch ./inbox --model ink --output ./outbox
    ugatit-batch watch ./inbox --model ink --output ./outbox --after move --done ./originals
    """  # noqa: D301 - click needs the character, not the backslash
    with Stopping() as stopping, open_choices(values) as choices:
        from ugatit_batch.display.watch import WatchDisplay
        from ugatit_batch.jobs import Session
        from ugatit_batch.watch import supervisor
        from ugatit_batch.watch.after import After
        from ugatit_batch.watch.events import Notice
        from ugatit_batch.watch.rules import Rules
        from ugatit_batch.watch.service import Service, WatchOptions

        root, done = _check_places(folder, choices.naming, after, done)
        settings = choices.settings(None)
        write_line = reporter(report, append=True)
        engine, settings = choices.open_engine(settings, has_films=True, quiet=quiet)
        display = WatchDisplay(
            choices.title(engine),
            verbose=bool(verbose),
            quiet=quiet,
            # Results on the same terminal would run into the status line.
            live=not (as_json and sys.stdout.isatty()),
        )
        bundle = choices.bundle.digest(choices.direction)
        by_mode = "update" if after == "keep" else "rename"
        exists = cast(Any, by_mode if if_exists == "auto" else if_exists)
        service = Service(
            Rules(folder, [place for place in (root, done) if place is not None], recursive=recursive),
            root,
            choices.naming,
            lambda is_final: Session([root], engine, bundle, settings, exists, display.watch, is_final),
            After(after, folder, done),
            WatchOptions(settle, poll, rescan, existing, once),
            _status_teller(display),
        )
        stopping.at_first(service.stop)
        failed = 0
        with display, contextlib.closing(service.events()) as events:
            for event in events:
                failed += _show(event, display, write_line)
                if as_json:
                    click.echo(json.dumps(_to_json(event)))
                if isinstance(event, Notice) and event.kind == "watching":
                    supervisor.ready()
            supervisor.stopping()
            display.summarize()
    return 1 if failed and once else 0


def _check_places(folder: Path, naming: Naming, after: str, done: Path | None) -> tuple[Path, Path | None]:
    """The output folder, and the folder for inputs that are done.

    Raises:
        UsageError: a folder is missing, or what is put there would come back as an input.
    """
    from ugatit_batch.errors import UsageError
    from ugatit_batch.planning import job_for, output_folder

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "check the path")
    if done is not None and after != "move":
        raise UsageError(f"--done {done}: is for --after move", "leave one of them out, or add the other")
    root = output_folder(folder, naming)
    for parent in ("", "sub"):
        # What `--name` makes of any file has to lie below.
        job_for(folder / parent / "name.png", folder, root, naming)
    if after == "move" and done is None:
        inside = folder.resolve()
        done = inside.with_name(f"{inside.name}_done")
    for option, place in (("--output", root), ("--done", done)):
        if place is None:
            continue
        if place.exists() and not place.is_dir():
            raise UsageError(f"{option} {place}: is not a folder", "give a folder")
        if folder.resolve().is_relative_to(place.resolve()):
            raise UsageError(f"{option} {place}: the watched folder is in it", "give another folder")
    if done is not None and done.resolve() == root.resolve():
        raise UsageError(f"--done {done}: is the output folder", "give another folder")
    return root, done


def _show(event: Event, display: WatchDisplay, write_line: Callable[[Result], None]) -> bool:
    """Show an event, write it into the report, and tell whether it is a failure."""
    from ugatit_batch.errors import DiskFullError, OutputError
    from ugatit_batch.watch.events import Notice

    if isinstance(event, Notice):
        display.say("warning" if event.kind in _WARNINGS else "notice", event.text)
        return event.kind == "problem"
    display.show(event.result)
    try:
        write_line(event.result)
    except (DiskFullError, OutputError) as error:
        # A service goes on without its report.
        display.say("warning", str(error))
    return event.result.status == "failed"


def _to_json(event: Event) -> dict[str, object]:
    """The stable form for programs."""
    from ugatit_batch.watch.events import Notice

    stamp = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
    if isinstance(event, Notice):
        return {"event": event.kind, **stamp, "message": event.text}
    return {
        "event": "result",
        **stamp,
        **event.result.to_json(),
        "after": event.after,
        "moved_to": None if event.moved_to is None else str(event.moved_to),
    }


def _status_teller(display: WatchDisplay) -> Callable[[int, int, str], None]:
    """What is told how many files wait and are worked on: shows it here, and to a supervisor now and then."""
    from ugatit_batch.watch import supervisor

    told, said = -_STATUS_EVERY, ""

    def tell(waiting: int, working: int, state: str) -> None:
        nonlocal told, said
        display.status(waiting, working, state)
        now = time.monotonic()
        # What it is left with when nothing happens any more is told in any case.
        if now - told >= _STATUS_EVERY or not working:
            line = display.line
            if line != said:
                told, said = now, line
                supervisor.status(line)

    return tell
