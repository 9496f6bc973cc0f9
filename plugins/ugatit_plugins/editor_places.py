"""Where image editors look for plug-ins, on Linux, macOS and Windows. Changes nothing."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil

Editor = Literal["krita", "gimp"]
EDITORS: tuple[Editor, ...] = get_args(Editor)
TITLES: dict[Editor, str] = {"krita": "Krita", "gimp": "GIMP"}

_GIMP_3 = re.compile(r"3\.\d+")
_FLATPAKS: dict[Editor, str] = {"krita": "org.kde.krita", "gimp": "org.gimp.GIMP"}


@dataclass(frozen=True)
class Place:
    """A folder in which an editor of this user looks for plug-ins."""

    editor: Editor
    folder: Path
    """Holds `pykrita`, or `plug-ins`."""
    settings: Path | None = None
    """Krita's own list of what is switched on (kritarc); None: not known, or there is none."""
    flatpak: str | None = None
    """The application, where it is a sandbox that may not start programs of the system."""

    @property
    def plugin(self) -> Path:
        """The folder of the plug-in itself."""
        return self.folder / ("pykrita" if self.editor == "krita" else "plug-ins") / "ugatit"


def find_places(editor: Editor, target: Path | None = None) -> list[Place]:
    """Where that editor has been started at least once; for GIMP each version 3, the newest first.

    Args:
        editor: which one.
        target: the editor's own folder, where the user names it: then that alone.
    """
    if target is not None:
        return [Place(editor, target.absolute())]
    return _krita_places() if editor == "krita" else _gimp_places()


def looked_in(editor: Editor) -> str:
    """For messages: the folder that a first start of the editor makes."""
    return str(_krita_folders()[0] if editor == "krita" else _gimp_folder())


def is_running(editor: Editor) -> bool:
    """Whether this user has the editor open."""
    mine = psutil.Process().username()
    for process in psutil.process_iter(["name", "username"]):
        name = (process.info["name"] or "").lower()
        if name.removesuffix(".exe") == editor and process.info["username"] == mine:
            return True
    return False


def _krita_places() -> list[Place]:
    resources, settings = _krita_folders()
    places = []
    if resources.is_dir() or settings.is_file():
        places.append(Place("krita", resources, settings))
    if sandbox := _flatpak("krita"):
        places.append(
            Place("krita", sandbox / "data/krita", sandbox / "config/kritarc", flatpak=_FLATPAKS["krita"])
        )
    return places


def _krita_folders() -> tuple[Path, Path]:
    """The folder of resources, and kritarc."""
    home = Path.home()
    if sys.platform == "win32":
        roaming, local = _windows("APPDATA", "Roaming"), _windows("LOCALAPPDATA", "Local")
        return roaming / "krita", local / "kritarc"
    if sys.platform == "darwin":
        return home / "Library/Application Support/krita", home / "Library/Preferences/kritarc"
    data, config = _xdg("XDG_DATA_HOME", ".local/share"), _xdg("XDG_CONFIG_HOME", ".config")
    return data / "krita", config / "kritarc"


def _gimp_places() -> list[Place]:
    places = [Place("gimp", folder) for folder in _versions(_gimp_folder())]
    if own := os.environ.get("GIMP3_DIRECTORY"):
        places = [Place("gimp", Path(own))]
    if sandbox := _flatpak("gimp"):
        found = _versions(sandbox / "config/GIMP")
        places += [Place("gimp", folder, flatpak=_FLATPAKS["gimp"]) for folder in found]
    return places


def _gimp_folder() -> Path:
    """What holds a folder for each version of GIMP."""
    if sys.platform == "win32":
        return _windows("APPDATA", "Roaming") / "GIMP"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/GIMP"
    return _xdg("XDG_CONFIG_HOME", ".config") / "GIMP"


def _versions(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [inner for inner in folder.iterdir() if inner.is_dir() and _GIMP_3.fullmatch(inner.name)]
    return sorted(found, key=lambda inner: int(inner.name.partition(".")[2]), reverse=True)


def _flatpak(editor: Editor) -> Path | None:
    folder = Path.home() / ".var/app" / _FLATPAKS[editor]
    return folder if sys.platform == "linux" and folder.is_dir() else None


def _xdg(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / otherwise)


def _windows(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / "AppData" / otherwise)
