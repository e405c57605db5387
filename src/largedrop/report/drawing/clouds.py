"""Clouds of settings with their hulls (figures 2, 6, 7 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from ...runs.methods import Method
from .hull import convex_hull
from .panels import label_axes, legend_below, marker_of, panels_of, share_axes
from .style import IID, OOD, edge_of, mixed

__all__ = ["Cloud", "CloudPanel", "clouds_figure"]


_MOST_DRAWN = 5_000
"""Points of a cloud that are drawn; its hull and its centre are those of all of them."""


@dataclass(frozen=True)
class Cloud:
    """A cloud of figure 2.

    Attributes:
        name: stands in the legend.
        points: (n, 2), i.i.d. and o.o.d. accuracy as fractions, as ``combinations`` gives them; one is a hollow marker.
        method: gives colour, marker and outline.
    """

    name: str
    points: npt.NDArray[np.float64]
    method: Method


@dataclass(frozen=True)
class CloudPanel:
    """A dataset of figure 2, with arrows (from, to) between the centres of clouds of these names."""

    title: str
    clouds: Sequence[Cloud]
    arrows: Sequence[tuple[str, str]] = ()


def clouds_figure(panels: Sequence[CloudPanel], *, title: str = "", shared: bool = False) -> Figure:
    """Figure 2 (and 6, 7, 9): a panel for each dataset, a cloud with its hull for each method.

    ``shared`` gives all panels the same axes, as those of one dataset should have.

    No cloud is empty, and arrows go between clouds that are there.
    """
    figure, all_axes = panels_of([panel.title for panel in panels], title, width=3.2, height=3.2)
    for axes, panel in zip(all_axes, panels, strict=True):
        centres = {cloud.name: 100 * cloud.points.mean(0) for cloud in panel.clouds}
        methods = {cloud.name: cloud.method for cloud in panel.clouds}
        for cloud in panel.clouds:
            _draw_cloud(axes, cloud)
        for start, end in panel.arrows:
            _draw_arrow(axes, start, end, centres, methods[end])
        axes.margins(0.1)
    if shared:
        share_axes(all_axes)
    label_axes(all_axes, IID, OOD)
    first = {cloud.name: cloud for panel in panels for cloud in reversed(panel.clouds)}
    order = dict.fromkeys(cloud.name for panel in panels for cloud in panel.clouds)
    handles = [
        marker_of(first[name].method, name, "single" if len(first[name].points) == 1 else "hull") for name in order
    ]
    legend_below(figure, handles, len(panels))
    return figure


def _draw_cloud(axes: Axes, cloud: Cloud) -> None:
    marker, colour, edge = cloud.method.marker, cloud.method.colour, edge_of(cloud.method)
    points = 100 * np.asarray(cloud.points, dtype=np.float64)
    if len(points) > 1:
        hull = convex_hull(points)
        closed = np.concatenate([hull, hull[:1]])
        axes.fill(closed[:, 0], closed[:, 1], color=colour, alpha=0.16, linewidth=0, zorder=1)
        axes.plot(*closed.T, color=edge, linewidth=1.2, linestyle=cloud.method.line, gid=f"hull {cloud.name}", zorder=2)
    # Evenly spaced in the order of the combinations; which are drawn does not depend on chance.
    some = points[np.linspace(0, len(points) - 1, min(len(points), _MOST_DRAWN)).astype(np.int64)]
    small = len(points) > 1
    axes.scatter(
        some[:, 0],
        some[:, 1],
        s=(14 if marker == "*" else 8) if small else 120 if marker == "*" else 70,
        marker=marker,
        color=colour if small else "white",
        edgecolors="none" if small else edge,
        alpha=0.35 if small else 1.0,
        linewidths=0 if small else 1.5,
        gid=f"cloud {cloud.name}",
        rasterized=len(some) > 300,
        zorder=2 if small else 4,
    )


def _draw_arrow(axes: Axes, start: str, end: str, centres: dict[str, npt.NDArray[np.float64]], method: Method) -> None:
    dark = mixed(method.colour, "black", 0.55)
    arrow = axes.annotate(
        "",
        xy=tuple(centres[end]),
        xytext=tuple(centres[start]),
        arrowprops={
            "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
            "color": dark,
            "linewidth": 1.5,
            "shrinkA": 0,
            "shrinkB": 0,
            "path_effects": [Stroke(linewidth=3.2, foreground="white"), Normal()],
        },
        zorder=5,
    )
    for part in filter(None, (arrow, arrow.arrow_patch)):
        part.set_gid(f"arrow {start} to {end}")
