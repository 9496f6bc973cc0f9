from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ugatit_batch import __version__
from ugatit_batch.errors import EnvironmentLacksError, NothingToDoError, OutputError, UsageError
from ugatit_plugins import installer, kritarc
from ugatit_plugins.editor_places import Place, find_places, is_running

if TYPE_CHECKING:
    from ugatit_plugins.editor_places import Editor

SETUP = {
    "command": ["python", "-m", "ugatit_batch", "serve", "--json"],
    "state": "/state",
    "version": "0.1.0",
}
KRITARC = b"[advancedColorSelector]\nhotX=0\n\n[python]\nenable_comics=true\n\n[theme]\nTheme=Krita dark\n"


@pytest.fixture(autouse=True)
def nobody_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "is_running", lambda _editor: False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has no editor yet."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA", "GIMP3_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def place_for(editor: Editor, folder: Path) -> Place:
    """As it is after the editor's first start."""
    (folder / "resources").mkdir(parents=True)
    if editor == "gimp":
        return Place(editor, folder / "resources")
    (folder / "kritarc").write_bytes(KRITARC)
    return Place(editor, folder / "resources", folder / "kritarc")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file, and every folder with an empty value."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


BOTH = pytest.mark.parametrize("editor", ["krita", "gimp"])


@BOTH
def test_what_is_installed_is_whole(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    assert installer.look_at(place).version is None
    written = installer.install(place, SETUP)
    assert all(path.is_file() for path in written)
    inside = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert inside == set(written)
    setup = json.loads((place.plugin / "ugatit.json").read_text("utf-8"))
    assert {name: setup[name] for name in SETUP} == SETUP
    assert installer.look_at(place) == installer.Installed(place, "0.1.0")
    client = Path(installer.__file__).parent / "client/ugatit_client.py"
    assert (place.plugin / "ugatit_client.py").read_bytes() == client.read_bytes()
    assert (place.plugin / ("ugatit.py" if editor == "gimp" else "__init__.py")).is_file()


@BOTH
def test_uninstalling_leaves_what_was_there_before(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    other = place.plugin.with_name("other") / "other.py"
    other.parent.mkdir(parents=True)
    other.write_text("1", "utf-8")
    before = tree(tmp_path)
    installer.install(place, SETUP)
    cache = place.plugin / "__pycache__"
    cache.mkdir()
    (cache / "ugatit.cpython-313.pyc").write_bytes(b"1")
    assert installer.uninstall(place) == []
    assert tree(tmp_path) == before
    with pytest.raises(NothingToDoError):
        installer.uninstall(place)


@BOTH
def test_a_newer_one_takes_the_place_of_an_older(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    installer.install(place, {**SETUP, "version": "0.0.9"})
    first = tree(tmp_path)
    assert installer.look_at(place).version == "0.0.9"
    installer.install(place, SETUP)
    assert installer.look_at(place).version == "0.1.0"
    second = tree(tmp_path)
    assert {name for name in first if first[name] != second[name]} == {
        place.plugin.joinpath("ugatit.json").relative_to(tmp_path).as_posix()
    }
    assert first.keys() == second.keys()


@BOTH
def test_a_failure_leaves_the_older_one(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, renamed = place_for(editor, tmp_path), Path.rename
    for older in (False, True):
        before = tree(tmp_path)
        with monkeypatch.context() as broken:

            def rename(path: Path, target: Path) -> Path:
                if path.name == ("new" if editor == "gimp" else "ugatit.desktop"):
                    raise OSError(28, "No space left on device")
                return renamed(path, target)

            broken.setattr(Path, "rename", rename)
            with pytest.raises(Exception, match="disk is full"):
                installer.install(place, {**SETUP, "version": "2"})
        after = tree(tmp_path)
        after.pop(place.plugin.parent.relative_to(tmp_path).as_posix(), None)
        before.pop(place.plugin.parent.relative_to(tmp_path).as_posix(), None)
        assert after == before
        if not older:
            installer.install(place, SETUP)


def test_settings_that_cannot_be_written_undo_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_for("krita", tmp_path)

    def fail(_settings: Path) -> None:
        raise OutputError("no")

    monkeypatch.setattr(kritarc, "enable", fail)
    with pytest.raises(OutputError):
        installer.install(place, SETUP)
    assert not place.plugin.exists()
    assert not place.plugin.with_name("ugatit.desktop").exists()


@BOTH
def test_what_is_not_ours_is_left_alone(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    place.plugin.mkdir(parents=True)
    (place.plugin / "ugatit.py").write_text("somebody else's", "utf-8")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="not put there by ugatit-batch"):
        installer.install(place, SETUP)
    with pytest.raises(NothingToDoError):
        installer.uninstall(place)
    assert tree(tmp_path) == before


@BOTH
def test_files_of_the_user_stay(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    installer.install(place, SETUP)
    own, changed = place.plugin / "notes/own.txt", place.plugin / "ugatit_client.py"
    own.parent.mkdir()
    own.write_text("mine", "utf-8")
    changed.write_text("changed", "utf-8")
    assert [fault.split(": ")[1] for fault in installer.look_at(place).faults] == [
        "was changed after it was installed"
    ]
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"ugatit_client\.py: changed after"):
        installer.install(place, SETUP)
    assert tree(tmp_path) == before
    changed.unlink()
    with pytest.raises(UsageError, match=r"own\.txt"):
        installer.install(place, SETUP)
    changed.write_text("changed", "utf-8")
    assert installer.uninstall(place) == sorted([own, changed])
    assert {path for path in place.plugin.rglob("*") if path.is_file()} == {own, changed}


@BOTH
def test_only_leftovers_of_ours_go(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    beside = place.plugin.parent
    for name in (".ugatit-backup/new", ".ugatit-0a_b1c2d/mine.txt", ".ugatit-0a_b1c2e/new/ugatit.py"):
        (beside / name).parent.mkdir(parents=True)
        (beside / name).write_text("1", "utf-8")
    installer.install(place, SETUP)
    installer.uninstall(place)
    assert {path.name for path in beside.iterdir()} == {".ugatit-backup", ".ugatit-0a_b1c2d"}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_a_folder_is_the_users(tmp_path: Path) -> None:
    place = place_for("gimp", tmp_path)
    installer.install(place, SETUP)
    link, kept = place.plugin / "styles", tmp_path / "kept"
    kept.mkdir()
    (kept / "own.txt").write_text("mine", "utf-8")
    link.symlink_to(kept)
    with pytest.raises(UsageError, match="styles"):
        installer.install(place, SETUP)
    assert installer.uninstall(place) == [link]
    assert (link / "own.txt").read_text("utf-8") == "mine"


@BOTH
def test_only_what_python_left_in_its_folder_goes(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    installer.install(place, SETUP)
    own = place.plugin / "__pycache__/own.txt"
    own.parent.mkdir()
    own.write_text("mine", "utf-8")
    with pytest.raises(UsageError, match=r"own\.txt"):
        installer.install(place, SETUP)
    assert installer.uninstall(place) == [own]


def test_a_removal_that_failed_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_for("krita", tmp_path)
    before = tree(tmp_path)

    def fail(_settings: Path) -> None:
        raise OutputError("no")

    installer.install(place, SETUP)
    with monkeypatch.context() as broken:
        broken.setattr(kritarc, "disable", fail)
        with pytest.raises(OutputError):
            installer.uninstall(place)
    assert installer.uninstall(place) == []
    after = tree(tmp_path)
    assert after.pop("resources/pykrita") == b""
    assert after == before


def test_a_desktop_file_without_its_plugin(tmp_path: Path) -> None:
    place = place_for("krita", tmp_path)
    installer.install(place, SETUP)
    shutil.rmtree(place.plugin)
    installer.install(place, SETUP)
    assert installer.look_at(place).faults == ()
    shutil.rmtree(place.plugin)
    place.plugin.with_name("ugatit.desktop").write_text("somebody else's", "utf-8")
    with pytest.raises(UsageError, match=r"ugatit\.desktop: was not put there"):
        installer.install(place, SETUP)


def test_a_desktop_file_of_an_older_version_is_ours(tmp_path: Path) -> None:
    place = place_for("krita", tmp_path)
    desktop, written = place.plugin.with_name("ugatit.desktop"), place.plugin / "ugatit.json"

    def make_older() -> None:
        desktop.write_bytes(b"[Desktop Entry]\n")
        setup = json.loads(written.read_text("utf-8"))
        setup["desktop"] = installer._digest_of(desktop.read_bytes())
        written.write_text(json.dumps(setup), "utf-8")

    installer.install(place, SETUP)
    make_older()
    installer.install(place, SETUP)
    assert desktop.read_bytes() != b"[Desktop Entry]\n"
    make_older()
    assert installer.uninstall(place) == []
    installer.install(place, SETUP)
    desktop.write_bytes(b"changed")
    assert "was changed" in installer.look_at(place).faults[0]
    with pytest.raises(UsageError, match="or changed since"):
        installer.install(place, SETUP)
    assert installer.uninstall(place) == [desktop]


@BOTH
def test_a_list_that_leads_elsewhere_is_not_ours(editor: Editor, tmp_path: Path) -> None:
    place = place_for(editor, tmp_path)
    installer.install(place, SETUP)
    outside = tmp_path / "outside.txt"
    outside.write_text("mine", "utf-8")
    for name in ("../../../outside.txt", str(outside)):
        setup = {**SETUP, "files": {name: installer._digest_of(outside.read_bytes())}}
        (place.plugin / "ugatit.json").write_text(json.dumps(setup), "utf-8")
        with pytest.raises(NothingToDoError):
            installer.uninstall(place)
    assert outside.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there, and there are no run bits")
def test_links_and_run_bits(tmp_path: Path) -> None:
    place = place_for("gimp", tmp_path)
    installer.install(place, SETUP)
    program = place.plugin / "ugatit.py"
    assert os.access(program, os.X_OK)
    program.chmod(0o644)
    assert "may not be run" in installer.look_at(place).faults[0]
    shutil.rmtree(place.plugin)
    (tmp_path / "developed").mkdir()
    place.plugin.symlink_to(tmp_path / "developed")
    with pytest.raises(UsageError, match="is a link"):
        installer.install(place, SETUP)


def test_krita_must_not_be_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_for("krita", tmp_path)
    installer.install(place, SETUP)
    monkeypatch.setattr(installer, "is_running", lambda editor: bool(editor == "krita"))
    before = tree(tmp_path)
    with pytest.raises(EnvironmentLacksError, match="Krita is running"):
        installer.install(place, SETUP)
    with pytest.raises(EnvironmentLacksError, match="Krita is running"):
        installer.uninstall(place)
    assert tree(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs a program that can be given another name")
def test_a_running_editor_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody else")
    assert not is_running("no such editor")  # type: ignore[arg-type]
    program = tmp_path / "krita"
    program.write_bytes(Path(str(shutil.which("sleep"))).read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert is_running("krita")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"[python]\nenable_ugatit=true\n"),
        (b"[a]\nx=1\n", b"[a]\nx=1\n\n[python]\nenable_ugatit=true\n"),
        (b"[a]\r\nx=1\r\n", b"[a]\r\nx=1\r\n\r\n[python]\r\nenable_ugatit=true\r\n"),
        (KRITARC, KRITARC.replace(b"[python]\n", b"[python]\nenable_ugatit=true\n")),
        (b"x=1\n[pythonic]\nenable_ugatit=false\n", None),
        (
            b"\xff\xfe odd \x00 bytes\n[python]\na=\xe9\n",
            b"\xff\xfe odd \x00 bytes\n[python]\nenable_ugatit=true\na=\xe9\n",
        ),
    ],
    ids=["none", "no group", "windows", "other plug-ins", "other group", "odd bytes"],
)
def test_the_line_in_kritarc(before: bytes, after: bytes | None, tmp_path: Path) -> None:
    settings = tmp_path / "kritarc"
    settings.write_bytes(before)
    assert not kritarc.is_enabled(settings)
    kritarc.enable(settings)
    assert settings.read_bytes() == (before + b"\n[python]\nenable_ugatit=true\n" if after is None else after)
    assert kritarc.is_enabled(settings)
    kritarc.enable(settings)
    assert settings.read_bytes().count(b"enable_ugatit=true") == 1
    kritarc.disable(settings)
    assert settings.read_bytes() == before


def test_a_plugin_that_was_switched_off_is_switched_on(tmp_path: Path) -> None:
    settings = tmp_path / "kritarc"
    settings.write_bytes(b"[python]\nenable_ugatit=false\nenable_x=true\n enable_ugatit = false")
    assert not kritarc.is_enabled(settings)
    kritarc.enable(settings)
    assert settings.read_bytes() == b"[python]\nenable_ugatit=true\nenable_x=true\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_settings_keep_their_rights_and_stay_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles"
    kept.write_bytes(KRITARC)
    kept.chmod(0o600)
    (tmp_path / "kritarc").symlink_to(kept)
    kritarc.enable(tmp_path / "kritarc")
    assert (tmp_path / "kritarc").is_symlink()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert b"enable_ugatit=true" in kept.read_bytes()


@pytest.mark.parametrize(
    ("system", "krita", "settings", "gimp"),
    [
        ("linux", ".local/share/krita", ".config/kritarc", ".config/GIMP"),
        (
            "darwin",
            "Library/Application Support/krita",
            "Library/Preferences/kritarc",
            "Library/Application Support/GIMP",
        ),
        ("win32", "AppData/Roaming/krita", "AppData/Local/kritarc", "AppData/Roaming/GIMP"),
    ],
)
def test_where_editors_look(
    system: str, krita: str, settings: str, gimp: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "platform", system)
        assert find_places("krita") == []
        assert find_places("gimp") == []
        for name in ("2.10", "3.0", "3.2", "3.10", "3.x"):
            (home / gimp / name).mkdir(parents=True)
        (home / krita).mkdir(parents=True)
        assert find_places("krita") == [Place("krita", home / krita, home / settings)]
        assert [place.folder for place in find_places("gimp")] == [
            home / gimp / version for version in ("3.10", "3.2", "3.0")
        ]


@pytest.mark.skipif(sys.platform != "linux", reason="Flatpak is of Linux")
def test_sandboxes_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    krita, gimp = home / ".var/app/org.kde.krita", home / ".var/app/org.gimp.GIMP"
    (krita / "config").mkdir(parents=True)
    (gimp / "config/GIMP/3.0").mkdir(parents=True)
    assert find_places("krita") == [
        Place("krita", krita / "data/krita", krita / "config/kritarc", "org.kde.krita")
    ]
    assert find_places("gimp") == [Place("gimp", gimp / "config/GIMP/3.0", flatpak="org.gimp.GIMP")]
    installer.install(find_places("krita")[0], SETUP)
    assert installer.look_at(find_places("krita")[0]).version == "0.1.0"
    monkeypatch.setenv("GIMP3_DIRECTORY", str(home / "own"))
    assert [place.folder for place in find_places("gimp")] == [home / "own", gimp / "config/GIMP/3.0"]


def test_a_plugin_knows_this_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-P", "-m", "ugatit_batch", "serve", "--json"]
    monkeypatch.delenv("UGATIT_BATCH_MODELS_DIR", raising=False)
    setup = installer.setup_of(tmp_path)
    assert setup == {"command": command, "state": str(tmp_path), "version": __version__}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UGATIT_BATCH_MODELS_DIR", "models")
    setup = installer.setup_of(tmp_path)
    assert setup["command"] == [*command, "--models-dir", str(Path.cwd() / "models")]


def test_what_lies_in_the_users_folder_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('taken')", "utf-8")
    command = [*installer.setup_of(tmp_path)["command"], "--help"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("lacks", ["command", "state"])
def test_a_setup_without_a_server_is_a_fault(lacks: str, tmp_path: Path) -> None:
    place = place_for("gimp", tmp_path)
    installer.install(place, {name: value for name, value in SETUP.items() if name != lacks})
    assert "does not say how to start the server" in installer.look_at(place).faults[0]
    installer.install(place, SETUP)
    assert installer.look_at(place).faults == ()


def test_the_gimp_plugin_is_python_of_3_8() -> None:
    folder = Path(installer.__file__).parent / "gimp"
    names = sorted(path.name for path in folder.glob("*.py"))
    assert names[0] == "ugatit.py"
    for name in names:
        ast.parse((folder / name).read_text("utf-8"), feature_version=(3, 8))
