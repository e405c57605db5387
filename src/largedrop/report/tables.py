"""The tables of a report: what each group of settings reaches, beside the paper's numbers where there are any."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.across import Across
from ..runs.estimate import Estimate, estimate_json, listing, percent, points
from ..runs.interpolation import KINDS
from ..runs.methods import METHODS, PLAIN, method_of, order
from ..runs.record import shown
from ..selection.averages import Missing
from ..selection.curves import Mean, names_of
from ..selection.selection import Choice
from .published import SOURCE, Centre, Published
from .text import Table

__all__ = [
    "Line",
    "across_table",
    "chosen_table",
    "csv_text",
    "curves_table",
    "gain_of",
    "missing_lines",
    "published_table",
    "selected_table",
]


def curves_table(means: Sequence[Mean]) -> Table:
    """Accuracies over α, four rows for each group: weights and representations, o.o.d. and i.i.d."""
    alphas = list(dict.fromkeys(alpha for mean in means for alpha in mean.alphas))
    alphas.sort()
    rows = []
    for name, mean in zip(names_of(means), means, strict=True):
        for place, score in ((1, "o.o.d."), (0, "i.i.d.")):
            for kind in KINDS:
                at = dict(zip(mean.alphas, (pair[place] for pair in mean.estimates[kind]), strict=True))
                rows.append([name, kind, score, *(percent(at.get(alpha)) for alpha in alphas)])
    ends = listing(list(dict.fromkeys(mean.which for mean in means)))
    seeds = sorted({mean.estimates["weights"][0][0].n for mean in means})
    notes = [
        f"Accuracy in %, mean ± standard error over {' or '.join(map(str, seeds))} seed{'s'[: seeds != [1]]}, averaged "
        "over the test domains; no selection among settings.",
        f"α = 0: the {ends} checkpoint; α = 1: the pretrained network, its last layer a linear probe fitted as a warm "
        "start is. Weights: all of them interpolated. Representations: Φ and the last layer interpolated.",
    ]
    gone = [
        f"{name}: {domain}, seed {seed}"
        for name, mean in zip(names_of(means), means, strict=True)
        for domain, seed in mean.missing
    ]
    notes.append(
        f"Missing interpolations: {'; '.join(gone[:3]) or 'none'}{f' … {len(gone) - 3} more' if gone[3:] else ''}."
    )
    heads = ["fine-tuning", "interpolated", "accuracy", *(f"α = {alpha:g}" for alpha in alphas)]
    return Table("Interpolation of the pretrained and the fine-tuned network", heads, rows, notes, 3)


RULE_TEXTS = {
    "iid": "for each test domain the setting of best i.i.d. accuracy, averaged over seeds (training-domain validation)",
    "leave-one-domain-out": "for each test domain the setting that does best on the other domains when trained "
    "without them and without the test domain (leave-one-domain-out validation)",
    "oracle": "for each test domain the setting of best o.o.d. accuracy on that same test domain: an oracle, which "
    "looks at what it then reports, so an upper bound and no method",
}


_MOST_NAMED = 3


@dataclass(frozen=True)
class Line:
    """A group of settings in a report.

    Attributes:
        choice: what the selection rule reaches.
        number: how many settings the group has.
        dots: points of its cloud: the combinations over the test domains.
        centre: i.i.d. and o.o.d. accuracy of the cloud's centre, over seeds; None where a test domain has no setting.
        gain: see ``gain_of``.
        published: the paper's centre, where it has one.
        differs: how its runs differ from the paper's protocol.
    """

    choice: Choice
    number: int
    dots: int
    centre: tuple[Estimate, Estimate] | None
    gain: Estimate | None
    published: Centre | None
    differs: tuple[str, ...]

    @property
    def difference(self) -> Estimate | None:
        """O.o.d. accuracy of the centre minus the published one, as a fraction."""
        if self.centre is None or self.published is None:
            return None
        ood = self.centre[1]
        return Estimate(round(ood.mean - self.published.ood / 100, 12), ood.error, ood.n)

    def to_json(self) -> dict[str, Any]:
        """The line as plain JSON types, accuracies as fractions."""
        centre = self.centre and {"iid": estimate_json(self.centre[0]), "ood": estimate_json(self.centre[1])}
        theirs = self.published
        of_paper = theirs and {
            "iid": None if theirs.iid is None else round(theirs.iid / 100, 12),
            "ood": round(theirs.ood / 100, 12),
            "difference_ood": estimate_json(self.difference),
            "protocol_differs": list(self.differs),
        }
        return {
            **self.choice.to_json(),
            "gain": estimate_json(self.gain),
            "settings_chosen_among": self.number,
            "cloud": {"dots": self.dots, "centre": centre},
            "published": of_paper,
        }


def selected_table(lines: Sequence[Line], domains: Sequence[str], seeds: Sequence[int], tuned: Sequence[str]) -> Table:
    """What the rule's choices reach: i.i.d. and o.o.d. accuracy, averaged and on each test domain."""
    by_domain = list(domains) if len(domains) > 1 else []
    varied = _varied(lines)
    heads = [
        *_heads(varied),
        "i.i.d.",
        "o.o.d.",
        "gain",
        "n",
        *(f"o.o.d. on {domain}" for domain in by_domain),
        "missing",
    ]
    rows = []
    for line in lines:
        choice = line.choice
        cells = [*_names(choice, varied), percent(choice.iid), percent(choice.ood)]
        cells += ["baseline" if _is_baseline(choice) else points(line.gain), str(len(choice.by_seed))]
        for domain in by_domain:
            found = choice.domains.get(domain)
            cells.append(percent(found[1] if found else None))
        rows.append([*cells, str(len(choice.missing))])
    rule = lines[0].choice.rule
    notes = [
        f"Accuracy in %, mean ± standard error over n of {len(seeds)} seed{'s'[: len(seeds) != 1]}"
        f"{f', averaged over the test domains {listing(domains)}' if by_domain else f'; test domain {domains[0]}'}.",
        "Gain: o.o.d. points above plain fine-tuning (dropout 0) with the same other settings, paired by seed.",
        f"Selection ({rule}): {RULE_TEXTS[rule]}; chosen among {listing(list(tuned)) or 'nothing'}.",
        _missing_note([line.choice for line in lines]),
    ]
    return Table("Methods, each with its selected settings", heads, rows, notes, 1)


