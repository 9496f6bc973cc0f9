from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ugatit_batch import __version__
from ugatit_plugins import editor_doctor, installer
from ugatit_plugins.editor_places import Place, looked_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..conftest import Outcome

    Program = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has started both editors once, and no server."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA", "GIMP3_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("UGATIT_BATCH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(installer, "is_running", lambda _editor: False)
    Path(looked_in("krita")).mkdir(parents=True)
    (Path(looked_in("gimp")) / "3.0").mkdir(parents=True)
    return home


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("editor", ["krita", "gimp"])
def test_install_list_uninstall(editor: str, program: Program, home: Path) -> None:
    dry = program("plugin", "install", editor, "--dry-run")
    assert (dry.code, dry.err, files(home)) == (0, "", set())
    outcome = program("plugin", "install", editor)
    assert (outcome.code, outcome.out) == (0, "")
    assert {Path(line) for line in dry.out.splitlines()} == files(home)
    rows = json.loads(program("plugin", "list", "--json").out)
    assert {row["editor"]: row["version"] for row in rows} == {
        name: __version__ if name == editor else None for name in ("krita", "gimp")
    }
    assert all(set(row) == {"editor", "folder", "flatpak", "version", "faults"} for row in rows)
    words = set(re.findall(r"\w+", program("plugin", "list", "--help").out))
    assert words >= rows[0].keys()
    shown = program("plugin", "list").out
    assert __version__ in shown
    assert "none" in shown
    gone = program("plugin", "uninstall", editor)
    assert (gone.code, gone.out) == (0, "")
    assert {path.name for path in files(home)} <= {"kritarc"}
    again = program("plugin", "uninstall", editor)
    assert again.code == 3
    assert "no plug-in is installed" in again.err


def test_every_version_of_gimp_gets_it(program: Program, home: Path) -> None:
    folder = Path(looked_in("gimp"))
    (folder / "3.2").mkdir()
    assert program("plugin", "install", "gimp").code == 0
    assert sorted(path.parents[2].name for path in files(home) if path.name == "ugatit.py") == ["3.0", "3.2"]


def test_a_folder_that_is_named(program: Program, home: Path, tmp_path: Path) -> None:
    outcome = program("plugin", "install", "krita", "--target", tmp_path / "portable")
    assert outcome.code == 0
    assert "Python Plugin Manager" in outcome.err
    assert files(home) == set()
    assert (tmp_path / "portable/pykrita/ugatit.desktop").is_file()
    setup = json.loads((tmp_path / "portable/pykrita/ugatit/ugatit.json").read_text("utf-8"))
    assert setup["command"][0] == sys.executable
    assert setup["command"][-2] == "--models-dir"
    rows = json.loads(program("plugin", "list", "--json", "--target", tmp_path / "portable").out)
    assert {row["editor"]: row["version"] for row in rows} == {"krita": __version__, "gimp": None}
    assert {row["folder"] for row in rows} == {str(tmp_path / "portable")}
    assert setup["state"] == str(tmp_path / "state")
    assert program("plugin", "uninstall", "krita", "--target", tmp_path / "portable").code == 0
    assert files(tmp_path / "portable") == set()


def test_no_editor(program: Program, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    outcome = program("plugin", "install", "gimp")
    assert outcome.code == 4
    assert "start GIMP 3 once and close it, or give --target" in outcome.err
    assert json.loads(program("plugin", "list", "--json").out) == []
    assert "no such editor was found" in program("plugin", "list").out


def test_what_is_in_the_way_ends_with_2(program: Program, home: Path) -> None:
    (Path(looked_in("gimp")) / "3.0/plug-ins/ugatit").mkdir(parents=True)
    outcome = program("plugin", "install", "gimp")
    assert outcome.code == 2
    assert "was not put there by ugatit-batch" in outcome.err
    assert "Traceback" not in outcome.err


def test_doctor_sends_a_picture_round(program: Program, home: Path, tmp_path: Path) -> None:
    assert program("plugin", "install", "gimp").code == 0
    outcome = program("plugin", "doctor", "gimp", "--json")
    said = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, ""), said
    assert set(said) == {"findings", "models", "device"}
    assert {finding["topic"]: finding["state"] for finding in said["findings"]} == dict.fromkeys(
        ("gimp", "server", "models", "picture"), "ok"
    )
    assert {"ink", "own"} <= set(said["models"])
    words = set(re.findall(r"\w+", program("plugin", "doctor", "--help").out))
    assert words >= {*said, *said["findings"][0]}
    assert not (tmp_path / "state/server.json").exists(), "a server that was started is ended"


def test_doctor_looks_at_a_folder_that_is_named(
    program: Program, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = {"command": [str(tmp_path / "gone")], "state": str(tmp_path / "state"), "version": __version__}
    monkeypatch.setattr(editor_doctor, "setup_of", lambda _state: missing)
    place = Place("gimp", tmp_path / "my gimp")
    before = program("plugin", "doctor", "gimp", "--target", place.folder)
    assert f"→ ugatit-batch plugin install gimp --target '{place.folder}'" in before.out
    installer.install(place, {"version": __version__})
    broken = program("plugin", "doctor", "gimp", "--target", place.folder)
    assert (broken.code, broken.err) == (4, "")
    assert f"{place.plugin / 'ugatit.json'}: does not say how to start the server" in broken.out
    installer.install(place, missing)
    said = json.loads(program("plugin", "doctor", "gimp", "--json", "--target", place.folder).out)
    assert {finding["topic"]: finding["state"] for finding in said["findings"]} == {
        "gimp": "ok",
        "server": "problem",
    }


def test_doctor_says_what_is_broken(
    program: Program, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = {"command": [str(tmp_path / "gone")], "state": str(tmp_path / "state"), "version": __version__}
    monkeypatch.setattr(editor_doctor, "setup_of", lambda _state: missing)
    outcome = program("plugin", "doctor")
    assert outcome.code == 4
    assert "cannot be started" in outcome.out
    assert "1 thing is broken" in outcome.out
    assert "missing  krita    Krita: no plug-in in" in outcome.out
    named = program("plugin", "doctor", "krita")
    assert "2 things are broken" in named.out
    assert "→ ugatit-batch plugin install krita" in named.out
    assert "GIMP" not in named.out
