"""Selection against sums done by hand, and every choice against a plain loop."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest
from tests.helpers import TWO_SETTINGS, record

from largedrop.errors import UserError
from largedrop.runs.estimate import Estimate
from largedrop.runs.record import Record
from largedrop.selection.averages import Missing, average
from largedrop.selection.groups import Setting
from largedrop.selection.selection import Row, select, summarise


def selected(records: Iterable[Record], rule: str = "iid", allow_missing: bool = False, **more: Any) -> list[Row]:
    return select(average(records, allow_missing=allow_missing), rule, **more)


LOW, HIGH = Setting("fine-tuning", 0.0, (("lr", 0.1),)), Setting("fine-tuning", 0.0, (("lr", 0.5),))


def test_no_records() -> None:
    with pytest.raises(UserError, match=r"^there is nothing to select from: no run gave a record$"):
        selected([])
    with pytest.raises(UserError, match=r"\(all 1 leave out a domain besides the test domain\)$"):
        selected([record("a", 0, 0.5, 0.5, left_out="b")])


def test_iid_selection_by_hand() -> None:
    (choice,) = selected(TWO_SETTINGS)
    assert choice.rule == "iid"
    assert choice.group == Setting("fine-tuning", 0.0)
    assert choice.chosen == {"a": LOW, "b": HIGH}
    # seed 0: (0.40 + 0.20) / 2 = 0.30, seed 1: (0.50 + 0.40) / 2 = 0.45
    assert choice.by_seed[0] == pytest.approx((0.80, 0.30))
    assert choice.by_seed[1] == pytest.approx((0.80, 0.45))
    assert choice.ood is not None
    assert (choice.ood.mean, choice.ood.n) == (pytest.approx(0.375), 2)
    assert choice.ood.error == pytest.approx(0.075)
    assert choice.domains["b"].ood == Estimate.of([0.20, 0.40])
    assert choice.missing == ()


def test_iid_selection_never_looks_at_the_ood_accuracy() -> None:
    blind = [record(each.test_domain, each.seed, each.iid_accuracy, 0.5, **each.settings) for each in TWO_SETTINGS]
    assert selected(blind)[0].chosen == selected(TWO_SETTINGS)[0].chosen


def test_oracle_by_hand_and_only_by_name() -> None:
    (choice,) = selected(TWO_SETTINGS, "oracle")
    assert choice.chosen == {"a": HIGH, "b": LOW}
    assert choice.ood is not None
    assert choice.ood.mean == pytest.approx(0.75)
    with pytest.raises(UserError, match=r"^unknown selection 'orakel'; did you mean 'oracle'\? "):
        selected(TWO_SETTINGS, "orakel")


def test_ties_go_to_the_lower_value_whatever_the_order_of_the_records() -> None:
    # The sums of the seeds differ in their last bit.
    tied = [
        record("a", seed, accuracy, 0.5, lr=lr)
        for lr, accuracies in ((0.5, (0.1, 0.2, 0.3)), (0.1, (0.3, 0.2, 0.1)))
        for seed, accuracy in enumerate(accuracies)
    ]
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1
    for records in (tied, tied[::-1]):
        assert selected(records)[0].chosen == {"a": LOW}


def test_what_is_not_tuned_is_compared() -> None:
    records = [
        record("a", 0, 0.5 + lr, 0.5, lr=lr, head_lr_multiplier=multiplier, dropout=dropout)
        for lr in (0.1, 0.2)
        for multiplier in (1.0, 10.0)
        for dropout in (0.9, 0.0)
    ]
    assert [str(choice.group) for choice in selected(records)] == [
        "fine-tuning, dropout 0, head_lr_multiplier 1",
        "fine-tuning, dropout 0, head_lr_multiplier 10",
        "fine-tuning, dropout 0.9, head_lr_multiplier 1",
        "fine-tuning, dropout 0.9, head_lr_multiplier 10",
    ]
    assert len(selected(records, tuned=("lr", "head_lr_multiplier"))) == 2
    assert len(selected(records, tuned=())) == 8


def test_a_setting_with_missing_seeds_is_not_chosen_unless_allowed() -> None:
    short = [
        each for each in TWO_SETTINGS if not (each.settings["lr"] == 0.5 and (each.test_domain, each.seed) == ("b", 1))
    ]
    (choice,) = selected(short)
    assert choice.chosen == {"a": LOW, "b": LOW}
    assert choice.missing == (Missing(HIGH, "b", 1),)
    (choice,) = selected(short, allow_missing=True)
    assert choice.chosen == {"a": LOW, "b": HIGH}
    assert choice.missing == (Missing(HIGH, "b", 1),)
    assert choice.ood is not None
    assert (choice.ood.mean, choice.ood.n, choice.ood.error) == (pytest.approx(0.30), 1, None)


def test_a_domain_without_a_whole_setting_gives_no_average() -> None:
    (choice,) = selected([each for each in TWO_SETTINGS if (each.test_domain, each.seed) != ("b", 1)])
    assert choice.chosen == {"a": LOW}
    assert (choice.iid, choice.ood, choice.by_seed) == (None, None, {})
    assert [each.ood is None for each in choice.domains.values()] == [False, True]
    assert len(choice.missing) == 2


def left_out_records(domains: str = "abc", seeds: int = 1) -> list[Record]:
    """Two settings: lr 0.1 has the better i.i.d. accuracy, lr 0.5 does better on domains that were left out, but for
    those that choose for the test domain c.
    """
    records = []
    for lr, domain, seed in itertools.product((0.1, 0.5), domains, range(seeds)):
        records.append(record(domain, seed, 1 - lr, 0.2 + lr / 2, lr=lr))
        for other in domains:
            if other != domain:
                better = (lr == 0.5) != (domain == "c")
                records.append(record(other, seed, 0.5, 0.6 if better else 0.4, lr=lr, left_out=domain))
    return records


def test_leave_one_domain_out_selection_by_hand() -> None:
    (choice,) = selected(left_out_records(), "leave-one-domain-out")
    assert choice.chosen == {"a": HIGH, "b": HIGH, "c": LOW}
    assert choice.ood is not None
    assert choice.ood.mean == pytest.approx((0.45 + 0.45 + 0.25) / 3)
    assert selected(left_out_records())[0].chosen == dict.fromkeys("abc", LOW)


def test_leave_one_domain_out_selection_averages_over_the_other_domains() -> None:
    # For target a: lr 0.1 has 0.9 on b and 0.0 on c (mean 0.45), lr 0.5 has 0.5 on both.
    scores = {(0.1, "b"): 0.9, (0.1, "c"): 0.0, (0.5, "b"): 0.5, (0.5, "c"): 0.5}
    records = [
        record(each.test_domain, 0, 0.5, scores[each.settings["lr"], each.test_domain], **each.settings)
        if each.settings.get("left_out") == "a"
        else each
        for each in left_out_records()
    ]
    assert selected(records, "leave-one-domain-out")[0].chosen["a"] == HIGH


def test_leave_one_domain_out_selection_never_looks_at_the_test_domain() -> None:
    blind = [
        each if each.settings.get("left_out") else record(each.test_domain, 0, 0.1, 1 - each.ood_accuracy, lr=lr)
        for each in left_out_records()
        for lr in [each.settings["lr"]]
    ]
    before, after = (selected(records, "leave-one-domain-out")[0] for records in (left_out_records(), blind))
    assert before.chosen == after.chosen
    assert before.ood != after.ood


def test_leave_one_domain_out_selection_names_the_runs_that_it_lacks() -> None:
    records = [
        each
        for each in left_out_records(seeds=2)
        if (each.settings["lr"], each.settings.get("left_out"), each.seed) != (0.5, "b", 1)
    ]
    with pytest.raises(UserError) as caught:
        selected(records, "leave-one-domain-out")
    assert str(caught.value) == (
        "leave-one-domain-out selection needs runs that leave out the test domain and another one; 2 of them are not "
        "stored:\nfine-tuning, dropout 0, lr 0.5: left out b, test domain a (seed 1), c (seed 1)"
    )
    with pytest.raises(UserError, match=r"; 12 of them are not stored:\n"):
        selected([each for each in left_out_records() if "left_out" not in each.settings], "leave-one-domain-out")
    with pytest.raises(UserError, match=r"needs three domains or more .*; there are a, b$"):
        selected(TWO_SETTINGS, "leave-one-domain-out")


def comparison(*missing: tuple[str, float, str, int]) -> list[Record]:
    """Plain fine-tuning, dropout 0.9 and a probe of one seed and domain; but for some (method, rate, domain, seed)."""
    scores = {
        ("linear-probe", 0.0, "a"): [(0.70, 0.40)],
        ("fine-tuning", 0.9, "a"): [(0.90, 0.70), (0.92, 0.76)],
        ("fine-tuning", 0.9, "b"): [(0.80, 0.50), (0.82, 0.52)],
        ("fine-tuning", 0.0, "a"): [(0.88, 0.60), (0.90, 0.64)],
        ("fine-tuning", 0.0, "b"): [(0.80, 0.44), (0.84, 0.48)],
    }
    return [
        record(domain, seed, iid, ood, method, dropout)
        for (method, dropout, domain), pairs in scores.items()
        for seed, (iid, ood) in enumerate(pairs)
        if (method, dropout, domain, seed) not in missing
    ]


def near(estimate: Estimate | None, mean: float, error: float | None, n: int) -> bool:
    assert estimate is not None
    return (estimate.mean, estimate.error, estimate.n) == (pytest.approx(mean), pytest.approx(error, abs=1e-11), n)


def test_rows_come_in_a_fixed_order() -> None:
    methods, rates = ("fine-tuning", "ensemble", "weight-average", "linear-probe"), (0.0, 0.5, 0.9)
    grid = [(method, rate) for method in methods for rate in rates]
    rows = summarise(record("a", 0, 0.5, 0.5, method, rate) for method, rate in reversed(grid))
    assert [(row.method, row.dropout) for row in rows] == grid
    assert [row.baseline for row in rows] == [True] + [False] * 11


def test_means_standard_errors_and_gains_by_hand() -> None:
    baseline, dropout, _ = summarise(comparison())
    # Seeds: 0 → (0.90 + 0.80) / 2 = 0.85 and (0.70 + 0.50) / 2 = 0.60; 1 → 0.87 and 0.64. Two values d apart have a
    # standard deviation of d/√2 (ddof = 1) and a standard error of d/2.
    assert near(dropout.iid, 0.86, 0.01, 2)
    assert near(dropout.ood, 0.62, 0.02, 2)
    assert near(baseline.ood, 0.54, 0.02, 2)
    assert near(dropout.domains["a"].ood, 0.73, 0.03, 2)
    assert near(dropout.domains["b"].iid, 0.81, 0.01, 2)
    # a: +0.10, +0.12; b: +0.06, +0.04; overall, by seed: +0.08, +0.08. The means alone have errors of 0.02 each, which
    # unpaired would give 0.028.
    assert near(dropout.domains["a"].gain, 0.11, 0.01, 2)
    assert near(dropout.domains["b"].gain, 0.05, 0.01, 2)
    assert near(dropout.gain, 0.08, 0.0, 2)
    assert baseline.gain is None


def test_one_seed_has_no_standard_error() -> None:
    rows = summarise(each for each in comparison() if each.seed == 0 and each.method == "fine-tuning")
    assert (rows[1].ood, rows[1].gain) == (Estimate(0.6, None, 1), Estimate(0.08, None, 1))


def test_missing_runs_are_named_and_their_seeds_left_out() -> None:
    baseline, dropout, probe = summarise(comparison(("fine-tuning", 0.9, "b", 1)))
    assert (baseline.complete, dropout.complete) == (True, False)
    assert dropout.missing == (Missing(dropout.group, "b", 1),)
    assert dropout.ood == Estimate(0.6, None, 1)  # seed 0 alone
    assert near(dropout.domains["a"].ood, 0.73, 0.03, 2)
    assert (dropout.domains["a"].missing, dropout.domains["b"].missing) == ((), dropout.missing)
    assert dropout.domains["b"].ood == Estimate(0.5, None, 1)
    assert [(run.test_domain, run.seed) for run in probe.missing] == [("a", 1), ("b", 0), ("b", 1)]
    assert (probe.iid, probe.ood, probe.gain, probe.n) == (None, None, None, 0)
    assert probe.domains["a"].gain == Estimate(-0.2, None, 1)


def test_a_gain_is_over_the_seeds_that_plain_fine_tuning_has_too() -> None:
    dropout = summarise(comparison(("fine-tuning", 0.0, "b", 0)))[1]
    assert near(dropout.ood, 0.62, 0.02, 2)
    assert dropout.gain == Estimate(0.08, None, 1)


def test_a_comparison_may_have_more_than_the_records() -> None:
    (row,) = summarise([record("a", seed, 0.9, 0.7) for seed in (0, 1)], domains=("c", "a"), seeds=(0, 1))
    assert [(run.test_domain, run.seed) for run in row.missing] == [("c", 0), ("c", 1)]
    assert (list(row.domains), row.ood) == (["c", "a"], None)


def test_linear_fits_gain_over_the_fine_tuning_of_their_settings() -> None:
    rows = summarise(
        [
            record("a", 0, 0.9, 0.60, fit="all", size=96),
            record("a", 0, 0.9, 0.65, fit="all", size=128),
            record("a", 0, 0.9, 0.70, "linear-fine-tuning", fit="linear", size=128),
        ]
    )
    assert [row.gain for row in rows] == [None, None, Estimate(0.05, None, 1)]


def test_random_grids_have_the_numbers_of_the_two_aggregations_that_this_one_replaced() -> None:
    draw = random.Random(10).random
    methods = (("fine-tuning", 0.0), ("fine-tuning", 0.9), ("ensemble", 0.0))
    records = [
        record(domain, seed, draw(), draw(), method, dropout)
        for method, dropout in methods
        for domain in "abc"
        for seed in range(3)
    ]
    _, dropout, ensemble = summarise(records)
    assert dropout.iid == Estimate(0.523901263228, 0.207182085209, 3)
    assert dropout.ood == Estimate(0.531575066217, 0.026825751605, 3)
    assert dropout.gain == Estimate(0.105934994222, 0.165908803522, 3)
    assert dropout.domains["b"].gain == Estimate(-0.097732652323, 0.479056000527, 3)
    assert ensemble.gain == Estimate(-0.074692164637, 0.20268275338, 3)
    # Without plain fine-tuning on b with seed 1, and dropout 0.9 on c with seed 2.
    baseline, dropout, ensemble = summarise(each for index, each in enumerate(records) if index not in (4, 17))
    assert baseline.ood == Estimate(0.448949832205, 0.237724834324, 2)
    assert dropout.ood == Estimate(0.555563845158, 0.020796112673, 2)
    assert dropout.gain == Estimate(0.365134959949, None, 1)
    assert dropout.domains["b"].gain == Estimate(-0.004842889105, 0.814001492991, 2)
    assert ensemble.gain == Estimate(-0.26189890114, 0.134542963311, 2)
