"""The self-contained HTML page of a comparison: finding, tables, figure and settings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import write_text
from ..runs.estimate import Estimate, duration, listing, percent, percentage_points
from ..runs.methods import METHODS
from ..runs.record import ALPHA, ALSO_TESTED, Record, shown
from ..selection.row import Row
from .behaviour import Behaviour
from .columns import GAIN, OOD, Column
from .examples import Examples
from .html import Cells, dataset_line, embedded, filled, plain, prose, versions
from .tables import ON_A_DOMAIN, WITH_MACRO, best, notes
from .text import Table

__all__ = ["details", "headline", "main_rate", "write_page"]

_PAPER_RATE = 0.9

_DENSITY = 1.5
"""Pixels of the figure per pixel of the page."""

_GLOSSARY = {
    "i.i.d. accuracy": "The share of correct answers on images of the training domains that were held out of training: "
    "how good the model is on more of the same.",
    "o.o.d. accuracy": "The share of correct answers on the test domain, which the model never saw: how well it "
    "survives a shift of site, camera or style.",
    "macro accuracy": "The mean over the classes of the share of correct answers on each, so that a rare class counts "
    "as much as a frequent one.",
    "gain": "O.o.d. accuracy minus the baseline's with the same test domain and seed, in percentage points. "
    "Paired in this way, what makes one seed's split easy or hard cancels out.",
    "confidence, ECE": "The mean of the largest probability, and how far it is from the accuracy, in 15 bins (expected "
    "calibration error). At T: after division of the logits by a temperature, fitted on the held-out images.",
    "Brier": "The mean squared error of the probabilities, summed over the classes: 0 is perfect, 200 % the worst.",
    "± standard error": "How far the mean would typically move if everything were done again with as many other seeds. "
    "With two or three seeds it is itself rough. It says nothing about other test domains or other datasets.",
}


def headline(rows: Sequence[Row]) -> str:
    """The finding in a sentence: the effect of dropout on o.o.d. accuracy, and its significance.

    The rate is the one nearest to 0.9, which the paper fixed beforehand: the best of several rates by o.o.d. accuracy
    would be biased upwards.
    """
    row, baseline = _focus(rows), _baseline(rows)
    if _untested(rows):
        first = row or rows[0]
        reached = f"{_said(percent(first.iid))} %" if first.iid else "no complete result"
        return (
            f"{_called(first)[0].upper()}{_called(first)[1:]} reaches {reached} on held-out images of its own domains"
        )
    if baseline is None:
        return "Plain fine-tuning is not among the results, so there is nothing to compare with"
    where = (
        "on unseen domains" if len(baseline.test_domains) > 1 else f"on the unseen domain {baseline.test_domains[0]}"
    )
    if row is None:
        reached = f"{_said(percent(baseline.ood))} %" if baseline.ood else "no complete result"
        plain = baseline.name[0].upper() + baseline.name[1:]
        return f"{plain} reaches {reached} {where}; fine-tuning with dropout is not among the results"
    name, plain, gain = f"Dropout {row.dropout:g}", baseline.name, row.gain
    if gain is None:
        return f"{name} and {plain} have no seed with every test domain in common, so they cannot be compared"
    size = f"{100 * abs(gain.mean):.1f}"
    if gain.error is None:
        side = "above" if gain.mean > 0 else "below"
        text = f"{name} scores {size} percentage points {side} {plain} {where}, but one seed proves nothing"
    elif not _clear(gain):
        text = (
            f"{name} and {plain} cannot be told apart {where}: "
            f"{percentage_points(gain)} percentage points, within two standard errors"
        )
    elif gain.mean > 0:
        text = f"{name} beats {plain} by {size} ± {100 * gain.error:.1f} percentage points {where}"
    else:
        text = f"{name} is {size} ± {100 * gain.error:.1f} percentage points worse than {plain} {where}"
    return text if row.complete and baseline.complete else f"{text} (runs are missing)"


def details(rows: Sequence[Row]) -> str:
    """The text below the headline: seeds, i.i.d. accuracy, each test domain, and the best row if it is another."""
    row, baseline = _focus(rows), _baseline(rows)
    if _untested(rows):
        return "Every domain is trained on, so nothing here says how the model does on a domain that it never saw."
    if row is None or baseline is None or row.gain is None:
        return "Accuracy on images of a domain that the model never saw in training."
    gain, lines = row.gain, []
    seeds = "1 seed" if gain.n == 1 else f"{gain.n} seeds"
    lines.append(
        f"Over {seeds}{', so the standard error is itself rough' if 1 < gain.n < 4 else ''}. On held-out images of the "
        f"training domains dropout {row.dropout:g} scores {_said(percent(row.iid))} %, "
        f"{baseline.name} {_said(percent(baseline.iid))} %."
    )
    if len(row.test_domains) > 1:
        gains = [f"{domain} {_said(percentage_points(score.gain))}" for domain, score in row.domains.items()]
        lines.append(f"Gain by test domain, in percentage points: {listing(gains)}.")
    winners = best(rows)
    if winners and not any(rows[winner] is row for winner in winners):
        winner = rows[min(winners)]
        lines.append(f"Highest o.o.d. accuracy here: {_called(winner)}, {_said(percent(winner.ood))} %.")
    if sum(other.method == "fine-tuning" and other.dropout > 0 for other in rows) > 1 and row.dropout == _PAPER_RATE:
        lines.append("The rate 0.9 is the paper's, fixed beforehand, not the best of the measured ones.")
    return " ".join(lines)


def write_page(
    path: Path,
    *,
    title: str,
    rows: Sequence[Row],
    remarks: Sequence[str],
    records: Sequence[Record],
    figure_png: bytes | None,
    dataset: Mapping[str, Any],
    examples: Examples | None,
    behaviour: Behaviour | None = None,
    rates: Table | None = None,
    settings: Mapping[str, Any],
    failed: Sequence[Mapping[str, Any]],
    command: str,
    seconds: float,
    machine: str,
) -> None:
    """Write the page of a comparison to ``path``; it loads nothing from elsewhere and runs no script.

    Args:
        path: path of the page.
        title: title of the comparison.
        rows: rows from ``summarise``, at least one.
        remarks: sentences about the runs.
        records: records of all runs.
        figure_png: figure as PNG; None for none.
        dataset: facts about the data from ``describe``.
        examples: images from ``example_grid``; None for none.
        behaviour: plain fine-tuning against dropout, image by image; None where there are not both.
        rates: table of how learning rates were chosen; None where there was one.
        settings: settings that all runs share, by name.
        failed: one entry for each run without a record: the fields that identify it, and its ``error``.
        command: command line.
        seconds: wall-clock time of the command.
        machine: processor, memory and GPU in one line.

    Raises:
        UserError: the file cannot be written.
    """
    tested = [domain for domain in rows[0].test_domains if domain]
    facts = {
        "command": command,
        "time": duration(seconds),
        "machine": machine,
        "versions": versions(),
        "dataset": dataset_line(dataset),
        **settings,
    }
    content = filled(
        "page.html",
        title=title,
        finding=prose(headline(rows)) + ".",
        lead=prose(details(rows)),
        tiles=_tiles(rows),
        dataset=dataset,
        count=len(rows),
        seeds=len({record.seed for record in records}),
        trainings=len({_training(record) for record in records}),
        together=any(record.settings.get(ALSO_TESTED) for record in records),
        complete=all(row.complete for row in rows),
        overall=_scores(rows, WITH_MACRO),
        notes=[*notes(rows), *remarks],
        tested=tested,
        figure=figure_png
        and {"png": embedded(figure_png), "width": round(Image.open(io.BytesIO(figure_png)).width / _DENSITY)},
        domains={each: _scores([row.domains[each] for row in rows], ON_A_DOMAIN) for each in tested}
        if len(tested) > 1
        else {},
        examples=examples and {**vars(examples), "png": embedded(examples.png)},
        behaviour=behaviour,
        rates=rates,
        rate_rows=[
            [(cell, "best" if (index, column) in rates.strong else "") for column, cell in enumerate(cells)]
            for index, cells in enumerate(rates.rows)
        ]
        if rates
        else [],
        score_heads=[column.head for column in WITH_MACRO],
        domain_heads=[column.head for column in ON_A_DOMAIN],
        failed=[_failed(entry) for entry in failed],
        glossary={**_GLOSSARY, **{row.method: METHODS[row.method].explanation for row in rows}},
        facts=[plain(name.replace("_", " "), shown(value)) for name, value in facts.items()],
        record_heads=(
            *("method", "dropout", "test domain", "seed", "i.i.d. %", "o.o.d. %", "macro i.i.d. %", "macro o.o.d. %"),
            *("steps", "seconds"),
        ),
        records=[_record(record) for record in records],
    )
    write_text(Path(path), content)


def _training(record: Record) -> tuple[str, float, int]:
    """What identifies the training of a record in a comparison; one training may be tested on several domains."""
    together = record.settings.get(ALSO_TESTED)
    return "" if together else record.test_domain, record.dropout, record.seed


def _untested(rows: Sequence[Row]) -> bool:
    """Whether there is no test domain."""
    return bool(rows) and not any(rows[0].test_domains)


def _focus(rows: Sequence[Row]) -> Row | None:
    """The row of the headline: fine-tuning with the dropout rate nearest to the paper's."""
    with_dropout = [row for row in rows if row.method == "fine-tuning" and row.dropout > 0]
    return min(with_dropout, key=lambda row: abs(row.dropout - _PAPER_RATE), default=None)


