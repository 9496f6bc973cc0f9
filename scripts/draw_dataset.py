"""Make an unpaired data set, photograph → ink and sepia drawing, out of one folder of photographs.

The photographs are split into two halves of like colours. Crops of the first half go to ``trainA/`` as they
are; crops of the second half are *drawn* by ordinary image processing and go to ``trainB/``, so no picture is
seen from both sides. Both sides pass the same random colour jitter, so that the split teaches nothing. Every
step of the drawing looks only at a pixel's neighbourhood, at the tile's final resolution: lines keep one
width whatever the crop's scale, and a small convolutional network can learn it.

    python scripts/draw_dataset.py photographs/ drawset/ --tiles 2000 --sheet sheet.png

Knows nothing of models, training or the package itself: it needs NumPy, Pillow and click only.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

SUFFIXES = {".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SIDES = ("trainA", "trainB")
MARGIN = 16  # pixels drawn around a tile and cut off again, so that no filter sees the tile's border
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Style:
    """How a drawing looks. Lengths are pixels of the finished tile; tones run from 0 (black) to 1."""

    # The wash: colour laid flat between the lines.
    smooth_passes: int = 4  # bilateral passes; more is flatter
    smooth_sigma: float = 2.0  # reach of one pass
    smooth_range: float = 0.11  # differences of colour well above this are kept as edges
    tones: int = 5  # steps of lightness
    tone_sharpness: float = 4.0  # how abrupt the step from one tone to the next is
    darkest: float = 0.32  # lightness given to black by the wash alone
    saturation: float = 1.4
    vivid: float = 1.8  # most that colour is strengthened to keep up with the lightened tone
    pool: float = 1.0  # how much pigment gathers at the rim of a wash
    paper: tuple[float, float, float] = (250 / 255, 244 / 255, 230 / 255)
    shadow: tuple[float, float, float] = (-0.05, -0.02, 0.12)  # added to the darkest wash: cool shadows
    # The lines: a thresholded difference of Gaussians at two scales.
    ink: tuple[float, float, float] = (26 / 255, 28 / 255, 46 / 255)
    fine_sigma: float = 0.7
    broad_sigma: float = 1.2
    fine_threshold: float = 0.009
    broad_threshold: float = 0.012
    line_softness: float = 0.014  # contrast over which a line goes from absent to full
    flow_sigma: float = 2.0  # reach of the direction of the strokes
    stroke_sigma: float = 3.0  # a stroke's reach along its direction

    # The plate: the finished drawing printed in three colours, from the darkest line to the bare paper.
    # Colours are given up on purpose: instance normalisation hides a picture's overall colour from the
    # encoder, and a network that has to guess it casts tints (docs/demo-model.md).
    plate_gamma: float = 0.5  # below 1 the washes are lighter
    plate_middle: float = 0.5  # lightness, after gamma, that gets the middle colour
    sepia: tuple[float, float, float] = (178 / 255, 158 / 255, 136 / 255)


def gaussian(plane: Array, sigma: float) -> Array:
    """Blur a plane (H, W) with a Gaussian, edges mirrored."""
    radius = max(1, round(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        size = plane.shape[axis]
        padded = np.pad(plane, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        total = np.zeros_like(plane)
        for start, weight in enumerate(weights):
            part = padded[start : start + size] if axis == 0 else padded[:, start : start + size]
            total += np.float32(weight) * part
        plane = total
    return plane


def bilateral(rgb: Array, sigma: float, spread: float) -> Array:
    """Smooth (H, W, 3) where neighbours are alike (difference below ``spread``) and keep the edges."""
    radius = max(1, round(1.5 * sigma))
    height, width = rgb.shape[:2]
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    padded = np.pad(planes, [(0, 0), (radius, radius), (radius, radius)], mode="symmetric")
    total = np.zeros_like(planes)
    mass = np.zeros((height, width), np.float32)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            near = padded[:, radius + dy : radius + dy + height, radius + dx : radius + dx + width]
            step = near - planes
            apart = step[0] * step[0] + step[1] * step[1] + step[2] * step[2]
            weight = np.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma) - apart / (2 * spread * spread))
            total += weight * near
            mass += weight
    return np.ascontiguousarray((total / mass).transpose(1, 2, 0), dtype=np.float32)


def sample(plane: Array, x: Array, y: Array) -> Array:
    """Read a plane (H, W) at fractional places, bilinearly, places outside moved to the border."""
    height, width = plane.shape
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    fx, fy = x - left, y - top
    place = top * width + left
    flat = plane.ravel()
    upper = flat[place] * (1 - fx) + flat[place + 1] * fx
    lower = flat[place + width] * (1 - fx) + flat[place + width + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def flow(tone: Array, sigma: float) -> tuple[Array, Array]:
    """Find the direction along the edges, a unit vector (x, y) a pixel, by the smoothed structure tensor."""
    gy, gx = (np.asarray(slope, np.float32) for slope in np.gradient(gaussian(tone, 0.7)))
    xx, yy, xy = (gaussian(plane, sigma) for plane in (gx * gx, gy * gy, gx * gy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    return np.asarray(-np.sin(across), np.float32), np.asarray(np.cos(across), np.float32)


def along(plane: Array, direction: tuple[Array, Array], sigma: float) -> Array:
    """Average a plane along the flow, both ways, so that broken dots join into strokes."""
    rows, columns = (np.asarray(place, np.float32) for place in np.indices(plane.shape))
    total, mass = plane.copy(), 1.0
    for sign in (1.0, -1.0):
        x, y = columns, rows
        last_x, last_y = (np.asarray(sign * part, np.float32) for part in direction)
        for step in range(1, round(2 * sigma) + 1):
            x, y = x + last_x, y + last_y
            weight = float(np.exp(-0.5 * (step / sigma) ** 2))
            total += np.float32(weight) * sample(plane, x, y)
            mass += weight
            near_x, near_y = sample(direction[0], x, y), sample(direction[1], x, y)
            agree = np.sign(near_x * last_x + near_y * last_y)  # the flow has no sense, only a direction
            length = np.sqrt(near_x * near_x + near_y * near_y) + 1e-6
            last_x = np.asarray(agree * near_x / length, np.float32)
            last_y = np.asarray(agree * near_y / length, np.float32)
    return np.asarray(total / mass, np.float32)


def lines(tone: Array, style: Style) -> Array:
    """Find the ink lines of a plane of tones (H, W): 0 for bare paper, 1 for full ink.

    A line lies on the dark side of an edge. Strong edges pass both scales and come out broad, weak ones
    only one. After Winnemöller et al., "XDoG: an eXtended difference-of-Gaussians compendium" (2012),
    on the square root of the tone, so that edges in the shadows count as well.
    """
    root = np.sqrt(np.clip(tone, 0, 1) + 0.01)
    direction = flow(root, style.flow_sigma)
    ink = np.zeros_like(tone)
    for sigma, threshold in (
        (style.fine_sigma, style.fine_threshold),
        (style.broad_sigma, style.broad_threshold),
    ):
        fall = along(gaussian(root, 1.6 * sigma) - gaussian(root, sigma), direction, style.stroke_sigma)
        step = np.clip((fall - threshold) / style.line_softness, 0, 1)
        ink = np.maximum(ink, step * step * (3 - 2 * step))
    return ink


def wash(smooth: Array, style: Style) -> Array:
    """Lay the colours of a smoothed picture (H, W, 3) on the paper as a few flat, light tones."""
    tone = smooth @ LUMA
    level = gaussian(tone**0.7, 0.8) * style.tones
    base = np.floor(level)
    ramp = np.tanh(2 * style.tone_sharpness * (level - base - 0.5)) / np.tanh(style.tone_sharpness)
    flat = np.clip((base + 0.5 + 0.5 * ramp) / style.tones, 0, 1)
    pooled = flat - style.pool * np.clip(gaussian(flat, 2.0) - flat, 0, 0.2)
    light = style.darkest + (1 - style.darkest) * np.clip(pooled, 0, 1)
    vivid = style.saturation * np.clip(light / (tone + 0.05), 1, style.vivid)
    chroma = vivid[..., None] * (smooth - tone[..., None])
    excess = np.sqrt(np.square(chroma).sum(axis=2, keepdims=True)) / 0.5
    chroma = chroma / np.sqrt(1 + excess * excess)  # keeps strong colours from clipping
    dark = np.square(1 - flat)[..., None]
    colour = light[..., None] + chroma + dark * np.array(style.shadow, np.float32)
    return np.asarray(np.clip(colour, 0, 1) * np.array(style.paper, np.float32), np.float32)


def draw(rgb: Array, style: Style) -> Array:
    """Draw a photograph: (H, W, 3) in 0..1, same out. Purely local, reaches about 25 pixels."""
    smooth = rgb
    for _ in range(style.smooth_passes):
        smooth = bilateral(smooth, style.smooth_sigma, style.smooth_range)
    ink = lines(rgb @ LUMA, style)[..., None]
    return wash(smooth, style) * (1 - ink) + np.array(style.ink, np.float32) * ink


def jitter(rgb: Array, rng: np.random.Generator) -> Array:
    """Change exposure, contrast and saturation at random and, half of the time, turn all hues (luma kept)."""
    tone = (rgb @ LUMA)[..., None]
    chroma = (rgb - tone) * np.float32(rng.uniform(0.6, 1.4))
    if rng.random() < 0.5:
        red, blue = chroma[..., 0] / 0.701, chroma[..., 2] / 0.886
        angle = rng.uniform(-np.pi, np.pi)
        red, blue = red * np.cos(angle) - blue * np.sin(angle), red * np.sin(angle) + blue * np.cos(angle)
        red, blue = red * 0.701, blue * 0.886
        green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
        chroma = np.stack([red, green, blue], axis=2)
    gamma, gain = np.float32(2.0 ** rng.uniform(-0.5, 0.5)), np.float32(rng.uniform(0.85, 1.12))
    tone = np.clip(tone, 0, 1) ** gamma * gain
    return np.asarray(np.clip(tone + chroma, 0, 1), np.float32)


@functools.lru_cache(maxsize=64)
def load(path: Path) -> Image.Image:
    """Read a photograph upright and in RGB; each process keeps those it has read."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def crop(path: Path, tile: int, rng: np.random.Generator) -> Array:
    """Take a random square of a photograph, 0.25 to 1.0 of its shorter side, mirrored half of the time."""
    image = load(path)
    size = tile + 2 * MARGIN
    short = min(image.size)
    least = min(1.0, max(0.25, 0.7 * size / short))
    side = short * np.exp(rng.uniform(np.log(least), 0.0))
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    if rng.random() < 0.5:
        square = ImageOps.mirror(square)
    return np.asarray(np.asarray(square) / 255, np.float32)


