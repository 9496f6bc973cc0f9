"""Translating one picture after the other in one thread, with models that stay loaded.

Knows nothing of sockets.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ugatit_batch.errors import (
    MemoryLacksError,
    PictureError,
    SizeError,
    UgatitBatchError,
)
from ugatit_batch.frames import Batch
from ugatit_batch.images.memory import picture_from_png, picture_from_rows, png_of, result_image
from ugatit_batch.settings import choose_sizing
from ugatit_plugins.protocol import Limits, RefusedError, check_pixels, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.frames import SizeRule, Translator
    from ugatit_batch.images.geometry import Sizing
    from ugatit_batch.images.memory import Buffer
    from ugatit_batch.images.picture import Picture
    from ugatit_batch.models import FoundModel
    from ugatit_plugins.opening import Opening
    from ugatit_plugins.protocol import TranslateRequest

_SMALLER = "translate a smaller part of the picture, or scale it down first"
_NO_MEMORY = ("can't allocate memory", "not enough memory")
"""What PyTorch says in a RuntimeError where a CPU's memory is at its end."""


@dataclass(frozen=True)
class Chosen:
    """A request, and the model that it names."""

    request: TranslateRequest
    bundle: Bundle
    direction: Direction


@dataclass(frozen=True)
class Answer:
    """What came of a picture."""

    body: bytes
    """In the kind of the request."""
    width: int
    height: int
    seconds: float
    """That the network took."""


class Job:
    """One picture that waits, is worked on, or is done."""

    future: Future[Answer]
    """Its exception is whatever went wrong; see `refusal`."""

    def __init__(self, chosen: Chosen, body: Buffer) -> None:
        self.chosen = chosen
        self.is_abandoned = False
        self._body: Buffer | None = body

    def take_body(self) -> Buffer:
        """The picture, which is then not held here any more.

        Raises:
            AbandonedError: nobody waits for it any more.
        """
        body, self._body = self._body, None
        if body is None:
            raise AbandonedError
        return body

    def abandon(self) -> None:
        """Nobody wants it any more: it is not begun, or what comes of it is thrown away."""
        self.is_abandoned = True
        self._body = None
        self.future.cancel()


class AbandonedError(Exception):
    """Nobody waits for this picture any more."""


