from __future__ import annotations

import dataclasses
import gc
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ugatit_batch.errors import MemoryLacksError
from ugatit_training import memory
from ugatit_training.acceleration import make_step
from ugatit_training.config import TrainConfig
from ugatit_training.draw import Draw
from ugatit_training.memory import CUDA_ALLOWANCE, GIB, _trace_step, check, gib, need, statement
from ugatit_training.model import UGATIT
from ugatit_training.state import new_state

from .tiny import CPU, tiny

if TYPE_CHECKING:
    from ugatit_training.memory import MemoryNeed

MODEST: dict[str, Any] = {"image_size": 64, "load_size": 72, "channels": 8, "discriminator_channels": 8}
GPU = torch.device("cuda", 0)


def modest(**changes: Any) -> TrainConfig:
    return tiny(**(MODEST | changes))


FRUGAL = modest(precision="bf16", checkpoint_activations=True)


def draw_for(config: TrainConfig) -> Draw:
    count, side = config.batch_size * config.accumulate, config.image_size
    a, b = torch.rand(2, count, 3, side, side)
    decisions = torch.stack([torch.arange(count), torch.ones(count, dtype=torch.int64)], 1)
    return Draw(
        a,
        b,
        augment=torch.rand(count, 6, 7) if config.diff_augment else None,
        replay=decisions[:, None].expand(count, 2, 2) if config.replay_pool else None,
    )


