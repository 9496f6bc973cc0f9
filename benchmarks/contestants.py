"""Opening the engines of this machine for `engine.py`, and what is measured of one of them.

Knows nothing of rounds, or of how figures are shown.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ugatit_batch.bundle import GeneratorConfig, load_bundle
from ugatit_batch.errors import UsageError
from ugatit_batch.frames import Batch, SizeRule
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.read import open_picture
from ugatit_batch.images.write import Encoding
from ugatit_batch.settings import Settings
from ugatit_engines.devices import DTYPES, choose_device, choose_precision
from ugatit_engines.measure import Workload, exhaust_in_thread, translate_plainly
from ugatit_engines.specimens import write_pictures, write_random_bundle
from ugatit_engines.torch_engine import TorchTranslator, load_generator
from ugatit_training.data import list_pictures

sys.path.append(str(Path(__file__).parents[1]))  # for the file beside this one, wherever this is started
from benchmarks.matmul_peak import seconds_a_call

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.frames import Pixels, Translated
    from ugatit_engines.devices import Precision
    from ugatit_engines.engine_record import EnginePrecision
    from ugatit_engines.open_engine import Engine
    from ugatit_engines.tensorrt_library import Flavor

    Facts = dict[str, Any]
    Opener = Callable[[int], Engine]
    Turn = dict[str, Callable[[], float]]


PLANS: tuple[EnginePrecision, ...] = ("fp16", "fp32")
"""What TensorRT is built in, the usual one first."""


class OutOfTime(Exception):  # noqa: N818 - no fault of anybody's
    """Building an engine has taken what time there was."""


@dataclass(frozen=True)
class Task:
    """What all engines are given."""

    bundle: Bundle
    direction: Direction
    device: torch.device
    side: int
    """Of what the network sees, in pixels."""
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    least: float
    """Seconds that one figure takes."""
    folder: Path
    """The pictures of the folder run."""
    frames: tuple[Pixels, ...]
    """A largest batch of them, as the network sees them."""
    expected: tuple[NDArray[np.int16], NDArray[np.float32]]
    """Levels and attention of the first of them, from plain PyTorch in float32 on the CPU."""
    scratch: Path

    @property
    def on_gpu(self) -> bool:
        """Whether it is one of NVIDIA's."""
        return self.device.type == "cuda"

    @property
    def settings(self) -> Settings:
        """Of the folder run."""
        return Settings(_sizing(self.side), Encoding("jpg"))


def prepare(options: argparse.Namespace, scratch: Path) -> Task:
    """What `engine.py` was asked for.

    Raises:
        UgatitBatchError: the device, the model or the pictures.
    """
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    batches = tuple(sorted(options.batches or ((1, 8, 32) if on_gpu else (1,))))
    bundle = find_bundle(options, scratch)
    direction: Direction = next(iter(bundle.directions))
    folder = collect_pictures(options, scratch, options.count or (512 if on_gpu else 4))
    paths = sorted(folder.iterdir())[: options.compared]
    sizing = _sizing(options.size)
    frames = [next(iter(open_picture(path, sizing, SizeRule()).frames())) for path in paths]
    return Task(
        bundle,
        direction,
        device,
        options.size,
        batches,
        tuple(options.precisions or (("fp16", "fp32") if on_gpu else ("fp32",))),
        options.least,
        folder,
        tuple(islice(cycle(frames), max(*batches, len(frames)))),
        reference(bundle, direction, np.stack(frames)),
        scratch,
    )


def _sizing(side: int) -> Sizing:
    return Sizing(square=True, side=side, fit="crop")


def find_bundle(options: argparse.Namespace, scratch: Path) -> Bundle:
    """The model that was asked for, or one with random weights."""
    if options.model is None:
        config = GeneratorConfig(options.channels, light=not options.full, image_size=options.size)
        return write_random_bundle(scratch / "model", config)
    if Path(options.model).is_dir():
        return load_bundle(Path(options.model))
    from ugatit_batch.models import default_models_dir, find_model

    return find_model(options.model, default_models_dir())


def collect_pictures(options: argparse.Namespace, scratch: Path, count: int) -> Path:
    """A folder of so many pictures; the ones that were given come again where they are fewer.

    Raises:
        UsageError: there is none.
    """
    folder: Path = scratch / "pictures"
    folder.mkdir()
    if options.pictures is None:
        write_pictures(folder, count, options.size)
        return folder
    given = list_pictures(options.pictures)
    if not given:
        raise UsageError(f"--pictures {options.pictures}: no picture in it")
    for index, path in enumerate(islice(cycle(given), count)):
        shutil.copyfile(path, folder / f"{index:05}{path.suffix}")
    return folder


