"""Sessions: one set of output folders over several plans, and what they tell of their journals."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ugatit_batch import jobs
from ugatit_batch.errors import FilmError, OutputBusyError, OutputError, PictureError
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.work import PictureWork
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import Session
from ugatit_batch.planning import Job, Naming, Plan, job_for, plan
from ugatit_batch.settings import Settings
from ugatit_batch.video.film import FilmWork

from .fakes import InvertingTranslator, paint, pixels_of, tree
from .video.film_makers import make_film

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ugatit_batch.errors import UgatitBatchError
    from ugatit_batch.frames import Pixels
    from ugatit_batch.journal import State

SETTINGS = Settings(Sizing(square=False, side=None))


def job(folder: Path, name: str) -> Job:
    return job_for(folder / "in" / name, folder / "in", folder / "out", Naming(None, "ink", Encoding()))


def state(session: Session, one: Job) -> State | None:
    known = session.known(one)
    return None if known is None else known.state


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session([tmp_path / "out"], InvertingTranslator(), "model", SETTINGS) as opened:
        yield opened


def test_several_plans_go_through_one_session(tmp_path: Path, session: Session) -> None:
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        paint(tmp_path / "in" / name, seed=number)
        one = job(tmp_path, name)
        assert session.known(one) is None
        # Partials are looked for with each plan.
        half = one.target.with_name(f".{one.target.stem}.partial.png")
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(b"half")
        (result,) = session.results(Plan([one]))
        assert result.status == "done"
        assert state(session, one) == "done"
        assert not half.exists()
    assert sorted(tree(tmp_path / "out")) == ["a.png", "b.png", "sub/c.png"]
    assert [result.status for result in session.results(plan([tmp_path / "in"], naming_to(tmp_path)))] == [
        "skipped"
    ] * 3


def naming_to(folder: Path) -> Naming:
    return Naming(folder / "out", "ink", Encoding())


def test_what_a_session_remembers_does_not_grow(tmp_path: Path, session: Session) -> None:
    def size() -> int:
        return sum(len(value) for value in vars(session).values() if isinstance(value, (set, dict, list)))

    before = size()
    for number in range(5):
        paint(tmp_path / "in" / f"{number}.png", seed=number)
        list(session.results(Plan([job(tmp_path, f"{number}.png")])))
    assert size() == before


def test_the_folder_is_the_sessions_until_it_is_closed(tmp_path: Path, session: Session) -> None:
    with pytest.raises(OutputBusyError):
        Session([tmp_path / "out"], InvertingTranslator(), "model", SETTINGS)
    session.close()
    # One folder may be named twice.
    Session([tmp_path / "out", tmp_path / "out"], InvertingTranslator(), "model", SETTINGS).close()


def test_a_changed_input_is_not_known(tmp_path: Path, session: Session) -> None:
    one = job(tmp_path, "a.png")
    paint(one.source)
    list(session.results(Plan([one])))
    os.utime(one.source, ns=(1, 1))
    assert session.known(one) is None


def test_an_input_that_is_gone_is_not_known_and_can_be_forgotten(tmp_path: Path, session: Session) -> None:
    one, other = job(tmp_path, "a.png"), job(tmp_path, "b.png")
    for each in (one, other):
        paint(each.source)
    list(session.results(Plan([one, other])))
    status = one.source.stat()
    kept = one.source.read_bytes()
    one.source.unlink()
    assert session.known(one) is None
    session.forget(one)
    assert session.maker(one.target, tmp_path / "out") is None
    # The very same file comes again.
    one.source.write_bytes(kept)
    os.utime(one.source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert session.known(one) is None
    assert state(session, other) == "done"


@pytest.mark.parametrize("gone", ["link", "file", "folder"])
def test_a_link_that_is_gone_can_be_forgotten(tmp_path: Path, session: Session, gone: str) -> None:
    one = job(tmp_path, "sub/a.png")
    real = paint(tmp_path / "elsewhere" / "real.png")
    one.source.parent.mkdir(parents=True)
    one.source.symlink_to(real)
    list(session.results(Plan([one])))
    assert session.maker(one.target, tmp_path / "out") == one.source
    if gone == "file":
        real.unlink()
    else:
        one.source.unlink()
        if gone == "folder":
            one.source.parent.rmdir()
    assert session.known(one) is None
    session.forget(one)
    assert session.maker(one.target, tmp_path / "out") is None


def test_what_other_settings_made_is_not_forgotten(tmp_path: Path) -> None:
    one = job(tmp_path, "a.png")
    paint(one.source)
    with Session([tmp_path / "out"], InvertingTranslator(), "model", SETTINGS) as session:
        list(session.results(Plan([one])))
    with Session([tmp_path / "out"], InvertingTranslator(), "other", SETTINGS) as session:
        assert session.known(one) is None
        session.forget(one)
        assert session.maker(one.target, tmp_path / "out") == one.source.resolve()


def test_an_input_that_was_given_up_is_known_as_failed(tmp_path: Path, session: Session) -> None:
    one = job(tmp_path, "a.png")
    session.give_up(one, PictureError("is gone"))
    one.source.parent.mkdir()
    one.source.write_bytes(b"half a picture")
    assert session.known(one) is None
    session.give_up(one, PictureError("cut short", "copy it again"))
    known = session.known(one)
    assert known is not None
    assert (known.state, known.error) == ("failed", "cut short (copy it again)")
    assert session.maker(one.target, tmp_path / "out") is None
    # A new version is not.
    paint(one.source)
    assert session.known(one) is None
    assert [result.status for result in session.results(Plan([one]))] == ["done"]


@pytest.mark.skipif(sys.platform == "win32", reason="loops of links")
def test_an_input_that_cannot_be_looked_at_is_an_error(tmp_path: Path, session: Session) -> None:
    (tmp_path / "in").mkdir()
    for name, kind in (("a.png", PictureError), ("b.mp4", FilmError)):
        one = job(tmp_path, name)
        one.source.symlink_to(one.source)
        with pytest.raises(kind, match="cannot be read"):
            session.known(one)
        with pytest.raises(kind, match="cannot be read"):
            session.give_up(one, OutputError("no matter"))


def test_a_single_file_is_not_known(tmp_path: Path, session: Session) -> None:
    one = Job(paint(tmp_path / "a.png"), tmp_path / "b.png", None)
    assert [result.status for result in session.results(Plan([one]))] == ["done"]
    assert session.known(one) is None
    session.forget(one)
    session.give_up(one, PictureError("no matter"))


@pytest.mark.parametrize(("final", "expected"), [(True, "failed"), (False, "started")])
def test_a_failure_that_is_not_final_stays_begun(tmp_path: Path, final: bool, expected: str) -> None:
    asked: list[tuple[Job, UgatitBatchError, threading.Thread]] = []

    def is_final(of: Job, error: UgatitBatchError) -> bool:
        asked.append((of, error, threading.current_thread()))
        return final

    bad, good, gone = (job(tmp_path, name) for name in ("bad.png", "good.png", "gone.png"))
    bad.source.parent.mkdir()
    bad.source.write_bytes(b"nothing")
    paint(good.source)
    with Session([tmp_path / "out"], InvertingTranslator(), "model", SETTINGS, is_final=is_final) as session:
        results = {result.source: result for result in session.results(Plan([bad, good, gone]))}
        assert [results[one.source].status for one in (bad, good, gone)] == ["failed", "done", "failed"]
        assert state(session, bad) == expected
        assert state(session, good) == "done"
    assert {of.source: error for of, error, _ in asked} == {
        one.source: results[one.source].error for one in (bad, gone)
    }
    assert len(asked) == 2
    assert all(thread is threading.current_thread() for *_, thread in asked)


def test_a_failure_that_is_not_final_leaves_an_output_that_was_to_be_replaced(tmp_path: Path) -> None:
    one = job(tmp_path, "a.png")
    paint(one.source)
    with Session(
        [tmp_path / "out"],
        InvertingTranslator(),
        "model",
        SETTINGS,
        "update",
        is_final=lambda _job, _error: False,
    ) as session:
        list(session.results(Plan([one])))
        one.source.write_bytes(b"half a picture")
        assert [result.status for result in session.results(Plan([one]))] == ["failed"]
        assert state(session, one) == "replacing"
        paint(one.source, 40, 24)
        assert [result.status for result in session.results(Plan([one]))] == ["done"]
    assert (pixels_of(one.target) == 255 - pixels_of(one.source)).all()


def test_closing_the_results_early_leaves_the_session_open(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    jobs = [job(tmp_path, f"{number:02}.png") for number in range(40)]
    for number, one in enumerate(jobs):
        paint(one.source, seed=number)
    translator = InvertingTranslator(before=lambda _: time.sleep(0.01))
    with Session([tmp_path / "out"], translator, "model", SETTINGS) as session:
        results = session.results(Plan(jobs))
        next(results)
        results.close()
        assert set(threading.enumerate()) <= before
        again = list(session.results(Plan(jobs)))
        assert {result.status for result in again} == {"done", "skipped"}
        assert len(again) == 40
        assert {state(session, one) for one in jobs} == {"done"}


def test_patience_ends_a_plan_and_what_was_not_done_stays_begun(tmp_path: Path) -> None:
    begun, noticed = threading.Event(), threading.Event()

    def stand(_: Pixels) -> None:
        if not begun.is_set():
            begun.set()
            assert noticed.wait(20)
            # From there the run ends within a tenth of a second.
            time.sleep(0.5)

    def should_stop() -> bool:
        if begun.is_set():
            noticed.set()
        return begun.is_set()

    one = job(tmp_path, "a.png")
    paint(one.source)
    with Session([tmp_path / "out"], InvertingTranslator(before=stand), "model", SETTINGS) as session:
        assert list(session.results(Plan([one]), should_stop, patience=0)) == []
        assert state(session, one) == "started"
        assert [result.status for result in session.results(Plan([one]))] == ["done"]


def test_what_is_there_is_left_once(tmp_path: Path, session: Session) -> None:
    """And may change, or have been begun before."""
    inbox, root = tmp_path / "in", tmp_path / "out"
    old, begun, late = (job(tmp_path, name) for name in ("old.png", "begun.png", "late.png"))
    paint(old.source)
    paint(begun.source)
    list(session.results(Plan([begun])))
    assert session.leave(inbox, root, [old, begun])
    assert (state(session, old), state(session, begun)) == ("left", "done")
    paint(late.source)
    assert not session.leave(inbox, root, [old, begun, late])
    assert state(session, late) is None
    assert session.maker(old.target, root) is None
    paint(old.source, seed=3)
    assert state(session, old) is None
    # translate knows nothing of leaving.
    (result,) = session.results(Plan([old]))
    assert result.status == "done"


def test_an_output_folder_that_is_gone_is_not_made_anew(tmp_path: Path, session: Session) -> None:
    one = job(tmp_path, "a.png")
    paint(one.source)
    (tmp_path / "out").rename(tmp_path / "away")
    (result,) = session.results(Plan([one]))
    assert isinstance(result.error, OutputError)
    assert "is gone" in str(result.error)
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_waits_is_known_in_the_version_that_was_read(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"{number}.png") for number in range(8)]
    for number, one in enumerate(jobs):
        paint(one.source, seed=number)
    changed = threading.Event()

    def change(_: Pixels) -> None:
        if not changed.is_set():
            changed.set()
            paint(jobs[-1].source, 40, 40, seed=70)

    translator = InvertingTranslator(before=change)
    with Session([tmp_path / "out"], translator, "model", SETTINGS) as opened:
        list(opened.results(Plan(jobs)))
        known = opened.known(jobs[-1])
    shape = pixels_of(jobs[-1].target).shape
    # Whichever was read, the journal tells it.
    assert (known is not None) == (shape == (40, 40, 3))


@pytest.mark.parametrize("name", ["a.png", "a.mkv"])
def test_a_file_that_changes_while_it_is_read_fails_and_leaves_nothing(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one = job(tmp_path, name)
    one.source.parent.mkdir()
    if one.is_film:
        make_film(one.source, count=5)
    else:
        paint(one.source)
    work = FilmWork if one.is_film else PictureWork

    def open_and_change(*arguments: object, **more: object) -> object:
        opened = work(*arguments, **more)  # type: ignore[arg-type]
        with one.source.open("ab") as handle:
            handle.write(b"more")
        return opened

    monkeypatch.setattr(jobs, work.__name__, open_and_change)
    (result,) = session.results(Plan([one]))
    assert "changed while it was read" in str(result.error)
    monkeypatch.undo()
    assert tree(tmp_path / "out") == {}
    (result,) = session.results(Plan([one]))
    assert result.status == "done"
