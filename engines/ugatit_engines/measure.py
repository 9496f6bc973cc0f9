"""Throughput of a folder run beside the bare network and beside its own stages, in one process.

What is compared takes turns, A B A B, and ratios are taken within a round: whatever slows the machine down
for a while slows both. Knows nothing of how figures are shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from ugatit_batch.atomic import replacing
from ugatit_batch.frames import Batch
from ugatit_batch.images.read import open_picture
from ugatit_batch.images.write import write_picture
from ugatit_batch.jobs import run
from ugatit_batch.planning import Naming, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ugatit_batch.frames import Pixels, Translator
    from ugatit_batch.images.picture import Picture
    from ugatit_batch.settings import Settings
    from ugatit_training.generator import Generator

Stage = Literal["decode", "network", "encode"]
Rates = dict[str, float]
"""Pictures a second, by what was measured."""

WORKERS = 2
"""Read threads, and again write threads, that a run has."""
_SHORTEST = 0.1  # seconds that decoding or encoding goes on for one figure
_SAMPLES = 8  # pictures that are encoded in turn
_COMPARED = 2  # pictures that are translated in float32 too
_COMPARED_SIDE = 512  # of which so much is compared, where the network takes any size


class Workload:
    """A folder of pictures, and everything a run does with it, each to be measured alone.

    Every method gives pictures a second. All pictures are decoded once and kept, for the bare network.

    Args:
        folder: of pictures only, at least one, all of one size for the network.
        translator: the network.
        bundle: hash of the model's direction, for the journal.
        settings: as for `run`; the format of `encoding` is the results'.
        scratch: another folder. Its disk is the one that is written to.

    Raises:
        PictureError: one cannot be read.
        SizeError: the network does not take their size.
        UgatitBatchError: a picture could not be translated.
    """

    def __init__(
        self, folder: Path, translator: Translator, bundle: str, settings: Settings, scratch: Path
    ) -> None:
        self.pictures = sorted(folder.iterdir())
        self.translator, self.settings = translator, settings
        self._folder, self._bundle, self._scratch = folder, bundle, scratch
        frames: list[Pixels] = []
        samples: list[Picture] = []
        for path in self.pictures:
            picture = self._open(path)
            frames.extend(picture.frames())
            if len(samples) < _SAMPLES:
                samples.append(picture)
        size = translator.batch_size
        self._batches = [Batch(np.stack(frames[at : at + size])) for at in range(0, len(frames), size)]
        results = (pixels for one in translator.translate(iter(self._batches)) for pixels in one.pixels)
        self._samples = list(zip(samples, list(islice(results, len(samples))), strict=True))

    @property
    def network_size(self) -> tuple[int, int]:
        """(width, height) of what the network sees, in pixels."""
        return self._batches[0].pixels.shape[2], self._batches[0].pixels.shape[1]

    def frames(self) -> Iterator[Pixels]:
        """Height × width × 3, as the network sees them."""
        return (pixels for batch in self._batches for pixels in batch.pixels)

    def _open(self, path: Path) -> Picture:
        return open_picture(path, self.settings.sizing, self.translator.size_rule)

    def contestants(self) -> dict[str, Callable[[], float]]:
        """All of it by name, for `alternate`."""
        return {"run": self.run, "network": self.network, "decode": self.decode, "encode": self.encode}

    def run(self) -> float:
        """From the folder to the last file on disk, as `translate` does it.

        Raises:
            UgatitBatchError: what the first picture failed with.
        """
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            started = time.perf_counter()
            naming = Naming(Path(folder) / "out", "bench", self.settings.encoding)
            planned = plan([self._folder], naming)
            results = run(planned, self.translator, self._bundle, self.settings)
            with contextlib.closing(results):
                for result in results:
                    if result.error is not None:
                        raise result.error
            return len(self.pictures) / (time.perf_counter() - started)

    def network(self) -> float:
        """The translator alone, on pictures that are in memory already."""
        started = time.perf_counter()
        exhaust_in_thread(self.translator.translate(iter(self._batches)))
        return len(self.pictures) / (time.perf_counter() - started)

    def decode(self) -> float:
        """Reading files, in one thread."""

        def read(index: int) -> None:
            for _ in self._open(self.pictures[index % len(self.pictures)]).frames():
                pass

        return _rate(read)

    def encode(self) -> float:
        """Writing files, in one thread."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            # A format that is given is its own suffix; otherwise results are written as what the inputs are.
            kind = self.settings.encoding.format
            suffix = self.pictures[0].suffix if kind == "auto" else f".{kind}"

            def write(index: int) -> None:
                picture, pixels = self._samples[index % len(self._samples)]
                write_picture(picture, [pixels], Path(folder) / f"{index}{suffix}", self.settings.encoding)

            return _rate(write)


def exhaust_in_thread(steps: Iterable[object]) -> None:
    """Go through all steps in a new thread, where a run has its network too.

    The main thread would not do: OpenMP spins at its barriers where no other thread has used it, and that
    alone has cost a factor of ten on a machine with something else to do.
    """
    given_up = threading.Event()

    def exhaust() -> None:
        for _ in steps:
            if given_up.is_set():
                break

    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(exhaust).result()
        except BaseException:
            given_up.set()
            raise


