"""Putting the plug-ins where the editors look, and taking them away again.

A plug-in is whole or not there: it is written beside its place and renamed into it. `ugatit.json`, by which
it finds the server, also lists the files that were installed and what was in them, so that nothing else is
ever removed or written over. It is the last to go, so that a removal that was cut off can be repeated. Knows
nothing of the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugatit_batch import __version__
from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import EnvironmentLacksError, NothingToDoError, UsageError
from ugatit_plugins import kritarc
from ugatit_plugins.editor_places import TITLES, Place, is_running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

    from ugatit_plugins.editor_places import Editor

SETUP = "ugatit.json"
"""In a plug-in's folder: how to start the server, where that tells of itself, and what is installed."""
_CLIENT = "ugatit_client.py"
_DESKTOP = "ugatit.desktop"
_PROGRAM = "ugatit.py"  # what GIMP starts, if it may be run
_BESIDE = ".ugatit-"
_LEFTOVER = re.compile(re.escape(_BESIDE) + "[a-z0-9_]{8}")  # as tempfile names what is written beside
_NEW, _OLD, _OLD_DESKTOP = "new", "old", "old.desktop"
_CACHE = "__pycache__"
_MODELS_DIR = "UGATIT_BATCH_MODELS_DIR"


@dataclass(frozen=True)
class Installed:
    """A plug-in as it is found in a place."""

    place: Place
    version: str | None
    """Of ugatit-batch when it was installed; None: there is no plug-in."""
    faults: tuple[str, ...] = ()
    """What would keep the editor from running it, for people."""


def setup_of(state: Path) -> dict[str, Any]:
    """What a plug-in has to know; a models folder that is set now is kept, editors seldom have the variable.

    Args:
        state: the folder in which the server tells of itself.
    """
    # -P: the server starts in the user's own folder, and must not import what lies there.
    command = [sys.executable, "-P", "-m", "ugatit_batch", "serve", "--json"]
    if models := os.environ.get(_MODELS_DIR):
        command += ["--models-dir", str(Path(models).absolute())]
    return {"command": command, "state": str(state), "version": __version__}


def install(place: Place, setup: Mapping[str, Any]) -> list[Path]:
    """Copy the plug-in in, over an older one of ours, and switch it on in Krita.

    Args:
        place: where.
        setup: what `setup_of` gave.

    Returns:
        The files, those that were changed included.

    Raises:
        UsageError: there are files in the way that are not ours, or were changed.
        EnvironmentLacksError: Krita is running, and would write over its settings.
        OutputError, DiskFullError: a file cannot be written; what was there before still is.
    """
    check(place)
    _refuse_running(place)
    target = place.plugin
    try:
        _forget_leftovers(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=_BESIDE, dir=target.parent, ignore_cleanup_errors=True
        ) as beside:
            fresh, desktop = Path(beside) / _NEW, Path(beside) / _DESKTOP
            _write_plugin(place.editor, fresh, setup)
            with contextlib.ExitStack() as undo:
                _exchange(fresh, target, Path(beside) / _OLD, undo)
                if place.editor == "krita":
                    desktop.write_bytes(_own_desktop())
                    _exchange(desktop, _desktop_file(place), Path(beside) / _OLD_DESKTOP, undo)
                    if place.settings is not None:
                        place.settings.parent.mkdir(parents=True, exist_ok=True)
                        kritarc.enable(place.settings)
                undo.pop_all()
    except OSError as error:
        raise explain_os_error(error, target) from error
    return files(place)


def check(place: Place) -> None:
    """Do nothing where the plug-in may be put.

    Raises:
        UsageError: there are files in the way that are not ours, or were changed.
    """
    target = place.plugin
    if target.is_symlink():
        raise UsageError(f"{target}: is a link, and stays", "remove it, or give another --target")
    setup = _read_setup(target)
    if target.exists() and setup is None:
        raise UsageError(
            f"{target}: was not put there by ugatit-batch", "move it away, or give another --target"
        )
    desktop = _desktop_file(place)
    if place.editor == "krita" and os.path.lexists(desktop) and not _is_own_desktop(desktop, setup):
        raise UsageError(f"{desktop}: was not put there by ugatit-batch, or changed since", "move it away")
    if setup is None:
        return
    if changed := [path for path, digest in _listed(target, setup) if _is_changed(path, digest)]:
        names = ", ".join(str(path) for path in changed)
        raise UsageError(f"{names}: changed after it was installed, and would be lost", "move it away")
    if foreign := _foreign(target, setup):
        names = ", ".join(str(path) for path in foreign)
        raise UsageError(f"{names}: not put there by ugatit-batch, and in the way", "move them away")


