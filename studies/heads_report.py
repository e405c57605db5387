"""Tables and verdicts of docs/studies/heads.md: heads that are not fitted, from the record working_point.jsonl.

python studies/heads_report.py
python studies/heads_report.py --figure docs/images/heads.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paired import interval
from three_arms_report import ARMS, HALF
from working_point import WIDER, WIDEST
from working_point_report import MANY, PLAIN, RECORD, SEEDS, STEPS, Study, Values, print_or_draw, score

HEADS = {PLAIN: ("warm", "zero", "random"), MANY: ("warm", "zero"), HALF: ("warm", "zero")}
"""How each arm's head may start; the first in a tie."""
OWN = "own"
TOLD = {"warm": "fitted", "zero": "zero", "random": "random", OWN: "own"}

Start = tuple[str, float]
"""A head and a learning rate."""


class Starts:
    """The runs with each head, and what i.i.d. accuracy with seed 0 chooses on each test domain.

    Attributes:
        domains: (dataset, test domain).
        seeds: those of which every chosen run is there.
    """

    def __init__(self, fitted: Study) -> None:
        self.domains = fitted.domains
        self.studies = {"warm": fitted, **{head: Study(RECORD, STEPS, head) for head in ("zero", "random")}}
        self.seeds = [
            seed
            for seed in SEEDS
            if all(
                self._key(arm, self.start(arm, head, domain), seed, domain) in self.studies[head].runs
                for arm, heads in HEADS.items()
                for head in heads
                for domain in self.domains
            )
        ]

    def _key(self, arm: str, start: Start, seed: int, domain: tuple[str, str]) -> tuple[str, str, float, int, str]:
        return domain[0], arm, start[1], seed, domain[1]

    def start(self, arm: str, head: str, domain: tuple[str, str]) -> Start:
        """The learning rate of best i.i.d. accuracy with seed 0 with a head; with ``OWN``, of the best of all heads."""
        if head == OWN:
            found = [self.start(arm, each, domain) for each in HEADS[arm]]
            return max(found, key=lambda start: self._score(arm, start, 0, domain, "fine-tuning")[0])
        return head, self.studies[head].lr(arm, domain, WIDEST if head == "warm" else WIDER)

    def _score(self, arm: str, start: Start, seed: int, domain: tuple[str, str], method: str) -> tuple[float, float]:
        return score(self.studies[start[0]].runs[self._key(arm, start, seed, domain)], method)

    def values(self, arm: str, head: str) -> Values:
        """I.i.d. and o.o.d. accuracy of the exponential averages in %, mean over seeds, (domains, 2)."""
        found = [
            [self._score(arm, self.start(arm, head, domain), seed, domain, "ema") for seed in self.seeds]
            for domain in self.domains
        ]
        return np.asarray(100 * np.mean(found, axis=1), np.float64)


def named(arm: str) -> str:
    """An arm in words."""
    return "plain fine-tuning" if arm == PLAIN else f"dropout {arm}"


def summary(fitted: Study) -> Iterator[str]:
    """Each arm's own head: both datasets, and what that is over plain fine-tuning on the nine test domains."""
    starts = Starts(fitted)
    base = starts.values(PLAIN, OWN)
    of = {name: [number for number, each in enumerate(starts.domains) if each[0] == name] for name in ("PACS", "emoji")}
    yield "| own head | PACS, i.i.d. / o.o.d. | emoji, i.i.d. / o.o.d. | gain, i.i.d. | gain, o.o.d. |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for arm in ARMS:
        found = starts.values(arm, OWN)
        cells = ["{:.1f} / {:.1f}".format(*found[chosen].mean(axis=0)) for chosen in of.values()]
        gains = ["{:+.1f} ± {:.1f}".format(*interval((found - base)[:, part])) for part in range(2)]
        yield f"| {named(arm)} | {' | '.join(cells)} | {' | '.join(gains if arm != PLAIN else ['', ''])} |"


