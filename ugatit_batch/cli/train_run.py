"""A training as `ugatit-batch train` runs it: looks at everything first, trains, shows, writes the model.

Under `torchrun` every process comes here. The main one alone looks, shows and writes; the others wait for it,
and end without a word where it finds something wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ugatit_batch.bundle import DIRECTIONS
from ugatit_batch.cli import train_setup
from ugatit_batch.display.train import TrainDisplay
from ugatit_batch.errors import UsageError
from ugatit_batch.models import model_folder
from ugatit_engines.devices import choose_device, free_memory
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.data import find_domains
from ugatit_training.distributed import main_process, open_world, own_device
from ugatit_training.evaluate import check_evaluable, evaluate_run, find_test_pictures
from ugatit_training.features import open_features
from ugatit_training.fine_tuning import initial_weights
from ugatit_training.finish import write_model
from ugatit_training.loop import train
from ugatit_training.memory import check as check_memory
from ugatit_training.run_folder import RunInfo, check_run, held, mark_of, model_belongs_to, open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    import torch

    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.distributed import World
    from ugatit_training.fine_tuning import Start
    from ugatit_training.loop import Evaluate, Step
    from ugatit_training.state import TrainingState
    from ugatit_training.tensorboard import EventLog


@dataclass(frozen=True)
class Wanted:
    """What was asked for, resolved."""

    name: str
    """Of the run and the model."""
    config: TrainConfig
    notes: tuple[str, ...]
    """How the config came about."""
    start: Start | None
    """The model that the generators start from."""
    source: Path
    target: Path
    domains: tuple[str, str]
    """Names of A and B."""
    run: Path
    models: Path
    device: str
    licence: str
    about: tuple[str, ...]
    features: Path | None
    """Feature network for KID while training."""
    check: bool
    tensorboard: bool
    as_json: bool
    quiet: bool


def run_training(wanted: Wanted) -> int:
    """Train; returns the exit code.

    Raises:
        UgatitBatchError: what kept the training from starting, or ended it.
    """
    if wanted.features is not None and not wanted.config.evaluate_every:
        raise UsageError(f"--features {wanted.features}: nothing is evaluated", "add --evaluate-every STEPS")
    pictures = find_domains(wanted.source, wanted.target)
    device = own_device(choose_device(wanted.device))
    with contextlib.ExitStack() as stack:
        if main_process():
            # Before the others are waited for: where this fails, so does everything.
            _check_beforehand(wanted)
            stack.enter_context(held(wanted.run))
        world = stack.enter_context(open_world(device))
        return _train(wanted, pictures, device, world)


def _check_beforehand(wanted: Wanted) -> None:
    """What needs neither the device nor the run folder: TensorBoard, and whose model has the name."""
    if wanted.tensorboard:
        from ugatit_training.tensorboard import check_installed

        check_installed()
    info = RunInfo(mark_of(wanted.run), "", "", wanted.domains, (0, 0))
    if not model_belongs_to(model_folder(wanted.name, wanted.models), info):
        raise UsageError(
            f"--name {wanted.name}: there is a model of that name, from elsewhere",
            f"use another --name, or `ugatit-batch models remove {wanted.name}`",
        )


def _train(wanted: Wanted, pictures: Domains, device: torch.device, world: World) -> int:
    config, run = wanted.config, wanted.run
    warnings: list[str] = []
    notes = list(wanted.notes)
    evaluation, initial, start = None, None, wanted.start
    with _agreed(world) as main_came_through:
        if world.main:
            notes += _memory(wanted, device)
            if config.evaluate_every:
                evaluation = _evaluation(wanted, device)
            if start is not None and start.bundle is not None:
                initial = initial_weights(start.bundle, config)
            warnings = _prepare(wanted, pictures, world)
    if not main_came_through():
        return 1

    done = _steps_done(run) if world.main else 0
    a, b = wanted.domains
    title = f"{wanted.name}: {a} ({len(pictures.a)}) → {b} ({len(pictures.b)}) on {device}"
    if world.size > 1:
        title += f" and {world.size - 1} more"
    quiet = wanted.quiet or not world.main
    report: Step | None = None
    logging = wanted.tensorboard and world.main and done < config.steps
    with (
        _stopping(quiet=not world.main) as should_stop,
        _event_log(run, done, wanted=logging) as log,
        TrainDisplay(
            title, config.steps, done=done, quiet=quiet, memory=train_setup.memory_of(device)
        ) as display,
    ):
        if world.main:
            for note in notes:
                display.note(note)
            for warning in warnings:
                display.warn(warning)
        steps = train(
            config, pictures, run, device, lambda: should_stop.number != 0, initial, world, evaluation
        )
        for report in steps:
            display.show(report)
            if log is not None:
                log.add(report)
            if wanted.as_json and world.main:
                click.echo(_json_line(report))
    stopped = report is not None and report.step < config.steps
    if world.main:
        _finish(wanted, report, stopped=stopped)
    return 130 if stopped and should_stop.number == signal.SIGINT else 0


def _memory(wanted: Wanted, device: torch.device) -> list[str]:
    """What the training needs, before the pictures are read and the run folder is written."""
    if _steps_done(wanted.run) >= wanted.config.steps:
        return []
    return [check_memory(wanted.config, device, free_memory(device))]


def _prepare(wanted: Wanted, pictures: Domains, world: World) -> list[str]:
    """Look at the run folder and at the pictures, and open the folder; returns warnings."""
    run, config = wanted.run, wanted.config
    info = RunInfo(
        mark=mark_of(run),
        source=str(wanted.source.resolve()),
        target=str(wanted.target.resolve()),
        domains=wanted.domains,
        pictures=(len(pictures.a), len(pictures.b)),
        sources=wanted.about,
        licence=wanted.licence,
        initial={} if wanted.start is None else wanted.start.record,
    )
    check_run(run, config, info)
    warnings: list[str] = []
    if wanted.check and _steps_done(run) < config.steps:
        per_step = config.batch_size * config.accumulate * world.size
        folders = (wanted.source, wanted.target)
        warnings = train_setup.check_data(pictures, folders, per_step, run, wanted.quiet)
    open_run(run, config, info)
    return warnings


def _evaluation(wanted: Wanted, device: torch.device) -> Evaluate:
    """What `train` calls every `evaluate_every` steps: sheets and charts; KID where there are features."""
    pictures = find_test_pictures(wanted.source, wanted.target)
    features = None
    if wanted.features is not None:
        for direction in DIRECTIONS:
            check_evaluable(pictures, direction)
        features = open_features(wanted.features, device)

    def evaluate(state: TrainingState, step: int) -> tuple[Path, dict[str, float]]:
        folder = wanted.run / "evaluations"
        found = evaluate_run(
            state.networks,
            pictures,
            folder,
            step,
            domains=wanted.domains,
            generators=state.best_generators,
            features=features,
        )
        scores = {
            f"{name}_{direction}": score.value
            for direction, evaluation in found.items()
            for name, score in evaluation.scores.items()
        }
        return folder, scores

    return evaluate


def _steps_done(run: Path) -> int:
    saved = list_checkpoints(run / "checkpoints")
    return saved[-1].step if saved else 0


def _finish(wanted: Wanted, report: Step | None, *, stopped: bool) -> None:
    """Say how it ended, and write the model where it is the end."""
    run, steps = wanted.run, wanted.config.steps
    if stopped:
        click.echo(f"stopped, with a checkpoint in {run}; the same command goes on from there", err=True)
        return
    if report is None:
        click.echo(f"{run}: already at step {steps}, its last", err=True)
    folder = model_folder(wanted.name, wanted.models)
    bundle = write_model(list_checkpoints(run / "checkpoints")[-1].path, wanted.name, folder)
    click.echo(f"model {bundle.name} is in {folder}", err=True)
    click.echo(f"  → ugatit-batch translate PICTURES --model {bundle.name}", err=True)


@contextlib.contextmanager
def _agreed(world: World) -> Iterator[Callable[[], bool]]:
    """Tell the other processes whether the main one came through the block; the answer is for after it."""
    went_well: list[bool] = []
    try:
        yield lambda: went_well[0]
    except BaseException:
        if world.main:
            world.share(value=False)
        raise
    went_well.append(world.share(value=True if world.main else None))


@contextlib.contextmanager
def _event_log(run: Path, done: int, wanted: bool) -> Iterator[EventLog | None]:
    if not wanted:
        yield None
        return
    from ugatit_training.tensorboard import EventLog

    with EventLog(run / "tensorboard", done) as log:
        yield log


def _json_line(report: Step) -> str:
    line: dict[str, Any] = dataclasses.asdict(report)
    for name in ("sample", "checkpoint", "evaluation"):
        line[name] = None if line[name] is None else str(line[name])
    return json.dumps(line)


@dataclass
class _Signal:
    """The signal that asked for an end; 0 for none."""

    number: int = 0


@contextlib.contextmanager
def _stopping(*, quiet: bool) -> Iterator[_Signal]:
    """Ctrl-C and SIGTERM end the run after the step at hand; a second one at once."""
    received = _Signal()

    def ask(number: int, _frame: FrameType | None) -> None:
        if received.number:
            raise KeyboardInterrupt
        received.number = number
        if not quiet:
            click.echo("stopping after this step, with a checkpoint …", err=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
