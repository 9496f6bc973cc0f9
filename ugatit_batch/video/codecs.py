"""With which encoder, in which pixel format and with which settings a film is written.

Knows nothing of files but their suffix, and nothing of how pictures come about.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from ugatit_batch.errors import EnvironmentLacksError, UsageError
from ugatit_batch.video.colour import is_rgb
from ugatit_batch.video.containers import container_of
from ugatit_batch.video.encoders import ENCODERS
from ugatit_batch.video.info import Colour
from ugatit_batch.video.pixel_formats import choose_pix_fmt, losses, subsampling

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.video.encoders import Encoder
    from ugatit_batch.video.info import FilmInfo, FilmOptions


_USUAL_SIZE = (640, 360)


@dataclass(frozen=True)
class Coding:
    """How pictures are encoded. Plain values, so that `asdict` of it survives JSON and can be compared."""

    encoder: str
    """FFmpeg's name."""
    pix_fmt: str
    """FFmpeg's name of the format that the encoder is given."""
    width: int
    """Of the encoded picture, made even where the encoder wants that."""
    height: int
    colour: Colour
    """What the encoded numbers mean: the result's colour, as far as codec and pixel format can say it."""
    options: dict[str, str]
    """The encoder's own."""
    segment_format: str
    """`nut` or `mov`: container of a segment, and suffix of its file."""
    threads: int
    """Of one encoder; 0 for as many as there are CPUs."""


def choose_coding(
    info: FilmInfo, size: tuple[int, int], options: FilmOptions, target: Path, threads: int = 0
) -> tuple[Coding, list[str]]:
    """Decide how a film is encoded.

    Args:
        info: the film that is read.
        size: (width, height) of the result.
        options: what was asked for.
        target: where the result goes; its suffix names the container.
        threads: of one encoder; 0 for as many as there are CPUs.

    Returns:
        The coding, and what of the source cannot be kept, a clause each.

    Raises:
        UsageError: codec, container and settings do not go together.
        EnvironmentLacksError: the encoder needs a GPU or a driver that is not there.
    """
    name, encoder, settings = _choose_encoder(options, target)
    if encoder.is_hardware:
        pix_fmt, notes = _choose_on_hardware(name, encoder, info, size, options, settings)
    else:
        pix_fmt, notes = choose_pix_fmt(name, encoder.name, info.pix_fmt, info.depth, options.pix_fmt)
    if encoder.name == "prores_ks":
        settings["profile"] = "4444" if subsampling(pix_fmt) == (0, 0) else "hq"
    width, height, size_notes = _even(name, encoder, size, pix_fmt)
    colour = _colour(info, encoder, pix_fmt)
    coding = Coding(encoder.name, pix_fmt, width, height, colour, settings, encoder.segment_format, threads)
    return coding, [*notes, *size_notes]


def check_options(options: FilmOptions, target: Path) -> None:
    """Raise what `choose_coding` would raise for every film, before any is read.

    Args:
        options: what was asked for.
        target: where a result goes.

    Raises:
        UsageError, EnvironmentLacksError: as `choose_coding`.
    """
    name, encoder, settings = _choose_encoder(options, target)
    choose_pix_fmt(name, encoder.name, "yuv420p", 8, options.pix_fmt)
    if encoder.is_hardware and not _opens(encoder, "yuv420p", _USUAL_SIZE, settings):
        raise _no_hardware(name)


def _choose_encoder(options: FilmOptions, target: Path) -> tuple[str, Encoder, dict[str, str]]:
    """Name, encoder and its settings."""
    container = container_of(target)
    name = options.codec
    if name == "auto":
        name = "libvpx-vp9" if container == "webm" else "libx264"
    encoder = ENCODERS[name]
    if container not in encoder.containers:
        held = ", ".join(encoder.containers)
        raise UsageError(
            f"--codec {name}: cannot be put into {container.upper()} ({target.name})",
            f"use --format with one of {held}, or leave --codec out",
        )
    if (options.audio, container) in (("opus", "mov"), ("aac", "webm")):
        raise UsageError(
            f"--audio {options.audio}: cannot be put into {container.upper()} ({target.name})",
            "leave --audio out, or use --format mkv or mp4",
        )
    return name, encoder, _settings(name, encoder, options)


