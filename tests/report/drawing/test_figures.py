"""The paper's figures: what is drawn where, in %, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from largedrop.errors import UserError
from largedrop.report.drawing.clouds import Cloud, CloudPanel, clouds_figure
from largedrop.report.drawing.figures import (
    Bar,
    BarPanel,
    Curve,
    PathPanel,
    Stop,
    alpha_figure,
    comparison_figure,
    paths_figure,
)
from largedrop.report.drawing.hull import convex_hull
from largedrop.report.drawing.style import save_figure
from largedrop.runs.estimate import Estimate
from largedrop.runs.methods import METHODS
from largedrop.runs.methods import PLAIN as BASELINE

RNG = np.random.default_rng(0)
PLAIN = Cloud("baseline", 0.8 + 0.01 * RNG.random((1296, 2)), BASELINE)
LARGE = Cloud("dropout $0.9$", 0.82 + 0.01 * RNG.random((1296, 2)), METHODS["fine-tuning"])
ONE = Cloud("ensemble of all", np.array([[0.85, 0.83]]), METHODS["ensemble"])


def by_gid(figure: Figure, panel: int) -> dict[str, Any]:
    axes = figure.axes[panel]
    return {str(each.get_gid()): each for each in axes.get_children() if each.get_gid()}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_clouds_hulls_and_arrows() -> None:
    panels = [
        CloudPanel("PACS", [PLAIN, LARGE, ONE], [("baseline", "dropout $0.9$")]),
        CloudPanel("VLCS", [PLAIN]),
    ]
    figure = clouds_figure(panels, title="two")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["PACS", "VLCS"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["o.o.d. accuracy (%)", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["i.i.d. accuracy (%)"] * 2
    found = by_gid(figure, 0)
    for cloud in (PLAIN, LARGE):
        drawn = found[f"cloud {cloud.name}"]
        assert isinstance(drawn, PathCollection)
        np.testing.assert_allclose(drawn.get_offsets(), 100 * cloud.points)  # type: ignore[arg-type]
        hull = 100 * convex_hull(cloud.points)
        np.testing.assert_allclose(found[f"hull {cloud.name}"].get_xydata(), [*hull, hull[0]])
    np.testing.assert_allclose(found["cloud ensemble of all"].get_offsets(), [[85.0, 83.0]])
    assert "hull ensemble of all" not in found
    arrow = found["arrow baseline to dropout $0.9$"]
    np.testing.assert_allclose(arrow.xy, 100 * LARGE.points.mean(0))
    np.testing.assert_allclose(arrow.xyann, 100 * PLAIN.points.mean(0))
    assert not [name for name in by_gid(figure, 1) if name.startswith("arrow")]
    assert legend(figure) == ["baseline", "dropout $0.9$", "ensemble of all"]
    handles = figure.legends[0].legend_handles
    assert [handle.get_marker() for handle in handles] == ["o", "D", "^"]  # type: ignore[union-attr]
    assert [handle.get_markerfacecolor() for handle in handles] == ["#0072B2", "#D55E00", "white"]  # type: ignore[union-attr]


def test_hulls_of_methods_differ_in_more_than_colour() -> None:
    clouds = [
        Cloud(each.label, PLAIN.points, each) for each in (BASELINE, METHODS["ensemble"], METHODS["weight-average"])
    ]
    figure = clouds_figure([CloudPanel("", clouds)])
    assert [by_gid(figure, 0)[f"hull {cloud.name}"].get_linestyle() for cloud in clouds] == ["-", "--", ":"]
    dashes = [handle._unscaled_dash_pattern for handle in figure.legends[0].legend_handles]  # type: ignore[union-attr]
    assert len(set(map(str, dashes))) == 3


def test_a_million_points_are_thinned_but_not_their_hull() -> None:
    points = RNG.random((200_000, 2))
    found = by_gid(clouds_figure([CloudPanel("", [Cloud("many", points, BASELINE)])]), 0)
    assert len(found["cloud many"].get_offsets()) == 5_000
    np.testing.assert_allclose(found["hull many"].get_xydata()[:-1], 100 * convex_hull(points))


STOPS = [
    Stop(0.9, Estimate(0.978, 0.001, 3), Estimate(0.884, 0.002, 3)),
    Stop(0.0, Estimate(0.975, 0.002, 3), Estimate(0.865, 0.003, 3)),
    Stop(0.5, Estimate(0.976, None, 1), Estimate(0.875, None, 1)),
]


def test_path_goes_through_the_rates_in_order_with_their_errors() -> None:
    figure = paths_figure([PathPanel("PACS", STOPS)])
    np.testing.assert_allclose(by_gid(figure, 0)["path"].get_xydata(), [[97.5, 86.5], [97.6, 87.5], [97.8, 88.4]])
    containers: list[Any] = figure.axes[0].containers
    assert [len(each.lines[2]) for each in containers] == [2, 0, 2]
    np.testing.assert_allclose(containers[0].lines[2][0].get_segments(), [[[97.3, 86.5], [97.7, 86.5]]])
    np.testing.assert_allclose(containers[0].lines[2][1].get_segments(), [[[97.5, 86.2], [97.5, 86.8]]])
    assert [each.lines[0].get_marker() for each in containers] == ["o", "D", "D"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0.5", "0.9"]
    assert legend(figure) == ["plain fine-tuning (0)", "dropout rate as written, ± standard error"]


def test_labels_of_rates_do_not_overlap_each_other() -> None:
    close = [
        Stop(rate, Estimate(0.9 + step, 0.001, 3), Estimate(0.8 + 0.5 * step, 0.001, 3))
        for rate, step in ((0.0, -0.02), (0.5, 0.0), (0.9, 0.002), (0.95, 0.006))
    ]
    figure = paths_figure([PathPanel("PACS", close)])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [1 for place, box in enumerate(boxes) for other in boxes[:place] if box.overlaps(other)]


def test_interpolation_of_weights_is_dashed_and_of_representations_solid() -> None:
    curves = [
        Curve("mild", [0, 0.5, 1], [0.4, 0.5, 0.45], [0.4, 0.52, 0.45], [0.01] * 3, [0.01] * 3),
        Curve("harsh", [0, 1], [0.3, 0.45], [0.3, 0.45]),
    ]
    figure = alpha_figure(curves, title="figure 1")
    found = by_gid(figure, 0)
    np.testing.assert_allclose(found["mild: weights"].get_xydata(), [[0, 40], [0.5, 50], [1, 45]])
    np.testing.assert_allclose(found["mild: representations"].get_xydata(), [[0, 40], [0.5, 52], [1, 45]])
    assert (found["harsh: weights"].get_linestyle(), found["harsh: representations"].get_linestyle()) == ("--", "-")
    assert found["mild: weights"].get_color() != found["harsh: weights"].get_color()
    assert len(figure.axes[0].collections) == 2  # the bands of the one that has errors
    assert figure.axes[0].get_xlabel() == "α  (0: fine-tuned, 1: pretrained)"
    assert figure.axes[0].get_ylabel() == "o.o.d. accuracy (%)"
    assert list(found) == [f"{name}: {kind}" for name in ("mild", "harsh") for kind in ("representations", "weights")]
    assert legend(figure) == ["representations", "weights", "mild", "harsh"]


def test_interpolations_that_cannot_be_drawn() -> None:
    with pytest.raises(UserError, match="no curve"):
        alpha_figure([])


def test_comparison_has_a_line_for_each_method_and_bars_of_one_standard_error() -> None:
    panels = [
        BarPanel(
            "PACS",
            [Bar("baseline", Estimate(0.865, 0.003, 3), BASELINE), Bar("x", Estimate(0.5, None, 1), METHODS["swad"])],
        ),
        BarPanel("VLCS", [Bar("x", Estimate(0.6, 0.01, 3), METHODS["swad"])]),
    ]
    figure = comparison_figure(panels)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["baseline", "x"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]
    containers: list[Any] = [*first.containers, *second.containers]
    assert [each.lines[0].get_xydata().tolist() for each in containers] == [[[86.5, 0.0]], [[50.0, 1.0]], [[60.0, 1.0]]]
    np.testing.assert_allclose(containers[0].lines[2][0].get_segments(), [[[86.2, 0], [86.8, 0]]])
    assert containers[1].lines[2] == ()
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first method is at the top
    assert figure.get_supxlabel() == "mean ± standard error over 1 or 3 seeds"


def test_files_are_the_same_each_time_and_svg_has_the_names(tmp_path: Path) -> None:
    def make() -> Figure:
        return clouds_figure([CloudPanel("PACS", [PLAIN, LARGE], [("baseline", "dropout $0.9$")])], title="two")

    png, svg = save_figure(make(), tmp_path / "one" / "clouds")
    again = save_figure(make(), tmp_path / "clouds")
    assert png.read_bytes() == again[0].read_bytes()
    assert svg.read_bytes() == again[1].read_bytes()
    image = Image.open(io.BytesIO(png.read_bytes()))
    image.load()
    assert np.asarray(image.convert("L")).std() > 5
    text = svg.read_text("utf-8")
    for name in ("hull baseline", "arrow baseline to dropout $0.9$", "<!-- o.o.d. accuracy (%) -->"):
        assert name in text
