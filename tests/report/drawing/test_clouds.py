"""Clouds: what is drawn where, in %, in which marker and shade."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from largedrop.report.drawing.clouds import Cloud, clouds_figure
from largedrop.report.drawing.hull import convex_hull
from largedrop.runs.estimate import Estimate
from largedrop.runs.methods import METHODS, PLAIN

RNG = np.random.default_rng(0)
POINTS = 0.8 + 0.01 * RNG.random((1296, 2))
ONE = (Estimate(0.85, None, 1), Estimate(0.83, None, 1))
BASE = Cloud("baseline", PLAIN, 0.0, POINTS, (Estimate(0.805, 0.001, 3), Estimate(0.804, 0.002, 3)))
LARGE = Cloud("dropout $0.9$", METHODS["fine-tuning"], 0.9, POINTS + 0.02, ONE, start="baseline")
ACROSS = Cloud("ensemble of all", METHODS["ensemble-across"], 0.0, np.array([[0.85, 0.83]]), ONE)


def drawn(*clouds: Cloud, hulls: bool = True) -> Figure:
    return clouds_figure({"PACS": clouds}, title="$t", note="n", hulls=hulls)


def by_gid(figure: Figure, panel: int = 0) -> dict[str, Any]:
    return {str(each.get_gid()): each for each in figure.axes[panel].get_children() if each.get_gid()}


def faces(figure: Figure) -> list[Any]:
    return [handle.get_markerfacecolor() for handle in figure.legends[0].legend_handles]  # type: ignore[union-attr]


def test_points_hulls_means_and_arrows() -> None:
    figure = clouds_figure({"PACS": [BASE, LARGE, ACROSS], "VLCS": [BASE]}, title="$t", note="n", hulls=True)
    assert figure.get_suptitle() == "$t"
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["PACS", "VLCS"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["o.o.d. accuracy (%)", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["i.i.d. accuracy (%)"] * 2
    found = by_gid(figure)
    for cloud in (BASE, LARGE):
        points = found[f"cloud {cloud.name}"]
        assert isinstance(points, PathCollection)
        np.testing.assert_allclose(points.get_offsets(), 100 * cloud.points)  # type: ignore[arg-type]
        hull = 100 * convex_hull(cloud.points)
        np.testing.assert_allclose(found[f"hull {cloud.name}"].get_xydata(), [*hull, hull[0]])
    assert "hull ensemble of all" not in found
    containers: list[Any] = figure.axes[0].containers
    assert [each.lines[0].get_xydata().tolist() for each in containers] == [[[80.5, 80.4]], [[85, 83]], [[85, 83]]]
    np.testing.assert_allclose(containers[0].lines[2][0].get_segments(), [[[80.4, 80.4], [80.6, 80.4]]])
    np.testing.assert_allclose(containers[0].lines[2][1].get_segments(), [[[80.5, 80.2], [80.5, 80.6]]])
    assert containers[1].lines[2] == ()  # one seed has no standard error
    arrow = found["arrow baseline to dropout $0.9$"]
    np.testing.assert_allclose((arrow.xyann, arrow.xy), [(80.5, 80.4), (85, 83)])
    assert not [name for name in by_gid(figure, 1) if name.startswith("arrow")]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["baseline", "dropout $0.9$", "ensemble of all"]
    assert legend.get_title().get_text() == "n"
    assert [handle.get_marker() for handle in legend.legend_handles] == ["o", "D", "^"]  # type: ignore[union-attr]
    assert [handle.get_linestyle() for handle in legend.legend_handles] == ["-", "-", "None"]  # type: ignore[union-attr]
    assert faces(figure) == ["#0072B2", "#D55E00", "white"]


def test_rates_of_one_method_differ_in_shade_and_a_single_one_is_full() -> None:
    half = Cloud("half", METHODS["fine-tuning"], 0.5, POINTS, None)
    _, light, full = faces(drawn(BASE, half, LARGE))
    assert sum(mpl.colors.to_rgb(light)) > sum(mpl.colors.to_rgb(full)) + 0.3
    assert faces(drawn(half)) == ["#D55E00"]


def test_hulls_of_methods_differ_in_more_than_colour_and_may_be_left_out() -> None:
    clouds = [Cloud(each, METHODS[each], 0.0, POINTS, None) for each in ("swad", "ensemble", "weight-average")]
    figure = drawn(*clouds)
    assert [by_gid(figure)[f"hull {cloud.name}"].get_linestyle() for cloud in clouds] == ["-", "--", ":"]
    dashes = [handle._unscaled_dash_pattern for handle in figure.legends[0].legend_handles]  # type: ignore[union-attr]
    assert len(set(map(str, dashes))) == 3
    assert list(by_gid(drawn(*clouds, hulls=False))) == [f"cloud {cloud.name}" for cloud in clouds]


def test_a_million_points_are_thinned_but_not_their_hull() -> None:
    points = RNG.random((200_000, 2))
    found = by_gid(drawn(Cloud("many", PLAIN, 0.0, points, None)))
    assert len(found["cloud many"].get_offsets()) == 5_000
    np.testing.assert_allclose(found["hull many"].get_xydata()[:-1], 100 * convex_hull(points))
