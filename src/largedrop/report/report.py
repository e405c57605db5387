"""The report on stored runs: tables in Markdown, CSV, JSON and LaTeX, and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config import TUNED
from ..errors import UserError, one_of
from ..files import json_text, write_bytes
from ..runs.read import Runs
from ..runtime import without_collector
from ..selection.averages import Missing, average, cut
from ..selection.curves import mean_curves
from ..selection.selection import select
from .columns import csv_text, row_json
from .drawing.style import rendered
from .figures import TEXTS, figures_of
from .published import beside, recognise
from .tables import (
    across_table,
    chosen_table,
    curves_table,
    every_seed,
    missing_lines,
    published_table,
    selected_table,
)
from .text import Table, counts, escape_markdown, latex, markdown

__all__ = ["FORMATS", "write_report"]

FORMATS = ("md", "csv", "json", "tex", "png", "svg")


@without_collector()
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

    For datasets with published numbers (recognised by domains, classes and image counts), a table compares the centres
    of the clouds with the paper's, and lists differences of the protocol.

    Args:
        runs: runs from ``read_runs``.
        output: folder of the report.
        selection: rule of ``select``: ``iid``, ``iid-macro``, ``leave-one-domain-out`` or ``oracle``.
        formats: some of ``FORMATS``.
        dataset: facts from ``describe``; by default those in the runs.
        tuned: names of the tuned settings; all others are compared.
        seeds: seeds that every setting should have, besides those of the runs.
        allow_missing: see ``average``.

    Returns:
        Paths of the written files.

    Raises:
        UserError: unknown formats or rule, facts of another dataset, nothing to select from (see ``select``), or a
            file cannot be written.
    """
    formats, tuned = tuple(formats), tuple(tuned)
    facts = runs.dataset if dataset is None else dict(dataset)
    _check(runs, facts, formats)
    rows = select(average(runs.records, seeds=seeds, allow_missing=allow_missing), selection, tuned=tuned)
    across = every_seed(runs.across, rows[0].test_domains)
    means, unmeant = mean_curves((run.records[0], run.interpolation) for run in runs.runs if run.interpolation)
    paper, doubt = recognise(facts)
    theirs = beside(rows, paper) if paper else {}
    tables = [
        selected_table(rows, tuned),
        *([published_table(rows, paper, theirs, tuned)] if paper else []),
        chosen_table(rows, tuned),
        *([across_table(across, rows)] if across else []),
        *([curves_table(means)] if means else []),
    ]
    kinds = [kind for kind in ("png", "svg") if kind in formats]
    figures, undrawn = figures_of(rows, means, str(facts["name"])) if kinds else ({}, [])
    files: dict[str, str | bytes] = {}
    if "md" in formats:
        pictures = [f"![{TEXTS[name]}]({name}.png)\n" for name in figures if "png" in formats]
        reasons = [f"Not drawn: {escape_markdown(reason)}.\n" for reason in (*undrawn, *unmeant)]
        files["report.md"] = _markdown(runs, facts, doubt, tables, [*pictures, *reasons], rows[0].averages.missing)
    files |= {f"{name}.{kind}": rendered(figure, kind) for name, figure in figures.items() for kind in kinds}
    if "csv" in formats:
        files["table.csv"] = csv_text(rows, theirs, across)
    if "tex" in formats:
        floats = [latex(table, f"tab:largedrop-{number}") for number, table in enumerate(tables, 1)]
        scripts = any(character > "ſ" for text in floats for character in text)  # beyond what T1 fonts have
        fonts = ["% Needs XeLaTeX or LuaLaTeX, and a font that has the characters of its names."] * scripts
        files["table.tex"] = "\n".join(["% Needs \\usepackage{booktabs}.", *fonts, *floats])
    if "json" in formats:
        content = {
            "largedrop": __version__,
            "accuracy": "fraction of images, 0 to 1",
            "dataset": facts,
            "recognised": paper.name if paper else None,
            "selection": selection,
            "tuned": list(tuned),
            "seeds": list(rows[0].averages.seeds),
            "runs": len(runs.runs),
            "protocol": runs.protocol,
            "left_out": [{"run": each.name, "kind": each.kind, "reason": each.reason} for each in runs.unusable],
            "rows": [row_json(row, theirs.get(row.setting)) for row in rows],
            "across_every_seed": [result.to_json() for result in across],
            "not_computed": list(runs.not_across),
            "interpolations": [mean.to_json() for mean in means],
        }
        files["report.json"] = json_text(content)
    for name, file in files.items():
        write_bytes(Path(output) / name, file.encode("utf-8", "backslashreplace") if isinstance(file, str) else file)
    return [Path(output) / name for name in files]


def _check(runs: Runs, facts: Mapping[str, Any], formats: Iterable[str]) -> None:
    problems = [f"unknown format '{name}'; {one_of(name, FORMATS)}" for name in formats if name not in FORMATS]
    if facts.get("fingerprint") != runs.dataset["fingerprint"]:
        problems.append(
            f"the facts are of another dataset: fingerprint {str(facts.get('fingerprint'))[:12]} instead of "
            f"{runs.dataset['fingerprint'][:12]}"
        )
    if problems:
        raise UserError("; ".join(problems))


def _markdown(
    runs: Runs,
    facts: Mapping[str, Any],
    doubt: str,
    tables: Iterable[Table],
    figures: Sequence[str],
    missing: Sequence[Missing],
) -> str:
    parts = [f"# {escape_markdown(str(facts['name']))}: {len(runs.runs):,} runs\n"]
    parts.append(escape_markdown(counts(facts)) + ".\n")
    parts += [f"{escape_markdown(note)}\n" for note in runs.notes]
    if doubt:
        parts.append(f"No published numbers beside it: {escape_markdown(doubt)}.\n")
    for table in tables:
        parts += [f"## {escape_markdown(table.title)}\n", markdown(table)]
    if figures:
        parts += ["## Figures\n", *figures]
    if runs.not_across:
        parts += _section("Not computed across trajectories", runs.not_across, len(runs.not_across))
    parts += _section("Missing runs", missing_lines(missing), len(missing))
    parts += _section("Unusable runs", list(map(str, runs.unusable)), len(runs.unusable))
    return "\n".join(parts)


def _section(title: str, lines: Sequence[str], number: int) -> list[str]:
    listed = cut([f"- {escape_markdown(line)}" for line in lines], "more lines, all of them in report.json", 30)
    return [f"## {title} ({number:,})\n", "\n".join(listed or ["None."]) + "\n"]