@dataclass(frozen=True)
class Task:
    """One tile to make."""

    photograph: Path
    side: int  # 0: photograph, 1: drawing
    index: int
    seed: int
    tile: int
    style: Style

    def make(self) -> tuple[Image.Image, Image.Image]:
        """Return the tile as a photograph and as a drawing."""
        rng = np.random.default_rng((self.seed, self.side, self.index))
        rgb = crop(self.photograph, self.tile, rng)
        for _ in range(6):  # a flat tile is mostly passed over, though a sky must be learned too
            if (rgb @ LUMA).std() >= 0.05 or rng.random() < 0.2:
                break
            rgb = crop(self.photograph, self.tile, rng)
        rgb = jitter(rgb, rng)
        inner = slice(MARGIN, MARGIN + self.tile)
        photograph = to_image(rgb[inner, inner])
        if not self.side:
            return photograph, photograph
        return photograph, printed(to_image(draw(rgb, self.style)[inner, inner]), self.style)


def printed(drawing: Image.Image, style: Style) -> Image.Image:
    """Print a drawing with the plate's three colours: ink, sepia wash, paper."""
    tone = np.asarray(drawing, np.float64) / 255 @ LUMA.astype(np.float64)
    ink, paper = (float(np.dot(LUMA, colour)) for colour in (style.ink, style.paper))
    tone = np.clip((tone - ink) / (paper - ink), 0, 1) ** style.plate_gamma
    stops = (style.ink, style.sepia, style.paper)
    planes = [
        np.interp(tone, (0.0, style.plate_middle, 1.0), [stop[channel] for stop in stops])
        for channel in range(3)
    ]
    return to_image(np.asarray(np.stack(planes, axis=2), np.float32))


