from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig
from ugatit_batch.errors import FilmError, UsageError
from ugatit_batch.frames import Batch
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.settings import Settings, choose_sizing
from ugatit_batch.video.info import FilmOptions
from ugatit_batch.video.join import join_film
from ugatit_engines import measure_film
from ugatit_engines.idle import IdleTranslator
from ugatit_engines.measure import summarize
from ugatit_engines.measure_film import WORKERS, FilmWorkload
from ugatit_engines.open_engine import open_engine
from ugatit_engines.specimens import PERIOD, moving_pictures, write_film, write_random_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = (48, 32)
NATIVE = Sizing(square=False, side=None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_workload(tmp_path: Path, count: int = 12, batch_size: int = 1, **film: Any) -> FilmWorkload:
    write_film(tmp_path / "film.mp4", count, *SIZE)
    (tmp_path / "outputs").mkdir()
    options = FilmOptions(threads=1, preset="ultrafast", **film)
    translator = IdleTranslator(batch_size)
    settings = Settings(NATIVE, film=options)
    return FilmWorkload(tmp_path / "film.mp4", count, translator, "idle", settings, tmp_path / "outputs")


class TestFilmWorkload:
    def test_every_stage_has_a_speed(self, tmp_path: Path) -> None:
        work = make_workload(tmp_path)
        assert work.film_size == work.network_size == SIZE
        rates = {name: contestant() for name, contestant in work.contestants().items()}
        assert list(rates) == ["run", "network", "decode", "encode", "join"]
        assert all(rate > 0 for rate in rates.values())
        assert work.side_by_side() > 0
        (phases,) = work.phases
        assert phases.first > 0
        assert phases.last > 0
        left = [path for path in (tmp_path / "outputs").rglob("*") if path.suffix == ".mp4"]
        assert left == []

    def test_a_network_of_torch_in_batches(self, tmp_path: Path) -> None:
        write_film(tmp_path / "film.mp4", 5, *SIZE, has_sound=False)
        bundle = write_random_bundle(tmp_path / "model", GeneratorConfig(4, residual_blocks=1), longest=24)
        translator = open_engine(bundle, "a2b", "cpu", "fp32", 2)
        settings = Settings(choose_sizing(bundle), film=FilmOptions(preset="ultrafast"))
        work = FilmWorkload(tmp_path / "film.mp4", 5, translator, "digest", settings, tmp_path)
        assert work.network_size == (24, 16)
        assert [frame.shape for frame in work.frames()] == [(16, 24, 3)] * 5
        assert work.run() > 0
        assert work.network() > 0

    def test_all_pictures_are_encoded_in_segments_of_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = make_workload(tmp_path, 60, segment=1)
        joined: list[tuple[int, list[float], int]] = []

        def join(source: Any, segments: list[Path], target: Path, **rest: Any) -> list[str]:
            notes = join_film(source, segments, target, **rest)
            with av.open(str(target)) as film:
                times = [frame.time for frame in film.decode(video=0)]
                joined.append((len(segments), times, len(film.streams.audio)))
            return notes

        monkeypatch.setattr(measure_film, "join_film", join)
        # Twice: what was encoded before is no part of it.
        for _ in range(2):
            work.encode()
            work.join()
        assert len(joined) == 2
        for segments, times, sounds in joined:
            assert (segments, sounds) == (3, 1)
            assert times == pytest.approx([index / 25 for index in range(60)])

    def test_segments_are_made_where_none_are(self, tmp_path: Path) -> None:
        assert make_workload(tmp_path).join() > 0

    def test_kept_pictures_are_gone_through_there_and_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(measure_film, "_KEPT", 3 * SIZE[0] * SIZE[1] * 3)
        work = make_workload(tmp_path, 7, batch_size=2)
        kept = [frame.tobytes() for frame in work.frames()]
        assert len(kept) == len(set(kept)) == 3
        assert work.network() > 0
        assert work.encode() > 0

    def test_a_batch_of_the_network_is_one_of_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(measure_film, "_KEPT", 1)
        work = make_workload(tmp_path, 9, batch_size=4)
        frames = list(work.frames())
        assert len(frames) == 4
        assert all(np.array_equal(frame, frames[0]) for frame in frames)
        assert work.encode() > 0

    def test_a_damaged_film_is_no_figure(self, tmp_path: Path) -> None:
        work = make_workload(tmp_path)
        (tmp_path / "film.mp4").write_bytes(b"no film")
        with pytest.raises(FilmError, match="film"):
            work.run()

    def test_a_codec_that_the_container_does_not_take(self, tmp_path: Path) -> None:
        write_film(tmp_path / "film.mp4", 2, *SIZE, has_sound=False)
        settings = Settings(NATIVE, film=FilmOptions(codec="prores"))
        with pytest.raises(UsageError, match="prores"):
            FilmWorkload(tmp_path / "film.mp4", 2, IdleTranslator(), "idle", settings, tmp_path)

    def test_a_film_has_one_thread_a_stage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ugatit_engines.measure.usable_cores", lambda: 8)
        found = summarize([{"run": 9.0, "network": 50.0, "decode": 20.0, "encode": 10.0}], WORKERS)
        assert found.slowest == "encode"
        assert found.ratio_to_slowest == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0, 0, 0]), (2, [0, 1, 0, 1]), (4, [0, 1, 2, 3, 2, 1, 0, 1])]
)
def test_there_and_back(count: int, expected: list[int]) -> None:
    assert [measure_film._there_and_back(index, count) for index in range(len(expected))] == expected


def test_the_idle_network_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    (translated,) = IdleTranslator(2).translate(iter([Batch(pixels)]))
    assert np.array_equal(translated.pixels, pixels)
    assert translated.attention.shape == (2, 2, 3)


class TestSpecimens:
    @pytest.mark.parametrize("count", [1, PERIOD, PERIOD + 31, 2 * PERIOD])
    def test_a_film_of_so_many_pictures(self, tmp_path: Path, count: int) -> None:
        write_film(tmp_path / "film.mp4", count, *SIZE)
        with av.open(str(tmp_path / "film.mp4")) as film:
            (video,), (audio,) = film.streams.video, film.streams.audio
            assert (video.codec_context.name, video.width, video.height) == ("h264", *SIZE)
            times = [frame.time for frame in film.decode(video)]
            assert times == pytest.approx([index / 25 for index in range(count)])
            film.seek(0)
            heard = sum(frame.samples for frame in film.decode(audio)) / audio.rate
            assert heard == pytest.approx(count / 25, abs=0.05)

    def test_it_has_b_frames_and_may_be_silent(self, tmp_path: Path) -> None:
        write_film(tmp_path / "film.mp4", 20, *SIZE, has_sound=False)
        with av.open(str(tmp_path / "film.mp4")) as film:
            assert not film.streams.audio
            types = {frame.pict_type for frame in film.decode(video=0)}
        assert av.video.frame.PictureType.B in types

    def test_pictures_move_and_come_again(self) -> None:
        pictures = list(itertools.islice(moving_pictures(*SIZE), PERIOD + 1))
        assert pictures[0].shape == (SIZE[1], SIZE[0], 3)
        assert np.array_equal(pictures[0], pictures[PERIOD])
        for one, following in itertools.pairwise(pictures):
            assert not np.array_equal(one, following)

    def test_sides_that_no_film_has(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="48×33"):
            write_film(tmp_path / "film.mp4", 1, 48, 33)
