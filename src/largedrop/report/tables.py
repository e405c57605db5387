"""The tables of results, and of the comparison with the paper's numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..experiments.learning_rates import Choice
from ..runs.across import Across
from ..runs.estimate import listing, percent, tested_on
from ..runs.interpolation import INTERPOLATED
from ..runs.methods import METHODS, order
from ..runs.record import ALPHA, shown
from ..selection.averages import Missing, cut
from ..selection.curves import MeanCurve, names_of
from ..selection.row import Row
from ..selection.settings import MASKS, Setting
from .columns import (
    CENTRE_IID,
    CENTRE_N,
    CENTRE_OOD,
    DOTS,
    DROPOUT,
    MACRO,
    METHOD,
    MISSING,
    OOD,
    SCORES,
    STARRED,
    TIME,
    Column,
    N,
    on,
    paper_columns,
    varied,
)
from .published import SOURCE, Beside, Published
from .text import Table

__all__ = [
    *("COMPARED", "ON_A_DOMAIN", "across_table", "best", "chosen_table", "compared_tables", "curves_table"),
    *("WITH_MACRO", "every_seed", "missing_lines", "notes", "published_table", "rates_table", "selected_table"),
]

RULE_TEXTS = {
    "iid": "for each test domain the setting of best i.i.d. accuracy, averaged over seeds (training-domain validation)",
    "iid-macro": "for each test domain the setting of best i.i.d. macro accuracy, averaged over seeds (training-domain "
    "validation, every class of the same weight)",
    "leave-one-domain-out": "for each test domain the setting that does best on the other domains when trained "
    "without them and without the test domain (leave-one-domain-out validation)",
    "oracle": "for each test domain the setting of best o.o.d. accuracy on that same test domain: an oracle, which "
    "selects by the accuracy that it reports, so an upper bound and not a method",
}

MACRO_TEXT = (
    "Macro accuracy: the mean over the classes that a domain has images of, then over the domains; – in runs of before."
)

_MOST_NAMED = 3


def table_of(
    title: str, columns: Sequence[Column], rows: Iterable[Row], notes: Sequence[str] = (), **more: Any
) -> Table:
    """A table of rows; ``more`` are further fields of ``Table``."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Table(title, [column.head for column in columns], cells, notes, **more)


ON_A_DOMAIN = (STARRED, DROPOUT, *SCORES)
"""The columns of a comparison on one test domain."""

COMPARED = (*ON_A_DOMAIN, TIME)
"""The columns of a comparison."""

WITH_MACRO = (*ON_A_DOMAIN, *MACRO, TIME)
"""The columns of a comparison where there is room."""


def best(rows: Sequence[Row]) -> set[int]:
    """Indices of the rows of highest o.o.d. accuracy, to one decimal.

    Rows with missing runs do not count, since their mean is over other seeds.
    """
    shown = {index: round(100 * row.ood.mean, 1) for index, row in enumerate(rows) if row.ood and row.complete}
    return {index for index, value in shown.items() if value == max(shown.values())}


def compared_tables(rows: Sequence[Row], width: int) -> list[Table]:
    """The tables of a comparison: averages with notes, macro accuracy, then o.o.d. accuracy by test domain.

    Test domains are divided into tables that are at most ``width`` characters wide.
    """
    strong = frozenset((index, COMPARED.index(OOD)) for index in best(rows))
    tables = [table_of("", COMPARED, rows, notes(rows), strong=strong)]
    if any(row.iid_macro for row in rows):
        tables.append(table_of("macro accuracy: the mean over the classes", (STARRED, DROPOUT, *MACRO), rows))
    domains = rows[0].test_domains
    for chunk in _chunks(domains, width - 28) if len(domains) > 1 else ():
        columns = [STARRED, DROPOUT, *(replace(on(OOD, domain), head=domain) for domain in chunk)]
        strong = frozenset(
            (index, 2 + column)
            for column, domain in enumerate(chunk)
            for index in best([row.domains[domain] for row in rows])
        )
        tables.append(table_of("o.o.d. accuracy by test domain", columns, rows, strong=strong))
    return tables


