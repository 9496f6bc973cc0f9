from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch.errors import DatasetError
from ugatit_training import data_checks
from ugatit_training.data import Domains, find_domains
from ugatit_training.data_checks import Checked, check_pictures, find_test_folders, find_tests

from ..fakes import paint

if TYPE_CHECKING:
    from pathlib import Path

NONE = Domains((), ())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures of A, three of B, two tests each; all of other contents, some of them of one size."""
    seed = 0
    for name, count in (("trainA", 4), ("trainB", 3), ("testA", 2), ("testB", 2)):
        for index in range(count):
            seed += 1
            paint(tmp_path / "data" / name / f"{index}.bmp", 16 + 8 * (seed % 2), 16, seed)
    return tmp_path / "data"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "run/pictures.json"


def check(data: Path, memory: Path, per_step: int = 1) -> list[Checked]:
    domains = find_domains(data / "trainA", data / "trainB")
    tests = find_tests(data / "trainA", data / "trainB")
    return list(check_pictures(domains, tests, per_step, memory))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What is decoded and what is hashed from now on, by folder and name."""
    seen: dict[str, list[str]] = {"open_rgb": [], "_digest": []}

    def watch(name: str) -> None:
        original = getattr(data_checks, name)

        def watched(path: Path) -> object:
            seen[name].append(f"{path.parent.name}/{path.name}")
            return original(path)

        monkeypatch.setattr(data_checks, name, watched)

    for name in seen:
        watch(name)
    return seen


def test_every_training_picture_is_decoded_once(data: Path, memory: Path, read: dict[str, list[str]]) -> None:
    found = check(data, memory)
    assert [checked.done for checked in found] == [*range(8), 7]
    assert {checked.total for checked in found} == {7}
    assert sorted(read["open_rgb"]) == [
        *(f"trainA/{i}.bmp" for i in range(4)),
        *(f"trainB/{i}.bmp" for i in range(3)),
    ]
    assert [checked.warnings for checked in found[:-1]] == [()] * 8


def test_nothing_is_repeated_until_something_changes(
    data: Path, memory: Path, read: dict[str, list[str]]
) -> None:
    first = check(data, memory)[-1].warnings
    written = memory.stat().st_mtime_ns
    for calls in read.values():
        calls.clear()
    assert [checked.done for checked in check(data, memory)] == [7, 7]
    assert check(data, memory)[-1].warnings == first
    assert read == {"open_rgb": [], "_digest": []}
    assert memory.stat().st_mtime_ns == written

    os.utime(data / "trainA/1.bmp", ns=(1, 1))
    paint(data / "trainB/2.bmp", 40, 40)
    paint(data / "trainB/new.bmp", 8, 8)
    check(data, memory)
    assert sorted(read["open_rgb"]) == ["trainA/1.bmp", "trainB/2.bmp", "trainB/new.bmp"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 0, "files": []}', '{"format": 1, "files": [[1]]}']
)
def test_a_damaged_memory_is_no_memory(
    data: Path, memory: Path, read: dict[str, list[str]], text: str
) -> None:
    memory.parent.mkdir()
    memory.write_text(text, "utf-8")
    check(data, memory)
    assert len(read["open_rgb"]) == 7


def test_all_unreadable_pictures_are_in_one_error(data: Path, memory: Path) -> None:
    for index in range(12):
        (data / "trainA" / f"bad{index:02}.png").write_bytes(b"nothing")
    cut = data / "trainB/0.bmp"
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(DatasetError) as caught:
        check(data, memory)
    message = caught.value.message.splitlines()
    assert message[0] == "13 of 19 training pictures cannot be read:"
    assert [line.split(":")[0] for line in message[1:11]] == [
        f"  {data / 'trainA' / f'bad{index:02}.png'}" for index in range(10)
    ]
    assert message[11:] == ["  and 3 more"]
    assert not memory.parent.exists()


def test_a_single_unreadable_picture_keeps_its_reason(data: Path, memory: Path) -> None:
    (data / "trainB/1.bmp").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"trainB/1\.bmp: the file is empty") as caught:
        check(data, memory)
    assert "take it out of the folder" in caught.value.hint


def test_test_pictures_are_not_decoded(data: Path, memory: Path) -> None:
    (data / "testA/0.bmp").write_bytes(b"nothing")
    assert check(data, memory)[-1].done == 7


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


