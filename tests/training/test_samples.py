from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from ugatit_batch.images.sidecars import colour_map
from ugatit_training.data import to_network
from ugatit_training.model import UGATIT
from ugatit_training.samples import COLUMNS, ROWS, sample_pixels, write_samples
from ugatit_training.sheets import levels
from ugatit_training.state import new_state

from .tiny import CPU, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from ugatit_batch.frames import Pixels
    from ugatit_training.data import Domains

SIZE, PITCH, HEADER = 32, 36, 16


def cell(sheet: Path, row: int, column: str) -> Pixels:
    left, top = COLUMNS.index(column) * PITCH, HEADER + row * PITCH
    with Image.open(sheet) as image:
        return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def test_a_sheet_for_each_direction(domains: Domains, tmp_path: Path) -> None:
    config = tiny()
    first = write_samples(UGATIT(config).generators(), domains, config, tmp_path, 25)
    assert first.name == "step-00000025-a2b.png"
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert names == ["step-00000025-a2b.png", "step-00000025-b2a.png"]
    for name in names:
        with Image.open(tmp_path / name) as sheet:
            assert sheet.mode == "RGB"
            assert sheet.size == (5 * PITCH - 4, HEADER + ROWS * PITCH)


def test_cells_are_what_the_generators_make(domains: Domains, tmp_path: Path) -> None:
    config = tiny()
    networks = UGATIT(config)
    sheet = write_samples(networks.generators(), domains, config, tmp_path, 1)
    reverse = tmp_path / "step-00000001-b2a.png"
    for path, there, back, pictures in (
        (sheet, networks.a2b, networks.b2a, domains.a),
        (reverse, networks.b2a, networks.a2b, domains.b),
    ):
        pixels = sample_pixels(pictures, SIZE)
        assert np.array_equal(cell(path, 2, "source"), pixels[2].permute(1, 2, 0))
        x = pixels[2:3].float() / 127.5 - 1
        with torch.no_grad():
            result = there(x).image
            expected = {"result": result, "cycle": back(result).image, "identity": back(x).image}
        for column, image in expected.items():
            wanted = ((image[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
            assert np.abs(cell(path, 2, column).astype(float) - wanted).max() <= 1, column


def test_writing_changes_nothing(domains: Domains, tmp_path: Path) -> None:
    config = tiny()
    networks = UGATIT(config).train()
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    random = torch.get_rng_state()
    write_samples(networks.generators(), domains, config, tmp_path, 1)
    for name, tensor in networks.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(name.endswith("spectral.u") for name in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in networks.parameters())
    assert networks.training


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_flat_attention_map(
    domains: Domains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    plain = torch.Tensor.round

    def checked(x: torch.Tensor) -> torch.Tensor:
        # A NaN would become some byte or other without a word.
        assert x.isfinite().all()
        return plain(x)

    monkeypatch.setattr(torch.Tensor, "round", checked)
    config = tiny()
    networks = UGATIT(config)
    for generator in networks.generators():
        assert generator.cam is not None
        torch.nn.init.zeros_(generator.cam.join.weight)
        generator.cam.join.bias = torch.nn.Parameter(torch.full((16,), value))
    sheet = write_samples(networks.generators(), domains, config, tmp_path, 1)
    assert np.array_equal(cell(sheet, 0, "attention"), np.broadcast_to(colour_map()[0], (SIZE, SIZE, 3)))


def test_attention_is_scaled_as_in_an_evaluation(
    domains: Domains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding on a map far from 0 is no attention."""
    config = tiny()
    networks = UGATIT(config)
    noise = 1e5 + 0.01 * torch.rand(1, 8, 8)
    assert noise.max() > noise.min()
    slope = torch.arange(64.0).view(1, 8, 8) - 90
    for attention in (noise, slope):
        for generator in networks.generators():
            made = generator.forward
            monkeypatch.setattr(
                generator, "forward", lambda x, made=made, a=attention: made(x)._replace(attention=a)
            )
        sheet = write_samples(networks.generators(), domains, config, tmp_path, 1)
        wanted = colour_map()[levels(attention[0].numpy(), SIZE)]
        assert np.array_equal(cell(sheet, 0, "attention"), wanted)
        assert (len(np.unique(wanted.reshape(-1, 3), axis=0)) == 1) == (attention is noise)


@pytest.mark.parametrize(
    "changes", [{"cam": "none"}, {"norm": "ln", "light": False}, {"channels_last": False}]
)
def test_ablated_generators_have_sheets_too(
    domains: Domains, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = tiny(**changes)
    networks = new_state(config, CPU).networks
    sheet = write_samples(networks.generators(), domains, config, tmp_path, 1)
    x = to_network(sample_pixels(domains.a, SIZE)[:1], CPU)
    with torch.no_grad():
        wanted = ((networks.a2b(x).image[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    titles = [title for title in COLUMNS if title != "attention" or config.cam == "both"]
    with Image.open(sheet) as image:
        assert image.width == len(titles) * PITCH - 4
        left = titles.index("result") * PITCH
        found = np.asarray(image.crop((left, HEADER, left + SIZE, HEADER + SIZE)))
    assert np.abs(found.astype(float) - wanted).max() <= 1


def test_up_to_four_pictures_spread_over_the_folder(domains: Domains, tmp_path: Path) -> None:
    colours = []
    for index in range(9):
        Image.new("RGB", (20, 10), (index, 0, 0)).save(tmp_path / f"{index}.png")
        colours.append(tmp_path / f"{index}.png")
    pixels = sample_pixels(tuple(colours), 16)
    assert pixels.shape == (4, 3, 16, 16)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    assert sample_pixels(tuple(colours[:2]), 16).shape[0] == 2


def test_samples_are_centre_squares(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10), (255, 0, 0))
    image.paste((0, 0, 255), (10, 0, 20, 10))
    image.save(tmp_path / "p.png")
    (pixels,) = sample_pixels((tmp_path / "p.png",), 8)
    assert pixels.permute(1, 2, 0)[1:-1, 1:-1].reshape(-1, 3).unique(dim=0).tolist() == [[0, 0, 255]]
