"""Tables, verdicts and the figure of docs/studies/working-point.md, from the record working_point.jsonl.

python studies/working_point_report.py                       # the tables and verdicts
python studies/working_point_report.py --figure docs/images/working-point.png
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paired import interval

RECORD = Path(__file__).with_name("working_point.jsonl")
ADVICE = Path(__file__).with_name("working_point_advice.json")
"""What `largedrop advise` measured for each test domain, at these sizes."""

RATES = (3e-4, 1e-4)
SEEDS = (0, 1, 2)
STEPS = 600

PLAIN, MANY = "plain", "0.9, 16 masks"
ARMS = (PLAIN, MANY, "0.9, 1 mask", "0.5, 16 masks", "mixout")
METHODS = {
    "fine-tuning": "best checkpoint",
    "ensemble": "ensemble along it",
    "weight-average": "average along it",
    "ema": "exponential average",
    "way-back": "that, a fifth back",
    "half": "WiSE-FT, α = 0.5",
    "wise": "WiSE-FT, α by i.i.d.",
    "others": "WiSE-FT, α by other domains",
    "linear-probe": "linear probe",
}
RIVALS = [
    *((PLAIN, method) for method in METHODS if method not in ("fine-tuning", "others")),
    *(("mixout", method) for method in METHODS if method not in ("half", "wise", "others", "linear-probe")),
]
"""Those that were registered."""

Values = npt.NDArray[np.float64]


def arm_of(config: dict[str, Any]) -> str:
    """The name of a config's arm."""
    if config["objective"] != "erm":
        return str(config["objective"])
    if not config["dropout"]:
        return PLAIN
    return f"{config['dropout']:g}, {config['masks']} mask{'s' * (config['masks'] > 1)}"


class Study:
    """The runs of so many steps by (dataset, arm, learning rate, seed, test domain); ``every`` has them all.

    Runs that collapsed, which chose no learning rate and are in no table, are left out.

    Args:
        head: how the runs' heads started.
    """

    def __init__(self, record: Path, steps: int = STEPS, head: str = "warm") -> None:
        lines = record.read_text(encoding="utf-8").splitlines()
        self.every = [run for run in map(json.loads, lines) if "failed" not in run]
        self.runs: dict[tuple[str, str, float, int, str], dict[str, Any]] = {}
        for run in self.every:
            config = run["config"]
            if config["steps"] == steps and config["head"] == head:
                key = config["data"], arm_of(config), config["lr"], config["seed"], config["test_domain"]
                self.runs[key] = run
        self.domains = sorted({(key[0], key[4]) for key in self.runs})

    def lr(self, arm: str, domain: tuple[str, str], rates: Sequence[float] = RATES) -> float:
        """The learning rate of best i.i.d. accuracy with seed 0; the first in a tie."""
        name, test = domain
        found = {lr: self.runs[name, arm, lr, 0, test] for lr in rates if (name, arm, lr, 0, test) in self.runs}
        return max(found, key=lambda lr: score(found[lr], "fine-tuning")[0])

    def values(self, arm: str, method: str, domain: tuple[str, str]) -> Values:
        """I.i.d. and o.o.d. accuracy in % of each seed that was run, (seeds, 2)."""
        keys = [(domain[0], arm, self.lr(arm, domain), seed, domain[1]) for seed in SEEDS]
        runs = [self.runs[key] for key in keys if key in self.runs]
        if method == "others":
            at = self.best_elsewhere(arm, domain)
            return 100 * np.array([scores_at(run["methods"]["wise-ft"][at]) for run in runs])
        return 100 * np.array([score(run, method) for run in runs])

    def best_elsewhere(self, arm: str, domain: tuple[str, str]) -> int:
        """The number of WiSE-FT's α of best o.o.d. accuracy on the dataset's other test domains, in their own runs."""
        found = [curve(self, arm, other) for other in self.domains if other[0] == domain[0] and other != domain]
        return int(np.mean(found, axis=0)[:, 2].argmax())

    def means(self, arm: str, method: str, dataset: str = "") -> Values:
        """The mean over seeds for each test domain, (domains, 2)."""
        chosen = [domain for domain in self.domains if dataset in ("", domain[0])]
        return np.array([self.values(arm, method, domain).mean(axis=0) for domain in chosen])


def score(run: dict[str, Any], method: str) -> tuple[float, float]:
    """I.i.d. and o.o.d. accuracy of a method in a run."""
    if method in ("half", "wise"):
        curve = run["methods"]["wise-ft"]
        key = (lambda each: -abs(each["alpha"] - 0.5)) if method == "half" else safest
        found = max(curve, key=key)
    else:
        found = run["methods"][method]
    return scores_at(found)


