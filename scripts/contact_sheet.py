"""Put photographs, their translations and the attention overlays side by side into one picture."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

CELL = 384  # width of one picture on the sheet, in pixels
GAP = 6


def main(photographs: Path, results: Path, sheet: Path) -> None:
    """One row a photograph: itself, its translation, where the network looked."""
    rows = []
    for photograph in sorted(photographs.iterdir()):
        result = results / photograph.name
        paths = (photograph, result, result.with_name(f"{result.stem}.overlay.png"))
        rows.append([_cell(path) for path in paths])
    height = sum(row[0].height + GAP for row in rows) - GAP
    page = Image.new("RGB", (3 * CELL + 2 * GAP, height), "white")
    y = 0
    for row in rows:
        for column, image in enumerate(row):
            page.paste(image, (column * (CELL + GAP), y))
        y += row[0].height + GAP
    page.save(sheet)
    print(f"\nLook at {sheet.resolve()}")
    print("  photograph | translation | where the network looked")
    print(f"The pictures themselves are in {results.resolve()}")


def _cell(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((CELL, round(CELL * image.height / image.width)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