def to_image(rgb: Array) -> Image.Image:
    """Turn (H, W, 3) in 0..1 into a picture."""
    return Image.fromarray(np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8))


def write(job: tuple[Task, Path]) -> Path:
    """Make one tile and write it, without loss."""
    task, folder = job
    path = folder / SIDES[task.side] / f"{task.index:05d}.webp"
    task.make()[1].save(path, lossless=True, quality=20, method=2)
    return path


def describe(path: Path) -> Array:
    """Sum a photograph up for the split: means and spreads of tone and colour, busyness, coarse hues."""
    rgb = np.asarray(load(path).resize((96, 96), Image.Resampling.BOX), np.float32) / 255
    tone = rgb @ LUMA
    warm, blue = rgb[..., 0] - tone, rgb[..., 2] - tone
    busy = np.abs(np.diff(tone, axis=0)).mean() + np.abs(np.diff(tone, axis=1)).mean()
    strength = np.hypot(warm, blue)
    sector = ((np.arctan2(blue, warm) + np.pi) / (2 * np.pi) * 6).astype(int) % 6
    hues = [float(strength[sector == n].sum() / strength.size) for n in range(6)]
    planes = (tone, warm, blue)
    return np.array([*(p.mean() for p in planes), *(p.std() for p in planes), busy, *hues], np.float32)


