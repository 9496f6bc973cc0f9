"""The bounded pipeline: read threads → batches → translator → write threads, all at once.

Knows nothing of files or of networks: it is given a function that opens an item, and a Translator. However
long the input, and however long a film in it, only a fixed number of frames is in memory.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ugatit_batch.batching import Batcher, Queued
from ugatit_batch.errors import UgatitBatchError
from ugatit_batch.frames import Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ugatit_batch.frames import Frame, Smoothing, Style, Translated, Translator

_POLL = 0.1  # seconds after which a waiting thread looks whether the run was given up

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
EntryT = TypeVar("EntryT")


class Work(Protocol[ResultT_co]):
    """One item that has been opened: its frames for the network, and what becomes of the results.

    `frames` runs in a read thread; the others in write threads, one call at a time, in order.
    """

    @property
    def streams(self) -> bool:
        """Whether it is a film: its frames are written as they come, and share no batch with other items."""

    @property
    def smoothing(self) -> Smoothing | None:
        """How the style is averaged along a film; None: not at all."""

    def frames(self) -> Generator[Frame, None, None]:
        """The inputs of the network in order. Closed early where the item has failed or the run has ended.

        Raises:
            UgatitBatchError: the item is damaged from here on.
        """

    def add(self, finished: Finished) -> None:
        """Take the next frame's result.

        Raises:
            UgatitBatchError: it cannot be written; the item has failed.
        """

    def finish(self) -> ResultT_co:
        """All results have been added: make the item's result of them.

        Raises:
            UgatitBatchError: it cannot be written.
        """

    def abandon(self) -> None:
        """The item has failed, or was never begun: let go of everything. Called at most once."""

    def pause(self) -> None:
        """The run has ended early and the item has not failed.

        Keep what a later run can go on from, and let go of everything. Called at most once, in place of
        `abandon`.

        Raises:
            UgatitBatchError: it cannot be kept; everything was let go of all the same.
        """


@dataclass(frozen=True)
class Settled(Generic[ItemT, ResultT]):
    """An item that needs no work: it has its result already, and passes by the queues."""

    item: ItemT
    result: ResultT


@dataclass(eq=False)
class _Ticket(Generic[ItemT, ResultT]):
    """One item on its way. `steps` and `busy` belong to `lock`, `settled` to the step that runs."""

    item: ItemT
    work: Work[ResultT]
    expected: int | None = None
    delivered: int = 0
    failed: bool = False
    settled: bool = False
    style: Style | None = None
    steps: deque[Callable[[], None]] = field(default_factory=deque)
    busy: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def streams(self) -> bool:
        return self.work.streams

    @property
    def smoothing(self) -> Smoothing | None:
        return self.work.smoothing


@dataclass(frozen=True)
class _End(Generic[ItemT, ResultT]):
    """All frames of one item are queued, or the reading failed."""

    ticket: _Ticket[ItemT, ResultT]
    count: int
    error: UgatitBatchError | None


class _GivenUpError(BaseException):
    """The consumer has left; every thread ends at its next wait."""


class Pipeline(Generic[ItemT, ResultT]):
    """One run of items through a translator.

    Args:
        open_item: called in a read thread; opens, and for stills decodes, one item.
        translator: called in one thread of its own.
        readers: number of read threads.
        writers: number of write threads.
    """

    def __init__(
        self,
        open_item: Callable[[ItemT], Work[ResultT]],
        translator: Translator,
        readers: int = 2,
        writers: int = 2,
    ) -> None:
        self._open = open_item
        self._translator = translator
        self._read_pool = ThreadPoolExecutor(readers, "read")
        self._write_pool = ThreadPoolExecutor(writers, "write")
        batch = translator.batch_size
        # Whatever holds pixels holds a slot: an item that is read, waits, is in a batch or is written, and
        # each frame of a film.
        self._slots = threading.Semaphore(readers + 1 + (translator.ahead + 2) * batch + 2 * writers)
        self._opening: queue.Queue[tuple[ItemT, Future[Work[ResultT]]] | None] = queue.Queue(readers + 1)
        self._frames: queue.Queue[Queued[_Ticket[ItemT, ResultT]] | _End[ItemT, ResultT] | None]
        self._frames = queue.Queue(2 * batch)
        self._results: queue.Queue[tuple[ItemT, ResultT | UgatitBatchError] | BaseException | None]
        self._results = queue.Queue()
        self._given_up = threading.Event()
        # What has to be abandoned where the run ends early.
        self._unclaimed: set[Future[Work[ResultT]]] = set()
        self._begun: set[_Ticket[ItemT, ResultT]] = set()

    @property
    def is_given_up(self) -> bool:
        """Whether the run has ended, or ends now: for steps that take long."""
        return self._given_up.is_set()

    def run(
        self,
        items: Iterable[ItemT | Settled[ItemT, ResultT]],
        should_stop: Callable[[], bool] = lambda: False,
        patience: float = math.inf,
    ) -> Generator[tuple[ItemT, ResultT | UgatitBatchError], None, None]:
        """Yield each item with its result, or with the error that it alone failed with, as they are finished.

        Args:
            items: iterated in a thread of the pipeline, only a little ahead of the work; Settled ones are
                yielded at once.
            should_stop: asked before each item and now and then in between, from two threads. True lets what
                was begun finish, and begins no more.
            patience: seconds that what was begun has for that. Then the run ends by itself, after the steps
                that are being taken; items that have no result until then are paused and not yielded.

        Raises:
            Exception: whatever is not a UgatitBatchError, from any stage, ends the run.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(self._read, items, should_stop), name="read"),
            threading.Thread(target=self._guarded, args=(self._pass_on,), name="frames"),
            threading.Thread(target=self._guarded, args=(self._translate,), name="network"),
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._outcomes(should_stop, patience)
        finally:
            self._given_up.set()
            for thread in threads:
                thread.join()
            self._read_pool.shutdown(cancel_futures=True)
            self._write_pool.shutdown(cancel_futures=True)
            self._let_go_of_all()
        # Steps that were being taken when patience ended have finished an item, or found the run's end.
        while not self._results.empty():
            entry = self._results.get()
            if entry is not None:
                yield _unless_raised(entry)

    def _outcomes(
        self, should_stop: Callable[[], bool], patience: float
    ) -> Iterator[tuple[ItemT, ResultT | UgatitBatchError]]:
        """What comes of the items, until there are no more or patience has ended."""
        deadline: float | None = None
        while deadline is None or time.monotonic() < deadline:
            if deadline is None and should_stop():
                deadline = time.monotonic() + patience
            try:
                entry = self._results.get(timeout=_POLL)
            except queue.Empty:
                continue
            if entry is None:
                return
            yield _unless_raised(entry)

    def _let_go_of_all(self) -> None:
        """Close what is still open; every thread has ended."""
        for opening in self._unclaimed:
            if not opening.cancelled() and opening.exception() is None:
                opening.result().abandon()
        for ticket in self._begun:
            if ticket.failed:
                ticket.work.abandon()
                continue
            # Something else has ended the run, and the other works have to be let go of as well.
            with contextlib.suppress(UgatitBatchError):
                ticket.work.pause()

    def _guarded(self, stage: Callable[..., None], *args: object) -> None:
        try:
            stage(*args)
        except _GivenUpError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            self._results.put(error)

    def _check(self) -> None:
        if self._given_up.is_set():
            raise _GivenUpError

    def _take_slot(self) -> None:
        while not self._slots.acquire(timeout=_POLL):
            self._check()

    def _put(self, line: queue.Queue[EntryT], entry: EntryT) -> None:
        while True:
            self._check()
            try:
                return line.put(entry, timeout=_POLL)
            except queue.Full:
                continue

    def _take(self, line: queue.Queue[EntryT]) -> EntryT:
        while True:
            self._check()
            try:
                return line.get(timeout=_POLL)
            except queue.Empty:
                continue

    def _report(self, item: ItemT, result: ResultT | UgatitBatchError) -> None:
        self._slots.release()
        self._results.put((item, result))

    # Reading: opens a few items ahead, and passes their frames on in order.

    def _read(
        self, items: Iterable[ItemT | Settled[ItemT, ResultT]], should_stop: Callable[[], bool]
    ) -> None:
        for item in items:
            if should_stop():
                break
            if isinstance(item, Settled):
                self._check()
                self._results.put((item.item, item.result))
                continue
            self._take_slot()
            opening = self._read_pool.submit(self._open, item)
            self._unclaimed.add(opening)
            self._put(self._opening, (item, opening))
        self._put(self._opening, None)

    def _pass_on(self) -> None:
        while (entry := self._take(self._opening)) is not None:
            item, opening = entry
            try:
                work = opening.result()
            except UgatitBatchError as error:
                self._unclaimed.discard(opening)
                self._report(item, error)
                continue
            ticket = _Ticket(item, work)
            self._begun.add(ticket)
            self._unclaimed.discard(opening)
            self._pass_frames_on(ticket)
        self._put(self._frames, None)

    def _pass_frames_on(self, ticket: _Ticket[ItemT, ResultT]) -> None:
        count, failure = 0, None
        try:
            with contextlib.closing(ticket.work.frames()) as frames:
                while not ticket.failed:
                    if ticket.streams:
                        self._take_slot()
                    frame = next(frames, None)
                    if frame is None:
                        self._free_frame(ticket)
                        break
                    self._put(self._frames, Queued(ticket, frame))
                    count += 1
        except UgatitBatchError as error:
            self._free_frame(ticket)
            failure = error
        self._put(self._frames, _End(ticket, count, failure))

    def _free_frame(self, ticket: _Ticket[ItemT, ResultT]) -> None:
        if ticket.streams:
            self._slots.release()

    # The network: batches of one size, results handed to the write threads.

    def _translate(self) -> None:
        batcher = Batcher[_Ticket[ItemT, ResultT]](
            self._translator.batch_size, self._next_frame, lambda queued: self._free_frame(queued.ticket)
        )
        while batcher.has_more:
            try:
                for translated in self._translator.translate(batcher.stream()):
                    self._deliver(batcher.came_back(), translated)
            except UgatitBatchError as error:
                if not batcher.is_waiting:
                    raise
                for queued in batcher.failed():
                    self._free_frame(queued.ticket)
                    self._fail(queued.ticket, error)
            if batcher.is_waiting:
                raise RuntimeError("the translator gave back fewer batches than it took")
        # In its own pool's order: everything submitted before is written before this runs out.
        self._write_pool.shutdown(wait=True)
        self._results.put(None)

    def _next_frame(self, seconds: float) -> Queued[_Ticket[ItemT, ResultT]] | None:
        while True:
            self._check()
            entry = self._frames.get(timeout=seconds)
            if not isinstance(entry, _End):
                return entry
            entry.ticket.expected = entry.count
            if entry.error is not None:
                self._fail(entry.ticket, entry.error)
            else:
                self._finish_when_complete(entry.ticket)

    def _deliver(self, batch: list[Queued[_Ticket[ItemT, ResultT]]], translated: Translated) -> None:
        results = zip(batch, translated.pixels, translated.attention, strict=True)
        for index, (queued, pixels, attention) in enumerate(results):
            ticket = queued.ticket
            style = None if translated.style is None else translated.style[index]
            ticket.style = style
            ticket.delivered += 1
            self._then(ticket, self._add, Finished(pixels, attention, style))
            self._finish_when_complete(ticket)

    def _fail(self, ticket: _Ticket[ItemT, ResultT], error: UgatitBatchError) -> None:
        if not ticket.failed:
            ticket.failed = True
            self._then(ticket, self._settle, error)

    def _finish_when_complete(self, ticket: _Ticket[ItemT, ResultT]) -> None:
        if not ticket.failed and ticket.expected == ticket.delivered:
            self._then(ticket, self._finish)

    # Writing: the steps of one item one after the other, those of several at once.

    def _then(self, ticket: _Ticket[ItemT, ResultT], step: Callable[..., None], *args: object) -> None:
        with ticket.lock:
            ticket.steps.append(lambda: step(ticket, *args))
            if ticket.busy:
                return
            ticket.busy = True
        self._write_pool.submit(self._guarded, self._take_steps, ticket)

    def _take_steps(self, ticket: _Ticket[ItemT, ResultT]) -> None:
        while True:
            self._check()
            with ticket.lock:
                if not ticket.steps:
                    ticket.busy = False
                    return
                step = ticket.steps.popleft()
            step()

    def _add(self, ticket: _Ticket[ItemT, ResultT], finished: Finished) -> None:
        try:
            if not ticket.settled:
                ticket.work.add(finished)
        except UgatitBatchError as error:
            ticket.failed = True
            self._settle(ticket, error)
        finally:
            self._free_frame(ticket)

    def _finish(self, ticket: _Ticket[ItemT, ResultT]) -> None:
        if ticket.settled:
            return
        try:
            self._settle(ticket, ticket.work.finish())
        except UgatitBatchError as error:
            self._settle(ticket, error)

    def _settle(self, ticket: _Ticket[ItemT, ResultT], result: ResultT | UgatitBatchError) -> None:
        if ticket.settled:
            return
        ticket.settled = True
        self._begun.discard(ticket)
        if isinstance(result, UgatitBatchError):
            ticket.work.abandon()
        self._report(ticket.item, result)


def _unless_raised(entry: EntryT | BaseException) -> EntryT:
    """What a thread has handed to the consumer.

    Raises:
        BaseException: that is what ended the thread.
    """
    if isinstance(entry, BaseException):
        raise entry
    return entry
