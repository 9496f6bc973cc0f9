from __future__ import annotations

import io
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ugatit_batch.errors import DiskFullError, EnvironmentLacksError
from ugatit_training import tensorboard
from ugatit_training.loop import Step
from ugatit_training.tensorboard import EventLog, check_installed

from ..fakes import paint, pixels_of

if TYPE_CHECKING:
    from pathlib import Path


def report(step: int, **more: Any) -> Step:
    return Step(step, 100, {"cycle_a": step / 8, "cam_b": 2.5}, 1e-3 / step, 0.5 * step, **more)


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()


def test_scalars_and_sheets_are_read_back(tmp_path: Path) -> None:
    sheet = paint(tmp_path / "step-00000004-a2b.png", 40, 24, seed=1)
    paint(tmp_path / "step-00000004-b2a.png", 40, 24, seed=2)
    with EventLog(tmp_path / "tensorboard", 0) as log:
        log.add(report(2))
        log.add(report(4, sample=sheet))
    found = read(tmp_path / "tensorboard")
    assert sorted(found.Tags()["scalars"]) == [
        "learning_rate",
        "loss/cam_b",
        "loss/cycle_a",
        "steps_per_second",
    ]
    wanted = {"loss/cycle_a": (0.25, 0.5), "learning_rate": (5e-4, 2.5e-4), "steps_per_second": (1, 2)}
    for tag, values in wanted.items():
        events = found.Scalars(tag)
        assert [event.step for event in events] == [2, 4]
        assert [event.value for event in events] == pytest.approx(values)
    for direction in ("a2b", "b2a"):
        (picture,) = found.Images(f"samples/{direction}")
        assert (picture.step, picture.width, picture.height) == (4, 40, 24)
        with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
            pixels = pixels_of(tmp_path / f"step-00000004-{direction}.png")
            assert abs(pixels.astype(int) - image.convert("RGB")).mean() < 6


def test_a_resumed_run_doubles_nothing(tmp_path: Path) -> None:
    for done, steps in ((0, (2, 4, 6, 8)), (4, (5, 6, 10)), (10, (12,))):
        with EventLog(tmp_path, done) as log:
            for step in steps:
                log.add(report(step))
    assert len(list(tmp_path.iterdir())) == 3
    assert [event.step for event in read(tmp_path).Scalars("loss/cam_b")] == [2, 4, 5, 6, 10, 12]


def test_what_was_written_is_there_before_the_end(tmp_path: Path) -> None:
    with EventLog(tmp_path, 0) as log:
        log.add(report(2))
        assert [event.step for event in read(tmp_path).Scalars("loss/cam_b")] == [2]


def test_a_report_without_losses_says_nothing(tmp_path: Path) -> None:
    with EventLog(tmp_path, 0) as log:
        log.add(Step(3, 100, {}, 1e-4, 0.0))
    assert read(tmp_path).Tags()["scalars"] == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    def write() -> None:
        with EventLog(tmp_path, 0) as log:
            log._records.close()
            log._records._writer = io.BufferedWriter(Full())
            log.add(report(2))

    with pytest.raises(DiskFullError, match="tfevents"):
        write()


@pytest.mark.parametrize("module", ["tensorboard.compat.proto", "tensorboard.summary.writer"])
def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentLacksError) as caught:
        check_installed()
    assert caught.value.hint == "pip install 'ugatit-batch[tensorboard]'"
    assert caught.value.exit_code == 4


def test_neither_tensorflow_nor_torch_is_loaded_and_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise SystemExit('tensorflow was imported')\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from types import SimpleNamespace\n"
        f"from {tensorboard.__name__} import EventLog\n"
        "with EventLog(Path(sys.argv[1]) / 'log', 0) as log:\n"
        "    numbers = {'step': 1, 'losses': {'a': 1}, 'learning_rate': 1, 'steps_per_second': 1}\n"
        "    log.add(SimpleNamespace(**numbers, sample=None, scores={}))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [event.value for event in read(tmp_path / "log").Scalars("loss/a")] == [1]
