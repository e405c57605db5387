"""The figures that stored runs allow: clouds, paths, curves over α, and comparisons of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ..runs.interpolation import KINDS
from ..runs.methods import METHODS, PLAIN, Method, checkpoint_method, method_of
from ..selection.averages import FIT, Averages, Setting
from ..selection.curves import Mean, names_of
from ..selection.selection import MOST_COMBINATIONS, family_cloud
from .drawing.clouds import Cloud, CloudPanel, clouds_figure
from .drawing.figures import Bar, BarPanel, Curve, PathPanel, Stop, alpha_figure, comparison_figure, paths_figure
from .tables import Line

__all__ = ["TEXTS", "figures_of"]


TEXTS = {
    "clouds": "Each dot: one setting for each test domain, averaged over the test domains; arrows between centres",
    "paths": "Centres of the clouds over dropout rates, ± standard error over seeds",
    "alpha": "O.o.d. accuracy between the fine-tuned and the pretrained network, ± standard error over seeds",
    "comparison": "O.o.d. accuracy of the selected settings, ± standard error over seeds",
}
"""What each figure shows, by the name of its file."""


_MOST_BARS = 40

_MOST_PANELS = 8

_MOST_CURVES = 6

_USUAL = 0.9
"""The rate of figure 2."""


def figures_of(
    lines: Sequence[Line],
    grouped: Mapping[Setting, list[Setting]],
    averages: Averages,
    means: Sequence[Mean],
    name: str,
) -> tuple[dict[str, Figure], list[str]]:
    """The figures that the runs allow by name, and why there are no others.

    Args:
        lines: one for each group of settings.
        grouped: the settings of each group.
        averages: of all settings.
        means: interpolations; without any there is no figure ``alpha``, and nothing is said of it.
        name: of the dataset.
    """
    variants: dict[tuple[tuple[str, Any], ...], list[Line]] = {}
    for line in lines:
        variants.setdefault(line.choice.group.items, []).append(line)
    figures: dict[str, Figure] = {}
    undrawn: list[str] = []
    clouds, paths = [], []
    for items, members in variants.items():
        others = tuple(item for item in items if item[0] != FIT)
        parts = [checkpoint_method(str(value)).label for name, value in items if name == FIT]
        title = ", ".join([*parts, *([Setting("", 0.0, others).only(*(key for key, _ in others))] if others else [])])
        shown = [each for each in _of_figure_2(members) if each.centre]
        if any(each.dots > MOST_COMBINATIONS for each in shown):
            undrawn.append(f"clouds{f' of {title}' if title else ''}: more than {MOST_COMBINATIONS:,} combinations")
        elif shown:
            made = [
                Cloud(_short(each), family_cloud(averages, grouped[each.choice.group]), _method(each)) for each in shown
            ]
            plain = next((cloud.name for cloud in made if cloud.method is PLAIN), None)
            clouds.append(
                CloudPanel(
                    title,
                    made,
                    [
                        (plain, cloud.name)
                        for cloud, line in zip(made, shown, strict=True)
                        if plain and cloud.name != plain and not METHODS[line.choice.group.method].across
                    ],
                )
            )
        main = _main(members)
        stops = [
            Stop(each.choice.group.dropout, *each.centre)
            for each in members
            if each.choice.group.method == main and each.centre
        ]
        if len(stops) > 1:
            paths.append(PathPanel(title, stops))
    for what, panels in (("clouds", clouds), ("paths", paths)):
        if len(panels) > _MOST_PANELS:
            undrawn.append(f"{what}: {len(panels)} panels are too many; report fewer settings at once")
        elif not panels:
            undrawn.append(f"{what}: {'no test domain is complete' if what == 'clouds' else 'needs two dropout rates'}")
    if 0 < len(clouds) <= _MOST_PANELS:
        figures["clouds"] = clouds_figure(clouds, title=f"{name}: clouds of settings", shared=True)
    if 0 < len(paths) <= _MOST_PANELS:
        figures["paths"] = paths_figure(paths, title=f"{name}: dropout rates", shared=True)
    if len(means) > _MOST_CURVES:
        undrawn.append(f"alpha: {len(means)} fine-tunings are too many; report fewer settings at once")
    elif means:
        curves = [_curve(mean, name) for mean, name in zip(means, names_of(means), strict=True)]
        figures["alpha"] = alpha_figure(curves, title=f"{name}: interpolation")
    bars = [line for line in lines if line.choice.ood is not None]
    if not bars or len(bars) > _MOST_BARS:
        undrawn.append(f"comparison: {len(bars)} methods, want 1 to {_MOST_BARS}")
    else:
        figures["comparison"] = comparison_figure(_bar_panels(bars, averages.domains), title=f"{name}: methods")
    return figures, undrawn


def _bar_panels(lines: Sequence[Line], domains: Sequence[str]) -> list[BarPanel]:
    several = len({line.choice.group.items for line in lines}) > 1

    def named(line: Line) -> str:
        group = line.choice.group
        extra = group.only(*(key for key, _ in group.items)) if several and group.items else ""
        return f"{_short(line)}{f', {extra}' if extra else ''}"

    overall = [Bar(named(line), line.choice.ood, _method(line)) for line in lines if line.choice.ood]
    panels = [BarPanel(f"average of {len(domains)} test domains" if len(domains) > 1 else domains[0], overall)]
    for domain in domains if len(domains) > 1 else ():
        found = [(line, line.choice.domains[domain][1]) for line in lines if domain in line.choice.domains]
        panels.append(BarPanel(domain, [Bar(named(line), ood, _method(line)) for line, ood in found]))
    return panels


def _main(lines: Sequence[Line]) -> str:
    """The method whose runs these are: fine-tuning, or the linear fit where there is none."""
    methods = {line.choice.group.method for line in lines}
    return next(name for name, method in METHODS.items() if method.fit and name in methods)


def _of_figure_2(lines: Sequence[Line]) -> list[Line]:
    """Plain fine-tuning, its ensembles and weight averages, and fine-tuning at the dropout rate nearest to 0.9.

    Where there is no plain fine-tuning, that rate's ensembles and weight averages (figure 7).
    """
    main = _main(lines)
    rates = sorted({line.choice.group.dropout for line in lines}, key=lambda rate: abs(rate - _USUAL))
    base = 0.0 if 0.0 in rates else rates[0]
    passed = {"linear-probe"} - {main}
    shown = [line for line in lines if line.choice.group.dropout == base and line.choice.group.method not in passed]
    large = [line for line in lines if line.choice.group.dropout == rates[0] and line.choice.group.method == main]
    return [*shown, *(line for line in large if rates[0] != base)]


def _short(line: Line) -> str:
    group = line.choice.group
    if group.method == PLAIN.name:
        return PLAIN.label if group.dropout == 0 else f"dropout {group.dropout:g}"
    return group.method if group.dropout == 0 else f"{group.method}, dropout {group.dropout:g}"


def _method(line: Line) -> Method:
    return method_of(line.choice.group.method, line.choice.group.dropout)


def _curve(mean: Mean, name: str) -> Curve:
    """A curve of figure 1: o.o.d. accuracies, with standard errors where there are several seeds."""
    heights = {kind: [pair[1].mean for pair in mean.estimates[kind]] for kind in KINDS}
    errors = {kind: [pair[1].error for pair in mean.estimates[kind]] for kind in KINDS}
    known = {kind: None if None in found else [error or 0.0 for error in found] for kind, found in errors.items()}
    return Curve(
        name,
        mean.alphas,
        heights["weights"],
        heights["representations"],
        known["weights"],
        known["representations"],
    )
