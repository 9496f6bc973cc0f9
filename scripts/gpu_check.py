"""What has to be seen on a GPU, in one command of at most nine minutes: tests, step times, a real training.

Needs nothing but a Python with PyTorch, pytest and this package's other dependencies, and the pictures.
Everything worth keeping ends up in files directly below `--out`; the run folder beside them can go.

    make gpu SOURCE=photos TARGET=drawings
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugatit_engines.devices import choose_device
from ugatit_engines.measure import describe_machine, usable_cores
from ugatit_training.charts import rho_chart, rho_layers
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.config import config_to_toml, load_config
from ugatit_training.data import find_domains
from ugatit_training.evaluate import write_loss_chart
from ugatit_training.loop import train
from ugatit_training.memory import need
from ugatit_training.restore import restore_networks
from ugatit_training.run_folder import RunInfo, mark_of, open_run, read_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_training.config import TrainConfig
    from ugatit_training.loop import Step

ROOT = Path(__file__).parents[1]
_TESTS, _STEPS, _COMPILED = 0.22, 0.2, 0.22  # shares of the time; the training has what is left
_SPARE = 0.05  # for the last checkpoint and the charts


@dataclass
class Clock:
    """The time that is left."""

    minutes: float
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds."""
        return self.minutes * 60 - (time.monotonic() - self.started)


def run_part(name: str, command: Sequence[str], seconds: float, out: Path) -> dict[str, Any]:
    """Run one part in a process of its own, with its output in `NAME.log`; never fails itself."""
    print(f"{name}: {seconds:.0f} s at most", flush=True)
    started = time.monotonic()
    path = os.pathsep.join([str(ROOT), str(ROOT / "training"), str(ROOT / "engines"), *sys.path[1:]])
    with (out / f"{name}.log").open("w") as log:
        try:
            code: int | None = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=max(seconds, 1),
                env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    lines = (out / f"{name}.log").read_text("utf-8", errors="replace").splitlines()
    print("\n".join(lines[-6:]), flush=True)
    return {
        "exit": "out of time" if code is None else code,
        "seconds": round(time.monotonic() - started, 1),
        "last_lines": lines[-3:],
    }


def run_tests(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """The tests marked `gpu`."""
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*_gpu.py"))
    # What a library warns of on a machine that nobody prepared is no failure of these tests.
    flags = ("-m", "gpu", "-q", "--no-header", "-p", "no:cacheprovider", "-W", "default")
    command = [sys.executable, "-m", "pytest", *flags, *files]
    return run_part("tests", command, clock.left() * _TESTS, options.out)


def run_benchmark(options: argparse.Namespace, clock: Clock, *, compiled: bool) -> dict[str, Any]:
    """The step benchmark; what has to be compiled first goes apart, since it may take too long."""
    graphs = options.device.type == "cuda"
    if compiled:
        ways = ["compiled and recorded", "bf16, compiled and recorded"] if graphs else ["compiled"]
    else:
        ways = ["ours", "recorded", "bf16", "bf16, recorded"] if graphs else ["ours", "bf16"]
    name = "train_step_compiled" if compiled else "train_step"
    command = [
        *(sys.executable, str(ROOT / "benchmarks/train_step.py"), "--device", str(options.device)),
        *("--size", str(options.size), "--channels", str(options.channels), "--ways", "; ".join(ways)),
        *("--rounds", str(options.rounds), "--block", "10" if graphs else "1"),
        *("--warm-up", "5" if graphs else "1", "--results", str(options.out), "--save", name),
    ]
    share = _COMPILED if compiled else _STEPS
    return run_part(name, command, clock.minutes * 60 * share, options.out)


def choose_config(options: argparse.Namespace, seconds: float) -> TrainConfig:
    """Light U-GAT-IT as the recipe has it, recorded on a GPU, with as many steps as there is time for."""
    graphs = options.device.type == "cuda"
    milliseconds = None
    measured = options.out / "train_step.json"
    if measured.is_file():
        found = json.loads(measured.read_text("utf-8"))["milliseconds"]
        milliseconds = found.get("recorded", found.get("ours"))
    steps = options.steps or max(20, int(0.85 * seconds * 1000 / (milliseconds or 1000)))
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


def run_training(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """A training on the pictures that were given, until its last step or until the time is up."""
    run: Path = options.out / "run"
    pictures = find_domains(options.source, options.target)
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
        raise RuntimeError("the training took no step")

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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this program."""
    parser = argparse.ArgumentParser(description="Tests, step benchmark and a real training on a GPU.")
    parser.add_argument("--source", type=Path, required=True, help="folder of pictures of A")
    parser.add_argument("--target", type=Path, required=True, help="folder of pictures of B")
    parser.add_argument("--out", type=Path, default=Path("gpu-output"), help="where all of it goes")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all of it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=256, help="training size in pixels")
    parser.add_argument("--channels", type=int, default=64, help="width of all networks")
    parser.add_argument("--rounds", type=int, default=20, help="of the benchmark, 10 steps each on a GPU")
    parser.add_argument("--steps", type=int, help="of the training; default: what there is time for")
    parser.add_argument("--only", choices=["tests", "benchmark", "training"], help="one part alone")
    options = parser.parse_args(arguments)
    options.device = choose_device(options.device)
    options.out = options.out.resolve()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; returns 1 where one failed."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.minutes)
    on_gpu = options.device.type == "cuda"
    report: dict[str, Any] = {"machine": dataclasses.asdict(describe_machine(options.device))}
    try:
        if options.only in (None, "tests") and on_gpu:
            report["tests"] = run_tests(options, clock)
        if options.only in (None, "benchmark"):
            report["train_step"] = run_benchmark(options, clock, compiled=False)
            if on_gpu:
                report["train_step_compiled"] = run_benchmark(options, clock, compiled=True)
        if options.only in (None, "training"):
            report["training"] = run_training(options, clock)
    finally:
        report["seconds"] = round(clock.minutes * 60 - clock.left(), 1)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (options.out / "report.json").write_text(text, "utf-8")
    print(f"{options.out}/report.json: {report['seconds']} s")
    return int(any(part.get("exit", 0) != 0 for part in report.values() if isinstance(part, dict)))


if __name__ == "__main__":
    sys.exit(main())
