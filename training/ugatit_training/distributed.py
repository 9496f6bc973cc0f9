"""Several processes that train one model, as `torchrun` starts them; on one machine or on several.

Each has a GPU (or a share of the processor), its own pictures of every step, and a copy of everything else.
Gradients are averaged by DistributedDataParallel (players.py). What else has to be agreed on is agreed here,
over a group of its own on the processor, so that no GPU waits for it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import distributed

from ugatit_batch.errors import ConfigError, DeviceError, ProcessLostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

_T = TypeVar("_T")


@dataclass(frozen=True)
class World:
    """The processes of a training, seen from one of them; without a group it is the only one."""

    rank: int = 0
    size: int = 1
    group: distributed.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether some process says yes."""
        if self.group is None:
            return flag
        said = torch.tensor(int(flag))
        distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self.group)
        return bool(said)

    def wait(self) -> None:
        """Until all processes are here: a GPU's own exchange would give the others up after minutes."""
        self.any(flag=False)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, on the CPU."""
        if self.group is None:
            return value
        total = value.detach().cpu().clone()
        distributed.all_reduce(total, group=self.group)
        return total / self.size

    def share(self, value: _T | None) -> _T:
        """The main process's value."""
        if self.group is None:
            return cast("_T", value)
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.group)
        return cast("_T", box[0])

    def gather(self, value: _T) -> list[_T]:
        """Every process's value, by rank."""
        if self.group is None:
            return [value]
        box: list[Any] = [None] * self.size
        distributed.all_gather_object(box, value, group=self.group)
        return box

    def copy(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the main process's."""
        if self.group is not None:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def check_equal(self, what: str, value: object) -> None:
        """Make sure that all processes start from the same.

        Raises:
            ConfigError: they do not.
        """
        values = self.gather(value)
        other = next((rank for rank, found in enumerate(values) if found != values[0]), None)
        if other is not None:
            raise ConfigError(
                f"{what} of process {other} is not that of process 0",
                "every machine needs the same pictures, options and program",
            )


ALONE = World()
_PATIENCE = timedelta(hours=24)


def is_distributed() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def main_process() -> bool:
    """Whether this process is the one that writes and reports; known before `open_world`."""
    return not is_distributed() or os.environ.get("RANK") == "0"


def own_device(device: torch.device) -> torch.device:
    """This process's GPU of its machine, where `device` is a GPU.

    Raises:
        DeviceError: there are fewer GPUs than processes on this machine.
    """
    if device.type != "cuda" or not is_distributed():
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise DeviceError(
            f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}",
            "start torchrun with --nproc-per-node set to the number of GPUs",
        )
    return torch.device("cuda", local)


@contextlib.contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """Join the other processes that `torchrun` started, and leave them at the end.

    Args:
        device: this process's; decides between NCCL and gloo for what the networks exchange.
    """
    if not is_distributed():
        yield ALONE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    try:
        # While the others wait for the main process: it looks at the pictures, or evaluates.
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        yield World(distributed.get_rank(), distributed.get_world_size(), group)  # type: ignore[arg-type]
    except RuntimeError as error:
        # Neither gloo nor NCCL says more than that a connection is gone.
        if "gloo" in str(error) or isinstance(error, distributed.DistError):
            raise ProcessLostError(
                "another process of this training has ended", "see what it says; the same command goes on"
            ) from error
        raise
    finally:
        distributed.destroy_process_group()
