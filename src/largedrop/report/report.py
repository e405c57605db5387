"""A report on stored runs: tables in Markdown, CSV, JSON and LaTeX, and the figures that the runs allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._version import __version__
from ..config import TUNED
from ..errors import UserError, one_of
from ..files import write_bytes, write_json, write_text
from ..runs.estimate import listing
from ..runs.methods import PLAIN, method_of
from ..runs.read import Runs
from ..runs.record import Record
from ..selection.averages import FIT, Averages, Setting, average, left_out, settings_of
from ..selection.curves import mean_curves
from ..selection.selection import Choice, centre, groups, select
from .drawing.style import rendered
from .figures import TEXTS, figures_of
from .published import Published, differences, recognise
from .tables import (
    Line,
    across_table,
    chosen_table,
    counts,
    csv_text,
    curves_table,
    gain_of,
    missing_lines,
    published_table,
    selected_table,
)
from .text import escape_markdown, latex, markdown

__all__ = ["FORMATS", "write_report"]


FORMATS = ("md", "csv", "json", "tex", "png", "svg")


_MOST_LISTED = 30


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
    """Write report.md, table.csv, report.json, table.tex, and the figures clouds, paths, alpha and comparison.

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
    every_seed = [result for result in runs.across if result.seed is None and not result.settings.get("left_out")]
    if every_seed:
        tables.append(across_table(every_seed, lines, averages.domains))
    means, unmeant = mean_curves((run.records[0], run.interpolation) for run in runs.runs if run.interpolation)
    if means:
        tables.append(curves_table(means))
    drawn: dict[str, Figure] = {}
    undrawn: list[str] = []
    if {"png", "svg"} & {*formats}:
        drawn, undrawn = figures_of(lines, grouped, averages, means, str(facts["name"]))
    written: list[Path] = []
    for name, figure in drawn.items():
        for kind in ("png", "svg"):
            if kind in formats:
                written.append(output / f"{name}.{kind}")
                write_bytes(written[-1], rendered(figure, kind))
    if "csv" in formats:
        written.append(output / "table.csv")
        write_text(written[-1], csv_text(lines, averages.domains, every_seed))
    if "tex" in formats:
        written.append(output / "table.tex")
        floats = [latex(table, f"tab:largedrop-{place}") for place, table in enumerate(tables, 1)]
        write_text(written[-1], "\n".join(["% Needs \\usepackage{booktabs}.", *floats]))
    if "json" in formats:
        content = {
            "largedrop": __version__,
            "accuracy": "fraction of images, 0 to 1",
            "dataset": facts,
            "recognised": paper.name if paper else None,
            "selection": selection,
            "tuned": list(tuned),
            "seeds": list(averages.seeds),
            "runs": len(runs.runs),
            "left_out": [{"run": each.name, "kind": each.kind, "reason": each.reason} for each in runs.problems],
            "rows": [line.to_json() for line in lines],
            "across_every_seed": [result.to_json() for result in every_seed],
            "not_computed": list(runs.not_across),
            "interpolations": [mean.to_json() for mean in means],
        }
        write_json(output / "report.json", content)
        written.append(output / "report.json")
    if "md" in formats:
        parts = [
            f"# {escape_markdown(str(facts['name']))}: {len(runs.runs):,} runs\n",
            escape_markdown(counts(facts)) + ".\n",
        ]
        if doubt:
            parts.append(f"No published numbers beside it: {escape_markdown(doubt)}.\n")
        for table in tables:
            parts += [f"## {escape_markdown(table.title)}\n", markdown(table)]
        parts += _figure_part([path for path in written if path.suffix == ".png"], [*undrawn, *unmeant])
        if runs.not_across:
            parts += _list_part("Not computed across trajectories", runs.not_across, len(runs.not_across))
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
    baselines = {
        choice.group.items: choice
        for choice in choices
        if method_of(choice.group.method, choice.group.dropout) is PLAIN
    }
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
        plain = baselines.get(choice.group.items) or baselines.get(_of_fine_tuning(choice.group.items))
        gain = gain_of(choice, plain)
        lines.append(Line(choice, len(members), dots, middle, gain, theirs, tuple(differs)))
    return lines


def _of_fine_tuning(items: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """The settings of the fine-tuning that a linear fit of these settings is compared with."""
    return tuple((name, "all" if name == FIT else value) for name, value in items)


def _by_group(
    records: Sequence[Record], grouped: Mapping[Setting, list[Setting]], averages: Averages
) -> Iterable[tuple[Setting, Record]]:
    """Every record of a final run with its group."""
    make = settings_of(records)
    group_of = {setting: group for group, members in grouped.items() for setting in members}
    for record in records:
        if not left_out(record):
            yield group_of[make(record)], record


def _figure_part(pngs: Sequence[Path], undrawn: Sequence[str]) -> list[str]:
    parts = ["## Figures\n"] if pngs or undrawn else []
    parts += [f"![{TEXTS[path.stem]}]({path.name})\n" for path in pngs]
    return [*parts, *(f"Not drawn: {escape_markdown(reason)}.\n" for reason in undrawn)]


def _list_part(title: str, lines: Sequence[str], number: int) -> list[str]:
    more = len(lines) - _MOST_LISTED
    listed = [f"- {escape_markdown(line)}" for line in lines[:_MOST_LISTED]]
    if more > 0:
        listed.append(f"- … and {more:,} more lines, all of them in report.json")
    return [f"## {title} ({number:,})\n", "\n".join(listed or ["None."]) + "\n"]
