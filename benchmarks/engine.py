"""Every engine that can be had on this machine, on the same pictures and weights, in one process.

PyTorch in each precision, and on a GPU each flavor of TensorRT that is installed, built here for this; also
one that does not know this GPU, for what it says. Of each:

- how far its results are from those of plain PyTorch in float32 on the CPU;
- pictures a second that it translates at each batch size, fed from memory, results on the host;
- the same of PyTorch's network alone, on tensors that are on the device, timed by events on a GPU;
- which share of the largest rate of matrix products measured here that is, every operation of the deploy form
  counted: an engine that spares some, by Winograd's algorithm on a CPU, can pass 1;
- a folder run beside the bare engine.

All take turns; medians of the rounds count, and ratios are taken within a round. An engine that fails is left
out, and told in its library's words. With `--save`, the figures are kept after every step.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ugatit_batch import __version__
from ugatit_batch.errors import UgatitBatchError
from ugatit_engines.devices import DTYPES
from ugatit_engines.measure import describe_machine, keep_record, summarize

sys.path.append(str(Path(__file__).parents[1]))  # for the files beside this one, wherever this is started
from benchmarks.contestants import (
    OutOfTime,
    enter,
    find_plans,
    keep_float32,
    prepare,
    with_tensorrt,
    with_torch,
)
from benchmarks.matmul_peak import MatmulPeak, count_operations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.contestants import Facts, Opener, Turn
    from ugatit_engines.devices import Precision

RESULTS = Path(__file__).parent / "results"


class Measurement:
    """All engines that still run, and what they have given.

    Args:
        options: of this program.
        scratch: an empty folder.

    Raises:
        UgatitBatchError: as `prepare`.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        self.options = options
        self.task = task = prepare(options, scratch)
        self.operations = count_operations(task.bundle.generator, task.side)
        self.peaks = {precision: MatmulPeak(DTYPES[precision], task.device) for precision in task.precisions}
        self.engines: dict[str, Facts] = {}
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.unfit: set[str] = set()
        self.rounds: list[dict[str, float]] = []
        self._turns: dict[str, Turn] = {}

    def run(self) -> Iterator[None]:
        """Open all, let them take turns until there are enough rounds or the time is up; yields often."""
        task = self.task
        for precision in task.precisions:
            self._add(f"torch {precision}", precision, partial(with_torch, task, precision))
        yield
        plans, unfit, missing = find_plans(task)
        self.left_out |= dict.fromkeys(missing, "not installed")
        self.unfit = {f"{flavor} {precision}" for flavor, precision in plans if flavor in unfit}
        for flavor, precision in plans:
            name = f"{flavor} {precision}"
            if self._unmeasured():  # building may take the rest of the time
                self._turn()
            if self._time_is_up():
                self.left_out[name] = "out of time"
                continue
            # Should the library end the process, this is what was kept last.
            self.failed[name] = "it ended this program"
            yield
            del self.failed[name]
            self._add(name, precision, partial(with_tensorrt, task, flavor, precision, self._time_is_up))
            yield
        while self._unmeasured() or (len(self.rounds) < self.options.rounds and not self._time_is_up()):
            self._turn()
            yield

    def _time_is_up(self) -> bool:
        seconds = self.options.seconds
        return seconds is not None and time.time() - psutil.Process().create_time() >= seconds

    def _unmeasured(self) -> bool:
        measured = {key for one in self.rounds for key in one}
        return any(turn.keys() - measured for turn in self._turns.values())

    def _add(self, name: str, precision: Precision, build: Callable[[], tuple[Facts, Opener]]) -> None:
        try:
            built, opened = build()
            facts, turn = enter(self.task, name, opened)
        except OutOfTime:
            self.left_out[name] = "out of time while it was built"
        except Exception as error:  # noqa: BLE001 - the others go on
            self._fail(name, error)
        else:
            self.engines[name], self._turns[name] = {"precision": precision} | built | facts, turn
            print(f"{name}: opened and warm in {facts['seconds_to_open']} s", file=sys.stderr, flush=True)

    def _fail(self, name: str, error: Exception) -> None:
        self._turns.pop(name, None)
        self.failed[name] = f"{type(error).__name__}: {error}"[:2000]
        print(f"{name} is left out: {self.failed[name]}", file=sys.stderr, flush=True)

    def _turn(self) -> None:
        """One round of all that are open, the peak among them."""
        keep_float32()
        rates = {f"matmul {p}": peak.measure(self.task.least) / 1e12 for p, peak in self.peaks.items()}
        for name, turn in list(self._turns.items()):
            try:
                for key, measure in turn.items():
                    rates[key] = measure()
            except Exception as error:  # noqa: BLE001 - the others go on
                self._fail(name, error)
        self.rounds.append(rates)
        print(f"round {len(self.rounds)} of {self.options.rounds}", file=sys.stderr, flush=True)

    def figures(self) -> dict[str, Any]:
        """All that is known so far, for JSON."""
        task, config = self.task, self.task.bundle.generator
        return {
            "command": shlex.join(["python", "benchmarks/engine.py", *sys.argv[1:]]),
            "engines": {name: facts | self._rates(name, facts) for name, facts in self.engines.items()},
            "failed": dict(self.failed),
            "left_out": dict(self.left_out),
            "matmul_tflops": {p: self._middle(f"matmul {p}") for p in task.precisions if self.rounds},
            "gflop_a_picture": round(self.operations / 1e9, 4),
            "rounds": [{key: _short(rate) for key, rate in one.items()} for one in self.rounds],
            "pictures": len(list(task.folder.iterdir())),
            "compared": len(task.expected[0]),
            "size": task.side,
            "batches": task.batches,
            "model": task.bundle.name,
            "channels": config.channels,
            "light": config.light,
            "machine": dataclasses.asdict(describe_machine(task.device)),
            "version": __version__,
        }

    def _middle(self, key: str, other: str | None = None, factor: float = 1.0) -> float:
        """The median, or that of the ratio to another of the same round, of the rounds that have them."""
        both = [one for one in self.rounds if key in one and (other is None or other in one)]
        values = [factor * one[key] / (1.0 if other is None else one[other]) for one in both]
        return _short(statistics.median(values))

    def _rates(self, name: str, facts: Facts) -> Facts:
        precision: Precision = facts["precision"]
        found: Facts = {}
        for key in dict.fromkeys(key for one in self.rounds for key in one if key.startswith(f"{name}, ")):
            kind, _, batch = key.removeprefix(f"{name}, ").partition(" ")
            if batch:
                what = "" if kind == "batch" else "forward_"
                share = self._middle(key, f"matmul {precision}", self.operations / 1e12)
                found.setdefault(f"{what}pictures_per_second", {})[batch] = self._middle(key)
                found.setdefault(f"{what}share_of_peak", {})[batch] = share
            other = f"torch {precision}, batch {batch}"
            if kind == "batch" and key != other and any({key, other} <= one.keys() for one in self.rounds):
                found.setdefault("to_torch", {})[batch] = self._middle(key, other)
        stages = ("run", "network", "decode", "encode")
        complete = [one for one in self.rounds if f"{name}, encode" in one]
        if complete:
            through = summarize([{stage: one[f"{name}, {stage}"] for stage in stages} for one in complete])
            found |= {"run_per_second": _short(through.run), "run_to_network": _short(through.ratio)}
            found |= {"slowest": through.slowest, "run_to_slowest": _short(through.ratio_to_slowest)}
        return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def sentence(figures: dict[str, Any]) -> str:
    """The figures in one line for people."""
    machine = figures["machine"]
    where = machine["gpu"] or f"{machine['cpu']} ({machine['threads']} threads)"
    parts = []
    for name, one in figures["engines"].items():
        error = one["error"]
        rates = ", ".join(
            f"{rate} at batch {batch} ({one['share_of_peak'][batch]} of the matmul peak)"
            for batch, rate in one.get("pictures_per_second", {}).items()
        )
        run = f", a folder run {one['run_to_network']} of that" if "run_to_network" in one else ""
        far = f"{error['max']:g} levels of 255 at most and {error['mean']} on average from float32"
        parts.append(f"{name} {rates or 'nothing yet'} pictures/s{run}, {far}")
    parts += [f"{name} failed: {' '.join(words.split())[:300]}" for name, words in figures["failed"].items()]
    parts += [f"{name} was left out: {words}" for name, words in figures["left_out"].items()]
    kind = f"{'light' if figures['light'] else 'full'}, width {figures['channels']}, {figures['size']}²"
    return f"On {where}, PyTorch {machine['torch']}, {figures['model']} ({kind}): {'; '.join(parts)}."


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""

    def numbers(text: str) -> list[int]:
        found = [int(part) for part in text.split(",")]
        if min(found) < 1:
            raise ValueError
        return found

    def precisions(text: str) -> list[str]:
        found = [part.strip() for part in text.split(",")]
        if not set(found) <= set(DTYPES):
            raise ValueError
        return found

    parser = argparse.ArgumentParser(description="Every engine that can be had on this machine.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="real ones; default: drawn here")
    parser.add_argument("--count", type=int, help="pictures of the folder run; default: 512 on a GPU, or 4")
    parser.add_argument("--compared", type=int, default=4, help="pictures that are compared with float32")
    parser.add_argument("--model", help="name or folder; default: random weights")
    parser.add_argument("--channels", type=int, default=64, help="width of the model with random weights")
    parser.add_argument("--full", action="store_true", help="a full model with random weights")
    parser.add_argument("--size", type=int, default=256, help="side that the network sees, in pixels")
    parser.add_argument("--batches", type=numbers, help="default: 1,8,32 on a GPU, or 1")
    parser.add_argument("--precisions", type=precisions, help="default: fp16,fp32 on a GPU, or fp32")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--least", type=float, default=0.3, help="seconds that one figure takes, at least")
    parser.add_argument("--seconds", type=float, help="since the program began: nothing is begun after them")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--save", metavar="NAME", help="keep the figures in NAME.json")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where --save keeps them")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep the figures; returns 1 where an engine failed that should have run."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="ugatit-batch-") as scratch:
        try:
            measurement = Measurement(options, Path(scratch))
        except UgatitBatchError as error:
            print(error.message, error.hint, sep="\n", file=sys.stderr)
            return 1

        def keep() -> str:
            figures = measurement.figures()
            line = sentence(figures)
            kept = keep_record(options.results, options.save, figures, line) if options.save else ""
            return f"{line}\n{kept}".strip()

        for _ in measurement.run():
            keep()
        print(keep())
    return int(bool(measurement.failed.keys() - measurement.unfit))


if __name__ == "__main__":
    sys.exit(main())