def test_copies_are_named(data: Path, memory: Path) -> None:
    assert not any("=" in warning for warning in check(data, memory)[-1].warnings)
    a = copy(data / "trainA/0.bmp", data / "testA/copy.bmp")
    b = copy(data / "trainB/1.bmp", data / "testB/copy.bmp")
    both = copy(data / "trainA/2.bmp", data / "trainB/deep.bmp")
    copy(data / "trainA/3.bmp", data / "trainA/harmless.bmp")
    copy(data / "trainA/3.bmp", data / "testB/harmless.bmp")
    warnings = [warning for warning in check(data, memory)[-1].warnings if "=" in warning]
    assert [warning.split(":")[0] for warning in warnings] == [
        "1 picture is both for training and for the test of domain A; the test will flatter",
        "1 picture is both for training and for the test of domain B; the test will flatter",
        "1 picture is in both domains",
    ]
    for warning, one, other in zip(warnings, ("trainA/0", "trainB/1", "trainA/2"), (a, b, both), strict=True):
        assert warning.splitlines()[1:] == [f"  {data / one}.bmp = {other}"]


def test_many_copies_are_counted(data: Path, memory: Path) -> None:
    for index in range(14):
        paint(data / "trainA" / f"same{index}.png", seed=index)
        copy(data / "trainA" / f"same{index}.png", data / "testA" / f"other{index}.png")
    (warning,) = (w for w in check(data, memory)[-1].warnings if "=" in w)
    assert warning.startswith("14 pictures are both")
    assert len(warning.splitlines()) == 12
    assert warning.endswith("\n  and 4 more")


def test_only_sizes_that_occur_in_two_folders_are_hashed(
    tmp_path: Path, memory: Path, read: dict[str, list[str]]
) -> None:
    for name, sides in {
        "trainA": (8, 8, 12, 16),
        "trainB": (20, 24),
        "testA": (12, 28),
        "testB": (32,),
    }.items():
        for index, side in enumerate(sides):
            paint(tmp_path / name / f"{index}.bmp", side, side, index)
    check(tmp_path, memory)
    assert sorted(read["_digest"]) == ["testA/0.bmp", "trainA/2.bmp"]


def test_few_pictures_are_told(data: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (str(data / name) for name in ("trainA", "trainB"))
    assert [w.split(";")[0] for w in check(data, memory)[-1].warnings] == [
        f"{a}: only 4 pictures of domain A",
        f"{b}: only 3 pictures of domain B",
    ]
    more = check(data, memory, per_step=4)[-1].warnings
    assert more[1].startswith(f"{b}: 3 pictures of domain B are fewer than the 4 of a step")
    monkeypatch.setattr(data_checks, "FEW", 4)
    assert [w.split(";")[0] for w in check(data, memory)[-1].warnings] == [
        f"{b}: only 3 pictures of domain B"
    ]


def test_there_need_be_no_tests(data: Path, memory: Path) -> None:
    domains = find_domains(data / "trainA", data / "trainB")
    assert find_tests(data.parent / "trainA", data.parent / "trainB") == NONE
    assert len(list(check_pictures(domains, NONE, 1, memory))) == 9


def test_tests_are_those_beside_each_training_folder(data: Path, tmp_path: Path) -> None:
    a, b = data / "trainA", data / "trainB"
    assert find_test_folders(a, b) == (data / "testA", data / "testB")
    found = find_tests(a, b)
    assert found == find_domains(data / "testA", data / "testB")
    assert find_tests(b, a) == find_tests(a, data / "testB") == NONE
    (data / "testB").rename(tmp_path / "testB")
    assert find_test_folders(a, b) == (data / "testA", None)
    assert find_tests(a, b) == Domains(found.a, ())
    assert find_test_folders(a, tmp_path / "trainB") == (data / "testA", tmp_path / "testB")


def test_work_runs_only_a_little_ahead_of_the_reader() -> None:
    begun: list[int] = []

    class Here(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
            begun.append(*args)
            future: Future[Any] = Future()
            future.set_result(fn(*args))
            return future

    with Here() as pool:
        results = data_checks._in_order(pool, lambda n: n * n, range(50), workers=2)
        assert next(results) == (0, 0)
        assert begun == [0, 1, 2, 3]
        assert list(results) == [(n, n * n) for n in range(1, 50)]
    assert begun == list(range(50))


def test_nothing_goes_on_when_the_reader_leaves(data: Path, memory: Path, read: dict[str, list[str]]) -> None:
    for index in range(40):
        paint(data / "trainA" / f"more{index}.png", seed=index)
    before = set(threading.enumerate())
    domains = find_domains(data / "trainA", data / "trainB")
    checks = check_pictures(domains, NONE, 1, memory, workers=2)
    next(checks)
    next(checks)
    checks.close()
    assert len(read["open_rgb"]) <= 5
    assert set(threading.enumerate()) <= before
    assert not memory.exists()
