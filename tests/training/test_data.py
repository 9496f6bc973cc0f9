from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_batch.errors import DatasetError
from ugatit_training.data import Domains, draws, find_domains, list_pictures, to_network
from ugatit_training.diff_augment import NUMBERS
from ugatit_training.distributed import ALONE, World
from ugatit_training.draw import AUGMENTED, Draw
from ugatit_training.replay_pool import FILL, decide

from .tiny import CPU, random_draw, tiny, with_workers

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from ugatit_batch.frames import Pixels
    from ugatit_training.config import TrainConfig


EXTRAS: dict[str, Any] = {"diff_augment": ("color", "cutout"), "replay_pool": 6}


def stream(domains: Domains, config: TrainConfig, start: int = 0, world: World = ALONE) -> list[Draw]:
    return list(draws(domains, config, start, CPU, world))


def same(one: list[Draw], other: list[Draw]) -> bool:
    return len(one) == len(other) and all(
        left is right or (left is not None and right is not None and torch.equal(left, right))
        for pair in zip(one, other, strict=True)
        for left, right in zip(*(vars(draw).values() for draw in pair), strict=True)
    )


def to_pixels(values: Tensor) -> Tensor:
    """uint8, as the pictures were before `to_network`."""
    return ((values + 1) * 127.5).round().to(torch.uint8)


