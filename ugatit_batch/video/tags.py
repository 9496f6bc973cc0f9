"""Which of a film's tags say something of the result too.

Knows nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ugatit_batch.video.containers import Container

_OF_THE_FILE = frozenset(
    ["encoder", "software", "major_brand", "minor_version", "compatible_brands", "duration"]
)
"""Said of the source's own file or encoder, in lower case."""
_OF_THE_STREAM = (*_OF_THE_FILE, "bps", "number_of_frames", "number_of_bytes", "rotate", "vendor_id")
_OF_MP4 = ("handler_name",)
_MOV_SPELLINGS = "cze:ces deu:ger ell:gre fre:fra isl:ice nld:dut rum:ron slo:slk sqi:alb swe:sve zho:chi"
_MOV_LANGUAGES = dict(pair.split(":") for pair in _MOV_SPELLINGS.split())
"""MOV knows no other languages than a list's, and FFmpeg's list spells them in ways of its own."""
_APPLE = "com.apple.quicktime."


def readable(text: str) -> str:
    """A tag's text; AVI and old MP3 covers hold Windows' Latin letters where others hold UTF-8.

    Args:
        text: decoded with `surrogateescape`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape").decode("cp1252", errors="replace")
    return text


def film_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a film that its result keeps."""
    return {key: readable(value) for key, value in tags.items() if key.lower() not in _OF_THE_FILE}


def stream_tags(tags: Mapping[str, str], container: Container, *, all_of_them: bool) -> dict[str, str]:
    """The tags of a stream that its result keeps.

    Args:
        tags: of the source's stream.
        container: of the result.
        all_of_them: False keeps its language alone.
    """
    kept = {}
    for key, value in tags.items():
        # Matroska's statistics are followed by a language.
        plain = key.lower().partition("-")[0]
        is_said = plain not in _OF_THE_STREAM and not plain.startswith("_statistics")
        is_held = plain not in _OF_MP4 or container in ("mp4", "mov")
        if is_said and is_held and (all_of_them or plain == "language"):
            # What FFmpeg writes as a title into MP4 it reads as a name.
            kept["title" if plain == "name" else key] = readable(value)
    if container == "mov" and "language" in kept:
        kept["language"] = _MOV_LANGUAGES.get(kept["language"], kept["language"])
    return kept


def missing_tags(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names of the tags that a file was given and does not hold."""
    held = {key.lower() for key in found}
    return sorted(key for key in wanted if key.lower() not in held)


def has_apple_tags(tags: Mapping[str, str]) -> bool:
    """Whether tags are of the kind that iPhones write, which MP4 and MOV hold in a place of its own."""
    return any(key.startswith(_APPLE) for key in tags)
