from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ugatit_training.data import Domains, find_domains

from .tiny import domain_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    # Threads that wait for one another take longer than the small sums here.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five pictures of A and seven of B."""
    return domain_folders(tmp_path / "data")


@pytest.fixture
def domains(folders: tuple[Path, Path]) -> Domains:
    return find_domains(*folders)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "selfie_params_latest.pt"
