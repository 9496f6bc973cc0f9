"""The training loop: draw, step, report, sample, save (section 4.2)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ugatit_batch.atomic import remove_partials
from ugatit_batch.errors import TrainingDivergedError
from ugatit_training.acceleration import check_device, current, float32_products, make_step, peak
from ugatit_training.checkpoint import list_checkpoints, resume, save_checkpoint
from ugatit_training.data import draws
from ugatit_training.distributed import ALONE
from ugatit_training.model import learning_rate
from ugatit_training.run_folder import append_metrics, append_scores, cut_metrics
from ugatit_training.samples import write_samples
from ugatit_training.state import new_state
from ugatit_training.step import LOSS_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import torch
    from torch import Tensor

    from ugatit_batch.bundle import Direction
    from ugatit_training.checkpoint import Checkpoint
    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.distributed import World
    from ugatit_training.state import TrainingState


@dataclass(frozen=True)
class Step:
    """What a run tells about itself every `report_every` steps and whenever it writes something."""

    step: int
    """Steps taken so far, of `steps`."""
    steps: int
    losses: Mapping[str, float]
    """Means since the last report, unweighted, by LOSS_NAMES; empty where no step was taken since."""
    learning_rate: float
    steps_per_second: float
    sample: Path | None = None
    """The sheet written at this step."""
    checkpoint: Path | None = None
    """The checkpoint written at this step."""
    evaluation: Path | None = None
    """The folder of this step's evaluation."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the evaluation found, by name, such as kid_a2b."""
    memory: int | None = None
    """The most that this program has had allocated on the GPU so far, in bytes."""


Evaluate = Callable[["TrainingState", int], tuple["Path", Mapping[str, float]]]


@dataclass
class _Meter:
    """Means of the losses between two reports, summed on the device so that no step waits for it."""

    sums: Tensor | None = None
    count: int = 0
    started: float = field(default_factory=time.perf_counter)

    def restart(self) -> None:
        """Count from now on: what came after the last step was no step."""
        self.started = time.perf_counter()

    def add(self, losses: Tensor) -> None:
        self.sums = losses if self.sums is None else self.sums + losses
        self.count += 1

    def take(self, world: World) -> tuple[dict[str, float], float]:
        """The means over all processes, and the steps a second, since the last call."""
        if self.sums is None:
            return {}, 0.0
        values = world.mean(self.sums / self.count).tolist()
        rate = self.count / (time.perf_counter() - self.started)
        self.sums, self.count = None, 0
        return dict(zip(LOSS_NAMES, values, strict=True)), rate


def train(
    config: TrainConfig,
    domains: Domains,
    run: Path,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
    initial: Mapping[Direction, Mapping[str, Tensor]] | None = None,
    world: World = ALONE,
    evaluate: Evaluate | None = None,
) -> Iterator[Step]:
    """Train, or go on where the run folder's newest checkpoint ends.

    Args:
        config: everything that decides the result.
        domains: the training pictures.
        run: folder of this run; `checkpoints/`, `samples/` and `metrics.jsonl` are written below it, by the
            main process alone.
        device: where this process's networks are.
        should_stop: asked after each step; True writes a checkpoint and ends.
        initial: weights that generators start from, where there is no checkpoint yet.
        world: the processes that train together; each of them calls this.
        evaluate: called every `evaluate_every` steps and at the end, in the main process; it must leave the
            state as it finds it. Gives the folder that it wrote to, and scores by name.

    Yields:
        A Step every `report_every` steps, at each sample sheet, each checkpoint, and at the end; nothing
        where the run is at its last step already.

    Raises:
        ConfigError: the processes do not have the same pictures or config, or the device cannot do what the
            config asks for.
        DatasetError: a picture or the newest checkpoint cannot be read.
        TrainingDivergedError: a loss or a weight is no longer finite; the checkpoints stay, and are finite.
        DiskFullError, OutputError: something could not be written; the older checkpoints stay.
    """
    check_device(config, device, world)
    world.check_equal("the config", config)
    world.check_equal("the list of pictures", [[p.name for p in paths] for paths in (domains.a, domains.b)])
    state = new_state(config, device, world, initial)
    if world.main:
        remove_partials(run)
    done = resume(run / "checkpoints", state, world)
    if world.main:
        cut_metrics(run, done)

    meter = _Meter()
    networks, optimizers = state.networks, state.optimizers
    with float32_products(config), current(device):
        take_step = make_step(state, config, world)
        for step, draw in enumerate(draws(domains, config, done, device, world), done + 1):
            # step
            optimizers.set_learning_rate(learning_rate(step, config))
            meter.add(take_step(draw))

            # report
            last = world.any(should_stop()) or step == config.steps
            sampling = last or step % config.sample_every == 0
            saving = last or step % config.checkpoint_every == 0
            every = config.evaluate_every
            due = every > 0 and (step == config.steps or step % every == 0)
            evaluating = due and not (last and step < config.steps)
            if not (sampling or saving or evaluating or step % config.report_every == 0):
                continue
            losses, rate = meter.take(world)
            report = Step(step, config.steps, losses, optimizers.learning_rate, rate, memory=peak(device))
            _check_finite(report, networks.parameters() if saving else (), run)

            if world.main:
                append_metrics(run, report)

            # sample
            if sampling and world.main:
                sheet = write_samples(state.best_generators, domains, config, run / "samples", step)
                report = dataclasses.replace(report, sample=sheet)

            # save
            if saving:
                saved = save_checkpoint(run / "checkpoints", step, state, config.keep_checkpoints, world)
                report = dataclasses.replace(report, checkpoint=saved.path if saved else None)

            # evaluate: after saving, since it takes long and may fail
            if evaluating and evaluate is not None and world.main:
                folder, scores = evaluate(state, step)
                append_scores(run, step, scores)
                report = dataclasses.replace(report, evaluation=folder, scores=scores)
            if evaluating:
                world.wait()
            yield report
            if last:
                return
            meter.restart()


def _check_finite(report: Step, weights: Iterable[Tensor], run: Path) -> None:
    bad = [name for name, value in report.losses.items() if not math.isfinite(value)]
    # The losses are those before the update: it can be the one that spoils the weights.
    if not all(bool(weight.isfinite().all()) for weight in weights):
        bad.append("a weight")
    if not bad:
        return
    saved: list[Checkpoint] = list_checkpoints(run / "checkpoints")
    where = f"the last good checkpoint is {saved[-1].path}" if saved else "there is no checkpoint yet"
    raise TrainingDivergedError(
        f"step {report.step}: {', '.join(bad)} is no longer a finite number; {where}",
        "under a new --name, try --precision fp32, or a lower learning_rate in the recipe",
    )
