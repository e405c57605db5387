"""The tables and verdicts of docs/studies/figures-trained-out.md, from the record trained_figures.jsonl beside this
file: finished runs of the small scales of figures 2, 3, 4, 6, 9 and 10, and what is across figure 2's trajectories.

python studies/trained_figures.py --collect sweeps/PACS      # into the record, without weights
python studies/trained_figures.py                            # the tables and verdicts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ending import exit_with
from largedrop.files import read_json, write_text
from small_figures import (
    NETWORKS,
    RATES,
    WAYS,
    Figures,
    MissingError,
    Run,
    Values,
    collect_or_print,
    head,
    recorded,
    row,
    told,
)
from working_point import collect

RECORD = Path(__file__).with_suffix(".jsonl")
BLOCKS = (0.1, 0.2, 0.3)
USUAL = {
    "model": ("tf_efficientnet_lite0",),
    "steps": (600,),
    "seed": (0,),
    "head_lr_multiplier": (1.0,),
    "block_dropout": (0.0,),
    "random": (False,),
    "fit": ("all",),
}
"""What the runs have in common where a figure does not say otherwise."""
WIDE, TWO, ONE = (1e-4, 3e-4, 1e-3), (3e-4, 1e-3), (3e-4,)
"""Learning rates of figure 2, of figures 3 and 6, and of the others."""
ALONG = {"ensemble": "ensemble along the trajectory", "weight-average": "weight average along it"}
ACROSS = {
    "ensemble-across": "ensemble across trajectories",
    "weight-average-across": "weight average across them",
    "greedy-soup": "greedy soup",
}


class Trained(Figures):
    """The runs of the record, and the results across trajectories."""

    def __init__(self, lines: Sequence[Run]) -> None:
        super().__init__([line for line in lines if "across" not in line])
        self.across = [line for line in lines if "across" in line]

    def row(self, lr: Sequence[float], method: str = "fine-tuning", **settings: Any) -> Values:
        """Accuracies in %, at the learning rate of best i.i.d. accuracy, (domains, [i.i.d., o.o.d.]).

        ``seed`` names several, over which is the mean.
        """
        named = {name: value if name == "seed" else (value,) for name, value in settings.items()}
        return self.chosen(method, **{**USUAL, **named, "lr": tuple(lr)})

    def joint(self, method: str) -> Values:
        """The same of plain fine-tuning's results across trajectories."""
        found = {each["test_domain"]: each for each in self.across if each["across"] == method}
        if set(found) != set(self.domains):
            raise MissingError(f"not whole yet: {method} of {len(found)} of {len(self.domains)} test domains")
        each = [[found[name]["iid_accuracy"], found[name]["ood_accuracy"]] for name in self.domains]
        return np.asarray(100 * np.array(each), np.float64)


def rows_2(figures: Trained) -> dict[str, Values]:
    """Figure 2's rows by their names, plain fine-tuning first."""
    plain = {name: figures.row(WIDE, method, dropout=0.0) for method, name in ALONG.items()}
    joint = {name: figures.joint(method) for method, name in ACROSS.items()}
    both = {name: figures.row(WIDE, dropout=rate) for rate, name in ((0.0, "plain fine-tuning"), (0.9, "dropout 0.9"))}
    return {**both, **plain, **joint}


def rows_3(figures: Trained) -> dict[str, Values]:
    """Figure 3's."""
    return {f"dropout {rate:g}": figures.row(TWO, dropout=rate) for rate in RATES}


def rows_4(figures: Trained) -> dict[str, Values]:
    """Figure 4's: two seeds, of which the first is figure 3's."""
    return {f"dropout {rate:g}": figures.row(ONE, dropout=rate, seed=(0, 1)) for rate in RATES}


def rows_6(figures: Trained) -> dict[str, Values]:
    """Figure 6's."""
    return {
        f"× {factor:g}, dropout {rate:g}": figures.row(TWO, dropout=rate, head_lr_multiplier=factor)
        for factor in (1.0, 10.0)
        for rate in (0.0, 0.9)
    }


