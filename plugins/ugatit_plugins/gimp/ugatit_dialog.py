"""The window that asks what to translate, and how.

It opens at once; which models there are comes in when the server has told.
"""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("GimpUi", "3.0")
from gi.repository import GimpUi, GLib, GObject, Gtk  # noqa: E402 - the versions have to be chosen first
from ugatit_background import on_main, unthought_of  # noqa: E402
from ugatit_client import Client, UgatitError  # noqa: E402

Connect = Callable[[Callable[[], bool], Callable[[str], None]], Client]

_ARGUMENTS = ["source", "region", "attention"]
_WRAP = 44  # characters


class Dialog:
    """Model and direction as the server knows them, and the procedure's other arguments.

    Args:
        procedure: what is to be run.
        config: its arguments, which the window changes.
        connect: gives a client; is called in a thread, with what tells that the window was closed and with
            what takes words for the user.
    """

    def __init__(self, procedure: Any, config: Any, connect: Connect) -> None:
        self._config = config
        self._connect = connect
        self._closed = threading.Event()
        self._models: dict[str, dict[str, Any]] = {}
        self._window = GimpUi.ProcedureDialog.new(procedure, config, "Translate with U-GAT-IT")
        self._window.set_ok_label("_Translate")
        self._window.fill(_ARGUMENTS)
        self._model = Gtk.ComboBoxText()
        self._direction = Gtk.ComboBoxText()
        self._message = Gtk.Label(xalign=0, wrap=True, max_width_chars=_WRAP, selectable=True)
        self._build()
        self._model.connect("changed", lambda _: self._take_model())
        self._direction.connect("changed", lambda _: self._take_direction())
        config.connect("notify::model", lambda *_: self._show_model())
        config.connect("notify::direction", lambda *_: self._show_direction())

    def run(self) -> bool:
        """Ask; False where the user has changed their mind."""
        self._window.set_response_sensitive(Gtk.ResponseType.OK, False)
        self._message.set_text("Asking ugatit-batch which models there are…")
        with ThreadPoolExecutor(1, "ugatit") as threads:
            asked = threads.submit(self._ask)
            asked.add_done_callback(lambda _: on_main(self._answered, asked))
            agreed = bool(self._window.run())
            self._closed.set()
        self._window.destroy()
        return agreed

    def _build(self) -> None:
        grid = Gtk.Grid(column_spacing=6, row_spacing=6, margin_bottom=6)
        labels = Gtk.SizeGroup(mode=Gtk.SizeGroupMode.HORIZONTAL)
        for row, (text, widget) in enumerate((("_Model", self._model), ("_Direction", self._direction))):
            label = Gtk.Label(label=text, use_underline=True, xalign=0, mnemonic_widget=widget)
            widget.set_hexpand(True)
            widget.set_sensitive(False)
            labels.add_widget(label)
            grid.attach(label, 0, row, 1, 1)
            grid.attach(widget, 1, row, 1, 1)
        grid.attach(self._message, 0, 2, 2, 1)
        for argument in _ARGUMENTS:
            labels.add_widget(self._window.get_widget(argument, GObject.TYPE_NONE).get_label())
        area = self._window.get_content_area()
        area.pack_start(grid, False, False, 0)
        area.reorder_child(grid, 0)
        grid.show_all()

    def _ask(self) -> list[dict[str, Any]]:
        def say(text: str) -> None:
            on_main(self._message.set_text, text)

        return self._connect(self._closed.is_set, say).models(self._closed.is_set)

    def _answered(self, asked: Future[list[dict[str, Any]]]) -> None:
        if self._closed.is_set():
            return
        try:
            self._offer(asked.result())
        except UgatitError as error:
            self._complain(error.message, error.hint)
        except Exception as error:  # noqa: BLE001 - GTK drops what comes out of here
            traceback.print_exc()
            self._complain(*unthought_of(error).split("\n", 1))

    def _offer(self, models: list[dict[str, Any]]) -> None:
        self._models = {model["name"]: model for model in models}
        for name in self._models:
            self._model.append(name, name)
        self._model.set_sensitive(True)
        self._show_model()

    def _complain(self, message: str, hint: str) -> None:
        words = map(GLib.markup_escape_text, (message, hint or ""))
        self._message.set_markup("<b>{}</b>\n{}".format(*words))

    def _show_model(self) -> None:
        name = self._config.get_property("model")
        if not self._models:
            self._message.set_text("There are no models: import or train one with ugatit-batch first.")
        elif name not in self._models:
            self._config.set_property("model", next(iter(self._models)))
        elif name != self._model.get_active_id():
            self._model.set_active_id(name)

    def _take_model(self) -> None:
        model = self._models[self._model.get_active_id()]
        self._config.set_property("model", model["name"])
        directions = {_id(one): "{source} → {target}".format(**one) for one in model["directions"]}
        wanted = self._config.get_property("direction")
        self._direction.remove_all()
        for direction, text in directions.items():
            self._direction.append(direction, text)
        self._direction.set_active_id(wanted if wanted in directions else next(iter(directions)))
        self._direction.set_sensitive(len(directions) > 1)
        if not model["attention"]:
            self._config.set_property("attention", "none")
        self._window.set_sensitive("attention", model["attention"], None, None, False)
        self._message.set_text("" if model["attention"] else "This model does not tell where it looked.")
        self._window.set_response_sensitive(Gtk.ResponseType.OK, True)

    def _show_direction(self) -> None:
        direction = self._config.get_property("direction")
        if self._direction.get_active_id() not in (None, direction):
            self._direction.set_active_id(direction)

    def _take_direction(self) -> None:
        direction = self._direction.get_active_id()
        if direction is not None:
            self._config.set_property("direction", direction)


def _id(direction: dict[str, Any]) -> str:
    return "reverse" if direction["reverse"] else "forward"
