from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ugatit_batch import models
from ugatit_batch.errors import EngineDamagedError, OutputError
from ugatit_engines.engine_files import (
    FoundEngine,
    describe,
    engines_folder,
    list_engines,
    of_direction,
    preference,
    remove_engines,
    write_engine,
)
from ugatit_engines.profiles import Profile, Span

from ..fakes import make_model
from .engine_support import PLAN, RANGE, SQUARE, place, record

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_model(tmp_path_factory.mktemp("models") / "ink")


def test_an_engine_comes_back_as_it_was(tmp_path: Path, bundle: Bundle) -> None:
    for profile in (SQUARE, RANGE):
        written = place(tmp_path, bundle, profile=profile)
        assert written.plan.read_bytes() == written.read() == PLAN
    found = list(list_engines(tmp_path))
    assert [f.record for f in found] == [record(bundle, profile=RANGE), record(bundle)]
    assert [f.plan.name for f in found] == [
        "a2b-tensorrt-rtx-fp16-16-64.plan",
        "a2b-tensorrt-rtx-fp16-32.plan",
    ]


def test_what_can_lie_side_by_side_has_different_names(bundle: Bundle) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"direction": "b2a"},
        {"flavor": "tensorrt", "capabilities": ("8.9",)},
        {"precision": "fp32"},
        {"profile": RANGE},
        {"capabilities": ("7.5",)},
    ]
    stems = {record(bundle, **change).stem for change in changes}
    assert len(stems) == len(changes)
    assert "a2b-tensorrt-rtx-sm75-fp16-32" in stems


def test_the_sidecar_says_what_the_engine_is(tmp_path: Path, bundle: Bundle) -> None:
    found = place(tmp_path, bundle)
    says = json.loads(found.plan.with_name(found.plan.name + ".json").read_text("utf-8"))
    assert says["format"] == 1
    assert says["profile"]["batch"] == {"least": 1, "best": 8, "most": 32}
    assert says["model_sha256"] == bundle.digest("a2b")
    assert says["generator"]["channels"] == bundle.generator.channels
    assert "127.5" in says["convention"]
    assert json.loads(json.dumps(found.to_json())) == {"path": str(found.plan), **says}
    line = describe(found)
    for word in ("1.7.1", "fp16", "1 to 32, best 8", "8.9", "built in 2.5 s"):
        assert word in line


@pytest.mark.parametrize("at", [0, 5, len(PLAN) - 1])
def test_a_plan_that_was_cut_off_is_named(tmp_path: Path, bundle: Bundle, at: int) -> None:
    found = place(tmp_path, bundle)
    found.plan.write_bytes(PLAN[:at])
    with pytest.raises(EngineDamagedError, match=rf"\.plan: damaged engine: {at} bytes long, built were 39"):
        found.read()


def test_a_plan_that_changed_or_went_is_named(tmp_path: Path, bundle: Bundle) -> None:
    found = place(tmp_path, bundle)
    found.plan.write_bytes(PLAN[::-1])
    with pytest.raises(EngineDamagedError, match="checksum"):
        found.read()
    found.plan.unlink()
    with pytest.raises(EngineDamagedError, match="No such file"):
        found.read()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not one of this program's"),
        ("{}", "not one of this program's"),
        ({"format": 2}, "format 2, this program reads format 1"),
        ({"flavor": "openvino"}, "flavor is 'openvino'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"direction": "c2d"}, "direction is 'c2d'"),
        ({"plan_bytes": "39"}, "plan_bytes is '39'"),
        ({"plan_bytes": None}, "plan_bytes is None"),
        ({"seconds": None}, "seconds is None"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"version": None}, "version is None"),
        ({"model": ["ink"]}, "model is ['ink']"),
        ({"capabilities": "8.0"}, "capabilities is '8.0'"),
        ({"capabilities": [8.0]}, "capabilities is [8.0]"),
        ({"profile": {"batch": {"least": 1.0, "best": 1.0, "most": 2.0}}}, "batch is"),
        ({"profile": 3}, "AttributeError"),
        ({"inputs": [3]}, "TypeError"),
        ({"profile": {"batch": {"least": 4, "best": 1, "most": 2}}}, "not in order"),
        ({"generator": {"channels": 0}}, "channels"),
        ({"plan_sha256": ...}, "plan_sha256"),
        ({"wings": 2}, "wings"),
    ],
)
def test_a_damaged_sidecar_is_listed_with_what_is_wrong(
    tmp_path: Path, bundle: Bundle, change: str | dict[str, Any], says: str
) -> None:
    found = place(tmp_path, bundle)
    sidecar = found.plan.with_name(found.plan.name + ".json")
    if isinstance(change, str):
        sidecar.write_text(change, "utf-8")
    else:
        data = {k: v for k, v in (json.loads(sidecar.read_text("utf-8")) | change).items() if v is not ...}
        sidecar.write_text(json.dumps(data), "utf-8")
    (listed,) = list_engines(tmp_path)
    assert listed.record is None
    assert says in str(listed.error)
    assert str(listed.error) in (describe(listed), listed.to_json()["error"])
    with pytest.raises(EngineDamagedError):
        listed.read()
    assert of_direction(listed, "a2b")
    assert not of_direction(listed, "b2a")


