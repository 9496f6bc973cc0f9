"""What becomes of outputs that are there already: `update` and `rename`."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.sidecars import picture_sidecar_path
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import Session
from ugatit_batch.journal import NAME, Journal
from ugatit_batch.planning import Naming, Plan, is_media, job_for
from ugatit_batch.settings import Settings

from .fakes import InvertingTranslator, paint, pixels_of, tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.jobs import IfExists, Result

OVERLAY: tuple[Kind, ...] = ("overlay",)


class KilledError(BaseException):
    """Stands for a kill: nothing is recorded any more."""


def die(_: Pixels) -> None:
    raise KilledError


class Place:
    """An input and an output folder, whose files come one after the other, so that no plan sees them all."""

    def __init__(self, folder: Path, output_format: str = "auto") -> None:
        self.inbox, self.out = folder / "in", folder / "out"
        self.encoding = Encoding(output_format)  # type: ignore[arg-type]

    def run(
        self,
        names: Sequence[str] | None = None,
        if_exists: IfExists = "update",
        *,
        bundle: str = "model",
        attention: tuple[Kind, ...] = (),
        translator: InvertingTranslator | None = None,
    ) -> list[Result]:
        """Translate the files of these names, or all, in one plan."""
        naming = Naming(self.out, "ink", self.encoding, attention=attention)
        sources = [self.inbox / name for name in names or sorted(path.name for path in self.inbox.iterdir())]
        jobs = [job_for(path, self.inbox, self.out, naming) for path in sources if is_media(path)]
        settings = Settings(Sizing(square=False, side=None), self.encoding, attention)
        translator = translator or InvertingTranslator()
        with Session([self.out], translator, bundle, settings, if_exists) as session:
            return list(session.results(Plan(jobs)))

    def one(self, name: str, if_exists: IfExists = "update", **more: object) -> Result:
        (result,) = self.run([name], if_exists, **more)  # type: ignore[arg-type]
        return result

    def state(self, name: str) -> str | None:
        """Of the output of this name, as the journal has it."""
        with Journal(self.out) as journal:
            maker = journal.maker(str(self.out / name))
        return None if maker is None else maker.state

    def shows(self, output: str, source: str) -> bool:
        return bool((pixels_of(self.out / output) == 255 - pixels_of(self.inbox / source)).all())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_update_makes_anew_what_was_made_from_an_older_version(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    assert place.one("a.png").status == "done"
    assert place.one("a.png").status == "skipped"
    paint(place.inbox / "a.png", 40, 24, seed=2)
    result = place.one("a.png")
    assert (result.status, result.target, result.foreign) == ("done", place.out / "a.png", False)
    assert place.shows("a.png", "a.png")
    assert place.one("a.png").status == "skipped"
    # Also where the settings are others by now.
    paint(place.inbox / "a.png", seed=3)
    assert place.one("a.png", bundle="new").status == "done"
    assert place.shows("a.png", "a.png")


def test_update_leaves_what_it_does_not_know_and_what_other_settings_made(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    paint(place.inbox / "b.png", seed=2)
    foreign = paint(place.out / "a.png", 8, 8).read_bytes()
    results = {result.source.name: result for result in place.run()}
    assert (results["a.png"].status, results["a.png"].foreign) == ("skipped", True)
    assert results["b.png"].status == "done"
    result = place.one("b.png", bundle="new")
    assert (result.status, result.foreign) == ("skipped", True)
    assert (place.out / "a.png").read_bytes() == foreign
    # A newer version of an input does not make the file its own.
    paint(place.inbox / "a.png", 40, 24)
    assert place.one("a.png").foreign
    assert (place.out / "a.png").read_bytes() == foreign


def test_update_refuses_what_another_input_made(tmp_path: Path) -> None:
    place = Place(tmp_path, "png")
    paint(place.inbox / "a.jpg", seed=1)
    paint(place.inbox / "a.bmp", seed=2)
    assert place.one("a.jpg").status == "done"
    before = tree(place.out)
    for _ in range(2):
        result = place.one("a.bmp")
        assert (result.status, result.target) == ("failed", place.out / "a.png")
        assert result.error is not None
        assert "a.bmp" in result.error.message
        assert "a.jpg" in result.error.message
        assert result.error.hint == "rename one of them"
    assert tree(place.out) == before
    # The first is not disturbed by that, now or in a new version.
    assert place.one("a.jpg").status == "skipped"
    paint(place.inbox / "a.jpg", 40, 24)
    assert place.one("a.jpg").status == "done"
    (place.inbox / "a.bmp").rename(place.inbox / "b.bmp")
    assert place.one("b.bmp").status == "done"


def test_two_inputs_of_one_output_in_one_plan_do_not_write_it_both(tmp_path: Path) -> None:
    place = Place(tmp_path, "png")
    for number, name in enumerate(("a.bmp", "a.jpg", "a.png")):
        paint(place.inbox / name, seed=number)
    results = {result.source.name: result.status for result in place.run()}
    assert results == {"a.bmp": "done", "a.jpg": "failed", "a.png": "failed"}
    assert place.shows("a.png", "a.bmp")


@pytest.mark.parametrize("first", ["a.overlay.png", "a.png"])
def test_update_refuses_to_write_sidecars_over_what_another_input_made(place: Place, first: str) -> None:
    paint(place.inbox / "a.png", seed=1)
    paint(place.inbox / "a.overlay.png", seed=2)
    (second,) = {"a.png", "a.overlay.png"} - {first}
    assert place.one(first, attention=OVERLAY).status == "done"
    before = tree(place.out)
    result = place.one(second, attention=OVERLAY)
    assert result.status == "failed"
    assert "would both become" in str(result.error)
    assert "a.overlay.png" in str(result.error)
    assert tree(place.out) == before


def test_update_refuses_sidecars_that_belong_beside_another_output(place: Place) -> None:
    """a.jpg and a.png have outputs of their own, and the same sidecars."""
    paint(place.inbox / "a.jpg", seed=1)
    paint(place.inbox / "a.png", seed=2)
    assert place.one("a.jpg", attention=OVERLAY).status == "done"
    before = tree(place.out)
    result = place.one("a.png", attention=OVERLAY)
    assert "would both become" in str(result.error)
    assert tree(place.out) == before
    # Without attention they have nothing in common.
    assert place.one("a.png").status == "done"


def test_an_output_that_was_being_replaced_is_made_anew_after_a_kill(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    place.one("a.png")
    paint(place.inbox / "a.png", 40, 24, seed=2)
    with pytest.raises(KilledError):
        place.one("a.png", translator=InvertingTranslator(before=die))
    assert place.state("a.png") == "replacing"
    # The older modes leave it, and say so.
    assert place.one("a.png", "skip").foreign
    assert place.one("a.png").status == "done"
    assert place.shows("a.png", "a.png")
    assert place.state("a.png") == "done"


def test_a_version_that_failed_does_not_part_an_input_from_its_output(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    place.one("a.png")
    whole = place.out.joinpath("a.png").read_bytes()
    good = paint(place.inbox.parent / "good.png", 40, 24, seed=2).read_bytes()
    (place.inbox / "a.png").write_bytes(good[: len(good) // 2])
    assert place.one("a.png").status == "failed"
    assert (place.out / "a.png").read_bytes() == whole
    (place.inbox / "a.png").write_bytes(good)
    assert place.one("a.png").status == "done"
    assert place.shows("a.png", "a.png")


def test_a_version_that_failed_does_not_claim_what_it_did_not_make(place: Place) -> None:
    place.inbox.mkdir()
    (place.inbox / "a.png").write_bytes(b"nothing")
    assert place.one("a.png").status == "failed"
    foreign = paint(place.out / "a.png", 8, 8).read_bytes()
    paint(place.inbox / "a.png")
    assert place.one("a.png").foreign
    assert (place.out / "a.png").read_bytes() == foreign


def test_an_input_that_was_begun_and_is_gone_does_not_stand_in_the_way(tmp_path: Path) -> None:
    place = Place(tmp_path, "png")
    paint(place.inbox / "a.jpg", seed=1)
    paint(place.inbox / "a.bmp", seed=2)
    with pytest.raises(KilledError):
        place.one("a.jpg", translator=InvertingTranslator(before=die))
    assert "would both become" in str(place.one("a.bmp").error)
    (place.inbox / "a.jpg").unlink()
    assert place.one("a.bmp").status == "done"


def test_the_output_folder_may_be_moved(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    place.one("a.png")
    shutil.move(place.out, place.out.with_name("moved"))
    place.out = place.out.with_name("moved")
    paint(place.inbox / "a.png", 40, 24, seed=2)
    assert place.one("a.png").status == "done"


def test_links_are_inputs_of_their_own(place: Place, tmp_path: Path) -> None:
    real = paint(tmp_path / "elsewhere" / "real.png")
    place.inbox.mkdir()
    (place.inbox / "a.png").symlink_to(real)
    assert place.one("a.png").status == "done"
    assert place.one("a.png").status == "skipped"
    paint(real, 40, 24)
    assert place.one("a.png").status == "done"
    assert place.shows("a.png", "a.png")


def test_renamed_outputs_do_not_write_over_sidecars(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    paint(place.out / "a.png", 8, 8)
    for name in ("a.png", "a (1).png"):
        picture_sidecar_path(place.out / name, "overlay").write_bytes(b"somebody's")
    result = place.one("a.png", "rename", attention=OVERLAY)
    assert (result.status, result.target) == ("done", place.out / "a (2).png")
    assert (place.out / "a.overlay.png").read_bytes() == b"somebody's"
    assert (place.out / "a (1).overlay.png").read_bytes() == b"somebody's"
    assert place.one("a.png", "rename", attention=OVERLAY).status == "skipped"


def test_a_name_whose_sidecar_is_there_is_taken(place: Place) -> None:
    paint(place.inbox / "a.png", seed=1)
    place.out.mkdir()
    (place.out / "a.overlay.png").write_bytes(b"somebody's")
    assert place.one("a.png", "rename", attention=OVERLAY).target == place.out / "a (1).png"
    assert (place.out / "a.overlay.png").read_bytes() == b"somebody's"
    # Not where none is written.
    assert place.one("a.png", "rename").target == place.out / "a.png"


def test_renamed_outputs_of_one_plan_do_not_share_sidecars(place: Place) -> None:
    for number, name in enumerate(("a.jpg", "a.png")):
        paint(place.inbox / name, seed=number)
        paint(place.out / name, 8, 8)
    results = place.run(if_exists="rename", attention=OVERLAY)
    assert {result.target.name for result in results} == {"a (1).jpg", "a (2).png"}
    assert {result.status for result in results} == {"done"}


@pytest.mark.parametrize("taken", [False, True])
def test_a_killed_run_goes_on_with_its_own_name(place: Place, taken: bool) -> None:
    paint(place.inbox / "a.png", seed=1)
    if taken:
        paint(place.out / "a.png", 8, 8)
    name = "a (1)" if taken else "a"
    with pytest.raises(KilledError):
        place.one("a.png", "rename", attention=OVERLAY, translator=InvertingTranslator(before=die))
    # Sidecars come before their result.
    (place.out / f"{name}.overlay.png").write_bytes(b"its own")
    result = place.one("a.png", "rename", attention=OVERLAY)
    assert (result.status, result.target) == ("done", place.out / f"{name}.png")
    assert (place.out / f"{name}.overlay.png").read_bytes() != b"its own"
    assert sorted(path.name for path in place.out.iterdir() if not path.name.startswith(NAME)) == sorted(
        [*(["a.png"] if taken else []), f"{name}.png", f"{name}.overlay.png"]
    )


def test_the_time_of_an_input_tells_its_versions_apart(place: Place) -> None:
    paint(place.inbox / "a.png")
    place.one("a.png")
    os.utime(place.inbox / "a.png", ns=(1, 1))
    assert place.one("a.png").status == "done"
