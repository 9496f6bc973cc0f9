from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ugatit_training.acceleration import make_step
from ugatit_training.replay_pool import FILL, PASS, SWAP, ReplayPool, decide
from ugatit_training.state import new_state

from .tiny import CPU, random_draw, tiny

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What is decided


def actions(size: int, steps: int, count: int, seed: tuple[int, ...] = (0,)) -> list[NDArray[np.int64]]:
    return [decide(size, seed, step * count, count) for step in range(steps)]


@pytest.mark.parametrize(("size", "count"), [(8, 1), (8, 4), (8, 3), (5, 5), (1, 1)])
def test_the_pool_fills_in_order_and_then_half_are_swapped(size: int, count: int) -> None:
    decided = np.concatenate(actions(size, 400, count))
    assert decided.shape == (400 * count, 2, 2)
    assert decided.dtype == np.int64
    for domain in range(2):
        slots, action = decided[:, domain].T
        assert slots[:size].tolist() == list(range(size))
        assert (action[:size] == FILL).all()
        assert set(action[size:].tolist()) == {PASS, SWAP}
        assert abs((action[size:] == SWAP).mean() - 0.5) < 4 * 0.5 / (len(action) - size) ** 0.5
        assert set(slots[size:].tolist()) == set(range(size))


@pytest.mark.parametrize(("size", "count"), [(8, 4), (8, 3), (5, 5), (7, 6)])
def test_no_slot_comes_twice_in_a_step(size: int, count: int) -> None:
    for decided in actions(size, 60, count):
        for domain in range(2):
            assert len(set(decided[:, domain, 0].tolist())) == count
            assert 0 <= decided[:, domain, 0].min() <= decided[:, domain, 0].max() < size


@pytest.mark.parametrize(("size", "count"), [(8, 3), (7, 6), (5, 4)])
def test_nothing_is_taken_out_of_a_slot_that_is_still_empty(size: int, count: int) -> None:
    full: tuple[set[int], set[int]] = set(), set()
    for decided in actions(size, 40, count):
        for domain, filled in enumerate(full):
            taken = {int(slot) for slot, action in decided[:, domain] if action == SWAP}
            assert taken <= filled
            filled |= {int(slot) for slot, action in decided[:, domain] if action != PASS}


def test_decisions_follow_from_seed_and_number_alone() -> None:
    def decided(*seed: int) -> bytes:
        return np.stack(actions(4, 30, 2, seed)).tobytes()

    before = torch.get_rng_state()
    first = decided(0, 2, 1, 0)
    assert decided(0, 2, 1, 0) == first
    # Another rank, another run.
    assert decided(0, 2, 1, 1) != first
    assert decided(1, 2, 1, 0) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_the_domains_are_decided_apart() -> None:
    decided = np.concatenate(actions(4, 100, 1))[4:]
    assert not np.array_equal(decided[:, 0], decided[:, 1])
    together = ((decided[:, 0, 1] == SWAP) & (decided[:, 1, 1] == SWAP)).mean()
    assert 0.1 < together < 0.4


# What is exchanged


def filled_pool(size: int) -> ReplayPool:
    pool = ReplayPool(tiny(replay_pool=size))
    pool.pictures.copy_(torch.arange(2.0 * size).view(2, size, 1, 1, 1).expand_as(pool.pictures) + 100)
    return pool


def fakes(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


def values(pictures: torch.Tensor) -> list[float]:
    assert (pictures == pictures[:, :1, :1, :1]).all()
    found: list[float] = pictures[:, 0, 0, 0].tolist()
    return found


@pytest.mark.parametrize("domain", [0, 1])
def test_pass_fill_and_swap(domain: int) -> None:
    pool = filled_pool(4)
    decisions = torch.tensor([[2, PASS], [0, FILL], [3, SWAP]])
    new = fakes(1, 2, 3)
    shown = pool.exchange(domain, new, decisions)
    old = [100.0 + 4 * domain + slot for slot in range(4)]
    assert values(shown) == [1, 2, old[3]]
    assert values(pool.pictures[domain]) == [2, old[1], old[2], 3]
    assert values(pool.pictures[1 - domain]) == [100.0 + 4 * (1 - domain) + slot for slot in range(4)]
    assert values(new) == [1, 2, 3]


def test_what_is_shown_has_the_fakes_type_and_no_graph() -> None:
    pool = filled_pool(2)
    new = fakes(1, 2).bfloat16().clone().requires_grad_()
    shown = pool.exchange(0, new, torch.tensor([[0, SWAP], [1, PASS]]))
    assert shown.dtype == torch.bfloat16
    assert not shown.requires_grad
    assert pool.pictures.dtype == torch.float32
    assert values(shown) == [100, 2]


def test_a_pool_of_one_gives_back_the_fake_before() -> None:
    pool = ReplayPool(tiny(replay_pool=1))
    shown = [pool.exchange(1, fakes(v), torch.tensor([[0, a]])) for v, a in ((5, FILL), (6, SWAP), (7, SWAP))]
    assert [values(x) for x in shown] == [[5], [5], [6]]


def test_an_exchange_that_passes_everything_shows_the_fakes_themselves() -> None:
    pool = filled_pool(3)
    before = pool.pictures.clone()
    assert values(pool.exchange(0, fakes(1, 2), torch.tensor([[0, PASS], [1, PASS]]))) == [1, 2]
    assert torch.equal(pool.pictures, before)


# In a step


def test_a_step_keeps_its_own_fakes_a_domain_each() -> None:
    config = tiny(replay_pool=4, batch_size=2)
    state = new_state(config, CPU)
    start = copy.deepcopy(state.networks)
    draw = random_draw(config)
    make_step(state, config)(draw)
    pool = state.networks.replay
    assert pool is not None
    with torch.no_grad():
        for domain, made in enumerate((start.b2a(draw.b).image, start.a2b(draw.a).image)):
            torch.testing.assert_close(pool.pictures[domain, :2], made)
            assert pool.pictures[domain, 2:].eq(0).all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_discriminators_see_what_the_pool_gives_and_generators_their_own_fakes(accumulate: int) -> None:
    config = tiny(replay_pool=2, batch_size=2 // accumulate, accumulate=accumulate)
    state = new_state(config, CPU)
    pool = state.networks.replay
    assert pool is not None
    pool.pictures.fill_(0.25)
    seen: list[torch.Tensor] = []
    state.networks.b.global_.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    swap = torch.tensor([[0, SWAP], [1, SWAP]])[:, None].expand(2, 2, 2)
    draw = random_draw(config)
    make_step(state, config)(dataclasses.replace(draw, replay=swap))
    count = config.batch_size
    assert len(seen) == 2 * accumulate
    for index, shown in enumerate(seen[:accumulate]):
        assert torch.equal(shown[:count], draw.b[index * count : (index + 1) * count])
        assert shown[count:].eq(0.25).all()
    for index, shown in enumerate(seen[accumulate:]):
        torch.testing.assert_close(shown.detach(), pool.pictures[1, index * count : (index + 1) * count])
