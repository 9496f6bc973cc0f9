from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from av.codec.hwaccel import HWAccel, hwdevices_available

from ugatit_batch.errors import EnvironmentLacksError, FilmError
from ugatit_batch.video.hardware import choose_hwaccel, compare, first_pictures
from ugatit_batch.video.probe import probe_film

from .film_makers import make_film, picture

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.video.hardware import Finding
    from ugatit_batch.video.info import FilmInfo

SOME = HWAccel("cuda", allow_software_fallback=False)


@pytest.fixture
def info(tmp_path: Path) -> FilmInfo:
    make_film(tmp_path / "film.mp4", count=12)
    return probe_film(tmp_path / "film.mp4")


@pytest.fixture
def silent_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver does not answer, wherever the test runs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_none_and_auto_without_cuda_are_software(info: FilmInfo) -> None:
    assert choose_hwaccel(info, "none", on_cuda=True) == (None, None)
    assert choose_hwaccel(info, "auto", on_cuda=False) == (None, None)


@pytest.mark.usefixtures("silent_hardware")
def test_auto_says_nothing_where_no_driver_answers(info: FilmInfo) -> None:
    assert choose_hwaccel(info, "auto", on_cuda=True) == (None, None)


@pytest.mark.usefixtures("silent_hardware")
@pytest.mark.parametrize("name", ["cuda", "nonsense"])
def test_named_hardware_that_does_not_answer_is_an_error(info: FilmInfo, name: str) -> None:
    with pytest.raises(EnvironmentLacksError, match=f"--hwaccel {name}") as caught:
        choose_hwaccel(info, name, on_cuda=True)

    assert all(there in caught.value.message for there in hwdevices_available())
    assert caught.value.hint == "use --hwaccel none"


def test_hardware_that_does_not_know_the_codec_is_an_error(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", codec="ffv1", count=2)

    with pytest.raises(EnvironmentLacksError, match=r"cuda.*film\.mkv"):
        choose_hwaccel(probe_film(tmp_path / "film.mkv"), "cuda", on_cuda=True)


def test_the_first_pictures_are_read_as_they_are(info: FilmInfo) -> None:
    pictures = first_pictures(info, None)

    assert [pts for pts, _ in pictures] == [index * 512 for index in range(8)]
    assert all(
        np.abs(pixels.astype(int) - picture(index)).mean() < 4 for index, (_, pixels) in enumerate(pictures)
    )


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda pictures: pictures, "same"),
        (lambda pictures: [(pts, pixels + 2) for pts, pixels in pictures], "same"),
        (lambda pictures: [(pts, pixels + 5) for pts, pixels in pictures], "other"),
        (lambda pictures: [*pictures[:5], (pictures[5][0], pictures[5][1] * 0), *pictures[6:]], "other"),
        (lambda pictures: [(pts + 1, pixels) for pts, pixels in pictures], "other"),
        (lambda pictures: pictures[1:], "other"),
        (lambda pictures: [], "nothing"),
    ],
)
def test_hardware_is_compared_with_software(info: FilmInfo, change: object, finding: Finding) -> None:
    software = first_pictures(info, None)

    def read(asked: FilmInfo, hardware: HWAccel | None) -> list[tuple[int, Pixels]]:
        assert asked is info
        assert callable(change)
        changed: list[tuple[int, Pixels]] = change(list(software))
        return software if hardware is None else changed

    assert compare(info, SOME, read) == finding


def test_hardware_that_cannot_read_gives_nothing(info: FilmInfo) -> None:
    def read(asked: FilmInfo, hardware: HWAccel | None) -> list[tuple[int, Pixels]]:
        if hardware is not None:
            raise FilmError(f"{asked.path}: no")
        return first_pictures(asked, None)

    assert compare(info, SOME, read) == "nothing"


@pytest.mark.gpu
def test_cuda_decodes_what_software_decodes(info: FilmInfo) -> None:
    hardware, note = choose_hwaccel(info, "cuda", on_cuda=True)

    assert hardware is not None
    assert note is None