def scores_at(entry: dict[str, float]) -> tuple[float, float]:
    """I.i.d. and o.o.d. accuracy that an entry holds."""
    return entry["iid_accuracy"], entry["ood_accuracy"]


def safest(entry: dict[str, float]) -> tuple[float, float]:
    """The order by which the program itself chooses α."""
    return entry["iid_accuracy"], entry["alpha"]


def rows(study: Study) -> Iterator[str]:
    """Every arm and method: i.i.d. / o.o.d. of both datasets, o.o.d. over the nine, and what that is over plain."""
    yield "| arm | weights | PACS | emoji | nine, o.o.d. | over plain |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    base = study.means(PLAIN, "fine-tuning")
    for arm in ARMS:
        for method, told in METHODS.items():
            if method in ("half", "wise", "others") and arm not in (PLAIN, MANY):
                continue
            both = [study.means(arm, method, dataset).mean(axis=0) for dataset in ("PACS", "emoji")]
            nine = study.means(arm, method)
            mean, half = interval(nine[:, 1] - base[:, 1])
            gain = "" if (arm, method) == (PLAIN, "fine-tuning") else f"{mean:+.1f} ± {half:.1f}"
            cells = [f"{iid:.1f} / {ood:.1f}" for iid, ood in both]
            yield f"| {arm} | {told} | {cells[0]} | {cells[1]} | {nine[:, 1].mean():.1f} | {gain} |"


SHOWN = (
    (PLAIN, "fine-tuning"),
    (PLAIN, "ema"),
    (MANY, "fine-tuning"),
    (MANY, "ema"),
    (MANY, "way-back"),
    ("0.9, 1 mask", "fine-tuning"),
    ("0.5, 16 masks", "ema"),
    ("mixout", "ema"),
)


def by_domain(study: Study) -> Iterator[str]:
    """O.o.d. accuracy on each test domain: mean and standard error of the seeds."""
    names = [test for _, test in study.domains]
    yield f"| arm | weights | {' | '.join(names)} |"
    yield f"| --- | --- |{' ---: |' * len(names)}"
    for arm, method in SHOWN:
        cells = []
        for domain in study.domains:
            found = study.values(arm, method, domain)[:, 1]
            error = found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.nan
            cells.append(f"{found.mean():.1f} ± {error:.1f}" if len(found) > 1 else f"{found.mean():.1f}")
        yield f"| {arm} | {METHODS[method]} | {' | '.join(cells)} |"


def curve(study: Study, arm: str, domain: tuple[str, str]) -> Values:
    """WiSE-FT's accuracies in % at each α on a test domain, mean over seeds: (α, [α, i.i.d., o.o.d.])."""
    found = []
    for seed in SEEDS:
        entries = study.runs[domain[0], arm, study.lr(arm, domain), seed, domain[1]]["methods"]["wise-ft"]
        found.append([[each["alpha"], *(100 * value for value in scores_at(each))] for each in entries])
    return np.asarray(np.mean(found, axis=0), np.float64)


def curves(study: Study, arm: str, dataset: str) -> Values:
    """The same, mean over the test domains of a dataset."""
    found = [curve(study, arm, domain) for domain in study.domains if domain[0] == dataset]
    return np.asarray(np.mean(found, axis=0), np.float64)


def way_back(study: Study) -> Iterator[str]:
    """WiSE-FT's curves as a table."""
    alphas = [f"{alpha:g}" for alpha in curves(study, PLAIN, "PACS")[:, 0]]
    yield f"| | α = {' | '.join(alphas)} |"
    yield f"| --- |{' ---: |' * len(alphas)}"
    for dataset in ("PACS", "emoji"):
        for arm in (PLAIN, MANY):
            found = curves(study, arm, dataset)
            yield f"| {dataset}, {arm} | {' | '.join(f'{iid:.1f} / {ood:.1f}' for _, iid, ood in found)} |"


def rates(study: Study) -> Iterator[str]:
    """Best checkpoints at each learning rate with seed 0: i.i.d. / o.o.d."""
    yield "| arm | learning rate | PACS | emoji |"
    yield "| --- | ---: | ---: | ---: |"
    for arm in ARMS:
        for lr in (3e-3, 1e-3, *RATES, 3e-5):
            cells = []
            for dataset in ("PACS", "emoji"):
                tests = [domain for domain in study.domains if domain[0] == dataset]
                keys = [(dataset, arm, lr, 0, test) for _, test in tests]
                if all(key in study.runs for key in keys):
                    iid, ood = 100 * np.mean([score(study.runs[key], "fine-tuning") for key in keys], axis=0)
                    cells.append(f"{iid:.1f} / {ood:.1f}")
                else:
                    cells.append("–")
            if set(cells) != {"–"}:
                yield f"| {arm} | {lr:g} | {' | '.join(cells)} |"


