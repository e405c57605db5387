"""How far sweeps are, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from ..experiments.status import Failure, PlanStatus, Status
from ..runs.estimate import duration
from .text import Table

__all__ = ["status_tables"]

MOST = 20
"""Number of runs that a table lists."""


def status_tables(status: Status) -> list[Table]:
    """The sweeps in a folder, the runs that processes have, and those that have failed, with their last lines."""
    heads: tuple[str, ...] = ("sweep", "done", "finished", "in work", "waiting", "failed", "left")
    notes = [
        "Done: share of the work. Left: at the pace of finished runs, if as many as now are trained side by side.",
        *(line for plan in status.plans for line in _about(plan)),
        *status.problems,
    ]
    tables = [Table("", heads, [_row(plan) for plan in status.plans], notes, left=len(heads))]
    working = sorted(
        (each for plan in status.plans for each in plan.working), key=lambda each: (each.who, each.said, each.run)
    )
    if working:
        rows = [
            (each.who, each.said, f"{'–' if each.step is None else each.step} of {each.steps}", f"{each.heard:.0f} s")
            for each in working[:MOST]
        ]
        heads = ("in work by", "run", "evaluated at step", "heard of before")
        tables.append(Table("", heads, rows, _more(len(working)), left=2))
    failures = [each for plan in status.plans for each in plan.failures]
    if failures:
        ended = [(each.said, each.kind, _why(each)) for each in failures[:MOST]]
        tables.append(Table("", ("failed run", "how", "why"), ended, _more(len(failures)), left=3))
    return tables


def _row(plan: PlanStatus) -> tuple[str, ...]:
    counts = (len(plan.working), plan.begun + plan.new, len(plan.failures))
    left = "–" if plan.left is None else duration(plan.left)
    # Rounded down, since 100 % would say that nothing is left.
    done = f"{int(100 * plan.share)} %"
    return (plan.name, done, f"{plan.finished:,} of {plan.runs:,}", *(f"{count:,}" for count in counts), left)


def _about(plan: PlanStatus) -> Iterator[str]:
    if plan.per_hour and plan.finished < plan.runs:
        yield f"{plan.name}: {plan.per_hour:,} were finished in the last hour."
    if plan.begun:
        yield f"{plan.name}: {plan.begun:,} of the waiting were begun; the next command goes on with them."
    if plan.unread:
        yield f"{plan.name}: of {plan.unread:,} of the finished the content was not looked at; a report does that."
    if plan.left is None and plan.seconds:
        yield f"{plan.name}: no process works on it; one run after the other it takes {duration(plan.seconds)} more."


def _why(failure: Failure) -> str:
    if failure.last_line and failure.last_line not in failure.reason:
        return f"{failure.reason} ({failure.last_line})"
    return failure.reason


def _more(number: int) -> list[str]:
    return [f"… and {number - MOST:,} more, all of them in --json."] if number > MOST else []
