"""Put a few free photographs into a folder: public-domain and CC0 ones that come with scikit-image."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from skimage import data

# Names in skimage.data; each of them is part of its wheel, so nothing is downloaded.
PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")


def main(folder: Path) -> None:
    """Write them as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: getattr(data, name)() for name in PHOTOGRAPHS}
    pictures["motorcycle"] = data.stereo_motorcycle()[0]  # type: ignore[no-untyped-call]
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95)
    print(f"{len(pictures)} photographs are in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
