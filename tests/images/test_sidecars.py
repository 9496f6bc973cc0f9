from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ugatit_batch.errors import OutputError
from ugatit_batch.images.geometry import Sizing
from ugatit_batch.images.sidecars import KINDS, colour_map, picture_sidecar_path, scaled, write_sidecars

if TYPE_CHECKING:
    from collections.abc import Callable

    from ugatit_batch.frames import Attention, Pixels
    from ugatit_batch.images.picture import Picture


@pytest.fixture
def still(tmp_path: Path, photo: Pixels, opened: Callable[..., Picture]) -> Picture:
    Image.fromarray(photo).save(tmp_path / "in.png")
    return opened(tmp_path / "in.png")


@pytest.fixture
def attention() -> Attention:
    return np.linspace(-3, 500, 140, dtype=np.float32).reshape(10, 14)


def test_names() -> None:
    target = Path("out/a.b.jpg")
    assert [picture_sidecar_path(target, kind).name for kind in KINDS] == [
        "a.b.heatmap.png",
        "a.b.overlay.png",
        "a.b.mask.png",
        "a.b.attention.npy",
    ]
    assert picture_sidecar_path(Path("a.jpg"), "mask") == picture_sidecar_path(Path("a.png"), "mask")


def test_all_kinds(tmp_path: Path, still: Picture, attention: Attention, photo: Pixels) -> None:
    translated = list(still.frames())
    paths = write_sidecars(still, translated, [attention], tmp_path / "r.jpg", KINDS)
    assert paths == [picture_sidecar_path(tmp_path / "r.jpg", kind) for kind in KINDS]
    heat, over, mask = (np.asarray(Image.open(path)) for path in paths[:3])
    assert mask.shape == (40, 56)
    assert (mask.min(), mask.max()) == (0, 255)
    assert mask[0, 0] == 0
    assert mask[-1, -1] == 255
    assert np.array_equal(heat, colour_map()[mask])
    assert np.array_equal(over[mask == 0], photo[mask == 0])
    hottest = mask == 255
    expected = photo[hottest] * 0.35 + colour_map()[255] * 0.65
    assert np.abs(over[hottest] - expected).max() <= 1
    raw = np.load(paths[3])
    assert raw.dtype == np.float32
    assert np.array_equal(raw, attention)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.3, 1e-20, 3e30])
def test_a_flat_map_is_zeros(still: Picture, value: float) -> None:
    (levels,) = scaled([np.full((10, 14), value, np.float32)], still)
    assert levels.shape == (40, 56)
    assert not levels.any()


def test_what_is_no_number_counts_as_lowest(still: Picture, attention: Attention) -> None:
    attention[0, 0] = np.nan
    (levels,) = scaled([attention], still)
    assert levels[0, 0] == 0
    assert levels.max() == 255
    (nothing,) = scaled([np.full((10, 14), np.nan, np.float32)], still)
    assert not nothing.any()


def test_the_scale_is_the_pictures_own(still: Picture, attention: Attention) -> None:
    (levels,) = scaled([attention], still)
    (same,) = scaled([attention * 1000 + 5], still)
    assert np.abs(levels.astype(int) - same).max() <= 1


def test_reflection_around_the_picture_does_not_count(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    Image.new("RGB", (64, 16)).save(tmp_path / "wide.png")
    picture = opened(tmp_path / "wide.png", Sizing(square=True, side=64))
    attention = np.full((16, 16), 1000, np.float32)
    attention[5:11] = np.linspace(1, 2, 16, dtype=np.float32)
    (levels,) = scaled([attention], picture)
    assert levels.shape == (16, 64)
    assert (levels.min(), levels.max()) == (0, 255)
    assert levels[8].max() == 255


def test_an_animation_has_animated_sidecars(tmp_path: Path, opened: Callable[..., Picture]) -> None:
    frames = [Image.new("RGB", (16, 16), (value, 0, 0)) for value in (10, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 70, 90], loop=0)
    picture = opened(tmp_path / "a.gif")
    translated = list(picture.frames())
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    maps = [ramp, ramp * 2, ramp * 4]
    paths = write_sidecars(picture, translated, maps, tmp_path / "r.gif", ("mask", "npy"))
    with Image.open(paths[0]) as mask:
        assert mask.n_frames == 3  # type: ignore[attr-defined]
        highest, durations = [], []
        for index in range(3):
            mask.seek(index)
            highest.append(int(np.asarray(mask.convert("L")).max()))
            durations.append(mask.info["duration"])
    assert highest == [64, 128, 255]
    assert durations == [50, 70, 90]
    assert np.load(paths[1]).shape == (3, 4, 4)


def test_a_map_for_each_frame(tmp_path: Path, still: Picture, attention: Attention) -> None:
    with pytest.raises(ValueError, match="2 maps"):
        write_sidecars(still, list(still.frames()), [attention] * 2, tmp_path / "r.png", KINDS)


def test_a_folder_that_is_a_file(tmp_path: Path, still: Picture, attention: Attention) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"r\.mask\.png"):
        write_sidecars(still, list(still.frames()), [attention], tmp_path / "file" / "r.png", ("mask",))


def test_the_colour_map_goes_from_dark_blue_by_green_to_dark_red() -> None:
    colours = colour_map().astype(int)
    assert colours.shape == (256, 3)
    # The published table at 64, 128 and 192.
    assert np.abs(colours[[64, 128, 192]] - [(40, 187, 236), (164, 252, 60), (251, 126, 33)]).max() <= 22
    assert np.abs(np.diff(colours, axis=0)).max() <= 13
