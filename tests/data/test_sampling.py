"""Batches: every epoch whole, every domain of the same weight, and a function of seed and step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from largedrop.data.sampling import batch_indices, batches, classes_of

DOMAINS = (np.arange(100, 124), np.array([7, 3, 5]), np.arange(500, 510))
BATCH = 4


def stream(domain: int, steps: int, seed: int = 0, batch: int = BATCH) -> npt.NDArray[np.int64]:
    """The indices that a domain gives in so many steps, in their order."""
    rows = [batch_indices(DOMAINS, batch, seed, step) for step in range(steps)]
    return np.concatenate([row[domain * batch : (domain + 1) * batch] for row in rows])


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("domain", range(3))
def test_each_epoch_of_a_domain_has_each_of_its_images_once(domain: int, batch: int) -> None:
    count = len(DOMAINS[domain])
    drawn = stream(domain, -(-6 * count // batch), batch=batch)
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count].tolist()) == sorted(DOMAINS[domain].tolist())


def test_each_domain_gives_as_many_images_in_the_order_of_the_domains() -> None:
    for step in range(20):
        indices = batch_indices(DOMAINS, BATCH, 0, step)
        assert indices.shape == (12,)
        assert indices.dtype == np.int64
        for domain, part in zip(DOMAINS, indices.reshape(3, BATCH), strict=True):
            assert np.isin(part, domain).all()


def test_batches_are_a_function_of_seed_and_step_alone() -> None:
    forward = [batch_indices(DOMAINS, BATCH, 5, step).tolist() for step in range(12)]
    backward = [batch_indices(DOMAINS, BATCH, 5, step).tolist() for step in reversed(range(12))]
    assert forward == backward[::-1]
    assert len({tuple(row) for row in forward}) == 12
    assert forward != [batch_indices(DOMAINS, BATCH, 6, step).tolist() for step in range(12)]


def test_epochs_and_domains_are_shuffled_each_in_its_own_way() -> None:
    epochs = stream(0, 30).reshape(-1, 24)
    assert len({tuple(row) for row in epochs.tolist()}) == 5
    twins = (np.arange(24), np.arange(24))
    first, second = np.concatenate([batch_indices(twins, BATCH, 0, step).reshape(2, -1) for step in range(6)], axis=1)
    assert first.tolist() != second.tolist()


def test_shuffling_is_uniform() -> None:
    """The first image of an epoch is each one of a domain equally often: χ² with 9 degrees of freedom."""
    firsts = [int(batch_indices((np.arange(10),), 1, seed, 0)[0]) for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert float(((counts - 200) ** 2 / 200).sum()) < 9 + 5 * np.sqrt(18)


def test_the_order_of_a_domain_does_not_hang_on_the_other_domains() -> None:
    alone = [batch_indices(DOMAINS[:1], BATCH, 0, step).tolist() for step in range(10)]
    assert alone == [batch_indices(DOMAINS, BATCH, 0, step)[:BATCH].tolist() for step in range(10)]


LABELS = np.zeros(600, np.int64)
LABELS[[100, 101, 3, 7]] = 1
LABELS[[119, 509]] = 2
CLASSES = classes_of(DOMAINS, LABELS)


def balanced(domain: int, steps: int, batch: int = BATCH, seed: int = 0) -> npt.NDArray[np.int64]:
    rows = [batch_indices(DOMAINS, batch, seed, step, CLASSES) for step in range(steps)]
    return np.concatenate([row[domain * batch : (domain + 1) * batch] for row in rows])


@pytest.mark.parametrize(("domain", "sizes"), [(0, {0: 21, 1: 2, 2: 1}), (1, {0: 1, 1: 2}), (2, {0: 9, 2: 1})])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_balanced_batches_draw_every_class_of_a_domain_equally_often(
    domain: int, sizes: dict[int, int], batch: int
) -> None:
    drawn = balanced(domain, 600 // batch, batch)
    classes = LABELS[drawn]
    rounds = classes[: len(classes) // len(sizes) * len(sizes)].reshape(-1, len(sizes))
    assert all(set(row) == set(sizes) for row in rounds.tolist())
    assert len({tuple(row) for row in rounds.tolist()}) > 1
    for label, count in sizes.items():
        own = drawn[classes == label]
        members = DOMAINS[domain][LABELS[DOMAINS[domain]] == label]
        assert len(members) == count
        for start in range(0, len(own) - count + 1, count):
            assert sorted(own[start : start + count].tolist()) == sorted(members.tolist())


def test_balanced_batches_are_a_function_of_seed_and_step_alone() -> None:
    forward = [batch_indices(DOMAINS, BATCH, 5, step, CLASSES).tolist() for step in range(12)]
    assert forward == [batch_indices(DOMAINS, BATCH, 5, step, CLASSES).tolist() for step in reversed(range(12))][::-1]
    assert forward == batches(DOMAINS, BATCH, 5, 0, 12, CLASSES).tolist()
    assert forward != [batch_indices(DOMAINS, BATCH, 6, step, CLASSES).tolist() for step in range(12)]


def test_what_was_drawn_before_there_were_balanced_batches() -> None:
    assert batch_indices(DOMAINS, BATCH, 3, 7).tolist() == [111, 114, 108, 102, 5, 7, 5, 3, 507, 503, 508, 503]
