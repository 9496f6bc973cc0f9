"""What a watch folder costs: a burst of small pictures, the quiet after it, and files that are known already.

The program runs in a process of its own and is measured from outside. Its network is tiny unless a model is
named, because only the number of files matters here.

- Burst: all pictures come at once. Each must have one result and no more, and each output must be readable.
- Latency: from a picture's arrival in the quiet folder to its result, without the `--settle` that is waited
  for in any case.
- Look: processor time of one walk through everything, from a window that holds one.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ugatit_batch import __version__
from ugatit_batch.bundle import GeneratorConfig
from ugatit_engines.measure import describe_machine, keep_record
from ugatit_engines.specimens import texture, write_random_bundle

sys.path.append(str(Path(__file__).parents[1]))  # for the file beside this one, wherever this is started
from benchmarks.watcher import Watcher, output_of

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
SIZE = (64, 48)
"""Of the pictures, in pixels."""
_DRAWN = 48  # different pictures; the others are copies under names of their own
_TINY = GeneratorConfig(channels=4, residual_blocks=1)
_IN_A_FOLDER = 1000  # of the files that are known
_NEVER = 86400.0  # seconds between two looks through everything, of a run without them


class Marks(NamedTuple):
    """Resident memory of the program on the way through a burst, in bytes."""

    loaded: int
    """When the model is loaded."""
    tenth: int
    half: int
    whole: int
    peak: int


class Burst(NamedTuple):
    """What came of many pictures that arrived at once."""

    first: float
    """Seconds until the first result."""
    last: float
    resident: Marks


def write_many(folder: Path, count: int, in_a_folder: int | None = None) -> None:
    """Write small pictures of a few dozen contents.

    Args:
        folder: is made.
        count: of them.
        in_a_folder: how many go into each of the folders below; None: no folders below.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    width, height = SIZE
    drawn = [folder / f"{index:06}.jpg" for index in range(min(count, _DRAWN))]
    for path in drawn:
        Image.fromarray(np.ascontiguousarray(texture(width, rng)[:height])).save(path, quality=90)
    contents = [path.read_bytes() for path in drawn]
    for path in drawn:
        path.unlink()
    for index in range(count):
        below = folder if in_a_folder is None else folder / f"{index // in_a_folder:04}"
        below.mkdir(exist_ok=True)
        (below / f"{index:06}.jpg").write_bytes(contents[index % len(contents)])


def measure_burst(watcher: Watcher, pictures: Path, count: int, *, one_by_one: bool) -> Burst:
    """Move pictures into the folder and wait for all results.

    Args:
        watcher: of an empty folder.
        pictures: a folder on the same disk that holds nothing else; it, or what is in it, is moved.
        count: pictures in it.
        one_by_one: move each picture, not the folder.
    """
    loaded = watcher.resident()
    files = sorted(pictures.iterdir())
    dropped = time.monotonic()
    if one_by_one:
        for path in files:
            path.rename(watcher.inbox / path.name)
    else:
        pictures.rename(watcher.inbox / pictures.name)
    times: list[float] = []
    resident = []
    for mark in (math.ceil(count / 10), math.ceil(count / 2), count):
        while len(times) < mark:
            times.append(watcher.result() - dropped)
        resident.append(watcher.resident())
    tenth, half, whole = resident
    return Burst(times[0], times[-1], Marks(loaded, tenth, half, whole, watcher.peak()))


def measure_latency(watcher: Watcher, pictures: Path, settle: float) -> list[float]:
    """Seconds from a picture's arrival to its result, less `settle`, for each of a folder in turn."""
    found = []
    for path in sorted(pictures.iterdir()):
        moved = time.monotonic()
        path.rename(watcher.inbox / path.name)
        found.append(watcher.result() - moved - settle)
        watcher.rest()
    return found


def measure_look(watcher: Watcher, every: float, quiet: float) -> float:
    """Processor time of one look through everything, in seconds.

    The first look has just been, so that the window ends half-way between the second and the third.

    Args:
        watcher: of a folder in which nothing happens, begun a moment ago.
        every: seconds between two looks, as it was told; with less than 5 the window may hold one more.
        quiet: processor time a second between them.

    Raises:
        RuntimeError: looks follow each other so closely that there may be more or less of them in the window.
    """
    watcher.rest()
    window = 1.5 * every
    look = (watcher.busy(window) - quiet) * window
    if look > every / 2:
        raise RuntimeError(f"a look takes {look:.1f} s: too long to look every {every:g} s; raise --rescan")
    return max(0.0, look)


