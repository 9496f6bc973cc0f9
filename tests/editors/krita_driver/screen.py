"""What a person sees of Krita's window and does there. Runs within Krita.

What takes time is a generator; each `yield` gives the window some milliseconds.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from krita import Krita, Selection
from PyQt5.QtCore import QByteArray
from PyQt5.QtWidgets import QComboBox, QDockWidget, QLabel, QPushButton

PLACE = Path(os.environ.get("UGATIT_DRIVER", "."))
PATIENT = 3000  # looks of 20 ms

krita = Krita.instance()


class Screen:
    """What a person has before them."""

    def __init__(self) -> None:
        self.window = krita.activeWindow().qwindow()
        self.docker = self.window.findChild(QDockWidget, "ugatit_docker")
        self.docker.setFloating(False)
        self.docker.show()
        self.docker.raise_()

    @property
    def words(self) -> str:
        return self.docker.findChild(QLabel, "words").text()

    @property
    def busy(self) -> bool:
        return self.docker.findChild(QPushButton, "cancel").isVisible()

    def box(self, name: str) -> QComboBox:
        return self.docker.findChild(QComboBox, name)

    def options(self, name: str) -> list[str]:
        return [self.box(name).itemText(number) for number in range(self.box(name).count())]

    def choose(self, **values: str) -> None:
        for name, value in values.items():
            index = self.box(name).findData(value)
            assert index >= 0, (name, value)
            self.box(name).setCurrentIndex(index)

    def press(self, name: str) -> None:
        self.docker.findChild(QPushButton, name).click()

    def until_idle(self) -> Any:
        for _ in range(PATIENT):
            if not self.busy:
                return
            yield 20
        raise AssertionError("it never ends: " + self.words)

    def translate(self, **values: str) -> Any:
        self.choose(**values)
        self.press("translate")
        yield from self.until_idle()

    def picture(self, name: str) -> Any:
        """For people; the list of layers and the canvas come a little later than what they show."""
        yield 1000
        self.window.grab().save(str(PLACE / f"{name}.png"))
        self.docker.grab().save(str(PLACE / f"{name}-docker.png"))


def opened(
    width: int = 64, height: int = 48, space: tuple[str, str, str] | None = None, pixels: str = "source.bgra"
) -> Any:
    """A picture with the pixels of a file in its one layer, shown in the window."""
    document = krita.createDocument(width, height, "picture", "RGBA", "U8", "", 300.0)
    document.setBatchmode(True)
    krita.activeWindow().addView(document)
    krita.setActiveDocument(document)
    yield 100
    layer = document.topLevelNodes()[0]
    layer.setPixelData(QByteArray((PLACE / pixels).read_bytes()), 0, 0, width, height)
    if space is not None:
        assert document.setColorSpace(*space)
    document.refreshProjection()
    document.waitForDone()
    yield 100
    document.setActiveNode(layer)
    yield 100
    return document


def closed(document: Any) -> Any:
    document.setModified(False)
    document.close()
    yield 100


def layers(document: Any) -> list[Any]:
    """From below to above; Krita counts the selection among them."""
    return [node for node in document.topLevelNodes() if not node.type().endswith("mask")]


def names(document: Any) -> list[Any]:
    return [[node.name(), [child.name() for child in node.childNodes()]] for node in layers(document)]


def save(name: str, node: Any, area: tuple[int, int, int, int]) -> None:
    (PLACE / name).write_bytes(bytes(node.pixelData(*area)))


def undo(document: Any) -> Any:
    krita.action("edit_undo").trigger()
    yield 200
    document.waitForDone()


def redo(document: Any) -> Any:
    krita.action("edit_redo").trigger()
    yield 200
    document.waitForDone()


def kept(document: Any) -> dict[str, Any]:
    """What must be as it was where nothing came of a translation."""
    return {"nodes": names(document), "modified": document.modified()}


def elliptic(x: int, y: int, width: int, height: int) -> Selection:
    """A selection with a soft edge."""
    selection = Selection()
    selection.select(x, y, width, height, 255)
    selection.feather(3)
    return selection
