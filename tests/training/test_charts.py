from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ugatit_batch.bundle import GeneratorConfig
from ugatit_training.charts import SERIES, ascii_label, loss_chart, rho_chart, rho_layers
from ugatit_training.generator import Generator

A, B = SERIES


def where(image: Any, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((np.asarray(image) == colour).all(-1))


def metrics(count: int = 60, losses: tuple[str, ...] = ("cycle", "cam")) -> list[dict[str, float]]:
    """A falls, B rises; learning rate and speed are no losses."""
    return [
        {
            "step": 10.0 * (i + 1),
            "learning_rate": 1e-4,
            "steps_per_second": 3.0,
            **{f"{name}_a": 1 - i / count for name in losses},
            **{f"{name}_b": i / count for name in losses},
        }
        for i in range(count)
    ]


def test_there_is_a_panel_a_loss_with_a_and_b() -> None:
    chart = loss_chart(metrics(losses=("cycle", "cam", "identity")))
    assert chart is not None
    assert chart.size == (920, 30 + 2 * 210)
    for colour in (A, B):
        found = where(chart, colour)
        panels = {(int(y - 30) // 210, int(x) // 460) for y, x in found if y > 30}
        assert panels == {(0, 0), (0, 1), (1, 0)}
    legend = [where(chart.crop((0, 0, 920, 30)), colour)[:, 1].max() for colour in (A, B)]
    assert legend[0] < legend[1]


def test_curves_go_the_way_of_the_numbers() -> None:
    chart = loss_chart(metrics(losses=("cycle",)))
    assert chart is not None
    panel = chart.crop((0, 30, 460, 240))
    for colour, falls in ((A, True), (B, False)):
        found = where(panel, colour)
        left = found[found[:, 1] < 90, 0].mean()
        right = found[found[:, 1] > 400, 0].mean()
        assert bool(right > left) is falls, "rows count from the top"


def test_one_wild_value_does_not_flatten_the_rest() -> None:
    lines = metrics(200, ("cycle",))
    lines[0]["cycle_a"] = 1e6
    chart = loss_chart(lines)
    assert chart is not None
    found = where(chart.crop((0, 30, 460, 240)), B)
    assert np.ptp(found[:, 0]) > 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_left_out(bad: float) -> None:
    lines = metrics(40)
    for line in lines[20:]:
        line["cycle_a"] = bad
    lines = [line | {"cam_a": bad, "cam_b": bad} for line in lines]
    chart = loss_chart(lines)
    assert chart is not None
    found = where(chart.crop((0, 30, 460, 240)), A)
    assert 200 < found[:, 1].max() < 280, "the curve ends in the middle"
    assert len(where(chart.crop((460, 30, 920, 240)), B)) == 0


def test_less_than_two_reports_are_no_curve() -> None:
    assert loss_chart([]) is None
    assert loss_chart(metrics(1)) is None
    assert loss_chart([{"step": 1.0}, {"step": 2.0}]) is None
    assert loss_chart(metrics(2)) is not None


def generator(norm: Any = "adalin") -> Generator:
    return Generator(GeneratorConfig(channels=8, residual_blocks=2, image_size=32, norm=norm))


def test_layers_are_told_in_the_order_of_the_decoder() -> None:
    network = generator()
    with torch.no_grad():
        network.get_parameter("decoder.1.norm2.rho").fill_(0.25)
        network.get_parameter("up_norms.0.rho").fill_(0.75)
    layers = rho_layers(network)
    assert list(layers) == [
        *(f"block {block}, norm {norm}" for block in (1, 2) for norm in (1, 2)),
        *("up-sampling 1", "up-sampling 2"),
    ]
    assert {label: float(values.mean()) for label, values in layers.items()} == {
        "block 1, norm 1": 1,
        "block 1, norm 2": 1,
        "block 2, norm 1": 1,
        "block 2, norm 2": 0.25,
        "up-sampling 1": 0.75,
        "up-sampling 2": 0,
    }
    assert [len(values) for values in layers.values()] == [32, 32, 32, 32, 16, 8]


@pytest.mark.parametrize("norm", ["adain", "in", "ln", "gn"])
def test_other_normalisations_have_no_rho_and_no_chart(norm: str) -> None:
    assert rho_layers(generator(norm)) == {}
    assert rho_chart({"A → B": {}, "B → A": {}}) is None


def test_a_histogram_lies_where_its_values_do() -> None:
    values = np.linspace(0.5, 0.75, 400, dtype=np.float32)
    chart = rho_chart({"photo → ink": {"block 1, norm 1": values, "up-sampling 1": np.zeros(8, np.float32)}})
    assert chart is not None
    left, width, top, height = 110, 340, 62, 46
    bars = where(chart, A)
    first = bars[bars[:, 0] < top + height]
    assert left + 0.5 * width - 1 <= first[:, 1].min() <= left + 0.52 * width
    assert left + 0.74 * width <= first[:, 1].max() <= left + 0.76 * width
    second = bars[bars[:, 0] > top + height]
    assert left <= second[:, 1].min() <= second[:, 1].max() <= left + width / 50
    mean = where(chart.crop((0, top, chart.width, top + height)), B)
    assert mean[:, 1].mean() == pytest.approx(left + 0.625 * width, abs=2)


def test_both_directions_stand_side_by_side() -> None:
    layers = rho_layers(generator())
    one, two = rho_chart({"A → B": layers}), rho_chart({"A → B": layers, "B → A": layers})
    assert one is not None
    assert two is not None
    assert two.size == (2 * one.width, one.height)
    bars = where(two, A)
    assert (bars[:, 1] > one.width).any()
    half = rho_chart({"A → B": layers, "B → A": {}})
    assert half is not None
    assert half.size == one.size


@pytest.mark.parametrize(
    ("text", "written"),
    [("photo → ink", "photo to ink"), ("ρ", "rho"), ("Müller", "Muller"), ("写真", "??"), ("a\nb", "a?b")],
)
def test_labels_are_what_the_font_can_write(text: str, written: str) -> None:
    assert ascii_label(text) == written