def reference(
    bundle: Bundle, direction: Direction, pixels: Pixels
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """What the generator that was trained makes of pictures, in float32 on the CPU: levels and attention."""
    generator = load_generator(bundle, direction)
    images, maps = [], []

    def translate() -> Iterator[None]:
        for one in np.split(pixels, len(pixels)):
            levels, attention = translate_plainly(generator, one)
            images.append(levels.astype(np.int16))
            maps.append(attention)
            yield

    exhaust_in_thread(translate())
    return np.concatenate(images), np.concatenate(maps)


def bare_rate(engine: Engine, pixels: Pixels, least: float) -> float:
    """Pictures a second of an engine that is fed from memory for so many seconds, results on the host."""
    started, given = time.perf_counter(), 0

    def batches() -> Iterator[Batch]:
        nonlocal given
        while not given or time.perf_counter() - started < least:
            given += len(pixels)
            yield Batch(pixels)

    exhaust_in_thread(engine.translate(batches()))
    return given / (time.perf_counter() - started)


def forward_rate(engine: TorchTranslator, pixels: Pixels, least: float) -> float:
    """Pictures a second of the very network of an engine, on tensors that are on the device."""
    seconds: list[float] = []

    @torch.inference_mode()
    def work() -> Iterator[None]:
        network = engine._generator
        x = torch.from_numpy(pixels).to(engine.device).permute(0, 3, 1, 2).to(DTYPES[engine.precision])
        x = x / 127.5 - 1
        seconds.append(seconds_a_call(lambda: network(x), engine.device, least))
        yield

    exhaust_in_thread(work())
    return len(pixels) / seconds[0]


def find_plans(task: Task) -> tuple[list[tuple[Flavor, EnginePrecision]], set[Flavor], set[Flavor]]:
    """What TensorRT is asked for, what should work first.

    Returns:
        Flavor and precision of each; the flavors that do not know this GPU; those that are not installed.
    """
    if not task.on_gpu:
        return [], set(), set()
    from ugatit_engines.tensorrt_library import FLAVORS, is_installed, rtx_runs_on

    capability = torch.cuda.get_device_capability(task.device)
    unfit: set[Flavor] = set() if rtx_runs_on(capability) else {"tensorrt-rtx"}
    missing = {flavor for flavor in FLAVORS if not is_installed(flavor)}
    flavors = sorted(set(FLAVORS) - missing, key=lambda flavor: (flavor in unfit, flavor))
    plans = [(flavor, one) for flavor in flavors for one in PLANS if one in task.precisions]
    return plans, unfit, missing


def with_torch(task: Task, precision: Precision) -> tuple[Facts, Opener]:
    """Of PyTorch: nothing to say, and what opens it for a batch size."""
    chosen = choose_precision(precision, task.device)
    return {}, lambda batch: TorchTranslator(task.bundle, task.direction, task.device, chosen, batch)


def with_tensorrt(
    task: Task, flavor: Flavor, precision: EnginePrecision, time_is_up: Callable[[], bool]
) -> tuple[Facts, Opener]:
    """Build an engine; returns what is known of it, and what opens it for a batch size.

    Raises:
        OutOfTime: before it was built.
        UgatitBatchError: it cannot be built; the message has the library's words.
    """
    from ugatit_engines.build_engine import build_engine, choose_targets
    from ugatit_engines.machine import choose_gpu, this_machine
    from ugatit_engines.profiles import Profile, Span
    from ugatit_engines.tensorrt_engine import TensorRTTranslator

    def progress(_phase: str, _step: int, _steps: int) -> None:
        if time_is_up():
            raise OutOfTime

    torch.cuda.empty_cache()  # what PyTorch keeps for later, TensorRT cannot have
    machine = this_machine()
    gpu = choose_gpu(str(task.device), machine)
    assert gpu is not None
    batches, side = task.batches, Span.one(task.side)
    found = build_engine(
        task.bundle,
        task.direction,
        task.scratch / "engines",
        flavor=flavor,
        precision=precision,
        profile=Profile(Span(batches[0], batches[len(batches) // 2], batches[-1]), side, side),
        targets=choose_targets(flavor, gpu),
        machine=machine,
        gpu=gpu,
        progress=progress,
    )
    record = found.check()
    facts = {"seconds_to_build": record.seconds, "plan_bytes": record.plan_bytes}
    # Whether it fits is not asked: what the library says of it is worth knowing too.
    return facts, lambda batch: TensorRTTranslator(found, gpu, batch)


def enter(task: Task, name: str, opened: Opener) -> tuple[Facts, Turn]:
    """Open an engine for every batch size; what it does only once is done.

    Returns:
        What is known of it already, and what is measured of it in a round: `NAME, batch N`, `NAME, forward N`
        and the stages of a folder run, each in pictures a second.
    """
    started = time.perf_counter()
    engines = {batch: opened(batch) for batch in task.batches}
    keep_float32()
    best = engines[task.batches[-1]]
    facts = {"engine": best.describe(), "error": parity(task, best)}
    turn: Turn = {}
    for batch, engine in engines.items():
        pixels = np.stack(task.frames[:batch])
        turn[f"{name}, batch {batch}"] = partial(bare_rate, engine, pixels, task.least)
        if isinstance(engine, TorchTranslator):
            turn[f"{name}, forward {batch}"] = partial(forward_rate, engine, pixels, task.least)
    outputs = task.scratch / name
    outputs.mkdir()
    work = Workload(task.folder, best, task.bundle.digest(task.direction), task.settings, outputs)
    turn |= {f"{name}, {stage}": measure for stage, measure in work.contestants().items()}
    for measure in turn.values():
        measure()
    return facts | {"seconds_to_open": round(time.perf_counter() - started, 2)}, turn


def parity(task: Task, engine: Engine) -> dict[str, float]:
    """How far results are from float32: levels of 255, and of attention a share of its largest value."""
    found: list[Translated] = []

    def translate() -> Iterator[None]:
        for one in engine.translate(iter([Batch(np.stack(task.frames))])):
            found.append(one)
            yield

    exhaust_in_thread(translate())
    pixels, attention = task.expected
    order = np.arange(len(task.frames)) % len(pixels)
    levels = np.abs(found[0].pixels.astype(np.int16) - pixels[order])
    far = np.abs(found[0].attention - attention[order]).max() / np.abs(attention).max()
    figures = {"max": levels.max(), "mean": levels.mean(), "over_1": (levels > 1).mean(), "attention": far}
    return {what: float(f"{value:.4g}") for what, value in figures.items()}


def keep_float32() -> None:
    """Without TF32: one switch for the whole process, which each engine of PyTorch sets as it is opened."""
    torch.backends.cudnn.allow_tf32 = False
