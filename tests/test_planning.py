from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.errors import NothingToDoError, UsageError
from ugatit_batch.images.write import Encoding
from ugatit_batch.planning import (
    DEFAULT_NAME,
    Job,
    Naming,
    Plan,
    is_media,
    job_for,
    output_folder,
    plan,
    same_name,
)

if TYPE_CHECKING:
    from ugatit_batch.images.sidecars import Kind


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")


def naming(
    output: Path | None = None,
    template: str = DEFAULT_NAME,
    attention: tuple[Kind, ...] = (),
    encoding: Encoding | None = None,
) -> Naming:
    return Naming(output, "ink", encoding or Encoding(), template, attention)


def pairs(made: Plan, source: Path, target: Path) -> dict[str, str]:
    """Sources and targets, each below its folder."""
    return {
        job.source.relative_to(source).as_posix(): job.target.relative_to(target).as_posix()
        for job in made.jobs
    }


def test_the_tree_is_mirrored_beside_the_input(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    touch(
        folder / "a.jpg", folder / "sub" / "b.PNG", folder / "sub" / "deep" / "c.webp", folder / "notes.txt"
    )
    made = plan([folder], naming())
    assert pairs(made, folder, tmp_path / "photos_ink") == {
        "a.jpg": "a.jpg",
        "sub/b.PNG": "sub/b.PNG",
        "sub/deep/c.webp": "sub/deep/c.webp",
    }
    assert made.roots() == [tmp_path / "photos_ink"]
    assert made.ignored == 1
    assert not (tmp_path / "photos_ink").exists()


def test_folders_inside_folders_can_be_left_alone(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.jpg", tmp_path / "p" / "sub" / "b.jpg")
    made = plan([tmp_path / "p"], naming(tmp_path / "out"), recursive=False)
    assert pairs(made, tmp_path / "p", tmp_path / "out") == {"a.jpg": "a.jpg"}


def test_unusual_names_are_kept(tmp_path: Path) -> None:
    names = [
        "-rf.jpg",
        "日本/猫 と 犬.png",
        "ä̈.webp",
        "{stem}.gif",
        "a'b\"c.tiff",
        "x" * 250 + ".png",
        "a.b.c.jpg",
    ]
    touch(*(tmp_path / "p" / name for name in names))
    made = plan([tmp_path / "p"], naming(tmp_path / "out"))
    assert pairs(made, tmp_path / "p", tmp_path / "out") == {name: name for name in names}


def test_a_relative_input_with_a_leading_dash_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "-p" / "-a.jpg")
    monkeypatch.chdir(tmp_path)
    assert [job.target.name for job in plan([Path("-p")], naming()).jobs] == ["-a.jpg"]
    assert plan([Path("-p/-a.jpg")], naming()).jobs[0].target == Path("-p/-a_ink.jpg")


def test_hidden_and_half_written_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.jpg", tmp_path / "p" / ".b.jpg", tmp_path / "p" / ".git" / "c.jpg")
    touch(tmp_path / "p" / ".a.partial.jpg")
    made = plan([tmp_path / "p"], naming(tmp_path / "out"))
    assert pairs(made, tmp_path / "p", tmp_path / "out") == {"a.jpg": "a.jpg"}
    assert made.ignored == 0


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "p", tmp_path / "elsewhere"
    touch(folder / "a.jpg", folder / "sub" / "b.jpg", elsewhere / "c.jpg")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone.jpg").symlink_to(tmp_path / "missing.jpg")
    (folder / "link").symlink_to(elsewhere)
    (folder / "one.jpg").symlink_to(folder / "a.jpg")
    made = plan([folder], naming(tmp_path / "out"))
    names = ["a.jpg", "link/c.jpg", "one.jpg", "sub/b.jpg"]
    assert pairs(made, folder, tmp_path / "out") == {name: name for name in names}


@pytest.mark.parametrize("out", ["out", "sub/out"])
def test_an_output_inside_the_input_is_not_read_again(tmp_path: Path, out: str) -> None:
    folder = tmp_path / "p"
    touch(folder / "a.jpg", folder / "sub" / "b.jpg", folder / out / "a.jpg", folder / out / "sub" / "b.jpg")
    (folder / "link").symlink_to(folder / out)
    made = plan([folder], naming(folder / out))
    assert pairs(made, folder, folder / out) == {"a.jpg": "a.jpg", "sub/b.jpg": "sub/b.jpg"}


def test_the_output_of_one_input_is_not_read_as_part_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    touch(folder / "a.jpg", folder / "sub" / "b.jpg", folder / "sub_ink" / "b.jpg")
    made = plan([folder, folder / "sub"], naming())
    assert [str(job.source.relative_to(folder)) for job in made.jobs] == ["a.jpg", "sub/b.jpg", "sub/b.jpg"]


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(format="png")])
def test_a_folder_cannot_be_its_own_output(tmp_path: Path, encoding: Encoding) -> None:
    touch(tmp_path / "p" / "a.jpg")
    with pytest.raises(UsageError, match=r"p.*input") as caught:
        plan([tmp_path / "p"], naming(tmp_path / "p", encoding=encoding))
    assert "--output" in caught.value.hint


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{parent}/{stem}{ext}", "sub/a.jpg"),
        ("{stem}{ext}", "a.jpg"),
        ("{stem}", "a.jpg"),
        ("{model}/{parent}/{stem}_x{ext}", "ink/sub/a_x.jpg"),
        ("{stem:>5}{ext}", "    a.jpg"),
        ("{{{stem}}}{ext}", "{a}.jpg"),
    ],
)
def test_names_follow_the_template(tmp_path: Path, template: str, expected: str) -> None:
    touch(tmp_path / "p" / "sub" / "a.jpg")
    made = plan([tmp_path / "p"], naming(tmp_path / "out", template))
    assert pairs(made, tmp_path / "p", tmp_path / "out") == {"sub/a.jpg": expected}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{stem}{number}", "{number} means nothing"),
        ("{parent}/{ext}", "{stem} is missing"),
        ("{}", "{} means nothing"),
        ("{0}{stem}", "{0} means nothing"),
        ("{stem.__class__}", "means nothing"),
        ("{stem", "--name"),
        ("{stem:d}", "--name"),
        ("{stem!x}", "--name"),
        ("{stem:{missing}}", "--name"),
    ],
)
def test_a_wrong_template_is_refused(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        naming(tmp_path / "out", template)
    assert words in caught.value.message


@pytest.mark.parametrize("template", ["../{stem}{ext}", "{parent}/../{stem}{ext}", "/tmp/{stem}{ext}"])
def test_a_template_cannot_lead_out_of_the_output_folder(tmp_path: Path, template: str) -> None:
    touch(tmp_path / "p" / "a.jpg")
    with pytest.raises(UsageError, match="outside of the output folder"):
        plan([tmp_path / "p"], naming(tmp_path / "out", template))


@pytest.mark.parametrize(
    ("names", "template", "attention", "clash"),
    [
        (("a.bmp", "a.png"), DEFAULT_NAME, (), "a.png"),
        (("x/a.jpg", "y/a.jpg"), "{stem}{ext}", (), "a.jpg"),
        (("a.jpg", "a.png"), DEFAULT_NAME, ("overlay",), "a.overlay.png"),
        (("a.jpg", "a.png"), DEFAULT_NAME, ("npy",), "a.attention.npy"),
        (("a.jpg", "a.mask.png"), DEFAULT_NAME, ("mask",), "a.mask.png"),
    ],
)
def test_two_inputs_with_one_output_are_refused_before_any_work(
    tmp_path: Path, names: tuple[str, ...], template: str, attention: tuple[Kind, ...], clash: str
) -> None:
    touch(*(tmp_path / "p" / name for name in names))
    with pytest.raises(UsageError, match="would both become") as caught:
        plan([tmp_path / "p"], naming(tmp_path / "out", template, attention))
    assert all(str(tmp_path / "p" / name) in caught.value.message for name in names)
    assert str(tmp_path / "out" / clash) in caught.value.message
    assert not (tmp_path / "out").exists()


def test_names_apart_from_their_suffix_are_two_outputs(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.jpg", tmp_path / "p" / "a.png", tmp_path / "p" / "A.png")
    assert len(plan([tmp_path / "p"], naming(tmp_path / "out")).jobs) == 3
    with pytest.raises(UsageError, match="would both become"):
        plan([tmp_path / "p"], naming(tmp_path / "out", encoding=Encoding(format="webp")))


def test_an_output_never_replaces_an_input(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with pytest.raises(UsageError, match="would replace the input"):
        plan([tmp_path / "a.jpg"], naming(tmp_path / "a.jpg"))
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="would replace the input"):
        plan([tmp_path / "a.jpg"], naming(tmp_path / "link.jpg"))
    with pytest.raises(UsageError, match="would replace the input"):
        plan([tmp_path / "a.jpg", tmp_path / "b.jpg"], naming(tmp_path))


def test_a_single_file_goes_beside_itself_or_where_it_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "a.bmp")
    source = tmp_path / "a.bmp"
    (tmp_path / "there").mkdir()
    for output, target, root in (
        (None, tmp_path / "a_ink.png", None),
        (tmp_path / "new.webp", tmp_path / "new.webp", None),
        (tmp_path / "deep" / "new.JPG", tmp_path / "deep" / "new.JPG", None),
        (tmp_path / "there", tmp_path / "there" / "a.png", tmp_path / "there"),
        (tmp_path / "new", tmp_path / "new" / "a.png", tmp_path / "new"),
    ):
        (job,) = plan([source], naming(output)).jobs
        assert (job.target, job.root) == (target, root)
    (job,) = plan([source], naming(template="{model}/{stem}-new")).jobs
    assert job.target == tmp_path / "ink" / "a-new.png"


def test_a_single_output_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match=r"\.xcf is not a format that a picture is written in"):
        plan([tmp_path / "a.jpg"], naming(tmp_path / "a.xcf"))


