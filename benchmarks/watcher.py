"""`ugatit-batch watch` as a process of its own, asked and measured from outside.

Knows nothing of what is measured, or of how figures are shown.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
from PIL import Image

if TYPE_CHECKING:
    from types import TracebackType

_PATIENCE = 120.0  # seconds without any news after which something is wrong
_AT_REST = 0.05  # of one core, over half a second: less than any look takes that can be measured


def output_of(inbox: Path) -> Path:
    """Where results go."""
    return inbox.with_name(f"{inbox.name}-out")


class Watcher:
    """`ugatit-batch watch` in a process of its own; it is stopped where the block ends.

    Args:
        inbox: the watched folder; the output folder is made beside it.
        model: a name or a folder.
        more: options.
    """

    def __init__(self, inbox: Path, model: str, *more: object) -> None:
        self.inbox, self.outbox = inbox, output_of(inbox)
        self.resident_at_start = 0
        """Bytes, when the model is loaded and before the first look."""
        self.how = ""
        """How the folder is watched, in the program's words."""
        words = [inbox, "--model", model, "--output", self.outbox, *more]
        self._words = [sys.executable, "-m", "ugatit_batch", "watch", *map(str, words), "--json", "--quiet"]
        self._news: queue.SimpleQueue[tuple[float, dict[str, Any]] | None] = queue.SimpleQueue()
        self._seen: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._program = subprocess.Popen(
            self._words, stdout=subprocess.PIPE, stderr=self._errors, encoding="utf-8"
        )
        self._reader = threading.Thread(target=self._read, name="reader")
        self._reader.start()
        try:
            self.how = self._next("watching")[1]["message"]
            process = psutil.Process(self._program.pid)
            # On Windows a virtual environment's Python is a process that starts another one.
            self.process = next(iter(process.children()), process)
            self.resident_at_start = self.resident()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._program.terminate()
        try:
            self._program.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._program.kill()
        self._reader.join()
        assert self._program.stdout is not None
        self._program.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            self._news.put((time.monotonic(), json.loads(line)))
        self._news.put(None)

    def _next(self, kind: str) -> tuple[float, dict[str, Any]]:
        """The next event, which must be of that kind, and the monotonic time when it came."""
        try:
            news = self._news.get(timeout=_PATIENCE)
        except queue.Empty:
            raise RuntimeError(f"no {kind} within {_PATIENCE:g} seconds") from None
        if news is None:
            self._errors.seek(0)
            raise RuntimeError(f"the program has ended: {self._errors.read()[-2000:]}")
        if news[1]["event"] != kind:
            raise RuntimeError(f"{news[1]} where a {kind} was to come")
        return news

    def result(self) -> float:
        """Wait for the next picture to be done, for the first time; return the monotonic time.

        Raises:
            RuntimeError: it has failed, or was done before, or nothing comes.
        """
        at, result = self._next("result")
        self._seen[result["input"]] += 1
        if result["status"] != "done" or self._seen[result["input"]] > 1:
            raise RuntimeError(f"not done, or done again: {result}")
        return at

    def check(self, expected: int, size: tuple[int, int]) -> None:
        """See that nothing came but one result for each picture, and that all outputs can be read.

        Args:
            expected: number of pictures, JPEG, in the folder.
            size: of each, in pixels.

        Raises:
            RuntimeError: that is not so.
        """
        self.check_silence()
        inputs = [path for path in self.inbox.rglob("*.jpg") if path.is_file()]
        if {str(path) for path in inputs} != set(self._seen) or len(inputs) != expected:
            raise RuntimeError(f"{len(self._seen)} results for {len(inputs)} inputs of {expected}")
        for path in inputs:
            with Image.open(self.outbox / path.relative_to(self.inbox)) as image:
                image.load()
                if image.size != size:
                    raise RuntimeError(f"{path}: became a picture of {image.size}")

    def check_silence(self) -> None:
        """See that nothing came that was not awaited.

        Raises:
            RuntimeError: something did.
        """
        if not self._news.empty():
            raise RuntimeError(f"more came than was awaited: {self._news.get()}")

    def resident(self) -> int:
        """Bytes of memory, now."""
        return int(self.process.memory_info().rss)

    def peak(self) -> int:
        """The most that it ever had, in bytes; what it has now where the system does not keep it."""
        status = Path(f"/proc/{self.process.pid}/status")
        if status.exists():
            lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
            return int(lines["VmHWM"].split()[0]) * 1024
        return int(getattr(self.process.memory_info(), "peak_wset", self.resident()))

    def processor_time(self) -> float:
        """Seconds that it has used of all cores, from its start."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rest(self) -> None:
        """Wait until it has done nothing for a second.

        Raises:
            RuntimeError: it does not come to that.
        """
        deadline = time.monotonic() + _PATIENCE
        quiet = 0
        while quiet < 2:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the program does not come to rest within {_PATIENCE:g} seconds")
            quiet = quiet + 1 if self.busy(0.5) <= _AT_REST else 0

    def busy(self, seconds: float) -> float:
        """Watch it for so long; return the processor time a second, 1 for one core."""
        began, used = time.monotonic(), self.processor_time()
        time.sleep(seconds)
        return (self.processor_time() - used) / (time.monotonic() - began)
