from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys
import urllib.error
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ugatit_batch.errors import DatasetError, EnvironmentLacksError, MemoryLacksError
from ugatit_training.features import INCEPTION, FeatureNetwork, open_features

from .tiny import CPU

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URL_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Averages(nn.Module):
    """Mean colours through one layer: a feature network of any picture size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.float().mean((2, 3)) / 255)
        return y


class Flat(Averages):
    """Features that are no rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean((1, 2, 3))


def pictures(count: int = 3, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def export(network: nn.Module, path: Path, *, free: bool = True) -> Path:
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto},) if free else None
    torch.export.save(torch.export.export(network, (pictures(),), dynamic_shapes=shapes), path)
    return path


def script(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(path)  # type: ignore[no-untyped-call]
    return path


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of torch-fidelity's Inception, in a file as the library's own."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    folder = tmp_path_factory.mktemp("hub") / "hub/checkpoints"
    folder.mkdir(parents=True)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        for name in ("kaiming_uniform_", "uniform_"):  # which would take seconds, one by one
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        network = library.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=nothing)
    state = network.state_dict()
    torch.manual_seed(3)
    for name, value in state.items():
        if name.endswith("weight") and value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    torch.save(state, folder / URL_FILE)
    return folder / URL_FILE


# Programs by path


@pytest.mark.parametrize("save", [export, script])
def test_a_program_gives_its_features_for_any_number_and_size(
    tmp_path: Path, save: Callable[[nn.Module, Path], Path]
) -> None:
    network = Averages().eval()
    opened = open_features(save(network, tmp_path / "net.bin"), CPU)
    assert opened.name == str(tmp_path / "net.bin")
    assert len(opened.sha256) == 64
    for batch in (pictures(3), pictures(1), pictures(7, 44)):
        found = opened.extract(batch)
        assert found.shape == (len(batch), 5)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, network(batch).detach(), rtol=1e-5)


@pytest.mark.parametrize("save", [export, script])
def test_nothing_is_drawn_from_the_global_generator(
    tmp_path: Path, save: Callable[[nn.Module, Path], Path]
) -> None:
    path = save(Averages().eval(), tmp_path / "net.bin")
    state = torch.get_rng_state()
    open_features(path, CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_program_of_a_fixed_batch_is_told_what_to_do(tmp_path: Path) -> None:
    opened = open_features(export(Averages().eval(), tmp_path / "net.pt2", free=False), CPU)
    with pytest.raises(DatasetError, match=r"net\.pt2: does not take uint8 2×3×32×32") as caught:
        opened.extract(pictures(2))
    assert "free batch size" in caught.value.hint


@pytest.mark.parametrize("save", [export, script])
def test_what_gives_no_rows_is_refused(tmp_path: Path, save: Callable[[nn.Module, Path], Path]) -> None:
    opened = open_features(save(Flat().eval(), tmp_path / "net.pt2"), CPU)
    with pytest.raises(DatasetError, match=r"gives 3 for 3×3×32×32, not one row of features a picture"):
        opened.extract(pictures())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: x.float().mean((2, 3)) / 0, DatasetError, "not finite"),
        (lambda x: (x, x), DatasetError, "gives tuple for"),
        (lambda x: x[:1].float().mean((2, 3)), DatasetError, "gives 1×3 for 3×3×32×32"),
        (torch.linalg.inv, DatasetError, "does not take uint8"),
    ],
)
def test_a_network_that_misbehaves_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        FeatureNetwork("mine.pt2", "", CPU, call).extract(pictures())
    assert "mine.pt2" in str(caught.value)


def test_out_of_memory_says_what_helps() -> None:
    def full(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryLacksError, match="smaller --batch-size"):
        FeatureNetwork("mine.pt2", "", CPU, full).extract(pictures())


# Inception


