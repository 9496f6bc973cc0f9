"""The plug-in in a real Krita, used through its docker; one Krita for all tests here."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import pytest

from .krita import HEIGHT, SPACES, WIDTH, Session, command_line, deep, source, use_krita

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.frames import Pixels

pytestmark = pytest.mark.editor


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Session:
    return use_krita(tmp_path_factory.mktemp("krita"), models_dir)


@pytest.fixture(scope="module")
def expected(session: Session, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Pixels, Pixels]]:
    """What the command line makes of what was in the window, by name."""
    given = {"source": source(), "deep": eight_bits(deep())[..., [2, 1, 0]]}
    x, y, width, height = session.told("selected")["area"]
    given["selected"] = source()[y : y + height, x : x + width]
    given["visible"] = session.pixels("visible-source")[..., :3]
    given["moved"] = session.pixels("moved-source", 54, 41)[..., :3]
    given |= {name: session.pixels(f"{name}-source")[..., :3] for name in SPACES}
    folder = tmp_path_factory.mktemp("expected")
    made = command_line(folder / "forward", session.models, given)
    backward = command_line(folder / "reverse", session.models, {"reverse": source()}, "--reverse")
    return made | backward


def eight_bits(values: Pixels) -> Pixels:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def masked(alpha: Pixels, selection: Pixels) -> Pixels:
    return ((alpha.astype(np.uint16) * selection + 127) // 255).astype(np.uint8)


def test_at_the_first_look_it_asks_which_models_there_are(session: Session) -> None:
    told = session.told("first_look")

    assert {"own", "oneway"} <= set(told["models"])
    assert "new layer" in told["said"]


def test_layer_becomes_a_new_layer_above_with_the_command_lines_pixels(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]]
) -> None:
    told = session.told("whole")

    assert told["after"] == [*told["before"], ["U-GAT-IT own", []]]
    layer = session.pixels("whole")
    assert np.array_equal(layer[..., :3], expected["source"][0])
    assert (layer[..., 3] == 255).all()
    assert np.array_equal(session.pixels("whole-shown"), layer)
    assert "Nothing was selected" in told["said"]


def test_one_undo_takes_it_away_and_redo_brings_it_back(session: Session) -> None:
    told = session.told("whole")

    assert told["undone"] == told["before"]
    assert np.array_equal(session.pixels("whole-redone"), session.pixels("whole"))


def test_selection_with_soft_edges_is_the_layers_opacity(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]]
) -> None:
    told = session.told("selected")

    _, _, width, height = told["area"]
    layer = session.pixels("selected", width, height)
    opacity = session.pixels("selection", width, height)[..., 0]
    assert len(np.unique(opacity)) > 10
    assert np.array_equal(layer[..., 3], opacity)
    shown = opacity > 0
    assert np.array_equal(layer[shown][:, :3], expected["selected"][0][shown])
    assert (session.pixels("selected-all")[..., 3] > 0).sum() == shown.sum()
    assert told["selection stays"]


def test_selection_is_passed_over_where_all_is_asked_for(session: Session) -> None:
    session.told("all_of_it")

    assert np.array_equal(session.pixels("all"), session.pixels("whole"))


def test_layer_that_is_partly_outside_and_partly_clear(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]]
) -> None:
    session.told("moved")

    layer, before = session.pixels("moved", 54, 41), session.pixels("moved-source", 54, 41)
    assert np.array_equal(layer[..., :3], expected["moved"][0])
    assert np.array_equal(layer[..., 3], before[..., 3])
    assert (session.pixels("moved-all")[..., 3] > 0).sum() == 54 * 41


def test_all_that_is_visible_goes_above_all(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]]
) -> None:
    told = session.told("visible")

    assert [name for name, _ in told["after"]] == ["Background", "over", "U-GAT-IT own"]
    assert not np.array_equal(session.pixels("visible-source")[..., :3], source())
    assert np.array_equal(session.pixels("visible")[..., :3], expected["visible"][0])


def test_attention_as_a_hidden_layer_in_one_step(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]]
) -> None:
    told = session.told("attention_layer")

    assert told["after"][-1] == ["U-GAT-IT own", ["U-GAT-IT own", "U-GAT-IT own attention"]]
    assert told["undone"] == told["after"][:-1]
    assert told["hidden"]
    result, attention = expected["source"]
    assert np.array_equal(session.pixels("with-layer")[..., :3], result)
    looked = session.pixels("attention-layer")
    assert all(np.array_equal(looked[..., channel], attention) for channel in range(3))


def test_attention_as_a_mask_of_the_selection_in_one_step(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]]
) -> None:
    told = session.told("attention_mask")

    _, _, width, height = told["area"]
    assert told["kind"] == "transparencymask", told
    assert told["after"][-1] == ["U-GAT-IT own", ["U-GAT-IT own attention"]]
    assert told["undone"] == told["after"][:-1]
    assert told["redone"] == told["after"]
    assert told["open"] == 1
    result, attention = expected["selected"]
    layer = session.pixels("with-mask", width, height)
    shown = layer[..., 3] > 0
    assert np.array_equal(layer[shown][:, :3], result[shown])
    assert np.array_equal(session.pixels("attention-mask", width, height)[..., 0], attention)
    seen = session.pixels("with-mask-shown", width, height)[..., 3]
    assert np.abs(seen.astype(int) - masked(layer[..., 3], attention)).max() <= 1


def test_no_step_of_undoing_is_left_behind(session: Session) -> None:
    told = session.told("one_step")

    # The layer and the mark, with the result; then without; then without the mark.
    assert told == {"none": [3, 2, 1], "layer": [3, 2, 1], "mask": [3, 2, 1]}


@pytest.mark.parametrize("name", SPACES)
def test_other_colours_and_depths(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]], name: str
) -> None:
    told = session.told("spaces")[name]

    assert [node for node, _ in told["nodes"]] == ["Background", "U-GAT-IT own"], told["said"]
    assert [node for node, _ in told["undone"]] == ["Background"]
    # What comes before it is converting the picture itself: Krita's first step.
    assert told["undone twice"] == ["RGBA", "U8"]
    rgb = SPACES[name][0] == "RGBA"
    assert told["own"] == list(SPACES[name])
    assert told["space"] == (told["own"] if rgb else ["RGBA", "U8", "sRGB-elle-V2-srgbtrc.icc"])
    off = np.abs(session.pixels(f"{name}-seen")[..., :3].astype(int) - expected[name][0]).max()
    assert off <= (1 if name in ("linear", "wide") else 0)


@pytest.mark.parametrize("name", ["u16", "f16", "f32"])
def test_depths_alone_change_nothing(
    session: Session, expected: dict[str, tuple[Pixels, Pixels]], name: str
) -> None:
    assert np.array_equal(expected[name][0], expected["source"][0])


def test_16_bits_are_exactly_those_of_8(session: Session, expected: dict[str, tuple[Pixels, Pixels]]) -> None:
    session.told("spaces")
    session.told("deep")

    for name, wanted in (("u16", "source"), ("deep", "deep")):
        data = np.frombuffer((session.place / f"{name}.raw").read_bytes(), "<u2").reshape(HEIGHT, WIDTH, 4)
        assert np.array_equal(data[..., [2, 1, 0]], expected[wanted][0].astype(np.uint16) * 257), name


def test_other_direction(session: Session, expected: dict[str, tuple[Pixels, Pixels]]) -> None:
    told = session.told("reverse")

    assert np.array_equal(session.pixels("reverse")[..., :3], expected["reverse"][0])
    assert not np.array_equal(session.pixels("reverse"), session.pixels("whole"))
    assert told["one way"] == ["photo → ink"]
    assert told["both"] == ["photo → ink", "ink → photo"]


def test_menu_does_what_the_button_does(session: Session) -> None:
    told = session.told("by_the_menu")

    assert told["shown"]
    assert [name for name, _ in told["after"]] == ["Background", "U-GAT-IT own"]


def test_what_cannot_be_translated_is_refused_in_words(session: Session) -> None:
    told = session.told("refusals")

    assert "No picture is open" in told["no picture"]
    assert "lies outside" in told["outside"]
    assert "is empty" in told["empty"]
    assert "has no pixels of its own" in told["filter"]


def test_cancelling_is_at_once_and_leaves_all_as_it_was(session: Session) -> None:
    told = session.told("cancelled")

    assert told["during"].startswith("Translating 64 × 48 pixels…")
    assert told["after"] == told["before"]
    assert "Cancelled" in told["said"]
    assert told["waited"] <= 500


def test_picture_that_is_closed_meanwhile(session: Session) -> None:
    told = session.told("closed_meanwhile")

    assert "was closed" in told["said"]
    assert told["open"] == 0


def test_layer_that_is_removed_meanwhile(session: Session) -> None:
    told = session.told("layer_removed")

    assert "layer was removed" in told["said"]
    assert told["nodes"] == [["other", []]]


def test_server_that_dies_leaves_all_as_it_was_and_is_started_anew(session: Session) -> None:
    told = session.told("killed")

    assert told["after"] == told["before"]
    assert "ended before it had answered" in told["said"]
    assert [name for name, _ in told["again"]] == ["Background", "U-GAT-IT own"], told["said again"]


def test_docker_can_be_used_again_after_what_nobody_has_thought_of(session: Session) -> None:
    told = session.told("unthought_of")

    assert set(told["said"]) == {"take", "Task", "read_config", "put"}
    for name, words in told["said"].items():
        assert "KeyError: 'nobody knows'" in html.unescape(words), name
        assert told["after"][name] == told["before"], name
    assert [name for name, _ in told["again"]] == ["Background", "U-GAT-IT own"], told["said again"]


def test_server_that_cannot_be_started(session: Session) -> None:
    told = session.told("not_installed")

    assert "cannot be started" in told["said"]
    assert "plugin install" in told["said"]
    assert "not completely installed" in told["no setup"]
    assert told["nodes"] == [["Background", []]]
