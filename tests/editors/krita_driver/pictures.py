"""What is translated, and what comes of it: each scenario tells what it found."""

from __future__ import annotations

import json
from typing import Any

from PyQt5.QtCore import QByteArray

from .screen import PLACE, Screen, closed, elliptic, krita, layers, names, opened, redo, save, undo


def first_look(screen: Screen) -> Any:
    """A first start ever: the docker asks by itself which models there are, and so starts the server."""
    while screen.busy:
        yield 20
    yield from screen.picture("first")
    return {"models": screen.options("model"), "said": screen.words}


def whole(screen: Screen) -> Any:
    document = yield from opened()
    before = names(document)
    yield from screen.translate(model="own", source="layer", region="selection", attention="none")
    said = screen.words
    layer = layers(document)[-1]
    save("whole.raw", layer, (0, 0, 64, 48))
    document.refreshProjection()
    (PLACE / "whole-shown.raw").write_bytes(bytes(document.pixelData(0, 0, 64, 48)))
    after = names(document)
    yield from screen.picture("done")
    yield from undo(document)
    undone = names(document)
    yield from redo(document)
    save("whole-redone.raw", layers(document)[-1], (0, 0, 64, 48))
    yield from closed(document)
    return {"before": before, "after": after, "undone": undone, "said": said}


def selected(screen: Screen) -> Any:
    document = yield from opened()
    document.setSelection(elliptic(8, 6, 40, 30))
    selection = document.selection()
    area = (selection.x(), selection.y(), selection.width(), selection.height())
    (PLACE / "selection.raw").write_bytes(bytes(selection.pixelData(*area)))
    yield from screen.translate(model="own", source="layer", region="selection", attention="none")
    layer = layers(document)[-1]
    save("selected.raw", layer, area)
    save("selected-all.raw", layer, (0, 0, 64, 48))
    found = bytes(document.selection().pixelData(*area)) == (PLACE / "selection.raw").read_bytes()
    yield from screen.picture("selection")
    yield from closed(document)
    return {
        "area": area,
        "selection stays": found,
        "said": screen.words,
    }


def all_of_it(screen: Screen) -> Any:
    document = yield from opened()
    document.setSelection(elliptic(8, 6, 40, 30))
    yield from screen.translate(model="own", source="layer", region="all", attention="none")
    save("all.raw", layers(document)[-1], (0, 0, 64, 48))
    yield from closed(document)
    return {}


def moved(screen: Screen) -> Any:
    """A layer that lies partly outside of the picture, and is clear in places."""
    document = yield from opened()
    # Krita's first layer is opaque wherever nothing was painted.
    layer = document.createNode("moved", "paintlayer")
    layer.setPixelData(QByteArray((PLACE / "clear.bgra").read_bytes()), 0, 0, 64, 48)
    document.rootNode().addChildNode(layer, layers(document)[0])
    yield 100
    layer.move(-10, 7)
    document.setActiveNode(layer)
    yield 100
    document.refreshProjection()
    document.waitForDone()
    yield from screen.translate(model="own", source="layer", region="all", attention="none")
    save("moved.raw", layers(document)[-1], (0, 7, 54, 41))
    save("moved-all.raw", layers(document)[-1], (0, 0, 64, 48))
    save("moved-source.raw", layer, (0, 7, 54, 41))
    yield from closed(document)
    return {}


def visible(screen: Screen) -> Any:
    """Two layers, the lower one active: what both show is taken, and the result lies above both."""
    document = yield from opened()
    layer = layers(document)[0]
    over = document.createNode("over", "paintlayer")
    over.setPixelData(QByteArray(bytes((0, 0, 255, 255)) * 200), 10, 10, 20, 10)
    document.rootNode().addChildNode(over, layer)
    yield 100
    document.setActiveNode(layer)
    document.refreshProjection()
    document.waitForDone()
    yield 100
    (PLACE / "visible-source.raw").write_bytes(bytes(document.pixelData(0, 0, 64, 48)))
    yield from screen.translate(model="own", source="visible", region="all", attention="none")
    save("visible.raw", layers(document)[-1], (0, 0, 64, 48))
    after = names(document)
    yield from closed(document)
    return {"after": after}


def attention_layer(screen: Screen) -> Any:
    document = yield from opened()
    yield from screen.translate(model="own", source="layer", region="all", attention="layer")
    said = screen.words
    after = names(document)
    result, looked = layers(document)[-1].childNodes()
    save("with-layer.raw", result, (0, 0, 64, 48))
    save("attention-layer.raw", looked, (0, 0, 64, 48))
    hidden = not looked.visible()
    yield from undo(document)
    undone = names(document)
    yield from closed(document)
    return {"after": after, "undone": undone, "hidden": hidden, "said": said}


