from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.atomic import partial_path
from ugatit_batch.errors import ConfigError, DatasetError, TrainingDivergedError
from ugatit_training import loop
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.data import find_domains
from ugatit_training.loop import train
from ugatit_training.run_folder import read_metrics
from ugatit_training.step import LOSS_NAMES

from .tiny import CPU, assert_identical, domain_folders, newest, run_to, tiny, with_workers

if TYPE_CHECKING:
    from torch import Tensor

    from ugatit_training.config import TrainConfig
    from ugatit_training.data import Domains
    from ugatit_training.distributed import World
    from ugatit_training.draw import Draw
    from ugatit_training.state import TrainingState


def measured(run: Path) -> list[dict[str, float]]:
    """What metrics.jsonl says, but for how fast it went."""
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(run)]


def steps_saved(run: Path) -> list[int]:
    return [c.step for c in list_checkpoints(run / "checkpoints")]


# Resuming

CONFIG = tiny(learning_rate=1e-3)
EXTRAS: dict[str, Any] = {
    "replay_pool": 2,
    "diff_augment": ("color", "translation", "cutout"),
    "ema": 0.9,
}
"""With a pool that is full, and swaps, before and after half of the steps."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of CONFIG."""
    place = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_to(CONFIG, find_domains(*domain_folders(place / "data")), place / "run")
    torch.set_num_threads(threads)
    return place / "run"


def test_a_stopped_run_goes_on_as_if_undisturbed(domains: Domains, whole: Path, tmp_path: Path) -> None:
    first = run_to(CONFIG, domains, tmp_path, stop_after=5)
    assert [report.step for report in first] == [1, 2, 3, 4, 5]
    assert first[-1].checkpoint == tmp_path / "checkpoints/step-00000005.pt"
    torch.manual_seed(99)
    torch.rand(3)
    second = run_to(CONFIG, domains, tmp_path)
    assert [report.step for report in second] == [6, 7, 8, 9, 10, 11, 12]
    assert_identical(newest(whole), newest(tmp_path))
    assert measured(whole) == measured(tmp_path)
    assert [line["cycle_a"] for line in measured(whole)] == [r.losses["cycle_a"] for r in (*first, *second)]


@with_workers
@pytest.mark.parametrize(
    "config",
    [
        tiny(steps=4, learning_rate=1e-3, precision="bf16"),
        tiny(steps=4, learning_rate=1e-3, light=False, batch_size=2, crop_scale=(0.5, 1.0), workers=1),
        tiny(steps=5, learning_rate=1e-3, **EXTRAS),
        tiny(steps=4, learning_rate=1e-3, **EXTRAS, accumulate=2, channels_last=False),
        tiny(steps=4, learning_rate=1e-3, join_passes=False, share_fakes=False, fused_adam=False),
        tiny(steps=4, learning_rate=1e-3, checkpoint_activations=True, norm="adain", cam="discriminator"),
    ],
    ids=["bf16", "full, batches, worker", "extras", "extras, two parts", "the plain way", "ablated"],
)
def test_so_does_one_with_other_settings(domains: Domains, tmp_path: Path, config: TrainConfig) -> None:
    run_to(config, domains, tmp_path / "whole")
    run_to(config, domains, tmp_path / "parts", stop_after=config.steps // 2)
    torch.manual_seed(99)
    run_to(config, domains, tmp_path / "parts")
    assert_identical(newest(tmp_path / "whole"), newest(tmp_path / "parts"))
    assert measured(tmp_path / "whole") == measured(tmp_path / "parts")


def test_another_seed_would_be_seen(domains: Domains, whole: Path, tmp_path: Path) -> None:
    run_to(tiny(learning_rate=1e-3, seed=1), domains, tmp_path, stop_after=1)
    assert measured(whole)[0] != measured(tmp_path)[0]


def abandon(config: TrainConfig, domains: Domains, run: Path, after: int) -> None:
    """Leave a run as SIGKILL does: nothing is written after that step."""
    steps = train(config, domains, run, CPU)
    for _ in range(after):
        next(steps)


def test_a_killed_run_goes_on_from_its_newest_checkpoint(
    domains: Domains, whole: Path, tmp_path: Path
) -> None:
    abandon(CONFIG, domains, tmp_path, after=6)
    assert steps_saved(tmp_path) == [4]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    half_written = partial_path(tmp_path / "checkpoints/step-00000008.pt")
    half_written.write_bytes(b"PK\3\4 and no more")
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 7, "cyc')
    resumed = run_to(CONFIG, domains, tmp_path)
    assert [report.step for report in resumed] == [5, 6, 7, 8, 9, 10, 11, 12]
    assert not half_written.exists()
    assert_identical(newest(whole), newest(tmp_path))
    assert measured(whole) == measured(tmp_path)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    domains: Domains, whole: Path, tmp_path: Path
) -> None:
    abandon(CONFIG, domains, tmp_path, after=2)
    run_to(CONFIG, domains, tmp_path, stop_after=3)
    assert measured(tmp_path) == measured(whole)[:3]


