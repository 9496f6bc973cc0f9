"""What has to be seen on a GPU, in one command of at most nine minutes: tests, figures, a real training.

Needs nothing but a Python with PyTorch and the packages of NEEDED, and the pictures. Everything worth keeping
ends up in files directly below `--out`; the run folder beside them can go. What an earlier call left there is
removed first.

    make gpu SOURCE=photos TARGET=drawings
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing of the project, nor what it needs, is imported up here: what is missing is told first.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.loop import Step

ROOT = Path(__file__).parents[1]
NEEDED = {
    "torch": "torch",
    "psutil": "psutil",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "tomli_w": "tomli_w",
    "numpy": "numpy",
    "av": "av",
    "PIL": "Pillow",
    "platformdirs": "platformdirs",
    "pytest": "pytest",
}
"""Packages by the names that they are imported by."""
ENDS = {
    "tests": 0.2,
    "train_step": 0.32,
    "train_step_compiled": 0.43,
    "tests_compiled": 0.5,
    "engines": 0.62,
}
"""By when each part has to be over, as a share of the time; the training has what is left."""
_SPARE = 0.04  # for the last checkpoint and the charts
_COMPILE_TESTS = "test_compile_gpu.py"
_WAYS = ["ours", "recorded", "contiguous", "contiguous, recorded", "bf16", "bf16, recorded"]
_COMPILED_WAYS = ["compiled and recorded", "bf16, compiled and recorded"]
_RECORD = ("json", "md", "log")
OWN = {
    "tests": ["tests.log", "tests_compiled.log"],
    "benchmark": [f"{name}.{kind}" for name in ("train_step", "train_step_compiled") for kind in _RECORD],
    "engines": [f"engines.{kind}" for kind in _RECORD],
    "training": ["run", "sheet-a2b.png", "sheet-b2a.png", "losses.png", "rho.png"],
}
"""What is written below `--out`, by `--only`; and always report.json."""


@dataclass
class Clock:
    """The time that is left."""

    minutes: float
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds."""
        return self.minutes * 60 - (time.monotonic() - self.started)

    def until(self, share: float) -> float:
        """Seconds until so much of all of it is over."""
        return self.left() - (1 - share) * self.minutes * 60


def missing_packages() -> list[str]:
    """Those of NEEDED that this Python does not have, by the names that they are installed by."""
    return [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]


