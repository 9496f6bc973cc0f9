"""A film translated with and without `--smooth`: how much each flickers, and whether they show the same.

Writes both films, a sheet of some pictures (rows: source, without, with) and the figures into a folder.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing, place
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import run
from ugatit_batch.models import default_models_dir, find_model
from ugatit_batch.planning import Naming, plan
from ugatit_batch.settings import Settings, choose_sizing
from ugatit_batch.video.decode import FilmReader
from ugatit_batch.video.info import FilmOptions
from ugatit_batch.video.probe import probe_film
from ugatit_engines.open_engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.frames import Pixels, Translator
    from ugatit_batch.video.decode import FilmFrame


class Part(NamedTuple):
    """Which part of a film: seconds of its own time, the last excluded; None: to the end."""

    start: Fraction
    end: Fraction | None


def part_of(film: Path, start: float, frames: int | None) -> Part:
    """So many pictures from `start` seconds on, if their rate is constant."""
    begin = Fraction(start).limit_denominator(1000)
    return Part(begin, None if frames is None else begin + frames / probe_film(film).rate)


def translate(
    film: Path,
    target: Path,
    part: Part,
    bundle: Bundle,
    translator: Translator,
    size: str | int,
    smooth: bool,
) -> dict[str, float]:
    """Write one result, without sound; return the flicker of source and result."""
    options = FilmOptions(
        audio="none",
        subtitles="none",
        start=part.start or None,
        end=part.end,
        resume=False,
        smooth=smooth,
    )
    settings = Settings(choose_sizing(bundle, size), film=options)
    planned = plan([film], Naming(target, bundle.name, Encoding()))
    (result,) = run(planned, translator, "flicker", settings, "overwrite")
    if result.error is not None:
        raise result.error
    return result.written.flicker or {}


def pictures(film: Path, part: Part | None = None) -> Iterator[FilmFrame]:
    """Of a film, upright, in its own size."""
    info = probe_film(film)
    placement = place(info.width, info.height, Sizing(square=False, side=None), SizeRule())
    start, end = part or (None, None)
    return iter(FilmReader(info, placement, start=start or None, end=end).frames())


class Content(NamedTuple):
    """How far two results of one film are apart, in levels of 0 to 255."""

    without_smooth: list[float]
    """Mean red, green and blue."""
    with_smooth: list[float]
    difference: float
    """Of the same pixel, on average, without its sign."""
    pictures: int
    cuts: int
    """In the source, the beginning not counted."""


def compare(film: Path, part: Part, plain: Path, smooth: Path, shown: int) -> tuple[Content, Image.Image]:
    """Go through source and both results.

    Args:
        film: the source.
        part: of it.
        plain: the result without smoothing.
        smooth: the result with it.
        shown: pictures on the sheet, spread evenly.
    """
    count = sum(1 for _ in _together(film, part, plain, smooth))
    wanted = {round(index * (count - 1) / max(1, shown - 1)) for index in range(min(shown, count))}
    columns: list[Pixels] = []
    sums, difference, cuts = np.zeros((2, 3)), 0.0, 0
    for number, trio in enumerate(_together(film, part, plain, smooth)):
        source, *results = (frame.pixels for frame in trio)
        sums += [pixels.mean((0, 1)) for pixels in results]
        difference += float(np.abs(results[0].astype(np.int16) - results[1]).mean())
        cuts += trio[0].cut and number > 0
        if number in wanted:
            columns.append(np.concatenate([_small(pixels) for pixels in (source, *results)]))
    means = (sums / count).round(3).tolist()
    content = Content(means[0], means[1], round(difference / count, 3), count, cuts)
    return content, Image.fromarray(np.concatenate(columns, axis=1))


def _together(film: Path, part: Part, plain: Path, smooth: Path) -> Iterator[tuple[FilmFrame, ...]]:
    yield from zip(pictures(film, part), pictures(plain), pictures(smooth), strict=True)


def _small(pixels: Pixels, width: int = 320) -> Pixels:
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures of one call of this program, for JSON; films and sheet are written."""
    film, folder = options.film, options.output or Path(f"{options.film.stem}-flicker")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = find_model(options.model, default_models_dir())
    direction = next(iter(bundle.directions))
    translator = open_engine(
        bundle, direction, options.device, options.precision, backend="torch", smooth=True
    )
    part = part_of(film, options.start, options.frames)
    plain, smooth = folder / "without.mp4", folder / "with.mp4"
    flicker = {
        path.stem: translate(film, path, part, bundle, translator, options.size, path is smooth)
        for path in (plain, smooth)
    }
    content, sheet = compare(film, part, plain, smooth, options.shown)
    sheet.save(folder / "sheet.png")
    figures: dict[str, object] = {
        "film": film.name,
        "model": bundle.name,
        "engine": translator.describe(),
        "source": flicker["without"].get("source"),
        "without": flicker["without"].get("result"),
        "with": flicker["with"].get("result"),
        "content": content._asdict(),
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return figures


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="A film translated with and without --smooth.")
    parser.add_argument("film", type=Path)
    parser.add_argument("--model", default="ink", help="name or folder")
    parser.add_argument("--size", default="model", help="as of `translate`")
    parser.add_argument("--start", type=float, default=0, help="seconds from which pictures are taken")
    parser.add_argument("--frames", type=int, help="how many are taken; all by default")
    parser.add_argument("--shown", type=int, default=6, help="pictures on the sheet")
    parser.add_argument("--output", type=Path, help="folder of the results; by default FILM-flicker, here")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    options = parser.parse_args(arguments)
    if options.shown < 1 or (options.frames is not None and options.frames < 1):
        parser.error("--frames and --shown must be above 0")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    figures = measure(options)
    for name in ("source", "without", "with"):
        figure = figures[name]
        print(f"flicker {name:8} {figure if figure is not None else 'no scene has three pictures'}")
    content = figures["content"]
    assert isinstance(content, dict)
    print(f"mean levels without {content['without_smooth']}, with {content['with_smooth']}")
    print(f"difference of pixels {content['difference']} levels of 255 on average")
    print(f"{content['pictures']} pictures, {content['cuts']} cuts")
    print(options.output or Path(f"{options.film.stem}-flicker"))


if __name__ == "__main__":
    main()
