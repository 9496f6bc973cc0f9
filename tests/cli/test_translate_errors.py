from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ugatit_batch.bundle import MANIFEST
from ugatit_batch.journal import Journal
from ugatit_engines.torch_engine import TorchTranslator

from ..fakes import make_model, paint, tree
from ..training.published_reference import small_states

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..conftest import Outcome

    Program = Callable[..., Outcome]

FULL_DEVICE = Path("/dev/full")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(3):
        paint(tmp_path / "p" / f"{number}.png", seed=number)
    return tmp_path / "p"


def said(outcome: Outcome) -> str:
    """What people read; never a traceback."""
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith(("ugatit-batch: ", "Usage: "))
    return outcome.err


def test_an_input_that_is_missing_ends_with_2(program: Program, photos: Path, tmp_path: Path) -> None:
    outcome = program("translate", photos, tmp_path / "missing", "-m", "ink")
    assert outcome.code == 2
    assert f"{tmp_path / 'missing'}: no such file or folder" in said(outcome)
    assert not (tmp_path / "p_ink").exists()


def test_nothing_to_do_ends_with_3(program: Program, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("no picture")
    outcome = program("translate", tmp_path / "p", "-m", "ink")
    assert outcome.code == 3
    assert "no picture and no film in it" in said(outcome)
    assert "1 other files were left alone" in said(outcome)


def test_a_single_file_that_is_no_picture_ends_with_1(program: Program, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    outcome = program("translate", tmp_path / "a.jpg", "-m", "ink")
    assert outcome.code == 1
    assert f"{tmp_path / 'a.jpg'}: is not a picture" in outcome.err
    assert list(tmp_path.iterdir()) == [tmp_path / "a.jpg"]


def test_an_unknown_model_ends_with_4_and_the_names_there_are(program: Program, photos: Path) -> None:
    outcome = program("translate", photos, "-m", "inc")
    assert outcome.code == 4
    text = said(outcome)
    assert "--model inc: no such model" in text
    assert "did you mean ink?" in text
    assert all(name in text for name in ("ink", "own", "whole", "oneway"))


def flip_in_weights(folder: Path) -> None:
    (path,) = folder.glob("a2b-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def cut_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-40])


def change_manifest(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / MANIFEST).read_text("utf-8"))
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(value, dict) else value
    (folder / MANIFEST).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_in_weights, "its checksum is not the one"),
        (cut_manifest, "bundle.json: damaged model"),
        (lambda folder: change_manifest(folder, format=99), "a model of format 99"),
        (lambda folder: change_manifest(folder, generator={"channels": 8}), "do not fit bundle.json"),
        (lambda folder: change_manifest(folder, name="../evil"), "cannot be a model's name"),
    ],
    ids=["flipped byte", "cut manifest", "newer format", "other shapes", "odd name"],
)
def test_a_damaged_model_ends_with_4_and_is_named(
    program: Program, photos: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    make_model(tmp_path / "models" / "ink")
    damage(tmp_path / "models" / "ink")
    outcome = program("translate", photos, "-m", "ink", "--models-dir", tmp_path / "models")
    assert outcome.code == 4
    assert words in said(outcome)
    assert str(tmp_path / "models" / "ink") in outcome.err
    assert not (tmp_path / "p_ink").exists()


class Trap:
    """Makes a folder when somebody careless unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_named_and_not_executed(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "trap.pt"
    torch.save(small_states() | {"more": Trap(tmp_path / "sprung")}, file)
    outcome = program("translate", photos, "-m", file)
    assert outcome.code == 4
    assert str(file) in said(outcome)
    assert "mkdir" in said(outcome)
    assert not (tmp_path / "sprung").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap must be one that works"


def test_a_file_that_is_no_checkpoint_is_named(program: Program, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_bytes(b"junk " * 50)
    outcome = program("translate", photos, "-m", tmp_path / "junk.pth")
    assert outcome.code == 4
    assert "junk.pth" in said(outcome)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "whole", "--size", "64"], "takes 32×32 pixels only"),
        (["-m", "whole", "--size", "native"], "takes 32×32 pixels only"),
        (["-m", "ink", "--size", "250"], "must divide by 4"),
        (["-m", "ink", "--size", "large"], "neither model, native nor a number"),
        (["-m", "ink", "--size", "0"], "neither model, native nor a number"),
        (["-m", "ink", "--batch-size", "0"], "neither auto nor a number above 0"),
        (["-m", "ink", "--quality", "101"], "101"),
        (["-m", "ink", "--device", "tpu"], "--device tpu: no such device"),
        (["-m", "ink", "--fit", "round"], "round"),
        (["-m", "ink", "--name", "{number}"], "{number} means nothing"),
        (["-m", "ink", "--name", "../{stem}{ext}"], "outside of the output folder"),
        (["-m", "oneway", "--reverse"], "only translates photo → ink"),
        (["--reverse"], "--model"),
        (["-m", "ink", "--continue"], "--continue"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_as_asked_ends_with_2(
    program: Program, photos: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    outcome = program("translate", photos, *options)
    assert outcome.code == 2
    assert words in said(outcome)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_gpu_that_is_not_there_ends_with_4(
    program: Program, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = program("translate", photos, "-m", "ink", "-d", "cuda")
    assert outcome.code == 4
    assert "use --device cpu" in said(outcome)


def test_two_inputs_with_one_output_end_with_2_before_any_work(program: Program, tmp_path: Path) -> None:
    paint(tmp_path / "p" / "a.png")
    paint(tmp_path / "p" / "a.bmp")
    outcome = program("translate", tmp_path / "p", "-m", "ink")
    assert outcome.code == 2
    assert "would both become" in said(outcome)
    assert not (tmp_path / "p_ink").exists()


def test_a_second_run_on_the_same_folder_ends_with_4(program: Program, photos: Path, tmp_path: Path) -> None:
    with Journal(tmp_path / "out"):
        outcome = program("translate", photos, "-m", "ink", "-o", tmp_path / "out")
    assert outcome.code == 4
    assert f"{tmp_path / 'out'}: another run writes to this folder" in outcome.err
    assert "Traceback" not in outcome.err
    assert tree(tmp_path / "out") == {}
    assert program("translate", photos, "-m", "ink", "-o", tmp_path / "out").code == 0


def test_an_output_folder_that_is_a_file_is_named(program: Program, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    outcome = program("translate", photos, "-m", "ink", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert f"{tmp_path / 'out'}: cannot be written" in outcome.err
    assert (tmp_path / "out").read_text() == "in the way"


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
def test_a_report_that_finds_no_room_ends_with_5(program: Program, photos: Path) -> None:
    outcome = program("translate", photos, "-m", "ink", "--report", FULL_DEVICE)
    assert outcome.code == 5
    assert "/dev/full: the disk is full" in outcome.err
    assert "Traceback" not in outcome.err
    assert program("translate", photos, "-m", "ink").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_goes_on_later(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    for index in range(60):
        paint(tmp_path / "p" / f"{index:02}.png", seed=index)
    command = ("translate", tmp_path / "p", "-m", "ink", "-o", tmp_path / "out")
    forward = TorchTranslator._forward
    calls = 0

    def interrupt(translator: TorchTranslator, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), number)
            time.sleep(0.2)
        return forward(translator, *arguments)

    monkeypatch.setattr(TorchTranslator, "_forward", interrupt)
    # Tests that run in a shell's background have been started with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcome = program(*command)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.code == 130
    assert "interrupted; the same command goes on from here" in outcome.err
    assert "Traceback" not in outcome.err
    assert calls < 60
    done = tree(tmp_path / "out")
    assert not [name for name in done if "partial" in name]
    again = program(*command, "--json")
    assert again.code == 0
    assert len(tree(tmp_path / "out")) == 60
    assert sum(line["status"] == "skipped" for line in again.lines()) == len(done)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_reach_programs_and_people(program: Program, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    paint(tmp_path / "p" / "a.png").rename(tmp_path / "p" / name)
    report = tmp_path / "report.jsonl"
    command = ("translate", tmp_path / "p", "-m", "ink", "-o", tmp_path / "out")
    assert program(*command, "--dry-run").code == 0
    (line,) = program(*command, "--json", "--report", report).lines()
    assert line["input"] == str(tmp_path / "p" / name)
    assert Path(line["output"]).is_file()
    assert json.loads(report.read_text()) == line
    # What Python itself does with the real one.
    assert isinstance(sys.stderr, io.TextIOWrapper)
    sys.stderr.reconfigure(errors="backslashreplace")
    assert program(*command, "-v").code == 0


def test_a_run_that_is_refused_leaves_the_report_of_the_first(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    report.write_text("what the first run said\n")
    with Journal(tmp_path / "out"):
        refused = program("translate", photos, "-m", "ink", "-o", tmp_path / "out", "--report", report)
    assert refused.code == 4
    assert report.read_text() == "what the first run said\n"
