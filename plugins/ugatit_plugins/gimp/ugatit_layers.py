"""From an image to what the network takes, and from what it gives to new layers.

GEGL converts between any precision, grey or colour, any colour profile, and 8-bit sRGB. Knows nothing of
the server.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gegl, Gimp  # noqa: E402 - the versions have to be chosen first
from ugatit_client import UgatitError  # noqa: E402

_COLOUR = "R'G'B'A u8"
_GREY = "Y'A u8"


@dataclass(frozen=True)
class Source:
    """What is to be translated, as it was when the command was given.

    Attributes:
        image: which picture it is of.
        size: its width and height.
        below: the layer that the result goes above; None: above all.
        x, y: where it begins, in pixels of the image.
        width, height: in pixels.
        rgba: its pixels, four bytes each, sRGB.
        selection: how far each pixel is selected, in `selection_format`; None: nothing limits the result.
        selection_format: `Y u8` or `Y float`.
    """

    image: Any
    size: tuple[int, int]
    below: Any
    x: int
    y: int
    width: int
    height: int
    rgba: bytes
    selection: bytes | None
    selection_format: str

    @property
    def rgb(self) -> bytes:
        """Its pixels without their alpha, three bytes each."""
        rgb = bytearray(self.width * self.height * 3)
        for channel in range(3):
            rgb[channel::3] = self.rgba[channel::4]
        return bytes(rgb)


def read(image: Any, drawables: list[Any], source: str, region: str) -> Source:
    """What is to be translated.

    Args:
        image: the picture.
        drawables: what is chosen in it.
        source: `layer` or `visible`.
        region: `selection` or `all`.

    Raises:
        UgatitError: there is nothing that could be translated; the message says what to choose.
    """
    if image.get_base_type() == Gimp.ImageBaseType.INDEXED:
        raise _refusal("The picture has a palette.", "choose Image > Mode > RGB, then translate again")
    if image.get_floating_sel() is not None:
        raise _refusal("There is a floating selection.", "anchor it (Layer > Anchor), then translate again")
    if source == "visible":
        below = None
        _, selected, left, top, right, bottom = Gimp.Selection.bounds(image)
        if region == "all" or not selected:
            left, top, right, bottom = 0, 0, image.get_width(), image.get_height()
        x, y, width, height = left, top, right - left, bottom - top
        shown = Gimp.Layer.new_from_visible(image, image, "U-GAT-IT")
        rgba = _pixels(shown, x, y, width, height, _COLOUR)
        shown.delete()
    else:
        below = _one_layer(drawables)
        touched, inner_x, inner_y, width, height = True, 0, 0, below.get_width(), below.get_height()
        if region == "selection":
            touched, inner_x, inner_y, width, height = below.mask_intersect()
        if not touched:
            raise _refusal(
                "The selection does not touch the layer.", "choose another layer, or Select > None"
            )
        _, offset_x, offset_y = below.get_offsets()
        x, y = offset_x + inner_x, offset_y + inner_y
        rgba = _pixels(below, inner_x, inner_y, width, height, _COLOUR)
    selection, selection_format = None, _selection_format(image)
    if region == "selection" and not Gimp.Selection.is_empty(image):
        selection = _pixels(image.get_selection(), x, y, width, height, selection_format)
    return Source(image, _size(image), below, x, y, width, height, rgba, selection, selection_format)


def add_result(source: Source, rgb: bytes, attention: bytes | None, kind: str, name: str) -> None:
    """Put the result into the image, above what it was made from: one step of undoing.

    Args:
        source: what `read` gave.
        rgb: the result, three bytes a pixel, as large as the source.
        attention: where the network looked, a byte a pixel; None with `kind` none.
        kind: what becomes of that: `none`, a `layer` of its own, or the result's `mask`.
        name: of the new layer.

    Raises:
        UgatitError: the picture or the layer is gone, or the picture has another size; nothing was changed.
    """
    if not source.image.is_valid():
        raise _refusal("The picture was closed while it was translated.", "nothing was changed")
    if _size(source.image) != source.size:
        raise _refusal("The picture has another size than when it was read.", "translate it once more")
    if source.below is not None and not source.below.is_valid():
        raise _refusal("The layer was removed while it was translated.", "nothing was changed")
    pixels = bytearray(source.rgba)
    for channel in range(3):
        pixels[channel::4] = rgb[channel::3]
    added: list[Any] = []
    source.image.undo_group_start()
    try:
        result = _add_layer(source, source.below, name, _COLOUR, bytes(pixels), added)
        if attention is not None and kind == "layer":
            grey = bytearray(b"\xff" * (2 * len(attention)))
            grey[0::2] = attention
            looked = _add_layer(source, result, name + " attention", _GREY, bytes(grey), added)
            _must(looked.set_visible(False), "hide the attention layer")
        _add_mask(source, result, attention if kind == "mask" else None)
        _must(source.image.set_selected_layers([result]), "choose the new layer")
    except BaseException:
        for layer in added:
            source.image.remove_layer(layer)
        raise
    finally:
        source.image.undo_group_end()
    Gimp.displays_flush()


def _size(image: Any) -> tuple[int, int]:
    return image.get_width(), image.get_height()


def _one_layer(drawables: list[Any]) -> Any:
    if len(drawables) != 1:
        raise _refusal(
            "No layer is chosen." if not drawables else "Several layers are chosen.",
            "choose one layer, or translate what is visible",
        )
    chosen = drawables[0]
    if isinstance(chosen, Gimp.LayerMask):
        return Gimp.Layer.from_mask(chosen)
    if not isinstance(chosen, Gimp.Layer):
        raise _refusal("A channel is chosen.", "choose a layer, or translate what is visible")
    return chosen


def _add_layer(
    source: Source, below: Any, name: str, pixel_format: str, pixels: bytes, added: list[Any]
) -> Any:
    image = source.image
    grey = image.get_base_type() == Gimp.ImageBaseType.GRAY
    layer_type = Gimp.ImageType.GRAYA_IMAGE if grey else Gimp.ImageType.RGBA_IMAGE
    mode = image.get_default_new_layer_mode()
    layer = Gimp.Layer.new(image, name, source.width, source.height, layer_type, 100.0, mode)
    _must(layer.set_offsets(source.x, source.y), "place a layer")
    parent = None if below is None else below.get_parent()
    position = 0 if below is None else image.get_item_position(below)
    _must(image.insert_layer(layer, parent, position), "add a layer")
    added.append(layer)
    _put(layer, source, pixel_format, pixels)
    return layer


def _add_mask(source: Source, layer: Any, attention: bytes | None) -> None:
    """What of the result is seen: where it is selected, and as far as the network looked there."""
    levels, levels_format = source.selection, source.selection_format
    if attention is not None:
        if levels is None:
            levels, levels_format = attention, "Y u8"
        elif levels_format == "Y u8":
            levels = bytes((chosen * looked + 127) // 255 for chosen, looked in zip(levels, attention))
        else:
            chosen_levels = array("f", levels)
            levels = array("f", (c * a / 255 for c, a in zip(chosen_levels, attention))).tobytes()
    if levels is None:
        return
    mask = layer.create_mask(Gimp.AddMaskType.WHITE)
    _must(layer.add_mask(mask), "add a mask")
    _must(layer.set_edit_mask(False), "choose the new layer")
    _put(mask, source, levels_format, levels)


def _selection_format(image: Any) -> str:
    """A format that loses nothing of a selection."""
    eight_bits = (Gimp.Precision.U8_LINEAR, Gimp.Precision.U8_NON_LINEAR, Gimp.Precision.U8_PERCEPTUAL)
    return "Y u8" if image.get_precision() in eight_bits else "Y float"


def _pixels(drawable: Any, x: int, y: int, width: int, height: int, pixel_format: str) -> bytes:
    area = Gegl.Rectangle.new(x, y, width, height)
    return bytes(drawable.get_buffer().get(area, 1.0, pixel_format, Gegl.AbyssPolicy.CLAMP))


def _put(drawable: Any, source: Source, pixel_format: str, pixels: bytes) -> None:
    buffer = drawable.get_buffer()
    buffer.set(Gegl.Rectangle.new(0, 0, source.width, source.height), pixel_format, pixels)
    buffer.flush()
    drawable.update(0, 0, source.width, source.height)


def _must(done: bool, what: str) -> None:
    """GIMP tells of a failure by False alone."""
    if not done:
        raise _refusal("GIMP could not " + what + ".", "the picture is as it was")


def _refusal(message: str, hint: str) -> UgatitError:
    return UgatitError("not_possible", message, hint)
