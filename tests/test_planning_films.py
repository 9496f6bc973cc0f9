from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ugatit_batch.errors import NothingToDoError, UsageError
from ugatit_batch.images.write import Encoding
from ugatit_batch.planning import DEFAULT_NAME, Naming, plan

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.video.info import FilmFormat


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")


def naming(
    output: Path | None = None, container: FilmFormat = "auto", attention: tuple[Kind, ...] = ()
) -> Naming:
    return Naming(output, "ink", Encoding(), DEFAULT_NAME, attention, container)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ("auto", ["a.mp4", "b.MKV", "c.webm", "d.mkv", "e.mkv", "f.jpg", "g.m4v"]),
        ("mp4", ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.jpg", "g.m4v"]),
        ("webm", ["a.webm", "b.webm", "c.webm", "d.webm", "e.webm", "f.jpg", "g.webm"]),
    ],
)
def test_films_and_pictures_lie_in_one_plan(
    tmp_path: Path, container: FilmFormat, expected: list[str]
) -> None:
    for name in ("a.mp4", "b.MKV", "c.webm", "d.avi", "e.WMV", "f.jpg", "g.m4v", "notes.txt"):
        touch(tmp_path / "p" / name)
    made = plan([tmp_path / "p"], naming(container=container))
    assert [job.target.name for job in made.jobs] == expected
    assert [job.source.name for job in made.jobs if not job.is_film] == ["f.jpg"]
    assert made.ignored == 1


def test_a_single_film_goes_beside_itself_or_where_it_is_told(tmp_path: Path) -> None:
    source = tmp_path / "a.MP4"
    touch(source)
    (job,) = plan([source], naming()).jobs
    assert (job.target, job.root) == (tmp_path / "a_ink.MP4", None)
    (job,) = plan([source], naming(tmp_path / "b.mkv")).jobs
    assert (job.target, job.root) == (tmp_path / "b.mkv", None)
    (job,) = plan([source], naming(tmp_path / "out")).jobs
    assert (job.target, job.root) == (tmp_path / "out" / "a.MP4", tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("a.mp4", "b.png", "not a format that a film is written in"),
        ("a.mp4", "b.avi", "not a format that a film is written in"),
        ("a.jpg", "b.mp4", "not a format that a picture is written in"),
    ],
)
def test_a_result_of_another_kind_is_refused(tmp_path: Path, source: str, output: str, words: str) -> None:
    touch(tmp_path / source)
    with pytest.raises(UsageError, match=words):
        plan([tmp_path / source], naming(tmp_path / output))


def test_a_name_that_does_not_fit_the_format_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="does not fit --format mkv"):
        plan([tmp_path / "a.mp4"], naming(tmp_path / "b.mp4", "mkv"))


def test_a_folder_cannot_become_one_film(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.mp4")
    with pytest.raises(UsageError, match="is the name of one file"):
        plan([tmp_path / "p"], naming(tmp_path / "b.mp4"))


def test_two_films_that_would_become_one_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.avi", tmp_path / "p" / "a.mkv")
    with pytest.raises(UsageError, match=r"would both become .*a\.mkv"):
        plan([tmp_path / "p"], naming())


def test_the_attention_of_a_film_is_a_film(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "a.mp4", tmp_path / "p" / "a.overlay.mp4")
    assert len(plan([tmp_path / "p"], naming()).jobs) == 2
    with pytest.raises(UsageError, match=r"would both become .*a\.overlay\.mp4"):
        plan([tmp_path / "p"], naming(attention=("overlay",)))


def test_a_film_does_not_replace_itself(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="would replace the input"):
        plan([tmp_path / "a.mp4"], naming(tmp_path / "a.mp4"))


def test_a_folder_with_neither_says_what_it_looks_for(tmp_path: Path) -> None:
    touch(tmp_path / "p" / "notes.txt")
    with pytest.raises(NothingToDoError, match=r"no picture and no film in it .*\.mp4"):
        plan([tmp_path / "p"], naming())


def test_programs_in_typescript_are_left_alone(tmp_path: Path) -> None:
    packets, camera = (b"G" + bytes(187)) * 3, (bytes(4) + b"G" + bytes(187)) * 3
    for name, data in (
        ("a.ts", packets),
        ("b.MTS", camera),
        ("c.ts", b"export const GREY = 1;" * 30),
        ("d.ts", b""),
    ):
        touch(tmp_path / "p" / name)
        (tmp_path / "p" / name).write_bytes(data)
    made = plan([tmp_path / "p"], naming())
    assert [job.source.name for job in made.jobs] == ["a.ts", "b.MTS"]
    assert made.ignored == 2