def rows_10(figures: Trained) -> dict[str, Values]:
    """Figure 10's."""
    blocks = {f"block dropout {rate:g}": figures.row(ONE, dropout=0.0, block_dropout=rate) for rate in BLOCKS}
    return {
        "neither": figures.row(ONE, dropout=0.0),
        **blocks,
        "dropout 0.9": figures.row(ONE, dropout=0.9),
    }


def rows_8(figures: Trained) -> dict[str, Values]:
    """Figure 8's: fine-tuning, and both linear fits, which are trained for 2,000 steps."""
    lr = 3e-3, 1e-2
    fits = {"linear fine-tuning": ("linear-fine-tuning", "linear"), "linear probing": ("linear-probe", "probe")}
    return {f"fine-tuning, {name}": values for name, values in rows_3(figures).items()} | {
        f"{name}, dropout {rate:g}": figures.row(lr, method, fit=fit, dropout=rate, steps=2_000, random=True)
        for name, (method, fit) in fits.items()
        for rate in RATES
    }


def rows_9(figures: Trained) -> dict[str, Values]:
    """Figure 9's: a smaller and a larger network, plainly and with all tricks."""
    return {
        f"{name}, {way}": figures.row(ONE, method, model=network, dropout=rate, head_lr_multiplier=factor)
        for network, name in NETWORKS.items()
        for way, (rate, factor, method) in WAYS.items()
    }


def rows_head(figures: Trained) -> dict[str, Values]:
    """Plain fine-tuning from either head."""
    return {
        "fitted head": figures.row(ONE, dropout=0.0),
        "random head": figures.row(ONE, dropout=0.0, random=True),
    }


def verdict(good: bool, number: int, figure: int) -> str:
    """The first line of a verdict."""
    return f"{number}. Figure {figure}: **{'as in the paper' if good else 'not as in the paper'}**."


def verdict_2(rows: dict[str, Values]) -> Iterator[str]:
    """The rule's first point."""
    own = rows["dropout 0.9"][:, 1]
    others = {name: own - values[:, 1] for name, values in rows.items() if name != "dropout 0.9"}
    yield verdict(all(each.mean() > 0 for each in others.values()), 1, 2)
    for name, differences in others.items():
        yield f"   - dropout 0.9 minus {name}: {told(differences)}"


def verdict_3(rows: dict[str, Values]) -> Iterator[str]:
    """The rule's second point."""
    plain, *others = rows.values()
    differences = {rate: each[:, 1] - plain[:, 1] for rate, each in zip(RATES[1:], others, strict=True)}
    yield verdict(all(each.mean() > 0 for each in differences.values()), 2, 3)
    for rate, each in differences.items():
        yield f"   - {rate:g} minus 0: {told(each)}"


def verdict_4(rows: dict[str, Values]) -> Iterator[str]:
    """What figures-4-5-9.md has as its first point."""
    found = dict(zip(RATES, (each[:, 1] for each in rows.values()), strict=True))
    best = max(RATES, key=lambda rate: float(found[rate].mean()))
    yield verdict(best == 0.5, 6, 4)
    yield f"   - the best rate is {best:g}"
    for a, b in ((0.5, 0.0), (0.9, 0.0), (0.9, 0.5)):
        yield f"   - {a:g} minus {b:g}: {told(found[a] - found[b])}"


def verdict_6(rows: dict[str, Values]) -> Iterator[str]:
    """The rule's third point."""
    plain, many, tenfold, both = (each[:, 1] for each in rows.values())
    yield verdict(bool((both - tenfold).mean() > 0 and (both - many).mean() <= 1), 3, 6)
    yield f"   - ten times the rate minus the usual one, without dropout: {told(tenfold - plain)}"
    yield f"   - the same with dropout 0.9: {told(both - many)}"
    yield f"   - dropout 0.9 minus 0 at ten times the rate: {told(both - tenfold)}"


