"""Selection against sums done by hand, and every choice against a plain loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from tests.helpers import TWO_SETTINGS, record, refusal

from largedrop.errors import UserError
from largedrop.runs.estimate import Estimate
from largedrop.runs.record import Record
from largedrop.selection.averages import Missing, average
from largedrop.selection.row import Row
from largedrop.selection.selection import select, summarise
from largedrop.selection.settings import Setting


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
    assert choice.setting == Setting("fine-tuning", 0.0)
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
    assert [str(choice.setting) for choice in selected(records)] == [
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
        each if each.settings.get("left_out") else record(each.test_domain, 0, 0.1, 1 - (each.ood_accuracy or 0), lr=lr)
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
    assert refusal(selected, records, "leave-one-domain-out") == (
        "leave-one-domain-out selection needs runs that leave out the test domain and another one; 2 of them are not "
        "stored:\nfine-tuning, dropout 0, lr 0.5: left out b, test domain a (seed 1), c (seed 1)"
    )
    with pytest.raises(UserError, match=r"; 12 of them are not stored:\n"):
        selected([each for each in left_out_records() if "left_out" not in each.settings], "leave-one-domain-out")
    with pytest.raises(UserError, match=r"needs three domains or more .*; there are a, b$"):
        selected(TWO_SETTINGS, "leave-one-domain-out")


def wise_ft(domain: str, seed: int, curve: dict[float, tuple[float, float]], **settings: Any) -> list[Record]:
    """The records of a run: its fine-tuning, and WiSE-FT at each α."""
    tuned = record(domain, seed, *curve[0.0], "fine-tuning", 0.9, **settings)
    between = [
        record(domain, seed, iid, ood, "wise-ft", 0.9, alpha=alpha, **settings) for alpha, (iid, ood) in curve.items()
    ]
    return [tuned, *between]


def test_alpha_is_chosen_where_nothing_is_tuned() -> None:
    curves = {
        ("a", 0): {0.0: (0.80, 0.50), 0.5: (0.82, 0.60), 1.0: (0.70, 0.65)},
        ("a", 1): {0.0: (0.90, 0.52), 0.5: (0.80, 0.62), 1.0: (0.70, 0.65)},
        ("b", 0): {0.0: (0.80, 0.20), 0.5: (0.85, 0.30), 1.0: (0.85, 0.40)},
        ("b", 1): {0.0: (0.80, 0.22), 0.5: (0.85, 0.32), 1.0: (0.85, 0.44)},
    }
    records = [each for (domain, seed), curve in curves.items() for each in wise_ft(domain, seed, curve)]
    tuned, between = summarise(records)
    assert [str(row.setting) for row in (tuned, between)] == ["fine-tuning, dropout 0.9", "wise-ft, dropout 0.9"]
    # a: (0.80 + 0.90) / 2 = 0.85 and 0.81 i.i.d.; b: the two are tied, and 1 is nearer to the start.
    assert {domain: setting.alpha for domain, setting in between.chosen.items()} == {"a": "0", "b": "1"}
    assert between.by_seed == {0: pytest.approx((0.825, 0.45)), 1: pytest.approx((0.875, 0.48))}
    assert (between.dots, len(between.candidates)) == (1, 3)
    assert between.cloud().tolist() == [pytest.approx([0.85, 0.465])]
    assert between.missing == ()


def test_a_missing_run_of_every_alpha_is_one() -> None:
    curve = {0.0: (0.8, 0.5), 0.5: (0.9, 0.6), 1.0: (0.7, 0.6)}
    runs = [("a", 0), ("a", 1), ("b", 0)]
    records = [each for domain, seed in runs for each in wise_ft(domain, seed, curve)]
    tuned, between = summarise(records)
    assert between.missing == (Missing(Setting("wise-ft", 0.9), "b", 1),)
    assert len(tuned.missing) == 1
    assert between.chosen["b"].alpha == "0.5"


def test_alpha_beside_the_learning_rate_by_each_rule() -> None:
    """Two learning rates × three α: by i.i.d. accuracy the one, by domains that were left out the other."""
    records = []
    for lr, domain in itertools.product((0.1, 0.5), "abc"):
        records += wise_ft(domain, 0, {0.0: (0.9 - lr / 5, 0.5), 0.5: (0.8, 0.6), 1.0: (0.6, 0.55)}, lr=lr)
        for other in "abc".replace(domain, ""):
            # Left out domain c prefers the way back at the larger rate, the others half of it at the smaller one.
            best = (0.5, 1.0) if domain == "c" else (0.1, 0.5)
            curve = {alpha: (0.5, 0.7 if (lr, alpha) == best else 0.4 + alpha / 10) for alpha in (0.0, 0.5, 1.0)}
            records += wise_ft(other, 0, curve, lr=lr, left_out=domain)
    _, by_iid = selected(records)
    assert {str(setting) for setting in by_iid.chosen.values()} == {"wise-ft, dropout 0.9, alpha 0, lr 0.1"}
    assert by_iid.dots == 2**3
    # lr 0.1: 0.88 at α = 0; lr 0.5: 0.80 at α = 0 and 0.5, so 0.5. The mean of the two on every domain:
    assert by_iid.centre is not None
    assert [each.mean for each in by_iid.centre] == pytest.approx([0.84, 0.55])
    _, by_left_out = selected(records, "leave-one-domain-out")
    assert {
        domain: str(setting).removeprefix("wise-ft, dropout 0.9, ") for domain, setting in by_left_out.chosen.items()
    } == {
        "a": "alpha 0.5, lr 0.1",
        "b": "alpha 0.5, lr 0.1",
        "c": "alpha 1, lr 0.5",
    }
    assert by_left_out.ood is not None
    assert by_left_out.ood.mean == pytest.approx((0.6 + 0.6 + 0.55) / 3)
    kept = [each for each in records if (each.settings["lr"], each.settings.get("left_out")) != (0.5, "c")]
    told = refusal(selected, kept, "leave-one-domain-out")
    assert "; 4 of them are not stored:" in told
    assert "\nwise-ft, dropout 0.9, lr 0.5: left out c, test domain a (seed 0), b (seed 0)" in told


def test_rows_come_in_a_fixed_order() -> None:
    methods, rates = ("fine-tuning", "ensemble", "weight-average", "linear-probe"), (0.0, 0.5, 0.9)
    grid = [(method, rate) for method in methods for rate in rates]
    rows = summarise(record("a", 0, 0.5, 0.5, method, rate) for method, rate in reversed(grid))
    assert [(row.method, row.dropout) for row in rows] == grid
    assert [row.baseline for row in rows] == [True] + [False] * 11


def test_gains_are_over_plain_fine_tuning_whatever_the_objective() -> None:
    reached = {("erm", 0.0): 0.50, ("erm", 0.9): 0.54, ("vrex", 0.0): 0.51, ("vrex", 0.9): 0.57}
    records = [
        record("a", 0, 0.8, ood + size, dropout=dropout, objective=objective, size=size)
        for (objective, dropout), ood in reached.items()
        for size in (0, 0.1)
    ]
    rows = summarise(records)
    gains = {(dict(row.setting.items)["objective"], row.dropout): row.gain and round(row.gain.mean, 9) for row in rows}
    assert gains == {("erm", 0.0): None, ("erm", 0.9): 0.04, ("vrex", 0.0): 0.01, ("vrex", 0.9): 0.07}
    assert {row.name for row in rows if row.baseline} == {"plain fine-tuning"}
    assert [row.name for row in rows if not row.baseline] == ["fine-tuning"] * 2 + ["dropout 0.9"] * 4


def test_a_shared_objective_has_gains_over_no_dropout_which_is_not_called_plain() -> None:
    records = [record("a", 0, 0.8, 0.5 + dropout / 10, dropout=dropout, objective="vrex") for dropout in (0.0, 0.9)]
    (one, other) = summarise(records)
    assert (one.baseline, one.name, other.gain and round(other.gain.mean, 9)) == (
        True,
        "fine-tuning without dropout",
        0.09,
    )


def test_masks_have_gains_over_plain_fine_tuning() -> None:
    settings = ((0.0, 1, 0.5), (0.9, 1, 0.54), (0.9, 16, 0.57))
    rows = summarise(record("a", 0, 0.8, ood, dropout=dropout, masks=masks) for dropout, masks, ood in settings)
    assert [(row.setting.items, row.gain and round(row.gain.mean, 9)) for row in rows] == [
        ((), None),
        ((("masks", 1),), 0.04),
        ((("masks", 16),), 0.07),
    ]


def test_macro_accuracy_selects_where_the_runs_or_the_rule_say_so() -> None:
    macro = {0.1: 0.3, 0.5: 0.6}

    def with_macro(**more: Any) -> list[Record]:
        return [
            replace(
                each,
                settings={**each.settings, **more},
                iid_macro_accuracy=macro[each.settings["lr"]],
                ood_macro_accuracy=0.5,
            )
            for each in TWO_SETTINGS
        ]

    def chosen(records: list[Record], rule: str = "iid") -> list[Any]:
        (row,) = select(average(records), rule, tuned=["lr"])
        return [dict(setting.items)["lr"] for setting in row.chosen.values()]

    assert chosen(with_macro()) == [0.1, 0.5]
    assert chosen(with_macro(), "iid-macro") == [0.5, 0.5]
    assert chosen(with_macro(select_by="iid-accuracy")) == [0.1, 0.5]
    assert chosen(with_macro(select_by="iid-macro")) == [0.5, 0.5]
    (row,) = select(average(with_macro()), tuned=["lr"])
    assert (row.iid_macro, row.ood_macro) == (Estimate(0.45, 0.0, 2), Estimate(0.5, 0.0, 2))
    assert refusal(select, average(TWO_SETTINGS), "iid-macro") == (
        "no run has an i.i.d. macro accuracy to select by: they are of an older version"
    )


def test_runs_without_a_test_domain() -> None:
    alone = [replace(record("", seed, 0.7, 0.0, lr=lr), ood_accuracy=None) for seed in (0, 1) for lr in (0.1, 0.5)]
    (row,) = select(average(alone))
    assert (row.test_domains, row.n, row.ood, row.gain) == (("",), 2, None, None)
    assert row.iid == Estimate(0.7, 0.0, 2)
    assert row.by_seed == {0: (0.7, None), 1: (0.7, None)}
    for rule in ("oracle", "leave-one-domain-out"):
        assert refusal(select, average(alone), rule) == (
            f"{rule} selects by accuracy on test domains, and no run has one"
        )
    # They have no part where others have a test domain.
    assert average([*alone, *TWO_SETTINGS]).domains == ("a", "b")