def rates_table(choices: Iterable[Choice], select_by: str, seed: int) -> Table:
    """The accuracies by which the learning rate of each dropout rate and test domain was chosen."""
    choices = list(choices)
    rates = list(choices[0].tried)
    cells, strong = [], set()
    for index, choice in enumerate(choices):
        scores = ("–" if isinstance(score, str) else f"{100 * score:.1f}" for score in choice.tried.values())
        cells.append([f"{choice.dropout:g}", listing(choice.test_domains) or "none", *scores])
        if choice.chosen is not None:
            strong.add((index, 2 + rates.index(choice.chosen)))
            cells[-1][2 + rates.index(choice.chosen)] += " *"
    score = "macro accuracy" if select_by == "iid-macro" else "accuracy"
    lines = [f"I.i.d. {score} of the best checkpoint in %, seed {seed}. *: the best, which every seed is trained with."]
    if any(isinstance(score, str) for choice in choices for score in choice.tried.values()):
        lines.append("–: the run collapsed, or is damaged.")
    heads = ["dropout", "test domain", *(f"{rate:g}" for rate in rates)]
    return Table("learning rates", heads, cells, lines, left=2, strong=frozenset(strong))


def notes(rows: Sequence[Row]) -> list[str]:
    """The notes of a table: units, number of seeds, and missing runs."""
    domains = rows[0].test_domains
    counts = sorted({row.n for row in rows if row.complete and row.n})
    seeds = (
        " or ".join(str(count) for count in counts) + (" seed" if counts == [1] else " seeds") if counts else "seeds"
    )
    spread = "mean ± standard error over" if counts != [1] else "mean over"
    over = f", averaged over the {tested_on(domains)}" if len(domains) > 1 else f"; {tested_on(domains)}"
    lines = [f"Accuracy in %, {spread} {seeds}{over}."]
    plain = next((row.name for row in rows if row.baseline), None)
    if any(row.gain for row in rows):
        lines.append(f"Gain: percentage points o.o.d. above {plain}, paired by test domain and seed.")
    elif plain is None and any(domains):
        lines.append("No gains: plain fine-tuning (dropout 0) is not among the results.")
    if any(row.seconds is not None for row in rows):
        lines.append("Time: training and evaluations of a run; methods along one training share it.")
    if counts == [1]:
        lines.append("One seed gives no standard error (–).")
    for row in rows:
        ways = [
            f"{found.alpha}{f' on {domain}' if domain else ''}" for domain, found in row.chosen.items() if found.alpha
        ]
        if ways:
            score = "macro accuracy" if _by_macro(rows) else "accuracy"
            lines.append(f"{row.method}, dropout {row.dropout:g}: {ALPHA} {listing(ways)}, by i.i.d. {score}.")
        if not row.complete:
            missing = _seeds((run.test_domain, run.seed) for run in row.missing)
            told = listing([f"{domain} ({seeds})" for domain, seeds in missing.items()])
            lines.append(f"* {row.method}, dropout {row.dropout:g}: no record of {told}; {_used(row.n)}.")
        gain, ood = row.gain, row.ood
        if ood and not row.baseline and plain and (gain.n if gain else 0) < ood.n:
            lines.append(
                f"{row.method}, dropout {row.dropout:g}: the gain is over {gain.n if gain else 0} of {ood.n} seeds, "
                f"those that {plain} has as well."
            )
    return lines


def selected_table(rows: Sequence[Row], tuned: Sequence[str]) -> Table:
    """I.i.d. and o.o.d. accuracy of the chosen settings, averaged and on each test domain."""
    domains, seeds, rule = rows[0].test_domains, rows[0].averages.seeds, rows[0].rule
    among = [*tuned, *([ALPHA] if any(each.alpha for row in rows for each in row.candidates) else ())]
    by_domain = [on(OOD, domain) for domain in domains] if len(domains) > 1 else []
    where = f", averaged over the {tested_on(domains)}" if by_domain else f"; {tested_on(domains)}"
    notes = [
        f"Accuracy in %, mean ± standard error over n of {len(seeds)} seed{'s'[: len(seeds) != 1]}{where}.",
        "Gain: percentage points o.o.d. above plain fine-tuning (dropout 0) with the same other settings, paired by "
        "seed.",
        MACRO_TEXT,
        f"Selection ({rule}): {_rule_text(rows)}; chosen among {listing(among) or 'nothing'}.",
        _missing_note(rows),
    ]
    columns = [METHOD, DROPOUT, *varied(rows), *SCORES, *MACRO, N, *by_domain, MISSING]
    return table_of("Methods, each with its selected settings", columns, rows, notes)


