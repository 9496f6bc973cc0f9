"""From Krita's picture to what the network takes, and from what it gives to a new layer.

Krita converts between any colours and 8-bit sRGB, in layers that are no part of the picture; only the
finished layer comes into it, which is the one step of undoing. Knows nothing of the server.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Iterator

from krita import Krita
from PyQt5.QtCore import QByteArray

from . import offer
from .mask import transparency_mask
from .pixels import bgra_of, cut, grey_of, opaque_box, product, rgb_of
from .ugatit_client import UgatitError  # the installer puts it there

_NETWORK = ("RGBA", "U8", "sRGB-elle-V2-srgbtrc.icc")
"""The colours of networks in Krita's words: model, depth, profile."""
_WITHOUT_PIXELS = {"filterlayer": "filter layer", "selectionmask": "selection"}


@dataclass(frozen=True)
class Taken:
    """What is to be translated, as it was when the command was given."""

    document: Any
    size: tuple[int, int]
    below: Any
    """Identity of the layer that the result goes above; None: above all."""
    area: tuple[int, int, int, int]
    """x, y, width, height in pixels of the picture."""
    bgra: bytes
    selection: bytes | None
    """How far each pixel is selected; None: nothing limits the result."""

    @property
    def rgb(self) -> bytes:
        """The colours as the server takes them."""
        return rgb_of(self.bgra)


@dataclass(frozen=True)
class Finished:
    """What becomes of it: pixels for a new layer, made ready where the window does not wait for it."""

    bgra: bytes
    attention: bytes | None
    """Levels of the mask, or pixels of the layer."""

    @classmethod
    def of(cls, taken: Taken, rgb: bytes, attention: bytes | None, kind: str) -> Finished:
        """The translation within the opacity of the source, and within the selection."""
        alpha = taken.bgra[3::4]
        if taken.selection is not None:
            alpha = product(alpha, taken.selection)
        if attention is not None and kind == offer.ATTENTION_LAYER:
            attention = bgra_of(grey_of(attention), alpha)
        return cls(bgra_of(rgb, alpha), attention)


def take(source: str, region: str) -> Taken:
    """What is to be translated of the picture in front.

    Args:
        source: `layer` or `visible`.
        region: `selection` or `all`.

    Raises:
        UgatitError: there is nothing that could be translated; the message says what to choose.
    """
    document = Krita.instance().activeDocument()
    if document is None:
        raise _refusal("No picture is open.", "Open one, then translate.")
    document.waitForDone()
    layer = _layer_of(document.activeNode()) if source == offer.LAYER else None
    area = (0, 0, document.width(), document.height())
    selection = document.selection() if region == offer.SELECTION else None
    if selection is not None:
        area = _common(area, (selection.x(), selection.y(), selection.width(), selection.height()))
        if not _size(area):
            raise _refusal("The selection lies outside of the picture.", "Select something else, or nothing.")
    pixels = _read(document, layer, area)
    # The bounds that Krita 5.1 tells are too large for a layer that has been moved.
    left, top, width, height = opaque_box(pixels[3::4], area[2])
    if not height:
        where = "is empty" if selection is None else "is empty where it is selected"
        raise _refusal(f"The active layer {where}.", "Choose another layer, or all that is visible.")
    pixels = cut(pixels, area[2] * 4, (left * 4, top, width * 4, height))
    area = (area[0] + left, area[1] + top, width, height)
    return Taken(
        document,
        (document.width(), document.height()),
        None if layer is None else layer.uniqueId(),
        area,
        pixels,
        None if selection is None else bytes(selection.pixelData(*area)),
    )


def put(taken: Taken, finished: Finished, kind: str, name: str) -> None:
    """Add the result as a new layer above what it was made from.

    Args:
        taken: what `take` gave.
        finished: what was made of it.
        kind: what becomes of the attention: `none`, a `layer` of its own, or the result's `mask`.
        name: of the new layer.

    Raises:
        UgatitError: the picture or the layer is gone; nothing was changed.
    """
    document = taken.document
    if not any(one == document for one in Krita.instance().documents()):
        raise _refusal("The picture was closed while it was translated.", "Nothing was changed.")
    if (document.width(), document.height()) != taken.size:
        raise _refusal("The picture has another size than when it was taken.", "Translate it once more.")
    # The selection is among them, too.
    layers = [node for node in document.topLevelNodes() if not node.type().endswith("mask")]
    below = layers[-1] if taken.below is None else _find(layers, taken.below)
    if below is None:
        raise _refusal("The layer was removed while it was translated.", "Nothing was changed.")
    with _scratch(_NETWORK) as scratch:
        fresh = _paint_layer(scratch, document, name, finished.bgra, taken.area)
        if finished.attention is not None and kind == offer.ATTENTION_MASK:
            mask = transparency_mask(name + " attention", finished.attention, taken.area)
            _must(mask is not None and fresh.addChildNode(mask, None), "make a transparency mask")
        elif finished.attention is not None:
            looked = _paint_layer(scratch, document, name + " attention", finished.attention, taken.area)
            looked.setVisible(False)
            group = scratch.createGroupLayer(name)
            _must(group.addChildNode(fresh, None) and group.addChildNode(looked, fresh), "make a group")
            fresh = group
        parent = below.parentNode() or document.rootNode()
        _must(parent.addChildNode(fresh, below), "add a layer")
    document.refreshProjection()


