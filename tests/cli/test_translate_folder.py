from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ..fakes import TURNED, pixels_of, tree
from .mixed_folder import SIZE, make_mixed_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Outcome

BECOMES_PNG = (".bmp", ".jp2", ".ppm", ".tga")


def output_name(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.png" if dot + suffix in BECOMES_PNG else name


def test_two_hundred_mixed_files(program: Callable[..., Outcome], tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "photos_own"
    sizes, bad = make_mixed_folder(folder)
    assert len(sizes) + len(bad) >= 200

    first = program("translate", folder, "--model", "own", "--json", "--report", tmp_path / "report.jsonl")

    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text("utf-8").splitlines()]
    assert first.code == 1
    lines = {line["input"]: line for line in first.lines()}
    assert {name for name, line in lines.items() if line["status"] == "failed"} == {
        str(folder / name) for name in bad
    }
    for name in bad:
        assert str(folder / name) in lines[str(folder / name)]["error"]
        assert str(folder / name) in first.err
    assert len(lines) == len(first.lines()) == len(sizes) + len(bad)
    assert report == first.lines()
    assert "Traceback" not in first.err

    assert set(tree(out)) == {output_name(name) for name in sizes}
    for name, size in sizes.items():
        line = lines[str(folder / name)]
        assert (line["status"], line["error"]) == ("done", None)
        assert line["output"] == str(out / output_name(name))
        with Image.open(out / output_name(name)) as image:
            assert image.size == size, name
            assert image.getexif().get(0x0112, 1) == 1, name
            assert getattr(image, "n_frames", 1) == line["frames"] == (3 if "moving/" in name else 1), name
            image.load()
    check_orientations(out)
    check_details(out)

    # Nothing is translated a second time; only what failed is tried again.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if "sqlite" not in path.name}
    second = program("translate", folder, "--model", "own", "--json")
    assert second.code == 1
    assert {line["input"]: line["status"] for line in second.lines()} == {
        name: "skipped" if line["status"] == "done" else "failed" for name, line in lines.items()
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "skipped" in second.err


def check_orientations(out: Path) -> None:
    """However a picture was turned, its result is that of the upright one."""
    for suffix in ("png", "tif", "webp", "jpg"):
        expected = pixels_of(out / "orientation" / f"1.{suffix}").astype(int)
        for orientation in TURNED:
            found = pixels_of(out / "orientation" / f"{orientation}.{suffix}")
            assert found.shape == (SIZE[1], SIZE[0], 3)
            # JPEG and WebP lose a little on the way in and out, nowhere near what a wrong turn would do.
            difference = abs(found - expected).mean()
            turned = min(abs(found - wrong).mean() for wrong in (expected[::-1], expected[:, ::-1]))
            assert difference == 0 if suffix in ("png", "tif") else 4 * difference < turned, (
                suffix,
                orientation,
            )


def check_details(out: Path) -> None:
    for name in ("alpha.png", "alpha.webp", "alpha.tif", "grey alpha.png"):
        with Image.open(out / "kinds" / name) as image:
            levels = np.asarray(image.getchannel("A"))
            assert (levels.min() < 30, levels.max() > 200) == (True, True), name
    with Image.open(out / "kinds" / "profile.png") as image:
        assert image.info.get("icc_profile")
    for suffix in ("gif", "webp", "png"):
        with Image.open(out / "moving" / f"three.{suffix}") as image:
            durations = []
            for index in range(3):
                image.seek(index)
                image.load()
                durations.append(round(image.info["duration"]))
                assert image.info["loop"] == 2
            assert durations == [100, 50, 200], suffix


def test_what_failed_is_done_once_it_is_mended(program: Callable[..., Outcome], tmp_path: Path) -> None:
    folder, out = tmp_path / "p", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", SIZE, (9, 80, 200)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"")
    command = ("translate", folder, "-m", "own", "-o", out)
    assert [program(*command).code for _ in range(2)] == [1, 1]
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes())
    assert program(*command).code == 0
    assert program(*command).code == 0
    assert set(tree(out)) == {"good.png", "bad.png"}


@pytest.mark.parametrize("backwards", [False, True])
def test_the_output_folder_is_named_after_the_model(
    program: Callable[..., Outcome], tmp_path: Path, backwards: bool
) -> None:
    (tmp_path / "p").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "p" / "a.png")
    flags = ["--reverse"] if backwards else []
    assert program("translate", tmp_path / "p", "-m", "own", *flags).code == 0
    assert (tmp_path / ("p_own-reverse" if backwards else "p_own") / "a.png").is_file()
