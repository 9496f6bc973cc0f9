"""What an editor will see: is its plug-in whole, does the server start, does a picture come back.

Asks through the same client as the plug-ins do. Knows nothing of how findings are shown.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ugatit_batch import __version__
from ugatit_plugins.client.ugatit_client import Client, UgatitError
from ugatit_plugins.discovery import find_running, read_address, state_dir
from ugatit_plugins.editor_places import EDITORS, TITLES, find_places, looked_in
from ugatit_plugins.installer import knows_server, look_at, read_setup, setup_of, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ugatit_plugins.editor_places import Editor, Place

State = Literal["ok", "missing", "problem"]

_SIDE = 64
"""Of the test picture, in pixels."""
_END = 15.0
"""Seconds in which a server that was asked to end does."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    state: State
    """`missing` is what could be had; `problem` is what is broken."""
    text: str
    """One line for people."""
    hint: str = ""
    """What to do next."""


@dataclass(frozen=True)
class EditorDiagnosis:
    """All that was found, and the models that editors can choose from."""

    findings: tuple[Finding, ...]
    models: tuple[str, ...] = ()
    device: str | None = None

    def count(self, state: State) -> int:
        """How many findings are of a state."""
        return sum(finding.state == state for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def diagnose_editors(
    wanted: Sequence[Editor], *, required: bool, target: Path | None = None
) -> EditorDiagnosis:
    """Look at the plug-ins, and send a test picture through the server as they would.

    A server that was not running before is ended again.

    Args:
        wanted: which editors.
        required: whether an editor or a plug-in that is not there is a problem.
        target: the folder that `install` was given; None: all that are found.
    """
    findings: list[Finding] = []
    # Plug-ins of one installation of ugatit-batch all know the same.
    setups: dict[str, dict[str, Any]] = {}
    absent: State = "problem" if required else "missing"
    for editor in wanted:
        places = find_places(editor, target)
        if not places:
            findings.append(_no_editor(editor, absent))
        for place in places:
            findings += _look_at_place(place, absent, target)
            setup = read_setup(place)
            if setup is not None and knows_server(setup):
                setups[str((setup["command"], setup["state"]))] = setup
    models: tuple[str, ...] = ()
    device: str | None = None
    for setup in setups.values() or [setup_of(state_dir().absolute())]:
        seen, models, device = _try_server(setup)
        findings += seen
    return EditorDiagnosis(tuple(findings), models, device)


def all_editors() -> tuple[Editor, ...]:
    """The editors that there are plug-ins for."""
    return EDITORS


def _no_editor(editor: Editor, state: State) -> Finding:
    return Finding(
        editor,
        state,
        f"{TITLES[editor]}: never started here, there is no {looked_in(editor)}",
        "start it once and close it, or name its folder with --target, to `install` and to `doctor`",
    )


def _look_at_place(place: Place, absent: State, target: Path | None) -> Iterator[Finding]:
    found, again = look_at(place), f"ugatit-batch plugin install {place.editor}"
    if target is not None:
        again += f" --target {shlex.quote(str(target))}"
    name = title(place)
    if found.version is None:
        yield Finding(place.editor, absent, f"{name}: no plug-in in {place.folder}", again)
        return
    for fault in found.faults:
        yield Finding(place.editor, "problem", fault, again)
    if found.version != __version__:
        yield Finding(
            place.editor, "problem", f"{name}: plug-in {found.version}, ugatit-batch {__version__}", again
        )
    elif not found.faults:
        yield Finding(place.editor, "ok", f"{name}: plug-in {found.version} in {place.plugin}")
    if place.flatpak:
        yield Finding(
            place.editor,
            "missing",
            f"{name}: a sandbox that may not start programs of this system",
            "run `ugatit-batch serve` in a terminal before you translate",
        )


def _try_server(setup: dict[str, Any]) -> tuple[list[Finding], tuple[str, ...], str | None]:
    """Start the server where none runs, ask it for its models, and send it a picture."""
    findings: list[Finding] = []
    state = Path(setup["state"])
    before = find_running(state)
    models: list[dict[str, Any]] = []
    device: str | None = None
    topic = "server"
    try:
        began = time.monotonic()
        client = Client.connect(setup)
        running = before is not None and before == read_address(state)
        try:
            device = str(client.info()["device"])
            how = "was running" if running else f"started in {time.monotonic() - began:.1f} s"
            findings.append(Finding(topic, "ok", f"{how}, on {device}"))
            topic = "models"
            models = list(client.models())
            findings.append(_tell_models(models))
            topic = "picture"
            if models:
                findings.append(_send_picture(client, models[0]))
        finally:
            if not running:
                client.shutdown()
                _wait_for_end(state)
    except UgatitError as error:
        findings.append(Finding(topic, "problem", error.message, error.hint or ""))
    return findings, tuple(model["name"] for model in models), device


def _wait_for_end(state: Path) -> None:
    """Until the server has taken back what it told of itself."""
    deadline = time.monotonic() + _END
    while read_address(state) is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def _tell_models(models: Sequence[dict[str, Any]]) -> Finding:
    if not models:
        return Finding(
            "models", "problem", "there are none", "import or train one: `ugatit-batch models --help`"
        )
    return Finding("models", "ok", ", ".join(model["name"] for model in models))


def _send_picture(client: Client, model: dict[str, Any]) -> Finding:
    rows = bytearray(_SIDE * _SIDE * 3)
    rows[0::3] = bytes(at % _SIDE * 4 for at in range(_SIDE * _SIDE))
    rows[1::3] = bytes(at // _SIDE * 4 for at in range(_SIDE * _SIDE))
    reverse = bool(model["directions"][0]["reverse"])
    began = time.monotonic()
    result, _ = client.translate(bytes(rows), _SIDE, _SIDE, model["name"], reverse)
    seconds = time.monotonic() - began
    if len(result) != len(rows) or result == bytes(rows):
        return Finding(
            "picture", "problem", f"{model['name']}: what came back is not a translation", "report this"
        )
    return Finding("picture", "ok", f"{_SIDE}×{_SIDE} pixels through {model['name']} in {seconds:.1f} s")
