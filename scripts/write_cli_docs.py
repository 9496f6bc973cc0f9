"""Write docs/cli.md from what `--help` says, so that the two cannot differ."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ugatit_batch.cli import cli

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"

INTRODUCTION = """# Command line

Options can also come from variables: `UGATIT_BATCH_TRANSLATE_FORMAT=png` is `translate --format png`;
the models folder is `UGATIT_BATCH_MODELS_DIR` for every command. A flag wins over a variable. Results for
programs go to stdout (`--json`), progress and messages to stderr.

| exit code | |
|---|---|
| 0 | all done, or done already |
| 1 | some inputs failed |
| 2 | wrong usage |
| 3 | nothing to do: no picture and no film in the inputs, no engine to remove |
| 4 | something is lacking or broken (a model, a GPU, memory, a library), or the output folder is in use |
| 5 | the disk is full |
| 130 | interrupted; the same command goes on |

`translate --json` and `--report FILE` give a line a file: `{"input", "output", "status", "error",
"seconds", "frames", "attention", "notes", "flicker"}`, where `status` is `done`, `skipped` or `failed`,
`notes` say what was reduced or left out, and `flicker` is `null` or, for a film, `{"source", "result"}`. With
`--dry-run`, `--json` gives `input`, `output` and the status `planned`. `models list --json` gives `[{"name",
"directions", "size", "light", "bundled", "path", "engines"}]`, an engine being `{"path", "flavor",
"precision", "size", "direction"}`; a damaged model has `name`, `path` and `error`, a damaged engine `path`
and `error`. `models info --json` gives one object: `name`, `path`, `bundled`, `manifest`, `parameters`,
`engines`; an engine has its `path`, what its sidecar says (`build-engine --json` gives the same), `fits`
(whether this machine can use it) and `misfit` (`null`, or why not). `doctor --json` gives one object:
`version`, `python`, `system`, `torch`, `cuda`, `cpu`, `gpus`, `default`, `tensorrt`, `packages`,
`models_dir`, `models`, `findings`; a finding is `{"topic", "state", "text", "hint"}`, where `state` is `ok`,
`missing` (optional, and not there) or `problem` (broken: the exit code is 4). `train --json` gives a line a
report: `step`, `steps`, `losses`, `learning_rate`, `steps_per_second`, `sample`, `checkpoint`.

The rest of this page is what `--help` prints.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    parts += [f"## `{name}`\n\n```\n{text}\n```\n" for name, text in _helps("ugatit-batch", cli, None)]
    return "\n".join(parts)


def _helps(name: str, command: click.Command, parent: click.Context | None) -> list[tuple[str, str]]:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, info_name=name.rsplit(maxsplit=1)[-1], parent=parent, **settings)
    found = [(name, command.get_help(context))]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            inner = command.get_command(context, child)
            if inner is not None:
                found += _helps(f"{name} {child}", inner, context)
    return found


if __name__ == "__main__":
    TARGET.write_text(render(), "utf-8")
    sys.stdout.write(f"{TARGET} is written\n")
