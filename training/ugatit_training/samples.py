"""Sample sheets: what the generators make of a few fixed pictures, to be looked at.

One row a picture: source, attention, result, cycle (back through the other generator), identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from ugatit_batch.atomic import replacing
from ugatit_batch.images.sidecars import colour_map
from ugatit_training.data import open_rgb, to_network
from ugatit_training.scores import device_of, to_pixels
from ugatit_training.sheets import levels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from ugatit_batch.frames import Pixels
    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.generator import Generator

ROWS = 4
COLUMNS = ("source", "attention", "result", "cycle", "identity")
_GAP = 4
_HEADER = 16


def sample_pixels(paths: tuple[Path, ...], size: int) -> Tensor:
    """Up to ROWS pictures spread evenly over a domain, centre square, uint8, N×3×S×S."""
    chosen = [paths[i * len(paths) // ROWS] for i in range(ROWS)] if len(paths) > ROWS else list(paths)
    squares = []
    for path in chosen:
        image = open_rgb(path)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
        squares.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(squares)


@torch.no_grad()
def write_samples(
    generators: Sequence[Generator], domains: Domains, config: TrainConfig, folder: Path, step: int
) -> Path:
    """Write the sheets `step-NNNNNNNN-a2b.png` and `-b2a.png`; return the first.

    The generators (A → B, B → A) are left as they were: they have no state that a forward pass changes.
    """
    a2b, b2a = generators
    device = device_of(a2b)
    directions = (("a2b", a2b, b2a, domains.a), ("b2a", b2a, a2b, domains.b))
    first = folder / f"step-{step:08d}-a2b.png"
    for name, there, back, paths in directions:
        rows = [
            _row(there, back, to_network(picture[None], device))
            for picture in sample_pixels(paths, config.image_size)
        ]
        columns = [title for title in COLUMNS if title != "attention" or there.config.attention]
        with replacing(folder / f"step-{step:08d}-{name}.png") as partial:
            _sheet(columns, rows, config.image_size).save(partial)
    return first


def _row(there: Generator, back: Generator, picture: Tensor) -> list[Pixels]:
    result = there(picture)
    cycle, identity = back(result.image).image, back(picture).image
    images = [to_pixels(x)[0] for x in (picture, result.image, cycle, identity)]
    if not there.config.attention:
        return images
    heat = colour_map()[levels(result.attention[0].float().cpu().numpy(), picture.shape[-1])]
    return [images[0], heat, *images[1:]]


def _sheet(columns: Sequence[str], rows: list[list[Pixels]], size: int) -> Image.Image:
    pitch = size + _GAP
    sheet = Image.new("RGB", (pitch * len(columns) - _GAP, _HEADER + pitch * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((column * pitch + 2, 2), title, fill="black")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            sheet.paste(Image.fromarray(pixels), (x * pitch, _HEADER + y * pitch))
    return sheet
