"""The table and verdicts of docs/studies/richness.md, from what ``largedrop inspect`` wrote.

python studies/richness.py runs/richness/inspection.json       # keeps its numbers in richness.json beside this file
python studies/richness.py --picture docs/images/richness.png  # the table, verdicts and picture, from what is kept
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ending import exit_with
from largedrop.files import read_json, write_json
from largedrop.report.drawing.panels import label_axes, panels_of
from largedrop.report.drawing.style import save_figure
from paired import interval

RECORD = Path(__file__).with_suffix(".json")
ARMS = {"plain": (0.0, 1), "0.9, 1 mask": (0.9, 1), "0.9, 16 masks": (0.9, 16), "0.5, 16 masks": (0.5, 16)}
"""Rate of dropout and number of masks."""
MEASURES = {
    "all units": ("accuracy", 100.0),
    "head, a tenth": ("head_0.1", 100.0),
    "probe, a tenth": ("probe_0.1", 100.0),
    "effective rank": ("effective_rank", 1.0),
    "removable": ("removable_largest", 100.0),
}
"""Label of each measure, its name in the record and its factor: accuracies and shares are told in %."""
DECIDE = ("head, a tenth", "probe, a tenth")
CURVES = {"kept_random": "Kept at random", "kept_smallest": "Those of the largest weights removed first"}
STYLES = {
    "plain": ("#0072B2", "-"),
    "0.9, 1 mask": ("#D55E00", ":"),
    "0.9, 16 masks": ("#D55E00", "-"),
    "0.5, 16 masks": ("#E69F00", "--"),
}
"""Colour and line of each arm."""
TICKS = (1, 2, 5, 10, 20, 50, 100)
PARTS = {"ood": "o.o.d.", "iid": "i.i.d."}

Values = npt.NDArray[np.float64]
Record = list[dict[str, Any]]


def kept(inspection: dict[str, Any]) -> Record:
    """The numbers of the study of each run of an inspection, by part of the split."""
    found = []
    for run in inspection["runs"]:
        config, parts = run["config"], {}
        for part, rich in run["richness"].items():
            at_random = [round(estimate["mean"], 6) for estimate in rich["kept_random"]]
            parts[part] = {
                "shares": rich["shares"],
                "kept_random": at_random,
                "kept_smallest": [round(value, 6) for value in rich["kept_smallest"]],
                "accuracy": rich["accuracy"],
                "head_0.1": at_random[rich["shares"].index(0.1)],
                "probe_0.1": rich["probes"]["0.1"]["mean"],
                "effective_rank": rich["effective_rank"],
                "removable_largest": rich["removable_largest"],
            }
        arm = {name: config[name] for name in ("test_domain", "dropout", "seed")}
        masks = config.get("masks", 1) if config["dropout"] else 1
        found.append({"run": run["name"], **arm, "masks": masks, **parts})
    return found


def of_arm(record: Record, arm: str, part: str) -> dict[str, dict[str, Any]]:
    """What is kept of an arm, by test domain."""
    return {run["test_domain"]: run[part] for run in record if (run["dropout"], run["masks"]) == ARMS[arm]}


def values(record: Record, arm: str, measure: str, part: str = "ood") -> Values:
    """A measure of an arm on each test domain, (domains,)."""
    name, factor = MEASURES[measure]
    found = of_arm(record, arm, part)
    return factor * np.array([found[domain][name] for domain in sorted(found)], np.float64)


def table(record: Record) -> Iterator[str]:
    """Mean over the test domains of every measure."""
    yield f"| arm | images | {' | '.join(MEASURES)} |"
    yield f"| --- | --- |{' ---: |' * len(MEASURES)}"
    for part, label in PARTS.items():
        for arm in ARMS:
            means = [values(record, arm, measure, part).mean() for measure in MEASURES]
            yield f"| {arm} | {label} | {' | '.join(f'{mean:.1f}' for mean in means)} |"


def told(record: Record, arm: str, other: str, measures: tuple[str, ...]) -> tuple[str, set[int]]:
    """The differences between two arms, and their signs: +1 and -1 hold, 0 is open."""
    texts, signs = [], set()
    for measure in measures:
        mean, half = interval(values(record, arm, measure) - values(record, other, measure))
        signs.add(0 if abs(mean) <= half else 1 if mean > 0 else -1)
        texts.append(f"{measure} {mean:+.1f} ± {half:.1f}")
    return ", ".join(texts), signs


def verdicts(record: Record) -> Iterator[str]:
    """The rule's points, in its order."""
    text, signs = told(record, "0.9, 1 mask", "plain", DECIDE)
    yield f"1. 0.9, 1 mask minus plain: {text}: **{'as in the paper' if signs == {1} else 'not as in the paper'}**."
    text, signs = told(record, "0.9, 16 masks", "plain", DECIDE)
    yield f"2. 0.9, 16 masks minus plain: {text}: **{'kept' if signs == {1} else 'not kept'}**."
    text, signs = told(record, "0.9, 16 masks", "0.9, 1 mask", DECIDE)
    rest, _ = told(record, "0.9, 16 masks", "0.9, 1 mask", ("effective rank", "removable"))
    yield f"3. 0.9, 16 masks minus 0.9, 1 mask: {text}: **{'less rich' if signs == {-1} else 'not less rich'}**."
    yield f"   Besides: {rest}."


def picture(record: Record) -> Figure:
    """Accuracy of the run's own head over the share of the units that is left, mean over the test domains."""
    figure, panels = panels_of(list(CURVES.values()), "", width=4.1, height=3.3, shared=True)
    for axes, name in zip(panels, CURVES, strict=True):
        for arm, (colour, line) in STYLES.items():
            found = of_arm(record, arm, "ood").values()
            shares = next(iter(found))["shares"]
            means = 100 * np.mean([each[name] for each in found], axis=0)
            axes.semilogx(100 * np.array(shares), means, line, color=colour, linewidth=2, label=arm)
        axes.minorticks_off()
        axes.set_xticks(TICKS, labels=map(str, TICKS))
    label_axes(panels, "units left (%)", "o.o.d. accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES), frameon=False)
    return figure


def main() -> None:
    """Keep the numbers of an inspection, or print the table and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inspection", type=Path, nargs="?", help="inspection.json of largedrop inspect")
    parser.add_argument("--picture", type=Path, help="files to draw into, .png and .svg")
    options = parser.parse_args()
    if options.inspection:
        write_json(RECORD, {"runs": kept(read_json(options.inspection))})
    record = read_json(RECORD)["runs"]
    print("\n".join([*table(record), "", *verdicts(record)]))
    if options.picture:
        save_figure(picture(record), options.picture)


if __name__ == "__main__":
    exit_with(main)
