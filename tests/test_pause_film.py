"""Films whose run is closed in the middle: nothing that was done is lost, and the result is the same."""

from __future__ import annotations

import contextlib
import json
import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from ugatit_batch import jobs
from ugatit_batch.errors import DiskFullError
from ugatit_batch.frames import Translated
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.write import Encoding
from ugatit_batch.jobs import Session
from ugatit_batch.pipeline import ItemT, Pipeline, ResultT
from ugatit_batch.planning import DEFAULT_NAME, Naming, plan
from ugatit_batch.settings import Settings
from ugatit_batch.video.film import FilmWork
from ugatit_batch.video.flicker import Flicker
from ugatit_batch.video.info import FilmOptions
from ugatit_batch.video.result import SegmentFilms

from .fakes import InvertingTranslator
from .video.film_makers import make_film, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ugatit_batch.frames import Batch, Pixels
    from ugatit_batch.images.sidecars import Kind
    from ugatit_batch.jobs import Result

RATE, SECONDS = 10, 2
SEGMENT = RATE * SECONDS
COUNT = 3 * SEGMENT + 7
CUT = SEGMENT + 9
KINDS: tuple[Kind, ...] = ("mask", "npy")
AHEAD, BATCH = 1, 2
IN_FLIGHT = 2 + 1 + (AHEAD + 2) * BATCH + 2 * 2
"""Frames that a pipeline holds at once at most."""


class Remembering(InvertingTranslator):
    """Averages its style as networks do, darkens by it, and counts what it is given."""

    def __init__(self) -> None:
        super().__init__(BATCH, ahead=AHEAD)
        self.frames = 0

    def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
        style = np.zeros(1, np.float32)
        styles: list[NDArray[np.float32]] = []

        def watched() -> Iterator[Batch]:
            nonlocal style
            for batch in batches:
                self.frames += len(batch.pixels)
                averaging = batch.averaging
                assert averaging is not None
                if averaging.before is not None:
                    style = averaging.before
                rows = []
                for pixels, cut in zip(batch.pixels, averaging.cuts, strict=True):
                    own = np.array([pixels.mean()], np.float32)
                    style = own if cut else averaging.keep * style + (1 - averaging.keep) * own
                    rows.append(style.astype(np.float32))
                styles.append(np.stack(rows))
                yield batch

        for translated in super().translate(watched()):
            averaged = styles.pop(0)
            dark = np.clip(translated.pixels - averaged[:, :, None, None] / 8, 0, 255)
            yield Translated(dark.astype(np.uint8), translated.attention, averaged)


PIPELINES: list[Pipeline[Any, Any]] = []


@pytest.fixture(autouse=True, scope="module")
def _known_pipelines() -> Iterator[None]:
    class Known(Pipeline[ItemT, ResultT]):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            PIPELINES.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "Pipeline", Known)
        yield


def until_noticed() -> None:
    """Let a thread of the run wait until the run has taken notice that it is to end."""
    assert PIPELINES[-1]._given_up.wait(20)


def pictures_of(path: Path) -> NDArray[np.uint8]:
    with av.open(path) as film:
        return np.stack([frame.to_ndarray(format="yuv420p") for frame in film.decode(video=0)])


def packets_of(path: Path) -> list[tuple[str, int | None, int | None, int]]:
    """What lies in a film beside its pictures' own data: kind, timestamp, duration, and the sound's size."""
    with av.open(path) as film:
        return [
            (packet.stream.type, packet.pts, packet.duration, packet.size * (packet.stream.type == "audio"))
            for packet in film.demux()
            if packet.size
        ]


def scene(index: int) -> Pixels:
    """Two scenes, with the cut in a segment."""
    return 255 - picture(index % 60) if index >= CUT else picture(index % 60)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    uneven = [index * 100 + (index % 3) * 7 for index in range(COUNT)]
    made = {"pictures": scene, "rate": RATE, "timestamps": uneven, "time_base": Fraction(1, 1000)}
    make_film(path, count=COUNT, sound=True, options={"bf": "2"}, **made)  # type: ignore[arg-type]
    return path