def split(paths: list[Path], seed: int, trials: int = 20000) -> tuple[list[Path], list[Path]]:
    """Split photographs into halves whose mean descriptions differ least among ``trials`` random splits."""
    facts = np.stack([describe(path) for path in paths])
    facts = (facts - facts.mean(axis=0)) / (facts.std(axis=0) + 1e-6)
    rng = np.random.default_rng(seed)
    half = (len(paths) + 1) // 2
    best, best_gap = np.arange(len(paths)), np.inf
    for _ in range(trials):
        order = rng.permutation(len(paths))
        gap = float(np.square(facts[order[:half]].mean(axis=0) - facts[order[half:]].mean(axis=0)).sum())
        if gap < best_gap:
            best, best_gap = order, gap
    first, second = sorted(best[:half].tolist()), sorted(best[half:].tolist())
    return [paths[n] for n in first], [paths[n] for n in second]


def tasks(halves: tuple[list[Path], list[Path]], tiles: int, seed: int, tile: int) -> Iterator[Task]:
    """List the tiles of both sides, the photographs of each side in turn."""
    for side, paths in enumerate(halves):
        for index in range(tiles):
            yield Task(paths[index % len(paths)], side, index, seed, tile, Style())


def contact_sheet(paths: list[Path], seed: int, tile: int, across: int = 4, down: int = 6) -> Image.Image:
    """Lay photograph tiles beside their drawings, to judge the style by eye."""
    sheet = Image.new("RGB", (across * 2 * (tile + 4), down * (tile + 4)), "white")
    for n in range(across * down):
        index = n * len(paths) // (across * down) + n * len(paths)
        pair = Task(paths[index % len(paths)], 1, index, seed, tile, Style()).make()
        for half, picture in enumerate(pair):
            x = (2 * (n % across) + half) * (tile + 4)
            sheet.paste(picture, (x, n // across * (tile + 4)))
    return sheet


@click.command()
@click.argument("photographs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--tile", default=176, show_default=True, help="Side of a tile, in pixels.")
@click.option("--tiles", default=2000, show_default=True, help="Tiles made for each side.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same data set.")
@click.option("--processes", default=2, show_default=True, help="Worker processes.")
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Write a contact sheet here.")
def main(
    *, photographs: Path, out: Path, tile: int, tiles: int, seed: int, processes: int, sheet: Path | None
) -> None:
    """Make OUT/trainA (photograph crops) and OUT/trainB (drawings of others) from a folder of PHOTOGRAPHS."""
    paths = sorted(path for path in photographs.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise click.ClickException(f"{photographs} holds fewer than two photographs")
    halves = split(paths, seed)
    for name in SIDES:
        (out / name).mkdir(parents=True, exist_ok=True)
        if any((out / name).iterdir()):
            raise click.ClickException(f"{out / name} is not empty")
    facts = {name: [path.name for path in half] for name, half in zip(SIDES, halves, strict=True)}
    record = {**facts, "tile": tile, "tiles": tiles, "seed": seed, "style": asdict(Style())}
    (out / "sources.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if sheet is not None:
        contact_sheet(halves[1], seed, tile).save(sheet)
    jobs = [(task, out) for task in tasks(halves, tiles, seed, tile)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(write, jobs, chunksize=16), start=1):
            if done % 500 == 0:
                print(f"{done} of {len(jobs)} tiles")


if __name__ == "__main__":
    main()
