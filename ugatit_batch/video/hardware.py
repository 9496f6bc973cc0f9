"""Which hardware decodes a film, if any does so as well as software.

Knows nothing of encoding, and of which device a network runs on beyond being told.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError

from ugatit_batch.errors import EnvironmentLacksError, FilmError
from ugatit_batch.frames import SizeRule
from ugatit_batch.images.geometry import Sizing, place
from ugatit_batch.video.graphs import ToNetwork
from ugatit_batch.video.packets import Decoding
from ugatit_batch.video.probe import open_film

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.frames import Pixels
    from ugatit_batch.video.info import FilmInfo

    Read = Callable[[FilmInfo, HWAccel | None], list[tuple[int, Pixels]]]

Finding = Literal["same", "other", "nothing"]

_COMPARED = 8
_TOLERANCE = 2.0


def check_hwaccel(wanted: str) -> None:
    """Do nothing where `--hwaccel` names something that FFmpeg here knows.

    Raises:
        EnvironmentLacksError: it does not.
    """
    if wanted not in ("none", "auto", *hwdevices_available()):
        raise _lacks(wanted, "is not known here")


def choose_hwaccel(info: FilmInfo, wanted: str, on_cuda: bool) -> tuple[HWAccel | None, str | None]:
    """The hardware that decodes this film.

    Args:
        info: the film.
        wanted: `none`, `auto` (CUDA where it answers and gives what software gives), or a name of FFmpeg's.
        on_cuda: whether the network runs on CUDA, so that its driver is there.

    Returns:
        What to give to FilmReader, None for software; and a note worth saying, or None.

    Raises:
        EnvironmentLacksError: the hardware that was named does not answer, or does not decode this film.
        FilmError: the film cannot be read.
    """
    if wanted == "none" or (wanted == "auto" and not on_cuda):
        return None, None
    if wanted == "auto":
        same = _answers(info, "cuda") and compare(info, _strict("cuda")) == "same"
        return (HWAccel("cuda") if same else None), None
    check_hwaccel(wanted)
    found = compare(info, _strict(wanted)) if _answers(info, wanted) else "nothing"
    if found == "nothing":
        raise _lacks(wanted, f"does not answer, or does not decode {info.path}")
    note = None if found == "same" else f"{wanted} decodes it to other pictures than software does"
    return HWAccel(wanted), note


def first_pictures(info: FilmInfo, hwaccel: HWAccel | None) -> list[tuple[int, Pixels]]:
    """The first pictures of a film with their timestamps, at its own size.

    Raises:
        FilmError: it cannot be read.
    """
    placement = place(info.width, info.height, Sizing(square=False, side=None), SizeRule(1, 1))
    convert = ToNetwork(info, placement)
    with closing(Decoding(info, hwaccel, 0).pictures()) as pictures:
        return [
            (shown.pts, convert(shown.frame)[0])
            for shown in islice(pictures, _COMPARED)
            if shown.frame is not None
        ]


def compare(info: FilmInfo, hardware: HWAccel, read: Read = first_pictures) -> Finding:
    """Whether hardware gives the first pictures that software gives.

    Args:
        info: the film.
        hardware: what is asked.
        read: gives the first pictures of a film.

    Returns:
        `same` where timestamps are equal and pixels differ by 2 levels or less on average; `nothing` where
        hardware gives no picture at all.

    Raises:
        FilmError: software cannot read the film.
    """
    expected = read(info, None)
    try:
        given = read(info, hardware)
    except FilmError:
        return "nothing"
    if not given:
        return "nothing"
    if [pts for pts, _ in given] != [pts for pts, _ in expected]:
        return "other"
    alike = all(
        float(np.abs(pixels.astype(np.int16) - other).mean()) <= _TOLERANCE
        for (_, pixels), (_, other) in zip(given, expected, strict=True)
    )
    return "same" if alike else "other"


def _strict(name: str) -> HWAccel:
    """This hardware, or an error: software must not be compared with itself."""
    return HWAccel(name, allow_software_fallback=False)


def _answers(info: FilmInfo, name: str) -> bool:
    """Whether hardware opens, and takes streams like this film's."""
    try:
        with open_film(info.path, _strict(name)) as container:
            return bool(container.streams[info.stream].codec_context.is_hwaccel)
    except (FilmError, FFmpegError, RuntimeError, NotImplementedError):
        return False


def _lacks(wanted: str, what: str) -> EnvironmentLacksError:
    there = ", ".join(hwdevices_available()) or "none"
    return EnvironmentLacksError(
        f"--hwaccel {wanted}: this hardware {what} (FFmpeg here was built with: {there})",
        "use --hwaccel none",
    )
