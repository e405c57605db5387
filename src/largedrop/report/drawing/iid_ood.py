"""The figure of a comparison: o.o.d. accuracy over i.i.d. accuracy, as in the paper's figure 2."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...errors import UserError
from ...runs.methods import method_of
from ...runs.record import Record
from ...selection.selection import Row, summarise
from .style import edge_of, face_of, mixed

__all__ = ["cloud", "iid_ood_figure"]


_MOST_POINTS = 1296
"""Points of a cloud: what the paper draws, 6 settings on each of 4 test domains."""

_COLUMNS = 3


def iid_ood_figure(records: Iterable[Record], *, title: str) -> Figure:
    """Draw o.o.d. accuracy over i.i.d. accuracy, a panel for each test domain and, of several, one for their average.

    Small markers are runs; in the panel of the average, each is the mean of one run for each test domain (``cloud``).
    Large markers are the means of ``summarise``, with bars of one standard error where there are several seeds.

    Args:
        records: as ``summarise`` takes them.
        title: stands above the panels; no mark-up is read in it.

    Raises:
        UserError: there are no records, or two of one method, dropout rate, test domain and seed.
    """
    records = list(records)
    if not records:
        raise UserError("there is nothing to draw: no run gave a record")
    rows = summarise(records)
    domains = rows[0].test_domains
    panels: list[Sequence[str]] = [[domain] for domain in domains]
    if len(domains) > 1:
        panels.insert(0, domains)
    columns = min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(3.2 * columns + 0.4, 6.2), 3.2 * lines + 1.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left", parse_math=False)
    for position, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, position + 1)
        _draw(axes, panel, rows, records)
        if position % columns == 0:
            axes.set_ylabel("o.o.d. accuracy (%)")
        if position + columns >= len(panels):
            axes.set_xlabel("i.i.d. accuracy (%)")
    figure.legend(
        handles=[_handle(row) for row in rows],
        title=_reading(rows, several=len(domains) > 1),
        loc="outside lower center",
        ncols=min(len(rows), 2 if columns == 1 else 3),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )
    return figure


def cloud(records: Sequence[Record], domains: Sequence[str]) -> npt.NDArray[np.float64]:
    """I.i.d. and o.o.d. accuracy for every choice of one record for each of ``domains``, averaged over the domains.

    Args:
        records: of one method at one dropout rate.
        domains: the test domains to average over.

    Returns:
        (points, 2); none where a domain has no record. Beyond 1,296 choices, so many draws of one, always the same.
    """
    choices = [
        [(record.iid_accuracy, record.ood_accuracy) for record in records if record.test_domain == domain]
        for domain in domains
    ]
    counts = [len(choice) for choice in choices]
    if min(counts) == 0:
        return np.empty((0, 2))
    if math.prod(counts) <= _MOST_POINTS:
        return np.array([np.mean(picked, axis=0) for picked in itertools.product(*choices)])
    rng = np.random.Generator(np.random.Philox(key=0))
    drawn = [np.array(choice)[rng.integers(len(choice), size=_MOST_POINTS)] for choice in choices]
    return np.asarray(np.mean(drawn, axis=0), dtype=np.float64)


def _draw(axes: Axes, panel: Sequence[str], rows: Sequence[Row], records: Sequence[Record]) -> None:
    """One panel: the average over the test domains ``panel``, or the only one."""
    alone = len(panel) == 1
    axes.set_title(
        panel[0] if alone else f"average of {len(panel)} test domains", fontsize=10.5, loc="left", parse_math=False
    )
    for row in rows:
        of_row = [record for record in records if (record.method, record.dropout) == (row.method, row.dropout)]
        points = 100 * cloud(of_row, panel)
        marker, face, edge = _look(row)
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=26 if marker == "*" else 14,
            marker=marker,
            color=mixed(face, edge, 0.25),
            alpha=0.6 if len(points) <= 50 else 0.25,
            linewidths=0,
            gid=f"cloud {_name(row)}",
            zorder=2,
        )
        _draw_mean(axes, row.domains[panel[0]] if alone else row, marker, face, edge, _name(row))
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 4, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=9, color="#999999")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")


def _draw_mean(axes: Axes, score: Row, marker: str, face: str, edge: str, name: str) -> None:
    if score.iid is None or score.ood is None:
        return
    axes.errorbar(
        100 * score.iid.mean,
        100 * score.ood.mean,
        xerr=None if score.iid.error is None else 100 * score.iid.error,
        yerr=None if score.ood.error is None else 100 * score.ood.error,
        fmt=marker,
        markersize=_size(marker),
        markerfacecolor=face,
        markeredgecolor=edge,
        ecolor=edge,
        elinewidth=1.1,
        capsize=2.5,
        label=name,
        zorder=3,
    )


def _handle(row: Row) -> Line2D:
    marker, face, edge = _look(row)
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markersize=_size(marker),
        markerfacecolor=face,
        markeredgecolor=edge,
        label=_name(row) + ("" if row.complete else " (incomplete)"),
    )


def _reading(rows: Sequence[Row], several: bool) -> str:
    """How to read the markers, in a line."""
    spread = any(row.ood and row.ood.error is not None for row in rows)
    large = "large: mean over seeds ± standard error" if spread else "large: mean"
    small = "small: every choice of one run a test domain, or single runs" if several else "small: single runs"
    return f"{large}  ·  {small}"


def _name(row: Row) -> str:
    return "plain fine-tuning" if row.baseline else f"{row.method}, dropout {row.dropout:g}"


def _size(marker: str) -> float:
    return 13.0 if marker == "*" else 8.0


def _look(row: Row) -> tuple[str, str, str]:
    """Marker, face and edge colour of a row: the method gives the colour, the dropout rate how full it is."""
    method = method_of(row.method, row.dropout)
    return method.marker, face_of(method, row.dropout), edge_of(method)