def uninstall(place: Place) -> list[Path]:
    """Remove what `install` has put there, and switch the plug-in off in Krita.

    Returns:
        Files that stay because they were changed since, or put there by someone else.

    Raises:
        NothingToDoError: there is no plug-in of ours.
        EnvironmentLacksError: Krita is running, and would write over its settings.
        OutputError: a file cannot be removed.
    """
    target = place.plugin
    setup = None if target.is_symlink() else _read_setup(target)
    if setup is None:
        raise NothingToDoError(f"{target}: there is no plug-in of ugatit-batch", "nothing was removed")
    _refuse_running(place)
    try:
        _forget_leftovers(target.parent)
        for path, digest in _listed(target, setup):
            if path.is_file() and not _is_changed(path, digest):
                path.unlink()
        for path in _files_below(target):
            if _is_cached(path):
                path.unlink()
        if place.editor == "krita":
            desktop = _desktop_file(place)
            if _is_own_desktop(desktop, setup):
                desktop.unlink()
            if place.settings is not None:
                kritarc.disable(place.settings)
        (target / SETUP).unlink()
        _remove_empty(target)
        outside = [_desktop_file(place)] if place.editor == "krita" else []
        stay = [path for path in (target, *outside) if os.path.lexists(path)]
    except OSError as error:
        raise explain_os_error(error, target) from error
    return [inner for path in stay for inner in (_files_below(path) if path == target else [path])]


def look_at(place: Place) -> Installed:
    """Whether the plug-in is there, and whether the editor could run it."""
    target = place.plugin
    setup = _read_setup(target)
    if setup is None:
        return Installed(place, None)
    faults = []
    if not knows_server(setup):
        faults.append(f"{target / SETUP}: does not say how to start the server")
    for path, digest in _listed(target, setup):
        if not path.is_file():
            faults.append(f"{path}: is missing")
        elif _is_changed(path, digest):
            faults.append(f"{path}: was changed after it was installed")
    if place.editor == "gimp" and not os.access(target / _PROGRAM, os.X_OK):
        faults.append(f"{target / _PROGRAM}: may not be run, so that GIMP passes it over")
    desktop = _desktop_file(place)
    if place.editor == "krita" and not desktop.is_file():
        faults.append(f"{desktop}: is missing, so that Krita passes the plug-in over")
    elif place.editor == "krita" and not _is_own_desktop(desktop, setup):
        faults.append(f"{desktop}: was changed after it was installed")
    if place.editor == "krita" and place.settings is not None and not kritarc.is_enabled(place.settings):
        faults.append(f"{place.settings}: the plug-in is switched off")
    return Installed(place, str(setup.get("version", "unknown")), tuple(faults))


def read_setup(place: Place) -> dict[str, Any] | None:
    """What the plug-in in that place knows of the server; None: there is none of ours."""
    return _read_setup(place.plugin)


def knows_server(setup: Mapping[str, Any]) -> bool:
    """Whether a plug-in with that setup could start the server, and find it."""
    command, state = setup.get("command"), setup.get("state")
    if not isinstance(command, list) or not isinstance(state, str):
        return False
    return bool(command and state) and all(isinstance(word, str) for word in command)


def files(place: Place) -> list[Path]:
    """What an installation consists of in that place, whether it is there or not."""
    target = place.plugin
    names = [*(name for name, _ in _plugin_files(place.editor)), SETUP]
    outside = [_desktop_file(place)] if place.editor == "krita" else []
    settings = [place.settings] if place.settings is not None else []
    return [*(target / name for name in sorted(names)), *outside, *settings]


def _refuse_running(place: Place) -> None:
    if place.editor == "krita" and place.settings is not None and is_running("krita"):
        raise EnvironmentLacksError(
            "Krita is running, and writes its settings when it ends", "close Krita, then run this again"
        )


