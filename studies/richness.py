"""The table and verdicts of docs/studies/richness.md, from what ``largedrop inspect`` wrote.

python studies/richness.py runs/richness/inspection.json       # keeps its numbers in richness.json beside this file
python studies/richness.py                                     # the table and verdicts, from what is kept
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from largedrop.files import read_json, write_json
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
PARTS = {"ood": "o.o.d.", "iid": "i.i.d."}

Values = npt.NDArray[np.float64]
Record = list[dict[str, Any]]


def kept(inspection: dict[str, Any]) -> Record:
    """The numbers of the study of each run of an inspection, by part of the split."""
    found = []
    for run in inspection["runs"]:
        config, parts = run["config"], {}
        for part, rich in run["richness"].items():
            parts[part] = {
                "accuracy": rich["accuracy"],
                "head_0.1": rich["kept_random"][rich["shares"].index(0.1)]["mean"],
                "probe_0.1": rich["probes"]["0.1"]["mean"],
                "effective_rank": rich["effective_rank"],
                "removable_largest": rich["removable_largest"],
            }
        arm = {name: config[name] for name in ("test_domain", "dropout", "seed")}
        masks = config.get("masks", 1) if config["dropout"] else 1
        found.append({"run": run["name"], **arm, "masks": masks, **parts})
    return found


def values(record: Record, arm: str, measure: str, part: str = "ood") -> Values:
    """A measure of an arm on each test domain, (domains,)."""
    name, factor = MEASURES[measure]
    of_arm = {run["test_domain"]: run[part][name] for run in record if (run["dropout"], run["masks"]) == ARMS[arm]}
    domains = sorted({run["test_domain"] for run in record})
    return factor * np.array([of_arm[domain] for domain in domains], np.float64)


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
    _, signs = told(record, "0.9, 16 masks", "0.9, 1 mask", DECIDE)
    text, _ = told(record, "0.9, 16 masks", "0.9, 1 mask", tuple(MEASURES)[1:])
    verdict = "less rich" if signs == {-1} else "not less rich"
    yield f"3. 0.9, 16 masks minus 0.9, 1 mask: {text}: **{verdict}**."


def main() -> None:
    """Keep the numbers of an inspection, or print the table and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inspection", type=Path, nargs="?", help="inspection.json of largedrop inspect")
    options = parser.parse_args()
    if options.inspection:
        write_json(RECORD, {"runs": kept(read_json(options.inspection))})
    record = read_json(RECORD)["runs"]
    print("\n".join([*table(record), "", *verdicts(record)]))


if __name__ == "__main__":
    main()
