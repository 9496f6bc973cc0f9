"""Goes through all scenarios within Krita, and writes down what they found."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from krita import Krita
from PyQt5.QtCore import QPoint, QTimer

from . import pictures, trouble
from .screen import PLACE, Screen

SCENARIOS = (
    pictures.first_look,
    pictures.whole,
    pictures.photograph,
    pictures.selected,
    pictures.all_of_it,
    pictures.moved,
    pictures.visible,
    pictures.attention_layer,
    pictures.attention_mask,
    pictures.one_step,
    pictures.spaces,
    pictures.deep,
    pictures.reverse,
    pictures.by_the_menu,
    trouble.refusals,
    trouble.cancelled,
    trouble.closed_meanwhile,
    trouble.layer_removed,
    trouble.killed,
    trouble.unthought_of,
    trouble.not_installed,
)

ALONE = {"photograph"}
"""Needs another model than the others: only where it is asked for."""


def _all() -> Any:
    screen = Screen()
    report: dict[str, Any] = {}
    wanted = os.environ.get("UGATIT_DRIVER_ONLY", "").split()
    for scenario in SCENARIOS:
        name = scenario.__name__
        if name not in wanted if wanted else name in ALONE:
            continue
        report[name] = yield from scenario(screen)
        (PLACE / "report.json").write_text(json.dumps(report, indent=1))


def _fail(*error: Any) -> None:
    (PLACE / "failure.txt").write_text("".join(traceback.format_exception(*error)))
    os._exit(3)


def start() -> None:
    """Go through all scenarios, then end Krita; also at what nobody catches."""
    sys.excepthook = _fail
    steps = _all()

    def step() -> None:
        try:
            pause = next(steps)
        except StopIteration:
            os._exit(0)
        QTimer.singleShot(pause, step)

    Krita.instance().activeWindow().qwindow().move(QPoint(0, 0))
    Krita.instance().activeWindow().qwindow().resize(1280, 800)
    QTimer.singleShot(500, step)
