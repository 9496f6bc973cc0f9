"""What there is to choose from, in words for the user. Knows nothing of Krita.

The words are those of the plug-in for GIMP, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

LAYER, VISIBLE = "layer", "visible"
SELECTION, ALL = "selection", "all"
NO_ATTENTION, ATTENTION_LAYER, ATTENTION_MASK = "none", "layer", "mask"

SOURCES = ((LAYER, "The active layer"), (VISIBLE, "All that is visible"))
REGIONS = ((SELECTION, "The selection"), (ALL, "The whole layer or picture"))
ATTENTIONS = (
    (NO_ATTENTION, "Do not show it"),
    (ATTENTION_LAYER, "As a hidden layer"),
    (ATTENTION_MASK, "As a mask on the result"),
)


@dataclass(frozen=True)
class Choice:
    """What one translation is asked for."""

    model: str
    reverse: bool
    source: str
    region: str
    attention: str


@dataclass(frozen=True)
class Model:
    """A model that the server has."""

    name: str
    directions: tuple[tuple[bool, str], ...]
    """Whether it is the reverse one, and what becomes what."""
    attention: bool
    """Whether it can tell where it looked."""


def models_of(told: list[dict[str, Any]]) -> list[Model]:
    """What the server tells."""
    return [
        Model(
            one["name"],
            tuple((way["reverse"], f"{way['source']} → {way['target']}") for way in one["directions"]),
            one["attention"],
        )
        for one in told
    ]


def remembered(text: str) -> list[Model]:
    """The models that `to_text` has kept; none where the text is of no use."""
    try:
        return models_of(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return []


def to_text(told: list[dict[str, Any]]) -> str:
    """What the server tells, to be kept until the next start."""
    return json.dumps(told)
