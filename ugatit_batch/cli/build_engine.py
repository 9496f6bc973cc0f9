"""`ugatit-batch build-engine`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_engines.machine import Gpu
    from ugatit_engines.profiles import Profile
    from ugatit_engines.tensorrt_library import Capability

_CAPABILITIES: dict[str, Capability | None] = {"auto": None, "8.0+": (8, 0), "7.5": (7, 5)}


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
    metavar="model|SIDE|LEAST-MOST",
    help="Sides of the pictures in pixels, such as 256 or 8-512; model is what translate gives the model.",
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
    ugatit-batch build-engine ink --size 8-2048 --batch 1,2,4
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
    built: list[str] = []
    # Between two steps of the library; an older engine stays as it was.
    with shared.interrupted_with(lambda: _kept(built)):
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
                    gpu=gpu,
                    progress=display.show,
                )
            built.append(bundle.describe_direction(direction))
            click.echo(describe(found), err=True)
            if as_json:
                click.echo(json.dumps(found.to_json()))
    click.echo(_next_step(bundle, directions[0], profile, folder, gpu), err=True)


def _kept(built: list[str]) -> str:
    return f"the engine for {built[0]} was written, no other" if built else "no engine was written"


def _find(model: str, models_dir: Path | None) -> Bundle:
    from ugatit_batch.errors import ModelNotFoundError, UsageError
    from ugatit_batch.models import find_model

    try:
        return find_model(model, shared.models_folder(models_dir))
    except ModelNotFoundError as error:
        if not Path(model).is_file():
            raise
        raise UsageError(
            f"{model}: engines are kept with a model, and this is a file",
            f"take it in first: {shlex.join(['ugatit-batch', 'models', 'import', model])}",
        ) from error


def _choose_directions(bundle: Bundle, *, reverse: bool, both: bool) -> list[Direction]:
    if both and reverse:
        raise click.UsageError("--both and --reverse: give one of them.")
    if both:
        return list(bundle.directions)
    return [shared.choose_direction(bundle, reverse)]


def _next_step(bundle: Bundle, direction: Direction, profile: Profile, folder: Path, gpu: Gpu | None) -> str:
    from ugatit_engines.engine_fit import address

    name, *place = address(bundle, folder)
    words = ["ugatit-batch", "translate", "./photos", "--model", name, *place]
    if direction == "b2a":
        words.append("--reverse")
    if profile.height.most != bundle.working_size.side:
        words += ["--size", str(profile.height.most)]
    if gpu is None:
        use = shlex.join([*words, "--backend", "tensorrt"])
        return f"this machine has no NVIDIA GPU that PyTorch can use; on one that has: {use}"
    return f"use it: {shlex.join(words)}"
