"""Items for the pipeline that are made of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ugatit_batch.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ugatit_batch.frames import Attention, Finished, Pixels, Smoothing, Style


class HasFrames(Protocol):
    def frames(self) -> Iterator[Pixels]: ...


ItemT = TypeVar("ItemT", bound=HasFrames)
ResultT = TypeVar("ResultT")


class Gathered(Generic[ItemT, ResultT]):
    """Gathers what comes of an item's frames; `finish` makes its result of them.

    Args:
        item: gives the frames.
        finish: called with the item and all that was gathered.
        streams: whether the item is a film.
        add: called with the item and each result as it comes.
        smoothing: of a film.
        cuts: whether a scene begins with a frame, by its number.
    """

    def __init__(
        self,
        item: ItemT,
        finish: Callable[[ItemT, list[Pixels], list[Attention]], ResultT],
        *,
        streams: bool = False,
        add: Callable[[ItemT, Finished], object] = lambda _item, _finished: None,
        smoothing: Smoothing | None = None,
        cuts: Callable[[int], bool] = lambda number: number == 0,
    ) -> None:
        self.item, self.streams, self.smoothing = item, streams, smoothing
        self._finish, self._add, self._cuts = finish, add, cuts
        self.pixels: list[Pixels] = []
        self.attention: list[Attention] = []
        self.styles: list[Style | None] = []
        self.ends: list[str] = []

    def frames(self) -> Generator[Frame, None, None]:
        try:
            for number, pixels in enumerate(self.item.frames()):
                yield Frame(pixels, self._cuts(number))
        finally:
            self.ends.append("frames")

    def add(self, finished: Finished) -> None:
        self._add(self.item, finished)
        self.pixels.append(finished.pixels)
        self.attention.append(finished.attention)
        self.styles.append(finished.style)

    def finish(self) -> ResultT:
        self.ends.append("finish")
        return self._finish(self.item, self.pixels, self.attention)

    def abandon(self) -> None:
        self.ends.append("abandon")

    def pause(self) -> None:
        self.ends.append("pause")
