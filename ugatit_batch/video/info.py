"""What is known of a film before its first picture is read, and what is asked for in its result.

Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Turn = Literal["none", "right", "half", "left", "flip", "flip_right", "flip_half", "flip_left"]
"""How stored pictures become upright: turned clockwise by 0, 90, 180 or 270°; with `flip` mirrored left to
right first."""


@dataclass(frozen=True)
class Colour:
    """How the numbers of a film's pixels mean colours. All are FFmpeg's (and ITU-T H.273's) code points."""

    matrix: int
    """`AVColorSpace`, never unspecified: 0 RGB, 1 BT.709, 5 and 6 BT.601, 9 BT.2020."""
    range: int
    """`AVColorRange`: 1 limited, 2 full."""
    primaries: int
    """`AVColorPrimaries`."""
    transfer: int
    """`AVColorTransferCharacteristic`: 16 PQ, 18 HLG."""

    @property
    def is_hdr(self) -> bool:
        """Whether it has to be tone-mapped before a network sees it."""
        return self.transfer in (16, 18)


@dataclass(frozen=True)
class FilmInfo:
    """One film, as its headers and its first picture describe it."""

    path: Path
    stream: int
    """Index of the stream of pictures in the file."""
    width: int
    """Of the upright picture, in stored pixels."""
    height: int
    turn: Turn
    aspect: Fraction
    """Width of one upright pixel over its height; 1 where the file says nothing."""
    colour: Colour
    """Of the stored pictures; what is not tagged is filled in."""
    pix_fmt: str
    """FFmpeg's name of the stored pictures' format."""
    depth: int
    """Bits of one component."""
    time_base: Fraction
    """Seconds of one unit of timestamps."""
    rate: Fraction
    """Pictures a second, on average."""
    frames: int | None
    """How many pictures there are likely to be, for showing progress."""
    duration: Fraction | None
    """Seconds, as the file says."""
    notes: tuple[str, ...] = ()
    """What is worth saying of the source, a clause each."""
    begin: Fraction = Fraction(0)
    """Seconds, in the file's own timestamps, from which `--start` and `--end` count."""
    origin: Fraction = Fraction(0)
    """Seconds, in the file's own timestamps, that are 0 in the result, unless a part was asked for."""

    @property
    def result_colour(self) -> Colour:
        """Of the result: the source's own; BT.709 after tone mapping; for RGB what its size suggests."""
        if self.colour.is_hdr:
            return Colour(1, 1, 1, 1)
        if self.colour.matrix == 0:
            return default_colour(self.height)
        return self.colour


def default_colour(height: int) -> Colour:
    """What untagged pictures of so many lines are: BT.709 from 720 on, else BT.601; limited range."""
    if height >= 720:
        return Colour(1, 1, 1, 1)
    # 625 lines: the primaries of BT.470 BG; matrix and transfer of the two are the same.
    return Colour(5, 1, 5, 6) if height == 576 else Colour(6, 1, 6, 6)


FilmFormat = Literal["auto", "mp4", "mov", "mkv", "webm"]
AudioChoice = Literal["copy", "none", "aac", "opus"]
Codec = Literal[
    "auto",
    "libx264",
    "libx265",
    "libsvtav1",
    "libvpx-vp9",
    "ffv1",
    "prores",
    "h264_nvenc",
    "hevc_nvenc",
    "av1_nvenc",
]


@dataclass(frozen=True)
class FilmOptions:
    """How films are read and written (the video options of `translate`)."""

    format: FilmFormat = "auto"
    """Container; `auto` keeps the input's where it can be written."""
    codec: Codec = "auto"
    """`auto`: libx264, and libvpx-vp9 in WebM."""
    crf: int | None = None
    """Constant quality, in the codec's own scale; None: what is visually lossless with the codec."""
    preset: str | None = None
    """Speed, in the codec's own words; None: a fast one."""
    pix_fmt: str = "auto"
    """`auto` keeps depth and chroma of the source as far as the codec takes them."""
    audio: AudioChoice = "copy"
    subtitles: Literal["copy", "none"] = "copy"
    metadata: Literal["keep", "drop"] = "keep"
    start: Fraction | None = None
    """Seconds of the film's own time at which the result begins; it begins at 0 there."""
    end: Fraction | None = None
    segment: int = 60
    """Seconds after which what is done is safe."""
    resume: bool = True
    """Whether a killed film goes on after its last whole segment."""
    smooth: bool = False
    """Whether the style is averaged along the film."""
    hwaccel: str = "none"
    """Hardware that decodes: `none`, one that FFmpeg names (`cuda`), or `auto`: CUDA where it answers."""
    threads: int = 0
    """Of the decoder and of each encoder; 0: as many as suit the machine."""