class Worker:
    """The one thread that translates.

    Args:
        opening: where models come from.
        limits: how much is taken.
        keep: how many models stay loaded.
    """

    def __init__(self, opening: Opening, limits: Limits | None = None, keep: int = 2) -> None:
        self.limits = limits or Limits()
        self._opening, self._keep = opening, keep
        self._places = threading.Semaphore(self.limits.queue)
        self._pool = ThreadPoolExecutor(1, "network")
        # Belongs to that thread.
        self._open: OrderedDict[tuple[object, ...], tuple[str, Translator, Sizing]] = OrderedDict()
        self.loaded: tuple[str, ...] = ()
        """Names of the models that are loaded, the one used last at the end."""

    @property
    def device(self) -> str:
        """Device and precision, for people."""
        return self._opening.device

    def models(self) -> list[dict[str, object]]:
        """The models that can be used, as `/v1/models` tells them."""
        return [
            {
                "name": model.bundle.name,
                "directions": [_direction_json(model.bundle, way) for way in sorted(model.bundle.directions)],
                "size": {"mode": model.bundle.working_size.mode, "side": model.bundle.working_size.side},
                "attention": model.bundle.generator.attention,
                "bundled": model.bundled,
            }
            for model in self._models()
            if model.bundle is not None
        ]

    def _models(self) -> list[FoundModel]:
        try:
            return self._opening.models()
        except OSError as error:
            raise RefusedError(
                "internal", f"the models cannot be looked through: {error}", "check the models folder"
            ) from error

    def choose(self, request: TranslateRequest) -> Chosen:
        """The model of a request.

        Raises:
            RefusedError: there is none of that name, it is damaged, or it cannot do what was asked for.
        """
        models = {model.path.name: model for model in self._models()}
        found = models.get(request.model)
        if found is None:
            names = ", ".join(models) or "none"
            raise RefusedError(
                "model_not_found", f"there is no model {shown(request.model)}", f"models: {names}"
            )
        bundle = found.bundle
        if bundle is None:
            raise refusal(found.error or RuntimeError(f"model {found.path.name} cannot be read"))
        direction: Direction = "b2a" if request.reverse else "a2b"
        if direction not in bundle.directions:
            raise RefusedError(
                "not_possible",
                f"model {bundle.name} only translates {bundle.describe_directions()}",
                "choose the other direction, or another model",
            )
        if request.attention and not bundle.generator.attention:
            raise RefusedError(
                "not_possible",
                f"model {bundle.name} was trained without attention, it has no map",
                "ask for no attention, or choose another model",
            )
        return Chosen(request, bundle, direction)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for pictures, from before it is received until its result is sent.

        Raises:
            RefusedError: all are taken.
        """
        if not self._places.acquire(blocking=False):
            raise RefusedError(
                "busy", "other pictures are being translated", "try again soon", {"Retry-After": "1"}
            )
        try:
            yield
        finally:
            self._places.release()

    def submit(self, chosen: Chosen, body: Buffer) -> Job:
        """Have a picture translated when its turn comes.

        Raises:
            RefusedError: the worker has been closed.
        """
        job = Job(chosen, body)
        try:
            job.future = self._pool.submit(self._translate, job)
        except RuntimeError as error:
            raise stopping() from error
        return job

    def close(self) -> None:
        """Finish what is being worked on, and cancel what waits."""
        self._pool.shutdown(cancel_futures=True)

    def _translate(self, job: Job) -> Answer:
        chosen, request = job.chosen, job.chosen.request
        translator, sizing = self._opened(chosen.bundle, chosen.direction)
        picture = self._picture(job, sizing, self._opening.rule(chosen.bundle, translator))
        (pixels,) = picture.frames()
        started = time.perf_counter()
        (translated,) = translator.translate(iter([Batch(pixels[None])]))
        seconds = time.perf_counter() - started
        if job.is_abandoned:
            # What would be made of it costs as much as a small model's own work.
            raise AbandonedError
        attention = translated.attention[0] if request.attention else None
        image = result_image(picture, translated.pixels[0], attention)
        body = png_of(image, picture) if request.size is None else image.tobytes()
        return Answer(body, image.width, image.height, seconds)

    def _picture(self, job: Job, sizing: Sizing, rule: SizeRule) -> Picture:
        size = job.chosen.request.size
        if size is not None:
            return picture_from_rows(job.take_body(), *size, sizing, rule)
        return picture_from_png(
            job.take_body(), sizing, rule, lambda width, height: check_pixels(width, height, self.limits)
        )

    def _opened(self, bundle: Bundle, direction: Direction) -> tuple[Translator, Sizing]:
        """The model, loaded now if it is not; a model that was replaced on disk is another one."""
        key = (bundle.path, bundle.working_size, bundle.digest(direction))
        found = self._open.pop(key, None)
        if found is None:
            while len(self._open) >= self._keep:
                # Before another one takes memory.
                self._open.popitem(last=False)
                self._tell_loaded()
                gc.collect()
            sizing = choose_sizing(bundle)
            found = (bundle.name, self._opening.open(bundle, direction, sizing), sizing)
        self._open[key] = found
        self._tell_loaded()
        return found[1], found[2]

    def _tell_loaded(self) -> None:
        self.loaded = tuple(dict.fromkeys(name for name, _, _ in self._open.values()))


def _direction_json(bundle: Bundle, direction: Direction) -> dict[str, object]:
    source, target = bundle.domains if direction == "a2b" else reversed(bundle.domains)
    return {"reverse": direction == "b2a", "source": source, "target": target}


def stopping() -> RefusedError:
    """What everybody is told while the server ends."""
    return RefusedError("stopping", "the server is stopping", "start it again")


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def refusal(error: BaseException) -> RefusedError:
    """What a client is told of an error."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, SizeError | MemoryLacksError):
        return RefusedError("not_possible", error.message, _SMALLER)
    if _lacks_memory(error):
        return RefusedError("not_possible", "there is not enough memory for this picture", _SMALLER)
    if isinstance(error, PictureError):
        return RefusedError("bad_request", error.message, error.hint)
    if isinstance(error, UgatitBatchError):
        return RefusedError("not_possible", error.message, error.hint)
    return RefusedError(
        "internal",
        f"unexpected {type(error).__name__}: {error}",
        "this is a fault of the program; start it with -v -v and report what it prints",
    )
