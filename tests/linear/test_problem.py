"""Problems and settings of linear training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import largedrop as ld
from largedrop.data.sampling import batch_indices
from largedrop.errors import UserError
from largedrop.linear.problem import Problem


def make(data: ld.Dataset, **changes: Any) -> Problem:
    views = (torch.zeros(len(data), 7),)
    return replace(Problem.of(views, (3, 4), data, data.split("photo", 0)), **changes)


def test_a_problem_is_that_of_its_split(data: ld.Dataset) -> None:
    problem, split = make(data), data.split("photo", 0)
    for found, wanted in zip(
        (*problem.train, problem.iid, problem.ood), (*split.train, split.iid, split.ood), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    assert (problem.classes, problem.widths) == (3, (3, 4))


def test_batches_are_those_of_a_full_fine_tuning(data: ld.Dataset) -> None:
    problem = make(data)
    images, views = problem.batches(5, 9, 3, 30)
    for step in range(3, 30):
        np.testing.assert_array_equal(images[step - 3], batch_indices(problem.train, 5, 9, step))
    assert not views.any()


def test_a_training_view_is_drawn_for_each_image_and_step(data: ld.Dataset) -> None:
    problem = make(data, views=(torch.zeros(len(data), 7),) * 4)
    _, views = problem.batches(5, 9, 0, 600)
    _, later = problem.batches(5, 9, 100, 600)
    np.testing.assert_array_equal(views[100:], later)
    counts = np.bincount(views.ravel(), minlength=4)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 6000, 1 / 3, atol=0.03)  # 5 standard errors


@pytest.mark.parametrize(
    ("widths", "fit", "taps"),
    [((3, 4), "linear", (1, 7)), ((4, 4, 4), "linear", (3, 4)), ((3, 4), "probe", (1, 4)), ((5,), "linear", (1, 5))],
)
def test_how_a_fit_reads_the_taps(data: ld.Dataset, widths: tuple[int, ...], fit: str, taps: tuple[int, int]) -> None:
    assert make(data, widths=widths, views=(torch.zeros(len(data), sum(widths)),)).taps(fit) == taps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": (torch.zeros(5, 7),)}, r"the features of view 0 have the shape \(5, 7\), not \(54, 7\)"),
        ({"views": (torch.zeros(54, 7, dtype=torch.int64),)}, "must be float16 or float32, not torch.int64"),
        ({"views": ()}, "at least one view and one tap"),
        ({"classes": 2}, "labels must be from 0 to 1"),
        ({"iid": np.array([], np.int64)}, "training images in every domain, held-out images and test"),
    ],
)
def test_a_problem_that_does_not_fit_is_refused(data: ld.Dataset, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(data, **changes)
