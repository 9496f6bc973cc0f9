"""`ugatit-batch bench`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click
from click.core import ParameterSource

from ugatit_batch.cli import shared
from ugatit_batch.video.info import Codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.bundle import Bundle
    from ugatit_batch.video.info import FilmOptions
    from ugatit_engines.measure_film import FilmWorkload

# Pictures on a CPU, batches on a GPU, and pictures of a film on a GPU: start and end weigh little then.
_LEAST, _LEAST_OF_FILM = 16, 500
_SIDE, _LINES, _MOST_LINES = 256, 720, 9216
_FILM_LONGEST = 256  # longest side of what a network of random weights sees of a film
_OF_PICTURES = ("format_",)
_OF_FILMS = ("codec", "crf", "preset", "codec_threads")


@click.command()
@click.option(
    "-m", "--model", help="A model's name, its folder, or a published checkpoint.  [default: random weights]"
)
@click.option("--video", is_flag=True, help="A film instead of a folder of pictures.")
@click.option(
    "--size",
    type=click.IntRange(16, 16384),
    help="Side of the test pictures in pixels, or lines of the film, which is 16:9. Without --model the "
    "network sees pictures in this size, and the film 256 pixels wide.  [default: 256; 720 of a film]",
)
@click.option(
    "--pictures",
    type=click.IntRange(1),
    help="In a round.  [default: 16 on a CPU; 16 batches, or 500 of a film, on a GPU]",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of which the median counts."
)
@click.option(
    "-f",
    "--format",
    "format_",
    cls=shared.FlagNamedOption,
    type=click.Choice(["jpg", "png", "webp"]),
    default="jpg",
    show_default=True,
    help="Of the outputs; not with --video.",
)
@click.option(
    "--codec",
    type=click.Choice(get_args(Codec)),
    default="auto",
    show_default=True,
    help="With --video: of the film that is written.",
)
@click.option("--crf", type=click.IntRange(0, 255), help="With --video: quality, in the codec's scale.")
@click.option("--preset", help="With --video: speed of the codec, in its own words.")
@click.option(
    "--codec-threads",
    type=click.IntRange(0, 256),
    default=0,
    show_default=True,
    help="With --video: of the decoder and of the encoder each; 0: what suits the machine.",
)
@click.option(
    "-b", "--batch-size", type=shared.BatchType(), default="auto", show_default=True, help="Pictures at once."
)
@shared.engine_options
@shared.backend_option
@shared.json_option
@shared.models_dir_option
@shared.verbose_option
@shared.interrupted_with(lambda: "nothing is left behind")
def command(
    *,
    model: str | None,
    video: bool,
    size: int | None,
    pictures: int | None,
    rounds: int,
    format_: str,
    codec: str,
    crf: int | None,
    preset: str | None,
    codec_threads: int,
    batch_size: int | None,
    device: str,
    precision: str,
    backend: str,
    as_json: bool,
    models_dir: Path | None,
    verbose: int,  # noqa: ARG001 - `main` looks for it
) -> int:
    """How fast a folder or a film is translated, beside the bare network and each stage of the run.

    Test pictures are made for it. The run, the network alone, reading alone and writing alone take turns in
    one process, and the medians of the rounds count. Files go to the folder for temporary ones.

    With --video a film of H.264 with sound is translated instead. Decoder and encoder take all cores when
    they are alone, and share them in a run, with the network too where that is on the CPU: on few cores a run
    cannot have the speed of its slowest stage. --codec-threads 1 gives each of them one.

    \b
    ugatit-batch bench
    ugatit-batch bench --model ink --size 1024 --format png
    ugatit-batch bench --model ink --video --size 1080 --codec libx265

    --json prints one object: model, direction, device, engine, precision, batch_size, size, network_size
    ([width, height]), format, pictures, rounds, pictures_per_second (run, network, and of one thread decode
    and encode), ratio (run / network), slowest (decode, network or encode), ratio_to_slowest, error_levels
    (mean and max: how far results are from plain float32 on the CPU, in levels of 0 to 255), workers (threads
    that read, and that write), machine (cpu, cores, threads, gpu, system, python, torch), version.

    With --video it has no format, workers and pictures_per_second, but frames_per_second (run, network,
    decode, encode, and join: of putting the film together when all is encoded) and video (film_size, codec,
    codec_options, codec_threads, and of a run seconds_to_first, until the first picture is encoded, and
    seconds_after_last, from the last one until the film is there).
    """  # noqa: D301 - Click wants the character itself
    from ugatit_batch import __version__
    from ugatit_batch.display.tables import show_film_throughput, show_throughput
    from ugatit_batch.images.write import Encoding
    from ugatit_batch.settings import Settings, choose_sizing
    from ugatit_engines.devices import choose_device, split_devices
    from ugatit_engines.measure import (
        WORKERS,
        Workload,
        alternate,
        describe_machine,
        error_levels,
        median,
        summarize,
    )
    from ugatit_engines.measure_film import WORKERS as FILM_WORKERS
    from ugatit_engines.measure_film import FilmWorkload
    from ugatit_engines.specimens import write_film, write_pictures
    from ugatit_engines.torch_engine import load_generator

    size = _check(video, size)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ugatit-batch-")))
        bundle = stack.enter_context(_opened(model, models_dir, scratch, video))
        direction = next(iter(bundle.directions))
        chosen = choose_device(split_devices(device)[0])
        sizing = choose_sizing(bundle)
        translator = shared.open_translator(
            bundle,
            direction,
            sizing,
            device=device,
            precision=precision,
            backend=backend,
            batch_size=batch_size,
            models_dir=models_dir,
        )
        on_gpu = chosen.type == "cuda"
        many = _LEAST_OF_FILM if video else _LEAST * translator.batch_size
        count = pictures or (many if on_gpu else _LEAST)
        click.echo(f"{bundle.name} · {translator.describe()}", err=True)
        words = f"{_width(size)}×{size} in a film" if video else f"{size}×{size}"
        click.echo(f"{count} pictures of {words}, {rounds} rounds after a warm-up …", err=True)
        (scratch / "outputs").mkdir()
        work: Workload | FilmWorkload
        if video:
            film = scratch / "film.mp4"
            write_film(film, count, _width(size), size)
            options = _film_options(codec, crf, preset, codec_threads, on_gpu=on_gpu)
            settings = Settings(sizing, precision=translator.precision, film=options)
            work = FilmWorkload(
                film, count, translator, bundle.digest(direction), settings, scratch / "outputs"
            )
        else:
            folder = scratch / "pictures"
            folder.mkdir()
            write_pictures(folder, count, size)
            settings = Settings(sizing, Encoding(cast(Any, format_)), precision=translator.precision)
            work = Workload(folder, translator, bundle.digest(direction), settings, scratch / "outputs")
        measured = []
        for rates in alternate(work.contestants(), rounds):
            measured.append(rates)
            ratio = rates["run"] / rates["network"]
            click.echo(f"round {len(measured)}: run / network {ratio:.3f}", err=True)
        machine = describe_machine(chosen)
        throughput = summarize(measured, FILM_WORKERS if video else WORKERS)
        speeds = {name: round(median(measured, name), 4) for name in measured[0]}
        error = error_levels(translator, load_generator(bundle, direction), work.frames())
        if not as_json:
            if isinstance(work, FilmWorkload):
                show_film_throughput(throughput, speeds["join"], work.coding.encoder, machine, error)
            else:
                show_throughput(throughput, machine, WORKERS, error)
            return 0
        line = {
            "model": bundle.name,
            "direction": direction,
            "device": str(chosen),
            "engine": translator.describe(),
            "precision": translator.precision,
            "batch_size": translator.batch_size,
            "size": size,
            "network_size": list(work.network_size),
            **({} if video else {"format": format_}),
            "pictures": count,
            "rounds": rounds,
            "frames_per_second" if video else "pictures_per_second": speeds,
            "ratio": round(throughput.ratio, 4),
            "slowest": throughput.slowest,
            "ratio_to_slowest": round(throughput.ratio_to_slowest, 4),
            "error_levels": {"mean": round(error.mean, 4), "max": error.max},
            **(_describe(work) if isinstance(work, FilmWorkload) else {"workers": WORKERS}),
            "machine": dataclasses.asdict(machine),
            "version": __version__,
        }
        click.echo(json.dumps(line, ensure_ascii=False))
    return 0


def _check(video: bool, size: int | None) -> int:
    """The size that was asked for, or the usual one.

    Raises:
        UsageError: the options do not go together.
    """
    context = click.get_current_context()
    for option in _OF_PICTURES if video else _OF_FILMS:
        # Variables may stay set.
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            flag = option.strip("_").replace("_", "-")
            raise click.UsageError(f"--{flag} is {'not for' if video else 'for'} --video.")
    if size is None:
        return _LINES if video else _SIDE
    if video and (size % 2 or size > _MOST_LINES):
        raise click.UsageError(f"--size {size}: with --video an even number up to {_MOST_LINES}.")
    return size


def _width(lines: int) -> int:
    """Of a film of 16:9, even."""
    return round(lines * 8 / 9) * 2


def _film_options(
    codec: str, crf: int | None, preset: str | None, threads: int, *, on_gpu: bool
) -> FilmOptions:
    """As `translate` has them, but in a container that takes the codec."""
    from ugatit_batch.video.encoders import ENCODERS
    from ugatit_batch.video.info import FilmOptions

    encoder = ENCODERS.get(codec)
    return FilmOptions(
        format="auto" if encoder is None or "mp4" in encoder.containers else "mkv",
        codec=cast(Any, codec),
        crf=crf,
        preset=preset,
        hwaccel="auto" if on_gpu else "none",
        threads=threads,
    )


def _describe(work: FilmWorkload) -> dict[str, object]:
    phases = work.phases[1:]  # without the warm-up's
    return {
        "video": {
            "film_size": list(work.film_size),
            "codec": work.coding.encoder,
            "codec_options": work.coding.options,
            "codec_threads": work.coding.threads,
            "seconds_to_first": round(statistics.median(one.first for one in phases), 4),
            "seconds_after_last": round(statistics.median(one.last for one in phases), 4),
        }
    }


@contextlib.contextmanager
def _opened(model: str | None, models_dir: Path | None, scratch: Path, video: bool) -> Iterator[Bundle]:
    """The model that was named, or one of random weights."""
    if model is not None:
        with shared.opened_model(model, models_dir) as bundle:
            yield bundle
        return

    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_engines.specimens import LARGEST_SIDE, write_random_bundle

    longest = _FILM_LONGEST if video else LARGEST_SIDE
    yield write_random_bundle(scratch / "model", GeneratorConfig(), longest=longest)
