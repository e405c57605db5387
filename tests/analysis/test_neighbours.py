"""Neighbours against brute force, and doubts against a head fitted anew without each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.helpers import Watch

from largedrop.analysis import neighbours
from largedrop.analysis.neighbours import doubts, nearest, principal_axes, projected


def features(count: int = 40, width: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + 3).astype(np.float16)


@pytest.mark.parametrize("blocks", [(1024, 8192), (7, 11)])
def test_nearest_rows_whatever_the_blocks(blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "_COLUMNS", blocks[1])
    rows = torch.nn.functional.normalize(torch.tensor(features().astype(np.float32)))
    found = nearest(rows, 3)
    indices, values = found.indices, found.values
    products = rows @ rows.T
    products.fill_diagonal_(-2)
    expected = products.topk(3, dim=1)
    assert torch.allclose(values, expected.values, atol=1e-6)
    assert torch.equal(indices, expected.indices)


def test_nearest_of_other_rows_and_of_too_few() -> None:
    rows = torch.eye(3)
    found = nearest(rows, 5, rows.flip(0))
    indices, values = found.indices, found.values
    assert indices[0].tolist()[0] == 2  # the last of the flipped rows is the first row
    assert values[0].tolist() == [1, 0]
    assert 1 not in indices[1]  # itself
    assert [each.shape for each in (nearest(rows[:1], 5).indices, nearest(rows[:1], 5).values)] == [(1, 0), (1, 0)]


@pytest.mark.parametrize("mirrored", [False, True])
def test_many_rows_are_compared_with_those_in_nearby_cells(mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    kinds = torch.randn(60, 1, 16, generator=draw)
    rows = torch.nn.functional.normalize((kinds + 0.4 * torch.randn(60, 15, 16, generator=draw)).flatten(0, 1))
    others = torch.nn.functional.normalize(rows + 0.05 * torch.randn(900, 16, generator=draw)) if mirrored else None
    exact = nearest(rows, 5, others)
    monkeypatch.setattr(neighbours, "_EXACT", 899)
    monkeypatch.setattr(neighbours, "_NEAR", 2)
    works: list[float] = []
    found = nearest(rows, 5, others, Watch(advance=works.append))
    there = (exact.indices[:, :, None] == found.indices[:, None]).any(2)
    assert there[exact.values > 0.95].float().mean() > 0.99
    assert there.float().mean() > 0.99
    assert not torch.equal(exact.indices, found.indices)  # else nothing was left out
    assert (found.indices != torch.arange(900)[:, None]).all()
    compared = rows if others is None else others
    torch.testing.assert_close(found.values, (rows[:, None] * compared[found.indices]).sum(2))
    assert sum(works) == pytest.approx(900)
    assert torch.equal(nearest(rows, 5, others).indices, found.indices)
    # Where the cells near a row hold too few, it is compared with all.
    monkeypatch.setattr(neighbours, "_NEAR", 1)
    assert torch.equal(nearest(rows, 400, others).values, exact_values(rows, compared, 400))


def exact_values(rows: torch.Tensor, others: torch.Tensor, count: int) -> torch.Tensor:
    products = rows @ others.T
    return products.fill_diagonal_(-torch.inf).topk(count, dim=1).values


def test_axes_and_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    values = features()
    axes = principal_axes(values)
    centred = torch.tensor(values.astype(np.float64) - values.astype(np.float64).mean(0))
    assert torch.allclose(axes.vectors @ axes.vectors.T, torch.eye(12, dtype=torch.float64), atol=1e-9)
    assert torch.allclose((centred @ axes.vectors).square().sum(0), axes.squares, rtol=1e-4, atol=1e-3)
    rows = projected(values, axes).float()
    whole = torch.nn.functional.normalize(centred).float()
    assert torch.allclose(rows @ rows.T, whole @ whole.T, atol=3e-3)  # no axis is left out
    monkeypatch.setattr(neighbours, "_WIDTH", 2)
    assert torch.equal(projected(values, axes).float().norm(dim=1).round(decimals=2), torch.ones(40))


def test_doubts_are_those_of_a_head_that_has_not_seen_the_image() -> None:
    values, classes = features(), 3
    labels = np.random.default_rng(1).integers(0, classes, len(values))
    axes = principal_axes(values)
    found = doubts(values, labels, classes, axes)
    penalty = 0.03 * float(axes.squares.mean())
    given = torch.tensor(values.astype(np.float64))
    indicators = torch.nn.functional.one_hot(torch.tensor(labels), classes).double()
    for index in range(len(values)):
        seen = torch.arange(len(values)) != index
        mean, shares = given[seen].mean(0), indicators[seen].mean(0)
        centred = given[seen] - mean
        products = centred.T @ centred + penalty * torch.eye(12, dtype=torch.float64)
        weights = torch.linalg.solve(products, centred.T @ (indicators[seen] - shares))
        scores = (given[index] - mean) @ weights + shares
        own = scores[labels[index]].clone()
        scores[labels[index]] = -torch.inf
        assert float(found.margins[index]) == pytest.approx(float(scores.max() - own), abs=2e-3)
        assert int(found.others[index]) == int(scores.argmax())


def test_constant_features_doubt_nothing() -> None:
    values = np.ones((6, 4), np.float16)
    labels = np.array([0, 0, 0, 1, 1, 1])
    axes = principal_axes(values)
    assert torch.isfinite(doubts(values, labels, 2, axes).margins).all()
    assert not projected(values, axes).any()
