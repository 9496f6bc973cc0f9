"""The reports of a run as TensorBoard reads them: losses, learning rate, speed, sample sheets.

Event files are written record by record: what TensorBoard and PyTorch bring for it would load TensorFlow
wherever that is installed. A resumed run begins a new file, whose first record takes back what earlier files
say of steps that are taken again.
"""

from __future__ import annotations

import contextlib
import io
import time
from typing import TYPE_CHECKING, Any

from PIL import Image

from ugatit_batch.atomic import explain_os_error
from ugatit_batch.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from ugatit_training.loop import Step

_QUALITY = 92
"""Of the sheets, as JPEG: as PNG files, which `samples/` has already, they would fill disks."""


def check_installed() -> None:
    """Make sure of the package before a run begins.

    Raises:
        EnvironmentLacksError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: F401
        from tensorboard.summary.writer import record_writer  # noqa: F401
    except ImportError as error:
        raise EnvironmentLacksError(
            f"--tensorboard: the package tensorboard cannot be used: {error}",
            "pip install 'ugatit-batch[tensorboard]'",
        ) from error


class EventLog:
    """One event file of a run, for `tensorboard --logdir RUN`.

    Args:
        folder: `RUN/tensorboard`; made where it is missing.
        done: steps the run had taken when it began or went on.

    Raises:
        EnvironmentLacksError: tensorboard is not installed.
        DiskFullError, OutputError: the file cannot be written.
    """

    def __init__(self, folder: Path, done: int) -> None:
        check_installed()
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        seconds, fraction = divmod(time.time_ns(), 10**9)
        # TensorBoard reads a folder's files in the order of their names.
        self._path = folder / f"events.out.tfevents.{seconds:010d}.{fraction:09d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._records: Any = RecordWriter(self._path.open("xb"))
        except OSError as error:
            raise explain_os_error(error, self._path) from error
        self._write(file_version="brain.Event:2")
        self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What a full disk did not take has been told already.
        with contextlib.suppress(OSError):
            self._records.close()

    def add(self, report: Step) -> None:
        """Write one report, and both sheets where it has some.

        Raises:
            DiskFullError, OutputError: it cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = {f"loss/{name}": value for name, value in report.losses.items()}
        values |= {f"score/{name}": value for name, value in report.scores.items()}
        if report.losses:
            values |= {"learning_rate": report.learning_rate, "steps_per_second": report.steps_per_second}
        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        for direction, sheet in _sheets(report).items():
            entries.append(Summary.Value(tag=f"samples/{direction}", image=_encoded(sheet)))
        if entries:
            self._write(step=report.step, summary=Summary(value=entries))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
            self._records.flush()
        except OSError as error:
            raise explain_os_error(error, self._path) from error


def _sheets(report: Step) -> dict[str, Path]:
    """Both directions' sheets of a report, which names the first."""
    if report.sample is None:
        return {}
    other = report.sample.with_name(report.sample.name.replace("-a2b.", "-b2a."))
    return {"a2b": report.sample, "b2a": other}


def _encoded(sheet: Path) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    content = io.BytesIO()
    with Image.open(sheet) as image:
        image.save(content, "JPEG", quality=_QUALITY)
        return Summary.Image(
            height=image.height, width=image.width, colorspace=3, encoded_image_string=content.getvalue()
        )
