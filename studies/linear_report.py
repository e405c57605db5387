"""The table and verdicts of docs/studies/nine-domains.md's linear fits, from the record linear_fits.jsonl beside this
file.

    python studies/working_point.py --collect sweeps/PACS sweeps/emoji --record studies/linear_fits.jsonl
    python studies/linear_report.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paired import interval
from three_arms_report import nine
from working_point_report import PLAIN, SEEDS, STEPS, Study, Values, score

RECORD = Path(__file__).with_name("linear_fits.jsonl")
RATES = (0.0, 0.5, 0.9)
LEARNING_RATES = (3e-3, 1e-2, 3e-2)
METHOD = "linear-fine-tuning"

Key = tuple[str, float, float, int, str]
"""Dataset, dropout rate, learning rate, seed, test domain."""


def read(record: Path) -> dict[Key, tuple[float, float]]:
    """I.i.d. and o.o.d. accuracy of each fit's best checkpoint."""
    found = {}
    for run in map(json.loads, record.read_text(encoding="utf-8").splitlines()):
        config = run["config"]
        key = config["data"], config["dropout"], config["lr"], config["seed"], config["test_domain"]
        found[key] = score(run, METHOD)
    return found


def chosen(fits: dict[Key, tuple[float, float]], dropout: float, domain: tuple[str, str]) -> float:
    """The learning rate of best i.i.d. accuracy with seed 0, the first in a tie."""
    name, test = domain
    return max(LEARNING_RATES, key=lambda lr: fits[name, dropout, lr, 0, test][0])


def values(fits: dict[Key, tuple[float, float]], dropout: float, domains: list[tuple[str, str]]) -> Values:
    """Accuracies in % at the chosen learning rates, mean over seeds, (domains, 2)."""
    found = [
        [fits[domain[0], dropout, chosen(fits, dropout, domain), seed, domain[1]] for seed in SEEDS]
        for domain in domains
    ]
    return np.asarray(100 * np.mean(found, axis=1), np.float64)


def table(study: Study) -> Iterator[str]:
    """Linear fine-tuning at each rate beside the probe and plain fine-tuning, and its differences from the latter."""
    compared = nine(study, STEPS)
    domains, fits = list(compared.domains), read(RECORD)
    plain = compared.values(PLAIN, "ema")
    linear = {rate: values(fits, rate, domains) for rate in RATES}
    rows = {
        "plain fine-tuning": plain,
        "linear probe": compared.values(PLAIN, "linear-probe"),
        **{f"linear fine-tuning, dropout {rate:g}": found for rate, found in linear.items()},
    }
    yield "| | PACS, i.i.d. / o.o.d. | emoji, i.i.d. / o.o.d. | minus plain, i.i.d. | minus plain, o.o.d. |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, found in rows.items():
        cells = []
        for dataset in ("PACS", "emoji"):
            own = [number for number, domain in enumerate(domains) if domain[0] == dataset]
            cells.append("{:.1f} / {:.1f}".format(*found[own].mean(axis=0)))
        if found is plain:
            cells += ["", ""]
        else:
            cells += ["{:+.1f} ± {:.1f}".format(*interval((found - plain)[:, part])) for part in range(2)]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    least = rows["linear probe"]
    differences = {f"dropout {rate:g} minus 0": linear[rate] - linear[0.0] for rate in RATES[1:]}
    differences["dropout 0 minus the linear probe"] = linear[0.0] - least
    for name, found in differences.items():
        (iid, iid_half), (mean, half) = (interval(found[:, part]) for part in range(2))
        verdict = "**holds**" if mean - half > 0 else "**does not hold**" if mean <= 0 else "**open**"
        yield f"- {name}: {mean:+.1f} ± {half:.1f} points o.o.d., {iid:+.1f} ± {iid_half:.1f} i.i.d.: {verdict}."
    taken = [chosen(fits, rate, domain) for rate in RATES for domain in domains]
    counts = ", ".join(f"{lr:g} {taken.count(lr)} times" for lr in LEARNING_RATES)
    yield f"- Learning rates that were chosen: {counts}."


if __name__ == "__main__":
    from working_point_report import RECORD as RUNS

    print("\n".join(table(Study(RUNS))))
