"""Resident memory over a long folder run: flat, however many pictures there are.

The pictures are small and so is the generator, because only the number of pictures matters here.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import run
from ugatit_batch.planning import Naming, plan
from ugatit_batch.settings import Settings, choose_sizing
from ugatit_engines.open_engine import open_engine
from ugatit_engines.specimens import write_pictures, write_random_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAWN = 32  # different pictures; the others are copies under names of their own


class Sample(NamedTuple):
    """Memory at one moment."""

    done: int
    """Pictures that are finished."""
    resident: int
    """Bytes."""


def follow(pictures: int, side: int, channels: int, every: int, device: str = "cpu") -> Iterator[Sample]:
    """Translate a folder; yield the memory of this process after each `every` pictures.

    Args:
        pictures: in the folder.
        side: of each, in pixels.
        channels: width of the light generator.
        every: pictures between two samples.
        device: as for `--device`.
    """
    process = psutil.Process()
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as name:
        scratch = Path(name)
        source = scratch / "pictures"
        source.mkdir()
        drawn = write_pictures(source, min(pictures, DRAWN), side)
        for index in range(len(drawn), pictures):
            shutil.copyfile(drawn[index % len(drawn)], source / f"picture-{index:05}.jpg")
        bundle = write_random_bundle(scratch / "model", GeneratorConfig(channels))
        translator = open_engine(bundle, "a2b", device)
        settings = Settings(choose_sizing(bundle), Encoding(), precision=translator.precision)
        planned = plan([source], Naming(scratch / "out", "random", settings.encoding))
        results = run(planned, translator, bundle.digest("a2b"), settings)
        for done, result in enumerate(results, 1):
            if result.error is not None:
                raise result.error
            if done % every == 0:
                yield Sample(done, process.memory_info().rss)


def main() -> None:
    """Follow one run and print its first, last and highest sample."""
    parser = argparse.ArgumentParser(description="Resident memory over a long folder run.")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, in pixels")
    parser.add_argument("--channels", type=int, default=8, help="width of the generator")
    parser.add_argument("--every", type=int, default=100, help="pictures between two samples")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    samples = []
    for sample in follow(options.pictures, options.size, options.channels, options.every, options.device):
        samples.append(sample)
        print(f"{sample.done:7}  {sample.resident / 2**20:.1f} MiB", flush=True)
    if not samples:
        parser.error("--every is more than --pictures")
    first, last = samples[0].resident, samples[-1].resident
    peak = max(sample.resident for sample in samples)
    print(f"first {first / 2**20:.1f} MiB, last {last / 2**20:.1f} MiB, peak {peak / 2**20:.1f} MiB")
    growth = (last - first) / max(1, samples[-1].done - samples[0].done)
    print(f"{growth:.0f} bytes a picture between first and last")


if __name__ == "__main__":
    main()