def published_table(lines: Sequence[Line], paper: Published, tuned: Sequence[str]) -> Table:
    """The centres of the clouds that the paper has too; selection plays no part in either."""
    lines = [line for line in lines if line.published]
    varied = _varied(lines)
    heads = [*_heads(varied), "dots", "centre i.i.d.", "centre o.o.d.", "n"]
    heads += ["paper i.i.d.", "paper o.o.d.", "difference o.o.d.", "missing"]
    rows = []
    for line in lines:
        iid, ood = line.centre or (None, None)
        theirs = line.published
        cells = [*_names(line.choice, varied), f"{line.dots:,}", percent(iid), percent(ood), str(ood.n if ood else 0)]
        cells += [_decimal(theirs.iid if theirs else None), _decimal(theirs.ood if theirs else None)]
        rows.append([*cells, points(line.difference), str(len(line.choice.missing))])
    notes = [
        "Accuracy in %, mean ± standard error over n seeds of the centre of each cloud: averaged over all "
        f"{listing(list(tuned)) or 'settings'} and the test domains. Selection: none, as in the published centres.",
        f"Paper: {SOURCE}.",
    ]
    texts = dict.fromkeys(line.differs for line in lines)
    for differs in texts:
        names = [_name(line.choice) for line in lines if line.differs == differs]
        where = "" if len(texts) == 1 else f" ({'; '.join(names)})"
        notes.append(
            f"Protocol differs from the paper's{where}: {'; '.join(differs)}."
            if differs
            else f"Protocol as the paper's{where}."
        )
    if not lines:
        notes.append("The paper has no number for any of these methods and dropout rates.")
    notes.append(_missing_note([line.choice for line in lines]))
    return Table(f"Clouds beside the paper's, {paper.name}", heads, rows, notes, 1)


