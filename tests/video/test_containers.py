from __future__ import annotations

from pathlib import Path

import pytest

from ugatit_batch.video.containers import FILM_SUFFIXES, OUTPUT_FILM_SUFFIXES, container_of, film_suffix


@pytest.mark.parametrize(
    ("name", "format_", "suffix"),
    [
        ("a.mp4", "auto", ".mp4"),
        ("a.MP4", "auto", ".MP4"),
        ("a.m4v", "auto", ".m4v"),
        ("a.WebM", "auto", ".WebM"),
        ("a.avi", "auto", ".mkv"),
        ("a.MTS", "auto", ".mkv"),
        ("a.M4V", "mp4", ".M4V"),
        ("a.avi", "mp4", ".mp4"),
        ("a.m4v", "mov", ".mov"),
        ("a.MOV", "mov", ".MOV"),
        ("a.mp4", "mkv", ".mkv"),
        ("a.mkv", "webm", ".webm"),
    ],
)
def test_the_suffix_of_a_result(name: str, format_: str, suffix: str) -> None:
    assert film_suffix(Path(name), format_) == suffix


def test_what_is_written_is_read_and_pictures_are_no_films() -> None:
    assert OUTPUT_FILM_SUFFIXES <= FILM_SUFFIXES
    assert not FILM_SUFFIXES & {".gif", ".webp", ".apng", ".avif", ".png"}
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in FILM_SUFFIXES)
    assert {container_of(Path(f"a{suffix}")) for suffix in OUTPUT_FILM_SUFFIXES} == {
        "mp4",
        "mov",
        "mkv",
        "webm",
    }
