"""The encoders that films can be written with, and the settings each one has.

A table; knows nothing of the film that is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ugatit_batch.video.containers import Container


@dataclass(frozen=True)
class Encoder:
    """One encoder of FFmpeg."""

    name: str
    """FFmpeg's."""
    containers: tuple[Container, ...]
    """That FFmpeg's muxers put its pictures into, and its demuxers find them in again."""
    fixed: dict[str, str] = field(default_factory=dict)
    """Options that are always set."""
    quality: str | None = None
    """Name of the option for constant quality, None where it has none."""
    quality_range: tuple[int, int, int] = (0, 0, 0)
    """Best, worst, and what is visually lossless at a good speed."""
    preset_option: str = "preset"
    presets: tuple[str, ...] = ()
    """Words for its speed, slow ones last or first as the encoder has them; none where it has none."""
    preset: str = ""
    """The one that is taken where none is asked for."""
    wants_even: bool = False
    """Whether a side whose colours are stored at half the resolution has to be even."""
    segment_format: str = "nut"
    is_hardware: bool = False


_X26_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)


def _nvenc(name: str, containers: tuple[Container, ...], quality_range: tuple[int, int, int]) -> Encoder:
    """One of NVIDIA's, which have the same settings."""
    return Encoder(
        name,
        containers,
        fixed={"rc": "vbr", "b": "0"},
        quality="cq",
        quality_range=quality_range,
        presets=tuple(f"p{number}" for number in range(1, 8)),
        preset="p4",
        wants_even=True,
        is_hardware=True,
    )


ENCODERS: dict[str, Encoder] = {
    "libx264": Encoder(
        "libx264",
        ("mp4", "mov", "mkv"),
        quality="crf",
        quality_range=(0, 51, 18),
        presets=_X26_PRESETS,
        preset="veryfast",
        wants_even=True,
    ),
    "libx265": Encoder(
        "libx265",
        ("mp4", "mov", "mkv"),
        # It writes to stderr by itself, and its settings into every film's header.
        fixed={"x265-params": "log-level=none:info=0"},
        quality="crf",
        quality_range=(0, 51, 20),
        presets=_X26_PRESETS,
        preset="fast",
        wants_even=True,
    ),
    "libsvtav1": Encoder(
        "libsvtav1",
        ("mp4", "mkv", "webm"),
        quality="crf",
        quality_range=(1, 63, 25),
        presets=tuple(str(number) for number in range(14)),
        preset="8",
    ),
    "libvpx-vp9": Encoder(
        "libvpx-vp9",
        ("mp4", "mkv", "webm"),
        fixed={"b": "0", "deadline": "good", "row-mt": "1"},
        quality="crf",
        quality_range=(0, 63, 24),
        preset_option="cpu-used",
        presets=tuple(str(number) for number in range(9)),
        preset="4",
    ),
    "ffv1": Encoder(
        "ffv1",
        ("mkv", "mp4"),
        # As archives write it: every picture stands alone, and every slice has a checksum.
        fixed={"level": "3", "g": "1", "slices": "4", "slicecrc": "1"},
    ),
    "prores": Encoder("prores_ks", ("mov", "mkv"), fixed={"vendor": "apl0"}, segment_format="mov"),
    "h264_nvenc": _nvenc("h264_nvenc", ("mp4", "mov", "mkv"), (1, 51, 19)),
    "hevc_nvenc": _nvenc("hevc_nvenc", ("mp4", "mov", "mkv"), (1, 51, 21)),
    "av1_nvenc": _nvenc("av1_nvenc", ("mp4", "mkv", "webm"), (1, 63, 26)),
}
"""By the name that `--codec` takes."""
