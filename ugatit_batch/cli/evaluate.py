"""`ugatit-batch evaluate`."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ugatit_training.evaluate import Evaluation, Subject
    from ugatit_training.kid import Protocol

_GPU_BATCH = 16


@click.command()
@click.argument("model")
@click.option(
    "--source",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Test pictures of domain A, such as testA.",
)
@click.option(
    "--target",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Test pictures of domain B, such as testB.",
)
@click.option("--reverse", is_flag=True, help="B → A: translate --target, compare with --source.")
@click.option(
    "--protocol",
    type=click.Choice(["kid", "kid-paper", "both", "none"]),
    default="both",
    show_default=True,
    help="Of KID; none writes the pictures alone.",
)
@click.option(
    "--features",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Feature network: weights of torch-fidelity's Inception, or a file of torch.export or TorchScript.  "
    "[default: Inception, fetched once]",
)
@click.option(
    "-b",
    "--batch-size",
    type=shared.BatchType(),
    default="auto",
    show_default=True,
    help="Pictures at once; auto is 1 on a CPU and 16 on a GPU.",
)
@click.option("-d", "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results.  [default: evaluation-MODEL]",
)
@shared.json_option
@shared.models_dir_option
@shared.verbose_option
def command(
    *,
    model: str,
    source: Path,
    target: Path,
    reverse: bool,
    protocol: str,
    features: Path | None,
    batch_size: int | None,
    device: str,
    output: Path | None,
    as_json: bool,
    models_dir: Path | None,
    verbose: int,  # noqa: ARG001 - `main` looks for it
) -> int:
    """Measure a model on test pictures, and draw what it does.

    MODEL is a model's name or folder, a run folder (its newest checkpoint counts) or a checkpoint of a run.
    Only a run has the discriminators whose attention is drawn beside the generator's.

    \b
    ugatit-batch evaluate cat2dog --source ./cat2dog/testA --target ./cat2dog/testB
    ugatit-batch evaluate runs/cat2dog --source ./testA --target ./testB --protocol none
    ugatit-batch evaluate cat2dog --source ./testA --target ./testB --reverse --features inception.pth

    OUTPUT gets evaluation.json, contact-sheet.png, attention.png (where a network has attention), rho.png
    (where a layer has ρ) and losses.png (of a run). --json prints evaluation.json's object in one line.
    """  # noqa: D301 - Click wants the character itself
    import torch

    from ugatit_batch.errors import MemoryLacksError, UsageError
    from ugatit_engines.devices import choose_device
    from ugatit_training.data import find_domains
    from ugatit_training.evaluate import evaluate, work, write_loss_chart
    from ugatit_training.features import open_features
    from ugatit_training.kid import PROTOCOLS

    if protocol == "none" and features is not None:
        raise UsageError("--features does nothing with --protocol none", "leave one of them out")
    chosen = choose_device(device)
    pictures = find_domains(source, target)
    protocols: tuple[Protocol, ...] = (
        PROTOCOLS if protocol == "both" else tuple(p for p in PROTOCOLS if p == protocol)
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(shared.interrupted_with(lambda: "the same command starts anew"))
        name, about, subject, run = stack.enter_context(_opened(model, models_dir, reverse))
        network = open_features(features, chosen) if protocols else None
        try:
            for module in (*subject.generators.values(), *subject.discriminators.values()):
                module.to(chosen)
        except torch.OutOfMemoryError as error:
            raise MemoryLacksError(f"{name}: does not fit into {chosen}", "use --device cpu") from error
        folder = output or Path(f"evaluation-{name}{'-reverse' if reverse else ''}")
        direction: Any = "b2a" if reverse else "a2b"
        click.echo(f"{name} · {subject.title(direction)} · {chosen}", err=True)
        bar = stack.enter_context(_progress(work(pictures, network)))
        found = evaluate(
            subject,
            direction,
            pictures,
            folder,
            features=network,
            protocols=protocols,
            batch_size=batch_size or (_GPU_BATCH if chosen.type == "cuda" else 1),
            about=about,
            progress=bar,
        )
    if run is not None:
        write_loss_chart(run, folder)
    _show(found, folder)
    if as_json:
        click.echo(json.dumps({**about, **found.to_json()}, ensure_ascii=False))
    return 0


@contextlib.contextmanager
def _opened(
    model: str, models_dir: Path | None, reverse: bool
) -> Iterator[tuple[str, dict[str, Any], Subject, Path | None]]:
    """Name, what it is, networks, and the run folder where there is one."""
    from ugatit_batch.errors import ModelNotFoundError
    from ugatit_engines.torch_engine import load_generator
    from ugatit_training.evaluate import Subject
    from ugatit_training.restore import find_checkpoint, restore_networks

    checkpoint = find_checkpoint(Path(model))
    if checkpoint is not None:
        restored = restore_networks(checkpoint)
        name = f"{restored.run.resolve().name}-{restored.step}"
        about: dict[str, Any] = {
            "model": name,
            "checkpoint": str(checkpoint),
            "step": restored.step,
            "weights": restored.weights,
        }
        yield name, about, Subject.of_run(restored.networks, restored.info.domains), restored.run
        return
    with contextlib.ExitStack() as stack:
        try:
            bundle = stack.enter_context(shared.opened_model(model, models_dir))
        except ModelNotFoundError as error:
            hint = error.hint
            if Path(model).name != model:
                hint = "give a model's name, the folder of a model or a run, or a checkpoint in one"
            raise ModelNotFoundError(f"{model}: no such model, run or checkpoint", hint) from error
        shared.choose_direction(bundle, reverse)
        generators = {direction: load_generator(bundle, direction) for direction in bundle.directions}
        about = {"model": bundle.name, "checkpoint": None, "step": bundle.training.get("step")}
        about["weights"] = bundle.training.get("weights")
        yield bundle.name, about, Subject(generators, {}, bundle.domains), None


@contextlib.contextmanager
def _progress(pictures: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; gives the function that moves it on."""
    with contextlib.ExitStack() as stack:
        bar: Any = None
        if pictures and sys.stderr.isatty():
            bar = stack.enter_context(click.progressbar(length=pictures, label="pictures", file=sys.stderr))
        yield lambda done: None if bar is None else bar.update(done)


def _show(found: Evaluation, folder: Path) -> None:
    for name, score in found.scores.items():
        kind = f"± {score.error:.3f} ({score.error_kind}, {score.parts} parts)"
        click.echo(f"{name:<20}{score.value:9.3f} {kind}", err=True)
    if found.scores:
        click.echo(f"{'':<20}×100, lower is better; features: {found.features}", err=True)
    click.echo(f"results are in {folder}", err=True)
