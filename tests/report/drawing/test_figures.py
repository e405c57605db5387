"""Figures 1, 3 and 6 to 10: what is drawn where, in %."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from largedrop.report.drawing.figures import Bar, Curve, PathPoint, alpha_figure, comparison_figure, paths_figure
from largedrop.runs.estimate import Estimate
from largedrop.runs.methods import METHODS, PLAIN


def by_gid(figure: Figure, panel: int) -> dict[str, Any]:
    axes = figure.axes[panel]
    return {str(each.get_gid()): each for each in axes.get_children() if each.get_gid()}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


STOPS = [
    PathPoint(0.9, Estimate(0.978, 0.001, 3), Estimate(0.884, 0.002, 3)),
    PathPoint(0.0, Estimate(0.975, 0.002, 3), Estimate(0.865, 0.003, 3)),
    PathPoint(0.5, Estimate(0.976, None, 1), Estimate(0.875, None, 1)),
]


def test_path_goes_through_the_rates_in_order_with_their_errors() -> None:
    figure = paths_figure({"PACS": STOPS}, title="")
    np.testing.assert_allclose(by_gid(figure, 0)["path"].get_xydata(), [[97.5, 86.5], [97.6, 87.5], [97.8, 88.4]])
    containers: list[Any] = figure.axes[0].containers
    assert [len(each.lines[2]) for each in containers] == [2, 0, 2]
    np.testing.assert_allclose(containers[0].lines[2][0].get_segments(), [[[97.3, 86.5], [97.7, 86.5]]])
    np.testing.assert_allclose(containers[0].lines[2][1].get_segments(), [[[97.5, 86.2], [97.5, 86.8]]])
    assert [each.lines[0].get_marker() for each in containers] == ["o", "D", "D"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0.5", "0.9"]
    assert legend(figure) == ["without dropout (0)", "dropout rate as written, ± standard error"]


def test_labels_of_rates_do_not_overlap_each_other() -> None:
    close = [
        PathPoint(rate, Estimate(0.9 + step, 0.001, 3), Estimate(0.8 + 0.5 * step, 0.001, 3))
        for rate, step in ((0.0, -0.02), (0.5, 0.0), (0.9, 0.002), (0.95, 0.006))
    ]
    figure = paths_figure({"PACS": close}, title="")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [1 for place, box in enumerate(boxes) for other in boxes[:place] if box.overlaps(other)]


def test_interpolation_of_weights_is_dashed_and_of_representations_solid() -> None:
    def line(*means: float, error: float | None) -> list[Estimate]:
        return [Estimate(mean, error, 3 if error else 1) for mean in means]

    mild = {"weights": line(0.4, 0.5, 0.45, error=0.01), "representations": line(0.4, 0.52, 0.45, error=0.01)}
    harsh = dict.fromkeys(mild, line(0.3, 0.45, error=None))
    curves = [Curve("mild", [0, 0.5, 1], mild), Curve("harsh", [0, 1], harsh)]
    figure = alpha_figure(curves, title="figure 1")
    found = by_gid(figure, 0)
    np.testing.assert_allclose(found["mild: weights"].get_xydata(), [[0.0, 40.0], [0.5, 50.0], [1.0, 45.0]])
    np.testing.assert_allclose(found["mild: representations"].get_xydata(), [[0.0, 40.0], [0.5, 52.0], [1.0, 45.0]])
    assert (found["harsh: weights"].get_linestyle(), found["harsh: representations"].get_linestyle()) == ("--", "-")
    assert found["mild: weights"].get_color() != found["harsh: weights"].get_color()
    assert len(figure.axes[0].collections) == 2  # the bands of the one that has errors
    assert figure.axes[0].get_xlabel() == "α  (0: fine-tuned, 1: pretrained)"
    assert figure.axes[0].get_ylabel() == "o.o.d. accuracy (%)"
    assert list(found) == [f"{name}: {kind}" for name in ("mild", "harsh") for kind in ("representations", "weights")]
    assert legend(figure) == ["representations", "weights", "mild", "harsh"]


def test_comparison_has_a_line_for_each_method_and_bars_of_one_standard_error() -> None:
    swad = METHODS["swad"]
    panels = {
        "PACS": [Bar("baseline", Estimate(0.865, 0.003, 3), PLAIN), Bar("x", Estimate(0.5, None, 1), swad)],
        "VLCS": [Bar("x", Estimate(0.6, 0.01, 3), swad)],
    }
    figure = comparison_figure(panels, title="")
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["baseline", "x"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]
    containers: list[Any] = [*first.containers, *second.containers]
    assert [each.lines[0].get_xydata().tolist() for each in containers] == [[[86.5, 0.0]], [[50.0, 1.0]], [[60.0, 1.0]]]
    np.testing.assert_allclose(containers[0].lines[2][0].get_segments(), [[[86.2, 0], [86.8, 0]]])
    assert containers[1].lines[2] == ()
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first method is at the top
    assert figure.get_supxlabel() == "mean ± standard error over 1 or 3 seeds"
