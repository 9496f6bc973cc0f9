from __future__ import annotations

import contextlib
import errno
import pickle
import pickletools
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.atomic import remove_partials
from ugatit_batch.errors import DatasetError, DiskFullError, OutputError
from ugatit_training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from ugatit_training.model import UGATIT, Optimizers
from ugatit_training.step import train_step

from .tiny import assert_identical, batch, tiny

if TYPE_CHECKING:
    from pathlib import Path


def build(seed: int = 0, steps: int = 1) -> tuple[UGATIT, Optimizers]:
    torch.manual_seed(seed)
    config = tiny(learning_rate=1e-3)
    networks = UGATIT(config)
    optimizers = Optimizers(networks, config)
    for _ in range(steps):
        train_step(networks, optimizers, *batch(), config)
    return networks, optimizers


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_checkpoints_stay(tmp_path: Path, keep: int) -> None:
    networks, optimizers = build(steps=0)
    for step in (1, 9, 10, 100):
        saved = save_checkpoint(tmp_path, step, networks, optimizers, keep)
        assert saved == Checkpoint(tmp_path / f"step-{step:08d}.pt", step)
    expected = [1, 9, 10, 100][-keep:]
    assert [c.step for c in list_checkpoints(tmp_path)] == expected
    assert names(tmp_path) == [f"step-{step:08d}.pt" for step in expected]


def test_everything_comes_back(tmp_path: Path) -> None:
    first = build(steps=2)
    saved = save_checkpoint(tmp_path, 2, *first, keep=1)
    drawn = torch.rand(4)
    second = build(seed=5, steps=0)
    assert load_checkpoint(saved, *second) == 2
    assert torch.equal(torch.rand(4), drawn)
    assert_identical(first[0].state_dict(), second[0].state_dict())
    for one, other in zip(vars(first[1]).values(), vars(second[1]).values(), strict=True):
        if isinstance(one, torch.optim.Adam):
            assert one.state_dict()["state"]
            assert_identical(one.state_dict(), other.state_dict())


def test_only_tensors_and_plain_values_are_in_the_file(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 1, *build(), keep=1)
    torch.load(saved.path, weights_only=True)
    with zipfile.ZipFile(saved.path) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
        opcodes = list(pickletools.genops(archive.read(name)))
    found = {str(argument) for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert not [opcode.name for opcode, _, _ in opcodes if opcode.name == "STACK_GLOBAL"]
    assert found == {
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch ByteStorage",
        "collections OrderedDict",
    }


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "no space"), DiskFullError),
        (OSError(errno.EACCES, "denied"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_leaves_the_older_ones(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    expected: type[BaseException],
) -> None:
    networks, optimizers = build(steps=0)
    save_checkpoint(tmp_path, 1, networks, optimizers, keep=1)

    def write_a_little(_state: object, path: Path) -> None:
        path.write_bytes(b"PK")
        raise raised

    monkeypatch.setattr(torch, "save", write_a_little)
    with pytest.raises(expected):
        save_checkpoint(tmp_path, 2, networks, optimizers, keep=1)
    assert names(tmp_path) == ["step-00000001.pt"]
    assert load_checkpoint(list_checkpoints(tmp_path)[-1], networks, optimizers) == 1


def test_only_whole_checkpoints_are_listed_and_partials_are_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".step-00000008.partial.pt", "step-8.pt", "step-00000009.pt.bak", "step-00000003.pt"):
        (folder / name).write_bytes(b"")
    assert [c.step for c in list_checkpoints(folder)] == [3]
    remove_partials(tmp_path)
    assert names(folder) == ["step-00000003.pt", "step-00000009.pt.bak", "step-8.pt"]
    assert list_checkpoints(tmp_path / "nowhere") == []


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content",
    [
        {"step": 1},
        {"step": 1, "networks": {}},
        [1, 2],
        7,
        None,
        "text",
        {"step": 1, "networks": None},
        {"step": 1, "networks": {"a2b.out.weight": "text"}},
    ],
)
def test_files_with_something_else_in_them(tmp_path: Path, content: object) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save(content, path)
    with pytest.raises(DatasetError, match=r"step-00000001\.pt: damaged checkpoint") as caught:
        load_checkpoint(Checkpoint(path, 1), *build(steps=0))
    assert "move that file away" in caught.value.hint


def test_no_code_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save(_Malicious(), path)
    with pytest.raises(DatasetError, match="damaged checkpoint"):
        load_checkpoint(Checkpoint(path, 1), *build(steps=0))
    path.write_bytes(pickle.dumps(_Malicious(), protocol=2))
    with pytest.raises(DatasetError, match="damaged checkpoint"):
        load_checkpoint(Checkpoint(path, 1), *build(steps=0))
    assert capsys.readouterr().out == ""


def test_damage_anywhere_is_seen_or_harmless(tmp_path: Path) -> None:
    networks, optimizers = build()
    saved = save_checkpoint(tmp_path, 1, networks, optimizers, keep=1)
    good = saved.path.read_bytes()
    for place in range(0, len(good), len(good) // 40):
        damaged = bytearray(good)
        damaged[place : place + 8] = bytes(255 - byte for byte in damaged[place : place + 8])
        saved.path.write_bytes(damaged)
        with contextlib.suppress(DatasetError):
            load_checkpoint(saved, networks, optimizers)