def alone(study: Study, dataset: str, arm: str, lr: float | None, **settings: Any) -> list[dict[str, Any]]:
    """The runs of seed 0 on each test domain of a dataset; none where one is missing.

    Args:
        lr: the learning rate; None for the one that was chosen.
        settings: fields of the config in which they differ from ``Study.runs``.
    """
    wanted = {"data": dataset, "seed": 0, "steps": STEPS, "head": "warm", **settings}
    found = {}
    for run in study.every:
        config, test = run["config"], run["config"]["test_domain"]
        fits = arm_of(config) == arm and all(config[name] == value for name, value in wanted.items())
        if fits and config["lr"] == (study.lr(arm, (dataset, test)) if lr is None else lr):
            found[test] = run
    tests = [test for name, test in study.domains if name == dataset]
    return [found[test] for test in tests] if set(found) == set(tests) else []


def beside(plain: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], method: str = "ema") -> str:
    """Cells: i.i.d. / o.o.d. in %, and what these are over the best checkpoints of other runs."""
    own = 100 * np.array([score(run, method) for run in runs])
    gains = own - 100 * np.array([score(run, "fine-tuning") for run in plain])
    over = " / ".join("{:+.1f} ± {:.1f}".format(*interval(gains[:, part])) for part in range(2))
    return f"{own[:, 0].mean():.1f} / {own[:, 1].mean():.1f} | {over}"


def steps(study: Study) -> Iterator[str]:
    """Dropout over plain fine-tuning by the number of steps, at the chosen rates, with seed 0."""
    yield "| steps | dataset | plain | 0.9, 16 masks | over plain |"
    yield "| ---: | --- | ---: | ---: | ---: |"
    for dataset in ("PACS", "emoji"):
        for count in (150, STEPS, 1_800):
            plain, many = (alone(study, dataset, arm, None, steps=count) for arm in (PLAIN, MANY))
            if plain and many:
                iid, ood = 100 * np.mean([score(run, "fine-tuning") for run in plain], axis=0)
                yield f"| {count:,} | {dataset} | {iid:.1f} / {ood:.1f} | {beside(plain, many)} |"


OTHERS = (
    *((arm, "warm") for arm in ("l2sp", "0.5, 1 mask", "0.5, 16 masks")),
    *((f"0.9, {count} mask{'s' * (count > 1)}", "warm") for count in (1, 4, 16, 64)),
    *((arm, "warm") for arm in ("0.95, 16 masks", "0.98, 16 masks")),
    *((arm, "random") for arm in (PLAIN, MANY)),
)


def others(study: Study) -> Iterator[str]:
    """Exponential averages at one learning rate with seed 0: other rates, masks and heads, and L2-SP."""
    yield "| arm | head | PACS | over plain | emoji | over plain |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    plain = {dataset: alone(study, dataset, PLAIN, RATES[0]) for dataset in ("PACS", "emoji")}
    for arm, head in ((PLAIN, "warm"), *OTHERS):
        found = {dataset: alone(study, dataset, arm, RATES[0], head=head) for dataset in plain}
        cells = [beside(plain[dataset], runs) if runs else "– | –" for dataset, runs in found.items()]
        yield f"| {arm} | {head} | {' | '.join(cells)} |"


def verdicts(study: Study) -> Iterator[str]:
    """Each of the rule's points, in its order."""
    base = study.means(PLAIN, "fine-tuning")
    pacs = study.means(PLAIN, "fine-tuning", "PACS")[:, 0].mean()
    emoji = (study.means(PLAIN, "fine-tuning", "emoji") - study.means(PLAIN, "linear-probe", "emoji"))[:, 0].mean()
    told = f"PACS {pacs:.1f} % i.i.d., emoji {emoji:.1f} points above the probe"
    yield f"1. Working point: {told}: {said(pacs >= 92 and emoji >= 3)}."
    model = study.means(MANY, "way-back")
    mean, half = interval(model[:, 1] - base[:, 1])
    yield f"2. The recipe's model over plain fine-tuning, o.o.d.: {mean:+.1f} ± {half:.1f} points: {said(mean >= 4)}."
    best = max(RIVALS, key=lambda rival: study.means(*rival)[:, 1].mean())
    over, half = interval(model[:, 1] - study.means(*best)[:, 1])
    yield f"3. Over the best rival ({best[0]}, {METHODS[best[1]]}): {over:+.1f} ± {half:.1f}: {said(over >= 1)}."
    iid = (model - base)[:, 0].mean()
    worst = (model - base)[:, 1].min()
    yield f"4. I.i.d. {iid:+.1f} points: {said(iid >= -1)}. Worst domain {worst:+.1f} o.o.d.: {said(worst >= -1)}."
    other = study.means("0.5, 16 masks", "fine-tuning")[:, 1]
    count = int((study.means(MANY, "fine-tuning")[:, 1] >= other).sum())
    told = f"at least as good as 0.5 with 16 on {count} of {len(other)} domains"
    yield f"5. 0.9 with 16 masks {told}: {said(count >= 7)}."


