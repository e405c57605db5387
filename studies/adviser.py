"""How good is the adviser? Its rate against the best rate of full fine-tuning, for every test domain of stored runs.

Reads the runs of a sweep or of comparisons and takes for each test domain and rate the fine-tuning of best i.i.d.
accuracy over whatever else was varied (learning rate, weight decay). Is the rate that ``largedrop advise`` gives, which
never looks at the test domain, within one standard error of the best? And how often are 0.9 and 0.5, always taken? The
adviser chooses among the rates that were fine-tuned.

    python studies/adviser.py --data path/to/PACS --runs sweeps/PACS/runs --json adviser.json
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from largedrop.analysis.advice import Advice, advise
from largedrop.cli.terminal import ProgressBar
from largedrop.config import Config
from largedrop.data import open_dataset
from largedrop.errors import UserError
from largedrop.files import write_json
from largedrop.runs.estimate import Estimate, percent
from largedrop.runs.read import read_runs
from largedrop.runs.record import Record
from largedrop.training.device import choose_device

FIXED = (0.9, 0.5)
"""Strategies that need no adviser."""
Scores = dict[str, dict[float, dict[int, float]]]
"""O.o.d. accuracy by test domain, dropout rate and seed."""


@dataclass(frozen=True)
class Choice:
    """A rate on a test domain, against the best rate there.

    Attributes:
        rate: that was taken.
        regret: o.o.d. accuracy at the best rate less that at this one, paired by seed; a mean of 0 for the best itself.
        within: whether the regret's mean is at most one standard error of an accuracy at this test domain, pooled over
            the rates, since a few seeds give a poor one for each. None where there is one seed and the regret is not 0.
    """

    rate: float
    regret: Estimate
    within: bool | None


@dataclass(frozen=True)
class Verdict:
    """A test domain: its best rate, and each strategy's choice; None where that rate was not fine-tuned."""

    domain: str
    best: float
    best_accuracy: Estimate
    choices: Mapping[str, Choice | None]


