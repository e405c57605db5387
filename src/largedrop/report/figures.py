"""The figures of reports and comparisons: clouds, paths, curves over α, and comparisons of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..runs.methods import METHODS, PLAIN, Method, checkpoint_method
from ..selection.curves import MeanCurve, names_of
from ..selection.row import Row, combinations
from ..selection.settings import FIT, MASKS, Setting
from .drawing.clouds import Cloud, clouds_figure
from .drawing.figures import Bar, Curve, PathPoint, alpha_figure, comparison_figure, paths_figure

__all__ = ["TEXTS", "figures_of", "runs_figure"]

TEXTS = {
    "clouds": "Each dot: one setting for each test domain, averaged over the test domains; arrows between centres",
    "paths": "Centres of the clouds over dropout rates, ± standard error over seeds",
    "alpha": "O.o.d. accuracy between the fine-tuned and the pretrained network, ± standard error over seeds",
    "comparison": "O.o.d. accuracy of the selected settings, ± standard error over seeds",
}
"""Captions of the figures, by file name."""

_MOST_BARS = 40

_MOST_PANELS = 8

_MOST_CURVES = 6

_MOST_COMBINATIONS = 2_000_000

_MOST_POINTS = 1296
"""Largest number of points of a cloud of runs, as in the paper: 6 settings on each of 4 test domains."""

_OF_SETTINGS = "large: centre ± standard error over seeds  ·  small: every choice of one setting a test domain"

NO_RATES: Mapping[float, str] = {}

_USUAL = 0.9
"""The dropout rate of figure 2."""


def figures_of(rows: Sequence[Row], means: Sequence[MeanCurve], name: str) -> tuple[dict[str, Figure], list[str]]:
    """The figures of a report by name, and lines about those that cannot be drawn.

    Args:
        rows: rows of the report.
        means: mean interpolations; without any there is no figure ``alpha`` and no line about it.
        name: name of the dataset.
    """
    figures: dict[str, Figure] = {}
    undrawn: list[str] = []
    if len(means) > _MOST_CURVES:
        undrawn.append(f"alpha: {len(means)} fine-tunings are too many; report fewer settings at once")
    elif means:
        curves = [_curve(mean, which) for mean, which in zip(means, names_of(means), strict=True)]
        figures["alpha"] = alpha_figure(curves, title=f"{name}: interpolation")
    if not any(rows[0].test_domains):
        return figures, [*undrawn, "clouds, paths and comparison: no run has a test domain"]
    clouds: dict[str, list[Cloud]] = {}
    paths: dict[str, list[PathPoint]] = {}
    for items, members in _variants(rows).items():
        setting = Setting(PLAIN.name, 0.0, items)
        fits = [checkpoint_method(str(value)).label for name, value in items if name == FIT]
        title = ", ".join(filter(None, (*fits, setting.without(FIT).others)))
        beside = [row for row in rows if row.baseline and row.setting.common == setting.common]
        shown = [row for row in dict.fromkeys([*beside, *_of_figure_2(members)]) if row.centre]
        if any(row.dots > _MOST_COMBINATIONS for row in shown):
            undrawn.append(f"clouds{f' of {title}' if title else ''}: more than {_MOST_COMBINATIONS:,} combinations")
        elif shown:
            clouds[title] = _clouds_of_settings(shown)
        main = _main(members)
        points = [PathPoint(row.dropout, *row.centre) for row in members if row.method == main and row.centre]
        if len(points) > 1:
            paths[title] = points
    for what, count in (("clouds", len(clouds)), ("paths", len(paths))):
        if count > _MOST_PANELS:
            undrawn.append(f"{what}: {count} panels are too many; report fewer settings at once")
        elif not count:
            undrawn.append(f"{what}: {'no test domain is complete' if what == 'clouds' else 'needs two dropout rates'}")
    if 0 < len(clouds) <= _MOST_PANELS:
        figures["clouds"] = clouds_figure(
            clouds, title=f"{name}: clouds of settings", note=_OF_SETTINGS, hulls=True, shared=True
        )
    if 0 < len(paths) <= _MOST_PANELS:
        figures["paths"] = paths_figure(paths, title=f"{name}: dropout rates")
    bars = [row for row in rows if row.ood]
    if not bars or len(bars) > _MOST_BARS:
        undrawn.append(f"comparison: the number of methods must be from 1 to {_MOST_BARS}, not {len(bars)}")
    else:
        figures["comparison"] = comparison_figure(_bar_panels(bars), title=f"{name}: methods")
    return figures, undrawn


def runs_figure(rows: Sequence[Row], *, title: str, rates: Mapping[float, str] = NO_RATES) -> Figure:
    """Figure 2 of a comparison: a panel for each test domain and, for several, one for their average.

    The points of a cloud are runs; in the panel of the average, means of one run for each test domain.

    Args:
        rates: learning rates by dropout rate, where there were several to choose among.
    """
    domains = rows[0].test_domains
    panels = {domain: [_cloud_of_runs(row.domains[domain], row, rates) for row in rows] for domain in domains}
    if len(domains) > 1:
        panels = {_average_of(domains): [_cloud_of_runs(row, row, rates) for row in rows], **panels}
    spread = any(row.ood and row.ood.error is not None for row in rows)
    large = "large: mean over seeds ± standard error" if spread else "large: mean"
    small = "small: every choice of one run a test domain, or single runs" if len(domains) > 1 else "small: single runs"
    there = {name: [cloud for cloud in panel if len(cloud.points)] for name, panel in panels.items()}
    return clouds_figure(
        {name: panel for name, panel in there.items() if panel}, title=title, note=f"{large}  ·  {small}", columns=3
    )


def _cloud_of_runs(row: Row, whole: Row, rates: Mapping[float, str]) -> Cloud:
    """The cloud of ``row``, which is ``whole`` or its row of one test domain."""
    label = row.name if row.baseline else f"{row.method}, dropout {row.dropout:g}"
    if row.dropout in rates and row.method == PLAIN.name:
        label += f", lr {rates[row.dropout]}"
    mean = (row.iid, row.ood) if row.iid and row.ood else None
    runs = [domain[~np.isnan(domain[:, 0]), :2] for domain in row.values]
    points = combinations(runs, most=_MOST_POINTS)
    return Cloud(label + ("" if whole.complete else " (incomplete)"), _method(row), row.dropout, points, mean)


def _clouds_of_settings(rows: Sequence[Row]) -> list[Cloud]:
    """A cloud for each row, with arrows from plain fine-tuning to the methods of one trajectory."""
    plain = next((row.name for row in rows if row.baseline), None)
    return [
        Cloud(
            row.name,
            _method(row),
            row.dropout,
            row.cloud(),
            row.centre,
            start=None if row.baseline or METHODS[row.method].across else plain,
        )
        for row in rows
    ]


def _bar_panels(rows: Sequence[Row]) -> dict[str, list[Bar]]:
    several = len({row.setting.items for row in rows}) > 1
    names = [", ".join(filter(None, (row.name, row.setting.others if several else ""))) for row in rows]

    def bars(rows: Iterable[Row]) -> list[Bar]:
        return [Bar(name, row.ood, _method(row)) for name, row in zip(names, rows, strict=True) if row.ood]

    domains = rows[0].test_domains
    panels = {domain: bars(row.domains[domain] for row in rows) for domain in domains}
    return panels if len(domains) == 1 else {_average_of(domains): bars(rows), **panels}


def _variants(rows: Sequence[Row]) -> dict[tuple[tuple[str, Any], ...], list[Row]]:
    """The rows of each panel of clouds, by items, rivals last; rows without dropout are beside every number of masks.

    A linear probe, which has no rivals' items, is in no panel beside fine-tuning.
    """
    found: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    tuned = any(row.method == PLAIN.name for row in rows)
    for row in rows:
        if not (tuned and METHODS[row.method].fit == "probe" and FIT not in dict(row.setting.items)):
            found.setdefault(row.setting.items, []).append(row)
    bare = {items: Setting("", 0.0, items).without(MASKS) for items in found}
    shared = {without.items for items, without in bare.items() if without.items != items}
    return {
        items: [*(found.get(bare[items].items, ()) if bare[items].items != items else ()), *found[items]]
        for items in sorted(found, key=lambda items: bare[items].rival)
        if items not in shared
    }


def _average_of(domains: Sequence[str]) -> str:
    return f"average of {len(domains)} test domains"


def _main(rows: Sequence[Row]) -> str:
    """The main method of the rows: fine-tuning, or the linear fit where there is none."""
    methods = {row.method for row in rows}
    return next(name for name, method in METHODS.items() if method.fit and name in methods)


def _of_figure_2(rows: Sequence[Row]) -> list[Row]:
    """Plain fine-tuning, its ensembles and weight averages, and fine-tuning at the dropout rate nearest to 0.9.

    Where there is no plain fine-tuning, that rate's ensembles and weight averages (figure 7).
    """
    main = _main(rows)
    rates = sorted({row.dropout for row in rows}, key=lambda rate: abs(rate - _USUAL))
    base = 0.0 if 0.0 in rates else rates[0]
    passed = {"linear-probe"} - {main}
    shown = [row for row in rows if row.dropout == base and row.method not in passed]
    large = [row for row in rows if row.dropout == rates[0] and row.method == main]
    return [*shown, *(row for row in large if rates[0] != base)]


def _method(row: Row) -> Method:
    return PLAIN if row.baseline else METHODS[row.method]


def _curve(mean: MeanCurve, name: str) -> Curve:
    return Curve(name, mean.alphas, {kind: [ood for _, ood in pairs] for kind, pairs in mean.estimates.items()})