def _write_plugin(editor: Editor, folder: Path, setup: Mapping[str, Any]) -> None:
    digests = {}
    for name, source in _plugin_files(editor):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        if editor == "gimp" and name == _PROGRAM:
            target.chmod(0o755)
        digests[name] = _digest_of(target.read_bytes())
    outside = {"desktop": _digest_of(_own_desktop())} if editor == "krita" else {}
    text = json.dumps({**setup, "files": digests, **outside}, indent=2, ensure_ascii=False) + "\n"
    (folder / SETUP).write_text(text, "utf-8")


def _exchange(fresh: Path, target: Path, old: Path, undo: contextlib.ExitStack) -> None:
    """Put `fresh` in the place of `target`, and have `undo` bring back what was there."""
    if target.exists():
        target.rename(old)
        undo.callback(old.rename, target)
    fresh.rename(target)
    undo.callback(target.rename, fresh)


def _plugin_files(editor: Editor) -> Iterator[tuple[str, Traversable]]:
    """What goes into the plug-in's folder: names below it, with `/`, and where they are read."""
    inner = _sources(editor).joinpath("ugatit") if editor == "krita" else _sources(editor)
    yield from _walk(inner)
    yield _CLIENT, _sources("client").joinpath(_CLIENT)


def _walk(folder: Traversable, before: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda inner: inner.name):
        if entry.is_dir():
            if entry.name != _CACHE:
                yield from _walk(entry, f"{before}{entry.name}/")
        elif not entry.name.endswith(".pyc"):
            yield before + entry.name, entry


def _sources(name: str) -> Traversable:
    return resources.files("ugatit_plugins").joinpath(name)


def _desktop_file(place: Place) -> Path:
    return place.plugin.with_name(_DESKTOP)


def _read_setup(target: Path) -> dict[str, Any] | None:
    """The setup of a plug-in that `install` has put there."""
    try:
        setup = json.loads((target / SETUP).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    listed = isinstance(setup, dict) and isinstance(setup.get("files"), dict)
    return setup if listed and all(_is_below(name) for name in setup["files"]) else None


def _is_below(name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts


def _listed(target: Path, setup: Mapping[str, Any]) -> Iterator[tuple[Path, object]]:
    """The files that were installed, and their digests; nothing that a link leads to."""
    for name, digest in setup["files"].items():
        path = target / name
        above = list(path.relative_to(target).parents)[:-1]
        if not any((target / folder).is_symlink() for folder in above):
            yield path, digest


def _is_changed(path: Path, digest: object) -> bool:
    return path.is_file() and _digest_of(path.read_bytes()) != digest


def _own_desktop() -> bytes:
    return _sources("krita").joinpath(_DESKTOP).read_bytes()


def _is_own_desktop(desktop: Path, setup: Mapping[str, Any] | None) -> bool:
    """As this installation would write it, or as the one that is there did."""
    if not desktop.is_file():
        return False
    found = _digest_of(desktop.read_bytes())
    return found == _digest_of(_own_desktop()) or (setup is not None and found == setup.get("desktop"))


def _foreign(target: Path, setup: Mapping[str, Any]) -> list[Path]:
    """Files in a plug-in of ours that it did not come with; not what Python leaves there."""
    known = {target / name for name in (*setup["files"], SETUP)}
    return [path for path in _files_below(target) if path not in known and not _is_cached(path)]


def _is_cached(path: Path) -> bool:
    return path.parent.name == _CACHE and ".pyc" in path.suffixes


def _files_below(folder: Path) -> list[Path]:
    """A link to a folder is one of them: what it leads to is the user's."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _remove_empty(folder: Path) -> None:
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            inner.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _forget_leftovers(folder: Path) -> None:
    """What an installation that was killed has left."""
    own = {_NEW, _OLD, _DESKTOP, _OLD_DESKTOP}
    for path in folder.glob(f"{_BESIDE}*"):
        if not _LEFTOVER.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        if {inner.name for inner in path.iterdir()} <= own:
            shutil.rmtree(path, ignore_errors=True)


def _digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def title(place: Place) -> str:
    """The editor's name, and whether it is a sandbox."""
    return TITLES[place.editor] + (" (Flatpak)" if place.flatpak else "")
