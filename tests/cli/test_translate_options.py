from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.cli.translate import command
from ugatit_engines import devices

from ..fakes import colours, paint, pixels_of, tree
from .test_translate_films import FILM_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Outcome

    Program = Callable[..., Outcome]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """60×40, half clear, with EXIF."""
    image = Image.fromarray(colours(60, 40))
    image.putalpha(Image.linear_gradient("L").resize((60, 40)))
    exif = Image.Exif()
    exif[0x010E] = "a cat"
    (tmp_path / "p").mkdir()
    image.save(tmp_path / "p" / "a.png", exif=exif)
    return tmp_path / "p" / "a.png"


@pytest.fixture
def made(program: Program, photo: Path, tmp_path: Path) -> Callable[..., Path]:
    """Translate the photo with some options; give back what was written, which must be one file."""
    count = 0

    def call(*options: object, model: str = "ink") -> Path:
        nonlocal count
        count += 1
        out = tmp_path / f"out {count}"
        outcome = program("translate", photo.parent, "-m", model, "-o", out, *options)
        assert outcome.code == 0, outcome.err
        (name,) = tree(out)
        return out / name

    return call


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def differ(a: Path, b: Path) -> bool:
    return not np.array_equal(pixels_of(a), pixels_of(b))


@pytest.mark.parametrize(
    "options",
    [
        ["--fit", "crop"],
        ["--fit", "stretch"],
        ["--size", "64"],
        ["--size", "native"],
        ["--reverse"],
        ["--precision", "bf16"],
    ],
    ids=" ".join,
)
def test_what_the_network_sees_changes_the_pixels(
    made: Callable[..., Path], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: False)
    first, second = made(), made(*options)
    assert differ(first, second)


@pytest.mark.parametrize(
    "options",
    [["--fit", "pad"], ["--size", "model"], ["--size", "32"], ["--device", "cpu"]],
    ids=" ".join,
)
def test_the_defaults_are_what_the_help_says(made: Callable[..., Path], options: list[str]) -> None:
    assert made().read_bytes() == made(*options).read_bytes()


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_default_precision_is_what_the_help_says(
    made: Callable[..., Path], fast: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_fast_bf16", lambda: fast)
    assert made("-d", "cpu").read_bytes() == made("-d", "cpu", "--precision", precision).read_bytes()


def test_each_fit_has_its_size(made: Callable[..., Path]) -> None:
    sizes = {
        (fit, size): size_of(made("--fit", fit, "--output-size", size))
        for fit in ("pad", "crop", "stretch")
        for size in ("source", "network")
    }
    assert sizes == {
        ("pad", "source"): (60, 40),
        ("pad", "network"): (32, 21),
        ("crop", "source"): (40, 40),
        ("crop", "network"): (32, 32),
        ("stretch", "source"): (60, 40),
        ("stretch", "network"): (32, 32),
    }


def test_alpha_is_kept_or_dropped(made: Callable[..., Path], photo: Path) -> None:
    with (
        Image.open(made()) as kept,
        Image.open(made("--alpha", "drop")) as dropped,
        Image.open(photo) as source,
    ):
        assert kept.mode == "RGBA"
        assert dropped.mode == "RGB"
        assert kept.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_metadata_is_kept_or_dropped(made: Callable[..., Path]) -> None:
    with Image.open(made()) as kept, Image.open(made("--metadata", "drop")) as dropped:
        assert kept.getexif()[0x010E] == "a cat"
        assert not dropped.getexif()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("auto", "PNG"), ("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF"), ("tiff", "TIFF")],
)
def test_each_format_is_written(made: Callable[..., Path], name: str, kind: str) -> None:
    path = made("--format", name)
    assert path.suffix == (".png" if name == "auto" else f".{name}")
    with Image.open(path) as image:
        assert (image.format, image.size) == (kind, (60, 40))


@pytest.mark.parametrize("name", ["jpg", "webp", "avif"])
def test_quality_decides_the_size_of_the_file(made: Callable[..., Path], name: str) -> None:
    sizes = [made("-f", name, "-q", quality).stat().st_size for quality in (10, 95)]
    assert sizes[0] < sizes[1]


def test_names_follow_the_template(made: Callable[..., Path]) -> None:
    assert made("--name", "{model}/{stem}-drawn").as_posix().endswith("/ink/a-drawn.png")


