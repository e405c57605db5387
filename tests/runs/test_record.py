"""Records: their file, what is refused of it, and the summary against sums done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largedrop.data.dataset import Dataset
from largedrop.errors import UserError
from largedrop.runs.estimate import Estimate
from largedrop.runs.record import Record, describe, read_results, write_results
from largedrop.selection.summary import Score, summarise


def record(method: str, dropout: float, domain: str, seed: int, iid: float, ood: float, **settings: Any) -> Record:
    return Record(method, dropout, domain, seed, iid, ood, steps=150, seconds=41.5, settings=settings)


RECORDS = [
    record("linear-probe", 0.0, "a", 0, 0.70, 0.40),
    record("fine-tuning", 0.9, "a", 0, 0.90, 0.70),
    record("fine-tuning", 0.9, "a", 1, 0.92, 0.76),
    record("fine-tuning", 0.9, "b", 0, 0.80, 0.50),
    record("fine-tuning", 0.9, "b", 1, 0.82, 0.52),
    record("fine-tuning", 0.0, "a", 0, 0.88, 0.60),
    record("fine-tuning", 0.0, "a", 1, 0.90, 0.64),
    record("fine-tuning", 0.0, "b", 0, 0.80, 0.44),
    record("fine-tuning", 0.0, "b", 1, 0.84, 0.48),
]


def whole(dropout: float = 0.9) -> dict[str, Any]:
    return record("fine-tuning", dropout, "a", 0, 0.9, 0.7, learning_rate=5e-4).to_json()


def near(estimate: Estimate | None, mean: float, error: float | None, n: int) -> bool:
    assert estimate is not None
    assert (estimate.error is None) == (error is None)
    return (
        math.isclose(estimate.mean, mean, abs_tol=1e-11)
        and (error is None or math.isclose(estimate.error or 0.0, error, abs_tol=1e-11))
        and estimate.n == n
    )


def test_rows_come_in_a_fixed_order() -> None:
    records = [
        record(method, dropout, "a", 0, 0.5, 0.5)
        for method in ("linear-probe", "weight-average", "ensemble", "fine-tuning")
        for dropout in (0.9, 0.0, 0.5)
    ]
    order = [(row.method, row.dropout) for row in summarise(records)]
    methods = ("fine-tuning", "ensemble", "weight-average", "linear-probe")
    assert order == [(method, dropout) for method in methods for dropout in (0.0, 0.5, 0.9)]
    assert [row.baseline for row in summarise(records)] == [True] + [False] * 11


def test_means_and_standard_errors_by_hand() -> None:
    baseline, dropout, _ = summarise(RECORDS)
    # Seeds: 0 → (0.90 + 0.80) / 2 = 0.85 and (0.70 + 0.50) / 2 = 0.60; 1 → 0.87 and 0.64. Two values d apart have a
    # standard deviation of d/√2 (ddof = 1) and a standard error of d/2.
    assert near(dropout.overall.iid, 0.86, 0.01, 2)
    assert near(dropout.overall.ood, 0.62, 0.02, 2)
    assert near(baseline.overall.ood, 0.54, 0.02, 2)
    assert near(dropout.domains["a"].ood, 0.73, 0.03, 2)
    assert near(dropout.domains["b"].iid, 0.81, 0.01, 2)


def test_gain_is_paired_by_test_domain_and_seed() -> None:
    baseline, dropout, _ = summarise(RECORDS)
    # a: +0.10, +0.12; b: +0.06, +0.04; overall, by seed: +0.08, +0.08. The means alone have errors of 0.02 each, which
    # unpaired would give 0.028.
    assert near(dropout.domains["a"].gain, 0.11, 0.01, 2)
    assert near(dropout.domains["b"].gain, 0.05, 0.01, 2)
    assert near(dropout.overall.gain, 0.08, 0.0, 2)
    assert baseline.overall.gain is None


def test_standard_error_of_three_seeds_is_numpys() -> None:
    oods = [0.61, 0.66, 0.58]
    (row,) = summarise([record("ensemble", 0.0, "a", seed, 0.9, ood) for seed, ood in enumerate(oods)])
    assert near(row.overall.ood, np.mean(oods).item(), np.std(oods, ddof=1).item() / 3**0.5, 3)


def test_one_seed_has_no_standard_error() -> None:
    rows = summarise([entry for entry in RECORDS if entry.seed == 0 and entry.method == "fine-tuning"])
    assert rows[1].overall.ood == Estimate(0.6, None, 1)
    assert rows[1].overall.gain == Estimate(0.08, None, 1)


def test_missing_records_are_named_and_their_seeds_left_out() -> None:
    records = [
        entry for entry in RECORDS if not (entry.dropout == 0.9 and entry.test_domain == "b" and entry.seed == 1)
    ]
    baseline, dropout, probe = summarise(records)
    assert baseline.complete
    assert not dropout.complete
    assert dropout.missing == (("b", 1),)
    assert dropout.overall.ood == Estimate(0.6, None, 1)  # seed 0 alone
    assert near(dropout.domains["a"].ood, 0.73, 0.03, 2)
    assert dropout.domains["b"].ood == Estimate(0.5, None, 1)
    assert probe.missing == (("a", 1), ("b", 0), ("b", 1))
    assert probe.overall == Score(None, None, None)
    assert probe.domains["a"].gain == Estimate(-0.2, None, 1)


def test_gain_is_over_the_seeds_that_the_baseline_has_too() -> None:
    records = [entry for entry in RECORDS if not (entry.dropout == 0 and entry.test_domain == "b" and entry.seed == 0)]
    dropout = summarise(records)[1]
    assert near(dropout.overall.ood, 0.62, 0.02, 2)
    assert dropout.overall.gain == Estimate(0.08, None, 1)


def test_expected_grid_names_what_no_row_has() -> None:
    (row,) = summarise(RECORDS[1:3], expected=[("a", 0), ("a", 1), ("c", 0)])
    assert row.missing == (("c", 0),)
    assert list(row.domains) == ["a", "c"]
    assert row.overall.ood is None


def test_nothing_summarises_to_nothing() -> None:
    assert summarise([]) == []


def test_two_records_of_one_cell_are_refused() -> None:
    twice = [record("fine-tuning", 0.9, "a", 3, 0.9, 0.7, learning_rate=rate) for rate in (1e-3, 5e-4)]
    with pytest.raises(UserError) as caught:
        summarise(twice)
    assert str(caught.value) == (
        "two records of fine-tuning with dropout 0.9, test domain 'a', seed 3 (they differ in learning_rate); "
        "choose one by its i.i.d. accuracy, or summarise each setting by itself"
    )


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    failed = [{"method": "ensemble", "error": "collapsed"}]
    write_results(path, RECORDS, dataset={"name": "emoji"}, failed=failed, command="largedrop compare emoji")
    content = json.loads(path.read_text("utf-8"))
    assert list(content) == ["largedrop", "accuracy", "command", "dataset", "failed", "records"]
    assert content["accuracy"] == "fraction of images, 0 to 1"
    results = read_results(path)
    assert list(results.records) == RECORDS
    assert results.dataset == {"name": "emoji"}
    assert list(results.failed) == failed
    assert results.command == "largedrop compare emoji"


def test_record_turns_numpy_numbers_into_plain_ones() -> None:
    entry = Record("fine-tuning", np.float32(0.5), "a", np.int64(1), np.float32(0.5), np.float64(1), np.int64(2), 1)  # type: ignore[arg-type]
    assert json.loads(json.dumps(entry.to_json()))["iid_accuracy"] == 0.5


def test_all_that_is_wrong_with_a_record_is_told_at_once() -> None:
    content = whole() | {
        "method": "ensembel",
        "dropout": 1.0,
        "ood_accuracy": 72.7,
        "seed": True,
        "steps": -1,
        "spam": 1,
    }
    del content["test_domain"]
    with pytest.raises(UserError) as caught:
        Record.from_json(content, "results.json, records[4]")
    assert str(caught.value) == (
        "results.json, records[4]: unknown field 'spam'; "
        "'method' is \"ensembel\", did you mean 'ensemble'? (there are: fine-tuning, ensemble, weight-average, "
        "swad, ensemble-across, weight-average-across, greedy-soup, linear-fine-tuning, linear-probe); "
        "'dropout' is 1.0, want a rate, at least 0 and less than 1; 'test_domain' is missing; "
        "'seed' is true, want a whole number, at least 0; 'ood_accuracy' is 72.7, want a fraction from 0 to 1, not %; "
        "'steps' is -1, want a whole number, at least 0"
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("method", 3, "'method' is 3, want the name of a method"),
        ("test_domain", "", "'test_domain' is \"\", want a name"),
        ("iid_accuracy", float("nan"), "'iid_accuracy' is NaN, want a fraction from 0 to 1, not %"),
        ("seconds", float("inf"), "'seconds' is Infinity, want a number, at least 0"),
        ("settings", [], "'settings' is [], want an object"),
        ("iid_acuracy", 1, "unknown field 'iid_acuracy', did you mean 'iid_accuracy'?"),
    ],
)
def test_field_is_refused(name: str, value: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        Record.from_json(whole() | {name: value}, "here")
    assert str(caught.value) == f"here: {told}"


def test_settings_may_be_absent() -> None:
    content = whole()
    del content["settings"]
    assert Record.from_json(content, "here").settings == {}


def test_entry_that_is_no_object() -> None:
    with pytest.raises(UserError, match=r"^here: want an object with method, dropout, test_domain"):
        Record.from_json([], "here")


def test_every_bad_record_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, RECORDS, dataset={}, failed=[], command="")
    content = json.loads(path.read_text("utf-8"))
    content["records"][1]["seed"] = 0.5
    content["records"][3] = None
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError) as caught:
        read_results(path)
    first, second = str(caught.value).splitlines()
    assert first == f"{path}, records[1]: 'seed' is 0.5, want a whole number, at least 0"
    assert second.startswith(f"{path}, records[3]: want an object with method, ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "{path} is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (
            "[]",
            "{path} is not a results file: want an object with largedrop, accuracy, command, dataset, failed, records",
        ),
        (
            '{"largedrop": "1", "accuracy": "%", "command": "", "dataset": [], "failed": [1]}',
            "{path} is not a results file: 'dataset' is not an object; 'records' is missing; "
            "'accuracy' is '%', want 'fraction of images, 0 to 1'; 'failed' has an entry that is not an object",
        ),
    ],
)
def test_file_that_is_no_results_file(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        read_results(path)
    assert str(caught.value) == told.replace("{path}", str(path))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot read .*none\.json: No such file or directory$"):
        read_results(tmp_path / "none.json")


def test_describe_counts_the_images_of_each_domain() -> None:
    class Blank(list[Any]):
        bound = 8

    ids = np.array([0, 0, 1], dtype=np.int64)
    dataset = Dataset("toy", ("x",), ("a", "b"), ids * 0, ids, np.arange(3), ("1", "2", "3"), Blank(), "f00d", ("bad",))
    assert describe(dataset) == {
        "name": "toy",
        "images": 3,
        "domains": {"a": 2, "b": 1},
        "classes": ["x"],
        "fingerprint": "f00d",
        "skipped": 1,
    }
