"""A real Krita with the plug-in in it, under a screen that nobody sees."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ugatit_plugins.editor_places import Place
from ugatit_plugins.installer import install

from ..fakes import colours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ugatit_batch.frames import Pixels

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 64, 48
SECONDS = 900
SRGB = "sRGB-elle-V2-srgbtrc.icc"
SPACES = {
    "u16": ("RGBA", "U16", SRGB),
    "f16": ("RGBA", "F16", SRGB),
    "f32": ("RGBA", "F32", SRGB),
    "linear": ("RGBA", "F32", "sRGB-elle-V2-g10.icc"),
    "wide": ("RGBA", "U16", "Rec2020-elle-V4-g10.icc"),
    "grey": ("GRAYA", "U8", "Gray-D50-elle-V2-srgbtrc.icc"),
    "grey16": ("GRAYA", "U16", "Gray-D50-elle-V2-srgbtrc.icc"),
    "cmyk": ("CMYKA", "U8", "Chemical proof"),
    "lab": ("LABA", "U16", "Lab identity built-in"),
}
"""Colour model, depth and profile in Krita's words."""
ENGINE = ("--device", "cpu", "--precision", "fp32")
# Ends by itself where a test leaves it behind.
SERVE = (
    sys.executable,
    "-m",
    "ugatit_batch",
    "serve",
    *ENGINE,
    "--idle",
    "60",
)


