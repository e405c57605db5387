"""Selection against sums done by hand, and every choice against a plain loop."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from largedrop.errors import UserError
from largedrop.report.drawing.hull import convex_hull
from largedrop.runs.estimate import Estimate
from largedrop.runs.record import Record
from largedrop.selection.averages import Missing, Setting, average, settings_of
from largedrop.selection.selection import centre, combinations, family_cloud, groups, select


def record(
    domain: str, seed: int, iid: float, ood: float, method: str = "fine-tuning", dropout: float = 0.0, **settings: Any
) -> Record:
    return Record(method, dropout, domain, seed, iid, ood, 10, 1.0, settings)


LOW, HIGH = Setting("fine-tuning", 0.0, (("lr", 0.1),)), Setting("fine-tuning", 0.0, (("lr", 0.5),))

# Two settings on two domains with two seeds: lr 0.1 is better i.i.d. on a (0.75 to 0.70), lr 0.5 on b (0.85 to 0.80),
# and o.o.d. each time the other.
RECORDS = [
    record("a", 0, 0.70, 0.40, lr=0.1),
    record("a", 1, 0.80, 0.50, lr=0.1),
    record("a", 0, 0.70, 0.60, lr=0.5),
    record("a", 1, 0.70, 0.70, lr=0.5),
    record("b", 0, 0.80, 0.90, lr=0.1),
    record("b", 1, 0.80, 0.80, lr=0.1),
    record("b", 0, 0.90, 0.20, lr=0.5),
    record("b", 1, 0.80, 0.40, lr=0.5),
]


def test_a_setting_is_what_differs_but_for_seed_and_domain() -> None:
    records = [
        record("a", 0, 0.5, 0.5, lr=0.1, size=96, left_out="c", betas=[0.9, 0.99]),
        record("b", 1, 0.5, 0.5, lr=0.2, size=96, betas=[0.9, 0.99], head="warm"),
    ]
    make = settings_of(records)
    assert make(records[0]) == Setting("fine-tuning", 0.0, (("lr", 0.1),))
    assert str(make(records[1])) == "fine-tuning, dropout 0, head warm, lr 0.2"
    assert len({make(records[0]), make(records[0]), make(records[1])}) == 2
    assert make(records[1]).without("lr") == Setting("fine-tuning", 0.0, (("head", "warm"),))
    assert make(records[1]).only("lr", "head") == "head warm, lr 0.2"


def test_settings_hold_lists_as_tuples() -> None:
    records = [record("a", 0, 0.5, 0.5, betas=[1, 2]), record("a", 0, 0.5, 0.5, betas=[1, 3])]
    assert hash(settings_of(records)(records[0])) == hash(Setting("fine-tuning", 0.0, (("betas", (1, 2)),)))
    assert str(settings_of(records)(records[1])) == "fine-tuning, dropout 0, betas 1/3"


def test_settings_are_in_order_of_method_rate_and_value() -> None:
    settings = [
        Setting(method, rate, (("lr", lr),))
        for method, rate, lr in itertools.product(("linear-probe", "fine-tuning"), (0.9, 0.0), (0.5, 0.1, "a"))
    ]
    printed = [str(setting) for setting in sorted(settings, key=Setting.order)]
    assert printed[:4] == [
        "fine-tuning, dropout 0, lr 0.1",
        "fine-tuning, dropout 0, lr 0.5",
        "fine-tuning, dropout 0, lr a",
        "fine-tuning, dropout 0.9, lr 0.1",
    ]
    assert printed[6] == "linear-probe, dropout 0, lr 0.1"


def test_means_over_seeds_by_hand() -> None:
    found = average(RECORDS)
    assert found.settings == (LOW, HIGH)
    assert (found.domains, found.seeds, found.missing) == (("a", "b"), (0, 1), ())
    np.testing.assert_allclose(found.means, [[[0.75, 0.45], [0.80, 0.85]], [[0.70, 0.65], [0.85, 0.30]]], atol=1e-15)
    np.testing.assert_array_equal(found.counts, [[2, 2], [2, 2]])
    assert found.values.shape == (2, 2, 2, 2)
    assert found.values[1, 0, 1, 1] == 0.70


def test_missing_seeds_are_named_and_leave_the_mean_out() -> None:
    found = average(RECORDS[1:])
    assert found.missing == (Missing(LOW, "a", 0),)
    assert str(found.missing[0]) == "fine-tuning, dropout 0, lr 0.1; test domain a, seed 0"
    assert np.isnan(found.means[0, 0]).all()
    assert not np.isnan(found.means[1]).any()
    lenient = average(RECORDS[1:], allow_missing=True)
    np.testing.assert_allclose(lenient.means[0, 0], [0.80, 0.50])
    assert lenient.missing == found.missing
    assert lenient.counts[0, 0] == 1


def test_a_grid_may_have_more_than_the_records() -> None:
    found = average(RECORDS, seeds=(2,), domains=("c",), settings=(Setting("ensemble", 0.0, (("lr", 0.1),)),))
    assert found.domains == ("c", "a", "b")
    assert found.seeds == (0, 1, 2)
    assert len(found.missing) == 3 * 3 * 3 - 8
    assert np.isnan(found.means).all()


def test_two_records_of_one_run_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        average([*RECORDS, RECORDS[0], record("b", 1, 0, 0, lr=0.5)])
    assert str(caught.value) == (
        "there are two records of the same run:\n"
        "fine-tuning, dropout 0, lr 0.1; test domain a, seed 0\n"
        "fine-tuning, dropout 0, lr 0.5; test domain b, seed 1"
    )


def test_no_records() -> None:
    with pytest.raises(UserError, match=r"^there is nothing to select from: no run gave a record$"):
        select([])
    with pytest.raises(UserError, match=r"\(all 1 leave out a domain besides the test domain\)$"):
        select([record("a", 0, 0.5, 0.5, left_out="b")])


def test_combinations_of_two_settings_on_two_domains_by_a_plain_loop() -> None:
    found = average(RECORDS)
    expected = [
        [(found.means[first, 0, kind] + found.means[second, 1, kind]) / 2 for kind in (0, 1)]
        for first in (0, 1)
        for second in (0, 1)
    ]
    np.testing.assert_allclose(family_cloud(found, [LOW, HIGH]), expected, atol=1e-15)
    np.testing.assert_allclose(expected, [[0.775, 0.65], [0.80, 0.375], [0.75, 0.75], [0.775, 0.475]])


def test_the_papers_1296_dots_are_those_of_itertools() -> None:
    choices = np.random.default_rng(0).random((4, 6, 2))
    expected = [np.mean(picked, axis=0) for picked in itertools.product(*choices)]
    found = combinations(choices)  # type: ignore[arg-type]
    assert found.shape == (1296, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_domains_may_have_different_numbers_of_settings() -> None:
    assert combinations([np.zeros((2, 2)), np.ones((3, 2))]).tolist() == [[0.5, 0.5]] * 6
    assert combinations([np.zeros((2, 2)), np.empty((0, 2))]).shape == (0, 2)


def test_a_million_combinations_and_no_more_than_two() -> None:
    assert combinations(np.zeros((6, 10, 2))).shape == (1_000_000, 2)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        combinations(np.zeros((6, 12, 2)))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "12 × 12 × 12 × 12 × 12 × 12 settings make 2,985,984 combinations over 6 test domains, more than 2,000,000; "
        "choose among fewer settings"
    )


def test_combinations_of_wrong_shapes() -> None:
    with pytest.raises(UserError, match=r"test domain 0 has shape \(3,\); test domain 2 has shape \(2, 3\)$"):
        combinations([np.zeros(3), np.zeros((2, 2)), np.zeros((2, 3))])
    with pytest.raises(UserError, match="no test domain"):
        combinations([])


def test_iid_selection_by_hand() -> None:
    (choice,) = select(RECORDS)
    assert choice.rule == "iid"
    assert choice.group == Setting("fine-tuning", 0.0)
    assert choice.chosen == {"a": LOW, "b": HIGH}
    # seed 0: (0.40 + 0.20) / 2 = 0.30, seed 1: (0.50 + 0.40) / 2 = 0.45
    assert choice.by_seed[0] == pytest.approx((0.80, 0.30))
    assert choice.by_seed[1] == pytest.approx((0.80, 0.45))
    assert choice.ood is not None
    assert (choice.ood.mean, choice.ood.n) == (pytest.approx(0.375), 2)
    assert choice.ood.error == pytest.approx(0.075)
    assert choice.domains["b"][1] == Estimate.of([0.20, 0.40])
    assert choice.missing == ()


def test_iid_selection_never_looks_at_the_ood_accuracy() -> None:
    blind = [record(each.test_domain, each.seed, each.iid_accuracy, 0.5, **each.settings) for each in RECORDS]
    assert select(blind)[0].chosen == select(RECORDS)[0].chosen


def test_oracle_by_hand_and_only_by_name() -> None:
    (choice,) = select(RECORDS, "oracle")
    assert choice.chosen == {"a": HIGH, "b": LOW}
    assert choice.ood is not None
    assert choice.ood.mean == pytest.approx(0.75)
    with pytest.raises(UserError, match=r"^unknown selection 'orakel'; did you mean 'oracle'\? "):
        select(RECORDS, "orakel")


def test_ties_go_to_the_lower_value_whatever_the_order_of_the_records() -> None:
    # The sums of the seeds differ in their last bit.
    tied = [
        record("a", seed, accuracy, 0.5, lr=lr)
        for lr, accuracies in ((0.5, (0.1, 0.2, 0.3)), (0.1, (0.3, 0.2, 0.1)))
        for seed, accuracy in enumerate(accuracies)
    ]
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1
    for records in (tied, tied[::-1]):
        assert select(records)[0].chosen == {"a": LOW}


def test_what_is_not_tuned_is_compared() -> None:
    records = [
        record("a", 0, 0.5 + lr, 0.5, lr=lr, head_lr_multiplier=multiplier, dropout=dropout)
        for lr in (0.1, 0.2)
        for multiplier in (1.0, 10.0)
        for dropout in (0.9, 0.0)
    ]
    assert [str(choice.group) for choice in select(records)] == [
        "fine-tuning, dropout 0, head_lr_multiplier 1",
        "fine-tuning, dropout 0, head_lr_multiplier 10",
        "fine-tuning, dropout 0.9, head_lr_multiplier 1",
        "fine-tuning, dropout 0.9, head_lr_multiplier 10",
    ]
    assert len(select(records, tuned=("lr", "head_lr_multiplier"))) == 2
    assert len(groups(average(records).settings, ())) == 8


def test_a_setting_with_missing_seeds_is_not_chosen_unless_allowed() -> None:
    short = [each for each in RECORDS if not (each.settings["lr"] == 0.5 and (each.test_domain, each.seed) == ("b", 1))]
    (choice,) = select(short)
    assert choice.chosen == {"a": LOW, "b": LOW}
    assert choice.missing == (Missing(HIGH, "b", 1),)
    (choice,) = select(short, allow_missing=True)
    assert choice.chosen == {"a": LOW, "b": HIGH}
    assert choice.missing == (Missing(HIGH, "b", 1),)
    assert choice.ood is not None
    assert (choice.ood.mean, choice.ood.n, choice.ood.error) == (pytest.approx(0.30), 1, None)


def test_a_domain_without_a_whole_setting_gives_no_average() -> None:
    (choice,) = select([each for each in RECORDS if (each.test_domain, each.seed) != ("b", 1)])
    assert choice.chosen == {"a": LOW}
    assert (choice.iid, choice.ood, dict(choice.by_seed)) == (None, None, {})
    assert list(choice.domains) == ["a"]
    assert len(choice.missing) == 2


def test_centre_is_the_mean_of_the_cloud() -> None:
    found = average(RECORDS)
    middle = centre(found, [LOW, HIGH])
    assert middle is not None
    np.testing.assert_allclose([each.mean for each in middle], family_cloud(found, [LOW, HIGH]).mean(0))
    # seed 0: (0.4 + 0.6 + 0.9 + 0.2) / 4 = 0.525, seed 1: (0.5 + 0.7 + 0.8 + 0.4) / 4 = 0.6
    assert (middle[1].n, middle[1].error) == (2, pytest.approx(0.0375))
    assert centre(average([each for each in RECORDS if (each.test_domain, each.seed) != ("b", 1)]), [LOW, HIGH]) is None


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
    (choice,) = select(left_out_records(), "leave-one-domain-out")
    assert choice.chosen == {"a": HIGH, "b": HIGH, "c": LOW}
    assert choice.ood is not None
    assert choice.ood.mean == pytest.approx((0.45 + 0.45 + 0.25) / 3)
    assert select(left_out_records())[0].chosen == dict.fromkeys("abc", LOW)


def test_leave_one_domain_out_selection_averages_over_the_other_domains() -> None:
    # For target a: lr 0.1 has 0.9 on b and 0.0 on c (mean 0.45), lr 0.5 has 0.5 on both.
    scores = {(0.1, "b"): 0.9, (0.1, "c"): 0.0, (0.5, "b"): 0.5, (0.5, "c"): 0.5}
    records = [
        record(each.test_domain, 0, 0.5, scores[each.settings["lr"], each.test_domain], **each.settings)
        if each.settings.get("left_out") == "a"
        else each
        for each in left_out_records()
    ]
    assert select(records, "leave-one-domain-out")[0].chosen["a"] == HIGH


def test_leave_one_domain_out_selection_never_looks_at_the_test_domain() -> None:
    blind = [
        each if each.settings.get("left_out") else record(each.test_domain, 0, 0.1, 1 - each.ood_accuracy, lr=lr)
        for each in left_out_records()
        for lr in [each.settings["lr"]]
    ]
    before, after = (select(records, "leave-one-domain-out")[0] for records in (left_out_records(), blind))
    assert before.chosen == after.chosen
    assert before.ood != after.ood


def test_leave_one_domain_out_selection_names_the_runs_that_it_lacks() -> None:
    records = [
        each
        for each in left_out_records(seeds=2)
        if (each.settings["lr"], each.settings.get("left_out"), each.seed) != (0.5, "b", 1)
    ]
    with pytest.raises(UserError) as caught:
        select(records, "leave-one-domain-out")
    assert str(caught.value) == (
        "leave-one-domain-out selection needs runs that leave out the test domain and another one; 2 of them are not "
        "stored:\nfine-tuning, dropout 0, lr 0.5: left out b, test domain a (seed 1), c (seed 1)"
    )
    with pytest.raises(UserError, match=r"; 12 of them are not stored:\n"):
        select([each for each in left_out_records() if "left_out" not in each.settings], "leave-one-domain-out")
    with pytest.raises(UserError, match=r"needs three domains or more .*; there are a, b$"):
        select(RECORDS, "leave-one-domain-out")


def test_choice_as_json() -> None:
    content = select(RECORDS)[0].to_json()
    assert content["ood"] == {"mean": 0.375, "error": pytest.approx(0.075), "n": 2}
    assert content["domains"]["a"]["chosen"] == "fine-tuning, dropout 0, lr 0.1"
    assert list(content["by_seed"]) == ["0", "1"]


def test_hull_of_a_square_with_points_inside_and_on_its_edges() -> None:
    grid = np.stack(np.meshgrid(range(5), range(3)), -1).reshape(-1, 2)
    assert convex_hull(np.concatenate([grid, grid])).tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]
    assert convex_hull([[1, 1], [1, 1]]).tolist() == [[1, 1]]
    assert convex_hull([[0, 0], [2, 2], [1, 1]]).tolist() == [[0, 0], [2, 2]]
    assert convex_hull(np.empty((0, 2))).shape == (0, 2)
    for points, told in (([1, 2, 3], r"not \(3,\)"), ([[0, math.nan]], "finite")):
        with pytest.raises(UserError, match=told):
            convex_hull(points)


def test_hull_holds_every_point_and_its_corners_are_points() -> None:
    points = np.random.default_rng(0).normal(size=(5000, 2))
    corners = convex_hull(points)
    assert {tuple(corner) for corner in corners} <= {tuple(point) for point in points}
    following = np.roll(corners, -1, axis=0)
    along, offsets = following - corners, points[:, None] - corners
    assert (along[:, 0] * offsets[..., 1] - along[:, 1] * offsets[..., 0] >= -1e-12).all()
    turns = np.roll(along, -1, axis=0)
    assert (along[:, 0] * turns[:, 1] - along[:, 1] * turns[:, 0] > 0).all()