def between_looks(files: int, least: float) -> float:
    """Seconds between two looks: many times what one takes, where there are many files."""
    return max(least, files / 500)


def measure_known(scratch: Path, model: str, options: argparse.Namespace, quiet: float) -> dict[str, object]:
    """What a folder costs in which many files are done: told of changes by the system, and polling."""
    inbox, count, more = scratch / "known", options.known, _more(options)
    write_many(inbox, count, _IN_A_FOLDER)
    words = [inbox, "--model", model, "--output", output_of(inbox), "--once", "--quiet", *more]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "ugatit_batch", "watch", *map(str, words)], check=True)
    rate = count / (time.monotonic() - began)
    _say(f"{count} files made known, {rate:.0f} a second")
    every = between_looks(count, options.rescan)
    with Watcher(inbox, model, "--rescan", every, *more) as watcher:
        look = measure_look(watcher, every, quiet)
        before, told = watcher.resident_at_start, watcher.resident()
        watcher.check_silence()
    _say(f"looked through with {look:.2f} s of processor time")
    with Watcher(inbox, model, "--rescan", _NEVER, "--poll", *more) as watcher:
        watcher.rest()
        found = re.search(r"every (\d+) s", watcher.how)
        assert found is not None, watcher.how
        interval = float(found[1])
        share = watcher.busy(interval * math.ceil(options.quiet / interval))
        polled = watcher.resident()
        watcher.check_silence()
    return {
        "files": count,
        "made_per_second": round(rate, 1),
        "look_every_seconds": every,
        "look_seconds": round(look, 3),
        "resident_mib_before": _mib(before),
        "resident_mib": _mib(told),
        "poll_every_seconds": interval,
        "poll_percent_of_a_core": round(100 * share, 2),
        "poll_resident_mib": _mib(polled),
    }


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures of one call of this program, for JSON.

    Raises:
        RuntimeError: the program did not do what it should; figures of that mean nothing.
    """
    count, more = options.files, _more(options)
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as name:
        scratch = Path(name)
        model = options.model
        if model is None:
            model = write_random_bundle(scratch / "model", _TINY).path
        inbox = scratch / "inbox"
        inbox.mkdir()
        write_many(scratch / "burst", count)
        write_many(scratch / "singles", options.singles)
        with Watcher(inbox, model, "--rescan", _NEVER, *more) as watcher:
            burst = measure_burst(watcher, scratch / "burst", count, one_by_one=options.one_by_one)
            _say(f"{count} done in {burst.last:.1f} s")
            watcher.rest()
            latencies = measure_latency(watcher, scratch / "singles", options.settle)
            quiet = watcher.busy(options.quiet)
            watcher.check(count + options.singles, SIZE)
        _say(f"quiet for {options.quiet:g} s: {100 * quiet:.2f} % of a core")
        every = between_looks(count, options.rescan)
        with Watcher(inbox, model, "--rescan", every, *more) as watcher:
            look = measure_look(watcher, every, quiet)
            watcher.check_silence()
        known = measure_known(scratch, model, options, quiet) if options.known else None
    resident = burst.resident
    return {
        "command": shlex.join(["python", "benchmarks/watch_burst.py", *sys.argv[1:]]),
        "files": count,
        "arrived": "one by one" if options.one_by_one else "as a folder",
        "files_per_second": round(count / burst.last, 2),
        "seconds_to_first": round(burst.first, 3),
        "seconds_to_last": round(burst.last, 3),
        "resident_mib": {name: _mib(value) for name, value in resident._asdict().items()},
        "growth_mib": _mib(resident.whole - resident.tenth),
        "latency_seconds": round(statistics.median(latencies), 3),
        "latencies": [round(one, 3) for one in latencies],
        "settle_seconds": options.settle,
        "quiet_seconds": options.quiet,
        "quiet_percent_of_a_core": round(100 * quiet, 3),
        "look_every_seconds": every,
        "look_seconds": round(look, 4),
        "known": known,
        "model": options.model or "tiny",
        "size": list(SIZE),
        "machine": dataclasses.asdict(describe_machine(torch.device("cpu"))),
        "version": __version__,
    }


def show(figures: dict[str, Any]) -> str:
    """The figures as a short table."""
    resident, known = figures["resident_mib"], figures["known"]
    rows = [
        (f"{figures['files']} files {figures['arrived']}", f"{figures['files_per_second']}/s"),
        ("first and last result", f"{figures['seconds_to_first']} s, {figures['seconds_to_last']} s"),
        ("memory with the model loaded", f"{resident['loaded']} MiB"),
        (
            "memory after 1/10, 1/2, all; peak",
            f"{resident['tenth']}, {resident['half']}, {resident['whole']}; {resident['peak']} MiB",
        ),
        ("growth from 1/10 to the end", f"{figures['growth_mib']:+} MiB"),
        ("latency of one picture, without --settle", f"{figures['latency_seconds']} s"),
        ("quiet", f"{figures['quiet_percent_of_a_core']} % of a core"),
        ("one look through all of it", f"{figures['look_seconds']} s of processor time"),
    ]
    if known is not None:
        rows += [
            (
                f"one look through {known['files']} known files",
                f"{known['look_seconds']} s of processor time",
            ),
            (
                "memory before it and with them",
                f"{known['resident_mib_before']}, {known['resident_mib']} MiB",
            ),
            (
                f"polling them every {known['poll_every_seconds']:.0f} s",
                f"{known['poll_percent_of_a_core']} % of a core, {known['poll_resident_mib']} MiB",
            ),
        ]
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:{width}}  {value}" for what, value in rows)


def sentence(figures: dict[str, Any]) -> str:
    """The figures in one line for people."""
    machine, known = figures["machine"], figures["known"]
    words = (
        f"On {machine['cpu']} ({machine['cores']} cores): {figures['files']} pictures that come at once "
        f"({figures['arrived']}, model: {figures['model']}) are done after {figures['seconds_to_last']} s, "
        f"{figures['files_per_second']}/s, with {figures['growth_mib']:+} MiB of memory between a tenth of "
        f"them and all; one picture alone takes {figures['latency_seconds']} s and --settle; the quiet takes "
        f"{figures['quiet_percent_of_a_core']} % of a core."
    )
    if known is not None:
        words += (
            f" A look through {known['files']} known files takes {known['look_seconds']} s of processor "
            f"time, and the program {known['resident_mib']} MiB; polling them every "
            f"{known['poll_every_seconds']:.0f} s takes {known['poll_percent_of_a_core']} % of a core and "
            f"{known['poll_resident_mib']} MiB."
        )
    return words


def _more(options: argparse.Namespace) -> list[str]:
    """Options that are handed on to the program."""
    models = [] if options.models_dir is None else ["--models-dir", str(options.models_dir)]
    return ["--settle", str(options.settle), "--device", options.device, *models]


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="What a watch folder costs.")
    parser.add_argument("-n", "--files", type=int, default=5000, help="that come at once")
    parser.add_argument("--one-by-one", action="store_true", help="they do not come as one folder")
    parser.add_argument("--singles", type=int, default=5, help="that come into the quiet folder afterwards")
    parser.add_argument(
        "--known", type=int, default=50_000, help="files that are done already; 0: leave it out"
    )
    parser.add_argument("--quiet", type=float, default=60, help="seconds that the quiet is watched")
    parser.add_argument(
        "--rescan",
        type=float,
        default=10,
        help="seconds between two looks, at least; more where files are many",
    )
    parser.add_argument("--settle", type=float, default=2, help="as the program's")
    parser.add_argument("--model", help="as the program's; without it a network that costs next to nothing")
    parser.add_argument("--models-dir", type=Path, help="as the program's")
    parser.add_argument("--device", default="auto", help="as the program's")
    parser.add_argument("--save", metavar="NAME", help="keep the figures in benchmarks/results/NAME.json")
    options = parser.parse_args(arguments)
    if options.files < 1 or options.singles < 1 or options.known < 0 or options.quiet <= 0:
        parser.error("--files, --singles and --quiet must be above 0, and --known not below")
    return options


def main() -> None:
    """Measure, print, and keep the figures where that was asked for."""
    options = parse()
    figures = measure(options)
    print(show(figures))
    if options.save:
        print(keep_record(RESULTS, options.save, figures, sentence(figures)))


if __name__ == "__main__":
    main()
