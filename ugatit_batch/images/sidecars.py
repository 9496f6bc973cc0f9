"""Attention as files beside a result: where the network looked, for eyes and for programs.

Knows nothing of models.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from ugatit_batch.atomic import replacing
from ugatit_batch.images.geometry import attention_from_network, from_network

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ugatit_batch.frames import Attention, Pixels
    from ugatit_batch.images.picture import Picture

Kind = Literal["heatmap", "overlay", "mask", "npy"]

KINDS: tuple[Kind, ...] = ("heatmap", "overlay", "mask", "npy")

# Turbo, by A. Mikhailov (Google, 2019): the published polynomial of degree 5, for red, green and blue,
# https://gist.github.com/mikhailov-work/0d177465a8151eb6ede1768d51d476c7 (Apache-2.0).
_TURBO = np.array(
    [
        (0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943),
        (0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604),
        (0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973),
    ]
)
_OVERLAY_MOST = 0.65
"""How much of the overlay is heat map where attention is highest; where it is lowest, none is."""


def picture_sidecar_path(target: Path, kind: Kind) -> Path:
    """Where the sidecar of the result `target` goes: `NAME.heatmap.png` … `NAME.attention.npy`.

    NAME is the target's name without its suffix: `a.jpg` and `a.png` in one folder have the same sidecars.
    """
    end = ".attention.npy" if kind == "npy" else f".{kind}.png"
    return target.with_name(target.stem + end)


def write_sidecars(
    picture: Picture,
    translated: Sequence[Pixels],
    attention: Sequence[Attention],
    target: Path,
    kinds: Iterable[Kind],
) -> list[Path]:
    """Write the attention of one picture beside its result.

    The pictures are scaled by the range of all its frames together, and a flat map is all zeros. Those of an
    animation are animated PNGs; its arrays are stacked.

    Args:
        picture: the source, its frames exhausted.
        translated: one uint8 H×W×3 a frame, of the network's size.
        attention: one float32 h×w a frame, as the network gave it.
        target: where the result itself went.
        kinds: which sidecars.

    Returns:
        The files, in the order of `kinds`.

    Raises:
        OutputError: one cannot be written.
        DiskFullError: no room is left.
    """
    if not len(attention) == len(translated) == picture.frame_count:
        raise ValueError(f"{len(attention)} maps, {len(translated)} results, {picture.frame_count} frames")
    kinds = tuple(kinds)
    levels = scaled(attention, picture) if set(kinds) - {"npy"} else []
    paths = []
    for kind in kinds:
        data = io.BytesIO()
        if kind == "npy":
            array = attention[0] if picture.frame_count == 1 else np.stack(list(attention))
            np.save(data, array.astype(np.float32, copy=False), allow_pickle=False)
        else:
            _save_png(data, _images(kind, levels, translated, picture), picture)
        path = picture_sidecar_path(target, kind)
        with replacing(path) as partial:
            partial.write_bytes(data.getbuffer())
        paths.append(path)
    return paths


def scaled(attention: Sequence[Attention], picture: Picture) -> list[NDArray[np.uint8]]:
    """Maps of the result's size, uint8 h×w: 0 at the lowest attention in the picture, 255 at the highest.

    Only what lies within the picture counts, not the reflection around it. A flat map is all zeros, and
    what is not a finite number counts as the lowest.
    """
    maps = [attention_from_network(np.asarray(one, np.float32), picture.placement) for one in attention]
    finite = [one[np.isfinite(one)] for one in maps]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=0.0)
    span = high - low
    # Below this share of its values, a range is what rounding made of a flat map.
    if span <= 1e-6 * max(abs(low), abs(high)):
        return [np.zeros(one.shape, np.uint8) for one in maps]
    return [
        np.rint(
            (np.nan_to_num(one, nan=low, posinf=low, neginf=low).astype(np.float64) - low) / span * 255
        ).astype(np.uint8)
        for one in maps
    ]


@lru_cache(maxsize=1)
def colour_map() -> NDArray[np.uint8]:
    """Turbo, 256×3 uint8 RGB, from dark blue by green to dark red."""
    powers = np.linspace(0, 1, 256)[:, None] ** np.arange(6)
    colours = np.clip(powers @ _TURBO.T, 0, 1)
    return np.asarray(np.rint(colours * 255), np.uint8)


def overlay(pixels: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The heat map of `levels` (h×w) over `pixels` (h×w×3), more opaque where attention is higher; uint8."""
    weight = np.linspace(0, _OVERLAY_MOST, 256, dtype=np.float32)[levels][..., None]
    blended = pixels * (1 - weight) + colour_map()[levels] * weight
    return np.rint(blended).astype(np.uint8)


def _images(
    kind: Kind, levels: Sequence[NDArray[np.uint8]], translated: Sequence[Pixels], picture: Picture
) -> list[Image.Image]:
    if kind == "mask":
        return [Image.fromarray(one) for one in levels]
    if kind == "heatmap":
        return [Image.fromarray(colour_map()[one]) for one in levels]
    results = (np.asarray(from_network(pixels, picture.placement)) for pixels in translated)
    return [Image.fromarray(overlay(result, one)) for result, one in zip(results, levels, strict=True)]


def _save_png(data: io.BytesIO, images: list[Image.Image], picture: Picture) -> None:
    options: dict[str, Any] = {"compress_level": 6, "compress_type": 3}
    if len(images) > 1:
        options |= {
            "save_all": True,
            "append_images": images[1:],
            "duration": list(picture.durations),
            "loop": picture.plays,
        }
    images[0].save(data, format="PNG", **options)