def test_several_inputs_share_one_output_folder_or_have_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.jpg", tmp_path / "q" / "b.jpg", tmp_path / "c.jpg")
    inputs = [tmp_path / "p", tmp_path / "q", tmp_path / "c.jpg"]
    shared = plan(inputs, naming(tmp_path / "out"))
    assert [job.target.name for job in shared.jobs] == ["a.jpg", "b.jpg", "c.jpg"]
    assert shared.roots() == [tmp_path / "out"]
    own = plan(inputs, naming())
    assert [job.target for job in own.jobs] == [
        tmp_path / "p_ink" / "a.jpg",
        tmp_path / "q_ink" / "b.jpg",
        tmp_path / "c_ink.jpg",
    ]
    assert own.roots() == [tmp_path / "p_ink", tmp_path / "q_ink"]


def test_nothing_to_do_and_nothing_there_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "notes.txt", tmp_path / "p" / "data.csv")
    with pytest.raises(NothingToDoError, match="no picture") as nothing:
        plan([tmp_path / "p"], naming())
    assert nothing.value.exit_code == 3
    assert "2 other files" in nothing.value.hint
    for missing in (tmp_path / "missing", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match="no such file or folder") as caught:
            plan([tmp_path / "p", missing], naming())
        assert caught.value.exit_code == 2


