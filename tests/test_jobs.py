from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.bundle import Bundle, GeneratorConfig, WorkingSize
from ugatit_batch.errors import OutputBusyError, SizeError
from ugatit_batch.images import work
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import Encoding, write_picture
from ugatit_batch.jobs import Result, run
from ugatit_batch.journal import NAME, Journal
from ugatit_batch.planning import DEFAULT_NAME, Naming, plan
from ugatit_batch.settings import Settings, choose_sizing

from .fakes import InvertingTranslator, colours, paint, pixels_of, tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.picture import Picture
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.jobs import IfExists

SIZING = Sizing(square=False, side=None)


def translate(
    source: Path,
    output: Path | None,
    if_exists: IfExists = "skip",
    *,
    encoding: Encoding | None = None,
    bundle: str = "model",
    attention: tuple[Kind, ...] = (),
    template: str = DEFAULT_NAME,
    translator: InvertingTranslator | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Result]:
    """What came of each source, by its name."""
    encoding = encoding or Encoding()
    planned = plan([source], Naming(output, "ink", encoding, template, attention))
    settings = Settings(SIZING, encoding, attention)
    translator = translator or InvertingTranslator()
    results = list(run(planned, translator, bundle, settings, if_exists, should_stop))
    assert len({result.source for result in results}) == len(results)
    return {result.source.name: result for result in results}


def statuses(results: dict[str, Result]) -> dict[str, str]:
    return {name: result.status for name, result in sorted(results.items())}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        paint(tmp_path / "p" / name, 24, 16 + 4 * number, number)
    return tmp_path / "p"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_each_picture_is_translated_once(photos: Path, out: Path) -> None:
    results = translate(photos, out)
    assert statuses(results) == {"a.png": "done", "b.png": "done", "c.png": "done"}
    assert all(result.written.frames == 1 and result.seconds > 0 for result in results.values())
    for name in ("a.png", "b.png", "sub/c.png"):
        assert (pixels_of(out / name) == 255 - pixels_of(photos / name)).all()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    translator = InvertingTranslator()
    again = translate(photos, out, translator=translator)
    assert set(statuses(again).values()) == {"skipped"}
    assert not any(result.foreign for result in again.values())
    assert translator.shapes == []
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


def test_what_was_made_from_other_settings_is_left_and_counted(photos: Path, out: Path) -> None:
    translate(photos, out)
    before = tree(out)
    for results in (
        translate(photos, out, encoding=Encoding(metadata="drop")),
        translate(photos, out, bundle="another model"),
    ):
        assert all(result.status == "skipped" and result.foreign for result in results.values())
    assert tree(out) == before
    os.utime(photos / "a.png", ns=(1, 1))
    paint(photos / "b.png", 40, 40)
    results = translate(photos, out)
    assert {name: result.foreign for name, result in results.items()} == {
        "a.png": True,
        "b.png": True,
        "c.png": False,
    }


def test_what_was_overwritten_with_other_settings_is_not_taken_for_the_first(photos: Path, out: Path) -> None:
    translate(photos, out, bundle="first")
    translate(photos, out, "overwrite", bundle="second")
    assert not any(result.foreign for result in translate(photos, out, bundle="second").values())
    assert all(result.foreign for result in translate(photos, out, bundle="first").values())


def test_existing_files_are_overwritten_renamed_or_an_error_as_asked(photos: Path, out: Path) -> None:
    foreign = paint(out / "a.png", 8, 8)
    content = foreign.read_bytes()

    results = translate(photos, out, "error")
    assert statuses(results) == {"a.png": "failed", "b.png": "done", "c.png": "done"}
    assert "is there already" in str(results["a.png"].error)
    assert foreign.read_bytes() == content

    results = translate(photos, out, "rename")
    assert statuses(results) == {"a.png": "done", "b.png": "skipped", "c.png": "skipped"}
    assert results["a.png"].target == out / "a (1).png"
    assert foreign.read_bytes() == content
    assert (pixels_of(out / "a (1).png") == 255 - pixels_of(photos / "a.png")).all()

    assert statuses(translate(photos, out, "rename"))["a.png"] == "skipped"
    assert not (out / "a (2).png").exists()

    results = translate(photos, out, "overwrite")
    assert set(statuses(results).values()) == {"done"}
    assert (pixels_of(foreign) == 255 - pixels_of(photos / "a.png")).all()


def test_a_free_name_is_given_once(tmp_path: Path, out: Path) -> None:
    for name in ("a.png", "a (1).png"):
        paint(tmp_path / "p" / name)
        paint(out / name)
    results = translate(tmp_path / "p", out, "rename")
    assert len({result.target for result in results.values()}) == 2
    assert len(tree(out)) == 4


