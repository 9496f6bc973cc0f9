from __future__ import annotations

import json
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch.bundle import WorkingSize

from .fakes import full, make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What one run of the program said."""

    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """What it said to programs."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: `ink` (a square of 32), `own` (any size), `whole` (full), `oneway` (no B → A)."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "ink")
    make_model(folder / "own", working=WorkingSize("native", 64))
    make_model(folder / "whole", full())
    make_model(folder / "oneway", directions=("a2b",))
    return folder


@pytest.fixture
def program(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run the program in this process, with the models of `models_dir` alone; no thread of it may stay."""
    from ugatit_batch import models
    from ugatit_batch.cli import main

    monkeypatch.setattr(models, "bundled_models_dir", lambda: tmp_path / "no models in the package")

    monkeypatch.setenv("UGATIT_BATCH_MODELS_DIR", str(models_dir))

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ugatit-batch", *map(str, arguments)])
        hook, handler = sys.excepthook, signal.getsignal(signal.SIGTERM)
        threads = set(threading.enumerate())
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as left:
                main()
        finally:
            sys.excepthook = hook
            signal.signal(signal.SIGTERM, handler)
        # tqdm, which exporting uses where it is installed, keeps a thread of its own once it was used.
        assert {t for t in threading.enumerate() if t.name != "tqdm_monitor"} <= threads
        said = capsys.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        return Outcome(code, said.out, said.err)

    return call