def _settings(name: str, encoder: Encoder, options: FilmOptions) -> dict[str, str]:
    """The encoder's options for the quality and the speed that were asked for."""
    settings = dict(encoder.fixed)
    if encoder.quality is None:
        if options.crf is not None:
            raise UsageError(f"--crf: {name} has no such setting", "leave --crf out, or use another --codec")
    else:
        lowest, highest, usual = encoder.quality_range
        crf = usual if options.crf is None else options.crf
        if not lowest <= crf <= highest:
            raise UsageError(
                f"--crf {crf}: {name} takes {lowest} (best) to {highest} (smallest)",
                f"its default here is {usual}",
            )
        settings[encoder.quality] = str(crf)
    if not encoder.presets:
        if options.preset is not None:
            raise UsageError(
                f"--preset: {name} has no such setting", "leave --preset out, or use another --codec"
            )
    else:
        preset = encoder.preset if options.preset is None else options.preset
        if preset not in encoder.presets:
            raise UsageError(
                f"--preset {preset}: {name} does not know it", f"use one of {', '.join(encoder.presets)}"
            )
        settings[encoder.preset_option] = preset
    return settings


def _even(name: str, encoder: Encoder, size: tuple[int, int], pix_fmt: str) -> tuple[int, int, list[str]]:
    """The size that the encoder takes, and what that changes."""
    width, height = size
    if not encoder.wants_even:
        return width, height, []
    notes = []
    across, down = subsampling(pix_fmt)
    if across and width % 2:
        width += 1
        notes.append(f"is one pixel wider: {name} wants an even width")
    if down and height % 2:
        height += 1
        notes.append(f"is one pixel taller: {name} wants an even height")
    return width, height, notes


def _colour(info: FilmInfo, encoder: Encoder, pix_fmt: str) -> Colour:
    wanted = info.result_colour
    if is_rgb(pix_fmt):
        source = info.colour if info.colour.matrix == 0 and not info.colour.is_hdr else wanted
        return Colour(0, 2, source.primaries, source.transfer)
    if encoder.name == "prores_ks":
        # Its bitstream cannot say that it is full range, and decoders do not look elsewhere.
        return Colour(wanted.matrix, 1, wanted.primaries, wanted.transfer)
    return wanted


def _choose_on_hardware(
    name: str,
    encoder: Encoder,
    info: FilmInfo,
    size: tuple[int, int],
    options: FilmOptions,
    settings: dict[str, str],
) -> tuple[str, list[str]]:
    """The first pixel format that this machine's encoder opens with: what they take differs between GPUs."""
    pix_fmt, _ = choose_pix_fmt(name, encoder.name, info.pix_fmt, info.depth, options.pix_fmt)
    candidates = [pix_fmt]
    if options.pix_fmt == "auto":
        candidates += ["p010le"] if info.depth > 8 else []
        candidates.append("yuv420p")
    for candidate in candidates:
        if _opens(encoder, candidate, size, settings):
            auto = options.pix_fmt == "auto"
            return candidate, losses(name, info.pix_fmt, info.depth, candidate) if auto else []
    if options.pix_fmt != "auto" and _opens(encoder, "yuv420p", size, settings):
        raise UsageError(f"--pix-fmt {pix_fmt}: {name} of this GPU does not take it", "leave --pix-fmt out")
    raise _no_hardware(name)


def _no_hardware(name: str) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        f"--codec {name}: no NVIDIA GPU here encodes it",
        "install the NVIDIA driver, or use a codec that needs no GPU, such as --codec libx264",
    )


def _opens(encoder: Encoder, pix_fmt: str, size: tuple[int, int], settings: dict[str, str]) -> bool:
    # Without capture FFmpeg's complaints would go to whatever log level the program has set.
    with av.logging.Capture():
        context = av.CodecContext.create(encoder.name, "w")
        if not isinstance(context, av.VideoCodecContext):
            return False
        context.width, context.height = (side + side % 2 for side in size)
        context.pix_fmt = pix_fmt
        context.time_base = Fraction(1, 25)
        context.options = dict(settings)
        try:
            context.open()
        except (av.FFmpegError, OSError):
            return False
        return True
