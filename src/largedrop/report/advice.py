"""The output of advice: a table on the terminal, JSON and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console

from ..analysis.advice import Advice
from ..errors import visible
from ..names import names_in
from ..runs.estimate import Estimate, estimate_json, listing, percent, percentage_points
from ..runs.methods import METHODS, PLAIN, method_of
from ..runs.record import Record
from ..selection.selection import summarise
from .drawing.panels import draw_line, legend_below, panels_of
from .drawing.style import GREY, INK
from .text import Table, render

__all__ = ["CAVEAT", "advice_figure", "advice_json", "auto_lines", "heading", "render_advice"]

CAVEAT = (
    "Linear heads on frozen features are a proxy. Full fine-tuning also changes the features, and may gain more or "
    "less from dropout than this, and at other rates: rely on the sign rather than on the size."
)

_OWN = 1 - 2**-20
"""A placeholder for a different rate on each test domain; no run has it."""

_HEADINGS = {
    "use": "Use dropout {rate:g}.",
    "avoid": "Do not use dropout on the representation.",
    "cannot tell": "These data cannot tell whether dropout helps; dropout {rate:g} is where to start.",
}

_IID: dict[str, Any] = {"color": PLAIN.colour, "marker": PLAIN.marker, "markersize": 5, "linewidth": 1.8}

_OOD: dict[str, Any] = {**_IID, "color": METHODS[PLAIN.name].colour, "marker": METHODS[PLAIN.name].marker}

_ONE: dict[str, Any] = {"color": _OOD["color"], "linewidth": 0.9, "alpha": 0.55}

_ADVISED: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (4, 3))}


def heading(advice: Advice) -> str:
    """The advice in one line."""
    return _HEADINGS[advice.verdict].format(rate=advice.rate)


def render_advice(advice: Advice, console: Console) -> None:
    """Print a table with a row for each rate, the advice, its reason and its limits."""
    curves = advice.curves
    n = len(curves.held_out)
    heads = ["dropout", "i.i.d.", *(["domain held out", "gain", "gains on"] if n else [])]
    rows = []
    for point in curves.points:
        gain = ("baseline", "") if point.rate == 0 else (percentage_points(point.gain), f"{point.above} of {n}")
        cells = [f"{point.rate:g}{' ←' * (point.rate == advice.rate)}", percent(point.iid), percent(point.ood), *gain]
        rows.append(cells[: len(heads)])
    advised = [index for index, rate in enumerate(curves.rates) if rate == advice.rate]
    strong = frozenset((row, column) for row in advised for column in range(len(heads)))
    render([Table("", heads, rows, (), strong=strong)], console)
    reason = advice.reason[:1].upper() + advice.reason[1:]
    for line in (f"{heading(advice)} {reason}", *_reading(advice), CAVEAT):
        console.print(visible(line), highlight=False, markup=False)


def advice_json(advice: Advice) -> dict[str, Any]:
    """The content of advice.json, with every accuracy as a fraction."""
    curves = advice.curves
    return {
        "rate": advice.rate,
        "verdict": advice.verdict,
        "advice": heading(advice),
        "reason": advice.reason,
        "caveat": CAVEAT,
        **advice.about,
        "train_domains": list(curves.train_domains),
        "held_out_domains": list(curves.held_out),
        "seeds": list(curves.seeds),
        "notes": list(curves.notes),
        "rates": [
            {
                "dropout": point.rate,
                "iid_accuracy": estimate_json(point.iid),
                "held_out_domain_accuracy": estimate_json(point.ood),
                "gain": estimate_json(point.gain),
                "gain_over_splits": estimate_json(point.by_seed),
                "domains_that_gain": point.above,
                "iid_accuracies": iid.tolist(),
                "held_out_domain_accuracies": dict(zip(curves.held_out, ood.tolist(), strict=True)),
            }
            for point, iid, ood in zip(curves.points, curves.iid, curves.ood, strict=True)
        ],
    }


def advice_figure(advice: Advice, *, title: str = "") -> Figure:
    """Accuracy over the rates (mean ± standard error, and each held-out domain), and the gain over no dropout."""
    curves = advice.curves
    at = [_across(rate) for rate in curves.rates]
    held = len(curves.held_out)
    names = ["accuracy of linear heads", *(["gain on the domain held out"] if held else [])]
    figure, panels = panels_of(names, title, width=4.3, height=3.5)
    accuracy = panels[0]
    means = curves.points
    draw_line(accuracy, at, [each.iid for each in means], name="iid", **_IID)
    if held:
        draw_line(accuracy, at, [each.ood for each in means if each.ood], name="ood", **_OOD)
        for number, domain in enumerate(curves.held_out):
            for axes, values in zip(panels, (curves.ood, curves.gains), strict=True):
                axes.plot(at, 100 * values[:, number].mean(1), zorder=2.5, gid=f"domain {domain}", **_ONE)
        zero = Estimate(0.0, 0.0 if held > 1 else None, held)
        draw_line(panels[1], at, [each.gain or zero for each in means], name="gain", **_OOD)
        panels[1].axhline(0, color=GREY, linewidth=1, zorder=1)
        panels[1].set_ylabel("gain over no dropout (percentage points)")
        _name_lines(panels[1], at, {d: float(curves.gains[-1, n].mean()) for n, d in enumerate(curves.held_out)})
    accuracy.set_ylabel("accuracy (%)")
    for axes in panels:
        axes.set_xticks(at, [f"{rate:g}" for rate in curves.rates])
        axes.set_xlabel("dropout")
        if advice.rate <= curves.rates[-1]:
            axes.axvline(_across(advice.rate), zorder=1, **_ADVISED)
    legend: dict[str, dict[str, Any]] = {"i.i.d., mean ± s.e.": _IID}
    if held:
        legend |= {"domain held out, mean ± s.e.": _OOD, "each domain held out": _ONE}
    legend[f"advised: {advice.rate:g}"] = _ADVISED
    legend_below(figure, [Line2D([], [], label=name, **look) for name, look in legend.items()], len(panels))
    return figure


def auto_lines(records: Sequence[Record], chosen: Mapping[str, float]) -> list[str]:
    """Lines about each method where every test domain has its own rate, which a table by rates cannot show.

    Args:
        records: records of a comparison.
        chosen: dropout rate by test domain.
    """
    picked = [replace(each, dropout=_OWN) for each in records if each.dropout == chosen.get(each.test_domain)]
    plain = [each for each in records if method_of(each.method, each.dropout) is PLAIN]
    lines = [f"dropout auto ({', '.join(f'{domain} {rate:g}' for domain, rate in chosen.items())}):"]
    for row in summarise([*plain, *picked]) if picked else ():
        if row.dropout == _OWN:
            gain = f", gain {percentage_points(row.gain)}" if row.gain else ""
            lines.append(f"  {row.method}: i.i.d. {percent(row.iid)}, o.o.d. {percent(row.ood)}{gain}")
    return lines


def _across(rate: float) -> float:
    """Position of a rate on the axis, −log₂(1 − rate)."""
    return float(-np.log2(1 - rate))


def _name_lines(axes: Axes, at: Sequence[float], ends: dict[str, float]) -> None:
    """The domains' names at the right end of their lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    apart, before = 0.06 * (high - low), -np.inf
    for domain, end in sorted(ends.items(), key=lambda item: item[1]):
        before = max(100 * end, before + apart)
        axes.annotate(
            domain,
            (at[-1], before),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#555555",
            parse_math=False,
            annotation_clip=False,
        )


def _reading(advice: Advice) -> list[str]:
    curves, point = advice.curves, advice.point
    seeds = f"{len(curves.seeds)} split{'s' * (len(curves.seeds) > 1)}"
    lines = [f"Of {listing(curves.train_domains)}, over {seeds}."]
    if curves.held_out:
        lines = [
            f"Each of {listing(curves.held_out)} was held out in turn, over {seeds}; ± is the standard error over "
            f"these {len(curves.held_out)} domains, gains paired."
        ]
    if point and point.by_seed and point.by_seed.n > 1:
        gain = percentage_points(point.by_seed)
        lines.append(f"For these domains alone, over the splits, the gain is {gain} percentage points.")
    known = {"test_domain": "", "also_tested": "", "left_out": "", **advice.about}
    if unseen := [*filter(None, (known["test_domain"], *names_in(known["also_tested"]), known["left_out"]))]:
        lines.append(f"No image of {listing(unseen)} was used.")
    return [*lines, *curves.notes]
