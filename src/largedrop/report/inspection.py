"""An inspection on the screen and as a figure: plain fine-tuning against dropout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console

from ..analysis.inspection import KINDS, Inspection
from ..analysis.inspection_compare import Column, Comparison
from ..analysis.richness import PROBE_SHARES
from ..errors import UserError
from ..runs.estimate import Estimate, listing, percent
from ..runs.interpolation import KINDS as INTERPOLATED
from ..runs.methods import method_of
from .drawing.figures import Curve, alpha_figure
from .drawing.panels import draw_line, legend_below, panels_of
from .drawing.style import face_of
from .text import Table, render

__all__ = ["inspection_figure", "interpolation_figure", "render_comparison"]


_SPOKEN = {"iid": "i.i.d.", "ood": "o.o.d."}

_ROWS: tuple[tuple[str, str, str], ...] = (
    ("accuracy, all units (%)", "accuracy", "%"),
    *((f"own head, random {share:.0%} of units (%)", f"head_{share:g}", "%") for share in PROBE_SHARES),
    *((f"new probe, random {share:.0%} of units (%)", f"probe_{share:g}", "%") for share in PROBE_SHARES),
    ("units removable at random (%)", "removable_random", "%"),
    ("units removable, largest first (%)", "removable_largest", "%"),
    ("effective rank", "effective_rank", "number"),
    ("participation ratio", "participation_ratio", "number"),
    ("mean |correlation| of two units", "correlation", "fraction"),
    ("distance from linearised outputs", "distance", "fraction"),
    ("accuracy of linearised network (%)", "linear_accuracy", "%"),
    ("same class as linearised network (%)", "agreement", "%"),
    ("interpolation: weights and representations apart (%)", "interpolation_gap", "%"),
)


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print a table with a row for each measure and kind of images and a column for each rate, and how to read it."""
    rows = []
    for label, name, unit in _ROWS:
        lines = [(kind, [column.estimate(f"{kind}.{name}") for column in comparison.columns]) for kind in KINDS]
        for index, (kind, cells) in enumerate(line for line in lines if any(line[1])):
            rows.append([label if index == 0 else "", _SPOKEN[kind], *(_written(cell, unit) for cell in cells)])
    heads = ["", "images", *(_rate_name(column) for column in comparison.columns)]
    render([Table(comparison.title, heads, rows, (), left=2)], console)
    for line in _notes(comparison):
        console.print(line, highlight=False, markup=False)