def _rule_text(rows: Sequence[Row]) -> str:
    return RULE_TEXTS["iid-macro" if rows[0].rule == "iid" and _by_macro(rows) else rows[0].rule]


def _by_macro(rows: Sequence[Row]) -> bool:
    """Whether all runs select by macro accuracy."""
    return {each.get("select_by") for used in rows[0].averages.used.values() for each in used} == {"iid-macro"}


def published_table(
    rows: Sequence[Row], paper: Published, beside: Mapping[Setting, Beside], tuned: Sequence[str]
) -> Table:
    """The centres of the clouds beside the paper's, without selection."""
    rows = [row for row in rows if row.setting in beside]
    notes = [
        "Accuracy in %, mean ± standard error over n seeds of the centre of each cloud: averaged over all "
        f"{listing(tuned) or 'settings'} and the test domains. Selection: none, as in the published centres.",
        f"Paper: {SOURCE}.",
    ]
    texts = dict.fromkeys(beside[row.setting].differs for row in rows)
    for differs in texts:
        names = [str(row.setting) for row in rows if beside[row.setting].differs == differs]
        where = "" if len(texts) == 1 else f" ({'; '.join(names)})"
        notes.append(
            f"Protocol differs from the paper's{where}: {'; '.join(differs)}."
            if differs
            else f"Protocol as the paper's{where}."
        )
    if not rows:
        notes.append(
            "The paper has no number for any of these methods and dropout rates, of networks with such weights."
        )
    notes.append(_missing_note(rows))
    numbers = paper_columns(beside)[:3]
    columns = [METHOD, DROPOUT, *varied(rows), DOTS, CENTRE_IID, CENTRE_OOD, CENTRE_N, *numbers, MISSING]
    return table_of(f"Clouds beside the paper's, {paper.name}", columns, rows, notes)


def chosen_table(rows: Sequence[Row], tuned: Sequence[str]) -> Table:
    """The chosen settings for each test domain."""
    domains = rows[0].test_domains
    cells = []
    for row in rows:
        own = "all" if METHODS[row.method].across else None
        known = {domain: own or setting.only(*tuned, ALPHA) for domain, setting in row.chosen.items()}
        named = [known.get(domain, "none is complete") for domain in domains]
        cells.append([str(row.setting), *named])
    notes = [f"Selection: {rows[0].rule}.", _missing_note(rows)]
    heads = ["method", *(domain or "no test domain" for domain in domains)]
    return Table("Selected settings by test domain", heads, cells, notes, left=1 + len(domains))


def across_table(results: Iterable[Across], rows: Sequence[Row]) -> Table:
    """O.o.d. accuracies of the methods across the trajectories of every seed together.

    Args:
        results: results from ``every_seed``.
        rows: rows of the report, for the test domains and the settings that differ.
    """
    domains, names = rows[0].test_domains, [column.key for column in varied(rows)]
    by_domain = domains if len(domains) > 1 else ()
    groups: dict[str, dict[str, Across]] = {}
    for result in results:
        key = json.dumps([result.method, result.dropout, result.settings], sort_keys=True)
        groups.setdefault(key, {})[result.test_domain] = result
    cells = []
    for found in groups.values():
        first = next(iter(found.values()))
        ood = {domain: f"{100 * result.ood_accuracy:.1f}" for domain, result in found.items()}
        whole = len(found) == len(domains)
        mean = f"{100 * sum(each.ood_accuracy for each in found.values()) / len(found):.1f}" if whole else "–"
        own = [
            shown(first.settings[name]) if name in first.settings and (first.dropout or name != MASKS) else "–"
            for name in names
        ]
        counts = " or ".join(map(str, sorted({len(each.members) for each in found.values()})))
        scores = ["–", mean, *(ood.get(domain, "–") for domain in by_domain)]
        cells.append([first.method, f"{first.dropout:g}", *own, *scores, counts])
    heads = ["method", "dropout", *names, "i.i.d.", "o.o.d.", *(f"o.o.d. on {each}" for each in by_domain)]
    notes = [
        "Accuracy in %. One number for each test domain, so no standard error; no selection.",
        "I.i.d. accuracy is undefined: each seed holds out other images, on which runs of other seeds were trained. "
        "For the same reason there is no greedy soup.",
    ]
    return Table("Across the trajectories of every seed", [*heads, "trajectories"], cells, notes)


