"""`ugatit-batch plugin`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from ugatit_plugins.editor_places import Editor, Place

_EDITOR = click.Choice(["krita", "gimp"])
_TARGET = click.Path(file_okay=False, path_type=Path)
_SANDBOX = "{}: may not start programs of this system; run `ugatit-batch serve` in a terminal first"


@click.group()
def command() -> None:
    """Plug-ins for image editors: Krita, and GIMP 3.

    \b
    ugatit-batch plugin install krita
    ugatit-batch plugin doctor krita
    """  # noqa: D301 - click needs the character, not the backslash


@command.command()
@click.argument("editor", type=_EDITOR)
@click.option(
    "--target",
    type=_TARGET,
    help="The editor's own folder, that holds pykrita or plug-ins.  [default: all that are found]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
def install(*, editor: Editor, target: Path | None, dry_run: bool) -> None:
    """Put a plug-in where the editor looks, over an older one of which no file was changed.

    All that is written goes into the editor's folder of this user: the plug-in itself and, for Krita, the
    line in its settings that switches the plug-in on. Krita must not be running; GIMP has to be started anew.
    The plug-in keeps the path of this installation, and UGATIT_BATCH_MODELS_DIR where that is set: run this
    again when ugatit-batch or the models were moved or updated.
    """
    from ugatit_plugins import installer
    from ugatit_plugins.discovery import state_dir

    places = _places(editor, target)
    for place in places:
        installer.check(place)
    for place in places:
        if dry_run:
            for path in installer.files(place):
                click.echo(path)
            continue
        installer.install(place, installer.setup_of(state_dir().absolute()))
        click.echo(f"{installer.title(place)} plug-in is in {place.plugin}", err=True)
        if place.flatpak:
            click.echo(_SANDBOX.format(installer.title(place)), err=True)
    if dry_run:
        return
    if editor == "krita" and target is not None:
        where = "Settings > Configure Krita > Python Plugin Manager"
        click.echo(f"start Krita, switch U-GAT-IT on in {where}, and start it again", err=True)
    elif editor == "krita":
        click.echo("start Krita: Settings > Dockers > U-GAT-IT", err=True)
    else:
        click.echo("start GIMP: Filters > Artistic > Translate with U-GAT-IT", err=True)


@command.command()
@click.argument("editor", type=_EDITOR)
@click.option(
    "--target",
    type=_TARGET,
    help="The folder that `install` was given.  [default: all that are found]",
)
def uninstall(*, editor: Editor, target: Path | None) -> None:
    """Remove what `install` has put there, and nothing else."""
    from ugatit_batch.errors import NothingToDoError
    from ugatit_plugins import installer

    places = [place for place in _places(editor, target) if installer.read_setup(place) is not None]
    if not places:
        raise NothingToDoError(
            f"{editor}: no plug-in is installed" + (f" in {target}" if target else ""),
            "`ugatit-batch plugin list` says where they are; --target names a folder it does not know",
        )
    for place in places:
        for path in installer.uninstall(place):
            click.echo(f"{path}: stays, it is not what was installed", err=True)
        click.echo(f"{installer.title(place)} plug-in is gone from {place.folder}", err=True)


@command.command("list")
@click.option(
    "--target",
    type=_TARGET,
    help="The folder that `install` was given.  [default: all that are found]",
)
@shared.json_option
def list_command(*, target: Path | None, as_json: bool) -> None:
    """Which editors there are, and what is installed where.

    --json prints an array: editor, folder, flatpak (application or null), version (of the plug-in, or null),
    faults (what keeps the editor from running it).
    """
    from ugatit_plugins.editor_places import EDITORS, TITLES, find_places
    from ugatit_plugins.installer import look_at, title

    found = [look_at(place) for editor in EDITORS for place in find_places(editor, target)]
    if as_json:
        rows = [
            {
                "editor": one.place.editor,
                "folder": str(one.place.folder),
                "flatpak": one.place.flatpak,
                "version": one.version,
                "faults": list(one.faults),
            }
            for one in found
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return

    from ugatit_batch.display.plugin import show_plugins

    lines = [
        (title(one.place), "; ".join((one.version or "none", *one.faults)), str(one.place.folder))
        for one in found
    ]
    missing = set(EDITORS) - {one.place.editor for one in found}
    lines += [(TITLES[editor], "no such editor was found", "") for editor in EDITORS if editor in missing]
    show_plugins(lines)


@command.command()
@click.argument("editor", type=_EDITOR, required=False)
@click.option(
    "--target",
    type=_TARGET,
    help="The folder that `install` was given.  [default: all that are found]",
)
@shared.json_option
def doctor(*, editor: Editor | None, target: Path | None, as_json: bool) -> int:
    """What the editor will see: plug-in, server, models, and a picture sent round.

    Starts the server as the plug-in would, and ends it again if it was not running before. What is broken
    makes the exit code 4; an editor or a plug-in that is not there does so if it is named.

    --json prints one object: findings (topic, state: ok, missing or problem, text, hint), models (names),
    device.
    """
    from ugatit_plugins.editor_doctor import all_editors, diagnose_editors

    wanted = [editor] if editor else all_editors()
    diagnosis = diagnose_editors(wanted, required=editor is not None, target=target)
    if as_json:
        click.echo(json.dumps(diagnosis.to_json(), indent=2, ensure_ascii=False))
    else:
        from ugatit_batch.display.plugin import show_editor_diagnosis

        show_editor_diagnosis(diagnosis)
    return 4 if diagnosis.count("problem") else 0


def _places(editor: Editor, target: Path | None) -> list[Place]:
    """Where to install: one folder that was named, or all that are found.

    Raises:
        EnvironmentLacksError: none is found.
    """
    from ugatit_batch.errors import EnvironmentLacksError
    from ugatit_plugins.editor_places import TITLES, find_places, looked_in

    places = find_places(editor, target)
    if not places:
        name = "GIMP 3" if editor == "gimp" else TITLES[editor]
        raise EnvironmentLacksError(
            f"{name}: there is no {looked_in(editor)}", f"start {name} once and close it, or give --target"
        )
    return places
