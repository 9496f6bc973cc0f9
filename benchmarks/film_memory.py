"""Peak memory of a short film and of a long one: flat, however long a film is.

Each film is translated in a process of its own, by a network that costs nothing. The pictures are small,
because only their number matters here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

RATE = 25  # of the test films; its own home would bring torch along


class Probe(NamedTuple):
    """The memory of one run, in bytes."""

    peak: int
    after_segments: list[int]
    """Resident after each segment's worth of pictures."""


def probe_here(film: Path, pictures: int, segment: int) -> Probe:
    """Translate a film in this process, which must have done nothing large before.

    Args:
        film: the film; the result goes beside it and is deleted.
        pictures: in it.
        segment: seconds of one segment.
    """
    import psutil

    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.images.write import Encoding
    from ugatit_batch.jobs import run
    from ugatit_batch.planning import Naming, plan
    from ugatit_batch.settings import Settings
    from ugatit_batch.video.info import FilmOptions
    from ugatit_engines.idle import IdleTranslator

    process = psutil.Process()
    resident: list[int] = []

    def watch(_source: Path, done: int, _of: int | None) -> None:
        if done % (segment * RATE) == 0:
            resident.append(process.memory_info().rss)

    options = FilmOptions(segment=segment, threads=1)
    settings = Settings(Sizing(square=False, side=None), film=options)
    with tempfile.TemporaryDirectory(dir=film.parent) as folder:
        planned = plan([film], Naming(Path(folder), "idle", Encoding()))
        for result in run(planned, IdleTranslator(), "idle", settings, watch=watch):
            if result.error is not None:
                raise result.error
            if result.written.frames != pictures:
                raise RuntimeError(f"{result.written.frames} of {pictures} pictures came through")
    return Probe(_peak(), resident)


def _peak() -> int:
    """The most that this process ever had resident, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone; `getrusage` would begin at what its parent had.
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def probe(film: Path, pictures: int, segment: int) -> Probe:
    """`probe_here` in a fresh process."""
    words = [sys.executable, __file__, "--probe", str(film), str(pictures), "--segment", str(segment)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return Probe(**json.loads(done.stdout))


def compare(
    minutes: list[float], width: int, height: int, segment: int, rounds: int, *, has_sound: bool
) -> dict[float, list[Probe]]:
    """All probes by the minutes of their films; each round makes all of them."""
    from ugatit_engines.specimens import write_film

    found: dict[float, list[Probe]] = {length: [] for length in minutes}
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as name:
        for length in minutes:
            write_film(_film(name, length), _pictures(length), width, height, has_sound=has_sound)
        for _ in range(rounds):
            for length in minutes:
                one = probe(_film(name, length), _pictures(length), segment)
                found[length].append(one)
                marks = one.after_segments
                steps = f"; {marks[0] / 2**20:.1f} MiB after the first segment" if marks else ""
                steps += f", {marks[-1] / 2**20:.1f} MiB after the last" if len(marks) > 1 else ""
                print(f"{length:6g} minutes: peak {one.peak / 2**20:.1f} MiB{steps}", flush=True)
    return found


def _film(folder: str, minutes: float) -> Path:
    return Path(folder) / f"{minutes:g}-minutes.mp4"


def _pictures(minutes: float) -> int:
    return max(1, round(minutes * 60 * RATE))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="Peak memory of a short film and of a long one.")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 20], help="of the films")
    parser.add_argument("--width", type=int, default=320, help="in pixels")
    parser.add_argument("--height", type=int, default=180, help="in pixels")
    parser.add_argument("--segment", type=int, default=60, help="seconds")
    parser.add_argument("--rounds", type=int, default=1, help="of which the least peak counts")
    parser.add_argument("--no-sound", action="store_true", help="a film without sound")
    parser.add_argument("--probe", nargs=2, metavar=("FILM", "PICTURES"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    """Probe all films, and print what the longest takes beside the shortest."""
    options = parse()
    if options.probe:
        film, pictures = options.probe
        print(json.dumps(probe_here(Path(film), int(pictures), options.segment)._asdict()))
        return
    found = compare(
        options.minutes,
        options.width,
        options.height,
        options.segment,
        options.rounds,
        has_sound=not options.no_sound,
    )
    peaks = {length: min(one.peak for one in probes) for length, probes in found.items()}
    first, last = min(peaks), max(peaks)
    more = peaks[last] - peaks[first]
    print(
        f"{last:g} minutes / {first:g} minutes: {peaks[last] / peaks[first]:.3f}, {more / 2**20:+.1f} MiB, "
        f"{more / max(1.0, (last - first) * 60):.0f} bytes a second of film"
    )


if __name__ == "__main__":
    main()
