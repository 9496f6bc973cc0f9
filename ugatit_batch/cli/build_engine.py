"""`ugatit-batch build-engine`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_engines.machine import Gpu
    from ugatit_engines.tensorrt_library import Capability

_INTERRUPTED = 130
_CAPABILITIES: dict[str, Capability | None] = {"auto": None, "8.0+": (8, 0), "7.5": (7, 5)}


@contextlib.contextmanager
def _leaving_nothing() -> Iterator[None]:
    """Ctrl-C ends it between two steps of the library; an older engine stays as it was."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        click.echo("ugatit-batch: interrupted; no engine was written", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from interrupt


@click.command()
@click.argument("model")
@click.option("--reverse", is_flag=True, help="For B → A.")
@click.option("--both", is_flag=True, help="For both directions.")
@click.option(
    "--flavor",
    type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    show_default=True,
    help="tensorrt-rtx for GeForce and RTX cards, tensorrt for any NVIDIA GPU; auto is what suits yours.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Of convolutions; normalisation is in float32 whatever this says.",
)
@click.option(
    "--size",
    default="model",
    show_default=True,
    metavar="model|SIDE|WxH|LEAST-MOST",
    help="Of the pictures in pixels, such as 256, 512x384 or 128-512; model is the model's own.",
)
@click.option(
    "-b",
    "--batch",
    default="auto",
    show_default=True,
    metavar="auto|LEAST,BEST,MOST",
    help="Pictures at once, such as 1,8,32; auto is fewer where pictures are large.",
)
@click.option(
    "--compute-capability",
    type=click.Choice(list(_CAPABILITIES)),
    default="auto",
    show_default=True,
    help="GPUs that tensorrt-rtx builds for: 8.0+ is Ampere (RTX 30) and later, 7.5 Turing (RTX 20).",
)
@click.option(
    "-d", "--device", default="auto", show_default=True, help="GPU that tensorrt builds on: cuda:1."
)
@shared.json_option
@shared.models_dir_option
@shared.verbose_option
@_leaving_nothing()
def command(
    *,
    model: str,
    reverse: bool,
    both: bool,
    flavor: str,
    precision: str,
    size: str,
    batch: str,
    compute_capability: str,
    device: str,
    as_json: bool,
    models_dir: Path | None,
    verbose: int,  # noqa: ARG001 - `main` looks for it
) -> None:
    """Build TensorRT engines of a model.

    `translate` then takes them by itself where they fit. Engines of tensorrt-rtx are built on any machine,
    without a GPU too, and run on every GeForce and RTX card; those of tensorrt are built on the GPU that
    they are for.

    \b
    ugatit-batch build-engine cat2dog
    ugatit-batch build-engine ink --size 64-2048 --batch 1,2,4
    ugatit-batch build-engine cat2dog --flavor tensorrt --precision fp32

    --json prints a line an engine: what its sidecar says, and its path.
    """  # noqa: D301 - Click wants the character itself
    from ugatit_batch.display.build import BuildDisplay
    from ugatit_engines.build_engine import build_engine, choose_targets
    from ugatit_engines.engine_files import describe, engines_folder
    from ugatit_engines.engine_fit import choose_flavor
    from ugatit_engines.machine import choose_gpu, this_machine
    from ugatit_engines.profiles import choose_profile

    bundle = _find(model, models_dir)
    directions = _choose_directions(bundle, reverse=reverse, both=both)
    profile = choose_profile(bundle, size, batch)
    machine = this_machine()
    gpu = choose_gpu(device, machine)
    kind = choose_flavor(gpu, machine) if flavor == "auto" else cast(Any, flavor)
    targets = choose_targets(kind, gpu, _CAPABILITIES[compute_capability])
    folder = engines_folder(bundle, shared.models_folder(models_dir))
    for direction in directions:
        title = f"{bundle.name} ({bundle.describe_direction(direction)}) · {kind}, {precision}"
        with BuildDisplay(title) as display:
            found = build_engine(
                bundle,
                direction,
                folder,
                flavor=kind,
                precision=cast(Any, precision),
                profile=profile,
                targets=targets,
                machine=machine,
                progress=display.show,
            )
        click.echo(describe(found), err=True)
        if as_json:
            click.echo(json.dumps(found.to_json()))
    click.echo(_next_step(bundle, gpu), err=True)


def _find(model: str, models_dir: Path | None) -> Bundle:
    from ugatit_batch.errors import UsageError
    from ugatit_batch.models import find_model

    if Path(model).is_file():
        raise UsageError(
            f"{model}: engines are kept with a model, and this is a file",
            f"take it in first: ugatit-batch models import {model}",
        )
    return find_model(model, shared.models_folder(models_dir))


def _choose_directions(bundle: Bundle, *, reverse: bool, both: bool) -> list[Direction]:
    if both and reverse:
        raise click.UsageError("--both and --reverse: give one of them.")
    if both:
        return list(bundle.directions)
    return [shared.choose_direction(bundle, reverse)]


def _next_step(bundle: Bundle, gpu: Gpu | None) -> str:
    use = f"ugatit-batch translate ./photos --model {bundle.name}"
    if gpu is None:
        return (
            f"this machine has no NVIDIA GPU that PyTorch can use; on one that has: {use} --backend tensorrt"
        )
    return f"use it: {use}"
