"""A report on stored runs: tables in Markdown, CSV, JSON and LaTeX, and the figures that the runs allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..errors import UserError, one_of
from ..files import write_bytes, write_json, write_text
from .averages import Averages, Setting, average, left_out, settings_of
from .figures import _rendered
from .paper_figures import (
    Bar,
    BarPanel,
    Cloud,
    CloudPanel,
    PathPanel,
    Stop,
    clouds_figure,
    comparison_figure,
    paths_figure,
)
from .published import Published, differences, recognise
from .records import Record, version
from .report_tables import (
    Line,
    chosen_table,
    counts,
    csv_text,
    latex,
    markdown,
    missing_lines,
    published_table,
    selected_table,
)
from .selection import MOST_COMBINATIONS, TUNED, Choice, centre, family_cloud, groups, select
from .stored import Problem, Runs, Stored, read_runs
from .table import _escaped, listing

__all__ = ["FORMATS", "Problem", "Runs", "Stored", "read_runs", "write_report"]

FORMATS = ("md", "csv", "json", "tex", "png", "svg")

_MOST_LISTED = 30
_MOST_BARS = 40
_MOST_PANELS = 8
_USUAL = 0.9
"""The rate of figure 2."""


def write_report(
    runs: Runs,
    output: str | Path,
    selection: str = "iid",
    formats: Iterable[str] = FORMATS,
    *,
    dataset: Mapping[str, Any] | None = None,
    tuned: Iterable[str] = TUNED,
    seeds: Iterable[int] = (),
    allow_missing: bool = False,
) -> list[Path]:
    """Write report.md, table.csv, report.json, table.tex, and the figures clouds, paths and comparison.

    Where the dataset is one with published numbers (recognised by its domains, classes and image counts), the centres
    of the clouds stand beside the paper's, with the difference and with how the protocol differs.

    Args:
        runs: from ``read_runs``.
        output: the folder to write into.
        selection: a rule of ``select``: ``iid``, ``leave-one-domain-out`` or, never by itself, ``oracle``.
        formats: some of ``FORMATS``.
        dataset: facts as ``describe`` gives them; by default those that the runs hold.
        tuned: the settings that are chosen among; all others are compared.
        seeds: seeds that every setting should have, besides those that are there.
        allow_missing: see ``average``.

    Returns:
        The files that were written.

    Raises:
        UserError: unknown formats or rule, facts of another dataset, nothing to select from (see ``select``), or a
            file cannot be written.
    """
    output, formats, tuned, seeds = Path(output), tuple(formats), tuple(tuned), tuple(seeds)
    facts = runs.dataset if dataset is None else dict(dataset)
    problems = [f"unknown format '{name}'; {one_of(name, FORMATS)}" for name in formats if name not in FORMATS]
    if facts.get("fingerprint") != runs.dataset["fingerprint"]:
        problems.append(
            f"the facts are of another dataset: fingerprint {str(facts.get('fingerprint'))[:12]} instead of "
            f"{runs.dataset['fingerprint'][:12]}"
        )
    if problems:
        raise UserError("; ".join(problems))
    records = runs.records
    averages = average(records, seeds=seeds, allow_missing=allow_missing)
    choices = select(records, selection, tuned=tuned, seeds=seeds, allow_missing=allow_missing)
    paper, doubt = recognise(facts)
    grouped = groups(averages.settings, tuned)
    lines = _lines(choices, grouped, averages, runs, paper, tuned)
    tables = [selected_table(lines, averages.domains, averages.seeds, tuned)]
    if paper:
        tables.append(published_table(lines, paper, tuned))
    tables.append(chosen_table(lines, averages.domains, tuned))
    drawn, undrawn = _figures(lines, grouped, averages, str(facts["name"])) if {"png", "svg"} & {*formats} else ({}, [])
    written: list[Path] = []
    for name, figure in drawn.items():
        for kind in ("png", "svg"):
            if kind in formats:
                written.append(output / f"{name}.{kind}")
                write_bytes(written[-1], _rendered(figure, kind))
    if "csv" in formats:
        written.append(output / "table.csv")
        write_text(written[-1], csv_text(lines, averages.domains))
    if "tex" in formats:
        written.append(output / "table.tex")
        floats = [latex(table, f"tab:largedrop-{place}") for place, table in enumerate(tables, 1)]
        write_text(written[-1], "\n".join(["% Needs \\usepackage{booktabs}.", *floats]))
    if "json" in formats:
        content = {
            "largedrop": version(),
            "accuracy": "fraction of images, 0 to 1",
            "dataset": facts,
            "recognised": paper.name if paper else None,
            "selection": selection,
            "tuned": list(tuned),
            "seeds": list(averages.seeds),
            "runs": len(runs.runs),
            "left_out": [{"run": each.name, "kind": each.kind, "reason": each.reason} for each in runs.problems],
            "rows": [line.to_json() for line in lines],
        }
        write_json(output / "report.json", content)
        written.append(output / "report.json")
    if "md" in formats:
        parts = [f"# {_escaped(str(facts['name']))}: {len(runs.runs):,} runs\n", _escaped(counts(facts)) + ".\n"]
        if doubt:
            parts.append(f"No published numbers beside it: {_escaped(doubt)}.\n")
        for table in tables:
            parts += [f"## {_escaped(table.title)}\n", markdown(table)]
        parts += _figure_part([path for path in written if path.suffix == ".png"], undrawn)
        parts += _list_part("Missing runs", missing_lines(averages.missing), len(averages.missing))
        parts += _list_part("Runs left out", [str(problem) for problem in runs.problems], len(runs.problems))
        write_text(output / "report.md", "\n".join(parts))
        written.insert(0, output / "report.md")
    return written


def _lines(
    choices: Sequence[Choice],
    grouped: Mapping[Setting, list[Setting]],
    averages: Averages,
    runs: Runs,
    paper: Published | None,
    tuned: Sequence[str],
) -> list[Line]:
    used: dict[Setting, dict[int, dict[str, Any]]] = {}
    for group, record in _by_group(runs.records, grouped, averages):
        used.setdefault(group, {})[id(record.settings)] = record.settings
    lines = []
    for choice in choices:
        members = grouped[choice.group]
        there = ~np.isnan(averages.means[[averages.rows[setting] for setting in members], :, 0])
        theirs = paper.centres.get((choice.group.method, choice.group.dropout)) if paper else None
        middle = centre(averages, members)
        differs = differences(used[choice.group].values(), middle[1].n if middle else 0) if theirs else []
        if paper and theirs and len(averages.domains) < len(paper.domains):
            differs.append(f"test domains {listing(averages.domains)} alone instead of all {len(paper.domains)}")
        dots = math.prod(int(count) for count in there.sum(0))
        lines.append(Line(choice, len(members), dots, middle, theirs, tuple(differs)))
    return lines


def _by_group(
    records: Sequence[Record], grouped: Mapping[Setting, list[Setting]], averages: Averages
) -> Iterable[tuple[Setting, Record]]:
    """Every record of a final run with its group."""
    make = settings_of(records)
    group_of = {setting: group for group, members in grouped.items() for setting in members}
    for record in records:
        if not left_out(record):
            yield group_of[make(record)], record


def _figures(
    lines: Sequence[Line], grouped: Mapping[Setting, list[Setting]], averages: Averages, name: str
) -> tuple[dict[str, Figure], list[str]]:
    """The figures that the runs allow, and why there are no others."""
    variants: dict[tuple[tuple[str, Any], ...], list[Line]] = {}
    for line in lines:
        variants.setdefault(line.choice.group.items, []).append(line)
    figures: dict[str, Figure] = {}
    undrawn: list[str] = []
    clouds, paths = [], []
    for items, members in variants.items():
        title = Setting("", 0.0, items).only(*(key for key, _ in items)) if items else ""
        shown = [each for each in _of_figure_2(members) if each.centre]
        if any(each.dots > MOST_COMBINATIONS for each in shown):
            undrawn.append(f"clouds{f' of {title}' if title else ''}: more than {MOST_COMBINATIONS:,} combinations")
        elif shown:
            made = [
                Cloud(_short(each), family_cloud(averages, grouped[each.choice.group]), _family(each)) for each in shown
            ]
            plain = next((cloud.name for cloud in made if cloud.family == "plain"), None)
            clouds.append(
                CloudPanel(title, made, [(plain, each.name) for each in made if plain and each.name != plain])
            )
        stops = [
            Stop(each.choice.group.dropout, *each.centre)
            for each in members
            if each.choice.group.method == "fine-tuning" and each.centre
        ]
        if len(stops) > 1:
            paths.append(PathPanel(title, stops))
    for what, panels in (("clouds", clouds), ("paths", paths)):
        if len(panels) > _MOST_PANELS:
            undrawn.append(f"{what}: {len(panels)} panels are too many; report fewer settings at once")
        elif not panels:
            undrawn.append(f"{what}: {'no test domain is complete' if what == 'clouds' else 'needs two dropout rates'}")
    if 0 < len(clouds) <= _MOST_PANELS:
        figures["clouds"] = clouds_figure(clouds, title=f"{name}: clouds of settings")
    if 0 < len(paths) <= _MOST_PANELS:
        figures["paths"] = paths_figure(paths, title=f"{name}: dropout rates")
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

    overall = [Bar(named(line), line.choice.ood, _family(line)) for line in lines if line.choice.ood]
    panels = [BarPanel(f"average of {len(domains)} test domains" if len(domains) > 1 else domains[0], overall)]
    for domain in domains if len(domains) > 1 else ():
        found = [(line, line.choice.domains[domain][1]) for line in lines if domain in line.choice.domains]
        panels.append(BarPanel(domain, [Bar(named(line), ood, _family(line)) for line, ood in found]))
    return panels


def _of_figure_2(lines: Sequence[Line]) -> list[Line]:
    """Plain fine-tuning, its ensemble and weight average, and fine-tuning at the dropout rate nearest to 0.9."""
    shown = [line for line in lines if line.choice.group.dropout == 0 and line.choice.group.method != "linear-probe"]
    large = [line for line in lines if line.choice.group.dropout > 0 and line.choice.group.method == "fine-tuning"]
    large.sort(key=lambda line: abs(line.choice.group.dropout - _USUAL))
    return [*shown, *large[:1]]


def _short(line: Line) -> str:
    group = line.choice.group
    if group.method == "fine-tuning":
        return "plain fine-tuning" if group.dropout == 0 else f"dropout {group.dropout:g}"
    return group.method if group.dropout == 0 else f"{group.method}, dropout {group.dropout:g}"


def _family(line: Line) -> str:
    group = line.choice.group
    return group.method if group.method != "fine-tuning" else "plain" if group.dropout == 0 else "dropout"


def _figure_part(pngs: Sequence[Path], undrawn: Sequence[str]) -> list[str]:
    texts = {
        "clouds": "Each dot: one setting for each test domain, averaged over the test domains; arrows between centres",
        "paths": "Centres of the clouds over dropout rates, ± standard error over seeds",
        "comparison": "O.o.d. accuracy of the selected settings, ± standard error over seeds",
    }
    parts = ["## Figures\n"] if pngs or undrawn else []
    parts += [f"![{texts[path.stem]}]({path.name})\n" for path in pngs]
    return [*parts, *(f"Not drawn: {_escaped(reason)}.\n" for reason in undrawn)]


def _list_part(title: str, lines: Sequence[str], number: int) -> list[str]:
    more = len(lines) - _MOST_LISTED
    listed = [f"- {_escaped(line)}" for line in lines[:_MOST_LISTED]]
    if more > 0:
        listed.append(f"- … and {more:,} more lines, all of them in report.json")
    return [f"## {title} ({number:,})\n", "\n".join(listed or ["None."]) + "\n"]
