"""Translate with U-GAT-IT, in Tools > Scripts: what the docker's button does."""

from __future__ import annotations

from typing import Any

from krita import Extension, Krita
from PyQt5.QtWidgets import QDockWidget

from .docker import NAME

ACTION = "ugatit_translate"


class TranslateExtension(Extension):
    """Adds the action to each window."""

    def setup(self) -> None:
        """Nothing is needed before there is a window."""

    def createActions(self, window: Any) -> None:  # noqa: N802 - Krita's name
        """Krita calls it for each window."""
        action = window.createAction(ACTION, "Translate with U-GAT-IT", "tools/scripts")
        action.triggered.connect(_translate)


def _translate() -> None:
    docker = Krita.instance().activeWindow().qwindow().findChild(QDockWidget, NAME)
    docker.show()
    docker.raise_()
    docker.translate()
