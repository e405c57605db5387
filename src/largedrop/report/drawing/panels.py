"""The frame that the paper's figures share: panels in rows, labelled axes, and one legend below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...runs.estimate import Estimate
from ...runs.methods import Method
from .style import GREY, edge_of

__all__ = ["columns_of", "draw_line", "draw_mean", "label_axes", "legend_below", "marker_of", "panels_of"]


def panels_of(
    titles: Sequence[str],
    title: str,
    *,
    width: float,
    height: float,
    side: float = 0.4,
    legend: float = 0.7,
    most: int = 5,
    shared: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with an axes for each title.

    Args:
        titles: titles of the panels, at least one, without mark-up.
        title: title of the figure, without mark-up.
        width: width of a panel, in inches.
        height: height of a panel, in inches.
        side: width of the labels left of the first column, in inches.
        legend: height of the labels and legend below the panels, in inches.
        most: largest number of panels in a row.
        shared: whether all panels have the same axes.
    """
    columns = math.ceil(len(titles) / math.ceil(len(titles) / most))  # as even as possible
    rows = math.ceil(len(titles) / columns)
    size = (max(width * columns + side, 6.0), height * rows + legend + (0.4 if title else 0.1))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left", parse_math=False)
    made: list[Axes] = []
    letters = int(14 * size[0] / columns)  # of a panel's title, so that it is not wider than the panel
    for index, name in enumerate(titles, 1):
        first = made[0] if shared and made else None
        axes = figure.add_subplot(rows, columns, index, sharex=first, sharey=first)
        shown = name if len(name) <= letters else f"{name[: letters - 1]}…"
        axes.set_title(shown, fontsize=10.5, loc="left", parse_math=False)
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


def label_axes(all_axes: Sequence[Axes], across: str, up: str) -> None:
    """Label the outer axes only."""
    columns = columns_of(all_axes[0])
    for axes in all_axes[::columns]:
        axes.set_ylabel(up, parse_math=False)
    for axes in all_axes[-columns:]:
        axes.set_xlabel(across, parse_math=False)


def columns_of(axes: Axes) -> int:
    """Number of panels in a row of the figure of ``axes``."""
    spec = axes.get_subplotspec()
    return 1 if spec is None else spec.get_gridspec().ncols


def marker_of(method: Method, name: str, face: str | None = None, *, line: bool = False) -> Line2D:
    """The legend's entry of a method, its marker filled with ``face``, and its hull's line where ``line``."""
    edge = edge_of(method)
    look: dict[str, Any] = {
        "marker": method.marker,
        "markersize": 12 if method.marker == "*" else 7.5,
        "markerfacecolor": face or method.colour,
        "markeredgecolor": edge,
        "color": edge,
        "linewidth": 1.2,
        "linestyle": method.line if line else "none",
    }
    return Line2D([], [], label=name, **look)


def draw_mean(axes: Axes, method: Method, across: Estimate, up: Estimate | float, face: str) -> None:
    """Draw a method's mean in %, with bars of one standard error; ``up`` may be a plain position."""
    edge = edge_of(method)
    axes.errorbar(
        100 * across.mean,
        100 * up.mean if isinstance(up, Estimate) else up,
        xerr=_percent(across.error),
        yerr=_percent(up.error) if isinstance(up, Estimate) else None,
        fmt=method.marker,
        markersize=11.5 if method.marker == "*" else 7,
        markerfacecolor=face,
        markeredgecolor=edge,
        ecolor=edge,
        elinewidth=1.2,
        capsize=2.5,
        zorder=3,
    )


def draw_line(
    axes: Axes, at: Sequence[float], up: Sequence[Estimate], *, name: str, color: str, band: bool = True, **look: Any
) -> None:
    """Draw a line through estimates, (n,), in %, with a band of one standard error where all have one."""
    mean = 100 * np.array([each.mean for each in up])
    axes.plot(at, mean, color=color, gid=name, zorder=3, **look)
    if band and all(each.error is not None for each in up):
        error = 100 * np.array([each.error for each in up])
        axes.fill_between(at, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)


def legend_below(figure: Figure, handles: Iterable[Line2D], panels: int, note: str = "") -> None:
    """Draw the legend of all panels, without mark-up, below them and a ``note``."""
    handles = list(handles)
    wide, high = figure.get_size_inches()
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    fitting = max(1, int(wide / (0.066 * longest + 0.62)))  # in inches, at 9 points
    across = min(len(handles), 2 if panels < 2 else 4 if panels == 2 else 6, fitting)
    more = max(0, -(-len(handles) // max(1, across)) - 2) + bool(note)
    figure.set_size_inches(wide, high + 0.17 * more)  # the panels keep their height
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 3, "title_fontsize": 9}
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=across, title=note or None, **look)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _percent(error: float | None) -> float | None:
    return None if error is None else 100 * error
