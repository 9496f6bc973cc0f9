"""Small charts, drawn with Pillow alone so that they work on a bare GPU machine.

Pillow's own font knows ASCII only: other letters are spelled without their accents, or as a question mark.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

Colour = tuple[int, int, int]

INK, FAINT = (40, 40, 40), (222, 222, 222)
SERIES: tuple[Colour, ...] = ((31, 107, 186), (214, 96, 33))
"""Colours of A and B, also told apart without their hue: the first is darker."""
_PANEL, _PANEL_HEIGHT = 460, 210
_BINS = 50
_LAYER_WIDTH, _LAYER_HEIGHT = 340, 46
_LABEL, _FIGURE = 110, 84
_TITLE = 50  # letters that have room above a column
_POINTS = 400


def ascii_label(text: str) -> str:
    """What Pillow's font can write of a text."""
    plain = unicodedata.normalize("NFKD", text.replace("→", "to").replace("ρ", "rho"))
    letters = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in letters)


def write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int = 13, anchor: str = "la"
) -> None:
    """Write a label; `anchor` as Pillow has it."""
    draw.text(place, ascii_label(text), fill=INK, font=ImageFont.load_default(size), anchor=anchor)


def loss_chart(metrics: Sequence[Mapping[str, float]]) -> Image.Image | None:
    """Loss curves of a run: one panel a loss, A and B in each.

    Args:
        metrics: lines of `metrics.jsonl`, each with `step` and losses whose names end in _a and _b.

    Returns:
        The chart; None where fewer than two lines have losses.
    """
    lines = [line for line in metrics if any(key.endswith("_a") for key in line)]
    if len(lines) < 2:
        return None
    losses = [key.removesuffix("_a") for key in lines[0] if key.endswith("_a")]
    columns = 2
    rows = -(-len(losses) // columns)
    chart = Image.new("RGB", (columns * _PANEL, rows * _PANEL_HEIGHT + 30), "white")
    draw = ImageDraw.Draw(chart)
    for index, name in enumerate(("A", "B")):
        draw.line((20 + 70 * index, 15, 44 + 70 * index, 15), fill=SERIES[index], width=3)
        write(draw, (50 + 70 * index, 15), name, anchor="lm")
    write(
        draw,
        (170, 15),
        "means between two reports; the faint line is each, the strong one smoothed",
        12,
        "lm",
    )
    for index, loss in enumerate(losses):
        series = [
            [(line["step"], line[f"{loss}{end}"]) for line in lines if f"{loss}{end}" in line]
            for end in ("_a", "_b")
        ]
        corner = (index % columns * _PANEL, 30 + index // columns * _PANEL_HEIGHT)
        _line_panel(draw, corner, loss, [np.array(points, np.float64) for points in series])
    return chart


def rho_layers(generator: nn.Module) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """ρ of each AdaLIN and LIN layer of a generator, in the order of the decoder.

    Returns:
        A float32 array with one value a channel, by the layer's label; none for other normalisations.
    """
    found = {}
    for name, parameter in generator.named_parameters():
        if name.endswith(".rho"):
            found[_layer_label(name)] = parameter.detach().float().cpu().numpy()
    return found


def _layer_label(name: str) -> str:
    block = re.search(r"decoder\.(\d+)\.norm(\d+)\.rho$", name)
    if block:
        return f"block {int(block[1]) + 1}, norm {block[2]}"
    up = re.search(r"up_norms\.(\d+)\.rho$", name)
    return f"up-sampling {int(up[1]) + 1}" if up else name.removesuffix(".rho")


def rho_chart(
    directions: Mapping[str, Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]],
) -> Image.Image | None:
    """The distribution of ρ in each layer (figure 5): a histogram over [0, 1] with its mean.

    Args:
        directions: the layers of `rho_layers` by direction, such as `photo → ink`.

    Returns:
        A column a direction, a row a layer; None where no layer has ρ.
    """
    columns = {title: layers for title, layers in directions.items() if layers}
    if not columns:
        return None
    rows = max(len(layers) for layers in columns.values())
    pitch = _LABEL + _LAYER_WIDTH + _FIGURE
    chart = Image.new("RGB", (pitch * len(columns), 62 + rows * _LAYER_HEIGHT + 46), "white")
    draw = ImageDraw.Draw(chart)
    for index, (title, layers) in enumerate(columns.items()):
        left, top = index * pitch + _LABEL, 62
        write(draw, (left, 14), f"rho, {title}"[:_TITLE], 16)
        write(draw, (left + _LAYER_WIDTH + 12, top - 12), "mean", 12, "lm")
        for row, (label, values) in enumerate(layers.items()):
            _histogram(draw, (left, top + row * _LAYER_HEIGHT), label, values)
        bottom = top + len(layers) * _LAYER_HEIGHT
        for tick in (0, 0.25, 0.5, 0.75, 1):
            x = left + round(tick * _LAYER_WIDTH)
            draw.line((x, bottom, x, bottom + 4), fill=INK)
            write(draw, (x, bottom + 7), f"{tick:g}", 12, "ma")
        write(draw, (left, bottom + 26), "layer normalisation", 12)
        write(draw, (left + _LAYER_WIDTH, bottom + 26), "instance normalisation", 12, "ra")
    return chart


def _histogram(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    label: str,
    values: np.ndarray[Any, np.dtype[np.float32]],
) -> None:
    left, top = corner
    base, height = top + _LAYER_HEIGHT, _LAYER_HEIGHT - 10
    counts = np.histogram(np.clip(values, 0, 1), _BINS, (0, 1))[0]
    for tick in (0.25, 0.5, 0.75):
        x = left + round(tick * _LAYER_WIDTH)
        draw.line((x, top, x, base), fill=FAINT)
    # The square root keeps single channels visible beside a layer's thousand that never moved.
    shares = np.sqrt(counts / max(counts.max(), 1))
    for index, share in enumerate(shares):
        if share > 0:
            start, end = (left + round(edge * _LAYER_WIDTH / _BINS) for edge in (index, index + 1))
            draw.rectangle((start, base - max(1, round(height * share)), end - 1, base), fill=SERIES[0])
    draw.line((left, base, left + _LAYER_WIDTH, base), fill=INK)
    mean = float(values.mean())
    x = left + round(min(max(mean, 0), 1) * _LAYER_WIDTH)
    draw.line((x, top + 6, x, base), fill=SERIES[1], width=2)
    write(draw, (left - 8, base - 8), label, 12, "rs")
    write(draw, (left + _LAYER_WIDTH + 12, base - 8), f"{mean:.3f}", 12, "ls")


def _line_panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    series: Sequence[np.ndarray[Any, np.dtype[np.float64]]],
) -> None:
    """One panel: axes with ticks at both ends, and a line a series of (step, value) rows."""
    left, top = corner[0] + 62, corner[1] + 30
    right, bottom = corner[0] + _PANEL - 24, corner[1] + _PANEL_HEIGHT - 26
    write(draw, (left, corner[1] + 8), title, 15)
    whole = np.concatenate([points for points in series if len(points)])
    finite = whole[np.isfinite(whole[:, 1])]
    if not len(finite):
        write(draw, (left, top + 20), "no finite value", 12)
        return
    start, end = whole[:, 0].min(), whole[:, 0].max()
    # A first report can be a hundred times the rest: the axis ends where all but one in a hundred values do.
    low, high = min(0.0, finite[:, 1].min()), float(np.percentile(finite[:, 1], 99))
    high = high if high > low else low + 1
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=FAINT)
        write(draw, (left - 6, y), f"{low + share * (high - low):.3g}", 12, "rm")
    write(draw, (left, bottom + 6), f"{start:.0f}", 12, "la")
    write(draw, (right, bottom + 6), f"step {end:.0f}", 12, "ra")

    def place(points: np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[float, float]]:
        x = left + (points[:, 0] - start) / max(end - start, 1) * (right - left)
        y = bottom - np.clip((points[:, 1] - low) / (high - low), 0, 1) * (bottom - top)
        return list(zip(x.tolist(), y.tolist(), strict=True))

    kept = [points[np.isfinite(points[:, 1])] for points in series]
    for colour, points in zip(SERIES, kept, strict=True):
        faint = tuple(round(255 - (255 - c) * 0.35) for c in colour)
        draw.line(place(points[:: max(1, len(points) // _POINTS)]), fill=faint)
    for colour, points in zip(SERIES, kept, strict=True):
        draw.line(place(_smoothed(points)), fill=colour, width=2)


def _smoothed(
    points: np.ndarray[Any, np.dtype[np.float64]],
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Means of neighbouring rows: at most 40 of them."""
    parts = np.array_split(points, min(40, len(points)))
    return np.array([part.mean(0) for part in parts if len(part)])
