# mypy: disable-error-code="misc"
from __future__ import annotations

from typing import Any

from krita import Extension, Krita

from .driver import start


class Driver(Extension):
    started = False

    def setup(self) -> None:
        notifier = Krita.instance().notifier()
        notifier.setActive(True)
        notifier.windowCreated.connect(self.go)

    def createActions(self, _: Any) -> None:  # noqa: N802 - Krita's name
        pass

    def go(self) -> None:
        if not self.started:
            self.started = True
            start()


Krita.instance().addExtension(Driver(Krita.instance()))
