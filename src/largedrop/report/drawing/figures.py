"""The paper's figures: paths over dropout rates, interpolations, comparisons of methods.

They take arrays and ``Estimate``s as fractions, and draw %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from ...errors import UserError
from ...runs.estimate import Estimate
from ...runs.methods import METHODS, PLAIN, Method, method_of
from .panels import columns_of, draw_line, draw_mean, label_axes, legend_below, marker_of, panels_of
from .style import GREY, IID, INK, OOD, face_of

__all__ = ["Bar", "Curve", "PathPoint", "alpha_figure", "comparison_figure", "paths_figure"]

_KINDS = {"representations": ("-", "o"), "weights": ("--", "s")}
"""Line and marker by kind of interpolation; squares are hollow."""

_CURVE_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#B0579A", "#6B6B6B", "#B8860B")


@dataclass(frozen=True)
class PathPoint:
    """A point of figure 3: a dropout rate and the centre of its cloud."""

    rate: float
    iid: Estimate
    ood: Estimate


@dataclass(frozen=True)
class Curve:
    """A fine-tuning of figure 1: accuracies over α, of α · pretrained + (1 − α) · fine-tuned.

    Attributes:
        name: name in the legend.
        alphas: values of α, ascending in [0, 1], (n,).
        ood: o.o.d. accuracy at each α, by kind of interpolation.
    """

    name: str
    alphas: Sequence[float]
    ood: Mapping[str, Sequence[Estimate]]


@dataclass(frozen=True)
class Bar:
    """A method's accuracy in figures 6 to 10, with its standard error, and the method for colour and marker."""

    name: str
    value: Estimate
    method: Method


def paths_figure(panels: Mapping[str, Sequence[PathPoint]], *, title: str) -> Figure:
    """Figure 3 (and 4, 5, 8): paths through the centres of clouds by dropout rate, with standard errors.

    Args:
        panels: points, one for each rate, by the panels' titles; all panels have the same axes.
        title: title above the panels.
    """
    figure, all_axes = panels_of(list(panels), title, width=3.2, height=3.2, shared=True)
    for axes, panel in zip(all_axes, panels.values(), strict=True):
        points = sorted(panel, key=lambda point: point.rate)
        at = 100 * np.array([(point.iid.mean, point.ood.mean) for point in points])
        axes.plot(at[:, 0], at[:, 1], color=GREY, linewidth=1.4, zorder=2, gid="path")
        for point in points:
            method = method_of(PLAIN.name, point.rate)
            draw_mean(axes, method, point.iid, point.ood, face_of(method, point.rate))
        axes.margins(0.22)
        _name_points(axes, points, at)
    label_axes(all_axes, IID, OOD)
    spread = any(point.ood.error is not None for points in panels.values() for point in points)
    plain = marker_of(PLAIN, "without dropout (0)")
    large = marker_of(METHODS[PLAIN.name], "dropout rate as written" + (", ± standard error" if spread else ""))
    legend_below(figure, [plain, large], len(panels))
    return figure


def alpha_figure(curves: Sequence[Curve], *, title: str = "") -> Figure:
    """Figure 1: o.o.d. accuracy over α, interpolated weights dashed and interpolated representations solid.

    Raises:
        UserError: no curve.
    """
    if not curves:
        raise UserError("there must be at least one curve to draw")
    longest = max(len(curve.name) for curve in curves)
    figure, (axes,) = panels_of([""], title, width=max(4.8, 1.4 + 0.15 * longest), height=3.4)
    handles = [Line2D([], [], label=what, **_curve_look(what, GREY)) for what in _KINDS]
    for curve, colour in zip(curves, cycle(_CURVE_COLOURS), strict=False):
        handles.append(Line2D([], [], label=curve.name, color=colour, linewidth=3))
        for what in _KINDS:
            look = _curve_look(what, colour)
            draw_line(axes, curve.alphas, curve.ood[what], name=f"{curve.name}: {what}", **look)
    axes.set_xticks(np.linspace(0, 1, 6))
    label_axes([axes], "α  (0: fine-tuned, 1: pretrained)", OOD)
    legend_below(figure, handles, 1)
    return figure


def comparison_figure(panels: Mapping[str, Sequence[Bar]], *, title: str) -> Figure:
    """Figures 6 to 10 as a comparison: a line for each method with its o.o.d. accuracy ± one standard error.

    Args:
        panels: bars by the panels' titles, matched by name, in the order of first occurrence.
        title: title above the panels.
    """
    bars = [bar for panel in panels.values() for bar in panel]
    lines = list(dict.fromkeys(bar.name for bar in bars))
    height, side = max(1.2, 0.27 * len(lines)) + 0.4, 0.065 * max(map(len, lines))
    figure, all_axes = panels_of(list(panels), title, width=2.5, height=height, side=side, legend=0.3)
    for index, (axes, panel) in enumerate(zip(all_axes, panels.values(), strict=True)):
        for bar in panel:
            draw_mean(axes, bar.method, bar.value, lines.index(bar.name), bar.method.colour)
        axes.set_yticks(range(len(lines)), lines if index % columns_of(axes) == 0 else [""] * len(lines))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.margins(x=0.12)
    label_axes(all_axes, OOD, "")
    counts = sorted({bar.value.n for bar in bars})
    spread = any(bar.value.error is not None for bar in bars)
    over = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    figure.supxlabel(f"mean{' ± standard error' if spread else ''} over {over}", fontsize=9, color=INK)
    return figure


def _curve_look(what: str, colour: str) -> dict[str, Any]:
    line, marker = _KINDS[what]
    face = "white" if marker == "s" else colour
    look = {"linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
    return {**look, "color": colour, "markerfacecolor": face}


def _name_points(axes: Axes, points: Sequence[PathPoint], at: npt.NDArray[np.float64]) -> None:
    """Write each rate diagonally beside its marker, on the emptiest of the four sides."""
    scale = np.maximum(1.44 * np.ptp(at, axis=0), 1e-9)
    spots = (at - at.min(0)) / scale
    # A marker has the weight of ten points of the path or of an error bar.
    shares = np.linspace(0, 1, 21)[:, None]
    path = [(1 - shares) * start + shares * end for start, end in pairwise(spots)]
    errors = [(100 * (point.iid.error or 0), 100 * (point.ood.error or 0)) / scale for point in points]
    bars = [
        spot + (2 * shares - 1) * bar * which
        for spot, bar in zip(spots, errors, strict=True)
        for which in ((1, 0), (0, 1))
    ]
    crowd = np.concatenate([spots, *path, *bars])
    weights = np.concatenate([np.full(len(spots), 10.0), np.ones(len(crowd) - len(spots))])
    for point, here, spot in zip(points, at, spots, strict=True):

        def crowding(side: tuple[int, int], spot: npt.NDArray[np.float64] = spot) -> float:
            beside = spot + (0.09, 0.06) * np.array(side)
            return float((weights / (np.square(crowd - beside).sum(1) + 1e-3)).sum())

        across, up = min(((1, 1), (-1, 1), (1, -1), (-1, -1)), key=crowding)
        axes.annotate(
            f"{point.rate:g}",
            tuple(here),
            xytext=(6 * across, 5 * up),
            textcoords="offset points",
            ha="left" if across > 0 else "right",
            va="bottom" if up > 0 else "top",
            fontsize=9,
            color=INK,
            path_effects=[Stroke(linewidth=2.5, foreground="white"), Normal()],
            zorder=6,
        )