def verdict_10(rows: dict[str, Values]) -> Iterator[str]:
    """The rule's fourth point."""
    plain, *blocks, dropout = (each[:, 1] for each in rows.values())
    best = max(blocks, key=lambda each: float(each.mean()))
    yield verdict(bool((dropout - best).mean() > 0), 4, 10)
    for rate, each in zip(BLOCKS, blocks, strict=True):
        yield f"   - block dropout {rate:g} minus neither: {told(each - plain)}"
    yield f"   - dropout 0.9 minus the best of them: {told(dropout - best)}"


def verdict_8(rows: dict[str, Values]) -> Iterator[str]:
    """Linear fine-tuning against the others at each rate, which was not registered."""
    tuned, linear, probe = np.array_split(np.array(list(rows.values())), 3)
    for rate, own, other, least in zip(RATES, tuned, linear, probe, strict=True):
        over, under = told((other - least)[:, 1]), told((other - own)[:, 1])
        yield f"   - {rate:g}: linear fine-tuning minus probing {over}, minus fine-tuning {under}"


def verdict_9(rows: dict[str, Values]) -> Iterator[str]:
    """What figures-4-5-9.md has as its third point."""
    plain, tricks, larger, both = (each[:, 1] for each in rows.values())
    wins = int((larger >= tricks).sum())
    yield verdict(wins >= 3, 5, 9)
    yield f"   - Lite1 plainly minus Lite0 with all tricks: {told(larger - tricks)}"
    yield f"   - at least as good on {wins} of {len(larger)} test domains"
    yield f"   - all tricks minus plain: Lite0 {told(tricks - plain)}, Lite1 {told(both - larger)}"


def verdict_head(rows: dict[str, Values]) -> Iterator[str]:
    """What was added to the rule."""
    fitted, other = rows.values()
    for column, name in ((1, "o.o.d."), (0, "i.i.d.")):
        yield f"   - random head minus fitted head, {name}: {told((other - fitted)[:, column])}"


PARTS: dict[str, tuple[Callable[[Trained], dict[str, Values]], Callable[[dict[str, Values]], Iterator[str]], str]] = {
    "figure 2": (rows_2, verdict_2, "method"),
    "figure 3": (rows_3, verdict_3, "rate"),
    "figure 4": (rows_4, verdict_4, "rate, two seeds"),
    "figure 6": (rows_6, verdict_6, "last layer's rate, dropout"),
    "figure 10": (rows_10, verdict_10, "dropout of"),
    "figure 8": (rows_8, verdict_8, "method"),
    "figure 9": (rows_9, verdict_9, "network, way"),
    "head": (rows_head, verdict_head, "plain fine-tuning"),
}
"""Rows and verdict of each figure, and what its table is headed."""


def part(figures: Trained, name: str) -> Iterator[str]:
    """The table and the verdict of a figure.

    Raises:
        MissingError: its runs are not all recorded.
    """
    rows, judged, first = PARTS[name]
    found = rows(figures)
    yield from head(figures, first)
    yield from (row(label, values) for label, values in found.items())
    yield ""
    yield from judged(found)


def collect_all(folders: Sequence[Path], machine: str) -> None:
    """Add runs to the record, and plain fine-tuning's results across the trajectories of one seed."""
    collect(folders, machine, RECORD)
    lines = recorded(RECORD)
    known = {line["run"] for line in lines}
    for path in sorted(path for folder in folders for path in folder.glob("across/*.json")):
        found = read_json(path)
        if found["seed"] is None or found["dropout"] or path.stem in known:
            continue
        kept = {name: found[name] for name in ("test_domain", "iid_accuracy", "ood_accuracy")}
        lines.append({"run": path.stem, "across": found["method"], **kept})
    write_text(RECORD, "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))


def pages() -> dict[str, Iterator[str]]:
    """The lines of each figure's table and verdict."""
    figures = Trained(recorded(RECORD))
    return {name: part(figures, name) for name in PARTS}


def main() -> None:
    """Collect runs, or print everything."""
    collect_or_print(__doc__, collect_all, pages)


if __name__ == "__main__":
    exit_with(main)