def need(*programs: str) -> None:
    """Fail loudly where a program is missing."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)}: not installed; run scripts/install_krita.sh")


def source() -> Pixels:
    """The picture that is translated, RGB."""
    return colours(WIDTH, HEIGHT, 3)


def bgra(rgb: Pixels, alpha: Pixels | int = 255) -> Pixels:
    """As Krita has it."""
    plane = np.broadcast_to(np.asarray(alpha, np.uint8), rgb.shape[:2])
    return np.dstack([rgb[..., ::-1], plane])


@dataclass(frozen=True)
class Home:
    """A home of its own for an editor."""

    folder: Path

    @property
    def resources(self) -> Path:
        return self.folder / "data" / "krita"

    @property
    def settings(self) -> Path:
        return self.folder / "config" / "kritarc"

    @property
    def plugin(self) -> Path:
        return self.resources / "pykrita" / "ugatit"

    def environment(self) -> dict[str, str]:
        """For programs that live there; nothing of this machine's own settings comes in."""
        folders = {"HOME": "", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data"}
        folders |= {"XDG_CACHE_HOME": "cache", "XDG_RUNTIME_DIR": "run"}
        for name in folders.values():
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        return {**os.environ, **{name: str(self.folder / inner) for name, inner in folders.items()}}

    def install(self, setup: dict[str, Any]) -> None:
        """Put the plug-in there as users do, and the driver beside it."""
        self.settings.parent.mkdir(parents=True, exist_ok=True)
        self.settings.write_text("[python]\nenable_ugatit_driver=true\n")
        install(Place("krita", self.resources, self.settings), setup)
        driver = Path(__file__).parent / "krita_driver"
        target = self.resources / "pykrita" / "ugatit_driver"
        shutil.copytree(driver, target, ignore=shutil.ignore_patterns("__pycache__", "*.desktop"))
        shutil.copy(driver / "ugatit_driver.desktop", target.parent)


def setup_of(models: Path, state: Path) -> dict[str, Any]:
    """What the plug-in has to know to start a server with these models."""
    return {"command": [*SERVE, "--models-dir", str(models)], "state": str(state), "version": "0.1.0"}


def command_line(
    folder: Path, models: Path, pictures: dict[str, Pixels], *arguments: str, model: str = "own"
) -> dict[str, tuple[Pixels, Pixels]]:
    """What `ugatit-batch translate` makes of pictures, and of the attention, by their names."""
    given, made = folder / "given", folder / "made"
    given.mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(given / f"{name}.png")
    command = [sys.executable, "-m", "ugatit_batch", "translate", str(given), "--output", str(made)]
    command += ["--model", model, "--models-dir", str(models), "--attention", "mask", "--batch-size", "1"]
    subprocess.run([*command, *ENGINE, *arguments], check=True, capture_output=True, cwd=ROOT)
    return {
        name: (
            np.asarray(Image.open(made / f"{name}.png").convert("RGB")),
            np.asarray(Image.open(made / f"{name}.mask.png")),
        )
        for name in pictures
    }


@dataclass(frozen=True)
class Session:
    """What the driver has done in a window, and what came of it."""

    place: Path
    report: dict[str, Any]
    models: Path
    failure: str

    def told(self, scenario: str) -> dict[str, Any]:
        found = self.report.get(scenario)
        assert found is not None, f"the driver has not come to {scenario}\n{self.failure}"
        return dict(found)

    def pixels(self, name: str, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
        """8-bit pixels that the driver saved, H×W×channels, RGB."""
        data = np.frombuffer((self.place / f"{name}.raw").read_bytes(), np.uint8).reshape(height, width, -1)
        return data[..., [2, 1, 0, 3]] if data.shape[-1] == 4 else data


@contextlib.contextmanager
def screen() -> Iterator[str]:
    """A screen that nobody sees; its DISPLAY. It has answered by then, which `xvfb-run` does not wait for.

    The number is one that nobody takes by chance: screens of containers and chroots have the same names.
    """
    display = f":{1000 + os.getpid() % 30000}"
    command = ["Xvfb", display, "-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "Xvfb has ended"
        try:
            yield display
        finally:
            process.terminate()


def use_krita(folder: Path, models: Path, only: str = "", photograph: Pixels | None = None) -> Session:
    """Start Krita, have the driver go through its scenarios, or through some of them, and end it."""
    need("krita", "Xvfb")
    place, home = folder / "place", Home(folder / "home")
    place.mkdir()
    rng = np.random.default_rng(1)
    (place / "source.bgra").write_bytes(bgra(source()).tobytes())
    alpha = rng.integers(1, 256, (HEIGHT, WIDTH), np.uint8)
    (place / "clear.bgra").write_bytes(bgra(source(), alpha).tobytes())
    (place / "deep.bgra16").write_bytes(deep().astype("<u2").tobytes())
    if photograph is not None:
        (place / "photograph.bgra").write_bytes(bgra(photograph).tobytes())
    (place / "spaces.json").write_text(json.dumps(SPACES))
    environment = home.environment() | {"UGATIT_DRIVER": str(place), "UGATIT_DRIVER_ONLY": only}
    home.install(setup_of(models, place / "state"))
    slow = subprocess.Popen(
        [sys.executable, "-m", "tests.editors.slow_server", str(models), str(place / "slow"), str(place)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        with screen() as display, (folder / "krita.log").open("wb") as log:
            assert slow.stdout is not None
            assert slow.stdout.readline() == b"ready\n"
            subprocess.run(
                ["krita", "--nosplash"],
                env=environment | {"DISPLAY": display},
                stdout=log,
                stderr=log,
                timeout=SECONDS,
            )
    finally:
        slow.kill()
        slow.communicate()
    shown = os.environ.get("UGATIT_EDITOR_SCREENSHOTS")
    if shown:
        Path(shown).mkdir(parents=True, exist_ok=True)
        for picture in place.glob("*.png"):
            shutil.copy(picture, shown)
    report, failure = place / "report.json", place / "failure.txt"
    assert report.is_file() or failure.is_file(), (folder / "krita.log").read_text("utf-8", "replace")[-3000:]
    return Session(
        place,
        json.loads(report.read_text()) if report.is_file() else {},
        models,
        failure.read_text() if failure.is_file() else "",
    )


def deep() -> Pixels:
    """16-bit pixels, B, G, R, A, that 8 bits cannot hold."""
    values = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)
    values[..., 3] = 65535
    return values
