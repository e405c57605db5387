"""The figure of a comparison: o.o.d. accuracy over i.i.d. accuracy, as in the paper's figure 2."""

from __future__ import annotations

import io
import itertools
import math
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..errors import UserError
from ..files import write_bytes
from .records import Record, Row, Score, summarise

__all__ = ["cloud", "iid_ood_figure", "png_bytes", "save_figure"]

_MOST_POINTS = 1296
"""Points of a cloud: what the paper draws, 6 settings on each of 4 test domains."""

_DPI = 150
_COLUMNS = 3

# Okabe and Ito's colours, which the common kinds of colour blindness keep apart; the markers are the paper's.
_STYLES = {
    "plain": ("o", "#0072B2"),
    "dropout": ("D", "#D55E00"),
    "ensemble": ("^", "#009E73"),
    "weight-average": ("*", "#B0579A"),
    "linear-probe": ("s", "#6B6B6B"),
    "linear-fine-tuning": ("p", "#8C564B"),
    "swad": ("X", "#5B5EA6"),
    "greedy-soup": ("P", "#B8860B"),
}
_OTHER_STYLE = ("P", "#B8860B")

_saving = threading.Lock()


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
    domains = list(rows[0].domains)
    panels: list[list[str]] = [[domain] for domain in domains]
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


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG at 150 dots an inch; the same bytes for the same figure."""
    return _rendered(figure, "png")


def save_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write the figure beside each other as PNG (150 dots an inch) and SVG, with the same bytes each time.

    Args:
        figure: what ``iid_ood_figure`` drew.
        path: where to, with or without ``.png`` or ``.svg`` at its end.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        UserError: a file cannot be written.
    """
    path = Path(path)
    stem = path.stem if path.suffix.lower() in (".png", ".svg") else path.name
    paths = path.with_name(f"{stem}.png"), path.with_name(f"{stem}.svg")
    for target in paths:
        write_bytes(target, _rendered(figure, target.suffix[1:]))
    return paths


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    # The salt of an SVG's identifiers is to be had from matplotlib's global settings only, so one figure at a time.
    with _saving, mpl.rc_context({"svg.hashsalt": "largedrop", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


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
            color=_mixed(face, edge, 0.25),
            alpha=0.6 if len(points) <= 50 else 0.25,
            linewidths=0,
            gid=f"cloud {_name(row)}",
            zorder=2,
        )
        _draw_mean(axes, row.domains[panel[0]] if alone else row.overall, marker, face, edge, _name(row))
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


def _draw_mean(axes: Axes, score: Score, marker: str, face: str, edge: str, name: str) -> None:
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
    spread = any(row.overall.ood and row.overall.ood.error is not None for row in rows)
    large = "large: mean over seeds ± standard error" if spread else "large: mean"
    small = "small: every choice of one run a test domain, or single runs" if several else "small: single runs"
    return f"{large}  ·  {small}"


def _name(row: Row) -> str:
    return "plain fine-tuning" if row.baseline else f"{row.method}, dropout {row.dropout:g}"


def _size(marker: str) -> float:
    return 13.0 if marker == "*" else 8.0


def _look(row: Row) -> tuple[str, str, str]:
    """Marker, face and edge colour of a row: the family gives the colour, the dropout rate how full it is."""
    family = row.method if row.method != "fine-tuning" else "plain" if row.baseline else "dropout"
    marker, colour = _STYLES.get(family, _OTHER_STYLE)
    # Plain fine-tuning has one rate, so nothing to tell apart.
    face = colour if family == "plain" else _mixed(colour, "white", 0.65 * (1 - row.dropout))
    return marker, face, _mixed(colour, "black", 0.35)


def _mixed(colour: str, other: str, share: float) -> str:
    mixture = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return to_hex((float(mixture[0]), float(mixture[1]), float(mixture[2])))
