"""The tables and verdicts of docs/studies/figures-4-5-9.md, from the record small_figures.jsonl beside this file.

The record is of the presets' small scales as they were: the page says what has changed since.

python studies/small_figures.py --collect sweeps/PACS      # into a record: finished runs, without their weights
python studies/small_figures.py                            # the tables and verdicts
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ending import exit_with
from paired import interval
from working_point import collect

RECORD = Path(__file__).with_suffix(".jsonl")
RATES = (0.0, 0.5, 0.9, 0.95)
NETWORKS = {"tf_efficientnet_lite0": "Lite0", "tf_efficientnet_lite1": "Lite1"}
WAYS = {"plain": (0.0, 1.0, "fine-tuning"), "all tricks": (0.9, 10.0, "weight-average")}
"""Figure 9's ways: rate of dropout, factor of the last layer's learning rate, which weights are scored."""
DOMAINS = 4

_ALONE = {"head_lr_multiplier": (1.0,), "model": ("tf_efficientnet_lite0",), "seed": (0,)}
FIGURE_4 = {**_ALONE, "random": (False,), "steps": (120,), "lr": (3e-4, 5e-4), "decay_again_at": (0.833333,)}
FIGURE_5 = {**_ALONE, "random": (True,), "steps": (200,), "lr": (5e-4, 1e-3)}
FIGURE_9 = {"random": (False,), "steps": (120,), "lr": (1e-4, 3e-4), "seed": (0, 1), "decay_again_at": (1.0,)}
"""What the runs of a figure have in common; figure 4's share no run with figure 9's."""

Values = npt.NDArray[np.float64]
Run = dict[str, Any]


class MissingError(Exception):
    """A figure of which runs are not recorded yet."""


def recorded(record: Path) -> list[Run]:
    """The lines of a record; none where there is no such file."""
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()] if record.exists() else []


class Figures:
    """The runs of the three figures, and what is selected of them; collapsed ones are chosen by nothing."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.domains = sorted({run["config"]["test_domain"] for run in self.runs})

    def of(self, **settings: Any) -> list[Run]:
        """The runs whose configs have these values, each one of several."""
        found = []
        for run in self.runs:
            known = {**run["config"], "random": run["config"]["head"] == "random"}
            if all(known[key] in values for key, values in settings.items()):
                found.append(run)
        return found

    def chosen(self, method: str, **settings: Any) -> Values:
        """Accuracies in % at the learning rate of best i.i.d. accuracy, mean over seeds, (domains, [i.i.d., o.o.d.]).

        The learning rate is selected for each test domain and seed, as the reports do; the first in a tie.

        Args:
            method: a method of the runs, or "last", the weights after the last step.
            settings: what ``of`` takes, learning rates and seeds among it.

        Raises:
            MissingError: no such run is recorded.
        """
        found = []
        if len(self.domains) < DOMAINS:
            raise MissingError(f"not whole yet: runs tested on {len(self.domains)} of {DOMAINS} domains are recorded")
        for domain in self.domains:
            scores: dict[tuple[int, float], tuple[float, float]] = {}
            for run in self.of(test_domain=(domain,), **settings):
                key = run["config"]["seed"], run["config"]["lr"]
                assert key not in scores, f"two runs of {key} tested on {domain}"
                if "failed" in run:
                    scores[key] = -math.inf, math.nan
                    continue
                entry = run["log"][-1] if method == "last" else run["methods"][method]
                scores[key] = entry["iid_accuracy"], entry["ood_accuracy"]
            if len(scores) < len(settings["seed"]) * len(settings["lr"]):
                raise MissingError(f"not whole yet: not every run of {settings} tested on {domain} is recorded")
            each = [[scores[seed, lr] for lr in settings["lr"]] for seed in settings["seed"]]
            found.append(np.mean([max(both, key=itemgetter(0)) for both in each], axis=0))
        return np.asarray(100 * np.array(found), np.float64)

    def rate(self, figure: int, dropout: float, method: str = "fine-tuning") -> Values:
        """What a rate of dropout reaches in figure 4 or 5."""
        return self.chosen(method, dropout=(dropout,), **(FIGURE_4 if figure == 4 else FIGURE_5))

    def way(self, network: str, way: str, method: str = "") -> Values:
        """What a network reaches plainly, or with all tricks, in figure 9."""
        dropout, multiplier, usual = WAYS[way]
        settings = {**FIGURE_9, "dropout": (dropout,), "head_lr_multiplier": (multiplier,), "model": (network,)}
        return self.chosen(method or usual, **settings)


def unmoved(runs: Sequence[Run]) -> str:
    """In how many runs the checkpoint of best i.i.d. accuracy is the one before the first step."""
    starts = sum(max(run["log"], key=itemgetter("iid_accuracy"))["step"] == 0 for run in runs)
    return f"In {starts} of {len(runs)} runs the best checkpoint is the one before the first step"