def translate(
    source: Path,
    target: Path,
    translator: InvertingTranslator,
    should_stop: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Translate until the end, or until it is to stop: then there is no result."""
    options = FilmOptions(codec="ffv1", segment=SECONDS, smooth=True)
    planned = plan([source], Naming(target, "ink", Encoding(), DEFAULT_NAME, KINDS))
    settings = Settings(Sizing(square=False, side=None), attention=KINDS, film=options)
    with Session(
        planned.roots(), translator, "model", settings, watch=lambda _source, done, _of: watch(done)
    ) as session:
        results = session.results(planned, should_stop, patience=0)
        with contextlib.closing(results):
            return list(results)


def stop_after(source: Path, target: Path, count: int) -> tuple[int, int]:
    """Stop when so many pictures of the film are written.

    Returns:
        How many are written when it has stopped, and how many were given to the network.
    """
    stop, reached = threading.Event(), 0

    def watch(done: int) -> None:
        nonlocal reached
        reached = done
        if done >= count and not stop.is_set():
            stop.set()
            # Nothing more is written then.
            until_noticed()

    translator = Remembering()
    assert translate(source, target, translator, stop.is_set, watch) == []
    return reached, translator.frames


def state_of(target: Path) -> dict[str, list[dict[str, int]]]:
    (path,) = target.parent.glob(".*/state.json")
    state: dict[str, list[dict[str, int]]] = json.loads(path.read_text("ascii"))
    return state


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plain") / "out.mkv"
    (result,) = translate(source, target, Remembering())
    assert result.error is None, result.error
    assert result.written.frames == COUNT
    return target


def check_same(target: Path, plain: Path, result: Result, flicker: object) -> None:
    assert files(target.parent) == files(plain.parent)
    for name in ("out.mkv", "out.mask.mkv"):
        got, expected = target.parent / name, plain.parent / name
        assert (pictures_of(got) == pictures_of(expected)).all(), name
        assert packets_of(got) == packets_of(expected), name
    arrays = [(path.parent / "out.attention.npy").read_bytes() for path in (target, plain)]
    assert arrays[0] == arrays[1]
    assert result.written.frames == COUNT
    assert result.written.flicker == flicker


@pytest.fixture(scope="module")
def flicker(source: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    (result,) = translate(source, tmp_path_factory.mktemp("flicker") / "out.mkv", Remembering())
    assert result.written.flicker is not None
    return result.written.flicker


@pytest.mark.parametrize(
    "stops",
    [
        (1,),
        (SEGMENT - 1,),
        (SEGMENT,),
        (SEGMENT + 1,),
        (CUT,),
        (CUT + 1,),
        (COUNT - 1,),
        (COUNT,),
        # One after the other.
        (3, SEGMENT, CUT + 2, 2 * SEGMENT + 5),
    ],
    ids=str,
)
def test_a_film_that_was_stopped_goes_on_to_the_same_result(
    source: Path, plain: Path, flicker: object, tmp_path: Path, stops: Sequence[int]
) -> None:
    target = tmp_path / "out.mkv"
    before = translated = 0
    for count in stops:
        reached, frames = stop_after(source, target, count)
        assert reached == count
        state = state_of(target)
        # All that was written is kept, and little more than that was translated.
        assert sum(segment["pictures"] for segment in state["segments"]) == reached
        assert frames <= reached - before + IN_FLIGHT
        before, translated = reached, translated + frames
        assert not target.exists()
    last = Remembering()
    (result,) = translate(source, target, last)
    assert result.error is None, result.error
    # What was written is not translated again.
    assert last.frames == COUNT - before
    assert translated + last.frames <= COUNT + len(stops) * IN_FLIGHT
    check_same(target, plain, result, flicker)


def test_segments_of_one_picture_each_join_as_others_do(
    source: Path, plain: Path, flicker: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around a border, and across it."""
    target = tmp_path / "out.mkv"
    add = FilmWork.add
    stop, added, most = threading.Event(), 0, 1

    def add_some(work: FilmWork, finished: object) -> None:
        nonlocal added
        add(work, finished)  # type: ignore[arg-type]
        added += 1
        if added == most:
            stop.set()
            until_noticed()

    monkeypatch.setattr(FilmWork, "add", add_some)
    most = SEGMENT - 2
    translate(source, target, Remembering(), stop.is_set)
    written, lengths = added, [added]
    for _ in range(5):
        added, most = 0, 1
        stop.clear()
        assert translate(source, target, Remembering(), stop.is_set) == []
        written += added
        lengths.append(added)
    assert [segment["pictures"] for segment in state_of(target)["segments"]] == lengths
    assert lengths[1:] == [1] * 5
    monkeypatch.undo()
    last = Remembering()
    (result,) = translate(source, target, last)
    assert last.frames == COUNT - written
    check_same(target, plain, result, flicker)


def test_a_film_that_was_stopped_before_its_first_picture_leaves_nothing(
    source: Path, plain: Path, flicker: object, tmp_path: Path
) -> None:
    target, stop = tmp_path / "out.mkv", threading.Event()

    class Standing(Remembering):
        def translate(self, batches: Iterator[Batch]) -> Iterator[Translated]:
            stop.set()
            until_noticed()
            return super().translate(batches)

    assert translate(source, target, Standing(), stop.is_set) == []
    assert files(tmp_path) == []
    # What was there before stays.
    reached, _ = stop_after(source, target, 5)
    state = state_of(target)
    stop.clear()
    assert translate(source, target, Standing(), stop.is_set) == []
    assert state_of(target) == state
    last = Remembering()
    (result,) = translate(source, target, last)
    assert last.frames == COUNT - reached
    check_same(target, plain, result, flicker)


def test_where_the_segment_at_hand_cannot_be_kept_those_before_it_are(
    source: Path, plain: Path, flicker: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.mkv"
    finish = SegmentFilms.finish
    finished: list[SegmentFilms] = []

    def fill_up(films: SegmentFilms) -> None:
        finished.append(films)
        if len(finished) == 2:
            raise DiskFullError("full")
        finish(films)

    monkeypatch.setattr(SegmentFilms, "finish", fill_up)
    stop_after(source, target, SEGMENT + 5)
    assert len(finished) == 2
    monkeypatch.undo()
    assert [segment["pictures"] for segment in state_of(target)["segments"]] == [SEGMENT]
    (folder,) = tmp_path.iterdir()
    assert not [path for path in folder.iterdir() if path.name.startswith("000001")]
    last = Remembering()
    (result,) = translate(source, target, last)
    assert last.frames == COUNT - SEGMENT
    check_same(target, plain, result, flicker)


def test_a_picture_that_was_half_added_is_not_kept(
    source: Path, plain: Path, flicker: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BrokenError(Exception):
        pass

    add = Flicker.add
    calls = 0

    def break_off(figure: Flicker, means: NDArray[np.int64], cut: bool) -> None:
        nonlocal calls
        calls += 1
        # Two for each picture, after it is encoded.
        if calls > 2 * (SEGMENT + 3) + 1:
            raise BrokenError
        add(figure, means, cut)

    monkeypatch.setattr(Flicker, "add", break_off)
    target = tmp_path / "out.mkv"
    with pytest.raises(BrokenError):
        translate(source, target, Remembering())
    monkeypatch.undo()
    assert [segment["pictures"] for segment in state_of(target)["segments"]] == [SEGMENT]
    (result,) = translate(source, target, Remembering())
    check_same(target, plain, result, flicker)
