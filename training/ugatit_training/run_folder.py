"""The folder of one training run, beside its checkpoints: what it is, and what it has measured.

runs/NAME/
  config.toml      the resolved config
  run.json         the run's own mark, its data, its domains, and the model that it started from
  pictures.json    which pictures were found readable
  metrics.jsonl    one line a report
  samples/         sheets to look at
  evaluations/     sheets and numbers of evaluations on the way, where they were asked for
  tensorboard/     the same for TensorBoard, where it was asked for
  checkpoints/
"""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ugatit_batch.atomic import explain_os_error, replacing
from ugatit_batch.bundle import MANIFEST, load_bundle
from ugatit_batch.errors import ConfigError, OutputBusyError
from ugatit_training.checkpoint import list_checkpoints
from ugatit_training.config import TrainConfig, config_to_toml, parse_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ugatit_training.loop import Step

_MAY_CHANGE = frozenset(
    {
        *("steps", "workers", "report_every", "sample_every", "checkpoint_every", "keep_checkpoints"),
        *("evaluate_every", "working_mode", "working_side"),
        # How a step is computed, not what it computes.
        *("tf32", "share_fakes", "join_passes", "channels_last", "fused_adam", "compile", "cuda_graphs"),
        "checkpoint_activations",
    }
)


@dataclass(frozen=True)
class RunInfo:
    """What a run is, beside its config."""

    mark: str
    """Random; tells this run's model from another's of the same name."""
    source: str
    """Folder of domain A, absolute."""
    target: str
    """Folder of domain B, absolute."""
    domains: tuple[str, str]
    """Their names."""
    pictures: tuple[int, int]
    """How many there are of each."""
    sources: tuple[str, ...] = ()
    """Where the pictures come from, for the model's description."""
    licence: str = ""
    """Under which terms the model may be used."""
    initial: Mapping[str, str] = field(default_factory=dict)
    """The model that the generators started from, as `fine_tuning.Start.record` has it; empty for none."""


def check_run(run: Path, config: TrainConfig, wanted: RunInfo) -> RunInfo:
    """Look whether a folder may hold this run: it is free, or it holds the same one. Writes nothing.

    Args:
        run: the folder.
        config: what is to be trained.
        wanted: on what, with the mark of `mark_of`; its `sources` and `licence`, where they say anything,
            replace older ones, and so does its `initial` while there is no checkpoint.

    Returns:
        What the folder is to say of the run.

    Raises:
        ConfigError: the folder holds a run with another config, other pictures or another beginning, one
            that is further on, or one of which nobody can tell.
    """
    _check_complete(run)
    info = run / "run.json"
    if not info.is_file():
        return wanted
    found = read_info(info)
    _check_same_config(run, config)
    _check_steps(run, config)
    for name in ("source", "target", "domains"):
        if getattr(found, name) != getattr(wanted, name):
            raise ConfigError(
                f"{run}: this run was started with {name} {getattr(found, name)}, "
                f"not {getattr(wanted, name)}",
                "use another --name, or give the same folders",
            )
    _check_same_start(run, found.initial, wanted.initial)
    return replace(
        wanted,
        sources=wanted.sources or found.sources,
        licence=wanted.licence or found.licence,
        initial=found.initial if list_checkpoints(run / "checkpoints") else wanted.initial,
    )


def open_run(run: Path, config: TrainConfig, wanted: RunInfo) -> RunInfo:
    """Make a run folder, or check that an existing one is the same run.

    Args:
        run: the folder.
        config: what is to be trained.
        wanted: as in `check_run`.

    Returns:
        What the folder now says of the run.

    Raises:
        ConfigError: as `check_run`.
        DiskFullError, OutputError: it cannot be written.
    """
    wanted = check_run(run, config, wanted)
    with replacing(run / "run.json") as partial:
        partial.write_text(json.dumps(asdict(wanted), indent=2, ensure_ascii=False) + "\n", "utf-8")
    with replacing(run / "config.toml") as partial:
        partial.write_text(config_to_toml(config), "utf-8")
    return wanted


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep a run folder to oneself; made where it is missing.

    Raises:
        OutputBusyError: another training has it.
        DiskFullError, OutputError: it cannot be written.
    """
    lock = FileLock(run / ".lock")
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputBusyError(
            f"{run}: another training writes to this folder", "wait until it ends, or use another --name"
        ) from error
    except OSError as error:
        raise explain_os_error(error, run) from error
    try:
        yield
    finally:
        lock.release()


def mark_of(run: Path) -> str:
    """The mark of the run in a folder, or a new one where there is none.

    Raises:
        ConfigError: `run.json` is damaged.
    """
    info = run / "run.json"
    return read_info(info).mark if info.is_file() else secrets.token_hex(8)


def read_info(path: Path) -> RunInfo:
    """Read `run.json`.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        for name in ("domains", "pictures", "sources"):
            data[name] = tuple(data.get(name, ()))
        data["initial"] = dict(data.get("initial", {}))
        return RunInfo(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged: {error}", "use another --name") from error


def read_config(run: Path) -> TrainConfig:
    """Read a run's `config.toml`.

    Raises:
        ConfigError: it is missing, cannot be read, or is no config.
    """
    path = run / "config.toml"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            f"{path}: cannot be read: {reason}", "bring that file back, or use another run"
        ) from error
    return parse_config(text, str(path))