def test_a_failed_input_is_tried_again(photos: Path, out: Path) -> None:
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[: len(whole) // 2])
    status = (photos / "b.png").stat()
    first = translate(photos, out)
    assert statuses(first) == {"a.png": "done", "b.png": "failed", "c.png": "done"}
    assert "b.png" in str(first["b.png"].error)
    assert not (out / "b.png").exists()
    again = translate(photos, out)
    assert statuses(again) == {"a.png": "skipped", "b.png": "failed", "c.png": "skipped"}
    (photos / "b.png").write_bytes(whole)
    os.utime(photos / "b.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert statuses(translate(photos, out)) == {"a.png": "skipped", "b.png": "done", "c.png": "skipped"}


def forget_the_end(folder: Path, name: str) -> None:
    """Make a journal say what it says after a kill: that the work on `name` was begun."""
    with sqlite3.connect(folder / NAME) as database:
        output = os.fsencode(name)
        changed = database.execute("UPDATE files SET state = 'started' WHERE output = ?", (output,))
        assert changed.rowcount == 1
    database.close()


def test_after_a_kill_a_whole_output_counts_as_done(photos: Path, out: Path) -> None:
    translate(photos, out)
    forget_the_end(out, "a.png")
    forget_the_end(out, "b.png")
    (out / "b.png").unlink()
    for name in (".b.partial.png", "sub/.c.overlay.partial.png", ".stranger.partial.png"):
        (out / name).write_bytes(b"half")
    results = translate(photos, out)
    assert statuses(results) == {"a.png": "skipped", "b.png": "done", "c.png": "skipped"}
    assert not results["a.png"].foreign
    assert sorted(tree(out)) == [".stranger.partial.png", "a.png", "b.png", "sub/c.png"]


def test_what_was_begun_is_cleared_away_though_its_input_is_gone(photos: Path, out: Path) -> None:
    translate(photos, out)
    forget_the_end(out, "sub/c.png")
    (out / "sub/c.png").rename(out / "sub/.c.partial.png")
    (photos / "sub/c.png").unlink()
    assert statuses(translate(photos, out)) == {"a.png": "skipped", "b.png": "skipped"}
    assert sorted(tree(out)) == ["a.png", "b.png"]


def test_an_output_folder_may_be_copied_and_moved(photos: Path, out: Path, tmp_path: Path) -> None:
    translate(photos, out)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "a.png").unlink()
    results = translate(photos, copy)
    assert statuses(results) == {"a.png": "done", "b.png": "skipped", "c.png": "skipped"}
    assert not any(result.foreign for result in results.values())
    assert tree(copy) == tree(out)


def test_a_picture_that_cannot_be_encoded_fails_alone(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(picture: Picture, *arguments: object) -> list[str]:
        if picture.path.name == "b.png":
            raise MemoryError("no room for the result")
        return write_picture(picture, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "write_picture", fail)
    results = translate(photos, out)
    assert statuses(results) == {"a.png": "done", "b.png": "failed", "c.png": "done"}
    assert "no room for the result" in str(results["b.png"].error)


def test_an_output_that_was_to_be_replaced_when_the_run_was_killed_does_not_count(
    photos: Path, out: Path
) -> None:
    translate(photos, out, bundle="old")

    class KilledError(BaseException):
        pass

    def die(_: Pixels) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        translate(photos, out, "overwrite", bundle="new", translator=InvertingTranslator(before=die))
    assert all(result.foreign for result in translate(photos, out, bundle="new").values())
    assert set(statuses(translate(photos, out, "overwrite", bundle="new")).values()) == {"done"}


def test_an_output_that_was_deleted_is_made_again(photos: Path, out: Path) -> None:
    translate(photos, out)
    (out / "a.png").unlink()
    assert statuses(translate(photos, out)) == {"a.png": "done", "b.png": "skipped", "c.png": "skipped"}


def test_another_name_is_another_output(photos: Path, out: Path) -> None:
    translate(photos, out)
    results = translate(photos, out, template="{parent}/{stem}_{model}{ext}")
    assert set(statuses(results).values()) == {"done"}
    assert len(tree(out)) == 6


def test_links_to_one_picture_are_outputs_of_their_own(photos: Path, out: Path) -> None:
    for number in range(30):
        (photos / f"link {number}.png").symlink_to(photos / "a.png")
    assert set(statuses(translate(photos, out)).values()) == {"done"}
    assert len(tree(out)) == 33
    assert not any(result.foreign for result in translate(photos, out).values())


def test_a_single_file_has_no_journal(photos: Path, out: Path) -> None:
    target = out / "new.png"
    assert statuses(translate(photos / "a.png", target)) == {"a.png": "done"}
    assert statuses(translate(photos / "a.png", target)) == {"a.png": "skipped"}
    assert statuses(translate(photos / "a.png", target, "error")) == {"a.png": "failed"}
    assert statuses(translate(photos / "a.png", target, "overwrite")) == {"a.png": "done"}
    assert translate(photos / "a.png", target, "rename")["a.png"].target == out / "new (1).png"
    assert sorted(path.name for path in out.iterdir()) == ["new (1).png", "new.png"]


def test_sidecars_are_there_before_their_result(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = []
    replace = Path.replace

    def noting(path: Path, target: Path) -> Path:
        replaced.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noting)
    results = translate(photos / "a.png", out / "a.png", attention=("heatmap", "npy"))
    assert replaced == ["a.heatmap.png", "a.attention.npy", "a.png"]
    assert results["a.png"].written.attention == (out / "a.heatmap.png", out / "a.attention.npy")
    values = np.load(out / "a.attention.npy")
    assert values.dtype == np.float32
    assert (values == pixels_of(photos / "a.png")[::4, ::4].mean(-1).astype(np.float32)).all()


def test_what_was_reduced_is_said(tmp_path: Path, out: Path) -> None:
    deep = (np.arange(24 * 16, dtype=np.uint16) * 150).reshape(16, 24)
    (tmp_path / "p").mkdir()
    Image.fromarray(deep).save(tmp_path / "p" / "deep.png")
    image = Image.fromarray(colours(24, 16))
    image.putalpha(Image.new("L", image.size, 100))
    image.save(tmp_path / "p" / "clear.png")
    results = translate(tmp_path / "p", out, encoding=Encoding(format="jpg"))
    assert "16 bits" in " ".join(results["deep.png"].written.notes)
    assert "alpha" in " ".join(results["clear.png"].written.notes)


def test_the_form_for_programs_is_stable(photos: Path, out: Path) -> None:
    result = translate(photos / "a.png", out / "a.png", attention=("mask",))["a.png"]
    shown = result.to_json()
    assert list(shown) == [
        "input",
        "output",
        "status",
        "error",
        "seconds",
        "frames",
        "attention",
        "notes",
        "flicker",
    ]
    assert shown | {"seconds": 0} == {
        "input": str(photos / "a.png"),
        "output": str(out / "a.png"),
        "status": "done",
        "error": None,
        "seconds": 0,
        "frames": 1,
        "attention": [str(out / "a.mask.png")],
        "notes": [],
        "flicker": None,
    }


def test_a_folder_belongs_to_one_run_until_it_ends(photos: Path, out: Path) -> None:
    planned = plan([photos], Naming(out, "ink", Encoding()))
    settings = Settings(SIZING, Encoding())
    before = set(threading.enumerate())
    first = run(planned, InvertingTranslator(), "model", settings)
    next(first)
    with pytest.raises(OutputBusyError):
        next(run(planned, InvertingTranslator(), "model", settings))
    first.close()
    assert set(threading.enumerate()) <= before
    Journal(out).close()
    assert set(statuses(translate(photos, out)).values()) <= {"done", "skipped"}


def test_a_name_too_long_to_write_fails_alone(tmp_path: Path, out: Path) -> None:
    paint(tmp_path / "p" / ("x" * 250 + ".png"))
    paint(tmp_path / "p" / "a.png")
    results = translate(tmp_path / "p", out, template="{stem}_{model}_long{ext}")
    assert statuses(results) == {"a.png": "done", "x" * 250 + ".png": "failed"}
    assert set(statuses(translate(tmp_path / "p", out)).values()) == {"done"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_are_translated(tmp_path: Path, out: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    paint(tmp_path / "p" / "a.png").rename(tmp_path / "p" / name)
    (tmp_path / "p" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    assert sorted(statuses(translate(tmp_path / "p", out)).values()) == ["done", "failed"]
    assert sorted(statuses(translate(tmp_path / "p", out)).values()) == ["failed", "skipped"]


def test_an_input_that_vanishes_fails_alone(photos: Path, out: Path) -> None:
    planned = plan([photos], Naming(out, "ink", Encoding()))
    (photos / "b.png").unlink()
    results = {
        r.source.name: r for r in run(planned, InvertingTranslator(), "m", Settings(SIZING, Encoding()))
    }
    assert statuses(results) == {"a.png": "done", "b.png": "failed", "c.png": "done"}


def test_stopping_before_the_start_does_nothing(photos: Path, out: Path) -> None:
    assert translate(photos, out, should_stop=lambda: True) == {}
    assert tree(out) == {}
    assert set(statuses(translate(photos, out)).values()) == {"done"}


def bundle_of(*, light: bool, mode: str = "square") -> Bundle:
    working = WorkingSize(mode, 256)  # type: ignore[arg-type]
    return Bundle("ink", ("photo", "ink"), GeneratorConfig(light=light), working, {})


def test_the_working_size_is_the_models_or_what_is_asked_for() -> None:
    light, texture = bundle_of(light=True), bundle_of(light=True, mode="native")
    assert choose_sizing(light) == Sizing(square=True, side=256)
    assert choose_sizing(light, 512, "crop", "network") == Sizing(
        square=True, side=512, fit="crop", output="network"
    )
    assert choose_sizing(light, "native") == Sizing(square=False, side=None)
    assert choose_sizing(texture) == Sizing(square=False, side=256)
    assert choose_sizing(texture, 1000) == Sizing(square=False, side=1000)
    assert choose_sizing(bundle_of(light=False), 256) == Sizing(square=True, side=256)


@pytest.mark.parametrize("size", [128, "native"])
def test_a_full_model_takes_its_own_size_only(size: int | str) -> None:
    with pytest.raises(SizeError, match="256×256 pixels only") as caught:
        choose_sizing(bundle_of(light=False), size)
    assert "--size 256" in caught.value.hint


def test_a_square_must_divide_by_four() -> None:
    with pytest.raises(SizeError, match="must divide by 4"):
        choose_sizing(bundle_of(light=True), 250)