def test_inception_by_path_is_the_librarys(inception: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = torch.get_rng_state()
    opened = open_features(inception, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    batch = pictures(2)
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=inception)(batch)[0]
    found = opened.extract(batch)
    assert found.shape == (2, 2048)
    assert found.std() > 0
    np.testing.assert_array_equal(found, theirs)


def test_without_a_path_it_is_the_file_in_torchs_cache(
    inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(inception.parents[2]))
    opened = open_features(None, CPU)
    assert opened.name == INCEPTION
    assert opened.sha256 == hashlib.sha256(inception.read_bytes()).hexdigest()


def test_without_a_network_it_says_how_to_get_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(EnvironmentLacksError) as caught:
        open_features(None, CPU)
    assert f"{URL_FILE}: cannot be had from https://" in caught.value.message
    assert "no route to host" in caught.value.message
    assert "--features FILE" in caught.value.hint
    assert str(tmp_path) in caught.value.hint
    assert capsys.readouterr().out == "", "stdout is for results"


def test_a_damaged_file_in_the_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints" / URL_FILE).write_bytes(b"<html>not found</html>")
    with pytest.raises(EnvironmentLacksError, match=URL_FILE) as caught:
        open_features(None, CPU)
    assert str(tmp_path) in caught.value.hint


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(EnvironmentLacksError, match=r"pip install 'ugatit-batch\[evaluate\]'"):
        open_features(None, CPU)


# Files that cannot be used


class _Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    writers: dict[str, Callable[[Any, Path], None]] = {
        "zip.pth": torch.save,
        "legacy.pth": _save_legacy,
        "plain.pkl": _pickle,
    }
    for name, write in writers.items():
        write({"Mixed_7c.branch1x1.conv.weight": _Trap(trace)}, tmp_path / name)
        with pytest.raises(EnvironmentLacksError, match="not weights of torch-fidelity's Inception"):
            open_features(tmp_path / name, CPU)
    assert not trace.exists()


def _save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def altered(path: Path, change: Callable[[str, bytes], bytes], more: str | None = None) -> Path:
    """A copy of a zip file with other content, and perhaps one more entry."""
    copy = path.with_name("altered.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
        if more is not None:
            target.writestr(source.namelist()[0].partition("/")[0] + more, b"\x7fELF")
    return copy


def test_exported_programs_with_pickles_or_compiled_code_are_refused(tmp_path: Path) -> None:
    path = export(Averages().eval(), tmp_path / "net.pt2")
    trace = tmp_path / "executed"
    trap = io.BytesIO()
    torch.save(_Trap(trace), trap)

    def as_pickle(name: str, content: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return content
        config = json.loads(content)
        config["config"]["layer.weight"]["use_pickle"] = True
        return json.dumps(config).encode()

    def in_samples(name: str, content: bytes) -> bytes:
        return trap.getvalue() if "sample_inputs" in name else content

    cases: list[tuple[Callable[[str, bytes], bytes], str | None]] = [
        (as_pickle, None),
        (in_samples, None),
        (lambda _, content: content, "/data/aotinductor/m/x.so"),
    ]
    for change, more in cases:
        with pytest.raises(EnvironmentLacksError, match=r"torch\.export file that cannot be used"):
            open_features(altered(path, change, more), CPU)
    assert not trace.exists()
    open_features(altered(path, lambda _, content: content), CPU)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not weights"),
        (b"no network at all", "not weights"),
        (b"PK\x03\x04 cut short", "not weights"),
        ({"conv.weight": torch.zeros(3)}, "something else"),
        ([torch.zeros(3)], "something else"),
        ({"Mixed_7c.branch1x1.conv.weight": torch.zeros(3)}, "not weights"),
    ],
    ids=["empty", "text", "cut", "other weights", "a list", "too little"],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(EnvironmentLacksError, match=words) as caught:
        open_features(path, CPU)
    assert str(path) in caught.value.message
    assert "torch.export.save" in caught.value.hint


def test_a_path_to_nothing_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pt2", tmp_path):
        with pytest.raises(EnvironmentLacksError, match="cannot be read"):
            open_features(path, CPU)


@pytest.mark.parametrize(("save", "inner"), [(export, "models/model.json"), (script, "/data.pkl")])
def test_cut_programs_are_named(tmp_path: Path, save: Callable[[nn.Module, Path], Path], inner: str) -> None:
    path = save(Averages().eval(), tmp_path / "net.bin")
    copy = altered(path, lambda name, content: content[:20] if name.endswith(inner) else content)
    assert copy.stat().st_size < path.stat().st_size
    with pytest.raises(EnvironmentLacksError, match=r"altered\.pt2: a (TorchScript|torch.export) file"):
        open_features(copy, CPU)