def inspection_figure(comparison: Comparison, *, title: str = "") -> Figure:
    """Three panels: accuracy over the share of units kept on i.i.d. and on o.o.d. images, and the o.o.d. spectrum.

    Raises:
        UserError: richness was not measured.
    """
    there = any(each.richness for column in comparison.columns for seed in column.runs for each in seed)
    if not there:
        raise UserError("there is nothing to draw: richness was not measured")
    names = ["own head, i.i.d. images", "own head, o.o.d. images", "spectrum, o.o.d. images"]
    figure, (iid, ood, spectrum) = panels_of(names, title, width=3.6, height=3.2)
    for kind, axes in (("iid", iid), ("ood", ood)):
        for column in comparison.columns:
            _draw_kept(axes, column, kind)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.xaxis.minorticks_off()
        axes.set_xlabel("units kept (%)")
    iid.set_ylabel("accuracy (%)")
    for column in comparison.columns:
        _draw_spectrum(spectrum, column)
    spectrum.set_xscale("log")
    spectrum.set_yscale("log")
    for axis in (spectrum.xaxis, spectrum.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    spectrum.set_xlabel("direction")
    spectrum.set_ylabel("singular value, of their sum (%)")
    rates = [Line2D([], [], label=_rate_name(column), **_look(column)) for column in comparison.columns]
    removed = [
        Line2D([], [], color="#555555", linestyle="-", label="removed at random"),
        Line2D([], [], color="#555555", linestyle="--", label="largest weights removed first"),
    ]
    legend_below(figure, [*rates, *removed], 3)
    return figure


def interpolation_figure(comparison: Comparison, *, title: str = "") -> Figure:
    """Figure 1 for these runs: o.o.d. accuracy of interpolated weights and of interpolated representations.

    Raises:
        UserError: there is no interpolation, or the runs of a rate have different α.
    """
    curves = []
    for column in comparison.columns:
        found = [each.interpolation for seed in column.runs for each in seed]
        alphas = sorted({each.alphas for each in found if each is not None})
        if len(alphas) > 1:
            raise UserError(
                f"the stored interpolations of {_rate_name(column)} are of different α; remove some of them"
            )
        if not alphas or None in found:
            continue
        ood = {kind: column.curve(partial(_ood, kind=kind)) for kind in INTERPOLATED}
        curves.append(Curve(_rate_name(column), alphas[0], ood))
    return alpha_figure(curves, title=title)


def _ood(each: Inspection, kind: str) -> list[float] | None:
    return None if each.interpolation is None else [pair[1] for pair in each.interpolation.of(kind)]


def _draw_kept(axes: Axes, column: Column, kind: str) -> None:
    def kept(each: Inspection) -> list[float] | None:
        return [one.mean for one in each.richness[kind].kept_random] if each.richness else None

    def smallest(each: Inspection) -> tuple[float, ...] | None:
        return each.richness[kind].kept_smallest if each.richness else None

    shares = [100 * share for share in column.runs[0][0].richness[kind].shares]
    look = _look(column)
    draw_line(axes, shares, column.curve(kept), name=f"{kind} {column.dropout:g} random", **look)
    look |= {"linestyle": "--", "marker": "none"}
    draw_line(axes, shares, column.curve(smallest), name=f"{kind} {column.dropout:g} largest first", **look)


def _draw_spectrum(axes: Axes, column: Column) -> None:
    def spectrum(each: Inspection) -> list[float] | None:
        values = each.richness["ood"].singular_values if each.richness else ()
        total = sum(values)
        return [value / total for value in values] or None

    found = column.curve(spectrum)
    # The last ones are 0 up to rounding: the mean has been taken away.
    shown = [each for each in found if each.mean > 1e-6 * found[0].mean]
    look = {**_look(column), "marker": "none"}
    draw_line(axes, range(1, len(shown) + 1), shown, name=f"spectrum {column.dropout:g}", band=False, **look)


def _look(column: Column) -> dict[str, Any]:
    """The colour and marker of a rate, as in the other figures: dropout is the fuller the larger it is."""
    method = method_of("fine-tuning", column.dropout)
    look = {"marker": method.marker, "markersize": 4.5, "linewidth": 1.6}
    return {"color": face_of(method, column.dropout), **look}


def _rate_name(column: Column) -> str:
    return "plain" if column.dropout == 0 else f"dropout {column.dropout:g}"


def _written(cell: Estimate | None, unit: str) -> str:
    if cell is None:
        return "–"
    if unit == "%":
        return percent(cell)
    digits = 1 if unit == "number" else 3
    error = "–" if cell.error is None else f"{cell.error:.{digits}f}"
    return f"{cell.mean:.{digits}f} ± {error}"


def _notes(comparison: Comparison) -> list[str]:
    counts = [f"{_rate_name(column)}: n = {len(column.seeds)}" for column in comparison.columns]
    lines = [
        f"Mean ± standard error over seeds ({'; '.join(counts)}), averaged over the test domains "
        f"{listing(comparison.domains)}."
        if len(comparison.domains) > 1
        else f"Mean ± standard error over seeds ({'; '.join(counts)}); test domain {comparison.domains[0]}."
    ]
    runs: Sequence[Inspection] = [each for column in comparison.columns for seed in column.runs for each in seed]
    sizes = sorted({rich.images for each in runs for rich in each.richness.values()})
    if sizes:
        units = " or ".join(str(unit) for unit in sorted({each.richness["iid"].units for each in runs}))
        lines.append(
            f"Representation of {units} units, on {' or '.join(map(str, sizes))} images, "
            "which bounds the rank. Removable: until accuracy has fallen by one point."
        )
    starts = sorted({each.interpolation.which for each in runs if each.interpolation})
    if starts:
        lines.append(f"The interpolations begin at the {listing(starts)} checkpoint.")
    for column in comparison.columns:
        cells = [f"{domain}, seed {seed}" for domain, seed in column.missing]
        if cells:
            lines.append(f"Missing of {_rate_name(column)}, whose seeds are left out: {'; '.join(cells)}.")
    lines += [note for each in runs for note in each.notes]
    return lines
