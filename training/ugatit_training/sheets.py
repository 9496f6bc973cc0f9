"""Pictures of an evaluation: the contact sheet, and the attention of all three networks (figures 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ugatit_batch.images.sidecars import overlay
from ugatit_training.charts import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ugatit_batch.frames import Attention, Pixels

_GAP, _HEADER = 6, 24
_SMALLEST, _LARGEST = 128, 256
_ACROSS = 4


@dataclass(frozen=True)
class Looked:
    """One test picture, its translation, and where the networks looked."""

    source: Pixels
    """uint8, S×S×3."""
    result: Pixels
    """uint8, S×S×3."""
    generator: Attention | None = None
    """Of the source; float32, h×w; None where the generator has no attention."""
    local: Attention | None = None
    """Of the result, by the target domain's local discriminator."""
    global_: Attention | None = None
    """Of the result, by the target domain's global discriminator."""


def contact_sheet(looked: Sequence[Looked]) -> Image.Image:
    """Pairs of a source and its result, four pairs across."""
    rows = [
        [cell for one in looked[start : start + _ACROSS] for cell in (one.source, one.result)]
        for start in range(0, len(looked), _ACROSS)
    ]
    return sheet(["source", "result"] * min(len(looked), _ACROSS), rows, 192)


def attention_sheet(looked: Sequence[Looked]) -> Image.Image | None:
    """A row a picture: source, attention of the generator and of both discriminators, result.

    The generator's map lies over the source, the discriminators' over the result, which is what they saw;
    each map is scaled by its own range. Networks without attention have no column.

    Returns:
        None where no network has attention.
    """
    first = looked[0]
    titles = ["source"]
    titles += ["generator attention"] if first.generator is not None else []
    titles += ["local discriminator"] if first.local is not None else []
    titles += ["global discriminator"] if first.global_ is not None else []
    titles += ["result"]
    if len(titles) == 2:
        return None
    rows = []
    for one in looked:
        maps = ((one.source, one.generator), (one.result, one.local), (one.result, one.global_))
        overlays = [overlay(under, levels(m, under.shape[0])) for under, m in maps if m is not None]
        rows.append([one.source, *overlays, one.result])
    return sheet(titles, rows, _LARGEST)


def levels(attention: Attention, side: int) -> NDArray[np.uint8]:
    """A map at the size of its picture: 0 where it is lowest, 255 where it is highest, 0 where it is flat.

    Args:
        attention: float32, h×w; can be negative.
        side: of the square picture.

    Returns:
        uint8, side×side.
    """
    values = np.nan_to_num(np.asarray(attention, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    # Below this share of its values, a range is what rounding made of a flat map.
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return np.zeros((side, side), np.uint8)
    scaled = Image.fromarray((values - low) / (high - low))
    enlarged = np.asarray(scaled.resize((side, side), Image.Resampling.BICUBIC))
    return np.asarray(np.rint(np.clip(enlarged, 0, 1) * 255), np.uint8)


def sheet(titles: Sequence[str], rows: Sequence[Sequence[Pixels]], largest: int) -> Image.Image:
    """Square pictures in rows below a line of titles.

    Args:
        titles: one a column.
        rows: uint8 S×S×3 pictures, all of one size; a short last row leaves white cells.
        largest: side of a cell in pixels, where the pictures are not smaller.
    """
    side = rows[0][0].shape[0]
    cell = min(max(side, _SMALLEST), largest)
    pitch = cell + _GAP
    page = Image.new("RGB", (pitch * len(titles) + _GAP, _HEADER + pitch * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        write(draw, (_GAP + column * pitch, _HEADER // 2), title, 13, "lm")
    filter_ = Image.Resampling.NEAREST if cell > side else Image.Resampling.LANCZOS
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            image = Image.fromarray(pixels).resize((cell, cell), filter_)
            page.paste(image, (_GAP + x * pitch, _HEADER + y * pitch))
    return page