def test_reporting_sampling_and_saving_change_no_weight(domains: Domains, tmp_path: Path) -> None:
    busy = tiny(sample_every=1, checkpoint_every=1)
    quiet = tiny(report_every=100, sample_every=100, checkpoint_every=100)
    run_to(busy, domains, tmp_path / "busy", stop_after=3)
    run_to(quiet, domains, tmp_path / "quiet", stop_after=3)
    assert_identical(newest(tmp_path / "busy"), newest(tmp_path / "quiet"))


# The loop around the step, with steps that cost nothing


class Steps:
    """Stands for `make_step`: losses are the step's own number, or `loss` from step `at` on."""

    def __init__(self, at: int = 1_000_000, loss: float | None = None, weight: float | None = None) -> None:
        self.taken = 0
        self.rates: list[set[float]] = []
        self.tf32: list[tuple[bool, bool]] = []
        self._at, self._loss, self._weight = at, loss, weight

    def __call__(self, state: TrainingState, _config: TrainConfig, _world: World) -> Callable[[Draw], Tensor]:
        def step(_draw: Draw) -> Tensor:
            self.taken += 1
            optimizers = state.optimizers
            groups = [*optimizers.generators.param_groups, *optimizers.discriminators.param_groups]
            self.rates.append({group["lr"] for group in groups})
            self.tf32.append(tf32_flags())
            losses = torch.full((len(LOSS_NAMES),), float(self.taken))
            if self.taken >= self._at and self._loss is not None:
                losses[LOSS_NAMES.index("cycle_b")] = self._loss
            if self.taken >= self._at and self._weight is not None:
                with torch.no_grad():
                    state.networks.b2a.out.weight[0, 0, 0, 0] = self._weight
            return losses

        return step


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Steps]:
    def install(*arguments: Any) -> Steps:
        steps = Steps(*arguments)
        monkeypatch.setattr(loop, "make_step", steps)
        return steps

    return install


Pretend = Callable[..., Steps]


def test_reports_samples_and_checkpoints_come_when_they_are_due(
    domains: Domains, tmp_path: Path, pretend: Pretend
) -> None:
    pretend()
    config = tiny(steps=11, report_every=4, sample_every=5, checkpoint_every=3, keep_checkpoints=2)
    reports = run_to(config, domains, tmp_path)
    assert [r.step for r in reports] == [3, 4, 5, 6, 8, 9, 10, 11]
    assert [r.step for r in reports if r.sample] == [5, 10, 11]
    assert [r.step for r in reports if r.checkpoint] == [3, 6, 9, 11]
    assert steps_saved(tmp_path) == [9, 11]
    assert {r.steps for r in reports} == {11}
    for report in reports:
        assert tuple(report.losses) == LOSS_NAMES
        assert report.steps_per_second > 0
        assert report.sample is None or report.sample.is_file()
    means = [2.0, 4.0, 5.0, 6.0, 7.5, 9.0, 10.0, 11.0]
    assert [r.losses["identity_a"] for r in reports] == means
    assert [line["step"] for line in read_metrics(tmp_path)] == [r.step for r in reports]
    assert [line["identity_a"] for line in read_metrics(tmp_path)] == means