def _rate(work: Callable[[int], None]) -> float:
    """How often a second `work` can be done."""
    started, count = time.perf_counter(), 0
    while True:
        work(count)
        count += 1
        seconds = time.perf_counter() - started
        if seconds >= _SHORTEST:
            return count / seconds


def alternate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[Rates]:
    """Let all take turns; yield what each gave, a round at a time, after a round that does not count."""
    for number in range(rounds + 1):
        rates = {name: contestant() for name, contestant in contestants.items()}
        if number:
            yield rates


def median(rounds: Sequence[Rates], name: str) -> float:
    """The middle one of a name's figures."""
    return statistics.median(one[name] for one in rounds)


def median_ratio(rounds: Sequence[Rates], name: str, other: str) -> float:
    """`name` / `other`: the middle one of the rounds' own ratios."""
    return statistics.median(one[name] / one[other] for one in rounds)


@dataclass(frozen=True)
class Throughput:
    """What came of the rounds of one workload; pictures a second where nothing else is said."""

    run: float
    """The whole run."""
    network: float
    """The bare network."""
    decode: float
    """Reading, one thread."""
    encode: float
    """Writing, one thread."""
    ratio: float
    """run / network."""
    slowest: Stage
    """The stage that can do the least, with all threads that a run has for it."""
    ratio_to_slowest: float
    """run / what that stage can do."""


def summarize(rounds: Sequence[Rates], workers: int = WORKERS) -> Throughput:
    """Medians and ratios of what `alternate` gave; `workers` threads read, and as many write."""
    threads = min(workers, usable_cores())
    shares: dict[Stage, int] = {"decode": threads, "network": 1, "encode": threads}
    slowest = min(shares, key=lambda stage: median(rounds, stage) * shares[stage])
    return Throughput(
        run=median(rounds, "run"),
        network=median(rounds, "network"),
        decode=median(rounds, "decode"),
        encode=median(rounds, "encode"),
        ratio=median_ratio(rounds, "run", "network"),
        slowest=slowest,
        ratio_to_slowest=median_ratio(rounds, "run", slowest) / shares[slowest],
    )


class ErrorLevels(NamedTuple):
    """How far results are from those of float32, in levels of 0 to 255, over all values."""

    mean: float
    max: int


@torch.inference_mode()
def translate_plainly(
    generator: Generator, pixels: Pixels
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a generator makes of pictures as it was trained, in float32 on the CPU.

    Args:
        generator: in evaluation mode.
        pixels: uint8, N×H×W×3.

    Returns:
        Whole levels from 0 to 255, N×H×W×3, and the attention map, N×H/4×W/4.
    """
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    output = generator(x)
    levels = output.image.add(1.0).mul_(127.5).round_().clamp_(0, 255).permute(0, 2, 3, 1)
    return levels.numpy(), output.attention.numpy()


def error_levels(translator: Translator, reference: Generator, frames: Iterable[Pixels]) -> ErrorLevels:
    """What a translator's precision and rewrites cost, on the first few pictures.

    Args:
        translator: of the same model and direction.
        reference: in float32, on the CPU; runs as it is, in plain PyTorch.
        frames: at least one, height × width × 3, all of one size. Of large ones a part is compared.
    """
    rule = translator.size_rule
    pixels = np.stack(list(islice(frames, _COMPARED)))
    if rule.fixed is None:
        side = max(rule.minimum, _COMPARED_SIDE)
        pixels = np.ascontiguousarray(pixels[:, :side, :side])
    far: list[NDArray[np.int16]] = []

    def compare() -> Iterator[None]:
        for picture in np.split(pixels, len(pixels)):
            (translated,) = translator.translate(iter([Batch(picture)]))
            far.append(np.abs(translated.pixels - translate_plainly(reference, picture)[0]).astype(np.int16))
            yield

    exhaust_in_thread(compare())
    return ErrorLevels(float(np.mean(far)), int(np.max(far)))


@dataclass(frozen=True)
class Machine:
    """On what something was measured."""

    cpu: str
    """As it names itself."""
    cores: int
    """That this process may use, hyper-threads counted."""
    threads: int
    """That PyTorch uses for one operation."""
    gpu: str | None
    """As it names itself; None where it was not used."""
    system: str
    python: str
    torch: str


def describe_machine(device: torch.device) -> Machine:
    """This machine, and the GPU if `device` is one."""
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
    )


def usable_cores() -> int:
    """Cores that this process may use, hyper-threads counted."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_record(folder: Path, name: str, figures: Mapping[str, object], sentence: str) -> Path:
    """Write `NAME.json` with the figures and `NAME.md` with one line for people; return the first.

    Raises:
        DiskFullError, OutputError: they could not be written.
    """
    path = folder / f"{name}.json"
    with replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", "utf-8")
    with replacing(folder / f"{name}.md") as partial:
        partial.write_text(sentence + "\n", "utf-8")
    return path
