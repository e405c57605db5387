"""The curves of risk over coverage, in %."""

from __future__ import annotations

import numpy as np

from largedrop.measures.coverage import Coverage
from largedrop.report.drawing.coverage import coverage_figure

CURVE = Coverage((0.5, 1.0), (0.1, 0.25), 0.175)
OTHER = Coverage((0.5, 1.0), (0.2, 0.3), 0.25)


def test_a_curve_for_each_model_and_a_panel_for_each_domain() -> None:
    figure = coverage_figure({"A": {"day": CURVE, "night": OTHER}, "B": {"day": OTHER, "night": CURVE}})
    day, night = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["day", "night"]
    np.testing.assert_allclose(np.asarray(day.lines[0].get_xydata(), float), [[50, 10], [100, 25]])
    np.testing.assert_allclose(np.asarray(night.lines[0].get_xydata(), float), [[50, 20], [100, 30]])
    assert day.lines[0].get_color() == night.lines[0].get_color() != day.lines[2].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]
    assert not coverage_figure({"A": {"day": CURVE}}).legends
