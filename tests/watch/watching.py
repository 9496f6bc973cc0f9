"""A watch folder in this process, and the ways in which files arrive."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import Session
from ugatit_batch.planning import Naming
from ugatit_batch.settings import Settings
from ugatit_batch.watch.after import After
from ugatit_batch.watch.events import Finished, Notice
from ugatit_batch.watch.rules import Rules
from ugatit_batch.watch.service import Service, WatchOptions

from ..fakes import InvertingTranslator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.jobs import IfExists
    from ugatit_batch.watch.events import Event

SETTLE = 0.25
PATIENT = 60.0
"""Seconds after which a test that waits has failed."""


class Watching:
    """A service that runs in a thread while the block is open, with a network that inverts colours.

    Args:
        folder: `inbox`, `outbox` and `done` are below.
        after: `keep`, `move` or `delete`.
        before: called with the pixels of each batch.
        more: of WatchOptions.
    """

    def __init__(
        self,
        folder: Path,
        *,
        after: Any = "keep",
        if_exists: IfExists | None = None,
        attention: tuple[Kind, ...] = (),
        before: Callable[[Pixels], object] = lambda _: None,
        batch_size: int = 4,
        leave_out: tuple[Path, ...] = (),
        **more: Any,
    ) -> None:
        self.inbox, self.outbox, self.done = (folder / name for name in ("inbox", "outbox", "done"))
        self.inbox.mkdir(exist_ok=True)
        self.frames = 0
        self.error: BaseException | None = None
        self.said: list[Event] = []

        def count(pixels: Pixels) -> None:
            self.frames += len(pixels)
            before(pixels)

        self.translator = InvertingTranslator(batch_size, before=count)
        settings = Settings(Sizing(square=False, side=None), attention=attention)
        exists: IfExists = if_exists or ("update" if after == "keep" else "rename")
        self.service = Service(
            Rules(self.inbox, [self.outbox, self.done, *leave_out]),
            self.outbox,
            Naming(self.outbox, "ink", Encoding(), attention=attention),
            lambda is_final: Session(
                [self.outbox], self.translator, "bundle", settings, exists, is_final=is_final
            ),
            After(after, self.inbox, self.done if after == "move" else None),
            WatchOptions(**{"settle": SETTLE, **more}),
        )
        self._thread = threading.Thread(target=self._run, name="service")

    def _run(self) -> None:
        try:
            with contextlib.closing(self.service.events()) as events:
                for event in events:
                    self.said.append(event)
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            self.error = error

    def __enter__(self) -> Watching:
        self._thread.start()
        self.until(lambda: bool(self.said) or not self._thread.is_alive())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.stop()
        self._thread.join(PATIENT)
        assert not self._thread.is_alive()
        if kind is None and self.error is not None:
            raise self.error

    def wait(self) -> None:
        """Until it has ended by itself."""
        self._thread.join(PATIENT)
        assert not self._thread.is_alive()

    def until(self, condition: Callable[[], bool], seconds: float = PATIENT) -> None:
        """Wait for something, and fail where it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.error is not None:
                raise self.error
            assert time.monotonic() < deadline, self.said[-20:]
            time.sleep(0.01)

    def until_done(self, count: int) -> None:
        """Wait for so many files to be done, and a little longer for what must not come."""
        self.until(lambda: len(self.results("done")) >= count)
        time.sleep(3 * SETTLE)

    def results(self, status: str) -> list[str]:
        """The inputs with that status, by their names below the inbox."""
        return [
            event.result.source.relative_to(self.inbox).as_posix()
            for event in list(self.said)
            if isinstance(event, Finished) and event.result.status == status
        ]

    def errors(self) -> list[str]:
        """What those that failed have failed with."""
        return [
            str(event.result.error)
            for event in list(self.said)
            if isinstance(event, Finished) and event.result.status == "failed"
        ]

    def notices(self, kind: str) -> list[str]:
        """What was said of that kind."""
        return [event.text for event in list(self.said) if isinstance(event, Notice) and event.kind == kind]
