"""The doctor's report as a table and lines on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import visible
from ..fast_paths import PATHS
from .text import Table, render

__all__ = ["doctor_table", "render_doctor"]

Found = Mapping[str, Any]


def doctor_table(report: Found) -> Table:
    """A row for each set of fast paths: how far it is from the plain path, and how many times as fast."""
    precisions = list(dict.fromkeys(("float32", report["precision"])))
    cases: list[Found] = next((entry["times"] for entry in report["paths"] if entry.get("times")), [])
    heads = ["fast paths", *(f"apart, {each}" for each in precisions)]
    heads += [f"{case['images']} images, {case['size']} px" for case in cases]
    rows = [
        [
            ", ".join(entry["paths"]),
            *(_apart(entry.get(precision)) for precision in precisions),
            *(_time(each) for each in entry.get("times") or [None] * len(cases)),
        ]
        for entry in report["paths"]
    ]
    exact, coarse = (report["tolerances"][name] for name in ("float32", "bfloat16"))
    taken = {name for entry in report["paths"] for name in entry["paths"]}
    notes = (
        "Apart from the plain path: the largest difference of a loss (nats), and the distance of the weights over the "
        f"way from their start; at most {exact['loss']:g} and {exact['weights']:g} in float32. In bfloat16 at most "
        f"{coarse['loss']:g} nats, and weights at most {coarse['rounding']:g} times as far from the plain ones in "
        "float32 as the plain ones in bfloat16.",
        "Times: of a step, in turn with the plain path's, and how many times as fast it is.",
        *(f"{name}: {what}." for name, what in PATHS.items() if name in taken),
    )
    return Table("", heads, rows, notes)


def _apart(found: Found | None) -> str:
    if found is None:
        return "–"
    if found["same_bits"]:
        return "same bits"
    rounding = f" ({found['rounding']:.2f} times)" if "rounding" in found else ""
    return f"{found['loss']:.0e}, {found['weights']:.0e}{rounding}"


def _time(found: Found | None) -> str:
    return "–" if found is None else f"{found['ms']:g} for {found['plain_ms']:g} ms: {found['ratio']:.2f}"


def render_doctor(report: Found, console: Console) -> None:
    """Print the table, what was found of whole runs, and what is chosen."""
    machine = report["machine"]
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    _say(console, f"{machine['device']}{driver}, torch {machine['torch']}, largedrop {machine['largedrop']}")
    render([doctor_table(report)], console)
    for entry in report["paths"]:
        if why := entry.get("failed") or entry.get("note"):
            _say(console, f"{', '.join(entry['paths'])}: {why}")
    for runs in report["runs"]:
        if "failed" not in runs:
            held = ", ".join(f"{each / 2**20:.1f}" for each in runs["held_bytes"])
            _say(console, f"three runs by {_names(runs['paths'])} leave {held} MiB in memory")
            _say(console, f"  the same config again: {_bits(runs['again_apart'])}")
            _say(console, f"  cut, and gone on: {_bits(runs['resumed_apart'])}")
    for problem in report["problems"]:
        console.print(Text(f"problem: {visible(problem)}", style="bold red"), soft_wrap=True)
    overall, *cases = (_names(next(iter(choice["sets"]), [])) for choice in report["chosen"])
    console.print(Text(f"fast paths chosen: {overall}", style="bold"))
    if {overall, *cases} != {overall}:
        for choice, paths in zip(report["chosen"][1:], cases, strict=True):
            _say(console, f"  for steps like {choice['images']} images of {choice['size']} px: {paths}")


def _names(paths: list[str]) -> str:
    return ", ".join(paths) or "none"


def _bits(apart: float) -> str:
    return f"weights up to {apart:.1g} apart" if apart else "the same bits"


def _say(console: Console, line: str) -> None:
    console.print(visible(line), highlight=False, markup=False, soft_wrap=True)
