"""`ugatit-batch bench`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.bundle import Bundle

_LEAST = 16  # pictures on a CPU, and batches on a GPU: start and end of a run weigh little then


@click.command()
@click.option(
    "-m", "--model", help="A model's name, its folder, or a published checkpoint.  [default: random weights]"
)
@click.option(
    "--size",
    type=click.IntRange(16, 16384),
    default=256,
    show_default=True,
    help="Side of the test pictures in pixels. Without --model the network sees them in this size.",
)
@click.option(
    "--pictures", type=click.IntRange(1), help="In a round.  [default: 16 on a CPU, 16 batches on a GPU]"
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
    help="Of the outputs.",
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
    size: int,
    pictures: int | None,
    rounds: int,
    format_: str,
    batch_size: int | None,
    device: str,
    precision: str,
    backend: str,
    as_json: bool,
    models_dir: Path | None,
    verbose: int,  # noqa: ARG001 - `main` looks for it
) -> int:
    """How fast a folder is translated, beside the bare network and each stage of the run.

    Test pictures are made for it. The run, the network alone, reading alone and writing alone take turns in
    one process, and the medians of the rounds count. Files go to the folder for temporary ones.

    \b
    ugatit-batch bench
    ugatit-batch bench --model ink --size 1024 --format png

    --json prints one object: model, direction, device, engine, precision, batch_size, size, network_size
    ([width, height]), format, pictures, rounds, pictures_per_second (run, network, and of one thread decode
    and encode), ratio (run / network), slowest (decode, network or encode), ratio_to_slowest, error_levels
    (mean and max: how far results are from plain float32 on the CPU, in levels of 0 to 255), workers (threads
    that read, and that write), machine (cpu, cores, threads, gpu, system, python, torch), version.
    """  # noqa: D301 - Click wants the character itself
    from ugatit_batch import __version__
    from ugatit_batch.display.tables import show_throughput
    from ugatit_batch.images.write import Encoding
    from ugatit_batch.jobs import Settings, choose_sizing
    from ugatit_engines.devices import choose_device
    from ugatit_engines.measure import (
        WORKERS,
        Workload,
        alternate,
        describe_machine,
        error_levels,
        summarize,
    )
    from ugatit_engines.specimens import write_pictures
    from ugatit_engines.torch_engine import load_generator

    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ugatit-batch-")))
        bundle = stack.enter_context(_opened(model, models_dir, scratch))
        direction = next(iter(bundle.directions))
        chosen = choose_device(device)
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
        count = pictures or _LEAST * (translator.batch_size if chosen.type == "cuda" else 1)
        click.echo(f"{bundle.name} · {translator.describe()}", err=True)
        click.echo(f"{count} pictures of {size}×{size}, {rounds} rounds after a warm-up …", err=True)
        for name in ("pictures", "outputs"):
            (scratch / name).mkdir()
        write_pictures(scratch / "pictures", count, size)
        settings = Settings(sizing, Encoding(cast(Any, format_)), precision=translator.precision)
        workload = Workload(
            scratch / "pictures", translator, bundle.digest(direction), settings, scratch / "outputs"
        )
        measured = []
        for rates in alternate(workload.contestants(), rounds):
            measured.append(rates)
            ratio = rates["run"] / rates["network"]
            click.echo(f"round {len(measured)}: run / network {ratio:.3f}", err=True)
        throughput, machine = summarize(measured), describe_machine(chosen)
        error = error_levels(translator, load_generator(bundle, direction), workload.frames())
        if not as_json:
            show_throughput(throughput, machine, WORKERS, error)
            return 0
        speeds = ("run", "network", "decode", "encode")
        line = {
            "model": bundle.name,
            "direction": direction,
            "device": str(chosen),
            "engine": translator.describe(),
            "precision": translator.precision,
            "batch_size": translator.batch_size,
            "size": size,
            "network_size": list(workload.network_size),
            "format": format_,
            "pictures": count,
            "rounds": rounds,
            "pictures_per_second": {name: round(getattr(throughput, name), 4) for name in speeds},
            "ratio": round(throughput.ratio, 4),
            "slowest": throughput.slowest,
            "ratio_to_slowest": round(throughput.ratio_to_slowest, 4),
            "error_levels": {"mean": round(error.mean, 4), "max": error.max},
            "workers": WORKERS,
            "machine": dataclasses.asdict(machine),
            "version": __version__,
        }
        click.echo(json.dumps(line, ensure_ascii=False))
    return 0


@contextlib.contextmanager
def _opened(model: str | None, models_dir: Path | None, scratch: Path) -> Iterator[Bundle]:
    """The model that was named, or one of random weights."""
    if model is not None:
        with shared.opened_model(model, models_dir) as bundle:
            yield bundle
        return

    from ugatit_batch.bundle import GeneratorConfig
    from ugatit_engines.specimens import write_random_bundle

    yield write_random_bundle(scratch / "model", GeneratorConfig())
