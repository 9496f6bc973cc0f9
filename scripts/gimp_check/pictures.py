"""Pictures for the check in GIMP: made before GIMP runs, and compared afterwards with `translate`'s own.

pictures.py make FOLDER
pictures.py compare FOLDER COMMAND...     COMMAND starts ugatit-batch
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

_LUMINANCE = np.array([0.22248840, 0.71690369, 0.06060791])  # of sRGB's primaries in D50, as babl has it


def make(folder: Path) -> None:
    """What GIMP opens."""
    rng = np.random.default_rng(3)
    down, across = np.mgrid[0:72, 0:90]
    colour = np.stack([across * 2.8, down * 3.5, 255 - across - down], axis=-1)
    colour = np.clip(colour + rng.normal(0, 20, colour.shape), 0, 255).astype(np.uint8)
    Image.fromarray(colour).save(folder / "colour.png")
    alpha = np.clip(across * 4 - 40, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([colour, alpha])).save(folder / "transparent.png")
    Image.fromarray(colour).resize((1000, 1000), Image.Resampling.BICUBIC).save(folder / "large.png")
    Image.fromarray(colour).resize((450, 360), Image.Resampling.BICUBIC).save(folder / "photo.png")


def compare(folder: Path, command: list[str]) -> list[tuple[str, bool, str]]:
    """Each case of `console.py` beside the command line's own output."""
    inputs = folder / "translate"
    inputs.mkdir()
    cases = sorted(path.name.removesuffix(".in.ppm") for path in folder.glob("*.in.ppm"))
    for case in cases:
        Image.open(folder / f"{case}.in.ppm").save(inputs / f"{case}.png")
    subprocess.run(
        [*command, "translate", inputs, "-m", "ink", "-o", folder / "own", "--attention", "mask", "--quiet"],
        check=True,
    )
    rows = []
    for case in cases:
        out = folder / f"{case}.out.ppm"
        if not out.exists():
            rows.append((f"{case}: pixels", False, "nothing came back"))
            continue
        expected, most = _read(folder / f"own/{case}.png"), 0
        if case == "grey":
            expected, most = _grey(expected), 1
        rows.append(_row(f"{case}: pixels are translate's", _read(out), expected, most))
        attention = folder / f"{case}.attention.pgm"
        own = _read(folder / f"own/{case}.mask.png")
        if attention.exists():
            rows.append(_row(f"{case}: attention is translate's", _read(attention), own, 0))
        if (folder / f"{case}.mask.pgm").exists():
            selection = _read(folder / f"{case}.selection.pgm").astype(int)
            both = (selection * own + 127) // 255
            rows.append(_row(f"{case}: both limit it", _read(folder / f"{case}.mask.pgm"), both, 0))
    return rows


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _grey(colour: np.ndarray) -> np.ndarray:
    """GEGL's grey: luminance, with the curve of sRGB."""
    values = colour / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ _LUMINANCE
    curved = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.repeat(np.rint(curved * 255)[..., None], 3, axis=-1)


def _row(case: str, got: np.ndarray, expected: np.ndarray, most: int) -> tuple[str, bool, str]:
    if got.shape != expected.shape:
        return case, False, f"{got.shape}, not {expected.shape}"
    difference = int(np.abs(got.astype(int) - expected.astype(int)).max())
    return case, difference <= most, f"differ by {difference} levels at most"


def report(folder: Path, command: list[str]) -> int:
    """Print the table; how many rows are not as they should be."""
    rows = compare(folder, command)
    for name in ("console.json", "window.json"):
        path = folder / name
        if not path.exists():
            rows.append((name, False, "GIMP did not come to its end"))
            continue
        rows += [(row["case"], row["good"], row["detail"]) for row in json.loads(path.read_text("utf-8"))]
    width = max(len(case) for case, _, _ in rows)
    for case, good, detail in sorted(rows):
        print(f"{'ok   ' if good else 'WRONG'}  {case:{width}}  {detail}")
    wrong = sum(not good for _, good, _ in rows)
    print(f"\n{len(rows) - wrong} of {len(rows)} hold")
    return wrong


def main() -> int:
    """As the module says."""
    what, folder, *command = sys.argv[1:]
    if what == "make":
        make(Path(folder))
        return 0
    return 1 if report(Path(folder), command) else 0


if __name__ == "__main__":
    sys.exit(main())
