"""What cannot be translated, and what goes wrong meanwhile: each scenario tells what it found."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from krita import Selection
from PyQt5.QtCore import QTimer

from .screen import PATIENT, PLACE, Screen, closed, kept, krita, layers, names, opened

SETUP = Path(__file__).parents[1] / "ugatit" / "ugatit.json"
"""Where the plug-in finds its server."""


def refusals(screen: Screen) -> Any:
    """What cannot be translated, and what is said."""
    found = {}
    yield from screen.translate(model="own", source="layer", region="selection", attention="none")
    found["no picture"] = screen.words
    document = yield from opened()
    before = names(document)
    selection = Selection()
    selection.select(200, 200, 10, 10, 255)
    document.setSelection(selection)
    yield from screen.translate()
    found["outside"] = screen.words
    document.setSelection(None)
    assert names(document) == before
    layer = layers(document)[0]
    empty = document.createNode("empty", "paintlayer")
    document.rootNode().addChildNode(empty, layer)
    yield 100
    document.setActiveNode(empty)
    yield from screen.translate()
    found["empty"] = screen.words
    chosen = document.createFilterLayer("filter", krita.filter("invert"), Selection())
    document.rootNode().addChildNode(chosen, empty)
    yield 100
    document.setActiveNode(chosen)
    yield 50
    yield from screen.translate()
    found["filter"] = screen.words
    yield from screen.picture("refused")
    yield from closed(document)
    return found


def _begun(screen: Screen) -> Any:
    """The slow server has begun with a picture."""
    screen.choose(model="own", source="layer", region="all", attention="none")
    screen.press("translate")
    for _ in range(PATIENT):
        if (PLACE / "begun").exists():
            break
        yield 20
    else:
        raise AssertionError("the server has not begun: " + screen.words)
    (PLACE / "begun").unlink()
    yield 300


def _with_server(state: str) -> None:
    setup = json.loads(SETUP.read_text())
    SETUP.write_text(json.dumps({**setup, "state": str(PLACE / state)}))


def cancelled(screen: Screen) -> Any:
    _with_server("slow")
    document = yield from opened()
    before = kept(document)
    yield from _begun(screen)
    during = screen.words
    yield from screen.picture("busy")
    watch = QTimer()
    waited = [0]
    watch.timeout.connect(lambda: waited.__setitem__(0, waited[0] + 5))
    watch.start(5)
    screen.press("cancel")
    while screen.busy:
        yield 5
    found = {
        "before": before, "after": kept(document), "said": screen.words, "during": during,
        "waited": waited[0],
    }  # fmt: skip
    (PLACE / "go").touch()
    while (PLACE / "go").exists():
        yield 20
    yield from closed(document)
    return found


def closed_meanwhile(screen: Screen) -> Any:
    document = yield from opened()
    yield from _begun(screen)
    yield from closed(document)
    (PLACE / "go").touch()
    yield from screen.until_idle()
    return {"said": screen.words, "open": len(krita.documents())}


def layer_removed(screen: Screen) -> Any:
    document = yield from opened()
    layer = layers(document)[0]
    other = document.createNode("other", "paintlayer")
    document.rootNode().addChildNode(other, layer)
    yield 100
    document.setActiveNode(layer)
    yield 50
    yield from _begun(screen)
    layer.remove()
    yield 100
    (PLACE / "go").touch()
    yield from screen.until_idle()
    found = {"said": screen.words, "nodes": names(document)}
    yield from closed(document)
    return found


def killed(screen: Screen) -> Any:
    """The server dies while it works; the next translation starts another."""
    document = yield from opened()
    before = kept(document)
    yield from _begun(screen)
    os.kill(json.loads((PLACE / "slow" / "server.json").read_text())["pid"], 9)
    yield from screen.until_idle()
    yield from screen.picture("killed")
    found = {"before": before, "after": kept(document), "said": screen.words}
    yield from screen.translate()
    found["again"] = names(document)
    found["said again"] = screen.words
    yield from closed(document)
    return found


def unthought_of(screen: Screen) -> Any:
    """What nobody has thought of goes wrong: before the thread, in it, and after it."""

    def fail(*_: Any) -> Any:
        raise KeyError("nobody knows")

    docker = importlib.import_module("ugatit.docker")
    document = yield from opened()
    before = kept(document)
    found: dict[str, Any] = {"before": before, "said": {}, "after": {}}
    for name in ("take", "Task", "read_config", "put"):
        own = getattr(docker, name)
        setattr(docker, name, fail)
        try:
            yield from screen.translate()
        finally:
            setattr(docker, name, own)
        found["said"][name] = screen.words
        found["after"][name] = kept(document)
    yield from screen.translate()
    found["again"] = names(document)
    found["said again"] = screen.words
    yield from closed(document)
    return found


def not_installed(screen: Screen) -> Any:
    setup = json.loads(SETUP.read_text())
    SETUP.write_text(json.dumps({**setup, "state": str(PLACE / "none"), "command": ["/no/such/python"]}))
    document = yield from opened()
    yield from screen.translate()
    found = {"said": screen.words, "nodes": names(document)}
    yield from screen.picture("not-installed")
    SETUP.unlink()
    yield from screen.translate()
    found["no setup"] = screen.words
    yield from closed(document)
    return found