def every_seed(results: Iterable[Across], domains: Sequence[str]) -> list[Across]:
    """The results of every seed, sorted by method, rate, settings and test domain."""
    known = [each for each in results if each.seed is None and not each.settings.get("left_out")]
    return sorted(
        (each for each in known if each.test_domain in domains),
        key=lambda each: (
            order(each.method),
            each.dropout,
            json.dumps(dict(each.settings), sort_keys=True),
            domains.index(each.test_domain),
        ),
    )


def curves_table(means: Sequence[MeanCurve]) -> Table:
    """Accuracies over α, four rows for each setting: weights and representations, o.o.d. and i.i.d."""
    alphas = sorted({alpha for mean in means for alpha in mean.alphas})
    cells = []
    for name, mean in zip(names_of(means), means, strict=True):
        for index, score in ((1, "o.o.d."), (0, "i.i.d.")):
            for kind in INTERPOLATED:
                at = dict(zip(mean.alphas, (pair[index] for pair in mean.estimates[kind]), strict=True))
                cells.append([name, kind, score, *(percent(at.get(alpha)) for alpha in alphas)])
    ends = listing(list(dict.fromkeys(mean.which for mean in means)))
    seeds = sorted({mean.estimates["weights"][0][0].n for mean in means})
    sets = sorted({name for mean in means for name in mean.tested_on})
    over = f"{listing(sets)} (o.o.d.)" if sets else "the test domains"
    gone = [
        f"{name}: {domain}, seed {seed}"
        for name, mean in zip(names_of(means), means, strict=True)
        for domain, seed in mean.missing
    ]
    notes = [
        f"Accuracy in %, mean ± standard error over {' or '.join(map(str, seeds))} seed{'s'[: seeds != [1]]}, averaged "
        f"over {over}; no selection among settings.",
        f"α = 0: the {ends} checkpoint; α = 1: the pretrained network, its last layer a linear probe fitted as a warm "
        "start is. Weights: all weights interpolated. Representations: Φ and the last layer interpolated.",
        f"Missing interpolations: {'; '.join(gone[:3]) or 'none'}{f' … {len(gone) - 3} more' if gone[3:] else ''}.",
    ]
    heads = ["fine-tuning", "interpolated", "accuracy", *(f"α = {alpha:g}" for alpha in alphas)]
    return Table("Interpolation of the pretrained and the fine-tuned network", heads, cells, notes, left=3)


def missing_lines(missing: Iterable[Missing]) -> list[str]:
    """Lines of missing runs by setting and test domain, with seeds."""
    found = _seeds((f"{run.setting}; {tested_on([run.test_domain])}", run.seed) for run in missing)
    return [f"{name}, {seeds}" for name, seeds in found.items()]


def _seeds(named: Iterable[tuple[str, int]]) -> dict[str, str]:
    """The seeds of each name as text: ``seeds 1, 2``."""
    found: dict[str, list[int]] = {}
    for name, seed in named:
        found.setdefault(name, []).append(seed)
    return {name: f"seed{'s'[: len(each) > 1]} {', '.join(map(str, each))}" for name, each in found.items()}


def _missing_note(rows: Sequence[Row]) -> str:
    missing = [run for row in rows for run in row.missing]
    if not missing:
        return "Missing runs: none."
    return f"Missing runs: {len(missing)} ({' | '.join(cut(missing_lines(missing), 'more', _MOST_NAMED))})."


def _chunks(domains: Sequence[str], width: int) -> list[list[str]]:
    """``domains`` in chunks whose columns are at most ``width`` characters wide, at least one a chunk."""
    chunks: list[list[str]] = [[]]
    left = width
    for domain in domains:
        needs = max(len(domain), len("72.7 ± 0.4")) + 2
        if chunks[-1] and needs > left:
            chunks.append([])
            left = width
        chunks[-1].append(domain)
        left -= needs
    return chunks


def _used(n: int) -> str:
    if n == 0:
        return "no seed has every test domain, so there is no overall mean"
    return f"its overall mean is over the {n} seed{'s'[: n > 1]} with every test domain"