TRAINED = {0.0: PLAIN, 0.5: "0.5, 16 masks", 0.9: MANY}
"""Arms by dropout rate, among which the adviser chooses."""


def advised(entry: dict[str, Any]) -> float:
    """The adviser's rule among ``TRAINED``: the nearest to 0.9 of those within one standard error of the best gain."""
    gains = {rate: entry["gains"][f"{rate:g}"] for rate in TRAINED if rate}
    able = {rate for rate, gain in gains.items() if gain["mean"] > gain["error"]} or set(gains)
    best = max(able, key=lambda rate: gains[rate]["mean"])
    near = {rate for rate in able if gains[rate]["mean"] >= gains[best]["mean"] - gains[rate]["error"]}
    return min({best, *near}, key=lambda rate: abs(rate - 0.9))


def adviser(study: Study) -> Iterator[str]:
    """How often a rate is within one standard error of the best (exponential averages), and what it loses to that."""
    advice = json.loads(ADVICE.read_text(encoding="utf-8"))
    yield "| rate | of nine domains within one standard error of the best | points below the best, mean |"
    yield "| --- | ---: | ---: |"
    strategies = {"the adviser's": None, **{f"always {rate:g}": rate for rate in TRAINED}}
    for name, fixed in strategies.items():
        losses, within = [], 0
        for domain in study.domains:
            found = {rate: study.values(arm, "ema", domain)[:, 1] for rate, arm in TRAINED.items()}
            error = math.sqrt(np.mean([values.var(ddof=1) for values in found.values()]) / len(SEEDS))
            rate = advised(advice[domain[1]]) if fixed is None else fixed
            losses.append(max(values.mean() for values in found.values()) - found[rate].mean())
            within += bool(losses[-1] <= error)
        yield f"| {name} | {within} | {np.mean(losses):.1f} |"


def said(reached: bool) -> str:
    """A verdict in words."""
    return "reached" if reached else "**not reached**"


def figure(study: Study, path: Path) -> None:
    """Gains by domain, and accuracy over the way back."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1.5, 1), layout="constrained")
    base = study.means(PLAIN, "fine-tuning")[:, 1]
    places = np.arange(len(base))
    shown: Sequence[tuple[str, str, str, str]] = (
        (MANY, "ema", "#b2182b", "o"),
        (MANY, "way-back", "#f4a582", "s"),
        ("0.5, 16 masks", "ema", "#2166ac", "o"),
        ("0.9, 1 mask", "ema", "#999999", "o"),
        (PLAIN, "ema", "#000000", "_"),
    )
    for number, (arm, method, colour, marker) in enumerate(shown):
        gains = study.means(arm, method)[:, 1] - base
        label = f"{arm}, {METHODS[method]}: {gains.mean():+.1f}"
        left.plot(places + (number - 2) * 0.12, gains, marker, color=colour, label=label, ms=8 if marker == "_" else 5)
    left.axhline(0, color="black", lw=0.8)
    left.set_xticks(places, [f"{test}\n{name}" for name, test in study.domains], fontsize=7, rotation=25, ha="right")
    left.set_ylabel("o.o.d. accuracy over plain fine-tuning (points)")
    left.legend(fontsize=7, title="mean of nine", title_fontsize=7)
    for dataset, style in (("PACS", "-"), ("emoji", "--")):
        for arm, colour in ((PLAIN, "black"), (MANY, "#b2182b")):
            found = curves(study, arm, dataset)
            right.plot(found[:, 0], found[:, 2], style, color=colour, label=f"{dataset}, {arm}")
    right.set_xlabel("α: share of the way back to the start")
    right.set_ylabel("o.o.d. accuracy (%)")
    right.legend(fontsize=7)
    drawn.savefig(path, dpi=130)


PARTS = {
    "verdicts": verdicts,
    "methods": rows,
    "domains": by_domain,
    "way back": way_back,
    "learning rates": rates,
    "steps": steps,
    "others": others,
    "adviser": adviser,
}


def print_or_draw(
    about: str | None, parts: Mapping[str, Callable[[Study], Iterator[str]]], draw: Callable[[Study, Path], None]
) -> None:
    """The command of a report: print its parts, or draw its figure."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    study = Study(RECORD)
    if options.figure:
        draw(study, options.figure)
        return
    for name, part in parts.items():
        print(f"\n{name}\n")
        print("\n".join(part(study)))


if __name__ == "__main__":
    print_or_draw(__doc__, PARTS, figure)
