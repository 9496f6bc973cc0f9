"""A transparency mask that is not part of a picture yet.

In Krita 5.1 `createNode` gives a mask that holds nothing and never will, and the menu's action takes a step
of undoing of its own and the selection. A mask that was loaded from a file can be duplicated and filled, and
comes into the picture together with its layer. So the smallest file that holds one is written and loaded.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from krita import Krita
from PyQt5.QtCore import QByteArray

_TILES = "VERSION 2\nTILEWIDTH 64\nTILEHEIGHT 64\nPIXELSIZE {}\nDATA 0\n"
_DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE DOC PUBLIC '-//KDE//DTD krita 2.0//EN' 'http://www.calligra.org/DTD/krita-2.0.dtd'>
<DOC xmlns="http://www.calligra.org/DTD/krita" syntaxVersion="2.0" editor="Krita" kritaVersion="5.1.5">
 <IMAGE width="1" height="1" name="mask" colorspacename="RGBA" profile="sRGB-elle-V2-srgbtrc.icc"
  description="" x-res="72" y-res="72" mime="application/x-kra">
  <layers>
   <layer name="layer" filename="layer2" nodetype="paintlayer" colorspacename="RGBA" opacity="255" visible="1"
    compositeop="normal" x="0" y="0" locked="0" collapsed="0" channelflags="" channellockflags="">
    <masks>
     <mask name="mask" filename="mask3" nodetype="transparencymask" visible="1" x="0" y="0" locked="0"/>
    </masks>
   </layer>
  </layers>
 </IMAGE>
</DOC>
"""
_FILES = {
    "mimetype": b"application/x-krita",
    "maindoc.xml": _DOCUMENT.encode(),
    "mask/layers/layer2": _TILES.format(4).encode(),
    "mask/layers/layer2.defaultpixel": bytes(4),
    "mask/layers/mask3.pixelselection": _TILES.format(1).encode(),
    "mask/layers/mask3.pixelselection.defaultpixel": bytes(1),
}


def transparency_mask(name: str, levels: bytes, area: tuple[int, int, int, int]) -> Any:
    """A mask: 255 is opaque; outside of the area all is clear.

    Args:
        name: as the layer list shows it.
        levels: one a pixel.
        area: x, y, width, height in pixels of the picture.

    Returns:
        The node, or None where this Krita cannot make one.
    """
    with tempfile.TemporaryDirectory(prefix="ugatit-") as folder:
        path = Path(folder) / "mask.kra"
        with zipfile.ZipFile(path, "w") as file:
            for inner, data in _FILES.items():
                file.writestr(inner, data)
        document = _open_quietly(str(path))
        if document is None:
            return None
        found = [child for layer in document.topLevelNodes() for child in layer.childNodes()]
        mask = found[0].duplicate() if found else None
        document.setModified(False)
        document.close()
    if mask is None:
        return None
    mask.setName(name)
    mask.setPixelData(QByteArray(levels), *area)
    return mask if bytes(mask.pixelData(*area)) == levels else None


def _open_quietly(path: str) -> Any:
    """Open a document without a window, and without any question to the user."""
    krita = Krita.instance()
    before = krita.batchmode()
    krita.setBatchmode(True)
    try:
        document = krita.openDocument(path)
    finally:
        krita.setBatchmode(before)
    if document is not None:
        document.setBatchmode(True)
    return document