def run_part(name: str, command: Sequence[str], seconds: float, out: Path) -> dict[str, Any]:
    """Run one part in a process of its own, with its output in `NAME.log`; never fails itself."""
    print(f"{name}: {max(seconds, 1):.0f} s at most", flush=True)
    started = time.monotonic()
    path = os.pathsep.join([str(ROOT), str(ROOT / "training"), str(ROOT / "engines"), *sys.path[1:]])
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.returncode is None:  # out of time, or interrupted
                _kill(process)
    lines = (out / f"{name}.log").read_text("utf-8", errors="replace").splitlines()
    print("\n".join(lines[-6:]), flush=True)
    return {
        "exit": "out of time" if code is None else code,
        "seconds": round(time.monotonic() - started, 1),
        "last_lines": lines[-3:],
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started: workers that compile or read pictures."""
    import psutil

    # Workers that read pictures have process groups of their own.
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # one that hangs in the driver is left behind


def _when(path: Path) -> tuple[bool, bool, Path]:
    """By what files of tests are sorted: the ones that may take all the time, building engines, are last."""
    return "tensorrt" in path.name, "memory" in path.name, path


def run_tests(options: argparse.Namespace, clock: Clock, *, compiled: bool) -> dict[str, Any]:
    """The tests marked `gpu`; those that compile go apart, since that may take too long."""
    files = sorted((ROOT / "tests").rglob("test_*_gpu.py"), key=_when)
    chosen = [str(path) for path in files if (path.name == _COMPILE_TESTS) == compiled]
    # What other versions of libraries warn of is no failure of these tests. Their prints go to the log.
    flags = ("-m", "gpu", "-v", "-s", "--no-header", "--durations=10", "-p", "no:cacheprovider")
    settings = ("-W", "default", "-o", "faulthandler_timeout=60")
    name = "tests_compiled" if compiled else "tests"
    command = [sys.executable, "-m", "pytest", *flags, *settings, *chosen]
    result = run_part(name, command, clock.until(ENDS[name]), options.out)
    log = (options.out / f"{name}.log").read_text("utf-8", errors="replace")
    return result | {"result": _tally(log)}


def _tally(log: str) -> str:
    """What pytest says at its end, or a count where it did not come so far."""
    ends = re.findall(r"^=+ (.*\b\d+ (?:passed|failed|error).*?) =+$", log, re.MULTILINE)
    if ends:
        return str(ends[-1])
    counts = {word: len(re.findall(rf"\b{word}\b", log)) for word in ("PASSED", "FAILED", "ERROR")}
    return f"not finished: {', '.join(f'{count} {word.lower()}' for word, count in counts.items())}"


def run_benchmark(options: argparse.Namespace, clock: Clock, *, compiled: bool) -> dict[str, Any]:
    """The step benchmark; what has to be compiled first goes apart, since it may take too long."""
    graphs = options.device.type == "cuda"
    ways = ["ours", "bf16"]
    if graphs:
        ways = _COMPILED_WAYS if compiled else _WAYS
    name = "train_step_compiled" if compiled else "train_step"
    seconds = clock.until(ENDS[name])
    command = [
        *(sys.executable, str(ROOT / "benchmarks/train_step.py"), "--device", str(options.device)),
        *("--size", str(options.size), "--channels", str(options.channels), "--ways", "; ".join(ways)),
        *("--rounds", str(options.rounds), "--block", "10" if graphs else "1"),
        *("--warm-up", "5" if graphs else "1", "--seconds", f"{0.8 * seconds:.0f}"),
        *("--results", str(options.out), "--save", name),
    ]
    return run_part(name, command, seconds, options.out)


def run_engines(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """The engine benchmark on the pictures of A: all the time there is where nothing else is asked for."""
    seconds = clock.left() if options.only == "engines" else clock.until(ENDS["engines"])
    least = "0.15" if options.device.type == "cuda" else "0"
    command = [
        *(sys.executable, str(ROOT / "benchmarks/engine.py"), "--device", str(options.device)),
        *("--size", str(options.size), "--channels", str(options.channels)),
        *("--pictures", str(options.source.resolve()), "--seconds", f"{0.8 * seconds:.0f}"),
        *("--rounds", str(min(5, options.rounds)), "--least", least),
        *("--results", str(options.out), "--save", "engines"),
    ]
    return run_part("engines", command, seconds, options.out)


def _figures(out: Path, name: str) -> dict[str, Any]:
    """What the benchmark kept, where it came so far."""
    path = out / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def choose_config(options: argparse.Namespace, seconds: float) -> TrainConfig:
    """Light U-GAT-IT as the recipe has it, recorded on a GPU, with as many steps as there is time for."""
    from ugatit_engines.measure import usable_cores
    from ugatit_training.config import load_config

    graphs = options.device.type == "cuda"
    found = _figures(options.out, "train_step").get("milliseconds", {})
    milliseconds = found.get("recorded") or found.get("ours") or (100 if graphs else 1000)
    steps = options.steps or max(20, int(0.85 * seconds * 1000 / milliseconds))
    return load_config(
        "light",
        {
            "steps": steps,
            "image_size": options.size,
            "channels": options.channels,
            "discriminator_channels": options.channels,
            "cuda_graphs": graphs,
            "workers": min(8, max(0, usable_cores() - 1)) if graphs else 0,
            "report_every": max(1, min(50, steps // 20)),
            "sample_every": max(1, steps // 8),
            "checkpoint_every": max(1, steps // 2),
            "keep_checkpoints": 1,
        },
    )


def run_training(options: argparse.Namespace, clock: Clock, pictures: Domains) -> dict[str, Any]:
    """A training on the pictures that were given, until its last step or until the time is up."""
    from ugatit_batch.errors import UgatitBatchError
    from ugatit_training.charts import rho_chart, rho_layers
    from ugatit_training.checkpoint import list_checkpoints
    from ugatit_training.config import config_to_toml
    from ugatit_training.evaluate import write_loss_chart
    from ugatit_training.loop import train
    from ugatit_training.memory import need
    from ugatit_training.restore import restore_networks
    from ugatit_training.run_folder import RunInfo, mark_of, open_run, read_metrics

    run: Path = options.out / "run"
    spare = _SPARE * clock.minutes * 60
    seconds = clock.left() - spare
    config = choose_config(options, seconds)
    counts = (len(pictures.a), len(pictures.b))
    names = (options.source.name, options.target.name)
    open_run(run, config, RunInfo(mark_of(run), str(options.source), str(options.target), names, counts))
    print(f"training: {config.steps} steps, {seconds:.0f} s at most", flush=True)
    last: Step | None = None
    for last in train(config, pictures, run, options.device, lambda: clock.left() < spare):
        cycles = (last.losses["cycle_a"] + last.losses["cycle_b"]) / 2
        print(f"step {last.step}: {last.steps_per_second:.3g} steps/s, cycle {cycles:.3f}", flush=True)
    if last is None or last.sample is None:
        raise UgatitBatchError(f"{run}: the training took no step", "remove the folder")

    for direction in ("a2b", "b2a"):
        sheet = last.sample.with_name(f"step-{last.step:08d}-{direction}.png")
        shutil.copyfile(sheet, options.out / f"sheet-{direction}.png")
    write_loss_chart(run, options.out)
    networks = restore_networks(list_checkpoints(run / "checkpoints")[-1].path).networks
    chart = rho_chart(
        {
            f"{names[0]} → {names[1]}": rho_layers(networks.a2b),
            f"{names[1]} → {names[0]}": rho_layers(networks.b2a),
        }
    )
    if chart is not None:
        chart.save(options.out / "rho.png")
    metrics = read_metrics(run)
    return {
        "steps": last.step,
        "of": config.steps,
        "pictures": counts,
        "steps_per_second": round(
            statistics.median(line["steps_per_second"] for line in metrics[1:] or metrics), 3
        ),
        "peak_bytes": last.memory,
        "predicted_bytes": need(config, options.device.type).total,
        "first_losses": {k: round(v, 4) for k, v in metrics[0].items() if k.endswith(("_a", "_b"))},
        "last_losses": {k: round(v, 4) for k, v in last.losses.items()},
        "config": config_to_toml(config),
    }


def remove_earlier(out: Path, only: str | None) -> None:
    """Remove what an earlier call of this program wrote, and nothing else.

    Args:
        out: the folder of results.
        only: the one part that will write anew; None: all of them.

    Raises:
        UsageError: `run` is no run folder.
    """
    from ugatit_batch.errors import UsageError

    names = [name for part, names in OWN.items() if only in (None, part) for name in names]
    run = out / "run"
    if "run" in names and run.is_dir() and any(run.iterdir()) and not (run / "run.json").is_file():
        raise UsageError(f"{run} is no run folder, and stays", "use another --out")
    for path in (out / name for name in (*names, "report.json")):
        if path.is_dir() and not path.is_symlink():
            if path == run:
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def table(report: dict[str, Any], out: Path) -> str:
    """The figures that are looked at first."""
    lines = [f"{name}: {report[name]['result']}" for name in ("tests", "tests_compiled") if name in report]
    for name in ("train_step", "train_step_compiled"):
        if name not in report:
            continue
        figures = _figures(out, name)
        ratios = {"published": 1.0} | figures.get("to_published", {})
        for way, milliseconds in figures.get("milliseconds", {}).items():
            lines.append(f"{way:<28} {milliseconds:>10.2f} ms  × {ratios[way]:.3f}")
        lines += [f"{way:<28} failed" for way in figures.get("failed", {})]
        if not figures:
            lines.append(f"{name}: no figures")
    if "engines" in report:
        lines += _engine_lines(_figures(out, "engines"))
    training = report.get("training", {})
    if "steps_per_second" in training:
        taken, predicted = training["peak_bytes"], training["predicted_bytes"] / 2**30
        measured = "not measured" if taken is None else f"{taken / 2**30:.2f} GiB measured"
        lines.append(f"training: {training['steps']} steps, {training['steps_per_second']} steps/s")
        lines.append(f"peak: {predicted:.2f} GiB predicted, {measured}")
    elif training:
        lines.append(f"training: {training['exit']}")
    return "\n".join(lines)


def _engine_lines(figures: dict[str, Any]) -> list[str]:
    lines = []
    for name, one in figures.get("engines", {}).items():
        for batch, rate in one.get("pictures_per_second", {}).items():
            share = one["share_of_peak"][batch]
            lines.append(f"{f'{name}, batch {batch}':<28} {rate:>10.1f} /s  {share:.3f} of the matmul peak")
        error, ratio = one["error"], one.get("run_to_network")
        words = f"{error['max']:g} levels at most, {error['mean']:.3f} on average"
        lines.append(f"{name:<28} {words}" + ("" if ratio is None else f"; folder run / engine {ratio:.3f}"))
    for what in ("failed", "left_out"):
        lines += [
            f"{name:<28} {' '.join(words.split())[:200]}" for name, words in figures.get(what, {}).items()
        ]
    return lines or ["engines: no figures"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="Tests, benchmarks and a real training on a GPU.")
    parser.add_argument("--source", type=Path, required=True, help="folder of pictures of A")
    parser.add_argument("--target", type=Path, required=True, help="folder of pictures of B")
    parser.add_argument("--out", type=Path, default=Path("gpu-output"), help="where all of it goes")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all of it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=256, help="training size in pixels")
    parser.add_argument("--channels", type=int, default=64, help="width of all networks")
    parser.add_argument("--rounds", type=int, default=20, help="of the benchmark, 10 steps each on a GPU")
    parser.add_argument("--steps", type=int, help="of the training; default: what there is time for")
    parser.add_argument("--only", choices=list(OWN), help="one part alone")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    return options


def check(options: argparse.Namespace, clock: Clock, report: dict[str, Any]) -> None:
    """Run all parts that were asked for.

    Raises:
        UgatitBatchError: the device, the folders or the training.
    """
    from ugatit_engines.devices import choose_device
    from ugatit_engines.measure import describe_machine
    from ugatit_training.data import find_domains

    options.device = choose_device(options.device)
    on_gpu = options.device.type == "cuda"
    pictures = find_domains(options.source, options.target)  # what is wrong with them is told at once
    options.out.mkdir(parents=True, exist_ok=True)
    remove_earlier(options.out, options.only)
    report["machine"] = dataclasses.asdict(describe_machine(options.device))
    watchdog = None
    if on_gpu:  # a step that hangs asks for no time
        watchdog = threading.Timer(max(clock.left(), 1), _give_up, (options, clock, report))
        watchdog.daemon = True
        watchdog.start()
    if options.only in (None, "tests") and on_gpu:
        report["tests"] = run_tests(options, clock, compiled=False)
    if options.only in (None, "benchmark"):
        report["train_step"] = run_benchmark(options, clock, compiled=False)
        if on_gpu:
            report["train_step_compiled"] = run_benchmark(options, clock, compiled=True)
    if options.only in (None, "tests") and on_gpu:
        report["tests_compiled"] = run_tests(options, clock, compiled=True)
    if options.only in (None, "engines"):
        report["engines"] = run_engines(options, clock)
    if options.only in (None, "training"):
        report["training"] = {"exit": "not finished"}
        report["training"] = run_training(options, clock, pictures)
    if watchdog is not None:
        watchdog.cancel()


def _give_up(options: argparse.Namespace, clock: Clock, report: dict[str, Any]) -> None:
    print("out of time", flush=True)
    finish(options, clock, dict(report))
    os._exit(1)


def finish(options: argparse.Namespace, clock: Clock, report: dict[str, Any]) -> None:
    """Write the report and print what is looked at first."""
    report["seconds"] = round(clock.minutes * 60 - clock.left(), 1)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (options.out / "report.json").write_text(text, "utf-8")
    print(table(report, options.out))
    print(f"{options.out}/report.json: {report['seconds']} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; returns 1 where one failed."""
    missing = missing_packages()
    if missing:
        folder = "carry their wheels in a folder: make gpu WHEELS=folder …"
        print(f"this Python lacks {', '.join(missing)}; {folder}", file=sys.stderr)
        return 1
    options = parse(arguments)
    clock = Clock(options.minutes)
    report: dict[str, Any] = {}

    from ugatit_batch.errors import UgatitBatchError

    failed = False
    try:
        check(options, clock, report)
    except UgatitBatchError as error:
        failed = True
        print(error.message, error.hint, sep="\n", file=sys.stderr)
        if "training" in report:
            report["training"]["exit"] = str(error)
    finally:
        if report:
            finish(options, clock, report)
    parts = [part for part in report.values() if isinstance(part, dict)]
    return int(failed or any(part.get("exit", 0) != 0 for part in parts))


if __name__ == "__main__":
    sys.exit(main())
