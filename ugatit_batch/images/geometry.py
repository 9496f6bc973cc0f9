"""How a picture is brought to a size that a network takes, and back.

Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from ugatit_batch.frames import Attention, Pixels, SizeRule

Fit = Literal["pad", "crop", "stretch"]
OutputSize = Literal["source", "network"]


@dataclass(frozen=True)
class Sizing:
    """The working size that was asked for (`--size`, `--fit`, `--output-size`)."""

    square: bool
    """True: the network sees a square of `side` pixels. False: it sees the picture in its own shape."""
    side: int | None
    """Side of the square, or the longest side a picture may keep (None: no limit)."""
    fit: Fit = "pad"
    """How a picture comes into the square: padded by reflection, cut to its centre, or stretched."""
    output: OutputSize = "source"
    """Size of the result: the source's, or what the network gives."""


@dataclass(frozen=True)
class Placement:
    """Where one picture lies in the network's input. All boxes are (left, top, right, bottom) in pixels."""

    source: tuple[int, int]
    """(width, height) of the upright source."""
    crop: tuple[int, int, int, int]
    """The part of the source that is translated."""
    scaled: tuple[int, int]
    """(width, height) of that part as the network sees it."""
    network: tuple[int, int]
    """(width, height) of the network's input."""
    offset: tuple[int, int]
    """(left, top) of the scaled part in the network's input; the rest is reflection."""
    result: tuple[int, int]
    """(width, height) of the picture that is written."""


def place(width: int, height: int, sizing: Sizing, rule: SizeRule) -> Placement:
    """Plan how a width × height picture passes through a network.

    Raises:
        SizeError: the network does not take the size that comes out.
    """
    crop = (0, 0, width, height)
    if sizing.square:
        if sizing.side is None:
            raise ValueError("a square needs its side")
        network = (sizing.side, sizing.side)
        if sizing.fit == "stretch":
            scaled = network
        elif sizing.fit == "crop":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            crop = (left, top, left + side, top + side)
            scaled = network
        else:
            scaled = _within(width, height, sizing.side)
    else:
        longest = max(width, height)
        limit = longest if sizing.side is None else min(longest, sizing.side)
        scaled = _within(width, height, limit)
        network = (rule.round_up(scaled[0]), rule.round_up(scaled[1]))
    rule.check(network[1], network[0])
    offset = ((network[0] - scaled[0]) // 2, (network[1] - scaled[1]) // 2)
    result = (crop[2] - crop[0], crop[3] - crop[1]) if sizing.output == "source" else scaled
    return Placement((width, height), crop, scaled, network, offset, result)


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of width × height scaled so that its longer side is `side`."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def scale_to_network(image: Image.Image, placement: Placement) -> Image.Image:
    """The translated part of an upright image, of any mode that can be resized, at `placement.scaled` size.

    The image may be smaller than `placement.source` where a decoder scaled it down.
    """
    if image.size == placement.scaled and placement.crop == (0, 0, *placement.source):
        return image
    (width, height), (source_width, source_height) = image.size, placement.source
    left, top, right, bottom = placement.crop
    box = (
        left * width / source_width,
        top * height / source_height,
        right * width / source_width,
        bottom * height / source_height,
    )
    return image.resize(placement.scaled, Image.Resampling.LANCZOS, box=box)


def pad_to_network(image: Image.Image, placement: Placement) -> Pixels:
    """An RGB image of `placement.scaled` size as uint8 H×W×3 of the network's size, the rest reflection."""
    pixels = np.array(image)
    if placement.scaled == placement.network:
        return pixels
    (width, height), (x, y) = placement.network, placement.offset
    padding = (
        (y, height - pixels.shape[0] - y),
        (x, width - pixels.shape[1] - x),
        (0, 0),
    )
    return np.pad(pixels, padding, mode="reflect")


def to_network(image: Image.Image, placement: Placement) -> Pixels:
    """Bring an upright RGB image to the network's size.

    Args:
        image: mode RGB; its size may be smaller than `placement.source` where a decoder scaled it down.
        placement: from `place`.

    Returns:
        uint8, H×W×3, in memory of its own.
    """
    return pad_to_network(scale_to_network(image, placement), placement)


def from_network(pixels: Pixels, placement: Placement) -> Image.Image:
    """The network's output, uint8 H×W×3, as an RGB image of `placement.result` size."""
    (x, y), (width, height) = placement.offset, placement.scaled
    image = Image.fromarray(np.ascontiguousarray(pixels[y : y + height, x : x + width]))
    if image.size == placement.result:
        return image
    return image.resize(placement.result, Image.Resampling.LANCZOS)


def alpha_to_result(alpha: Image.Image, placement: Placement) -> Image.Image:
    """The alpha plane (mode L, `placement.source` size) of the picture that is written."""
    if placement.crop != (0, 0, *placement.source):
        alpha = alpha.crop(placement.crop)
    if alpha.size == placement.result:
        return alpha
    return alpha.resize(placement.result, Image.Resampling.LANCZOS)


def attention_from_network(attention: Attention, placement: Placement) -> Attention:
    """The attention map of one picture at `placement.result` size, float32, in the network's own units."""
    image = Image.fromarray(attention)
    image = image.resize(placement.network, Image.Resampling.BILINEAR)
    (x, y), (width, height) = placement.offset, placement.scaled
    image = image.crop((x, y, x + width, y + height))
    if image.size != placement.result:
        image = image.resize(placement.result, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32)