def test_the_learning_rate_reaches_the_optimizers(domains: Domains, tmp_path: Path, pretend: Pretend) -> None:
    steps = pretend()
    reports = run_to(tiny(steps=4, learning_rate=1.0), domains, tmp_path)
    assert steps.rates == [{1.0}, {1.0}, {0.5}, {0.0}]
    assert [r.learning_rate for r in reports] == [1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_tf32_is_as_the_config_says_during_the_run_alone(
    domains: Domains, tmp_path: Path, pretend: Pretend, tf32: bool, before: bool
) -> None:
    kept = tf32_flags()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = before
        steps = pretend()
        run_to(tiny(steps=2, tf32=tf32), domains, tmp_path)
        assert steps.tf32 == [(tf32, tf32)] * 2
        assert tf32_flags() == (before, before)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def test_what_a_device_cannot_do_is_refused_before_anything_is_written(
    domains: Domains, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cuda_graphs = true: cpu is no NVIDIA GPU"):
        run_to(tiny(cuda_graphs=True), domains, tmp_path)
    assert list(tmp_path.glob("*/*.pt")) == []


def test_more_steps_go_on_with_the_new_learning_rates(
    domains: Domains, tmp_path: Path, pretend: Pretend
) -> None:
    steps = pretend()
    run_to(tiny(steps=3, learning_rate=1.0), domains, tmp_path)
    run_to(tiny(steps=8, learning_rate=1.0), domains, tmp_path)
    assert steps.rates[3:] == [{1.0}, {0.75}, {0.5}, {0.25}, {0.0}]


def test_a_finished_run_yields_nothing_and_stays(domains: Domains, tmp_path: Path, pretend: Pretend) -> None:
    steps = pretend()
    config = tiny(steps=3)
    run_to(config, domains, tmp_path)
    before = newest(tmp_path), measured(tmp_path)
    assert run_to(config, domains, tmp_path) == []
    assert steps.taken == 3
    assert_identical(newest(tmp_path), before[0])
    assert measured(tmp_path) == before[1]


@pytest.mark.parametrize("content", [b"", b"nothing", "half"])
def test_a_damaged_newest_checkpoint_names_the_way_out(
    domains: Domains, tmp_path: Path, content: bytes | str, pretend: Pretend
) -> None:
    pretend()
    config = tiny(checkpoint_every=3)
    run_to(config, domains, tmp_path, stop_after=7)
    bad = tmp_path / "checkpoints/step-00000007.pt"
    bad.write_bytes(content if isinstance(content, bytes) else bad.read_bytes()[: bad.stat().st_size // 2])
    with pytest.raises(DatasetError) as caught:
        run_to(config, domains, tmp_path)
    assert caught.value.message.startswith(f"{bad}: damaged checkpoint")
    assert "move that file away" in caught.value.hint
    assert steps_saved(tmp_path) == [3, 6, 7]
    bad.unlink()
    assert run_to(config, domains, tmp_path)[0].step == 7


def test_a_checkpoint_of_other_networks_is_refused(
    domains: Domains, tmp_path: Path, pretend: Pretend
) -> None:
    pretend()
    run_to(tiny(steps=2), domains, tmp_path)
    with pytest.raises(DatasetError, match=r"step-00000002\.pt"):
        run_to(tiny(steps=4, channels=8), domains, tmp_path)


# Divergence


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run(
    domains: Domains, tmp_path: Path, pretend: Pretend, value: float
) -> None:
    pretend(6, value)
    with pytest.raises(TrainingDivergedError) as caught:
        run_to(tiny(report_every=3, checkpoint_every=4), domains, tmp_path)
    good = tmp_path / "checkpoints/step-00000004.pt"
    assert caught.value.message == (
        f"step 6: cycle_b is no longer a finite number; the last good checkpoint is {good}"
    )
    assert "learning_rate" in caught.value.hint
    assert steps_saved(tmp_path) == [4]
    assert [line["step"] for line in read_metrics(tmp_path)] == [3, 4]


def test_one_bad_step_between_two_reports_is_seen(domains: Domains, tmp_path: Path, pretend: Pretend) -> None:
    pretend(2, math.nan)
    with pytest.raises(TrainingDivergedError, match=r"step 10: cycle_b .* there is no checkpoint yet"):
        run_to(tiny(report_every=10, checkpoint_every=100), domains, tmp_path)


def test_a_weight_that_is_no_number_is_never_saved(
    domains: Domains, tmp_path: Path, pretend: Pretend
) -> None:
    pretend(8, None, math.nan)
    with pytest.raises(TrainingDivergedError, match=r"step 8: a weight is .*step-00000004\.pt"):
        run_to(tiny(report_every=100), domains, tmp_path)
    assert steps_saved(tmp_path) == [4]


def test_an_absurd_learning_rate_diverges(domains: Domains, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="no longer a finite number"):
        run_to(tiny(learning_rate=1e30, checkpoint_every=1), domains, tmp_path)
    for checkpoint in list_checkpoints(tmp_path / "checkpoints"):
        state = torch.load(checkpoint.path, weights_only=True)["networks"]
        assert all(tensor.isfinite().all() for tensor in state.values())


# Evaluating


class Evaluations:
    """Stands for `evaluate`: remembers when it was called, and fails at one step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps: list[int] = []
        self._fails_at = fails_at

    def __call__(self, _state: TrainingState, step: int) -> tuple[Path, dict[str, float]]:
        self.steps.append(step)
        if step == self._fails_at:
            raise DatasetError("bad.png: no picture", "take it out")
        return Path("evaluations"), {"kid_a2b": float(step)}


def evaluated(config: TrainConfig, domains: Domains, run: Path, evaluate: Evaluations, stop: int = 0) -> None:
    taken = 0

    def should_stop() -> bool:
        nonlocal taken
        taken += 1
        return taken == stop

    list(train(config, domains, run, CPU, should_stop, evaluate=evaluate))


def test_a_run_is_evaluated_when_it_is_due_and_at_its_end(
    domains: Domains, tmp_path: Path, pretend: Pretend
) -> None:
    pretend()
    evaluations = Evaluations()
    config = tiny(steps=7, evaluate_every=3, report_every=100)
    evaluated(config, domains, tmp_path, evaluations)
    assert evaluations.steps == [3, 6, 7]
    scores = [line for line in read_metrics(tmp_path) if "kid_a2b" in line]
    assert scores == [{"step": step, "kid_a2b": step} for step in (3, 6, 7)]


def test_a_failed_evaluation_loses_no_step(domains: Domains, tmp_path: Path, pretend: Pretend) -> None:
    pretend()
    config = tiny(steps=6, evaluate_every=2, checkpoint_every=2)
    with pytest.raises(DatasetError):
        evaluated(config, domains, tmp_path, Evaluations(fails_at=4))
    assert steps_saved(tmp_path) == [2, 4]
    evaluations = Evaluations()
    evaluated(config, domains, tmp_path, evaluations)
    assert evaluations.steps == [6]


def test_whoever_stops_a_run_does_not_wait_for_an_evaluation(
    domains: Domains, tmp_path: Path, pretend: Pretend
) -> None:
    pretend()
    evaluations = Evaluations()
    evaluated(tiny(steps=6, evaluate_every=2), domains, tmp_path, evaluations, stop=2)
    assert evaluations.steps == []
    assert steps_saved(tmp_path) == [2]
