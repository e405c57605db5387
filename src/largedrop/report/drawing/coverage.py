"""Risk over coverage: the errors that are left where a model abstains from the images that it is least sure of."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...measures.coverage import Coverage
from .panels import label_axes, legend_below, panels_of
from .style import INK

__all__ = ["coverage_figure"]

_COLOURS = ("#b8470a", "#2b6cb0")


def coverage_figure(models: Mapping[str, Mapping[str, Coverage]]) -> Figure:
    """A panel for each domain with a curve for each model.

    Args:
        models: risk and coverage by model and domain; of one model or two.
    """
    domains = list(next(iter(models.values())))
    figure, panels = panels_of(domains, "", width=3.1, height=2.6, shared=True)
    lines = []
    for (name, found), colour in zip(models.items(), _COLOURS, strict=False):
        lines.append(Line2D([], [], color=colour, linewidth=1.8, label=name))
        for domain, axes in zip(domains, panels, strict=True):
            at = found[domain]
            across, up = ([100 * value for value in values] for values in (at.coverage, at.risk))
            axes.plot(across, up, color=colour, linewidth=1.8)
            axes.plot(across[-1:], up[-1:], color=INK, marker="o", markersize=3)
            axes.set_xlim(0, 102)
            axes.set_ylim(bottom=0)
    label_axes(panels, "images answered (%)", "errors among them (%)")
    if len(models) > 1:
        legend_below(figure, lines, len(panels))
    return figure
