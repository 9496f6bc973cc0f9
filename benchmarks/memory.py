"""Peak memory of one forward pass of the PyTorch engine on a CPU, a pixel of input and a channel of width.

Checks the estimate by which `ugatit_engines.devices` says beforehand what fits. Every figure comes from a
process of its own: its highest resident memory during a pass, less what it held after a tiny pass before.
Needs a system with `getrusage` (Linux, macOS).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TINY = 32  # side of the pass that loads everything that stays


class Probe(NamedTuple):
    """One measurement."""

    channels: int
    side: int
    precision: str
    bytes_taken: int
    """Highest, above what the process held before."""

    @property
    def constant(self) -> float:
        """Bytes a pixel and a channel."""
        return self.bytes_taken / (self.side**2 * self.channels)


def probe_here(channels: int, side: int, precision: str, light: bool) -> int:
    """Bytes that one pass takes in this process, which must have done nothing large before."""
    import resource

    import numpy as np
    import psutil
    import torch

    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_batch.frames import Batch
    from ugatit_engines.devices import choose_precision
    from ugatit_engines.specimens import write_random_bundle
    from ugatit_engines.torch_engine import TorchTranslator

    device = torch.device("cpu")
    config = GeneratorConfig(channels, light=light, image_size=side)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_random_bundle(Path(folder), config)
        translator = TorchTranslator(bundle, "a2b", device, choose_precision(precision, device))  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    if light:
        list(translator.translate(iter([Batch(pixels[:, :TINY, :TINY].copy())])))
    held = psutil.Process().memory_info().rss
    list(translator.translate(iter([Batch(pixels)])))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - held


def probe(channels: int, side: int, precision: str, *, light: bool = True) -> Probe:
    """`probe_here` in a fresh process."""
    # This process stays small: on Linux a child's peak begins at its parent's.
    words = ["--probe", str(channels), str(side), precision, *([] if light else ["--full"])]
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    return Probe(channels, side, precision, json.loads(done.stdout))


def slope(probes: list[Probe]) -> float:
    """Bytes a pixel and a channel between the smallest and the largest size: without what is constant."""
    first, last = min(probes, key=lambda p: p.side), max(probes, key=lambda p: p.side)
    return (last.bytes_taken - first.bytes_taken) / ((last.side**2 - first.side**2) * first.channels)


def main() -> None:
    """Probe all sizes, widths and precisions, and print what they have in common."""
    parser = argparse.ArgumentParser(description="Memory of a forward pass on a CPU, a pixel and a channel.")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 768, 1024])
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--full", action="store_true", help="a full generator instead of a light one")
    parser.add_argument("--probe", nargs=3, metavar=("CHANNELS", "SIDE", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        channels, side, precision = options.probe
        print(probe_here(int(channels), int(side), precision, not options.full))
        return
    print("precision  channels  side   MiB    bytes a pixel and channel")
    for precision in options.precisions:
        slopes = []
        for channels in options.channels:
            probes = []
            for side in options.sides:
                one = probe(channels, side, precision, light=not options.full)
                probes.append(one)
                taken = one.bytes_taken / 2**20
                print(f"{precision:9}  {channels:8}  {side:4}  {taken:6.0f}  {one.constant:.1f}", flush=True)
            if len(probes) > 1:
                slopes.append(slope(probes))
                print(f"{precision:9}  {channels:8}  slope         {slopes[-1]:.1f}")
        if slopes:
            print(f"{precision}: median slope {statistics.median(slopes):.1f}, most {max(slopes):.1f}")


if __name__ == "__main__":
    main()