def main_rate(rows: Sequence[Row]) -> float | None:
    """The dropout rate that the page compares with none; None where it cannot."""
    row = _focus(rows)
    return row.dropout if row is not None and _baseline(rows) is not None else None


def _baseline(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.baseline), None)


def _clear(gain: Estimate) -> bool:
    """Whether a gain is more than two standard errors from zero."""
    return gain.error is not None and abs(gain.mean) > 2 * gain.error


def _said(number: str) -> str:
    """``number`` for a sentence, without the ``–`` for the unknown error of one seed."""
    return number.removesuffix(" ± –")


def _called(row: Row) -> str:
    return row.name if row.baseline else f"{METHODS[row.method].label} with dropout {row.dropout:g}"


def _tiles(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """CSS class, name, number and remark of each tile; none where nothing can be compared."""
    row, baseline = _focus(rows), _baseline(rows)
    if row is None or baseline is None:
        return []
    tiles = [
        (kind, name, f"{_said(percent(each.ood))} %", f"i.i.d. {_said(percent(each.iid))} %")
        for kind, name, each in (("", baseline.name, baseline), ("main", f"dropout {row.dropout:g}", row))
    ]
    return [*tiles, ("", "gain", _said(percentage_points(row.gain)), "percentage points, paired by seed")]


def _scores(rows: Sequence[Row], columns: Sequence[Column]) -> list[Cells]:
    """The table of scores."""
    winners = best(rows)
    table = []
    for index, row in enumerate(rows):
        clear = row.gain and _clear(row.gain)
        colour = "" if not clear else "good" if row.gain and row.gain.mean > 0 else "bad"
        kinds = {OOD: "best" if index in winners else "", GAIN: colour}
        base = "base " if row.baseline else ""
        table.append([(column.cell(row), f"{base}{kinds.get(column, '')}".strip()) for column in columns])
    return table


def _record(record: Record) -> Cells:
    known = (record.iid_accuracy, record.ood_accuracy, record.iid_macro_accuracy, record.ood_macro_accuracy)
    scores = ("–" if score is None else f"{100 * score:.1f}" for score in known)
    run = (f"{record.dropout:g}", record.test_domain, str(record.seed))
    method = f"{record.method}, {ALPHA} {record.settings[ALPHA]:g}" if ALPHA in record.settings else record.method
    return plain(method, *run, *scores, str(record.steps), f"{record.seconds:.0f}")


def _failed(entry: Mapping[str, Any]) -> Cells:
    """The settings of a failed run, and the reason."""
    known = {key: value for key, value in entry.items() if key != "error" and value != ""}
    named = [f"{key.replace('_', ' ')} {shown(value)}" for key, value in known.items()]
    return plain(", ".join(named), str(entry["error"]))