def test_a_folder_that_cannot_be_looked_into_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "p" / "a.jpg", tmp_path / "p" / "closed" / "b.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    made = plan([tmp_path / "p"], naming(tmp_path / "out"))
    assert [job.source.name for job in made.jobs] == ["a.jpg"]
    ((folder, error),) = made.problems
    assert folder == tmp_path / "p" / "closed"
    assert "Permission denied" in error.message


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_are_planned(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    touch(tmp_path / "p" / name)
    assert [job.target.name for job in plan([tmp_path / "p"], naming()).jobs] == [name]


@pytest.mark.parametrize("inputs", [["a.jpg", "b.jpg"], ["."]])
def test_a_file_name_for_many_outputs_is_refused(tmp_path: Path, inputs: list[str]) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with pytest.raises(UsageError, match="is the name of one file"):
        plan([tmp_path / name for name in inputs], Naming(tmp_path / "out" / "x.png", "ink", Encoding()))


def test_a_file_name_that_does_not_fit_the_format_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="does not fit --format webp"):
        plan([tmp_path / "a.jpg"], Naming(tmp_path / "b.png", "ink", Encoding("webp")))
    fitting = plan([tmp_path / "a.jpg"], Naming(tmp_path / "b.JPEG", "ink", Encoding("jpg")))
    assert fitting.jobs[0].target == tmp_path / "b.JPEG"


def test_the_job_of_one_file_is_that_of_the_whole_folder(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.jpg", tmp_path / "p" / "sub" / "b.png")
    wanted = naming(tmp_path / "out", "{parent}/{stem}_{model}{ext}")
    made = plan([tmp_path / "p"], wanted)
    assert [job_for(job.source, tmp_path / "p", tmp_path / "out", wanted) for job in made.jobs] == made.jobs
    source = tmp_path / "p" / "sub" / "b.png"
    # It need not be there.
    source.unlink()
    job = job_for(source, tmp_path / "p", tmp_path / "out", naming())
    assert job == Job(source, tmp_path / "out" / "sub" / "b.png", tmp_path / "out")
    with pytest.raises(UsageError, match="outside of the output folder"):
        job_for(source, tmp_path / "p", tmp_path / "out", naming(template="../../{stem}"))


def test_the_output_folder_is_beside_its_input_or_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert output_folder(tmp_path / "p", naming()) == tmp_path / "p_ink"
    assert output_folder(tmp_path / "p", naming(tmp_path / "out")) == tmp_path / "out"
    with pytest.raises(UsageError, match="is the input and the output"):
        output_folder(tmp_path / "p", naming(tmp_path / "p"))
    with pytest.raises(UsageError, match="has no name"):
        output_folder(Path(tmp_path.anchor), naming())


def test_pictures_and_films_are_told_by_their_names(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c.mkv", "d.MP4", "e.ts"):
        assert is_media(tmp_path / name), name
    for name in ("a", "b.txt", "c.jpg.part", "jpg"):
        assert not is_media(tmp_path / name), name


def test_names_of_one_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    is_one = (tmp_path / "A.PNG").exists()
    assert (same_name(tmp_path / "a.png") == same_name(tmp_path / "A.PNG")) == is_one
    assert same_name(tmp_path / "a.png") != same_name(tmp_path / "b.png")
