"""A training step that is recorded once and replayed: one launch instead of thousands.

At batch 1 the processor is what a GPU waits for: a step is some 5,000 kernels, most of them shorter than
their launch.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from ugatit_training.draw import Draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

WARM_UP = 3
"""Steps taken as usual before the recording, in which libraries choose their kernels."""


class GraphedStep:
    """A step on a CUDA device, recorded after WARM_UP steps, which count as any others.

    Args:
        step: takes a Draw on a CUDA device, always of one shape, and gives a tensor. It must keep to what a
            graph can record: no number read back from the device, none put there but by the draw.
    """

    def __init__(self, step: Callable[[Draw], Tensor]) -> None:
        self._step = step
        self._taken = 0
        self._stream: torch.cuda.Stream | None = None
        self._recorded: tuple[torch.cuda.CUDAGraph, Draw, Tensor] | None = None

    def __call__(self, draw: Draw) -> Tensor:
        """Take one step; the tensor returned is the caller's to keep."""
        if self._taken < WARM_UP:
            self._taken += 1
            return self._warm_up(draw)
        if self._recorded is None:
            self._recorded = self._record(draw)
        graph, own, losses = self._recorded
        for name in (field.name for field in fields(Draw)):
            value: Tensor | None = getattr(draw, name)
            if value is not None:
                getattr(own, name).copy_(value, non_blocking=True)
        graph.replay()
        return losses.clone()

    def _warm_up(self, draw: Draw) -> Tensor:
        # What is first used on the default stream cannot be recorded.
        # One stream for all of them: memory is kept for each stream apart.
        stream = self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._step(draw)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _record(self, draw: Draw) -> tuple[torch.cuda.CUDAGraph, Draw, Tensor]:
        """Record the step without executing it: the graph, where it reads, and where its losses lie."""
        own = copy.deepcopy(draw)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # Other threads go on: the one that pins pictures allocates, which would spoil a global recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            losses = self._step(own)
        return graph, own, losses
