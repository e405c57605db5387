"""Tables and verdicts of the studies that compare plain fine-tuning with dropout 0.9 and 0.5, both with sixteen masks:
docs/studies/confirmation.md, wider-rates.md and nine-domains.md, from the record working_point.jsonl.

    python studies/three_arms_report.py
    python studies/three_arms_report.py --figure docs/images/nine-domains.png
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paired import interval
from working_point import WIDER, WIDEST
from working_point_report import MANY, METHODS, PLAIN, RATES, RECORD, SEEDS, STEPS, Study, Values, print_or_draw, score

HALF = "0.5, 16 masks"
ARMS = (PLAIN, MANY, HALF)
LONG = 1_800


class Compared(NamedTuple):
    """The three arms on some test domains: which runs are taken.

    Attributes:
        runs: the study that has the runs.
        chosen: the learning rate by (arm, test domain).
        domains: (dataset, test domain).
        seeds: those over which each test domain's mean is taken.
    """

    runs: Study
    chosen: dict[tuple[str, str], float]
    domains: Sequence[tuple[str, str]]
    seeds: Sequence[int]

    def values(self, arm: str, method: str) -> Values:
        """I.i.d. and o.o.d. accuracy in % on each test domain, mean over seeds, (domains, 2)."""
        found = [
            [score(self.runs.runs[name, arm, self.chosen[arm, test], seed, test], method) for seed in self.seeds]
            for name, test in self.domains
        ]
        return np.asarray(100 * np.mean(found, axis=1), np.float64)

    def on(self, dataset: str) -> Compared:
        """The same on one dataset."""
        return self._replace(domains=[domain for domain in self.domains if domain[0] == dataset])


def chosen_among(study: Study, rates: Sequence[float]) -> dict[tuple[str, str], float]:
    """The learning rate of best i.i.d. accuracy with seed 0, by (arm, test domain)."""
    return {(arm, domain[1]): study.lr(arm, domain, rates) for arm in ARMS for domain in study.domains}


def whole(
    study: Study, chosen: dict[tuple[str, str], float], domains: Sequence[tuple[str, str]], seeds: Sequence[int]
) -> list[int]:
    """The seeds of which every run is done."""
    return [
        seed
        for seed in seeds
        if all((name, arm, chosen[arm, test], seed, test) in study.runs for arm in ARMS for name, test in domains)
    ]


def table(compared: Compared) -> Iterator[str]:
    """Accuracies of best checkpoints and of exponential averages."""
    yield f"| arm | i.i.d. | {' | '.join(test for _, test in compared.domains)} | o.o.d. |"
    yield f"| --- | ---: |{' ---: |' * (len(compared.domains) + 1)}"
    for arm in ARMS:
        for method in ("fine-tuning", "ema"):
            both = compared.values(arm, method)
            each = " | ".join(f"{value:.1f}" for value in both[:, 1])
            yield f"| {arm}, {METHODS[method]} | {both[:, 0].mean():.1f} | {each} | {both[:, 1].mean():.1f} |"


PAIRS = ((MANY, PLAIN), (HALF, PLAIN), (HALF, MANY))


def differences(compared: Compared, arm: str, other: str) -> tuple[str, tuple[float, float]]:
    """The difference of two arms' exponential averages in words, and that o.o.d. with half of its 95 % interval."""
    found = compared.values(arm, "ema") - compared.values(other, "ema")
    (iid, iid_half), (mean, half) = (interval(found[:, part]) for part in range(2))
    return f"{mean:+.1f} ± {half:.1f} points o.o.d., {iid:+.1f} ± {iid_half:.1f} i.i.d.", (mean, half)


def verdicts(compared: Compared) -> Iterator[str]:
    """The three verdicts by the studies' common rule."""
    for number, (arm, other) in enumerate(PAIRS, 1):
        told, (mean, half) = differences(compared, arm, other)
        good, bad = ("better", "worse") if number == 3 else ("holds", "does not hold")
        wrong = mean + half < 0 if number == 3 else mean <= 0
        verdict = good if mean - half > 0 else bad if wrong else "open"
        yield f"{number}. {arm} minus {other}: {told}: **{verdict}**."


def learning_rates(compared: Compared) -> Iterator[str]:
    """The rates that were chosen."""
    yield f"| learning rate | {' | '.join(test for _, test in compared.domains)} |"
    yield f"| --- |{' ---: |' * len(compared.domains)}"
    for arm in ARMS:
        yield f"| {arm} | {' | '.join(f'{compared.chosen[arm, test]:g}' for _, test in compared.domains)} |"


def confirmation(study: Study) -> Iterator[str]:
    """The table and the verdicts of docs/studies/confirmation.md, of the new seeds that are whole."""
    emoji = [domain for domain in study.domains if domain[0] == "emoji"]
    chosen = chosen_among(study, RATES)
    new = sorted({key[3] for key in study.runs} - set(SEEDS))
    compared = Compared(study, chosen, emoji, whole(study, chosen, emoji, new))
    yield from table(compared)
    yield ""
    yield from verdicts(compared)


