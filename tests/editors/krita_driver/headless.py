"""Runs within kritarunner, without a window: adds layers to a picture, and tells what is in it then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from krita import Krita
from ugatit import layers  # type: ignore[import-not-found]

SELECTION = bytes([255] * 5 + [0])


def add(arguments: list[str]) -> None:
    """Translate nothing: put given pixels into a picture.

    Args:
        arguments: file for the report; `layer`, `mask` or `none`; colour model, depth, profile.
    """
    report, kind, *space = arguments
    krita = Krita.instance()
    document = krita.createDocument(8, 4, "picture", *space, 300.0)
    below = document.topLevelNodes()[0]
    area = (2, 1, 3, 2)
    taken = layers.Taken(
        document, (8, 4), below.uniqueId(), area, bytes(range(100, 124)), bytes([255] * 5 + [0])
    )
    rgb, attention = bytes(range(18)), bytes(range(0, 60, 10))
    finished = layers.Finished.of(taken, rgb, None if kind == "none" else attention, kind)
    layers.put(taken, finished, kind, "new")
    document.waitForDone()
    Path(report).write_text(json.dumps([_told(node, area) for node in document.topLevelNodes()]))


def _told(node: Any, area: tuple[int, int, int, int]) -> dict[str, Any]:
    return {
        "name": node.name(),
        "type": node.type(),
        "space": [node.colorModel(), node.colorDepth()],
        "pixels": list(bytes(node.pixelData(*area))),
        "children": [_told(child, area) for child in node.childNodes()],
    }