def _check_complete(run: Path) -> None:
    """Without these files, checkpoints could be gone on with under any config and on any pictures."""
    for name in ("config.toml", "run.json"):
        if not (run / name).is_file() and list_checkpoints(run / "checkpoints"):
            raise ConfigError(
                f"{run}: a run without its {name}: it cannot be told whether it is the same one",
                "bring it back, or use another --name",
            )


def _check_same_config(run: Path, config: TrainConfig) -> None:
    if not (run / "config.toml").is_file():
        return
    before = asdict(read_config(run))
    now = asdict(config)
    changed = [k for k in now if now[k] != before[k] and k not in _MAY_CHANGE]
    if changed:
        words = ", ".join(f"{k} was {before[k]}, now {now[k]}" for k in changed)
        raise ConfigError(f"{run}: a run with another config is there: {words}", "use another --name")


def _check_same_start(run: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """A model made anew under the same name, and a copy under another, are the same beginning."""
    digests = [{k: v for k, v in initial.items() if k != "model"} for initial in (before, now)]
    if before.get("model") == now.get("model") or (before and now and digests[0] == digests[1]):
        return
    started = f"from model {before.get('model')}" if before else "without --init-from"
    same = f"--init-from {before.get('model')}" if before else "leave --init-from out"
    raise ConfigError(f"{run}: this run was started {started}", f"use another --name, or {same}")


def _check_steps(run: Path, config: TrainConfig) -> None:
    checkpoints = list_checkpoints(run / "checkpoints")
    if checkpoints and checkpoints[-1].step > config.steps:
        raise ConfigError(
            f"{run}: already at step {checkpoints[-1].step}, beyond steps = {config.steps}",
            f"use --steps {checkpoints[-1].step} or more, or another --name",
        )


def append_metrics(run: Path, report: Step) -> None:
    """Add one line to `metrics.jsonl`.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    line = {
        "step": report.step,
        "learning_rate": report.learning_rate,
        "steps_per_second": round(report.steps_per_second, 4),
        **report.losses,
    }
    _append(run / "metrics.jsonl", line)


def _append(path: Path, line: Mapping[str, float]) -> None:
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
    except OSError as error:
        raise explain_os_error(error, path) from error


def append_scores(run: Path, step: int, scores: Mapping[str, float]) -> None:
    """Add what an evaluation found to `metrics.jsonl`, as a line of its own.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    if scores:
        _append(run / "metrics.jsonl", {"step": step, **scores})


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`.

    Left out are a last line that a kill cut short, and lines that are not JSON objects of numbers with a
    step.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text("utf-8", errors="replace").split("\n")
    return [found for line in lines[:-1] if (found := _read_line(line)) is not None]


def _read_line(line: str) -> dict[str, float] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    return found if all(type(value) in (int, float) for value in found.values()) else None


def cut_metrics(run: Path, step: int) -> None:
    """Forget what was measured after `step`: a resumed run measures it again."""
    kept = [line for line in read_metrics(run) if line["step"] <= step]
    with replacing(run / "metrics.jsonl") as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")


def model_belongs_to(folder: Path, info: RunInfo) -> bool:
    """Whether a run may write its model to a folder: it is free, or holds this run's own."""
    return not (folder / MANIFEST).exists() or load_bundle(folder).training.get("run") == info.mark