def scores_of(records: Iterable[Record], method: str = "fine-tuning") -> Scores:
    """O.o.d. accuracy of the setting of best i.i.d. accuracy for each test domain, rate and seed.

    Only seeds that have all rates of their test domain are kept, with the settings that all of these have, so that
    every rate has had as many to choose from.

    Raises:
        UserError: no test domain has a seed with two rates or more.
    """
    found: dict[str, dict[tuple[float, int], dict[str, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.method == method:
            key = repr(sorted(record.settings.items()))
            found[record.test_domain][record.dropout, record.seed][key] = record
    scores: Scores = {}
    for domain, cells in found.items():
        rates = sorted({rate for rate, _ in cells})
        for seed in sorted({seed for _, seed in cells}):
            if not all((rate, seed) in cells for rate in rates):
                continue
            shared = set.intersection(*(set(cells[rate, seed]) for rate in rates))
            if not shared or len(rates) < 2:
                continue
            for rate in rates:
                taken = max((cells[rate, seed][key] for key in sorted(shared)), key=lambda record: record.iid_accuracy)
                scores.setdefault(domain, {}).setdefault(rate, {})[seed] = taken.ood_accuracy or 0.0
    if not scores:
        raise UserError(f"no test domain has a seed with two dropout rates of {method} or more")
    return scores


def judge(scores: Scores, advised: Mapping[str, float]) -> list[Verdict]:
    """Each strategy's choice on each test domain.

    Raises:
        UserError: a test domain has no advice.
    """
    verdicts = []
    for domain, rates in scores.items():
        if domain not in advised:
            raise UserError(f"there is no advice for the test domain '{domain}'")
        means = {rate: sum(seeds.values()) / len(seeds) for rate, seeds in rates.items()}
        best = max(sorted(means), key=lambda rate: means[rate])
        strategies = {"advised": advised[domain], **{f"always {rate:g}": rate for rate in FIXED}}
        choices = {name: _choice(rates, best, rate) if rate in rates else None for name, rate in strategies.items()}
        verdicts.append(Verdict(domain, best, Estimate.of(list(rates[best].values())), choices))
    return verdicts


def _choice(rates: Mapping[float, Mapping[int, float]], best: float, rate: float) -> Choice:
    regret = Estimate.of([rates[best][seed] - rates[rate][seed] for seed in rates[best]])
    variances = [error**2 for seeds in rates.values() if (error := Estimate.of(list(seeds.values())).error) is not None]
    error = math.sqrt(sum(variances) / len(variances)) if variances else None
    within = True if regret.mean <= 0 else None if error is None else regret.mean <= error
    return Choice(rate, regret, within)


def markdown(verdicts: Sequence[Verdict], told: Mapping[str, str] | None = None) -> str:
    """A row for each test domain and two for their summary; ``told`` is the adviser's verdict by test domain."""
    names = list(verdicts[0].choices)
    lines = [
        f"| test domain | best rate | o.o.d. there (%) | {' | '.join(names)} |",
        f"| --- | ---: | ---: | {' | '.join(['---:'] * len(names))} |",
    ]
    for verdict in verdicts:
        cells = [verdict.domain, f"{verdict.best:g}", percent(verdict.best_accuracy)]
        for name in names:
            cell = _cell(verdict.choices[name])
            cells.append(f"{cell}; {told[verdict.domain]}" if told and name == "advised" else cell)
        lines.append(f"| {' | '.join(cells)} |")
    chosen = {name: [c for v in verdicts if (c := v.choices[name]) is not None] for name in names}
    lines.append(f"| within one standard error of the best | | | {' | '.join(_share(chosen[n]) for n in names)} |")
    lines.append(f"| mean regret (points; ± over test domains) | | | {' | '.join(_regret(chosen[n]) for n in names)} |")
    seeds = sorted({verdict.best_accuracy.n for verdict in verdicts})
    lines += [
        "",
        f"Fine-tuning with {' or '.join(map(str, seeds))} seed{'s' * (seeds[-1] > 1)} for each rate. In brackets, the "
        "regret: points of o.o.d. accuracy below the best rate, paired by seed, and its standard error.",
        "The best rate is the best of noisy means, so a regret is too large rather than too small.",
    ]
    return "\n".join(lines)


def _cell(choice: Choice | None) -> str:
    if choice is None:
        return "not fine-tuned"
    word = {True: "yes", False: "no", None: "one seed"}[choice.within]
    return f"{choice.rate:g}: {word} ({percent(choice.regret)})"


def _share(choices: Sequence[Choice]) -> str:
    known = [choice.within for choice in choices if choice.within is not None]
    return f"{sum(known)} of {len(known)}"


def _regret(choices: Sequence[Choice]) -> str:
    return percent(Estimate.of([choice.regret.mean for choice in choices])) if choices else "–"


def as_json(verdicts: Sequence[Verdict], advice: Mapping[str, Advice]) -> list[dict[str, Any]]:
    """The table's numbers, fractions."""
    return [
        {
            "test_domain": verdict.domain,
            "best_rate": verdict.best,
            "best_ood_accuracy": verdict.best_accuracy.mean,
            "seeds": verdict.best_accuracy.n,
            "verdict": advice[verdict.domain].verdict,
            "reason": advice[verdict.domain].reason,
            "choices": {
                name: None
                if choice is None
                else {
                    "rate": choice.rate,
                    "regret": choice.regret.mean,
                    "error": choice.regret.error,
                    "within": choice.within,
                }
                for name, choice in verdict.choices.items()
            },
        }
        for verdict in verdicts
    ]


def main() -> None:
    """Print the table of a folder of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the images of the runs: a folder, or 'emoji'")
    parser.add_argument("--runs", required=True, type=Path, help="a folder with finished runs, at any depth")
    parser.add_argument("--method", default="fine-tuning", help="whose records are compared")
    parser.add_argument("--seeds", type=int, default=2, help="splits of the adviser")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    given = parser.parse_args()
    console = Console(stderr=True)
    found = read_runs(given.runs)
    for entry in found.unusable:
        console.print(f"unusable: {entry}", highlight=False, soft_wrap=True)
    scores = scores_of(found.records, given.method)
    first: Config = found.runs[0].config
    if len({(run.config.model, run.config.size, run.config.weights_digest) for run in found.runs}) > 1:
        raise UserError("the runs are of several networks, weights or sizes; the adviser advises on one")
    data = open_dataset(given.data, bound=max(320, first.size * 5 // 4))
    if data.fingerprint != first.fingerprint:
        raise UserError(f"the runs were trained on other images than {given.data} has")
    advice: dict[str, Advice] = {}
    for domain, rates in scores.items():
        with ProgressBar(console, 2 * len(data), f"advising for {domain}") as bar:
            advice[domain] = advise(
                data,
                test_domain=domain,
                model=first.model,
                size=first.size,
                weights=first.weights,
                precision=first.precision,
                rates=rates,
                seeds=range(given.seeds),
                device=choose_device(given.device),
                reporter=bar,
            )
        console.print(f"{domain}: {advice[domain].rate:g}: {advice[domain].reason}", highlight=False)
    verdicts = judge(scores, {domain: each.rate for domain, each in advice.items()})
    print(markdown(verdicts, {domain: each.verdict for domain, each in advice.items()}))
    if given.json is not None:
        write_json(given.json, as_json(verdicts, advice))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"adviser: {error}")
