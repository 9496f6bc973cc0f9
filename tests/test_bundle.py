from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ugatit_batch.bundle import (
    MANIFEST,
    Bundle,
    GeneratorConfig,
    WorkingSize,
    check_name,
    load_bundle,
    remove_bundle,
    save_bundle,
)
from ugatit_batch.errors import BundleError, OutputError, UsageError
from ugatit_batch.models import list_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.bundle import Direction, Weights

Change = dict[str, Any]


def weights(value: float) -> Weights:
    return {"one": np.full((2, 3), value, np.float32), "two": np.full(4, value, np.float16)}


def make(folder: Path, value: float = 1.0, directions: tuple[Direction, ...] = ("a2b", "b2a")) -> Bundle:
    bundle = Bundle(
        "ink",
        ("photo", "ink"),
        GeneratorConfig(channels=8),
        WorkingSize("native", 512),
        {},
        training={"steps": 10},
        sources=("drawn",),
        licence="CC0-1.0",
    )
    return save_bundle(bundle, dict.fromkeys(directions, weights(value)), folder)


def test_a_saved_model_is_read_back_as_it_was(tmp_path: Path) -> None:
    saved = make(tmp_path / "ink")
    loaded = load_bundle(tmp_path / "ink")
    assert loaded == saved
    for direction in loaded.directions:
        read = loaded.weights(direction)
        assert {name: (str(array.dtype), array.shape) for name, array in read.items()} == {
            "one": ("float32", (2, 3)),
            "two": ("float16", (4,)),
        }
        assert (read["one"] == 1).all()
    assert loaded.describe_directions() == "photo → ink, ink → photo"


def test_the_digest_stands_for_shape_and_weights(tmp_path: Path) -> None:
    first, same, other = make(tmp_path / "1"), make(tmp_path / "2"), make(tmp_path / "3", 2.0)
    assert first.digest("a2b") == same.digest("a2b") != other.digest("a2b")


def test_a_replaced_model_keeps_its_engines_and_loses_its_old_weights(tmp_path: Path) -> None:
    old = make(tmp_path / "ink")
    engine = tmp_path / "ink" / "engines" / "a2b.plan"
    engine.parent.mkdir()
    engine.write_bytes(b"engine")
    new = make(tmp_path / "ink", 2.0, ("a2b",))
    assert engine.exists()
    assert not (old.path / old.directions["a2b"].file).exists()
    assert (load_bundle(tmp_path / "ink").weights("a2b")["one"] == 2).all()
    assert new.describe_directions() == "photo → ink"


def test_a_replacement_that_does_not_get_to_its_end_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(tmp_path / "ink")
    replace = Path.replace

    def refuse(path: Path, target: Path) -> None:
        if target.name == MANIFEST:
            raise OSError(5, "Input/output error")
        replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError):
        make(tmp_path / "ink", 2.0)
    assert load_bundle(tmp_path / "ink") == old
    assert (old.weights("a2b")["one"] == 1).all()


def test_a_direction_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only translates photo → ink"):
        make(tmp_path / "ink", directions=("a2b",)).weights("b2a")


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "checksum"),
        (lambda content: content[:-1], "checksum"),
        (lambda _: b"", "checksum"),
        (None, "No such"),
    ],
)
def test_damaged_weights_are_named(
    tmp_path: Path, damage: Callable[[bytes], bytes] | None, words: str
) -> None:
    bundle = make(tmp_path / "ink")
    path = bundle.path / bundle.directions["b2a"].file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    bundle.weights("a2b")
    with pytest.raises(BundleError, match=words) as caught:
        bundle.weights("b2a")
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 4


def test_weights_that_are_no_safetensors_are_named(tmp_path: Path) -> None:
    import hashlib

    bundle = make(tmp_path / "ink", directions=("a2b",))
    path = bundle.path / bundle.directions["a2b"].file
    path.write_bytes(b"\xff" * 100)
    data = json.loads((bundle.path / MANIFEST).read_text("utf-8"))
    data["directions"]["a2b"]["sha256"] = hashlib.sha256(b"\xff" * 100).hexdigest()
    (bundle.path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(bundle.path).weights("a2b")


WRONG: dict[str, Change] = {
    "format": {"format": 2},
    "name": {"name": "../evil"},
    "empty name": {"name": ""},
    "domains": {"domains": ["one"]},
    "no direction": {"directions": {}},
    "odd directions": {"directions": "a2b"},
    "path": {"directions": {"a2b": {"file": "../a2b.safetensors", "sha256": ""}}},
    "no file": {"directions": {"a2b": {"file": 3, "sha256": ""}}},
    "generator": {"generator": {"channels": 0}},
    "unknown key": {"generator": {"depth": 3}},
    "side": {"working_size": {"mode": "square", "side": 250}},
    "mode": {"working_size": {"mode": "round", "side": 256}},
    "training": {"training": 3},
    "sources": {"sources": None},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_a_wrong_manifest_is_named_and_does_not_hide_other_models(tmp_path: Path, change: Change) -> None:
    make(tmp_path / "good")
    path = make(tmp_path / "bad").path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change))
    with pytest.raises(BundleError) as caught:
        load_bundle(tmp_path / "bad")
    assert str(tmp_path / "bad") in caught.value.message
    found = {model.path.name: model.error is None for model in list_models(tmp_path) if not model.bundled}
    assert found == {"bad": False, "good": True}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b'{"format": 1}']
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path / "ink").path / MANIFEST
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json: damaged model"):
        load_bundle(tmp_path / "ink")


def test_every_cut_of_a_manifest_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "ink").path / MANIFEST
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BundleError, match="damaged model"):
            load_bundle(tmp_path / "ink")


def test_a_folder_without_a_manifest_is_no_model_and_is_not_deleted(tmp_path: Path) -> None:
    bundle = make(tmp_path / "ink")
    (tmp_path / "ink" / MANIFEST).unlink()
    with pytest.raises(BundleError, match="not a model"):
        load_bundle(tmp_path / "ink")
    with pytest.raises(BundleError, match="not a model"):
        remove_bundle(bundle.path)
    assert (tmp_path / "ink").is_dir()
    assert [model for model in list_models(tmp_path) if not model.bundled] == []


@pytest.mark.parametrize("name", ["", ".", "..", "-x", ".x", "a/b", "a\\b", "a:b", " a", "a\n", "x" * 101])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        check_name(name)


@pytest.mark.parametrize("name", ["ink", "cat2dog", "Tusche 2", "水墨"])
def test_other_names_are_good(name: str) -> None:
    assert check_name(name) == name
