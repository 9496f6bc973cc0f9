"""One translator made of several, each on a device of its own, with batches dealt out among them.

Knows nothing of devices or of networks: its members are Translators.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ugatit_batch.errors import SizeError, UsageError
from ugatit_batch.frames import SizeRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ugatit_batch.frames import Batch, Translated
    from ugatit_engines.devices import Precision
    from ugatit_engines.open_engine import Engine


class SeveralTranslator:
    """Several engines of one model as one.

    The batches are taken in the caller's thread; each member works in a thread of its own for as long as a
    stream lasts.

    Args:
        members: two or more, of one model and one precision.

    Raises:
        UsageError: there is no picture size that all of them take.
    """

    def __init__(self, members: Sequence[Engine]) -> None:
        self._members = tuple(members)
        self.size_rule = common_rule([member.size_rule for member in members])
        self.ahead = sum(member.ahead + 1 for member in members) - 1
        self.batch_size = min(member.batch_size for member in members)
        self.precision: Precision = members[0].precision

    def describe(self) -> str:
        """For people: how many of which devices, precision, engine."""
        counts = Counter(member.describe() for member in self._members)
        return " + ".join(f"{count} × {text}" if count > 1 else text for text, count in counts.items())

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        """See `Translator`. A batch goes to whichever member has room, and comes back in its turn.

        Raises:
            UsageError: a batch asks for averaging, which goes from each picture to the next.
        """
        stream = _Stream(self._members)
        try:
            stream.start()
            while not stream.is_over():
                while (seat := stream.free_seat()) is not None:
                    batch = next(batches, None)
                    if batch is None:
                        stream.end()
                        break
                    if batch.averaging is not None:
                        raise averages_on_one_device()
                    stream.deal(seat, batch)
                    while (translated := stream.take(wait=False)) is not None:
                        yield translated
                if (translated := stream.take(wait=True)) is not None:
                    yield translated
        finally:
            stream.close()


def averages_on_one_device() -> UsageError:
    """What is said where averaging meets several devices."""
    return UsageError(
        "--smooth needs one device: the style is averaged from picture to picture", "use --device 0"
    )


def common_rule(rules: Sequence[SizeRule]) -> SizeRule:
    """The sizes that fit all of several rules.

    Raises:
        UsageError: there are none.
    """
    fixed = {rule.fixed for rule in rules if rule.fixed is not None}
    common = SizeRule(
        multiple=math.lcm(*(rule.multiple for rule in rules)),
        minimum=max(rule.minimum for rule in rules),
        maximum=min((rule.maximum for rule in rules if rule.maximum is not None), default=None),
        fixed=min(fixed, default=None),
        max_pixels=min((rule.max_pixels for rule in rules if rule.max_pixels is not None), default=None),
    )
    try:
        for rule in rules:
            if common.fixed is not None:
                rule.check(*common.fixed)
    except SizeError as error:
        raise UsageError(
            f"--device: the devices' engines take different picture sizes: {error.message}",
            "use one device, or --backend torch",
        ) from error
    if common.maximum is not None and common.maximum < common.minimum:
        raise UsageError(
            f"--device: one device's engine takes sides up to {common.maximum} pixels, another's from "
            f"{common.minimum}",
            "use one device, or --backend torch",
        )
    return common


@dataclass
class _Due:
    """What a member owes for one batch; at most one of the two is there."""

    translated: Translated | None = None
    error: BaseException | None = None


class _Seat:
    """One member's place in a stream."""

    def __init__(self, member: Engine) -> None:
        self.member = member
        self.waiting: deque[Batch] = deque()
        """Dealt, and not taken yet."""
        self.owed: deque[_Due] = deque()
        """Dealt, and not done yet."""
        self.held = 0
        """How many were dealt and not given back by the stream."""
        self.most = member.ahead + 2
        """How many it may hold: what it works on, and one that waits for that or for its turn."""
        self.left = False
        """Whether its thread is through."""


class _Stream:
    """One call of `translate`: the threads, and what is on its way. All of it changes under one lock."""

    def __init__(self, members: Sequence[Engine]) -> None:
        self._changed = threading.Condition()
        self._seats = [_Seat(member) for member in members]
        self._order: deque[tuple[_Seat, _Due]] = deque()
        self._ended = False
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    # In the caller's thread.

    def start(self) -> None:
        """Let the members begin."""
        for number, seat in enumerate(self._seats):
            thread = threading.Thread(target=self._serve, args=(seat,), name=f"engine {number}")
            thread.start()
            self._threads.append(thread)

    def free_seat(self) -> _Seat | None:
        """The member to deal the next batch to: of those with room the one that has least to do.

        The one that owes the next result always has room: it may want another batch before it gives that.
        """
        with self._changed:
            if self._ended:
                return None
            first = self._order[0][0] if self._order else None
            free = [s for s in self._seats if not s.waiting and (s.held < s.most or s is first)]
            return min(free, key=lambda seat: len(seat.owed), default=None)

    def deal(self, seat: _Seat, batch: Batch) -> None:
        """Give a batch to a member."""
        due = _Due()
        with self._changed:
            seat.waiting.append(batch)
            seat.owed.append(due)
            seat.held += 1
            self._order.append((seat, due))
            self._changed.notify_all()

    def end(self) -> None:
        """No batch comes any more: the members give back what they have."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self, *, wait: bool) -> Translated | None:
        """The next result in order, or None where there is none yet.

        Args:
            wait: until there is one, or a member has room for another batch, or everything is over.

        Raises:
            BaseException: what a member raised instead of it.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._has_next() or self.free_seat() or self.is_over())
            if not self._has_next():
                return None
            if not self._order:
                raise cast(BaseException, self._failure)
            seat, due = self._order.popleft()
            seat.held -= 1
            if due.error is not None:
                raise due.error
            return due.translated

    def is_over(self) -> bool:
        """Whether everything was given back, and nothing comes any more."""
        with self._changed:
            return self._ended and not self._has_next() and all(seat.left for seat in self._seats)

    def close(self) -> None:
        """End the threads; what has not been given back is dropped."""
        with self._changed:
            for seat in self._seats:
                seat.waiting.clear()
        self.end()
        for thread in self._threads:
            thread.join()

    def _has_next(self) -> bool:
        if not self._order:
            return self._failure is not None
        due = self._order[0][1]
        return due.translated is not None or due.error is not None

    # In a member's thread.

    def _serve(self, seat: _Seat) -> None:
        error: BaseException | None = None
        try:
            for translated in seat.member.translate(self._incoming(seat)):
                with self._changed:
                    seat.owed.popleft().translated = translated
                    self._changed.notify_all()
        except BaseException as raised:  # noqa: BLE001 - handed to the caller's thread, which raises it
            error = raised
        with self._changed:
            if error is None and seat.owed:
                error = RuntimeError("the translator gave back fewer batches than it took")
            if error is not None:
                # The others give back what came before, and need no more.
                self._ended = True
                if seat.owed:
                    seat.owed[0].error = error
                else:
                    self._failure = error
            seat.left = True
            self._changed.notify_all()

    def _incoming(self, seat: _Seat) -> Iterator[Batch]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: seat.waiting or self._ended)
                if not seat.waiting:
                    return
                batch = seat.waiting.popleft()
                self._changed.notify_all()
            yield batch