def chosen_table(lines: Sequence[Line], domains: Sequence[str], tuned: Sequence[str]) -> Table:
    """Which settings were chosen for each test domain."""
    rows = []
    for line in lines:
        chosen = line.choice.chosen
        own = "all of them" if METHODS[line.choice.group.method].across else None
        cells = [own or chosen[domain].only(*tuned) if domain in chosen else "none is complete" for domain in domains]
        rows.append([_name(line.choice), *cells])
    notes = [f"Selection: {lines[0].choice.rule}.", _missing_note([line.choice for line in lines])]
    return Table("Selected settings by test domain", ["method", *domains], rows, notes, 1 + len(domains))


def gain_of(choice: Choice, baseline: Choice | None) -> Estimate | None:
    """O.o.d. accuracy minus that of plain fine-tuning, over the seeds that have all test domains of both.

    Paired by seed, so that what makes a seed's split easy or hard cancels. None for plain fine-tuning itself, and where
    there is nothing to pair with.
    """
    if baseline is None or _is_baseline(choice):
        return None
    both = [seed for seed in choice.by_seed if seed in baseline.by_seed]
    return Estimate.of([choice.by_seed[seed][1] - baseline.by_seed[seed][1] for seed in both])


def across_table(results: Sequence[Across], lines: Sequence[Line], domains: Sequence[str]) -> Table:
    """What the methods reach across the trajectories of every seed together: o.o.d. accuracies alone."""
    varied = _varied(lines)
    by_domain = list(domains) if len(domains) > 1 else []
    heads = [*_heads(varied), "i.i.d.", "o.o.d.", *(f"o.o.d. on {domain}" for domain in by_domain), "trajectories"]
    rows = []
    for found in _every_seed(results, domains):
        first = next(iter(found.values()))
        ood = {domain: f"{100 * result.ood_accuracy:.1f}" for domain, result in found.items()}
        whole = len(found) == len(domains)
        mean = f"{100 * sum(each.ood_accuracy for each in found.values()) / len(found):.1f}" if whole else "–"
        own = [shown(first.settings[name]) if name in first.settings else "–" for name in varied]
        cells = [first.method, f"{first.dropout:g}", *own, "–", mean, *(ood.get(domain, "–") for domain in by_domain)]
        rows.append([*cells, " or ".join(map(str, sorted({len(each.members) for each in found.values()})))])
    notes = [
        "Accuracy in %. One number for each test domain, so no standard error; no selection.",
        "I.i.d. accuracy is undefined: each seed holds other images out, and what one holds out another was trained "
        "on. For the same reason there is no greedy soup.",
    ]
    return Table("Across the trajectories of every seed", heads, rows, notes, 1)


def _every_seed(results: Sequence[Across], domains: Sequence[str]) -> list[dict[str, Across]]:
    """By method, dropout rate and settings: the results by test domain, in order."""
    found: dict[tuple[Any, ...], dict[str, Across]] = {}
    for result in results:
        key = (order(result.method), result.dropout, json.dumps(dict(result.settings), sort_keys=True))
        found.setdefault(key, {})[result.test_domain] = result
    return [{domain: found[key][domain] for domain in domains if domain in found[key]} for key in sorted(found)]


