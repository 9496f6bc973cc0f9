"""The bounded pipeline: read threads → batches → translator → write threads, all at once.

Knows nothing of files or of networks: it is given a function that opens an item, a Translator, and a function
that finishes an item. However long the input, only a fixed number of items is in memory.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from ugatit_batch.errors import UgatitBatchError
from ugatit_batch.frames import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ugatit_batch.frames import Attention, Pixels, Translated, Translator

_POLL = 0.1  # seconds after which a waiting thread looks whether the run was given up
_IDLE = 0.02  # seconds without a new frame after which a short batch is sent off


class Opened(Protocol):
    """An item that has been opened."""

    def frames(self) -> Iterator[Pixels]:
        """The inputs of the network in order, uint8 H×W×3 each.

        Raises:
            UgatitBatchError: the item is damaged from here on.
        """


ItemT = TypeVar("ItemT")
OpenedT = TypeVar("OpenedT", bound=Opened)
ResultT = TypeVar("ResultT")
EntryT = TypeVar("EntryT")


@dataclass(frozen=True)
class Settled(Generic[ItemT, ResultT]):
    """An item that needs no work: it has its result already, and passes by the queues."""

    item: ItemT
    result: ResultT


@dataclass
class _Ticket(Generic[ItemT, OpenedT]):
    """One item on its way. Only the network thread touches it after the first frame was queued."""

    item: ItemT
    opened: OpenedT
    expected: int | None = None
    pixels: list[Pixels] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    failed: bool = False

    def complete(self) -> bool:
        return not self.failed and self.expected == len(self.pixels)


@dataclass(frozen=True)
class _Frame(Generic[ItemT, OpenedT]):
    ticket: _Ticket[ItemT, OpenedT]
    pixels: Pixels


@dataclass(frozen=True)
class _End(Generic[ItemT, OpenedT]):
    """All frames of one item are queued, or the reading failed."""

    ticket: _Ticket[ItemT, OpenedT]
    count: int
    error: UgatitBatchError | None


class _GivenUpError(BaseException):
    """The consumer has left; every thread ends at its next wait."""


class Pipeline(Generic[ItemT, OpenedT, ResultT]):
    """One run of items through a translator.

    Args:
        open_item: called in a read thread; opens, and for stills decodes, one item.
        translator: called in one thread of its own.
        finish: called in a write thread with the item, what `open_item` gave, and what the network made of
            its frames, in order.
        readers: number of read threads.
        writers: number of write threads.
    """

    def __init__(
        self,
        open_item: Callable[[ItemT], OpenedT],
        translator: Translator,
        finish: Callable[[ItemT, OpenedT, list[Pixels], list[Attention]], ResultT],
        readers: int = 2,
        writers: int = 2,
    ) -> None:
        self._open = open_item
        self._translator = translator
        self._finish = finish
        self._read_pool = ThreadPoolExecutor(readers, "read")
        self._write_pool = ThreadPoolExecutor(writers, "write")
        batch = translator.batch_size
        # Everything that holds pixels holds a slot: being read, waiting, in a batch, being written.
        self._slots = threading.Semaphore(readers + 1 + 2 * batch + 2 * writers)
        self._opening: queue.Queue[tuple[ItemT, Future[OpenedT]] | None] = queue.Queue(readers + 1)
        self._frames: queue.Queue[_Frame[ItemT, OpenedT] | _End[ItemT, OpenedT] | None]
        self._frames = queue.Queue(2 * batch)
        self._results: queue.Queue[tuple[ItemT, ResultT | UgatitBatchError] | BaseException | None]
        self._results = queue.Queue()
        self._given_up = threading.Event()
        self._exhausted = False

    def run(
        self,
        items: Iterable[ItemT | Settled[ItemT, ResultT]],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[ItemT, ResultT | UgatitBatchError], None, None]:
        """Yield each item with its result, or with the error that it alone failed with, as they are finished.

        Args:
            items: iterated in a thread of the pipeline, only a little ahead of the work; Settled ones are
                yielded at once.
            should_stop: asked before each item; True lets what was begun finish, and begins no more.

        Raises:
            Exception: whatever is not a UgatitBatchError, from any stage, ends the run.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(self._read, items, should_stop), name="read"),
            threading.Thread(target=self._guarded, args=(self._pass_on,), name="frames"),
            threading.Thread(target=self._guarded, args=(self._work,), name="network"),
        ]
        for thread in threads:
            thread.start()
        try:
            while (entry := self._results.get()) is not None:
                if isinstance(entry, BaseException):
                    raise entry
                yield entry
        finally:
            self._given_up.set()
            for thread in threads:
                thread.join()
            self._read_pool.shutdown(cancel_futures=True)
            self._write_pool.shutdown(cancel_futures=True)

    def _guarded(self, stage: Callable[..., None], *args: object) -> None:
        try:
            stage(*args)
        except _GivenUpError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            self._results.put(error)

    def _take_slot(self) -> None:
        while not self._slots.acquire(timeout=_POLL):
            self._check()

    def _check(self) -> None:
        if self._given_up.is_set():
            raise _GivenUpError

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
            self._put(self._opening, (item, self._read_pool.submit(self._open, item)))
        self._put(self._opening, None)

    def _pass_on(self) -> None:
        while (entry := self._take(self._opening)) is not None:
            item, opening = entry
            try:
                opened = opening.result()
            except UgatitBatchError as error:
                self._report(item, error)
                continue
            ticket = _Ticket[ItemT, OpenedT](item, opened)
            count, failure = 0, None
            try:
                for pixels in opened.frames():
                    self._put(self._frames, _Frame(ticket, pixels))
                    count += 1
            except UgatitBatchError as error:
                failure = error
            self._put(self._frames, _End(ticket, count, failure))
        self._put(self._frames, None)

    # The network: batches of one size, results handed to the write threads.

    def _work(self) -> None:
        pending: deque[list[_Frame[ItemT, OpenedT]]] = deque()
        waiting: dict[tuple[int, ...], list[_Frame[ItemT, OpenedT]]] = {}
        replay: deque[list[_Frame[ItemT, OpenedT]]] = deque()
        while not self._exhausted or replay or waiting:
            groups = chain(_emptied(replay), self._groups(waiting, pending))
            try:
                for translated in self._translator.translate(_batches(groups, pending)):
                    self._deliver(pending.popleft(), translated)
            except UgatitBatchError as error:
                if not pending:
                    raise
                for frame in pending.popleft():
                    self._fail(frame.ticket, error)
                # Before what an earlier failure has left to be done again.
                replay.extendleft(reversed(pending))
                pending.clear()
            if pending:
                raise RuntimeError("the translator gave back fewer batches than it took")
        # In its own pool's order: everything submitted before is written before this runs out.
        self._write_pool.shutdown(wait=True)
        self._results.put(None)

    def _groups(
        self,
        waiting: dict[tuple[int, ...], list[_Frame[ItemT, OpenedT]]],
        pending: deque[list[_Frame[ItemT, OpenedT]]],
    ) -> Iterator[list[_Frame[ItemT, OpenedT]]]:
        """Frames of one size together.

        Ends when everything has come, or when it would have to wait while the translator holds results back.
        """
        size = self._translator.batch_size
        while not self._exhausted:
            self._check()
            try:
                entry = self._frames.get(timeout=_IDLE if waiting or pending else _POLL)
            except queue.Empty:
                if waiting:
                    yield waiting.pop(next(iter(waiting)))
                elif pending:
                    return
                continue
            if entry is None:
                self._exhausted = True
            elif isinstance(entry, _End):
                self._end(entry)
            else:
                shape = entry.pixels.shape
                group = waiting.setdefault(shape, [])
                group.append(entry)
                if len(group) >= size:
                    yield waiting.pop(shape)
                elif sum(map(len, waiting.values())) >= 2 * size:
                    yield waiting.pop(next(iter(waiting)))
        while waiting:
            yield waiting.pop(next(iter(waiting)))

    def _deliver(self, frames: list[_Frame[ItemT, OpenedT]], translated: Translated) -> None:
        for frame, pixels, attention in zip(frames, translated.pixels, translated.attention, strict=True):
            if not frame.ticket.failed:
                frame.ticket.pixels.append(pixels)
                frame.ticket.attention.append(attention)
                self._write_when_complete(frame.ticket)

    def _end(self, entry: _End[ItemT, OpenedT]) -> None:
        entry.ticket.expected = entry.count
        if entry.error is not None:
            self._fail(entry.ticket, entry.error)
        else:
            self._write_when_complete(entry.ticket)

    def _fail(self, ticket: _Ticket[ItemT, OpenedT], error: UgatitBatchError) -> None:
        if not ticket.failed:
            ticket.failed = True
            ticket.pixels.clear()
            ticket.attention.clear()
            self._report(ticket.item, error)

    def _write_when_complete(self, ticket: _Ticket[ItemT, OpenedT]) -> None:
        if ticket.complete():
            self._write_pool.submit(self._guarded, self._write, ticket)

    def _write(self, ticket: _Ticket[ItemT, OpenedT]) -> None:
        result: ResultT | UgatitBatchError
        try:
            result = self._finish(ticket.item, ticket.opened, ticket.pixels, ticket.attention)
        except UgatitBatchError as error:
            result = error
        self._report(ticket.item, result)


def _emptied(line: deque[EntryT]) -> Iterator[EntryT]:
    while line:
        yield line.popleft()


def _batches(
    groups: Iterable[list[_Frame[ItemT, OpenedT]]], pending: deque[list[_Frame[ItemT, OpenedT]]]
) -> Iterator[Batch]:
    """Batches for the translator; what it has not given back yet is in `pending`."""
    for group in groups:
        pending.append(group)
        yield Batch(np.stack([frame.pixels for frame in group]))
