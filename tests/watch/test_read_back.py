from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.errors import OutputError
from ugatit_batch.watch.after import After
from ugatit_batch.watch.read_back import read_back

from ..fakes import colours, paint, tree
from ..video.film_makers import FAST, damage, make_film, packets_of
from .inputs import put, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..conftest import Outcome


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def animate(path: Path, seeds: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(colours(24, 16, seed)) for seed in seeds]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[50] * len(images))
    return path


def spoil_middle(path: Path) -> None:
    damage(path, [(path.stat().st_size // 2, 8)])


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    "spoil", [halve, empty, blank, Path.unlink, make_folder, link_to_nothing, spoil_middle]
)
@pytest.mark.parametrize("which", ["a.png", "a.heatmap.png"])
@pytest.mark.parametrize("mode", ["move", "delete"])
def test_an_input_stays_where_its_result_does_not_read_back(
    inbox: Path, tmp_path: Path, mode: Any, which: str, spoil: Callable[[Path], None]
) -> None:
    source = put(inbox / "a.png")
    made, sidecar = paint(tmp_path / "a.png"), paint(tmp_path / "a.heatmap.png")
    spoil(tmp_path / which)
    done = tmp_path / "done" if mode == "move" else None
    with pytest.raises(OutputError, match=r"does not read back .* its input stays") as caught:
        After(mode, inbox, done).apply(source, version_of(source), made, [sidecar], 1)
    assert caught.value.message.startswith(str(tmp_path / which))
    assert "made again" in caught.value.hint
    assert tree(inbox) == {"a.png": b"an input"}
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif", ".avif", ".tiff"])
def test_a_picture_that_is_cut_short_does_not_read_back(tmp_path: Path, suffix: str) -> None:
    path = paint(tmp_path / f"a{suffix}", 200, 100)
    read_back(path, frames=1)
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(OutputError):
        read_back(path, frames=1)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".avif"])
def test_an_animation_has_all_its_pictures(tmp_path: Path, suffix: str) -> None:
    path = animate(tmp_path / f"a{suffix}", [1, 2, 3])
    read_back(path, frames=3)
    read_back(path)
    with pytest.raises(OutputError, match="3 pictures, and should have 2"):
        read_back(path, frames=2)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".avif"])
@pytest.mark.parametrize("seeds", [[1, 1, 2], [1, 1, 1]])
def test_equal_pictures_that_were_joined_when_they_were_written_are_not_missed(
    tmp_path: Path, suffix: str, seeds: list[int]
) -> None:
    read_back(animate(tmp_path / f"a{suffix}", seeds), frames=3)


def test_an_animation_as_a_still_has_one_picture(tmp_path: Path) -> None:
    read_back(paint(tmp_path / "a.jpg"), frames=12)


def test_avif_lacks_a_picture(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="2 pictures, and should have 3"):
        read_back(animate(tmp_path / "a.avif", [1, 2]), frames=3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), "cannot be read"),
        (lambda path: path.open("ab").write(b"more") and None, "bytes, and should have"),
        (lambda path: path.write_bytes(b"PK\x03\x04 something else"), "cannot be read"),
        (lambda path: np.save(path, np.zeros((2, 8, 6), np.float32)), "2 pictures, and should have 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_array_that_does_not_fit_its_file(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    result, array = paint(tmp_path / "a.png"), tmp_path / "a.attention.npy"
    np.save(array, np.zeros((3, 8, 6), np.float32))
    read_back(result, [array], 3)
    spoil(array)
    with pytest.raises(OutputError, match=said):
        read_back(result, [array], 3)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("film.mp4", "libx264", "yuv420p"),
        ("film.mkv", "libx264", "yuv420p"),
        ("film.mkv", "libx265", "yuv420p10le"),
        ("film.webm", "libvpx-vp9", "yuv420p"),
        ("film.mp4", "libsvtav1", "yuv420p"),
        ("film.mov", "prores_ks", "yuv422p10le"),
        ("film.mkv", "ffv1", "yuv420p"),
    ],
)
@pytest.mark.parametrize("count", [1, 40])
def test_a_film_is_read_to_its_last_picture(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, count: int
) -> None:
    path = tmp_path / name
    gop = {"g": "15", "bf": "2", "preset": "fast"} if codec in ("libx264", "libx265") else {}
    make_film(
        path,
        codec=codec,
        pix_fmt=pix_fmt,
        count=count,
        options={**FAST.get(codec, {}), **gop},
        sound=count > 1 and not name.endswith("webm"),
    )
    read_back(path, frames=count)
    read_back(path)
    with pytest.raises(OutputError, match=f"{count} pictures, and should have {count + 1}"):
        read_back(path, frames=count + 1)


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv", "film.webm"])
@pytest.mark.parametrize("share", [0.3, 0.98])
def test_a_film_that_is_cut_short_does_not_read_back(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    make_film(path, codec=codec, container_options={"movflags": "faststart"} if name[5:7] == "mp" else {})
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(OutputError, match="does not read back"):
        read_back(path)


@pytest.mark.parametrize(("which", "said"), [(0, "first"), (-1, "last")])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_first_and_the_last_picture_of_a_film_are_decoded(
    tmp_path: Path, which: int, said: str, codec: str
) -> None:
    path = tmp_path / "film.mkv"
    make_film(path, codec=codec, count=20, options={"g": "8"})
    read_back(path, frames=20)
    position, size, _ = packets_of(path)[which]
    damage(path, [(position + 20, size)])
    with pytest.raises(OutputError, match=f"its {said} picture|cannot be read"):
        read_back(path, frames=20)


def test_the_attention_of_a_film_has_as_many_pictures(inbox: Path, tmp_path: Path) -> None:
    source = put(inbox / "film.mp4")
    result, sidecar = tmp_path / "film.mp4", tmp_path / "film.overlay.mp4"
    make_film(result, count=12)
    make_film(sidecar, count=11)
    with pytest.raises(OutputError, match=r"overlay\.mp4: .* 11 pictures, and should have 12"):
        After("delete", inbox).apply(source, version_of(source), result, [sidecar], 12)
    make_film(sidecar, count=12)
    After("delete", inbox).apply(source, version_of(source), result, [sidecar], 12)
    assert not source.exists()


def test_what_the_program_writes_reads_back(
    program: Callable[..., Outcome], inbox: Path, tmp_path: Path
) -> None:
    make_film(inbox / "film.mp4", count=70, sound=True)
    make_film(inbox / "old.avi", codec="mpeg4", count=20)
    animate(inbox / "moving.gif", [1, 2, 3])
    paint(inbox / "still.jpg")
    kinds = ("--attention", "overlay", "--attention", "npy")
    outcome = program(
        *("translate", inbox, "-m", "ink", "-o", tmp_path / "out", "--json", "--segment", "1", *kinds)
    )
    assert outcome.code == 0
    lines = [line for line in outcome.lines() if line.get("status") == "done"]
    assert sorted(line["frames"] for line in lines) == [1, 3, 20, 70]
    taking = After("delete", inbox)
    for line in lines:
        source, sidecars = Path(line["input"]), [Path(path) for path in line["attention"]]
        assert len(sidecars) == 2
        taking.apply(source, version_of(source), Path(line["output"]), sidecars, line["frames"])
    assert tree(inbox) == {}


# What may not go.
