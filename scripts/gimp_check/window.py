"""Runs inside of GIMP with a window: the plug-in's own dialog, undo and redo by the keyboard, screenshots.

What was found goes into `window.json` in the folder `UGATIT_CHECK`. GIMP executes this file's text; it is no
module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gi
from gi.repository import Gimp, Gio, GLib

FOLDER = Path(os.environ["UGATIT_CHECK"])
SHOOT = """
import sys, gi
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk
root = Gdk.get_default_root_window()
Gdk.pixbuf_get_from_window(root, 0, 0, root.get_width(), root.get_height()).savev(sys.argv[1], "png", [], [])
"""
found: list[dict[str, Any]] = []


def tell(case: str, good: bool, detail: object = "") -> None:
    """Note one thing that was looked at."""
    found.append({"case": case, "good": bool(good), "detail": str(detail)})
    print("CHECK", case, "ok" if good else "WRONG", detail, flush=True)


def tool(*words: str) -> str:
    """What xdotool says."""
    return subprocess.run(["xdotool", *words], capture_output=True, text=True, check=False).stdout.strip()


def window(name: str) -> str:
    """The number of a window by a part of its title, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        numbers = tool("search", "--onlyvisible", "--name", name).split()
        if numbers:
            return numbers[-1]
        time.sleep(0.2)
    return ""


def press(title: str, keys: str) -> None:
    """Keys to a window."""
    number = window(title)
    tool("windowfocus", number)
    time.sleep(0.5)
    tool("key", keys)


def shoot(name: str) -> None:
    """The whole screen as a picture."""
    subprocess.run(["python3", "-c", SHOOT, str(FOLDER / name)], check=False)


def names(image: Any) -> list[str]:
    """Of its layers, the topmost first."""
    return [layer.get_name() for layer in image.get_layers()]


def becomes(image: Any, expected: list[str]) -> bool:
    """Whether its layers are so within a while."""
    deadline = time.monotonic() + 10
    while names(image) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return names(image) == expected


def end_server() -> None:
    """As a server does that has had nothing to do; wait for the next."""
    path = FOLDER / "state/server.json"
    gone = json.loads(path.read_text("utf-8"))["pid"]
    os.kill(gone, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text("utf-8"))["pid"] != gone:
                return
        time.sleep(0.1)


def answer_dialog() -> None:
    """What a user does: look, wait for the models, leave the window open for long, and press Translate."""
    number = window("Translate with U-GAT-IT")
    tool("windowmove", number, "420", "120")
    time.sleep(6)
    shoot("dialog.png")
    end_server()
    tool("windowfocus", number)
    time.sleep(0.5)
    tool("key", "alt+t")


def check_dialog_without_models() -> None:
    """What nobody has thought of goes wrong while the window asks for the models."""
    gi.require_version("GimpUi", "3.0")
    from gi.repository import GimpUi, Gtk

    sys.path.insert(0, str(Path(Gimp.directory()) / "plug-ins/ugatit"))
    GimpUi.init("ugatit-check")
    from ugatit_dialog import Dialog

    def connect(*_: object) -> object:
        raise KeyError("nobody knows")

    procedure = Gimp.get_pdb().lookup_procedure("ugatit-translate")
    dialog, said = Dialog(procedure, procedure.create_config(), connect), []
    deadline = time.monotonic() + 20

    def look() -> bool:
        said.append(dialog._message.get_text())
        if "Asking" in said[-1] and time.monotonic() < deadline:
            return True
        dialog._window.response(Gtk.ResponseType.CANCEL)
        return False

    GLib.timeout_add(100, look)
    agreed = dialog.run()
    tell(
        "dialog: what nobody has thought of is said",
        "KeyError" in said[-1] and not agreed,
        said[-1].partition("\n")[0],
    )


def main() -> None:
    """Dialog, undo, redo."""
    image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(str(FOLDER / "photo.png")))
    Gimp.Display.new(image)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 60, 40, 300, 260)
    Gimp.Selection.feather(image, 20)
    before = names(image)
    procedure = Gimp.get_pdb().lookup_procedure("ugatit-translate")
    config = procedure.create_config()
    config.set_property("run-mode", Gimp.RunMode.INTERACTIVE)
    config.set_property("image", image)
    config.set_core_object_array("drawables", [image.get_layers()[0]])
    config.set_property("attention", "layer")
    user = threading.Thread(target=answer_dialog)
    user.start()
    status = procedure.run(config).index(0)
    user.join()
    after = names(image)
    tell("dialog: translated", status == Gimp.PDBStatusType.SUCCESS and len(after) == 3, after)
    time.sleep(2)
    shoot("result.png")
    press("RGB color", "ctrl+z")
    tell("undo: one step takes all of it back", becomes(image, before), names(image))
    press("RGB color", "ctrl+y")
    tell("redo: one step brings it again", becomes(image, after), names(image))
    check_dialog_without_models()
    (FOLDER / "window.json").write_text(json.dumps(found, indent=1), "utf-8")


main()
