"""Throughput of a film's run beside the bare network and beside its own stages, in one process.

Takes turns and ratios as `measure` does for folders. Knows nothing of how figures are shown.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ugatit_batch.atomic import replacing
from ugatit_batch.frames import Batch
from ugatit_batch.images.geometry import place
from ugatit_batch.jobs import run
from ugatit_batch.planning import Naming, plan
from ugatit_batch.video.codecs import choose_coding
from ugatit_batch.video.decode import FilmReader
from ugatit_batch.video.hardware import choose_hwaccel
from ugatit_batch.video.join import join_film
from ugatit_batch.video.probe import probe_film
from ugatit_batch.video.result import Converters, SegmentFilms, Shape, result_aspect
from ugatit_batch.video.segments import Segment, SegmentFolder
from ugatit_engines.measure import exhaust_in_thread
from ugatit_engines.specimens import PERIOD

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ugatit_batch.frames import Pixels, Translator
    from ugatit_batch.settings import Settings

WORKERS = 1
"""Threads that read one film, and again that write it, beside those that codecs have of their own."""
_KEPT = 256 * 2**20  # bytes of pictures that are kept in memory, and as many of results


class Phases(NamedTuple):
    """Seconds of one run in which its stages do not work together."""

    first: float
    """From the start until the first picture is with the encoder."""
    last: float
    """From the time when the encoder has the last picture until the film is there: what the encoder still
    holds, and joining."""


class FilmWorkload:
    """A film, and everything a run does with it, each to be measured alone.

    Every method gives pictures a second. Some pictures and their results are kept, which the bare network and
    encoding go through forwards and backwards.

    Args:
        film: with sound or without; of `write_film`, or any other whose pictures are alike throughout.
        count: pictures in it.
        translator: the network.
        bundle: hash of the model's direction, for the segments.
        settings: as for `run`.
        scratch: an empty folder. Its disk is the one that is written to.

    Raises:
        FilmError: it cannot be read.
        UsageError, EnvironmentLacksError: it cannot be written in this way.
        SizeError: the network does not take its size.
        UgatitBatchError: a picture could not be translated.
    """

    def __init__(
        self, film: Path, count: int, translator: Translator, bundle: str, settings: Settings, scratch: Path
    ) -> None:
        self.count, self.translator, self.settings = count, translator, settings
        self.phases: list[Phases] = []
        """Of all runs, in order."""
        self._film, self._bundle, self._scratch = film, bundle, scratch
        options, target = settings.film, self._target(scratch / "stages")
        info = self._info = probe_film(film)
        placement = place(info.width, info.height, settings.sizing, translator.size_rule)
        self.coding = choose_coding(info, placement.result, options, target, options.threads)[0]
        """How it is encoded."""
        aspect = result_aspect(info, placement, settings.sizing)
        self._shape = Shape(info, placement, self.coding, target, (), aspect)
        width, height = self.network_size
        kept = max(1, min(count, PERIOD, _KEPT // (width * height * 3)))
        with contextlib.closing(self._pictures()) as pictures:
            inputs = list(islice(pictures, kept))
        size = translator.batch_size
        # Less than a batch is no batch of the run's.
        order = [_there_and_back(index, kept) for index in range(max(kept, min(size, count)))]
        self._batches = [
            Batch(np.stack([inputs[index] for index in order[at : at + size]]))
            for at in range(0, len(order), size)
        ]
        self._results: list[Pixels] = []

        def translate() -> Iterator[None]:
            for one in translator.translate(iter(self._batches)):
                self._results.extend(one.pixels)
                yield

        exhaust_in_thread(translate())
        del self._results[kept:]
        self._segments: list[Path] = []

    @property
    def film_size(self) -> tuple[int, int]:
        """(width, height) of the film, in pixels."""
        return self._info.width, self._info.height

    @property
    def network_size(self) -> tuple[int, int]:
        """(width, height) of what the network sees, in pixels."""
        return self._shape.placement.network

    def frames(self) -> Iterator[Pixels]:
        """Height × width × 3, as the network sees them: those that are kept."""
        return (pixels for batch in self._batches for pixels in batch.pixels)

    def contestants(self) -> dict[str, Callable[[], float]]:
        """All of it by name, for `alternate`."""
        return {
            "run": self.run,
            "network": self.network,
            "decode": self.decode,
            "encode": self.encode,
            "join": self.join,
        }

    def run(self) -> float:
        """From the film to the joined result on disk, as `translate` does it.

        Raises:
            UgatitBatchError: what the film failed with.
        """
        written: list[float] = []

        def watch(_source: Path, _done: int, _of: int | None) -> None:
            written.append(time.perf_counter())

        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            started = time.perf_counter()
            planned = plan([self._film], self._naming(Path(folder)))
            results = run(planned, self.translator, self._bundle, self.settings, watch=watch)
            with contextlib.closing(results):
                for result in results:
                    if result.error is not None:
                        raise result.error
            ended = time.perf_counter()
        self.phases.append(Phases(written[0] - started, ended - written[-1]))
        return len(written) / (ended - started)

    def network(self) -> float:
        """The translator alone, on pictures that are in memory already."""

        def batches() -> Iterator[Batch]:
            for index in range(-(-self.count // self.translator.batch_size)):
                given.append(self._batches[_there_and_back(index, len(self._batches))])
                yield given[-1]

        given: list[Batch] = []
        started = time.perf_counter()
        exhaust_in_thread(self.translator.translate(batches()))
        return sum(len(batch.pixels) for batch in given) / (time.perf_counter() - started)

    def decode(self) -> float:
        """From the file to the network's pixels."""
        pictures = self._pictures()
        started = time.perf_counter()
        number = sum(1 for _ in pictures)
        return number / (time.perf_counter() - started)

    def encode(self) -> float:
        """From the network's pixels to the last segment on disk."""
        shape, info = self._shape, self._info
        width, height = self.network_size
        attention = np.zeros((height // 4, width // 4), np.float32)
        unit = round(1 / (info.rate * info.time_base))
        length = round(self.settings.film.segment * info.rate)
        started = time.perf_counter()
        shape.target.parent.mkdir(exist_ok=True)
        folder = SegmentFolder(shape.target, "bench", shape.names, resume=False)
        try:
            converters = Converters(shape)
            self._segments.clear()
            for first in range(0, self.count, length):
                films = SegmentFilms(shape, converters, folder, len(self._segments))
                last = min(first + length, self.count)
                try:
                    for index in range(first, last):
                        pixels = self._results[_there_and_back(index, len(self._results))]
                        films.add(pixels, attention, {}, index * unit, unit)
                    films.finish()
                except BaseException:
                    films.abandon()
                    raise
                self._segments.append(shape.file(folder, len(self._segments)))
                # Else they would go with the folder's lock, and could not be joined.
                folder.state.segments.append(Segment(last - first, 0, (last - 1) * unit, unit, 0))
            return self.count / (time.perf_counter() - started)
        finally:
            folder.close()

    def join(self) -> float:
        """From the segments on disk, of `encode`, to the film with its sound."""
        if not self._segments:
            self.encode()
        info, shape = self._info, self._shape
        started = time.perf_counter()
        with replacing(shape.target) as partial:
            join_film(
                info,
                self._segments,
                partial,
                coding=shape.coding,
                aspect=shape.aspect,
                rate=info.rate,
                time_base=info.time_base,
                last_duration=0,
                options=self.settings.film,
                film=shape.target,
            )
        rate = self.count / (time.perf_counter() - started)
        shape.target.unlink()
        return rate

    def side_by_side(self) -> float:
        """`decode` and `encode` at once, neither waiting for the other: what this machine has for both."""
        started = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            for stage in [pool.submit(self.decode), pool.submit(self.encode)]:
                stage.result()
        return self.count / (time.perf_counter() - started)

    def _naming(self, folder: Path) -> Naming:
        return Naming(folder / "out", "bench", self.settings.encoding, container=self.settings.film.format)

    def _target(self, folder: Path) -> Path:
        return plan([self._film], replace(self._naming(folder), output=folder)).jobs[0].target

    def _pictures(self) -> Generator[Pixels, None, None]:
        options = self.settings.film
        reader = FilmReader(
            self._info,
            self._shape.placement,
            hwaccel=choose_hwaccel(self._info, options.hwaccel, on_cuda=True)[0],
            threads=options.threads,
        )
        return (frame.pixels for frame in reader.frames())


def _there_and_back(index: int, count: int) -> int:
    """Of `count` things that are gone through forwards and backwards, again and again, which comes now."""
    if count == 1:
        return 0
    place_in_turn = index % (2 * count - 2)
    return min(place_in_turn, 2 * count - 2 - place_in_turn)
