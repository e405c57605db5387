"""Measures of a representation, against loops, closed forms and constructions whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from largedrop.analysis.richness import (
    SHARES,
    effective_rank,
    fit_probe,
    head_curve,
    mean_correlation,
    measure_richness,
    participation_ratio,
    probe_accuracies,
    random_orders,
    removable,
    singular_values,
)
from largedrop.errors import UserError
from largedrop.runs.estimate import Estimate

RNG = np.random.default_rng(0)


def orthonormal(images: int, units: int) -> np.ndarray:
    """Columns of length 1, orthogonal to each other and to a constant, so that their means are 0."""
    columns = np.linalg.qr(np.column_stack([np.ones(images), RNG.normal(size=(images, units))]))[0]
    return columns[:, 1:]


def test_orthonormal_features_have_the_rank_of_their_number() -> None:
    values = singular_values(orthonormal(40, 8) + 3.0)
    np.testing.assert_allclose(values, np.ones(8))
    assert effective_rank(values) == pytest.approx(8)
    assert participation_ratio(values) == pytest.approx(8)


def test_copies_divide_the_rank_and_multiply_the_correlation() -> None:
    table = np.repeat(orthonormal(40, 4), 3, axis=1)  # 12 units, of which each has two copies
    values = singular_values(table)
    assert effective_rank(values) == pytest.approx(4, abs=1e-9)
    assert participation_ratio(values) == pytest.approx(4)
    # Of 12 × 11 ordered pairs 12 × 2 are copies, correlated 1; the others 0.
    assert mean_correlation(table) == pytest.approx(24 / 132)
    assert mean_correlation(orthonormal(40, 4)) == pytest.approx(0, abs=1e-12)


def test_ranks_by_hand() -> None:
    sigma = [3.0, 1.0]
    assert effective_rank(sigma) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert participation_ratio(sigma) == pytest.approx((9 + 1) ** 2 / (81 + 1))
    assert effective_rank([0.0, 0.0]) == participation_ratio([0.0, 0.0]) == 0


def test_singular_values_are_the_roots_of_the_scatter_matrix() -> None:
    table = RNG.normal(size=(30, 5)) + 2
    eigenvalues = 29 * np.linalg.eigvalsh(np.cov(table, rowvar=False))
    np.testing.assert_allclose(singular_values(table), np.sqrt(eigenvalues[::-1]))


def test_correlation_against_a_loop_and_without_units_that_are_constant() -> None:
    table = RNG.normal(size=(25, 4)) @ RNG.normal(size=(4, 4))
    pairs = [abs(np.corrcoef(table[:, i], table[:, j])[0, 1]) for i in range(4) for j in range(4) if i != j]
    with_dead = np.column_stack([table, np.zeros(25), np.full(25, 0.1)])
    assert mean_correlation(with_dead) == pytest.approx(np.mean(pairs))
    assert mean_correlation(np.ones((5, 3))) is None


def test_probe_is_ridge_and_its_penalty_is_the_best_of_true_leave_one_out() -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(24, 6)) + 1
    labels = (table[:, 0] + 0.3 * rng.normal(size=24) > 1).astype(np.int64) + (table[:, 1] > 1)
    found, offset = fit_probe(table, labels, 3)

    def ridge(rows: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        x, y = table[rows], np.eye(3)[labels[rows]]
        centred = x - x.mean(0)
        weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(6), centred.T @ (y - y.mean(0))).T
        return weight, y.mean(0) - weight @ x.mean(0)

    everything = np.arange(24)

    def left_out_error(penalty: float) -> float:
        errors = []
        for one in range(24):
            weight, bias = ridge(np.delete(everything, one), penalty)
            errors.append(np.square(np.eye(3)[labels[one]] - weight @ table[one] - bias).mean())
        return float(np.mean(errors))

    centred = table - table.mean(0)
    scale = np.square(centred).sum() / 24
    tried = {float(scale * 10**power): left_out_error(scale * 10**power) for power in np.arange(-5, 2.01, 0.5)}
    best = min(tried, key=tried.__getitem__)
    for mine, wanted in zip((found, offset), ridge(everything, best), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-10)
    assert best not in (min(tried), max(tried))  # or the test could not tell a wrong formula


def test_probe_of_a_representation_without_any_variance_is_the_prior() -> None:
    weight, bias = fit_probe(np.ones((4, 3)), np.array([0, 1, 1, 1]), 2)
    np.testing.assert_allclose(weight, 0)
    np.testing.assert_allclose(bias, [0.25, 0.75])


def test_probes_on_subsets_of_copies_and_of_a_single_useful_unit() -> None:
    labels = np.arange(60) % 2
    signal = np.where(labels == 1, 1.0, -1.0)[:, None]
    copies = np.repeat(signal, 20, axis=1)
    alone = 0.01 * RNG.normal(size=(60, 20))
    alone[:, :1] = signal
    subsets = random_orders(20, 12)[:, :2]
    tests = [(copies, labels)]
    assert probe_accuracies(copies, labels, tests, 2, subsets).min() == 1
    found = probe_accuracies(alone, labels, [(alone[::-1], labels[::-1])], 2, subsets)[:, 0]
    has = (subsets == 0).any(axis=1)
    assert has.any()
    assert (found[has] == 1).all()
    assert found[~has].mean() < 0.9


def test_orders_are_permutations() -> None:
    orders = random_orders(50, 4)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(50), (4, 1)))
    np.testing.assert_array_equal(orders, random_orders(50, 4))
    assert len({tuple(order) for order in orders.tolist()}) == 4


def test_head_curve_against_zeroed_and_rescaled_units() -> None:
    table, labels = RNG.normal(size=(50, 8)), RNG.integers(3, size=50)
    weight, bias = RNG.normal(size=(3, 8)), RNG.normal(size=3)
    orders = random_orders(8, 3)
    found = head_curve(table, labels, weight, bias, orders)
    for row, order in enumerate(orders):
        for column, kept in enumerate((1, 1, 1, 1, 2, 3, 4, 6, 7, 8)):
            mask = np.zeros(8)
            mask[order[:kept]] = 8 / kept
            wanted = np.mean(((table * mask) @ weight.T + bias).argmax(1) == labels)
            assert found[row, column] == wanted


def test_removable_is_where_the_curve_first_falls_by_a_point() -> None:
    assert removable((0.1, 0.5, 1.0), (0.9, 0.9, 0.9)) == pytest.approx(0.9)
    assert removable((0.1, 0.5, 1.0), (0.5, 0.89, 0.9)) == pytest.approx(0.5)  # a fall of exactly one point is none
    # From 0.8 at all units to 0.78 at half: 0.79 is in the middle, and the rise further down does not count.
    assert removable((0.1, 0.5, 1.0), (0.9, 0.78, 0.8)) == pytest.approx(0.25)
    assert removable((0.2, 0.6, 1.0), (0.4, 0.8, 0.8)) == pytest.approx(0.4 + 0.4 * 0.01 / 0.4)


def test_all_measures_of_a_redundant_and_of_a_sparse_representation() -> None:
    """Two representations of the same accuracy: ten units that all tell the classes apart, and one that does."""
    labels = np.arange(200) % 2
    sign = np.where(labels == 1, 1.0, -1.0)[:, None]
    redundant = sign + 0.1 * RNG.normal(size=(200, 10))
    sparse = np.concatenate([sign, RNG.normal(size=(200, 9))], axis=1)
    dead = np.zeros((200, 2))
    even = np.array([[-1.0] * 10 + [0, 0], [1.0] * 10 + [0, 0]])
    single = np.array([[-1.0] + [-0.01] * 9 + [0, 0], [1.0] + [0.01] * 9 + [0, 0]])
    bias = np.zeros(2)
    images = (np.hstack([redundant, dead]), labels)
    (rich,) = measure_richness(images, [images], even, bias, draws=20)
    images = (np.hstack([sparse, dead]), labels)
    (poor,) = measure_richness(images, [images], single, bias, draws=20)
    assert (rich.images, rich.units, rich.constant, rich.shares) == (200, 12, 2, SHARES)
    assert rich.accuracy == poor.accuracy == rich.kept_random[-1].mean == rich.kept_smallest[-1] == 1
    assert rich.kept_random[-1] == Estimate(1.0, 0.0, 20)
    assert rich.probes[0.5].mean > 0.99 > poor.probes[0.5].mean
    assert rich.kept_random[SHARES.index(0.5)].mean > 0.99 > poor.kept_random[SHARES.index(0.5)].mean
    assert rich.removable_random > poor.removable_random
    assert poor.removable_largest < 0.15  # the one unit that counts is the first to go
    assert rich.removable_largest > 0.6
    assert rich.effective_rank < poor.effective_rank  # redundant is not the same as of high rank
    assert rich.correlation is not None
    assert poor.correlation is not None
    assert rich.correlation > 0.95 > 0.3 > poor.correlation
    assert measure_richness(images, [images], single, bias, draws=20) == [poor]


def test_mistakes() -> None:
    good = (RNG.normal(size=(4, 2)), np.array([0, 1, 0, 1]))
    with pytest.raises(UserError, match="two images or more, not 1"):
        measure_richness(good, [(np.ones((1, 2)), np.array([0]))], np.eye(2), np.zeros(2), draws=1)
    with pytest.raises(UserError, match="the representation contains NaN or infinity"):
        measure_richness((good[0] * np.nan, good[1]), [good], np.eye(2), np.zeros(2), draws=1)
