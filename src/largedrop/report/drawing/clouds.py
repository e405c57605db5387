"""Clouds of points, o.o.d. over i.i.d. accuracy, with hulls and means (figures 2, 6, 7 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from ...runs.estimate import Estimate
from ...runs.methods import Method
from .hull import convex_hull
from .panels import draw_mean, label_axes, legend_below, marker_of, panels_of
from .style import IID, OOD, edge_of, face_of, mixed

__all__ = ["Cloud", "clouds_figure"]

_MOST_DRAWN = 5_000
"""Largest number of points of a cloud that are drawn; the hull is of all points."""

_FEW = 50
"""Clouds of at most so many points have larger points."""


@dataclass(frozen=True)
class Cloud:
    """A cloud of figure 2.

    Attributes:
        name: name in the legend.
        method: method, for colour, marker and outline.
        dropout: dropout rate; where a method has several, larger rates have fuller colours.
        points: i.i.d. and o.o.d. accuracy as fractions, (n, 2), from ``combinations``.
        mean: mean (i.i.d., o.o.d.) accuracy, drawn large with standard errors; None where unknown.
        start: name of a cloud of the same panel, from whose mean an arrow leads to this cloud's.
    """

    name: str
    method: Method
    dropout: float
    points: npt.NDArray[np.float64]
    mean: tuple[Estimate, Estimate] | None
    start: str | None = None


def clouds_figure(
    panels: Mapping[str, Sequence[Cloud]],
    *,
    title: str,
    note: str,
    hulls: bool = False,
    shared: bool = False,
    columns: int = 5,
) -> Figure:
    """Figure 2 (and 6, 7, 9): a panel for each dataset or test domain, a cloud and its mean for each method.

    Args:
        panels: clouds by the panels' titles.
        title: title above the panels.
        note: explanation of the points, above the legend.
        hulls: whether clouds have outlines.
        shared: whether all panels have the same axes.
        columns: largest number of panels in a row.
    """
    clouds = {cloud.name: cloud for panel in panels.values() for cloud in reversed(panel)}
    rates: dict[Method, set[float]] = {}
    for cloud in clouds.values():
        rates.setdefault(cloud.method, set()).add(cloud.dropout)

    def face(cloud: Cloud) -> str:
        if cloud.method.across:
            return "white"
        return face_of(cloud.method, cloud.dropout) if len(rates[cloud.method]) > 1 else cloud.method.colour

    figure, all_axes = panels_of(list(panels), title, width=3.2, height=3.2, most=columns, shared=shared)
    for axes, panel in zip(all_axes, panels.values(), strict=True):
        means = {cloud.name: cloud.mean for cloud in panel}
        for cloud in panel:
            _draw_points(axes, cloud, face(cloud), hulls)
            if cloud.mean:
                draw_mean(axes, cloud.method, *cloud.mean, face(cloud))
            start = means.get(cloud.start or "")
            if start and cloud.mean:
                _draw_arrow(axes, start, cloud, cloud.mean)
        axes.margins(0.1)
    label_axes(all_axes, IID, OOD)
    order = dict.fromkeys(cloud.name for panel in panels.values() for cloud in panel)
    handles = [
        marker_of(clouds[name].method, name, face(clouds[name]), line=hulls and len(clouds[name].points) > 1)
        for name in order
    ]
    legend_below(figure, handles, len(panels), note)
    return figure


def _draw_points(axes: Axes, cloud: Cloud, face: str, hull: bool) -> None:
    edge = edge_of(cloud.method)
    points = 100 * np.asarray(cloud.points, dtype=np.float64)
    if hull and len(points) > 1:
        corners = convex_hull(points)
        closed = np.concatenate([corners, corners[:1]])
        axes.fill(closed[:, 0], closed[:, 1], color=face, alpha=0.16, linewidth=0, zorder=1)
        axes.plot(*closed.T, color=edge, linewidth=1.2, linestyle=cloud.method.line, gid=f"hull {cloud.name}", zorder=2)
    # Evenly spaced in the order of the combinations, so that the drawn points are not random.
    some = points[np.linspace(0, len(points) - 1, min(len(points), _MOST_DRAWN)).astype(np.int64)]
    few = len(points) <= _FEW
    axes.scatter(
        some[:, 0],
        some[:, 1],
        s=(14 if few else 8) * (1.8 if cloud.method.marker == "*" else 1),
        marker=cloud.method.marker,
        color=mixed(face, edge, 0.25),
        alpha=0.6 if few else 0.35,
        linewidths=0,
        gid=f"cloud {cloud.name}",
        rasterized=len(some) > 300,
        zorder=2,
    )


def _draw_arrow(axes: Axes, start: tuple[Estimate, Estimate], cloud: Cloud, end: tuple[Estimate, Estimate]) -> None:
    arrow = axes.annotate(
        "",
        xy=(100 * end[0].mean, 100 * end[1].mean),
        xytext=(100 * start[0].mean, 100 * start[1].mean),
        arrowprops={
            "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
            "color": mixed(cloud.method.colour, "black", 0.55),
            "linewidth": 1.5,
            "shrinkA": 0,
            "shrinkB": 4,
            "path_effects": [Stroke(linewidth=3.2, foreground="white"), Normal()],
        },
        zorder=2.5,  # below the means, which hide what is too short
    )
    for part in filter(None, (arrow, arrow.arrow_patch)):
        part.set_gid(f"arrow {cloud.start} to {cloud.name}")