def allocated(config: TrainConfig) -> int:
    """The most bytes that PyTorch's own allocator had given out at once, over two steps on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        state = new_state(config, CPU)
        take_step, draw = make_step(state, config), draw_for(config)
        for _ in range(2):
            take_step(draw)
        del state, take_step, draw
        gc.collect()
    return max(itertools.accumulate(memory_events(profiler)))


def memory_events(profiler: profile) -> list[int]:
    """Bytes that were given out (positive) and back (negative), in order."""
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return [e.nbytes() for e in events]  # type: ignore[attr-defined]


# The truth


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "checkpoint_activations": True, "batch_size": 2},
        {"accumulate": 2, "diff_augment": ("color", "translation", "cutout"), "norm": "gn"},
        {"light": False, "join_passes": False, "share_fakes": False, "cam": "none"},
        {"ema": 0.9, "replay_pool": 20, "channels_last": False, "fused_adam": False},
    ],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_what_is_predicted_is_what_two_steps_take(changes: dict[str, Any]) -> None:
    config = modest(**changes)
    assert need(config, "cpu").total == pytest.approx(allocated(config), rel=0.05)


# What it is made of


def parts(wanted: MemoryNeed) -> tuple[int, int, int]:
    return wanted.weights, wanted.gradients, wanted.optimizer


def test_weights_and_moments_are_those_of_the_networks() -> None:
    wanted = need(modest())
    networks = UGATIT(modest())
    parameters = sum(p.nbytes for p in networks.parameters())
    assert wanted.weights == parameters + sum(b.nbytes for b in networks.buffers())
    assert wanted.optimizer == 2 * parameters
    assert 0 < wanted.gradients <= parameters
    assert wanted.total == sum(parts(wanted)) + wanted.activations


def test_the_average_and_the_pool_count_as_weights() -> None:
    more = need(modest(ema=0.9, replay_pool=3, channels_last=False)).weights - need(modest()).weights
    generators = sum(p.nbytes for g in UGATIT(modest()).generators() for p in g.parameters())
    assert more == generators + 2 * 3 * 3 * 64 * 64 * 4


def test_activations_grow_with_the_pictures_and_shrink_with_recomputation() -> None:
    plain, double = need(modest()), need(modest(batch_size=2))
    assert parts(double)[::2] == parts(plain)[::2]
    assert double.activations > 1.8 * plain.activations
    assert need(modest(checkpoint_activations=True)).activations < 0.95 * plain.activations


def test_on_a_gpu_adam_that_is_not_fused_works_on_all_parameters_at_once() -> None:
    wide = modest(fused_adam=False, light=False, channels=16, image_size=32, load_size=36)
    assert need(wide, "cuda").total > need(wide, "cpu").total


def test_the_papers_networks_allocate_nothing() -> None:
    _trace_step.cache_clear()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        wanted = need(TrainConfig())
    assert wanted.weights > 4 * 2 * 278_959_808
    assert sum(max(size, 0) for size in memory_events(profiler)) < 2**20


def test_the_targets_are_kept() -> None:
    assert need(TrainConfig(light=True)).total + CUDA_ALLOWANCE < 8e9
    assert need(TrainConfig()).total + CUDA_ALLOWANCE < 24e9


def test_random_numbers_stay_as_they_are() -> None:
    before = torch.get_rng_state()
    _trace_step.cache_clear()
    need(modest())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_recorded_and_a_compiled_step_are_predicted_as_plain_ones() -> None:
    assert need(modest(cuda_graphs=True, compile=True)) == need(modest())


# What is said


def test_the_statement_names_need_and_free_memory() -> None:
    wanted = need(modest(), "cpu")
    said = statement(modest(), CPU, 3 * GIB)
    assert said == f"memory: a step needs {wanted}; 3.0 GiB are free on cpu"
    assert str(wanted).startswith(f"{gib(wanted.total)} (weights {gib(wanted.weights)}, ")
    assert "about 1.0 GiB for CUDA itself" in statement(modest(), GPU, 3 * GIB)


def test_what_may_fit_is_let_go() -> None:
    wanted = need(FRUGAL, "cpu").total
    assert "MiB are free on cpu" in check(FRUGAL, CPU, wanted * 95 // 100)
    with pytest.raises(MemoryLacksError, match="MiB are free on cpu"):
        check(FRUGAL, CPU, wanted * 85 // 100)


def test_of_a_compiled_step_only_what_is_sure_counts() -> None:
    compiled = dataclasses.replace(FRUGAL, compile=True)
    sure = sum(parts(need(compiled, "cpu")))
    check(compiled, CPU, sure)
    with pytest.raises(MemoryLacksError):
        check(compiled, CPU, sure - 1)


def test_the_hint_names_only_what_fits() -> None:
    config = dataclasses.replace(FRUGAL, batch_size=4, light=False)
    with pytest.raises(MemoryLacksError) as refused:
        check(config, CPU, need(config, "cpu").total * 6 // 10)
    single = need(dataclasses.replace(config, batch_size=1, accumulate=4), "cpu").total
    assert f"--batch-size 1 --set accumulate=4 ({gib(single)})" in refused.value.hint
    assert "light" not in refused.value.hint


def test_where_nothing_fits_the_hint_says_how_much_would_be_needed() -> None:
    with pytest.raises(MemoryLacksError) as refused:
        check(FRUGAL, CPU, 2**20)
    least = need(dataclasses.replace(FRUGAL, image_size=32, load_size=36), "cpu").total
    assert refused.value.hint.endswith(f"even with --size 32 it needs {gib(least)}")


# Absurd sizes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 2, "diff_augment": ("color",), "replay_pool": 100, "precision": "bf16"},
        {"share_fakes": False, "checkpoint_activations": True},
    ],
    ids=lambda changes: ", ".join(changes) or "plain",
)
@pytest.mark.parametrize("parts", [3, 4, 7])
def test_parts_beyond_the_third_add_what_tracing_them_finds(changes: dict[str, Any], parts: int) -> None:
    config = modest(**changes, accumulate=parts)
    assert need(config, "cpu") == _trace_step(config, at_once=False)


@pytest.fixture
def parts_traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """`batch_size` and `accumulate` of what is traced from now on."""
    seen: list[tuple[int, int]] = []
    plain = memory._trace_step

    def watched(config: TrainConfig, *, at_once: bool) -> MemoryNeed:
        seen.append((config.batch_size, config.accumulate))
        assert config.accumulate <= 3
        return plain(config, at_once=at_once)

    monkeypatch.setattr(memory, "_trace_step", watched)
    return seen


def test_a_large_batch_is_refused_at_once(parts_traced: list[tuple[int, int]]) -> None:
    config = modest(batch_size=2000)
    with pytest.raises(MemoryLacksError, match="a training step needs") as refused:
        check(config, CPU, GIB)
    assert "--batch-size 1 --set accumulate=2000 (" in refused.value.hint
    assert (1, 3) in parts_traced


@pytest.mark.parametrize("changes", [{"batch_size": 10**9}, {"accumulate": 10**9}])
def test_an_absurd_batch_is_refused_without_looking_further(
    changes: dict[str, int], parts_traced: list[tuple[int, int]]
) -> None:
    with pytest.raises(MemoryLacksError, match="a training step needs") as refused:
        check(modest(**changes), CPU, 64 * GIB)
    assert len(parts_traced) == 1
    assert refused.value.hint.startswith("the pictures of a step alone take ")


@pytest.mark.parametrize(
    "changes",
    [
        *({"batch_size": 10**n} for n in (12, 13, 15, 18, 19, 30)),
        {"channels": 10**10},
        {"image_size": 2**40, "load_size": 2**40},
        {"replay_pool": 10**20},
    ],
    ids=str,
)
def test_what_cannot_be_counted_is_too_much(changes: dict[str, int]) -> None:
    config = dataclasses.replace(TrainConfig(light=True), **changes)  # type: ignore[arg-type]
    for look in (statement, check):
        with pytest.raises(MemoryLacksError, match="too large to be counted") as refused:
            look(config, CPU, 64 * GIB)
        assert refused.value.hint


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: TrainConfig, *, at_once: bool) -> MemoryNeed:
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(memory, "_trace_step", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        need(modest())
