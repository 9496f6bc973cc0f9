"""The training loop: draw, step, report, sample, save (section 4.2)."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ugatit_batch.atomic import remove_partials
from ugatit_batch.errors import TrainingDivergedError
from ugatit_training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from ugatit_training.data import batches, to_network
from ugatit_training.model import UGATIT, Optimizers, learning_rate
from ugatit_training.run_folder import append_metrics, cut_metrics
from ugatit_training.samples import write_samples
from ugatit_training.step import LOSS_NAMES, train_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from ugatit_training.checkpoint import Checkpoint
    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains


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


@dataclass
class _Meter:
    """Means of the losses between two reports, summed on the device so that no step waits for it."""

    sums: Tensor | None = None
    count: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, losses: Tensor) -> None:
        self.sums = losses if self.sums is None else self.sums + losses
        self.count += 1

    def take(self) -> tuple[dict[str, float], float]:
        """The means and the steps a second since the last call."""
        if self.sums is None:
            return {}, 0.0
        values = (self.sums / self.count).tolist()
        rate = self.count / (time.perf_counter() - self.started)
        self.sums, self.count, self.started = None, 0, time.perf_counter()
        return dict(zip(LOSS_NAMES, values, strict=True)), rate


def train(
    config: TrainConfig,
    domains: Domains,
    run: Path,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Train, or go on where the run folder's newest checkpoint ends.

    Args:
        config: everything that decides the result.
        domains: the training pictures.
        run: folder of this run; `checkpoints/`, `samples/` and `metrics.jsonl` are written below it.
        device: where the networks are.
        should_stop: asked after each step; True writes a checkpoint and ends.

    Yields:
        A Step every `report_every` steps, at each sample sheet, each checkpoint, and at the end; nothing
        where the run is at its last step already.

    Raises:
        DatasetError: a picture or the newest checkpoint cannot be read.
        TrainingDivergedError: a loss or a weight is no longer finite; the checkpoints stay, and are finite.
        DiskFullError, OutputError: something could not be written; the older checkpoints stay.
    """
    torch.manual_seed(config.seed)
    networks = UGATIT(config).to(device).train()
    if device.type == "cuda" or config.precision == "bf16":
        networks = networks.to(memory_format=torch.channels_last)
    optimizers = Optimizers(networks, config)

    remove_partials(run)
    checkpoints = list_checkpoints(run / "checkpoints")
    done = load_checkpoint(checkpoints[-1], networks, optimizers) if checkpoints else 0
    cut_metrics(run, done)

    meter = _Meter()
    draws = batches(domains, config, done, pin=device.type == "cuda")
    for step in range(done + 1, config.steps + 1):
        # draw
        a, b = (to_network(pixels, device) for pixels in next(draws))

        # step
        optimizers.set_learning_rate(learning_rate(step, config))
        meter.add(train_step(networks, optimizers, a, b, config))

        # report
        last = step == config.steps or should_stop()
        sampling = last or step % config.sample_every == 0
        saving = last or step % config.checkpoint_every == 0
        if not (sampling or saving or step % config.report_every == 0):
            continue
        losses, rate = meter.take()
        report = Step(step, config.steps, losses, optimizers.learning_rate, rate)
        _check_finite(report, networks.parameters() if saving else (), run)
        append_metrics(run, report)

        # sample
        if sampling:
            sheet = write_samples(networks, domains, config, run / "samples", step)
            report = dataclasses.replace(report, sample=sheet)

        # save
        if saving:
            saved = save_checkpoint(run / "checkpoints", step, networks, optimizers, config.keep_checkpoints)
            report = dataclasses.replace(report, checkpoint=saved.path)
        yield report
        if last:
            return


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
