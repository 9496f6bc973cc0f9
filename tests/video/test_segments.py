from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.errors import OutputBusyError, OutputError
from ugatit_batch.video.segments import Segment, SegmentFolder, State

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("result.nut", "mask.nut")
FIRST = Segment(25, 1, 24000, 1000, 77)
SECOND = Segment(10, 0, 34000, 1000, 78)


def begun(target: Path, identity: str = "a") -> SegmentFolder:
    """A folder with two whole segments and one that was begun."""
    folder = SegmentFolder(target, identity, NAMES)
    for index, segment in enumerate((FIRST, SECOND)):
        folder.segment(index, "result.nut").write_bytes(b"whole")
        folder.segment(index, "mask.nut").write_bytes(b"whole")
        folder.state.segments.append(segment)
        folder.state.style = [0.25, 1.5]
        folder.keep()
    folder.segment(2, "result.nut").write_bytes(b"half")
    return folder


def names(folder: SegmentFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {"lock"}


def test_what_is_whole_is_there_for_the_next_run(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    folder = begun(target)
    folder.close()
    again = SegmentFolder(target, "a", NAMES)
    assert again.state == State(segments=[FIRST, SECOND], style=[0.25, 1.5])
    assert again.state.pictures == 35
    whole = {f"00000{index}.{name}.nut" for index in (0, 1) for name in ("result", "mask")}
    assert names(again) == {*whole, "state.json"}
    again.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "how", ["other settings", "not resumed", "damaged", "other version", "a file is gone"]
)
def test_what_cannot_be_gone_on_from_is_thrown_away(tmp_path: Path, how: str) -> None:
    target = tmp_path / "a.mp4"
    folder = begun(target)
    folder.close()
    state = folder.path / "state.json"
    if how == "damaged":
        state.write_text(state.read_text("ascii")[:-20], "ascii")
    elif how == "other version":
        state.write_text(json.dumps(json.loads(state.read_text("ascii")) | {"speed": 1}), "ascii")
    again = SegmentFolder(target, "b", NAMES if how == "other settings" else "a", resume=how != "not resumed")
    assert again.state == State()
    assert names(again) == set()
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_whole_segment_does_not_stay(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path / "a.mp4", "a", NAMES)
    folder.segment(0, "result.nut").write_bytes(b"half")
    folder.close()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_cannot_work_on_one_film_but_on_its_namesake(tmp_path: Path) -> None:
    folder = begun(tmp_path / "a.mp4")
    with pytest.raises(OutputBusyError, match=r"a\.mp4: another run works on this film"):
        SegmentFolder(tmp_path / "a.mp4", "a", NAMES)
    assert len(names(folder)) == 6
    SegmentFolder(tmp_path / "a.mkv", "a", NAMES).close()
    folder.close()
    SegmentFolder(tmp_path / "a.mp4", "a", NAMES).close()


def test_a_long_name_has_a_folder_too(tmp_path: Path) -> None:
    folder = begun(tmp_path / ("ä" * 120 + ".mp4"))
    folder.close()
    assert SegmentFolder(tmp_path / ("ä" * 120 + ".mp4"), "a", NAMES).state.pictures == 35


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"a\.mp4: cannot be written"):
        SegmentFolder(tmp_path / "file" / "a.mp4", "a", NAMES)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("files", [0, 1, 3])
def test_what_a_kill_in_the_last_step_left_is_removed_when_the_film_is_skipped(
    tmp_path: Path, files: int
) -> None:
    """`remove` begins with the state, and was killed after so many other files."""
    target = tmp_path / "a.mp4"
    folder = begun(target)
    folder.state.complete = True
    folder.keep()
    folder.close()
    if files:
        (folder.path / "state.json").unlink()
    for path in sorted(folder.path.glob("*.nut"))[: max(files - 1, 0)]:
        path.unlink()
    SegmentFolder.discard_finished(target)
    assert names_in(tmp_path) == set()
    SegmentFolder.discard_finished(target)


def test_what_can_be_gone_on_from_is_not_removed_when_the_film_is_skipped(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    folder = begun(target)
    before = names_in(folder.path)
    # While it is open, and later.
    folder.state.complete = True
    SegmentFolder.discard_finished(target)
    assert names_in(folder.path) == before
    folder.state.complete = False
    folder.close()
    SegmentFolder.discard_finished(target)
    assert names_in(folder.path) >= before - {"lock"}
