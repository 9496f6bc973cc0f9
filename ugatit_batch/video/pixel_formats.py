"""In which of an encoder's pixel formats a film is written.

Knows FFmpeg's formats; nothing of containers, settings or sizes.
"""

from __future__ import annotations

import functools

import av

from ugatit_batch.errors import UsageError
from ugatit_batch.video.colour import is_rgb

_CHROMA = {(0, 0): "4:4:4", (1, 0): "4:2:2", (1, 1): "4:2:0"}
"""By how often width and height of the colours are halved."""
_CODES = {"4:4:4": "444", "4:2:2": "422", "4:2:0": "420"}
_HARDWARE_NAMES = {
    ("4:2:0", 10): "p010le",
    ("4:2:2", 8): "nv16",
    ("4:2:2", 10): "p210le",
    ("4:4:4", 10): "yuv444p10msble",
}
"""What NVIDIA's encoders call a chroma and depth; elsewhere the name is made of the two."""


def subsampling(pix_fmt: str) -> tuple[int, int]:
    """How often the width and the height of a format's colours are halved."""
    planes = av.VideoFormat(pix_fmt, 64, 64)
    return (64 // planes.chroma_width(64)).bit_length() - 1, (64 // planes.chroma_height(64)).bit_length() - 1


def choose_pix_fmt(codec: str, encoder: str, source: str, depth: int, wanted: str) -> tuple[str, list[str]]:
    """Decide on a pixel format.

    Args:
        codec: as it is called in messages.
        encoder: FFmpeg's name of it.
        source: pixel format of the source.
        depth: bits of one of its components.
        wanted: a pixel format, or `auto` for the source's depth and chroma as far as the encoder takes them.

    Returns:
        The format, and what of the source it does not keep, a clause each.

    Raises:
        UsageError: the encoder does not take `wanted`.
    """
    formats = usable_formats(encoder)
    if wanted != "auto":
        if wanted not in formats:
            raise UsageError(
                f"--pix-fmt {wanted}: {codec} does not take it", f"use one of {', '.join(formats)}"
            )
        return wanted, []
    chosen = _rgb(formats, depth) if encoder == "ffv1" and is_rgb(source) else None
    if chosen is None:
        chosen = _nearest(formats, _chroma_of(source), depth)
    return chosen, losses(codec, source, depth, chosen)


def losses(codec: str, source: str, depth: int, chosen: str) -> list[str]:
    """What of the source's depth and chroma a format does not keep, a clause each.

    Args:
        codec: as it is called in messages.
        source: pixel format of the source.
        depth: bits of one of its components.
        chosen: pixel format of the result.
    """
    notes = []
    bits = av.VideoFormat(chosen, 64, 64).components[0].bits
    if bits < depth:
        notes.append(f"has {bits} bits instead of {depth}: {codec} takes no more here")
    if not is_rgb(chosen) and _chroma_of(chosen) < _chroma_of(source):
        notes.append(f"has colours in {_chroma_of(chosen)} instead of {_chroma_of(source)}, as {codec} wants")
    return notes


@functools.cache
def usable_formats(encoder: str) -> tuple[str, ...]:
    """FFmpeg's names of what an encoder takes, in its own order: in memory, opaque, of whole numbers.

    Formats that mean full range by their name are not among them: a tag says it.
    """
    formats = av.Codec(encoder, "w").video_formats or []
    return tuple(
        planes.name
        for planes in formats
        if planes.components
        and not planes.name.startswith("yuvj")
        and not planes.name.endswith(("f16le", "f32le"))
        and not any(part.is_alpha for part in planes.components)
        # Hardware keeps 10 of those 16 bits.
        and not ("nvenc" in encoder and planes.components[0].bits > 10)
    )


def _rgb(formats: tuple[str, ...], depth: int) -> str | None:
    """The smallest RGB format that keeps the depth."""
    if depth <= 8:
        return "bgr0" if "bgr0" in formats else None
    return next((name for bits in range(depth, 17) if (name := f"gbrp{bits}le") in formats), None)


def _chroma_of(source: str) -> str:
    """The coarsest of 4:2:0, 4:2:2 and 4:4:4 that loses nothing of a format; 4:2:0 for RGB and for grey."""
    coloured = [part for part in av.VideoFormat(source, 64, 64).components if not part.is_alpha]
    if is_rgb(source) or len(coloured) < 3:
        return "4:2:0"
    across, down = subsampling(source)
    return _CHROMA.get((min(across, 1), min(down, 1)), "4:4:4")


def _nearest(formats: tuple[str, ...], chroma: str, depth: int) -> str:
    """The format that keeps most: depth before chroma, and nothing invented that is not needed."""
    found: list[tuple[tuple[int, ...], str]] = []
    for kind, code in _CODES.items():
        for bits in (8, 9, 10, 12, 14, 16):
            plain = f"yuv{code}p" if bits == 8 else f"yuv{code}p{bits}le"
            name = plain if plain in formats else _HARDWARE_NAMES.get((kind, bits), "")
            if name in formats:
                rank = (max(0, depth - bits), kind < chroma, max(0, bits - depth), kind != chroma)
                found.append((rank, name))
    return min(found)[1]
