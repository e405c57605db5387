"""Tables: the exact text of a small one, and what it says of missing records and single seeds."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from largedrop.report.columns import STARRED
from largedrop.report.tables import best, compared_tables, notes
from largedrop.report.text import render
from largedrop.runs.record import Record
from largedrop.selection.row import Row
from largedrop.selection.selection import summarise


def record(method: str, dropout: float, domain: str, seed: int, iid: float, ood: float) -> Record:
    return Record(method, dropout, domain, seed, iid, ood, 150, 41.5)


RECORDS = [
    record("fine-tuning", 0.0, "photo", 0, 0.88, 0.60),
    record("fine-tuning", 0.0, "photo", 1, 0.90, 0.64),
    record("fine-tuning", 0.0, "sketch", 0, 0.80, 0.44),
    record("fine-tuning", 0.0, "sketch", 1, 0.84, 0.48),
    record("fine-tuning", 0.9, "photo", 0, 0.90, 0.70),
    record("fine-tuning", 0.9, "photo", 1, 0.92, 0.76),
    record("fine-tuning", 0.9, "sketch", 0, 0.80, 0.50),
    record("fine-tuning", 0.9, "sketch", 1, 0.82, 0.54),
    record("linear-probe", 0.5, "photo", 0, 0.70, 0.80),
    record("linear-probe", 0.5, "photo", 1, 0.72, 0.50),
    record("linear-probe", 0.5, "sketch", 0, 0.60, 0.30),
]


def rendered(rows: list[Row], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render(compared_tables(rows, width), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


TERMINAL = """\
method           dropout       i.i.d.       o.o.d.         gain   time a run
────────────────────────────────────────────────────────────────────────────
fine-tuning            0   85.5 ± 1.5   54.0 ± 2.0     baseline         42 s
fine-tuning          0.9   86.0 ± 1.0   62.5 ± 2.5   +8.5 ± 0.5         42 s
linear-probe *       0.5     65.0 ± –     55.0 ± –     +3.0 ± –         42 s
Accuracy in %, mean ± standard error over 2 seeds, averaged over the test
domains photo and sketch.
Gain: percentage points o.o.d. above plain fine-tuning, paired by test domain
and seed.
Time: training and evaluations of a run; methods along one training share it.
* linear-probe, dropout 0.5: no record of sketch (seed 1); its overall mean is
over the 1 seed with every test domain.

o.o.d. accuracy by test domain
method           dropout         photo       sketch
───────────────────────────────────────────────────
fine-tuning            0    62.0 ± 2.0   46.0 ± 2.0
fine-tuning          0.9    73.0 ± 3.0   52.0 ± 2.0
linear-probe *       0.5   65.0 ± 15.0     30.0 ± –"""


def test_terminal_table_word_for_word() -> None:
    assert rendered(summarise(RECORDS)) == TERMINAL


def test_every_line_fits_eighty_columns() -> None:
    domains = ["art_painting", "cartoon", "photo", "sketch", "a-domain-with-quite-a-long-name", "[red]quickdraw"]
    records = [
        record(method, 0.95, domain, seed, 0.9, 0.7)
        for method in ("weight-average", "linear-probe")
        for domain in domains
        for seed in (0, 1)
    ]
    text = rendered(summarise(records))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.count("o.o.d. accuracy by test domain") > 1
    for domain in domains:
        assert domain in text.replace("\n", " ")


def test_best_is_bold_in_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", no_color=True)
    render(compared_tables(summarise(RECORDS), 80), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1m62.5 ± 2.5\x1b[0m" in text
    assert "\x1b[1m54.0" not in text


def test_best_leaves_incomplete_rows_out_and_keeps_ties() -> None:
    rows = summarise(RECORDS)
    assert best(rows) == {1}
    assert best([row.domains["photo"] for row in rows]) == {1}
    tied = summarise([record(method, 0.0, "a", 0, 0.5, 0.5) for method in ("fine-tuning", "ensemble")])
    assert best(tied) == {0, 1}
    assert best([]) == set()


def test_star_stands_where_records_are_missing() -> None:
    probe = summarise(RECORDS)[2]
    rows = (probe, probe.domains["photo"], probe.domains["sketch"])
    assert [STARRED.cell(row) for row in rows] == ["linear-probe *", "linear-probe", "linear-probe *"]


def test_notes_of_one_seed_and_one_domain() -> None:
    rows = summarise([entry for entry in RECORDS if entry.seed == 0 and entry.test_domain == "photo"])
    assert notes(rows) == [
        "Accuracy in %, mean over 1 seed; test domain photo.",
        "Gain: percentage points o.o.d. above plain fine-tuning, paired by test domain and seed.",
        "Time: training and evaluations of a run; methods along one training share it.",
        "One seed gives no standard error (–).",
    ]


def test_notes_without_a_baseline() -> None:
    rows = summarise([entry for entry in RECORDS if entry.dropout == 0.9])
    assert notes(rows)[1] == "No gains: plain fine-tuning (dropout 0) is not among the results."


def test_notes_tell_when_a_gain_is_over_fewer_seeds() -> None:
    rows = summarise([entry for entry in RECORDS if (entry.dropout, entry.seed) != (0.0, 1)])
    assert (
        "fine-tuning, dropout 0.9: the gain is over 1 of 2 seeds, those that plain fine-tuning has as well."
        in notes(rows)
    )


def test_notes_of_a_row_that_has_no_whole_seed() -> None:
    rows = summarise([*RECORDS[:8], record("ensemble", 0.0, "photo", 0, 0.9, 0.7)])
    assert notes(rows)[-1] == (
        "* ensemble, dropout 0: no record of photo (seed 1) and sketch (seeds 0, 1); "
        "no seed has every test domain, so there is no overall mean."
    )


def test_macro_accuracy_has_a_table_where_it_is_known() -> None:
    macro: dict[str, Any] = {"iid_macro_accuracy": 0.7, "ood_macro_accuracy": 0.25}
    new = [replace(entry, **macro) if entry.dropout == 0.9 else entry for entry in RECORDS]
    assert """
macro accuracy: the mean over the classes
method           dropout   macro i.i.d.   macro o.o.d.
──────────────────────────────────────────────────────
fine-tuning            0              –              –
fine-tuning          0.9     70.0 ± 0.0     25.0 ± 0.0
linear-probe *       0.5              –              –
""" in rendered(summarise(new))
    assert "macro" not in rendered(summarise(RECORDS))


def test_notes_without_a_test_domain() -> None:
    alone = [
        replace(record(method, 0.9, "", seed, 0.7, 0.0), ood_accuracy=None, settings=settings)
        for seed in (0, 1)
        for method, settings in (("fine-tuning", {"lr": 1}), ("wise-ft", {"lr": 1, "alpha": 0.5}))
    ]
    assert notes(summarise(alone)) == [
        "Accuracy in %, mean ± standard error over 2 seeds; no test domain.",
        "Time: training and evaluations of a run; methods along one training share it.",
        "wise-ft, dropout 0.9: alpha 0.5, by i.i.d. accuracy.",
    ]
