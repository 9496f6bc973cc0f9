"""What the server for editors adds to the network: a round trip of a raw layer, less the network's own time.

The server runs in a process of its own, warm, and is asked as a plug-in asks it. First with an engine that
costs nothing, then with a model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ugatit_batch.models import default_models_dir, list_models
from ugatit_engines.idle import IdleTranslator
from ugatit_plugins.discovery import Address
from ugatit_plugins.opening import EngineOpening
from ugatit_plugins.protocol import HOST, RAW
from ugatit_plugins.server import Server, serve
from ugatit_plugins.worker import Worker

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.frames import SizeRule, Translator
    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.models import FoundModel


class Round(NamedTuple):
    """One picture there and back, in milliseconds."""

    total: float
    network: float

    @property
    def overhead(self) -> float:
        """What is not the network."""
        return self.total - self.network


class IdleOpening:
    """Every model costs nothing."""

    device = "none"

    def models(self) -> list[FoundModel]:
        """See `Opening`."""
        return list(list_models(default_models_dir()))

    def open(self, bundle: Bundle, direction: Direction, sizing: Sizing) -> Translator:  # noqa: ARG002
        """See `Opening`."""
        return IdleTranslator()

    def rule(self, bundle: Bundle, translator: Translator) -> SizeRule:  # noqa: ARG002
        """See `Opening`."""
        return translator.size_rule


def serve_here(folder: Path, idle: bool, device: str) -> None:
    """Be the server, until it is asked to stop; say where it is in a line."""
    opening = IdleOpening() if idle else EngineOpening(device)

    def tell(server: Server) -> None:
        print(json.dumps([server.address.port, server.address.token]), flush=True)

    serve(folder, lambda: Server(Worker(opening)), tell)


def ask(address: Address, pixels: bytes, side: int, model: str, attention: bool) -> Round:
    """One round trip, on a connection of its own."""
    started = time.perf_counter()
    connection = HTTPConnection(HOST, address.port)
    headers = {
        "Authorization": f"Bearer {address.token}",
        "Content-Type": RAW,
        "X-Width": str(side),
        "X-Height": str(side),
    }
    connection.request("POST", f"/v1/translate?model={model}&attention={int(attention)}", pixels, headers)
    response = connection.getresponse()
    body = response.read()
    total = time.perf_counter() - started
    connection.close()
    if response.status != 200 or len(body) != side * side * (4 if attention else 3):
        raise RuntimeError(f"{response.status}: {body[:200]!r}")
    return Round(total * 1000, float(response.headers["X-Seconds"]) * 1000)


def measure(
    idle: bool, side: int, rounds: int, model: str = "ink", device: str = "cpu", attention: bool = False
) -> list[Round]:
    """Round trips to a server in another process, after one that loads the model."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder, "--device", device]
        with subprocess.Popen(
            command + (["--idle"] if idle else []), stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                port, token = json.loads(process.stdout.readline())
                address = Address(process.pid, port, token)
                ask(address, pixels, side, model, attention)
                return [ask(address, pixels, side, model, attention) for _ in range(rounds)]
            finally:
                process.terminate()


def describe(name: str, rounds: list[Round]) -> str:
    """A line of the table."""
    overheads = sorted(one.overhead for one in rounds)
    network = statistics.median(one.network for one in rounds)
    return (
        f"{name:<24} {network:>10.1f} {statistics.median(overheads):>10.1f} "
        f"{overheads[0]:>8.1f} {overheads[-1]:>8.1f}"
    )


def main() -> None:
    """Measure, and print a table in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024, help="of the layer, in pixels")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", default="ink")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--idle", action="store_true", help="the engine that costs nothing alone")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve_here(options.serve, options.idle, options.device)
        return
    print(f"{options.side}×{options.side} raw, {options.rounds} rounds, milliseconds")
    print(f"{'':<24} {'network':>10} {'overhead':>10} {'least':>8} {'most':>8}")
    for idle in (True,) if options.idle else (True, False):
        name = "no network" if idle else options.model
        for attention in (False, True):
            rounds = measure(idle, options.side, options.rounds, options.model, options.device, attention)
            print(describe(f"{name}{' with attention' if attention else ''}", rounds), flush=True)


if __name__ == "__main__":
    main()
