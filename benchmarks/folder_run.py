"""A folder run beside the published PyTorch program's test loop and beside the bare network.

One process, the same weights, pictures, threads and device; all take turns, medians of the rounds count.

The loop is that program's `test()` for domain A: batch 1, float32; each picture goes through three generator
passes (A2B, A2B2A, A2A) and becomes one PNG of seven pictures on top of one another, heat maps among them.
Where it differs from the original, the difference is in the original's favour, or costs nothing:

- Gradients are off; the original records them.
- The generator is this package's, in the default memory format: it computes the same with fewer passes over
  memory than the original.
- PNG files are written by Pillow with the compression that OpenCV chooses (level 1, run lengths).
- Heat maps are coloured by a table of this package; pictures are scaled and normalised as torchvision does.
- Only domain A is gone through; the original does as much again for B.

The folder run gives one picture for one, so the two do not have the same results: the loop's cost is what
somebody pays who wants a folder translated with that program.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ugatit_batch import __version__
from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.images.sidecars import colour_map
from ugatit_batch.images.write import Encoding
from ugatit_batch.settings import Settings, choose_sizing
from ugatit_engines.devices import choose_device, choose_precision
from ugatit_engines.measure import (
    Workload,
    alternate,
    describe_machine,
    error_levels,
    exhaust_in_thread,
    keep_record,
    median,
    median_ratio,
    summarize,
)
from ugatit_engines.specimens import write_pictures, write_random_bundle
from ugatit_engines.torch_engine import TorchTranslator, load_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ugatit_training.generator import Generator

    Floats = NDArray[np.float32]

RESULTS = Path(__file__).parent / "results"


class PublishedLoop:
    """The published program's test loop over domain A.

    Args:
        gen_a2b, gen_b2a: float32, in evaluation mode, on `device`.
        size: side of the square that every picture is scaled to, in pixels.
        device: where the generators are.
    """

    def __init__(self, gen_a2b: Generator, gen_b2a: Generator, size: int, device: torch.device) -> None:
        self.gen_a2b, self.gen_b2a, self.size, self.device = gen_a2b, gen_b2a, size, device

    @torch.no_grad()
    def run(self, pictures: Sequence[Path], output: Path) -> Iterator[Path]:
        """Write `A2B_1.png`, `A2B_2.png` … for all pictures into an existing folder; yield each file."""
        for number, path in enumerate(pictures, 1):
            real = self.load(path).to(self.device)
            a2b = self.gen_a2b(real)
            a2b2a = self.gen_b2a(a2b.image)
            a2a = self.gen_b2a(real)
            stack = np.concatenate(
                [
                    _to_numpy(real),
                    self.heat_map(a2a.attention),
                    _to_numpy(a2a.image),
                    self.heat_map(a2b.attention),
                    _to_numpy(a2b.image),
                    self.heat_map(a2b2a.attention),
                    _to_numpy(a2b2a.image),
                ]
            )
            levels = np.clip(np.rint(stack * 255.0), 0, 255).astype(np.uint8)
            target = output / f"A2B_{number}.png"
            Image.fromarray(levels).save(target, compress_level=1, compress_type=3)
            yield target

    def load(self, path: Path) -> torch.Tensor:
        """Resize, ToTensor, Normalize(0.5, 0.5): 1×3×size×size in [-1, 1]."""
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        return pixels.permute(2, 0, 1).contiguous().float().div(255).sub(0.5).div(0.5)[None]

    def heat_map(self, attention: torch.Tensor) -> Floats:
        """1×h×w attention to size×size×3 in [0, 1]."""
        values = attention[0].cpu().numpy()
        values = values - values.min()
        # The original divides 0 by 0 for a flat map.
        levels = np.asarray(255 * (values / (values.max() or 1)), np.uint8)
        scaled = Image.fromarray(levels).resize((self.size, self.size), Image.Resampling.BILINEAR)
        colours: Floats = colour_map()[np.asarray(scaled)] / np.float32(255)
        return colours


def _to_numpy(image: torch.Tensor) -> Floats:
    """1×3×H×W in [-1, 1] to H×W×3 in [0, 1]."""
    pixels: Floats = (image[0] * 0.5 + 0.5).cpu().numpy().transpose(1, 2, 0)
    return pixels


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures of one call of this program, for JSON."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    config = GeneratorConfig(
        options.channels, light=not options.full, image_size=options.size, variance="unbiased"
    )
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as name:
        scratch = Path(name)
        for part in ("pictures", "outputs", "published"):
            (scratch / part).mkdir()
        pictures = write_pictures(scratch / "pictures", options.pictures, options.size)
        bundle = write_random_bundle(scratch / "model", config)
        translator = TorchTranslator(bundle, "a2b", device, precision, options.batch_size)
        settings = Settings(choose_sizing(bundle), Encoding(options.format), precision=precision)
        work = Workload(scratch / "pictures", translator, bundle.digest("a2b"), settings, scratch / "outputs")
        loop = PublishedLoop(
            load_generator(bundle, "a2b").to(device),
            load_generator(bundle, "b2a").to(device),
            options.size,
            device,
        )

        def published() -> float:
            started = time.perf_counter()
            exhaust_in_thread(loop.run(pictures, scratch / "published"))
            return len(pictures) / (time.perf_counter() - started)

        rounds = []
        for rates in alternate(work.contestants() | {"published": published}, options.rounds):
            rounds.append(rates)
            words = "  ".join(f"{what} {rate:.4g}/s" for what, rate in rates.items())
            print(f"round {len(rounds)} of {options.rounds}: {words}", file=sys.stderr, flush=True)
        error = error_levels(translator, load_generator(bundle, "a2b"), work.frames())
    throughput = summarize(rounds)
    return {
        "command": shlex.join(["python", "benchmarks/folder_run.py", *sys.argv[1:]]),
        "run_to_published": round(median_ratio(rounds, "run", "published"), 3),
        "run_to_network": round(throughput.ratio, 4),
        "slowest": throughput.slowest,
        "run_to_slowest": round(throughput.ratio_to_slowest, 4),
        "error_levels": {"mean": round(error.mean, 4), "max": error.max},
        "pictures_per_second": {what: round(median(rounds, what), 3) for what in rounds[0]},
        "rounds": [{what: round(rate, 3) for what, rate in one.items()} for one in rounds],
        "pictures": options.pictures,
        "size": options.size,
        "format": options.format,
        "channels": options.channels,
        "light": config.light,
        "precision": precision,
        "batch_size": translator.batch_size,
        "machine": dataclasses.asdict(describe_machine(device)),
        "version": __version__,
    }


def sentence(figures: dict[str, object], machine: dict[str, object]) -> str:
    """The figures in one line for people."""
    where = machine["gpu"] or f"{machine['cpu']} ({machine['threads']} threads)"
    kind = f"{'light' if figures['light'] else 'full'}, width {figures['channels']}, {figures['precision']}"
    error = figures["error_levels"]
    assert isinstance(error, dict)
    return (
        f"On {where}, PyTorch {machine['torch']}: a folder run of {figures['size']}² pictures ({kind}) has "
        f"{figures['run_to_published']} times the throughput of the published program's test loop and "
        f"{figures['run_to_network']} times that of the bare network; its slowest stage is "
        f"{figures['slowest']}. Results are {error['mean']} levels of 255 from float32's on average, "
        f"{error['max']} at most."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="A folder run beside the published program's test loop.")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=8, help="in a round")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--channels", type=int, default=64, help="width of the generator")
    parser.add_argument("--full", action="store_true", help="a full generator instead of a light one")
    parser.add_argument("--format", choices=["jpg", "png", "webp"], default="jpg", help="of the folder run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--batch-size", type=int, help="of the folder run")
    parser.add_argument("--threads", type=int, help="of PyTorch, for all of them")
    parser.add_argument("--save", metavar="NAME", help="keep the figures in benchmarks/results/NAME.json")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print, and keep the figures where that was asked for."""
    options = parse()
    figures = measure(options)
    machine = figures["machine"]
    assert isinstance(machine, dict)
    line = sentence(figures, machine)
    print(f"folder run / published loop: {figures['run_to_published']}")
    print(f"folder run / bare network:   {figures['run_to_network']}")
    print(line)
    if options.save:
        print(keep_record(RESULTS, options.save, figures, line))


if __name__ == "__main__":
    main()
