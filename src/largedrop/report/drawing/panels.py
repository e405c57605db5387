"""The frame that the paper's figures share: panels in rows, labelled axes, and one legend below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...runs.methods import Method
from .style import GREY, edge_of

__all__ = ["columns_of", "label_axes", "legend_below", "marker_of", "panels_of", "share_axes"]


_COLUMNS = 5


def panels_of(
    titles: Sequence[str],
    title: str,
    *,
    width: float,
    height: float,
    side: float = 0.4,
    legend: float = 0.7,
) -> tuple[Figure, list[Axes]]:
    """A figure with an axes for each title, at most five in a row.

    Args:
        titles: of the panels, at least one.
        title: of the figure; no mark-up is read in it, nor in those of the panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
        side: for what is written on the left of the first column, in inches.
        legend: for what is written below the panels, in inches.
    """
    columns = columns_of(len(titles))
    rows = math.ceil(len(titles) / columns)
    size = (max(width * columns + side, 6.0), height * rows + legend + (0.4 if title else 0.1))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left", parse_math=False)
    made = []
    for number, name in enumerate(titles, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(name, fontsize=10.5, loc="left", parse_math=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 4, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(labelsize=9, color=GREY)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        for edge in ("top", "right"):
            axes.spines[edge].set_visible(False)
        for edge in ("left", "bottom"):
            axes.spines[edge].set_color(GREY)
        made.append(axes)
    return figure, made


def columns_of(count: int) -> int:
    """Panels in a row: as even as can be."""
    return count if count <= _COLUMNS else math.ceil(count / math.ceil(count / _COLUMNS))


def label_axes(all_axes: Sequence[Axes], across: str, up: str) -> None:
    """Label the outer axes only."""
    columns = columns_of(len(all_axes))
    for index, axes in enumerate(all_axes):
        if index % columns == 0:
            axes.set_ylabel(up, parse_math=False)
        if index + columns >= len(all_axes):
            axes.set_xlabel(across, parse_math=False)


def marker_of(method: Method, name: str, kind: str = "marker") -> Line2D:
    """A legend's entry for a method: its ``marker``, that of a ``single`` point, or with the line of its ``hull``."""
    edge = edge_of(method)
    look: dict[str, Any] = {
        "marker": method.marker,
        "markersize": 12 if method.marker == "*" else 7.5,
        "markerfacecolor": "white" if kind == "single" else method.colour,
        "markeredgecolor": edge,
        "color": edge,
        "linewidth": 1.2,
        "linestyle": method.line if kind == "hull" else "none",
    }
    return Line2D([], [], label=name, **look)


def share_axes(all_axes: Sequence[Axes]) -> None:
    """Give all panels the limits that hold what is in any of them."""
    for limits, setter in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        ends = [getattr(axes, limits)() for axes in all_axes]
        for axes in all_axes:
            getattr(axes, setter)(min(low for low, _ in ends), max(high for _, high in ends))


def legend_below(figure: Figure, handles: Iterable[Line2D], panels: int) -> None:
    """The legend of all panels, below them; no mark-up is read in it."""
    handles = list(handles)
    wide, high = figure.get_size_inches()
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    fitting = max(1, int(wide / (0.066 * longest + 0.62)))  # in inches, at 9 points
    across = min(len(handles), 2 if panels < 2 else 4 if panels == 2 else 6, fitting)
    more = max(0, -(-len(handles) // max(1, across)) - 2)
    figure.set_size_inches(wide, high + 0.17 * more)  # the panels keep their height
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=across, frameon=False, fontsize=9, handlelength=3
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
