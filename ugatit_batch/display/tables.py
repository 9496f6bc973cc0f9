"""What is shown once: models, throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ugatit_batch.display.console import new_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ugatit_batch.models import FoundModel
    from ugatit_engines.measure import ErrorLevels, Machine, Throughput

_UNLIMITED = 10_000  # characters a line


def show_models(models: Sequence[FoundModel]) -> None:
    """The table of `models list`, on stdout."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "translates", "size", "kind", "where"):
        table.add_column(column, overflow="fold")
    for model in models:
        if model.bundle is None:
            table.add_row(escape(model.path.name), "[red]damaged[/red]", "", "", escape(str(model.path)))
            continue
        working = model.bundle.working_size
        size = f"{working.side}²" if working.mode == "square" else f"own, up to {working.side}"
        kind = "light" if model.bundle.generator.light else "full"
        where = "comes with ugatit-batch" if model.bundled else str(model.path)
        directions = escape(model.bundle.describe_directions())
        table.add_row(escape(model.bundle.name), directions, size, kind, escape(where))
    console = new_console(stderr=False)
    if not console.is_terminal:
        # A line a model for programs that read it, however long its path.
        console.width = _UNLIMITED
    console.print(table)


def show_throughput(throughput: Throughput, machine: Machine, workers: int, error: ErrorLevels) -> None:
    """The table of `bench`, on stdout; `workers` threads read, and as many write."""
    table = _new_figures()
    table.add_row("folder run", f"{throughput.run:.4g}", "pictures/s, reading and writing included")
    table.add_row("bare network", f"{throughput.network:.4g}", "pictures/s, in memory")
    table.add_row("ratio", f"{throughput.ratio:.3f}", "folder run / bare network")
    table.add_row("decode", f"{throughput.decode:.4g}", f"pictures/s a thread; a run has {workers}")
    table.add_row("encode", f"{throughput.encode:.4g}", f"pictures/s a thread; a run has {workers}")
    _show_with_rest(table, throughput, machine, error)


def show_film_throughput(
    throughput: Throughput, join: float, encoder: str, machine: Machine, error: ErrorLevels
) -> None:
    """The table of `bench --video`, on stdout; `join` in pictures a second."""
    table = _new_figures()
    table.add_row("film run", f"{throughput.run:.4g}", "frames/s, decoding, encoding and joining included")
    table.add_row("bare network", f"{throughput.network:.4g}", "frames/s, in memory")
    table.add_row("ratio", f"{throughput.ratio:.3f}", "film run / bare network")
    table.add_row("decode", f"{throughput.decode:.4g}", "frames/s alone, to what the network sees")
    table.add_row("encode", f"{throughput.encode:.4g}", f"frames/s alone, {escape(encoder)}")
    table.add_row("join", f"{join:.4g}", "frames/s, when all are encoded")
    _show_with_rest(table, throughput, machine, error)


def _new_figures() -> Table:
    """Columns for names, figures and what they are of."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    return table


def _show_with_rest(table: Table, throughput: Throughput, machine: Machine, error: ErrorLevels) -> None:
    share = f"the run has {throughput.ratio_to_slowest:.0%} of its speed"
    table.add_row("slowest", throughput.slowest, share)
    table.add_row(
        "error", f"{error.mean:.3f}", f"of 255 levels on average, {error.max} at most, beside float32"
    )
    gpu = "no GPU used" if machine.gpu is None else machine.gpu
    cpu = f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads"
    console = new_console(stderr=False)
    console.print(table)
    where = f"{cpu} · {gpu} · {machine.system} · Python {machine.python} · PyTorch {machine.torch}"
    console.print(escape(where))