def attention_mask(screen: Screen) -> Any:
    document = yield from opened()
    document.setSelection(elliptic(8, 6, 40, 30))
    selection = document.selection()
    area = (selection.x(), selection.y(), selection.width(), selection.height())
    yield from screen.translate(model="own", source="layer", region="selection", attention="mask")
    after = names(document)
    said = screen.words
    layer = layers(document)[-1]
    save("with-mask.raw", layer, area)
    kind = layer.childNodes()[0].type() if layer.childNodes() else None
    if kind:
        save("attention-mask.raw", layer.childNodes()[0], area)
    (PLACE / "with-mask-shown.raw").write_bytes(bytes(layer.projectionPixelData(*area)))
    open_now = len(krita.documents())
    yield from screen.picture("mask")
    yield from undo(document)
    undone = names(document)
    yield from redo(document)
    redone = names(document)
    yield from closed(document)
    return {
        "after": after, "undone": undone, "redone": redone, "kind": kind, "area": area, "open": open_now,
        "said": said,
    }  # fmt: skip


def photograph(screen: Screen) -> Any:
    """A real picture with a real model, for people to look at."""
    side = 512
    # The docker asks by itself which models there are.
    yield from screen.until_idle()
    document = yield from opened(side, side, pixels="photograph.bgra")
    document.setSelection(elliptic(60, 20, 340, 420))
    yield from screen.translate(model="ink", source="layer", region="selection", attention="none")
    document.setSelection(None)
    yield from undo(document)
    yield from redo(document)
    save("photograph.raw", layers(document)[-1], (0, 0, side, side))
    krita.action("zoom_to_100pct").trigger()
    yield from screen.picture("photograph")
    yield from closed(document)
    return {"said": screen.words}


def one_step(screen: Screen) -> Any:
    """What is undone after the translation is what was done before it."""
    found = {}
    for kind in ("none", "layer", "mask"):
        document = yield from opened()
        layer = layers(document)[0]
        document.rootNode().addChildNode(document.createNode("mark", "paintlayer"), layer)
        yield 100
        document.setActiveNode(layer)
        yield 100
        yield from screen.translate(model="own", source="layer", region="all", attention=kind)
        seen = [len(names(document))]
        for _ in range(2):
            yield from undo(document)
            seen.append(len(names(document)))
        found[kind] = seen
        yield from closed(document)
    return found


def spaces(screen: Screen) -> Any:
    """The same picture in other colours and depths."""
    found: dict[str, Any] = {}
    for name, space in json.loads((PLACE / "spaces.json").read_text()).items():
        document = yield from opened(space=tuple(space))
        layer = layers(document)[0]
        yield from screen.translate(model="own", source="layer", region="all", attention="none")
        new = layers(document)[-1]
        save(f"{name}.raw", new, (0, 0, 64, 48))
        yield from undo(document)
        undone = names(document)
        yield from undo(document)
        twice = [document.colorModel(), document.colorDepth()]
        yield from redo(document)
        yield from redo(document)
        seen = layers(document)[-1].duplicate()
        seen.setColorSpace("RGBA", "U8", "sRGB-elle-V2-srgbtrc.icc")
        save(f"{name}-seen.raw", seen, (0, 0, 64, 48))
        taken = layer.duplicate()
        taken.setColorSpace("RGBA", "U8", "sRGB-elle-V2-srgbtrc.icc")
        save(f"{name}-source.raw", taken, (0, 0, 64, 48))
        found[name] = {
            "nodes": names(document),
            "space": [new.colorModel(), new.colorDepth(), new.colorProfile()],
            "own": [document.colorModel(), document.colorDepth(), document.colorProfile()],
            "said": screen.words,
            "undone": undone,
            "undone twice": twice,
        }
        yield from closed(document)
    return found


def deep(screen: Screen) -> Any:
    """16 bits that are no multiples of those of 8."""
    document = yield from opened(space=("RGBA", "U16", "sRGB-elle-V2-srgbtrc.icc"))
    layer = layers(document)[0]
    layer.setPixelData(QByteArray((PLACE / "deep.bgra16").read_bytes()), 0, 0, 64, 48)
    document.refreshProjection()
    document.waitForDone()
    yield from screen.translate(model="own", source="layer", region="all", attention="none")
    save("deep.raw", layers(document)[-1], (0, 0, 64, 48))
    yield from closed(document)
    return {}


def reverse(screen: Screen) -> Any:
    document = yield from opened()
    yield from screen.translate(
        model="own", direction="reverse", source="layer", region="all", attention="none"
    )
    save("reverse.raw", layers(document)[-1], (0, 0, 64, 48))
    screen.choose(model="oneway")
    one_way = screen.options("direction")
    screen.choose(model="own")
    yield from closed(document)
    return {"one way": one_way, "both": screen.options("direction")}


def by_the_menu(screen: Screen) -> Any:
    document = yield from opened()
    screen.choose(model="own", direction="forward", source="layer", region="all", attention="none")
    screen.docker.hide()
    krita.action("ugatit_translate").trigger()
    yield 50
    yield from screen.until_idle()
    after = names(document)
    shown = screen.docker.isVisible()
    yield from closed(document)
    return {"after": after, "shown": shown}