def told(differences: Values) -> str:
    """A difference, and whether it holds."""
    mean, half = interval(differences)
    return f"{mean:+.1f} ± {half:.1f} ({'holds' if abs(mean) > half else 'open'})"


def row(name: str, values: Values) -> str:
    """A row of a table: i.i.d. and o.o.d. accuracy, then o.o.d. by test domain."""
    means = " | ".join(f"{value:.1f}" for value in (*values.mean(axis=0), *values[:, 1]))
    return f"| {name} | {means} |"


def head(figures: Figures, first: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield f"| {first} | i.i.d. | o.o.d. | {' | '.join(figures.domains)} |"
    yield f"| --- | ---: | ---: |{' ---: |' * len(figures.domains)}"


def rates(figures: Figures, figure: int, method: str = "fine-tuning") -> Iterator[str]:
    """The table of figure 4 or 5."""
    yield from head(figures, "dropout, last weights" if method == "last" else "dropout")
    for dropout in RATES:
        yield row(f"{dropout:g}", figures.rate(figure, dropout, method))


def ways(figures: Figures) -> Iterator[str]:
    """The table of figure 9."""
    yield from head(figures, "network, way")
    for network, name in NETWORKS.items():
        for way in WAYS:
            yield row(f"{name}, {way}", figures.way(network, way))
        yield row(f"{name}, plain, last weights", figures.way(network, "plain", "last"))


def verdict_4(figures: Figures) -> Iterator[str]:
    """The rule's first point, and the same of the last weights."""
    for method, name in (("fine-tuning", "1. Figure 4"), ("last", "   The last weights")):
        found = {rate: figures.rate(4, rate, method)[:, 1] for rate in RATES}
        best = max(RATES, key=lambda rate: found[rate].mean())
        pairs = ", ".join(f"{a:g} minus {b:g} {told(found[a] - found[b])}" for a, b in ((0.5, 0), (0.9, 0), (0.9, 0.5)))
        yield f"{name}: best rate {best:g}; {pairs}."
    yield f"   {unmoved(figures.of(**FIGURE_4))}."


def verdict_5(figures: Figures) -> Iterator[str]:
    """The rule's second point."""
    both = {rate: figures.rate(5, rate) for rate in RATES}
    same = all((both[rate] - both[0]).mean(axis=0).max() < 0 for rate in (0.9, 0.95))
    yield f"2. Figure 5, each minus rate 0: **{'as in the paper' if same else 'not as in the paper'}**."
    for rate in RATES[1:]:
        difference = both[rate] - both[0]
        yield f"   {rate:g}: o.o.d. {told(difference[:, 1])}, i.i.d. {told(difference[:, 0])}."


def verdict_9(figures: Figures) -> Iterator[str]:
    """The rule's third point."""
    small, large = NETWORKS
    difference = (figures.way(large, "plain") - figures.way(small, "all tricks"))[:, 1]
    wins = int((difference >= 0).sum())
    tricks = (figures.way(small, "all tricks") - figures.way(small, "plain"))[:, 1]
    more = (figures.way(large, "all tricks") - figures.way(large, "plain"))[:, 1]
    verdict = f"**{'as in the paper' if wins >= 3 else 'not as in the paper'}**"
    yield f"3. Figure 9: Lite1 plainly minus Lite0 with all tricks {told(difference)}: {verdict}."
    yield f"   At least as good on {wins} of {len(difference)} domains."
    yield f"   All tricks minus plain: Lite0 {told(tricks)}, Lite1 {told(more)}."
    yield f"   {unmoved(figures.of(**FIGURE_9, dropout=(0.0,)))}, plain."


PARTS: dict[str, tuple[Callable[[Figures], Iterator[str]], ...]] = {
    "figure 4": (lambda figures: rates(figures, 4), lambda figures: rates(figures, 4, "last"), verdict_4),
    "figure 5": (lambda figures: rates(figures, 5), verdict_5),
    "figure 9": (ways, verdict_9),
}
"""A table and a verdict of each figure."""


def collect_or_print(
    about: str | None, collected: Callable[[Sequence[Path], str], None], pages: Callable[[], dict[str, Iterator[str]]]
) -> None:
    """A study's command: collect runs with ``--collect``, else print the lines of each page."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, nargs="+")
    parser.add_argument("--machine", default="", help="what the runs were done on, for the record")
    options = parser.parse_args()
    if options.collect:
        collected(options.collect, options.machine)
        return
    for name, lines in pages().items():
        print(f"\n{name}\n")
        try:
            print("\n".join(lines))
        except MissingError as error:
            print(error)


def pages() -> dict[str, Iterator[str]]:
    """The lines of each figure's tables and verdicts."""
    figures = Figures(recorded(RECORD))
    return {name: chain.from_iterable((*part(figures), "") for part in parts) for name, parts in PARTS.items()}


def main() -> None:
    """Collect runs, or print everything."""
    collect_or_print(__doc__, lambda folders, machine: collect(folders, machine, RECORD), pages)


if __name__ == "__main__":
    exit_with(main)
