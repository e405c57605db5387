"""The status of sweeps as tables: word for word, and short where there are many runs."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from largedrop.experiments.status import Failure, PlanStatus, Status, Working
from largedrop.report.status import status_tables
from largedrop.report.text import render


def plan(failures: int = 0, working: int = 0, left: float | None = None) -> PlanStatus:
    return PlanStatus(
        "mine",
        "small",
        "Mine",
        1000,
        700,
        3,
        0.999,
        7300.0,
        left,
        40,
        tuple(Working(f"r{each}", f"seed {each}", "process 7 on far", None, 60, 5.2) for each in range(working)),
        tuple(Failure(f"f{each}", f"seed {each}", "failed", "given up", "ValueError: [x]") for each in range(failures)),
    )


def printed(*plans: PlanStatus, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    render(status_tables(Status(Path("out"), plans, ("plans/x.json is no plan",))), console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_the_tables_word_for_word() -> None:
    assert (
        printed(plan(failures=1, working=1, left=7300.0))
        == """\
sweep          done   finished       in work   waiting   failed   left
───────────────────────────────────────────────────────────────────────────
mine (small)   99 %   700 of 1,000   1         298       1        2 h 1 min
Done: share of the work. Left: at the pace of finished runs, if as many as now are trained side by
side.
mine (small): 40 were finished in the last hour.
mine (small): 3 of the waiting were begun; the next command goes on with them.
plans/x.json is no plan

in work by         run      evaluated at step   heard of before
───────────────────────────────────────────────────────────────
process 7 on far   seed 0             – of 60               5 s

failed run   how      why
────────────────────────────────────────────────
seed 0       failed   given up (ValueError: [x])"""
    )


def test_of_many_runs_twenty_are_listed() -> None:
    said = printed(plan(failures=25, working=21))
    assert said.count("process 7 on far") == said.count("given up") == 20
    assert "… and 5 more, all of them in --json." in said
    assert "mine (small): no process works on it; one run after the other it takes 2 h 1 min more." in said


def test_a_narrow_terminal_loses_no_number() -> None:
    said = printed(plan(left=7300.0), width=40)
    assert "…" not in said
    assert "700" in said
