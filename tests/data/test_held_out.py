"""What is held out: a share of every class in every domain, and whole groups only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from largedrop.data.held_out import held_out

TRAIN, VALIDATION, TEST = range(3)


def out_of(groups: Any, domains: Any, labels: Any, parts: Any = None, seed: int = 0, share: float = 0.2) -> Any:
    arrays = [None if each is None else np.asarray(each, np.int64) for each in (groups, domains, labels, parts)]
    return held_out(*arrays, classes=int(arrays[2].max()) + 1, seed=seed, share=share)  # type: ignore[arg-type, misc, union-attr]


def shots(rng: np.random.Generator, groups: int, domains: int = 3, classes: int = 4) -> Any:
    """Groups of 1 to 9 images: each in one domain, of one or several classes."""
    rows = []
    for group in range(groups):
        domain, seen = rng.integers(domains), rng.permutation(classes)[: rng.integers(1, 4)]
        rows += [(group, domain, rng.choice(seen)) for _ in range(rng.integers(1, 10))]
    return np.array(rows).T


def split_groups(groups: Any, out: Any) -> set[int]:
    return set(groups[out].tolist()) & set(groups[~out].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_several_classes_are_on_one_side_and_shares_are_kept(seed: int) -> None:
    groups, domains, labels = shots(np.random.default_rng(seed), 300)
    out = out_of(groups, domains, labels, seed=seed)
    assert not split_groups(groups, out)
    for domain in range(3):
        here = domains == domain
        held = len(np.unique(groups[here & out])) / len(np.unique(groups[here]))
        assert held == pytest.approx(0.2, abs=0.05)
        for label in range(4):
            cell = here & (labels == label)
            assert len(np.unique(groups[cell & out])) / len(np.unique(groups[cell])) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(out, out_of(groups, domains, labels, seed=seed))
    assert (out != out_of(groups, domains, labels, seed=seed + 1)).any()


def test_rare_classes_do_not_hold_out_half_of_the_groups() -> None:
    groups = np.arange(200).repeat(2)
    labels = np.array([(0, 1 + group // 2) for group in range(200)]).reshape(-1)  # class 0, and 100 of two groups each
    out = out_of(groups, np.zeros(400), labels)
    assert len(np.unique(groups[out])) == 40


def test_a_class_of_one_group_is_trained_on_with_all_its_domain_shows() -> None:
    out = out_of([0, 0, 0, 1, 1, 2], [0] * 6, [0, 0, 1, 1, 1, 1])
    assert not out[:3].any()  # the only group with class 0
    assert out[3:5].all() != out[5]


def test_a_patient_in_two_domains_is_held_out_in_both_or_in_neither() -> None:
    groups = [0, 1, 2, 3, 4, 0, 5, 6, 7, 8]
    for seed in range(20):
        out = out_of(groups, [0] * 5 + [1] * 5, [0] * 10, seed=seed)
        assert out[0] == out[5]
        assert out[:5].sum() == out[5:].sum() == 1


def test_groups_of_one_class_and_domain_are_drawn_as_images_are() -> None:
    single = out_of(range(30), [0] * 15 + [1] * 15, [0, 1, 2] * 10, seed=3)
    grouped = out_of(np.arange(30).repeat(4), np.repeat([0, 1], 60), np.repeat([0, 1, 2] * 10, 4), seed=3)
    np.testing.assert_array_equal(grouped, single.repeat(4))


def test_a_split_that_is_given() -> None:
    parts = [TRAIN, TRAIN, VALIDATION, TEST, -1, *[TRAIN] * 10, *[TEST] * 5]
    domains, labels = [0] * 5 + [1] * 15, [0, 1, 0, 0, 0, *[0, 1] * 7, 0]
    out = out_of(range(20), domains, labels, parts)
    assert out[:5].tolist() == [False, False, True, False, False]
    assert (out[5:15].sum(), out[15:].sum()) == (2, 0)  # of the second domain, which has none, a fifth of its five each
    assert not out_of(range(20), domains, labels, [TEST] * 20).any()


def test_a_group_that_a_given_split_trains_on_elsewhere_is_not_drawn() -> None:
    groups = [0, 1, 2, 0, 3, 4, 5]
    for seed in range(10):
        out = out_of(groups, [0] * 3 + [1] * 4, [0] * 7, [TRAIN, TRAIN, VALIDATION, *[TRAIN] * 4], seed=seed)
        assert (out[3], out[4:].sum()) == (False, 1)


def drawn_stratum_by_stratum(groups: Any, domains: Any, labels: Any, classes: int, seed: int) -> Any:
    """How it was drawn before there were groups of several classes: such data keep their bits."""
    shared = len(np.unique(np.stack([groups, domains]), axis=1)[0]) > len(np.unique(groups))
    strata = labels if shared else domains * classes + labels
    out = np.zeros(len(groups), dtype=np.bool_)
    for stratum in np.unique(strata):
        found = np.unique(groups[strata == stratum])
        rng = np.random.Generator(np.random.Philox(key=[seed, int(stratum)]))
        out |= np.isin(groups, rng.permutation(found)[: min(max(1, round(0.2 * len(found))), len(found) - 1)])
    return out


@pytest.mark.parametrize("seed", range(20))
def test_images_by_themselves_and_things_in_every_domain_are_drawn_as_ever(seed: int) -> None:
    rng = np.random.default_rng(seed)
    things, domains, classes = rng.integers(2, 60), int(rng.integers(1, 5)), int(rng.integers(2, 6))
    labels = np.tile(rng.integers(0, classes, things), domains)
    where = np.repeat(np.arange(domains), things)
    for groups in (np.arange(len(labels)), np.tile(np.arange(things), domains)):
        got = held_out(groups, where, labels, None, classes, seed, 0.2)
        np.testing.assert_array_equal(got, drawn_stratum_by_stratum(groups, where, labels, classes, seed))
