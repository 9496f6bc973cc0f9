"""The prediction against what PyTorch's allocator gave out on a GPU."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_training.acceleration import float32_products, make_step
from ugatit_training.config import TrainConfig, paper_load_size
from ugatit_training.draw import Draw
from ugatit_training.memory import gib, need
from ugatit_training.state import new_state

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize(
    "changes",
    [{}, {"checkpoint_activations": True}, {"precision": "bf16"}, {"fused_adam": False}],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_five_steps_take_what_is_predicted(
    side: int, changes: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    config = TrainConfig(light=True, image_size=side, load_size=paper_load_size(side), **changes)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(GPU)
    torch.cuda.reset_peak_memory_stats(GPU)
    state = new_state(config, GPU)
    pictures = torch.rand(2, 1, 3, side, side, device=GPU) * 2 - 1
    draw = Draw(*(x.contiguous(memory_format=torch.channels_last) for x in pictures))
    with float32_products(config):
        take_step = make_step(state, config)
        losses = [take_step(draw) for _ in range(5)]
    assert torch.stack(losses).isfinite().all()
    taken = torch.cuda.max_memory_allocated(GPU) - before
    predicted = need(config, "cuda").total
    record_property("predicted", predicted)
    record_property("taken", taken)
    sys.stdout.write(f"\n{gib(predicted)} predicted, {gib(taken)} taken: {taken / predicted - 1:+.1%}\n")
    # Workspaces of cuDNN and cuBLAS come from the same allocator, and are not predicted.
    assert 0.9 * predicted <= taken <= 1.25 * predicted