def test_a_plan_without_a_sidecar_is_no_engine(tmp_path: Path, bundle: Bundle) -> None:
    found = place(tmp_path, bundle)
    found.plan.with_name(found.plan.name + ".json").unlink()
    assert list(list_engines(tmp_path)) == []
    assert list(list_engines(tmp_path / "nothing here")) == []


def test_a_build_that_cannot_be_kept_leaves_the_older_engine(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = place(tmp_path, bundle)
    older.cache.write_bytes(b"kernels")

    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OutputError, match="Input/output error"):
            place(tmp_path, bundle, seconds=9.0)
    assert [f.record for f in list_engines(tmp_path)] == [older.record]
    assert older.read() == PLAN
    assert older.cache.read_bytes() == b"kernels"
    place(tmp_path, bundle, seconds=9.0)
    assert not older.cache.exists(), "compiled kernels of another plan"


def test_engines_of_a_model_that_came_along_lie_in_the_users_folder(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engines_folder(bundle, tmp_path) == bundle.path / "engines"
    monkeypatch.setattr(models, "bundled_models_dir", lambda: bundle.path.parent)
    assert engines_folder(bundle, tmp_path) == tmp_path / "ink/engines"


def test_removing_leaves_nothing_of_ours_and_everything_else(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "ink/engines"
    found = place(folder, bundle)
    found.cache.write_bytes(b"kernels")
    place(folder, bundle, precision="fp32").plan.with_name("a2b-tensorrt-fp16-8-64.plan").write_bytes(b"")
    (folder / "timing-10.14.1-8.9.cache").write_bytes(b"")
    (folder / ".a2b-tensorrt-rtx-fp16-32.partial.plan").write_bytes(b"")
    (folder / ".a2b-tensorrt-rtx-fp16-32.plan.partial.json").write_bytes(b"")
    others = ["a2b-floor.plan.pdf", "b2a my.planning.docx", "notes.txt", "timing-notes.txt"]
    for name in others:
        (folder / name).write_text("mine", "utf-8")
    assert remove_engines(folder) == 3
    assert sorted(p.name for p in folder.iterdir()) == others
    for name in others:
        (folder / name).unlink()
    place(folder, bundle)
    assert remove_engines(folder) == 1
    assert not folder.parent.exists(), "an empty folder is no model"
    assert remove_engines(folder) == 0
    folder.mkdir(parents=True)
    (folder / ".a2b-tensorrt-rtx-fp16-32.partial.plan").write_bytes(b"a gigabyte")
    assert remove_engines(folder) == 1
    assert not folder.exists()
    place(bundle.path / "engines", bundle)
    assert remove_engines(bundle.path / "engines") == 1
    assert (bundle.path / "bundle.json").is_file()


def test_two_builds_of_the_same_engine_do_not_mix(tmp_path: Path, bundle: Bundle) -> None:
    def build(number: int) -> None:
        for _ in range(20):
            plan = bytes([number]) * (1000 + number)
            digest = hashlib.sha256(plan).hexdigest()
            write_engine(tmp_path, record(bundle, plan_bytes=len(plan), plan_sha256=digest), plan)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(4)))
    (found,) = list_engines(tmp_path)
    assert found.read()[:1] in {bytes([number]) for number in range(4)}


def test_of_two_ranges_the_narrower_is_preferred(tmp_path: Path, bundle: Bundle) -> None:
    ranges = [Profile(Span.one(1), Span(8, 64, most), Span(8, 64, most)) for most in (2048, 512, 1024)]
    found = [FoundEngine(tmp_path / "x.plan", record(bundle, profile=profile)) for profile in ranges]
    preferred = sorted(found, key=preference)
    assert [f.record.profile.height.most for f in preferred if f.record] == [512, 1024, 2048]


def test_half_precision_and_one_size_are_preferred(tmp_path: Path, bundle: Bundle) -> None:
    changes: list[dict[str, Any]] = [
        {"precision": "fp32", "profile": RANGE},
        {"precision": "fp32"},
        {"profile": RANGE},
        {},
    ]
    found = [FoundEngine(tmp_path / "x.plan", record(bundle, **change)) for change in changes]
    damaged = FoundEngine(tmp_path / "x.plan", None)
    assert sorted([damaged, *found], key=preference) == [*reversed(found), damaged]
