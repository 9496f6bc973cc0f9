"""The chapters of a source that its result has.

Knows nothing of containers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from ugatit_batch.video.tags import film_tags

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.container.core import Chapter

    from ugatit_batch.video.tracks import Window


def chapters_of(source: InputContainer, window: Window) -> list[Chapter]:
    """Those of the part that is wanted, with the times that they have in it."""
    kept = []
    for chapter in source.chapters():
        unit = chapter["time_base"] or Fraction(1, 1000)
        begin, end = chapter["start"] * unit, chapter["end"] * unit
        if window.is_after(begin) or end < window.shift or end == window.shift != 0:
            continue
        begin = max(begin, window.shift)
        if window.end is not None:
            end = min(end, window.begin + window.end)
        chapter["start"], chapter["end"] = (round((time - window.shift) / unit) for time in (begin, end))
        chapter["metadata"] = film_tags(chapter["metadata"])
        kept.append(chapter)
    return kept
