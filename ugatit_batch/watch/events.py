"""What a watch folder tells of itself. Knows nothing of how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.jobs import Result

Kind = Literal["watching", "waiting", "resumed", "problem", "left", "stopping"]
EndOfInput = Literal["moved", "deleted"]


@dataclass(frozen=True)
class Notice:
    """Something that people should know of, beside results."""

    kind: Kind
    """`waiting`: nothing is done until it is over; `problem`: concerns one file, or one folder."""
    text: str


@dataclass(frozen=True)
class Finished:
    """What came of one file, for good."""

    result: Result
    after: EndOfInput | None = None
    """What has become of the input; None where it is where it was."""
    moved_to: Path | None = None


Event = Notice | Finished