def csv_text(lines: Sequence[Line], domains: Sequence[str], every_seed: Sequence[Across] = ()) -> str:
    """Every number in %, unrounded: a row for each group's average and for each of its test domains.

    Results across the trajectories of every seed are there by test domain, with selection ``none: every seed``.
    """
    heads = ["method", "dropout", "settings", "selection", "test_domain", "chosen", "n"]
    heads += ["iid", "iid_standard_error", "ood", "ood_standard_error", "gain", "gain_standard_error"]
    heads += ["missing", "cloud_dots", "centre_n"]
    heads += ["centre_iid", "centre_iid_standard_error", "centre_ood", "centre_ood_standard_error"]
    heads += ["paper_iid", "paper_ood", "difference_ood", "protocol_differs"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    for line in lines:
        choice, theirs = line.choice, line.published
        first = [
            choice.group.method,
            f"{choice.group.dropout:g}",
            choice.group.only(*_items(choice)) if choice.group.items else "",
            choice.rule,
        ]
        iid, ood = line.centre or (None, None)
        row = [*first, "average", "", len(choice.by_seed), *_pair(choice.iid), *_pair(choice.ood), *_pair(line.gain)]
        row += [len(choice.missing), line.dots, ood.n if ood else 0, *_pair(iid), *_pair(ood)]
        row += [theirs.iid if theirs and theirs.iid is not None else "", theirs.ood if theirs else ""]
        writer.writerow([*row, _pair(line.difference)[0], "; ".join(line.differs) if theirs else ""])
        for domain in domains:
            iid, ood = choice.domains.get(domain, (None, None))
            chosen = str(choice.chosen[domain]) if domain in choice.chosen else ""
            gone = sum(entry.test_domain == domain for entry in choice.missing)
            row = [*first, domain, chosen, ood.n if ood else 0, *_pair(iid), *_pair(ood), "", "", gone]
            writer.writerow([*row, *[""] * (len(heads) - len(row))])
    varied = _varied(lines)
    for result in (each for found in _every_seed(every_seed, domains) for each in found.values()):
        settings = ", ".join(f"{name} {shown(result.settings[name])}" for name in varied if name in result.settings)
        row = [result.method, f"{result.dropout:g}", settings, "none: every seed", result.test_domain, "", ""]
        row += ["", "", round(100 * result.ood_accuracy, 10)]
        writer.writerow([*row, *[""] * (len(heads) - len(row))])
    return buffer.getvalue()


def missing_lines(missing: Iterable[Missing]) -> list[str]:
    """Missing runs by setting and test domain, with their seeds."""
    seeds: dict[str, list[int]] = {}
    for entry in missing:
        seeds.setdefault(f"{entry.setting}; test domain {entry.test_domain}", []).append(entry.seed)
    return [f"{name}, seed{'s'[: len(which) > 1]} {', '.join(map(str, which))}" for name, which in seeds.items()]


def _missing_note(choices: Sequence[Choice]) -> str:
    missing = [entry for choice in choices for entry in choice.missing]
    if not missing:
        return "Missing runs: none."
    named = missing_lines(missing)
    more = len(named) - _MOST_NAMED
    return f"Missing runs: {len(missing)} ({' | '.join(named[:_MOST_NAMED])}{f' | … {more} more' if more > 0 else ''})."


def _varied(lines: Sequence[Line]) -> list[str]:
    return sorted({name for line in lines for name, _ in line.choice.group.items})


def _heads(varied: Sequence[str]) -> list[str]:
    return ["method", "dropout", *varied]


def _names(choice: Choice, varied: Sequence[str]) -> list[str]:
    group = choice.group
    own = [group.only(name).removeprefix(f"{name} ") for name in varied]
    return [group.method, f"{group.dropout:g}", *own]


def _name(choice: Choice) -> str:
    return str(choice.group)


def _is_baseline(choice: Choice) -> bool:
    return method_of(choice.group.method, choice.group.dropout) is PLAIN


def _items(choice: Choice) -> list[str]:
    return [name for name, _ in choice.group.items]


def _pair(estimate: Estimate | None) -> list[Any]:
    if estimate is None:
        return ["", ""]
    error = "" if estimate.error is None else round(100 * estimate.error, 10)
    return [round(100 * estimate.mean, 10), error]


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def counts(facts: Mapping[str, Any]) -> str:
    """The dataset in a few words.

    >>> counts({"name": "toy", "domains": {"a": 1200, "b": 3}, "classes": ["x"]})
    'toy: 2 domains (a 1,200, b 3), 1 class'
    """
    text = str(facts["name"])
    if facts.get("domains"):
        listed = ", ".join(f"{name} {count:,}" for name, count in facts["domains"].items())
        text += f": {len(facts['domains'])} domains ({listed})"
    if facts.get("classes"):
        text += f", {len(facts['classes'])} class{'es' if len(facts['classes']) > 1 else ''}"
    return text
