"""`ugatit-batch doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ugatit_batch.cli import shared

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@shared.json_option
@shared.models_dir_option
@shared.verbose_option
def command(*, as_json: bool, models_dir: Path | None, verbose: int) -> int:
    """What is installed here, what this machine can run, and how to get the rest.

    Says which device and precision `translate` will use and why, what TensorRT can build and run here, and
    which engines of your models fit. It changes nothing. What is missing is optional; what is broken (a
    library that cannot be loaded, a damaged model or engine, a models folder that cannot be written) makes
    the exit code 4. Weights and engines are not read: `models info MODEL` compares their checksums.

    --json prints one object: version, python, system, torch, cuda (that PyTorch was built for, or null), cpu
    (name, cores, memory in bytes), gpus (name, compute_capability, memory), default (device, precision,
    reason), tensorrt (flavor, version or null, error or null, builds, gpus that its engines run on by
    number), packages (name: version or null), models_dir, models (name, path, bundled, error or null,
    engines as in `models info --json`), findings (topic, state: ok, missing or problem, text, hint).
    """
    from ugatit_engines.doctor import diagnose

    diagnosis = diagnose(shared.models_folder(models_dir))
    if as_json:
        click.echo(json.dumps(diagnosis.to_json(), indent=2, ensure_ascii=False))
    else:
        from ugatit_batch.display.doctor import show_diagnosis

        show_diagnosis(diagnosis, verbose=verbose > 0)
    return 4 if diagnosis.count("problem") else 0
