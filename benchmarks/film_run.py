"""A film's run with a network that costs nothing, beside the stage that is slowest: decoding or encoding.

One process; the run, each stage alone, and both at once take turns, and medians of the rounds count. Codecs
have one thread each unless asked otherwise: with more, each takes the whole machine while it is alone, which
it cannot do in a run.

- run / slowest stage: what is lost to everything else, opening and joining among it.
- run / side by side: the same where decoding and encoding go on at once without waiting for each other. On a
  machine whose cores slow each other down this one says what the program itself costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ugatit_batch import __version__
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.settings import Settings
from ugatit_batch.video.encoders import ENCODERS
from ugatit_batch.video.info import Codec, FilmOptions
from ugatit_engines.idle import IdleTranslator
from ugatit_engines.measure import alternate, describe_machine, keep_record, median, median_ratio, summarize
from ugatit_engines.measure_film import WORKERS, FilmWorkload
from ugatit_engines.specimens import RATE, write_film

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures of one call of this program, for JSON."""
    count = round(options.seconds * RATE)
    width, height = options.width, options.height
    translator = IdleTranslator(options.batch_size)
    film_options = FilmOptions(
        codec=cast(Codec, options.codec), preset=options.preset, threads=options.codec_threads
    )
    settings = Settings(Sizing(square=False, side=None), film=film_options)
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as name:
        scratch = Path(name)
        film = scratch / "film.mp4"
        write_film(film, count, width, height)
        bits = film.stat().st_size * 8 / (count * width * height)
        (scratch / "outputs").mkdir()
        work = FilmWorkload(film, count, translator, "idle", settings, scratch / "outputs")
        rounds = []
        for rates in alternate(work.contestants() | {"side_by_side": work.side_by_side}, options.rounds):
            rounds.append(rates)
            words = "  ".join(f"{what} {rate:.4g}/s" for what, rate in rates.items())
            print(f"round {len(rounds)} of {options.rounds}: {words}", file=sys.stderr, flush=True)
    throughput = summarize(rounds, WORKERS)
    phases = work.phases[1:]  # without the warm-up's
    return {
        "command": shlex.join(["python", "benchmarks/film_run.py", *sys.argv[1:]]),
        "run_to_slowest": round(throughput.ratio_to_slowest, 4),
        "slowest": throughput.slowest,
        "run_to_side_by_side": round(median_ratio(rounds, "run", "side_by_side"), 4),
        "frames_per_second": {what: round(median(rounds, what), 3) for what in rounds[0]},
        "seconds_to_first": round(statistics.median(one.first for one in phases), 3),
        "seconds_after_last": round(statistics.median(one.last for one in phases), 3),
        "rounds": [{what: round(rate, 3) for what, rate in one.items()} for one in rounds],
        "pictures": count,
        "size": [width, height],
        "bits_per_pixel": round(bits, 3),
        "codec": work.coding.encoder,
        "codec_options": work.coding.options,
        "codec_threads": options.codec_threads,
        "batch_size": options.batch_size,
        "machine": dataclasses.asdict(describe_machine(torch.device("cpu"))),
        "version": __version__,
    }


def sentence(figures: dict[str, object], machine: dict[str, object]) -> str:
    """The figures in one line for people."""
    speeds, size = figures["frames_per_second"], figures["size"]
    assert isinstance(speeds, dict)
    assert isinstance(size, list)
    threads = f"{figures['codec_threads']} threads" if figures["codec_threads"] else "threads of its choice"
    return (
        f"On {machine['cpu']} ({machine['cores']} cores): the run of a film of {size[0]}×{size[1]} "
        f"({figures['codec']}, codecs with {threads}, a network that costs nothing) has "
        f"{figures['run_to_slowest']} times the throughput of its slowest stage, which is "
        f"{figures['slowest']}, and {figures['run_to_side_by_side']} times that of both stages side by side; "
        f"decode {speeds['decode']:.0f}, encode {speeds['encode']:.0f}, run {speeds['run']:.0f} pictures/s."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="A film's run beside its slowest stage.")
    parser.add_argument("--seconds", type=float, default=30, help="of the film; there are 25 pictures in one")
    parser.add_argument("--width", type=int, default=1280, help="of the film, in pixels")
    parser.add_argument("--height", type=int, default=720, help="of the film, in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--codec", choices=["auto", *ENCODERS], default="auto", help="of the result")
    parser.add_argument("--preset", help="its speed")
    parser.add_argument("--codec-threads", type=int, default=1, help="of each codec; 0: as it likes")
    parser.add_argument("--batch-size", type=int, default=1, help="of the network")
    parser.add_argument("--save", metavar="NAME", help="keep the figures in benchmarks/results/NAME.json")
    options = parser.parse_args(arguments)
    if options.seconds * RATE < 1 or options.rounds < 1:
        parser.error("--seconds and --rounds must be above 0")
    return options


def main() -> None:
    """Measure, print, and keep the figures where that was asked for."""
    options = parse()
    figures = measure(options)
    machine = figures["machine"]
    assert isinstance(machine, dict)
    line = sentence(figures, machine)
    print(f"run / slowest stage: {figures['run_to_slowest']}  ({figures['slowest']})")
    print(f"run / side by side:  {figures['run_to_side_by_side']}")
    print(f"seconds until the first picture is encoded: {figures['seconds_to_first']}")
    print(f"seconds after the last one, for joining:    {figures['seconds_after_last']}")
    print(line)
    if options.save:
        print(keep_record(RESULTS, options.save, figures, line))


if __name__ == "__main__":
    main()