def tables(fitted: Study) -> Iterator[str]:
    """Every arm with every head on each test domain."""
    starts = Starts(fitted)
    yield f"Seeds that are whole: {', '.join(map(str, starts.seeds))}."
    yield ""
    yield f"| arm | head | i.i.d. | {' | '.join(test for _, test in starts.domains)} | o.o.d. |"
    yield f"| --- | --- | ---: |{' ---: |' * (len(starts.domains) + 1)}"
    for arm in ARMS:
        for head in (*HEADS[arm], OWN):
            both = starts.values(arm, head)
            each = " | ".join(f"{value:.1f}" for value in both[:, 1])
            yield f"| {arm} | {TOLD[head]} | {both[:, 0].mean():.1f} | {each} | {both[:, 1].mean():.1f} |"
    yield ""
    yield f"| own head, learning rate | {' | '.join(test for _, test in starts.domains)} |"
    yield f"| --- |{' ---: |' * len(starts.domains)}"
    for arm in ARMS:
        found = [starts.start(arm, OWN, domain) for domain in starts.domains]
        yield f"| {arm} | {' | '.join(f'{TOLD[head]}, {lr:g}' for head, lr in found)} |"


COMPARED = (
    *(((arm, OWN), (PLAIN, OWN)) for arm in (MANY, HALF)),
    *(((arm, "zero"), (arm, "warm")) for arm in ARMS),
    ((PLAIN, "random"), (PLAIN, "zero")),
    ((PLAIN, "random"), (PLAIN, "warm")),
)
"""The last one was not registered."""


def verdicts(fitted: Study) -> Iterator[str]:
    """The differences by the study's rule, over all nine test domains and on each dataset alone."""
    starts = Starts(fitted)
    yield "| | i.i.d. | | o.o.d. | | PACS, o.o.d. | emoji, o.o.d. |"
    yield "| --- | ---: | --- | ---: | --- | ---: | ---: |"
    for one, other in COMPARED:
        found = starts.values(*one) - starts.values(*other)
        cells = []
        for part in range(2):
            mean, half = interval(found[:, part])
            verdict = "**holds**" if mean - half > 0 else "does not hold" if mean <= 0 else "open"
            cells.append(f"{mean:+.1f} ± {half:.1f} | {verdict}")
        for dataset in ("PACS", "emoji"):
            chosen = [number for number, domain in enumerate(starts.domains) if domain[0] == dataset]
            cells.append("{:+.1f} ± {:.1f}".format(*interval(found[chosen, 1])))
        same = one[0] == other[0]
        told = f"{one[0]}: {TOLD[one[1]]} minus {TOLD[other[1]]}" if same else f"own heads: {one[0]} minus {other[0]}"
        yield f"| {told} | {' | '.join(cells)} |"


def rates(fitted: Study) -> Iterator[str]:
    """Best checkpoints at each learning rate with seed 0: i.i.d. / o.o.d. of each dataset."""
    starts = Starts(fitted)
    datasets = ("PACS", "emoji")
    yield f"| arm | head | learning rate | {' | '.join(datasets)} |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for arm in ARMS:
        for head in HEADS[arm]:
            runs = starts.studies[head].runs
            for lr in sorted(WIDER):
                cells = []
                for dataset in datasets:
                    tests = [test for name, test in starts.domains if name == dataset]
                    found = [score(runs[dataset, arm, lr, 0, test], "fine-tuning") for test in tests]
                    cells.append("{:.1f} / {:.1f}".format(*100 * np.mean(found, axis=0)))
                yield f"| {arm} | {TOLD[head]} | {lr:g} | {' | '.join(cells)} |"


def figure(fitted: Study, path: Path) -> None:
    """What dropout adds to plain fine-tuning on each test domain, with fitted heads and with own ones."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    starts = Starts(fitted)
    drawn, panels = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    places = np.arange(len(starts.domains))
    for panel, head in zip(panels, ("warm", OWN), strict=True):
        base = starts.values(PLAIN, head)
        for arm, colour, shift in ((MANY, "#b2182b", -0.08), (HALF, "#2166ac", 0.08)):
            gains = (starts.values(arm, head) - base)[:, 1]
            mean, half = interval(gains)
            panel.plot(places + shift, gains, "o", color=colour, label=f"{arm}: {mean:+.1f} ± {half:.1f}")
        panel.axhline(0, color="black", lw=0.8)
        told = [f"{test}\n{name}" for name, test in starts.domains]
        panel.set_xticks(places, told, fontsize=7, rotation=25, ha="right")
        panel.set_title("fitted heads" if head == "warm" else "own heads", fontsize=10)
        panel.legend(fontsize=8, title="mean of nine, 95 % interval", title_fontsize=8)
    panels[0].set_ylabel("o.o.d. accuracy over plain fine-tuning (points)")
    drawn.savefig(path, dpi=130)


PAGES = {"summary": summary, "verdicts": verdicts, "tables": tables, "learning rates": rates}


if __name__ == "__main__":
    print_or_draw(__doc__, PAGES, figure)
