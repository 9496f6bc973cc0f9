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
from ugatit_training.acceleration import make_step
from ugatit_training.checkpoint import Checkpoint, list_checkpoints, resume, save_checkpoint
from ugatit_training.distributed import World

from .tiny import assert_identical, flatten, random_draw, tiny, trained

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_training.state import TrainingState

EXTRAS: dict[str, Any] = {"replay_pool": 2, "diff_augment": ("color",), "ema": 0.5}


def build(seed: int = 0, steps: int = 1, **changes: Any) -> TrainingState:
    return trained(tiny(learning_rate=1e-3, seed=seed, **changes), steps)


def everything(state: TrainingState) -> dict[str, Any]:
    average, pool = state.average, state.networks.replay
    return {
        "networks": state.networks.state_dict(),
        "generators": state.optimizers.generators.state_dict(),
        "discriminators": state.optimizers.discriminators.state_dict(),
        "average": None if average is None else average.state_dict(),
        "pool": None if pool is None else pool.pictures,
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_checkpoints_stay(tmp_path: Path, keep: int) -> None:
    state = build(steps=0)
    for step in (1, 9, 10, 100):
        saved = save_checkpoint(tmp_path, step, state, keep)
        assert saved == Checkpoint(tmp_path / f"step-{step:08d}.pt", step)
    expected = [1, 9, 10, 100][-keep:]
    assert [c.step for c in list_checkpoints(tmp_path)] == expected
    assert names(tmp_path) == [f"step-{step:08d}.pt" for step in expected]


@pytest.mark.parametrize("changes", [{}, EXTRAS, {"cam": "none", "norm": "gn", "light": False}])
def test_everything_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = build(steps=3, **changes)
    save_checkpoint(tmp_path, 3, first, keep=1)
    second = build(seed=5, steps=0, **changes)
    drawn = torch.get_rng_state()
    assert resume(tmp_path, second) == 3
    # Steps draw nothing, so there is nothing to bring back.
    assert torch.equal(torch.get_rng_state(), drawn)
    assert everything(first)["generators"]["state"]
    assert_identical(everything(first), everything(second))


def test_without_a_checkpoint_nothing_changes(tmp_path: Path) -> None:
    state, before = build(), build()
    assert resume(tmp_path, state) == 0
    assert resume(tmp_path / "nowhere", state) == 0
    assert_identical(everything(state), everything(before))


def test_of_several_the_newest_comes_back(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, build(steps=step), keep=5)
    state = build(seed=5, steps=0)
    assert resume(tmp_path, state) == 2
    assert_identical(everything(state), everything(build(steps=2)))


def test_only_tensors_and_plain_values_are_in_the_file(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 1, build(**EXTRAS), keep=1)
    assert saved is not None
    content = torch.load(saved.path, weights_only=True)
    assert content.keys() == {"step", "networks", "generators", "discriminators", "ema", "replay"}
    leaves = {type(leaf) for leaf in flatten(content).values()}
    assert leaves <= {torch.Tensor, int, float, bool, str, type(None)}
    with zipfile.ZipFile(saved.path) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
        opcodes = list(pickletools.genops(archive.read(name)))
    found = {str(argument) for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert not [opcode.name for opcode, _, _ in opcodes if opcode.name == "STACK_GLOBAL"]
    assert found == {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}


def test_how_a_step_is_computed_may_change_in_between(tmp_path: Path) -> None:
    first = build(steps=2, fused_adam=True, channels_last=True)
    save_checkpoint(tmp_path, 2, first, keep=1)
    second = build(steps=0, seed=5, fused_adam=False, channels_last=False, weight_decay=0.5)
    assert resume(tmp_path, second) == 2
    for name in ("generators", "discriminators"):
        before, after = everything(first)[name], everything(second)[name]
        assert_identical(before["state"], after["state"])
        assert [group["fused"] for group in before["param_groups"]] == [True, True]
        assert [group["fused"] for group in after["param_groups"]] == [None, None]
        assert [group["weight_decay"] for group in after["param_groups"]] == [0.5, 0]
    assert_identical(everything(first)["networks"], everything(second)["networks"])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_may_change_in_between(tmp_path: Path, fused: bool, channels_last: bool) -> None:
    # Fused Adam goes through memory: moments in the other format would belong to other weights.
    options: dict[str, Any] = {"fused_adam": fused, "channels_last": channels_last}
    undisturbed = build(steps=4, **options)
    save_checkpoint(tmp_path, 4, undisturbed, keep=1)
    before = {name: t.clone() for name, t in undisturbed.networks.state_dict().items()}
    other = options | {"channels_last": not channels_last}
    resumed = build(steps=0, **other)
    resume(tmp_path, resumed)
    draw = random_draw(tiny(), 4)
    make_step(undisturbed, tiny(**options))(draw)
    make_step(resumed, tiny(**other))(draw)
    for name, wanted in undisturbed.networks.state_dict().items():
        found = resumed.networks.state_dict()[name]
        moved = (wanted - before[name]).norm()
        assert (found - wanted).norm() <= 1e-3 * moved + 1e-7, name


# Replay pools, one a process


def test_replay_pools_of_another_number_of_processes_are_refused(tmp_path: Path) -> None:
    state = build(**EXTRAS)
    saved = save_checkpoint(tmp_path, 1, state, keep=1)
    assert saved is not None
    content = torch.load(saved.path, weights_only=True)
    (pool,) = content["replay"]
    torch.save(content | {"replay": [pool, pool]}, saved.path)
    with pytest.raises(DatasetError, match="the replay pools of 2 processes, not 1") as caught:
        resume(tmp_path, state)
    assert "2 processes" in caught.value.hint


def test_without_replay_pools_the_number_of_processes_may_change(tmp_path: Path) -> None:
    first = build(steps=1)
    save_checkpoint(tmp_path, 1, first, keep=1)
    second = build(seed=5, steps=0)
    assert resume(tmp_path, second, World(0, 1)) == 1
    assert_identical(everything(first), everything(second))


@pytest.mark.parametrize("pool", [torch.zeros(2, 3, 3, 32, 32), torch.zeros(3), "text"])
def test_a_pool_of_another_size_is_refused(tmp_path: Path, pool: object) -> None:
    state = build(steps=0, **EXTRAS)
    saved = save_checkpoint(tmp_path, 1, state, keep=1)
    assert saved is not None
    torch.save(torch.load(saved.path, weights_only=True) | {"replay": [pool]}, saved.path)
    with pytest.raises(DatasetError):
        resume(tmp_path, state)


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    assert save_checkpoint(tmp_path, 1, build(steps=0), 1, World(1, 2)) is None
    assert names(tmp_path) == []


# Damage


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
    state = build(steps=0)
    save_checkpoint(tmp_path, 1, state, keep=1)

    def write_a_little(_state: object, path: Path) -> None:
        path.write_bytes(b"PK")
        raise raised

    monkeypatch.setattr(torch, "save", write_a_little)
    with pytest.raises(expected):
        save_checkpoint(tmp_path, 2, state, keep=1)
    assert names(tmp_path) == ["step-00000001.pt"]
    assert resume(tmp_path, state) == 1


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
        resume(tmp_path, build(steps=0))
    assert "move that file away" in caught.value.hint


def test_no_code_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save(_Malicious(), path)
    with pytest.raises(DatasetError, match="damaged checkpoint"):
        resume(tmp_path, build(steps=0))
    path.write_bytes(pickle.dumps(_Malicious(), protocol=2))
    with pytest.raises(DatasetError, match="damaged checkpoint"):
        resume(tmp_path, build(steps=0))
    assert capsys.readouterr().out == ""


def test_damage_anywhere_is_seen_or_harmless(tmp_path: Path) -> None:
    state = build(**EXTRAS)
    saved = save_checkpoint(tmp_path, 1, state, keep=1)
    assert saved is not None
    good = saved.path.read_bytes()
    for place in range(0, len(good), len(good) // 40):
        damaged = bytearray(good)
        damaged[place : place + 8] = bytes(255 - byte for byte in damaged[place : place + 8])
        saved.path.write_bytes(damaged)
        with contextlib.suppress(DatasetError):
            resume(tmp_path, state)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"channels": 8}),
        ({}, {"discriminator_channels": 8}),
        ({}, {"norm": "in"}),
        ({"cam": "none"}, {}),
        ({"cam": "generator"}, {"cam": "discriminator"}),
        ({}, {"ema": 0.5}),
        ({}, {"replay_pool": 2}),
    ],
)
def test_checkpoints_of_other_networks_are_refused(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    save_checkpoint(tmp_path, 1, build(**before), keep=1)
    with pytest.raises(DatasetError):
        resume(tmp_path, build(steps=0, **after))