def wider(study: Study) -> Iterator[str]:
    """The tables and the verdicts of docs/studies/wider-rates.md, of the seeds that are whole."""
    emoji = [domain for domain in study.domains if domain[0] == "emoji"]
    chosen = chosen_among(study, WIDER)
    compared = Compared(study, chosen, emoji, whole(study, chosen, emoji, SEEDS))
    yield f"Seeds that are whole: {', '.join(map(str, compared.seeds))}."
    yield ""
    yield from learning_rates(compared)
    yield ""
    yield from table(compared)
    yield ""
    yield from verdicts(compared)


def nine(study: Study, steps: int) -> Compared:
    """The nine test domains after so many steps, of the seeds that are whole, at the rates chosen after ``STEPS``."""
    chosen = chosen_among(study, WIDEST)
    runs = study if steps == STEPS else Study(RECORD, steps)
    return Compared(runs, chosen, study.domains, whole(runs, chosen, study.domains, SEEDS))


def summary(study: Study) -> Iterator[str]:
    """Exponential averages on both datasets, and what they are over plain fine-tuning's on the nine test domains."""
    yield "| steps, seeds | | PACS, i.i.d. / o.o.d. | emoji, i.i.d. / o.o.d. | gain, i.i.d. | gain, o.o.d. |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for steps in (STEPS, LONG):
        compared = nine(study, steps)
        for arm in ARMS:
            means = [compared.on(dataset).values(arm, "ema").mean(axis=0) for dataset in ("PACS", "emoji")]
            found = compared.values(arm, "ema") - compared.values(PLAIN, "ema")
            gains = ["{:+.1f} ± {:.1f}".format(*interval(found[:, part])) for part in range(2)]
            cells = [*(f"{iid:.1f} / {ood:.1f}" for iid, ood in means), *(gains if arm != PLAIN else ("", ""))]
            told = "plain fine-tuning" if arm == PLAIN else f"dropout {arm}"
            yield f"| {steps:,}, {len(compared.seeds)} | {told} | {' | '.join(cells)} |"


def nine_domains(study: Study) -> Iterator[str]:
    """The tables and the verdicts of docs/studies/nine-domains.md."""
    yield from summary(study)
    yield ""
    yield from learning_rates(nine(study, STEPS))
    for steps in (STEPS, LONG):
        compared = nine(study, steps)
        yield ""
        yield f"{steps:,} steps; seeds that are whole: {', '.join(map(str, compared.seeds))}."
        yield ""
        yield from table(compared)
        yield ""
        yield from verdicts(compared)
        yield ""
        yield "| | PACS | emoji |"
        yield "| --- | --- | --- |"
        for arm, other in PAIRS:
            cells = [differences(compared.on(dataset), arm, other)[0] for dataset in ("PACS", "emoji")]
            yield f"| {arm} minus {other} | {' | '.join(cells)} |"
    yield from further_seeds(compared)


def further_seeds(compared: Compared) -> Iterator[str]:
    """The same of a dataset that has more whole seeds than all nine test domains have."""
    for dataset in ("PACS", "emoji"):
        alone = compared.on(dataset)
        alone = alone._replace(seeds=whole(alone.runs, alone.chosen, alone.domains, SEEDS))
        if len(alone.seeds) > len(compared.seeds):
            yield ""
            yield f"{dataset} alone; seeds that are whole there: {', '.join(map(str, alone.seeds))}."
            yield ""
            yield from table(alone)
            yield ""
            for arm, other in PAIRS:
                yield f"- {arm} minus {other}: {differences(alone, arm, other)[0]}"


def figure(study: Study, path: Path) -> None:
    """What dropout adds to plain fine-tuning on each test domain, after 600 and 1,800 steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn, panels = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for panel, steps in zip(panels, (STEPS, LONG), strict=True):
        compared = nine(study, steps)
        places = np.arange(len(compared.domains))
        for arm, colour, shift in ((MANY, "#b2182b", -0.08), (HALF, "#2166ac", 0.08)):
            gains = compared.values(arm, "ema")[:, 1] - compared.values(PLAIN, "ema")[:, 1]
            mean, half = interval(gains)
            panel.plot(places + shift, gains, "o", color=colour, label=f"{arm}: {mean:+.1f} ± {half:.1f}")
        panel.axhline(0, color="black", lw=0.8)
        panel.set_xticks(
            places, [f"{test}\n{name}" for name, test in compared.domains], fontsize=7, rotation=25, ha="right"
        )
        number = len(compared.seeds)
        panel.set_title(f"{steps:,} steps, {number} seed{'s' * (number > 1)}", fontsize=10)
        panel.legend(fontsize=8, title="mean of nine, 95 % interval", title_fontsize=8)
    panels[0].set_ylabel("o.o.d. accuracy over plain fine-tuning (points)")
    drawn.savefig(path, dpi=130)


PAGES = {
    "docs/studies/confirmation.md": confirmation,
    "docs/studies/wider-rates.md": wider,
    "docs/studies/nine-domains.md": nine_domains,
    "README.md": summary,
}


if __name__ == "__main__":
    print_or_draw(__doc__, PAGES, figure)