def _find(layers: list[Any], identity: Any) -> Any:
    """The layer of that identity, at any depth; None. `nodeByUniqueID` of Krita 5.1 gives no Node."""
    for layer in layers:
        found = layer if layer.uniqueId() == identity else _find(layer.childNodes(), identity)
        if found is not None:
            return found
    return None


def _layer_of(node: Any) -> Any:
    """The layer that is chosen, or whose mask is."""
    while node is not None and node.type().endswith("mask"):
        node = node.parentNode()
    if node is None or node.parentNode() is None:
        raise _refusal("No layer is chosen.", "Choose one, or all that is visible.")
    if node.type() in _WITHOUT_PIXELS:
        raise _refusal(
            f"A {_WITHOUT_PIXELS[node.type()]} has no pixels of its own.",
            "Choose another layer, or all that is visible.",
        )
    return node


def _read(document: Any, layer: Any, area: tuple[int, int, int, int]) -> bytes:
    """Pixels in the colours of networks, with the effects of masks, whatever colours they have."""
    shown = document if layer is None else layer
    pixels = document.pixelData(*area) if layer is None else layer.projectionPixelData(*area)
    space = (shown.colorModel(), shown.colorDepth(), shown.colorProfile())
    if space != _NETWORK:
        pixels = _convert(pixels, area, space)
    data = bytes(pixels)
    if len(data) != 4 * _size(area):
        raise _refusal(
            "Krita did not give the layer's pixels.", "Choose another layer, or all that is visible."
        )
    return data


def _convert(pixels: Any, area: tuple[int, int, int, int], space: tuple[str, str, str]) -> Any:
    """Have Krita convert pixels to the colours of networks."""
    with _scratch(space) as scratch:
        layer = scratch.createNode("scratch", "paintlayer")
        layer.setPixelData(pixels, *area)
        if _be_in(layer, space) and _be_in(layer, _NETWORK):
            return layer.pixelData(*area)
    raise _refusal(
        "Krita cannot convert these colours ({}, {}, {}) to sRGB.".format(*space),
        "Choose Image > Convert Image Color Space, RGB, 8 bits, then translate again.",
    )


def _paint_layer(scratch: Any, document: Any, name: str, bgra: bytes, area: tuple[int, int, int, int]) -> Any:
    """A layer that is no part of the picture yet, in the picture's own colours if those are RGB."""
    layer = scratch.createNode(name, "paintlayer")
    layer.setPixelData(QByteArray(bgra), *area)
    if document.colorModel() == "RGBA":
        own = (document.colorModel(), document.colorDepth(), document.colorProfile())
        _must(_be_in(layer, own), "convert to the colours of the picture")
    return layer


@contextlib.contextmanager
def _scratch(space: tuple[str, str, str]) -> Iterator[Any]:
    """A picture that nobody sees, with these colours.

    In Krita 5.1, whatever is done to a layer is a step of undoing of the picture that it was made for, even
    while it is no part of it.
    """
    document = Krita.instance().createDocument(1, 1, "scratch", *space, 72.0)
    _must(document is not None, "make room for converting colours")
    try:
        yield document
    finally:
        document.setModified(False)
        document.close()


def _be_in(layer: Any, space: tuple[str, str, str]) -> bool:
    if (layer.colorModel(), layer.colorDepth(), layer.colorProfile()) == space:
        return True
    return bool(layer.setColorSpace(*space))


def _common(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2], second[0] + second[2])
    bottom = min(first[1] + first[3], second[1] + second[3])
    return left, top, max(0, right - left), max(0, bottom - top)


def _size(area: tuple[int, int, int, int]) -> int:
    return area[2] * area[3]


def _must(done: bool, what: str) -> None:
    """Krita tells of a failure by False alone."""
    if not done:
        raise _refusal("Krita could not " + what + ".", "The picture is as it was.")


def _refusal(message: str, hint: str) -> UgatitError:
    return UgatitError("not_possible", message, hint)