@pytest.mark.parametrize("kind", ["heatmap", "overlay", "mask", "npy"])
def test_each_attention_sidecar_is_written(program: Program, photo: Path, tmp_path: Path, kind: str) -> None:
    outcome = program(
        "translate", photo, "-m", "ink", "-o", tmp_path / "new.png", "--attention", kind, "--json"
    )
    (line,) = outcome.lines()
    name = "new.attention.npy" if kind == "npy" else f"new.{kind}.png"
    assert line["attention"] == [str(tmp_path / name)]
    if kind == "npy":
        values = np.load(tmp_path / name)
        assert (values.dtype, values.shape) == (np.float32, (8, 8))
        assert values.std() > 0
    else:
        with Image.open(tmp_path / name) as image:
            assert image.size == (60, 40)
            assert image.mode == ("L" if kind == "mask" else "RGB")


def test_several_sidecars_and_none(program: Program, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ("--attention", "mask", "--attention", "npy", "--attention", "none", "--attention", "mask")
    assert program("translate", photo.parent, "-m", "ink", "-o", out, *flags).code == 0
    assert set(tree(out)) == {"a.png", "a.mask.png", "a.attention.npy"}


def test_if_exists_decides_about_what_is_there(program: Program, photo: Path, tmp_path: Path) -> None:
    target = paint(tmp_path / "out" / "a.png")
    old = target.read_bytes()
    command = ("translate", photo.parent, "-m", "ink", "-o", tmp_path / "out")
    skipped = program(*command)
    assert skipped.code == 0
    assert "not made from these settings" in skipped.err
    refused = program(*command, "--if-exists", "error")
    assert refused.code == 1
    assert "is there already" in refused.err
    assert program(*command, "--if-exists", "rename").code == 0
    assert target.read_bytes() == old
    assert set(tree(tmp_path / "out")) == {"a.png", "a (1).png"}
    assert program(*command, "--if-exists", "overwrite").code == 0
    assert target.read_bytes() == (tmp_path / "out" / "a (1).png").read_bytes() != old


def test_update_makes_anew_what_came_of_an_older_input(program: Program, photo: Path, tmp_path: Path) -> None:
    command = ("translate", photo.parent, "-m", "ink", "-o", tmp_path / "out", "--if-exists", "update")
    target = tmp_path / "out" / "a.png"
    assert program(*command).code == 0
    old = target.read_bytes()
    assert [line["status"] for line in program(*command, "--json").lines()] == ["skipped"]
    paint(photo, 60, 40, seed=5)
    assert [line["status"] for line in program(*command, "--json").lines()] == ["done"]
    assert target.read_bytes() != old


def test_folders_in_folders_are_left_alone_when_asked(program: Program, photo: Path, tmp_path: Path) -> None:
    paint(photo.parent / "sub" / "b.png")
    for flag, names in (("--no-recursive", {"a.png"}), ("--recursive", {"a.png", "sub/b.png"})):
        assert program("translate", photo.parent, "-m", "ink", "-o", tmp_path / flag, flag).code == 0
        assert set(tree(tmp_path / flag)) == names


def test_stopping_at_the_first_failure_leaves_the_rest(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    for number in range(60):
        paint(folder / f"{number:02}.png", seed=number)
    (folder / "00.png").write_bytes(b"")
    command = ("translate", folder, "-m", "ink", "-o", tmp_path / "out")
    stopped = program(*command, "--on-error", "stop", "--json")
    assert stopped.code == 1
    assert [line["status"] for line in stopped.lines()].count("failed") == 1
    assert len(tree(tmp_path / "out")) < 59
    assert program(*command, "--on-error", "continue").code == 1
    assert len(tree(tmp_path / "out")) == 59


def test_a_dry_run_creates_nothing(program: Program, photo: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    flags = ("--dry-run", "--report", tmp_path / "report.jsonl", "--attention", "mask")
    outcome = program("translate", photo.parent, "-m", "ink", "-o", tmp_path / "out", *flags)
    assert outcome.code == 0
    assert outcome.out == f"{photo} → {tmp_path / 'out' / 'a.png'}\n"
    assert "1 pictures; 0 other files are left alone; nothing was done" in outcome.err
    assert set(tmp_path.rglob("*")) == before
    lines = program(
        "translate", photo.parent, "-m", "ink", "-o", tmp_path / "out", "--dry-run", "--json"
    ).lines()
    assert lines == [{"input": str(photo), "output": str(tmp_path / "out" / "a.png"), "status": "planned"}]


def test_results_for_programs_go_to_stdout_and_to_the_report(
    program: Program, photo: Path, tmp_path: Path
) -> None:
    paint(photo.parent / "ä.png")
    report = tmp_path / "new" / "report.jsonl"
    command = ("translate", photo.parent, "-m", "ink", "-o", tmp_path / "out", "--report", report)
    silent = program(*command)
    assert silent.out == ""
    lines = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
    assert {line["input"] for line in lines} == {str(photo), str(photo.parent / "ä.png")}
    assert {line["status"] for line in lines} == {"done"}
    assert {line["status"] for line in program(*command, "--json").lines()} == {"skipped"}
    assert len(report.read_text("utf-8").splitlines()) == 2


def test_people_are_told_as_much_as_they_ask_for(program: Program, photo: Path, tmp_path: Path) -> None:
    (photo.parent / "bad.png").write_bytes(b"")
    command = ("translate", photo.parent, "-m", "ink", "--if-exists", "overwrite", "-o", tmp_path / "out")
    normal, verbose, quiet = program(*command), program(*command, "-v"), program(*command, "--quiet")
    assert normal.code == verbose.code == quiet.code == 1
    assert "translated" in normal.err
    assert "photo → ink" in normal.err
    arrow = f"{photo} → {tmp_path / 'out' / 'a.png'}"
    assert arrow in verbose.err
    assert arrow not in normal.err
    assert quiet.err.splitlines() == [line for line in normal.err.splitlines() if "bad.png" in line]


def test_variables_stand_for_options_and_flags_win(
    program: Program, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UGATIT_BATCH_TRANSLATE_FORMAT", "webp")
    monkeypatch.setenv("UGATIT_BATCH_TRANSLATE_NAME", "{stem}_env{ext}")
    monkeypatch.setenv("UGATIT_BATCH_TRANSLATE_ATTENTION", "mask npy")
    monkeypatch.setenv("UGATIT_BATCH_TRANSLATE_JSON", "1")
    first = program("translate", photo.parent, "-m", "ink", "-o", tmp_path / "one")
    assert [line["status"] for line in first.lines()] == ["done"]
    assert set(tree(tmp_path / "one")) == {"a_env.webp", "a_env.mask.png", "a_env.attention.npy"}
    flags = ("--format", "jpg", "--name", "{stem}{ext}", "--attention", "none")
    assert program("translate", photo.parent, "-m", "ink", "-o", tmp_path / "two", *flags).code == 0
    assert set(tree(tmp_path / "two")) == {"a.jpg"}


def test_the_models_folder_comes_from_a_flag_or_a_variable(
    program: Program, photo: Path, tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("translate", photo, "-m", "ink", "-o", tmp_path / "new.png")
    (tmp_path / "empty").mkdir()
    assert program(*command, "--models-dir", tmp_path / "empty").code == 4
    monkeypatch.setenv("UGATIT_BATCH_MODELS_DIR", str(tmp_path / "empty"))
    outcome = program(*command, "--models-dir", models_dir)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("size", ["model", "native"])
def test_the_batch_size_does_not_change_the_pictures(program: Program, tmp_path: Path, size: str) -> None:
    for number in range(10):
        paint(tmp_path / "p" / f"{number}.png", 32 - number % 2 * 8, 24, number)
    for batch in (1, 4):
        flags = ("--batch-size", batch, "--size", size)
        assert (
            program("translate", tmp_path / "p", "-m", "ink", "-o", tmp_path / str(batch), *flags).code == 0
        )
    for number in range(10):
        one, four = (pixels_of(tmp_path / batch / f"{number}.png").astype(int) for batch in ("1", "4"))
        assert abs(one - four).max() <= 1


def test_a_native_model_keeps_large_pictures_to_its_limit(made: Callable[..., Path]) -> None:
    assert size_of(made("--output-size", "network", model="own")) == (60, 40)
    assert size_of(made("--output-size", "network", "--size", "24", model="own")) == (24, 16)


def test_every_option_is_tried_in_this_file() -> None:
    tried = {
        "attention",
        "alpha",
        "batch_size",
        "device",
        "dry_run",
        "fit",
        "if_exists",
        "as_json",
        "metadata",
    }
    tried |= {"model", "models_dir", "on_error", "output", "output_size", "precision", "quality", "quiet"}
    tried |= {"recursive", "report", "reverse", "size", "verbose", "format_", "template", "inputs"}
    elsewhere = {"backend"} | FILM_OPTIONS
    assert {parameter.name for parameter in command.params} - elsewhere == tried


def test_the_summary_says_where_the_results_are(program: Program, photo: Path, tmp_path: Path) -> None:
    outcome = program("translate", photo.parent, "-m", "ink", "-o", tmp_path / "out")
    assert f"are in {tmp_path / 'out'}" in outcome.err
    outcome = program("translate", photo, "-m", "ink")
    assert f"are in {photo.parent}" in outcome.err
