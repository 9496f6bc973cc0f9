"""The plug-in's layers in a Krita without a window."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .krita import SRGB, Home, need, setup_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.editor

SECONDS = 300
COLOURS = [2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9, 14, 13, 12, 17, 16, 15]  # B, G, R
OPACITY = [103, 107, 111, 115, 119, 0]


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    need("kritarunner")
    folder = tmp_path_factory.mktemp("headless")
    home = Home(folder / "home")
    environment = home.environment() | {"QT_QPA_PLATFORM": "offscreen"}
    home.install(setup_of(folder, folder))
    shutil.copy(Path(__file__).parent / "krita_driver" / "headless.py", folder / "headless.py")
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(home.plugin.parent)])

    def add(*arguments: str) -> list[dict[str, Any]]:
        report = folder / "report.json"
        report.unlink(missing_ok=True)
        # It ends with 0 whatever happens.
        ran = subprocess.run(
            ["kritarunner", "-s", "headless", "-f", "add", str(report), *arguments],
            env=environment,
            capture_output=True,
            timeout=SECONDS,
        )
        assert report.is_file(), ran.stderr.decode()[-3000:]
        return list(json.loads(report.read_text()))

    return add


def bgra() -> list[int]:
    return [level for n in range(6) for level in (*COLOURS[3 * n : 3 * n + 3], OPACITY[n])]


def test_layer_lies_where_it_was_taken(added: Callable[..., list[dict[str, Any]]]) -> None:
    below, new = added("none", "RGBA", "U8", SRGB)

    assert (below["type"], new["name"], new["children"]) == ("paintlayer", "new", [])
    # Where it is clear, colours do not matter.
    assert new["pixels"][:20] == bgra()[:20]
    assert new["pixels"][23] == 0


def test_mask_holds_the_attention(added: Callable[..., list[dict[str, Any]]]) -> None:
    _, new = added("mask", "RGBA", "U16", SRGB)

    assert new["space"] == ["RGBA", "U16"]
    (mask,) = new["children"]
    assert (mask["type"], mask["name"]) == ("transparencymask", "new attention")
    assert mask["pixels"] == list(range(0, 60, 10))


def test_attention_layer_comes_in_a_group(added: Callable[..., list[dict[str, Any]]]) -> None:
    _, new = added("layer", "GRAYA", "U8", "Gray-D50-elle-V2-srgbtrc.icc")

    assert new["type"] == "grouplayer"
    result, looked = new["children"]
    # A grey picture does not make the result grey.
    assert result["space"] == ["RGBA", "U8"]
    assert result["pixels"][:20] == bgra()[:20]
    assert looked["pixels"][0::4][:5] == list(range(0, 50, 10))
