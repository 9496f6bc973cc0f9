#!/usr/bin/env python3
"""Translate with U-GAT-IT: a plug-in for GIMP 3.

GIMP runs this file; `ugatit.json` beside it, which the installer wrote, says how to reach the server. Cancel
in GIMP ends this process: the server sees the connection drop, and the picture is as it was.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, Callable

import gi

gi.require_version("Gimp", "3.0")
from gi.repository import Gimp, GLib, GObject  # noqa: E402 - the version has to be chosen first
from ugatit_background import on_main, unthought_of, wait_for  # noqa: E402
from ugatit_client import Client, UgatitError, read_config  # noqa: E402
from ugatit_layers import add_result, read  # noqa: E402

PROCEDURE = "ugatit-translate"
_CHOICES = (
    ("direction", "_Direction", (("forward", "As trained (A → B)"), ("reverse", "Back (B → A)"))),
    ("source", "So_urce", (("layer", "The active layer"), ("visible", "All that is visible"))),
    (
        "region",
        "Re_gion",
        (("selection", "The selection"), ("all", "The whole layer or picture")),
    ),
    (
        "attention",
        "_Attention",
        (("none", "Do not show it"), ("layer", "As a hidden layer"), ("mask", "As a mask on the result")),
    ),
)
_TELLS = {
    "direction": "Which way the model translates",
    "source": "What is translated",
    "region": "How much of it; without a selection that is everything",
    "attention": "Where the network looked",
}


class Ugatit(Gimp.PlugIn):
    """One procedure, for the menu and for scripts."""

    def do_set_i18n(self, _name: str) -> bool:
        """There are no translations of the texts."""
        return False

    def do_query_procedures(self) -> list[str]:
        """What GIMP registers."""
        return [PROCEDURE]

    def do_create_procedure(self, name: str) -> Any:
        """The procedure and its arguments."""
        procedure = Gimp.ImageProcedure.new(self, name, Gimp.PDBProcType.PLUGIN, self.run, None)
        procedure.set_image_types("*")
        procedure.set_sensitivity_mask(
            Gimp.ProcedureSensitivityMask.DRAWABLE
            | Gimp.ProcedureSensitivityMask.DRAWABLES
            | Gimp.ProcedureSensitivityMask.NO_DRAWABLES
        )
        procedure.set_menu_label("Translate with _U-GAT-IT…")
        procedure.add_menu_path("<Image>/Filters/Artistic")
        procedure.set_documentation(
            "Translate the picture with a U-GAT-IT model",
            "Sends the layer, or all that is visible, to ugatit-batch on this machine and adds the result as "
            "a layer. Model: a name that `ugatit-batch models list` knows; empty for the first.",
            name,
        )
        procedure.set_attribution("ugatit-batch", "ugatit-batch", "2026")
        flags = GObject.ParamFlags.READWRITE
        procedure.add_string_argument("model", "_Model", "Name of the model", "", flags)
        for argument, label, values in _CHOICES:
            choice = Gimp.Choice.new()
            for number, (value, text) in enumerate(values):
                choice.add(value, number, text, "")
            tells, default = _TELLS[argument], values[0][0]
            procedure.add_choice_argument(argument, label, tells, choice, default, flags)
        return procedure

    def run(
        self, procedure: Any, mode: Any, image: Any, drawables: list[Any], config: Any, _data: Any
    ) -> Any:
        """Translate; whatever fails leaves the picture as it was and says what to do."""
        try:
            if not self._translate(procedure, mode, image, drawables, config):
                return procedure.new_return_values(Gimp.PDBStatusType.CANCEL, None)
        except UgatitError as error:
            words = "\n".join(filter(None, (error.message, error.hint)))
            return _failed(procedure, words)
        except Exception as error:  # noqa: BLE001 - GIMP would say no more than that the plug-in has failed
            traceback.print_exc()
            return _failed(procedure, unthought_of(error))
        return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)

    def _translate(self, procedure: Any, mode: Any, image: Any, drawables: list[Any], config: Any) -> bool:
        setup = read_config(Path(__file__).parent)
        if mode == Gimp.RunMode.INTERACTIVE and not _ask(procedure, config, setup):
            return False
        values = {name: config.get_property(name) for name in ("model", *(choice[0] for choice in _CHOICES))}
        source = read(image, drawables, values["source"], values["region"])
        rgb = source.rgb
        Gimp.progress_init("Translating with U-GAT-IT")

        def say(text: str) -> None:
            on_main(Gimp.progress_set_text, text)

        def work() -> tuple[str, bytes, bytes | None]:
            # Anew: while the window was open, the server that it asked may have ended with nothing to do.
            client = Client.connect(setup, say=say)
            model = values["model"] or _first_model(client)
            say("Translating with " + model)
            reverse, attention = values["direction"] == "reverse", values["attention"] != "none"
            result = client.translate(rgb, source.width, source.height, model, reverse, attention)
            return (model, *result)

        model, result, attention = wait_for(work, Gimp.progress_pulse)
        add_result(source, result, attention, values["attention"], "U-GAT-IT " + model)
        Gimp.progress_update(1.0)
        return True


def _failed(procedure: Any, words: str) -> Any:
    failure = GLib.Error.new_literal(Gimp.PlugIn.error_quark(), words, 0)
    return procedure.new_return_values(Gimp.PDBStatusType.EXECUTION_ERROR, failure)


def _ask(procedure: Any, config: Any, setup: dict[str, Any]) -> bool:
    gi.require_version("GimpUi", "3.0")
    from gi.repository import GimpUi

    GimpUi.init(PROCEDURE)
    from ugatit_dialog import Dialog

    def connect(cancelled: Callable[[], bool], say: Callable[[str], None]) -> Client:
        return Client.connect(setup, cancelled=cancelled, say=say)

    agreed: bool = Dialog(procedure, config, connect).run()
    return agreed


def _first_model(client: Client) -> str:
    models = client.models()
    if not models:
        raise UgatitError(
            "model_not_found", "There are no models.", "import or train one with ugatit-batch first"
        )
    name: str = models[0]["name"]
    return name


Gimp.main(Ugatit.__gtype__, sys.argv)