def one_picture(tmp_path: Path, image: Image.Image, name: str = "picture.png") -> Domains:
    """Both domains from the same picture."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / name)
    return find_domains(tmp_path / "a", tmp_path / "b")


def draws_of_a(domains: Domains, config: TrainConfig) -> list[Pixels]:
    return [to_pixels(draw.a[0]).permute(1, 2, 0).numpy() for draw in stream(domains, config)]


# The order of draws


@with_workers
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(domains: Domains, workers: int) -> None:
    alone = stream(domains, tiny(steps=9, batch_size=2))
    assert [(draw.a.shape, draw.b.dtype) for draw in alone] == [((2, 3, 32, 32), torch.float32)] * 9
    assert same(alone, stream(domains, tiny(steps=9, batch_size=2, workers=workers)))


@with_workers
@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_global_generators_alone(domains: Domains, workers: int) -> None:
    before = torch.get_rng_state(), random.getstate()
    stream(domains, tiny(workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@with_workers
@pytest.mark.parametrize(("start", "workers"), [(1, 0), (5, 0), (12, 0), (5, 2)])
@pytest.mark.parametrize("extras", [{}, EXTRAS])
def test_a_later_start_is_the_tail_of_the_whole_stream(
    domains: Domains, start: int, workers: int, extras: dict[str, Any]
) -> None:
    whole = stream(domains, tiny(batch_size=3, **extras))
    assert same(stream(domains, tiny(batch_size=3, workers=workers, **extras), start), whole[start:])


def test_draws_do_not_depend_on_how_many_there_will_be(domains: Domains) -> None:
    assert same(stream(domains, tiny(steps=20))[:12], stream(domains, tiny(steps=12)))


def test_the_seed_decides(domains: Domains) -> None:
    first, second = stream(domains, tiny()), stream(domains, tiny())
    assert same(first, second)
    assert not same(first, stream(domains, tiny(seed=1)))


def test_no_two_draws_are_cut_alike(domains: Domains) -> None:
    drawn = {draw.a.numpy().tobytes() for draw in stream(domains, tiny(steps=40, load_size=500))}
    assert len(drawn) == 40


def test_every_picture_is_seen_once_an_epoch(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 3)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (40, 40), (index * 10, 0, 0)).save(tmp_path / name / f"{index}.png")
    domains = find_domains(tmp_path / "a", tmp_path / "b")
    drawn = stream(domains, tiny(steps=30))
    for side, count in (("a", 5), ("b", 3)):
        seen = [int(to_pixels(getattr(draw, side))[0, 0, 0, 0]) // 10 for draw in drawn]
        epochs = [tuple(seen[i : i + count]) for i in range(0, 30, count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len(set(epochs)) > 1


# What steps need beside pictures


def test_random_numbers_come_only_where_they_are_asked_for(domains: Domains) -> None:
    (plain, *_) = stream(domains, tiny(steps=1))
    assert plain.augment is None
    assert plain.replay is None
    (full, *_) = stream(domains, tiny(steps=1, batch_size=2, accumulate=3, **EXTRAS))
    assert full.augment is not None
    assert full.replay is not None
    assert full.augment.shape == (6, AUGMENTED, NUMBERS)
    assert full.augment.dtype == torch.float32
    assert (full.replay.shape, full.replay.dtype) == ((6, 2, 2), torch.int64)
    assert torch.equal(full.replay, torch.from_numpy(decide(6, (0, 2, 1, 0), 0, 6)))


def test_random_numbers_are_uniform_and_never_come_twice(domains: Domains) -> None:
    noise = torch.cat([d.augment for d in stream(domains, tiny(steps=40, **EXTRAS)) if d.augment is not None])
    assert 0 <= noise.min() < 0.01
    assert 0.99 < noise.max() < 1
    assert abs(noise.mean() - 0.5) < 5 / (12 * noise.numel()) ** 0.5
    assert len(set(noise.flatten().tolist())) > 0.999 * noise.numel()
    other = stream(domains, tiny(steps=1, seed=1, **EXTRAS))[0].augment
    assert other is not None
    assert not torch.equal(other[0], noise[0])


def test_the_pool_goes_on_where_the_steps_before_left_it(domains: Domains) -> None:
    config = tiny(steps=5, batch_size=2, replay_pool=8)
    decided = [draw.replay for draw in stream(domains, config)]
    filled = [d[:, 0, 0].tolist() for d in decided[:4] if d is not None]
    assert filled == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert decided[4] is not None
    assert (decided[4][:, :, 1] != FILL).all()


@with_workers
def test_pictures_do_not_depend_on_what_else_is_drawn(domains: Domains) -> None:
    for one, other in zip(stream(domains, tiny()), stream(domains, tiny(**EXTRAS)), strict=True):
        assert torch.equal(one.a, other.a)
        assert torch.equal(one.b, other.b)


# Several processes


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("start", [0, 2])
def test_all_processes_together_draw_what_one_would(domains: Domains, size: int, start: int) -> None:
    config = tiny(steps=5, batch_size=2, accumulate=2, **EXTRAS)
    whole = stream(domains, dataclasses.replace(config, batch_size=2 * size, replay_pool=4 * size), start)
    parts = [stream(domains, config, start, World(rank, size)) for rank in range(size)]
    assert len(whole) == 5 - start
    for step, draw in enumerate(whole):
        for name in ("a", "b", "augment"):
            together = torch.cat([getattr(part[step], name) for part in parts])
            assert torch.equal(together, getattr(draw, name)), name


def test_every_process_has_a_pool_of_its_own(domains: Domains) -> None:
    config = tiny(steps=30, replay_pool=3)
    first, second = (
        [draw.replay for draw in stream(domains, config, 0, World(rank, 2)) if draw.replay is not None]
        for rank in range(2)
    )
    assert torch.equal(torch.cat(first[:3]), torch.cat(second[:3]))
    assert not torch.equal(torch.cat(first[3:]), torch.cat(second[3:]))
    # As many fakes a process as it has made itself.
    assert torch.equal(torch.cat(first), torch.from_numpy(decide_each(3, 30)))


def decide_each(size: int, steps: int) -> NDArray[np.int64]:
    return np.concatenate([decide(size, (0, 2, 1, 0), step, 1) for step in range(steps)])


# Splitting


def test_a_draw_splits_into_equal_parts_one_behind_the_other() -> None:
    draw = random_draw(tiny(batch_size=2, accumulate=3, **EXTRAS))
    parts = draw.split(3)
    assert len(parts) == 3
    for name, value in vars(draw).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value)
        assert {len(getattr(part, name)) for part in parts} == {2}
    (half, *_) = Draw(draw.a, draw.b).split(2)
    assert half.augment is None
    assert half.replay is None


# Augmentation


def gradient(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 250 / width, y * 250 / height, x * 0], -1).astype(np.uint8))


@pytest.mark.parametrize(("flip", "least", "most"), [(0.0, 0, 0), (1.0, 200, 200), (0.25, 30, 70)])
def test_flip_is_a_probability(tmp_path: Path, flip: float, least: int, most: int) -> None:
    image = gradient(32, 32)
    domains = one_picture(tmp_path, image)
    expected = np.asarray(image)
    mirrored = 0
    for drawn in draws_of_a(domains, tiny(steps=200, flip=flip, load_size=32)):
        is_mirrored = not np.array_equal(drawn, expected)
        assert np.array_equal(drawn[:, ::-1] if is_mirrored else drawn, expected)
        mirrored += is_mirrored
    assert least <= mirrored <= most


def test_pictures_are_resized_to_a_square_and_then_cut(tmp_path: Path) -> None:
    image = gradient(90, 50)
    domains = one_picture(tmp_path, image)
    resized = np.asarray(image.resize((40, 40), Image.Resampling.BILINEAR))
    places = {
        resized[top : top + 32, left : left + 32].tobytes(): (left, top)
        for top in range(9)
        for left in range(9)
    }
    drawn = draws_of_a(domains, tiny(steps=300, flip=0.0, load_size=40))
    found = [places[np.ascontiguousarray(pixels).tobytes()] for pixels in drawn]
    for axis in (0, 1):
        assert {place[axis] for place in found} == set(range(9))


def test_no_room_to_cut_is_the_whole_picture(tmp_path: Path) -> None:
    image = gradient(70, 50)
    domains = one_picture(tmp_path, image)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert all(np.array_equal(d, expected) for d in draws_of_a(domains, tiny(flip=0.0, load_size=32)))


@pytest.mark.parametrize(
    ("scale", "sides"),
    [((0.5, 0.5), (50, 50)), ((0.4, 1.0), (40, 100)), ((1.0, 1.0), (100, 100))],
)
def test_crop_scale_cuts_squares_at_the_pictures_own_proportions(
    tmp_path: Path, scale: tuple[float, float], sides: tuple[int, int]
) -> None:
    y, x = np.mgrid[0:100, 0:200]
    domains = one_picture(tmp_path, Image.fromarray(np.stack([x, y, x * 0], -1).astype(np.uint8)))
    spans = []
    corners = set()
    for pixels in draws_of_a(domains, tiny(steps=60, flip=0.0, crop_scale=scale, load_size=999)):
        # A pixel more than the outer pixels' centres are apart; edges are blurred a little.
        width = (int(pixels[16, -1, 0]) - int(pixels[16, 0, 0])) * 32 / 31
        height = (int(pixels[-1, 16, 1]) - int(pixels[0, 16, 1])) * 32 / 31
        assert abs(width - height) <= 4
        spans.append(width)
        corners.add((int(pixels[0, 0, 0]), int(pixels[0, 0, 1])))
    assert min(spans) >= sides[0] - 4
    assert max(spans) <= sides[1] + 4
    assert max(spans) - min(spans) >= 0.5 * (sides[1] - sides[0])
    assert len(corners) > 20


def test_pixels_become_numbers_between_minus_1_and_1() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    values = to_network(pixels, torch.device("cpu"))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


# Finding pictures


def test_pictures_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("a/z.png", "a/deep/er/b.JPG", "a/c.webp", "b/x.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    for name in ("a/.hidden.png", "a/notes.txt"):
        (tmp_path / name).write_text("no picture", "utf-8")
    (tmp_path / "a/folder.png").mkdir()
    found = find_domains(tmp_path / "a", tmp_path / "b")
    assert [p.relative_to(tmp_path).as_posix() for p in found.a] == ["a/c.webp", "a/deep/er/b.JPG", "a/z.png"]
    assert [p.name for p in found.b] == ["x.bmp"]


def test_missing_and_empty_folders(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder") as missing:
        find_domains(tmp_path / "nowhere", folders[1])
    assert "trainA" in missing.value.hint
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture", "utf-8")
    with pytest.raises(DatasetError, match="empty: no picture in it"):
        find_domains(folders[0], tmp_path / "empty")
    with pytest.raises(DatasetError, match="no such folder"):
        find_domains(folders[0] / "0.png", folders[1])


def test_a_folder_cannot_be_both_domains(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    source, _ = folders
    (tmp_path / "link").symlink_to(source)
    for again in (source, source / ".." / source.name, tmp_path / "link"):
        with pytest.raises(DatasetError, match="the same folder"):
            find_domains(source, again)


def test_one_domain_cannot_lie_in_the_other(folders: tuple[Path, Path]) -> None:
    source, _ = folders
    for pair in ((source, source.parent), (source.parent, source)):
        with pytest.raises(DatasetError, match="in both domains"):
            find_domains(*pair)


def test_pictures_are_found_by_suffix_below_the_folder_and_sorted(tmp_path: Path) -> None:
    for name in ("b.PNG", "deep/a.jpg", "a.png", ".hidden.png", "notes.txt", "folder.png/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = ["a.png", "b.PNG", "deep/a.jpg", "folder.png/c.png"]
    assert list_pictures(tmp_path) == tuple(tmp_path / name for name in names)
