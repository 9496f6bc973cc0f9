"""Trainings of several processes, each a fork of this one: PyTorch takes longer to import than they take.

`torchrun` gives its processes the same environment variables. Reads a JSON list of scenarios; prints the exit
codes of each and what its processes said.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what the first optimiser imports

from ugatit_training import loop
from ugatit_training.config import TrainConfig
from ugatit_training.data import find_domains
from ugatit_training.distributed import open_world
from ugatit_training.state import TrainingState, new_state


def train(settings: dict[str, Any]) -> None:
    """One process's part: trains, and keeps what it has after every step."""
    config = TrainConfig(**settings["config"])
    domains = find_domains(Path(settings["a"]), Path(settings["b"]))
    states: list[TrainingState] = []

    def remembered(*arguments: object) -> TrainingState:
        states.append(new_state(*arguments))  # type: ignore[arg-type]
        return states[-1]

    setattr(loop, "new_state", remembered)  # noqa: B010 - not one of its own names
    device = torch.device("cpu")
    with open_world(device) as world:
        if settings.get("other_config") and world.rank == 1:
            config = TrainConfig(**settings["config"] | {"seed": 77})
        taken = 0

        def should_stop() -> bool:
            # One process alone is told to stop: all of them have to, after the same step.
            nonlocal taken
            taken += 1
            return world.rank == 1 and taken == settings.get("stop_after", 0)

        run = Path(settings["place"], "run")
        for report in loop.train(config, domains, run, device, should_stop, None, world):
            (state,) = states
            kept = {
                "networks": state.networks.state_dict(),
                "generators": state.optimizers.generators.state_dict()["state"],
                "losses": dict(report.losses),
                "average": state.average is not None,
                "checkpoint": None if report.checkpoint is None else report.checkpoint.name,
                "pool": None if state.networks.replay is None else state.networks.replay.pictures,
            }
            torch.save(kept, Path(settings["place"], f"step{report.step}-rank{world.rank}.pt"))


def fork(settings: dict[str, Any], rank: int, port: int) -> int:
    """A process of a training; its number."""
    child = os.fork()
    if child:
        return child
    size = str(settings.get("processes", 2))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        train(settings)
        code = 0
    except BaseException as error:  # noqa: BLE001 - a fork must not go on where its parent does
        Path(settings["place"], f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    for settings in json.loads(sys.argv[1]):
        place = Path(settings["place"])
        place.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [fork(settings, rank, port) for rank in range(settings.get("processes", 2))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        errors = {path.stem: path.read_text() for path in place.glob("error*.txt")}
        print(json.dumps({"name": settings["name"], "codes": codes, "errors": errors}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
