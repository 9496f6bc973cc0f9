"""A server as `ugatit-batch serve` is one, whose network waits until it is told to go on.

    python -m tests.editors.slow_server MODELS STATE PLACE

It makes the file PLACE/begun for each picture, and goes on with it when there is a PLACE/go.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fakes import InvertingTranslator
from tests.plugins.serving import StandInOpening
from ugatit_plugins.protocol import Limits
from ugatit_plugins.server import Server, ServerOptions, serve
from ugatit_plugins.worker import Worker

if TYPE_CHECKING:
    from ugatit_batch.frames import Pixels


def main(models: Path, state: Path, place: Path) -> None:
    def wait(_: Pixels) -> None:
        (place / "begun").touch()
        while not (place / "go").exists():
            time.sleep(0.01)
        (place / "go").unlink()

    def make() -> Server:
        opening = StandInOpening(models, lambda: InvertingTranslator(before=wait))
        return Server(Worker(opening, Limits()), ServerOptions(), _say, _say)

    serve(state, make, lambda _: _say("ready"))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
