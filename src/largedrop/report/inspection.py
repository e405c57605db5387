"""The output of an inspection: a table on the terminal, and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from rich.console import Console

from ..analysis.inspection import PARTS, Inspection
from ..analysis.inspection_compare import Rate, RateComparison
from ..analysis.richness import PROBE_SHARES, SHARES
from ..config import RIVALS
from ..errors import UserError, visible
from ..runs.estimate import Estimate, listing, percent
from ..runs.interpolation import INTERPOLATED
from ..runs.methods import method_of
from ..runs.run import never_beat
from .drawing.figures import Curve, alpha_figure
from .drawing.panels import draw_line, legend_below, panels_of
from .drawing.style import face_of
from .text import Table, render

__all__ = ["inspection_figure", "interpolation_figure", "render_comparison"]

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


def render_comparison(comparison: RateComparison, console: Console) -> None:
    """Print a table, a row for each measure and part of the split, a column for each rate, and notes on its numbers."""
    rows = []
    for label, name, unit in _ROWS:
        lines = {said: [rate.estimate(f"{part}.{name}") for rate in comparison.rates] for part, said in PARTS.items()}
        there = {said: cells for said, cells in lines.items() if any(cells)}
        for heading, (said, cells) in zip((label, ""), there.items(), strict=False):
            rows.append([heading, said, *(_written(cell, unit) for cell in cells)])
    heads = ["", "images", *map(_rate_name, comparison.rates)]
    render([Table(comparison.title, heads, rows, (), left=2)], console)
    for line in _notes(comparison):
        console.print(visible(line), highlight=False, markup=False)


def inspection_figure(comparison: RateComparison, *, title: str) -> Figure:
    """Three panels: accuracy over the share of units kept on i.i.d. and on o.o.d. images, and the o.o.d. spectrum.

    Args:
        comparison: comparison with richness.
        title: title of the figure.
    """
    names = [*(f"own head, {said} images" for said in PARTS.values()), "spectrum, o.o.d. images"]
    figure, panels = panels_of(names, title, width=3.6, height=3.2)
    for part, axes in zip(PARTS, panels[:2], strict=True):
        for rate in comparison.rates:
            _draw_kept(axes, rate, part)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("units kept (%)")
    panels[0].set_ylabel("accuracy (%)")
    spectrum = panels[2]
    for rate in comparison.rates:
        _draw_spectrum(spectrum, rate)
    spectrum.set_xscale("log")
    spectrum.set_yscale("log")
    for axis in (spectrum.xaxis, spectrum.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    spectrum.set_xlabel("direction")
    spectrum.set_ylabel("singular value, of their sum (%)")
    rates = [Line2D([], [], label=_rate_name(rate), **_look(rate)) for rate in comparison.rates]
    removed = [
        Line2D([], [], color="#555555", linestyle="-", label="removed at random"),
        Line2D([], [], color="#555555", linestyle="--", label="largest weights removed first"),
    ]
    legend_below(figure, [*rates, *removed], 3)
    return figure


def interpolation_figure(comparison: RateComparison, *, title: str) -> Figure:
    """Figure 1 for these runs: o.o.d. accuracy of interpolated weights and of interpolated representations.

    Args:
        comparison: comparison whose inspections all have an interpolation.
        title: title of the figure.

    Raises:
        UserError: the runs of a rate have different α.
    """
    curves = []
    for rate in comparison.rates:
        alphas, *others = {each.interpolation.alphas for seed in rate.runs for each in seed if each.interpolation}
        if others:
            raise UserError(f"the stored interpolations of {_rate_name(rate)} have different α; remove some")
        ood = {kind: rate.curve(partial(_ood, kind=kind)) for kind in INTERPOLATED}
        curves.append(Curve(_rate_name(rate), alphas, ood))
    return alpha_figure(curves, title=title)


def _ood(each: Inspection, kind: str) -> list[float]:
    return [ood for _, ood in each.interpolation.of(kind)] if each.interpolation else []


def _draw_kept(axes: Axes, rate: Rate, part: str) -> None:
    shares = [100 * share for share in SHARES]
    random = rate.curve(lambda each: [one.mean for one in each.richness[part].kept_random])
    smallest = rate.curve(lambda each: each.richness[part].kept_smallest)
    draw_line(axes, shares, random, name=f"{part} {rate.dropout:g} random", **_look(rate))
    look = {**_look(rate), "linestyle": "--", "marker": "none"}
    draw_line(axes, shares, smallest, name=f"{part} {rate.dropout:g} largest first", **look)


def _draw_spectrum(axes: Axes, rate: Rate) -> None:
    found = rate.curve(lambda each: _shares(each.richness["ood"].singular_values))
    # The last values are 0 up to rounding, since the mean was subtracted.
    shown = [each for each in found if each.mean > 1e-6 * found[0].mean]
    look = {**_look(rate), "marker": "none"}
    draw_line(axes, range(1, len(shown) + 1), shown, name=f"spectrum {rate.dropout:g}", band=False, **look)


def _shares(values: Sequence[float]) -> list[float]:
    """The values over their sum."""
    total = sum(values) or 1.0
    return [value / total for value in values]


def _look(rate: Rate) -> dict[str, Any]:
    """Colour and marker of a rate, as in the other figures: the larger the rate, the fuller the colour."""
    method = method_of("fine-tuning", rate.dropout)
    look = {"marker": method.marker, "markersize": 4.5, "linewidth": 1.6}
    return {"color": face_of(method, rate.dropout), **look}


def _rate_name(rate: Rate) -> str:
    config = rate.runs[0][0].run.config
    plain = rate.dropout == 0 and all(getattr(config, name) == usual for name, usual in RIVALS.items())
    return "plain" if plain else f"dropout {rate.dropout:g}"


def _written(cell: Estimate | None, unit: str) -> str:
    if cell is None or unit == "%":
        return percent(cell)
    digits = 1 if unit == "number" else 3
    error = "–" if cell.error is None else f"{cell.error:.{digits}f}"
    return f"{cell.mean:.{digits}f} ± {error}"


def _notes(comparison: RateComparison) -> list[str]:
    counts = "; ".join(f"{_rate_name(rate)}: n = {len(rate.seeds)}" for rate in comparison.rates)
    domains = comparison.domains
    over = f", averaged over the test domains {listing(domains)}" if len(domains) > 1 else f"; test domain {domains[0]}"
    lines = [f"Mean ± standard error over seeds ({counts}){over}."]
    runs = comparison.runs
    rich = [each.richness[part] for each in runs for part in each.richness]
    if rich:
        units, images = (_either(sizes) for sizes in zip(*((each.units, each.images) for each in rich), strict=True))
        lines.append(
            f"Representation of {units} units, on {images} images, which bounds the rank. Removable: until accuracy "
            "has fallen by one percentage point."
        )
    if starts := sorted({each.interpolation.which for each in runs if each.interpolation}):
        lines.append(f"The interpolations begin at the {listing(starts)} checkpoint.")
    for rate in comparison.rates:
        if cells := [f"{domain}, seed {seed}" for domain, seed in rate.missing]:
            lines.append(f"Missing of {_rate_name(rate)}, whose seeds do not count: {'; '.join(cells)}.")
    lines += never_beat(each.run.beats_start for each in runs)
    lines += [note for each in runs for note in each.notes]
    return lines


def _either(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(numbers))))
