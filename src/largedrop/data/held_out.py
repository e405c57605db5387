"""Which images are held out for the i.i.d. score: by class and domain, and whole groups only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .parts import PARTS

__all__ = ["held_out"]

IntArray = npt.NDArray[np.int64]

_TRAIN, _VALIDATION = PARTS.index("train"), PARTS.index("validation")


def held_out(
    groups: IntArray,
    domain_ids: IntArray,
    labels: IntArray,
    parts: IntArray | None,
    classes: int,
    seed: int,
    share: float,
) -> npt.NDArray[np.bool_]:
    """Whether each image is held out where its domain is trained on, (n,).

    Where a split is given, its validation images are; in a domain without such, and everywhere without a split, a share
    of each class is drawn, and with an image its whole group.

    Args:
        groups: number of each image's group, (n,).
        domain_ids: number of each image's domain, (n,).
        labels: number of each image's class, (n,).
        parts: index into ``PARTS`` of each image or -1, (n,), or None.
        classes: number of classes.
        seed: seed of the draw.
        share: share of the groups of each class in each domain.
    """
    if parts is None:
        return _drawn(groups, domain_ids, labels, classes, seed, share)
    out: npt.NDArray[np.bool_] = parts == _VALIDATION
    decided = np.isin(domain_ids, domain_ids[out])
    free = (parts == _TRAIN) & ~np.isin(groups, groups[decided])
    out[free] = _drawn(groups[free], domain_ids[free], labels[free], classes, seed, share)
    return out


def _drawn(
    groups: IntArray, domain_ids: IntArray, labels: IntArray, classes: int, seed: int, share: float
) -> npt.NDArray[np.bool_]:
    """Draw a share of the groups of each class in each domain, at least one and not all.

    Where every group has one class, and one domain or every domain (then it is drawn class by class), that share is
    exact. Else a group counts for each of its classes and domains, and is held out only where none of them has its
    share yet; those with fewest groups choose first.
    """
    if not len(groups):
        return np.zeros(0, dtype=np.bool_)
    numbers, of = np.unique(groups, return_inverse=True)
    cells = labels if _crossed(of, domain_ids, labels) else domain_ids * classes + labels
    # Each cell with each group that has images in it, by cell.
    in_cell, group_of = np.divmod(np.unique(cells * len(numbers) + of), len(numbers))
    names, starts, sizes = np.unique(in_cell, return_index=True, return_counts=True)
    members = np.split(group_of, starts[1:])
    several = len(group_of) > len(numbers)
    cells_of = _by_group(group_of, np.repeat(np.arange(len(names)), sizes), len(numbers)) if several else []
    need = np.array([min(max(1, round(share * size)), size - 1) for size in sizes.tolist()])
    drawn = np.zeros(len(numbers), dtype=np.bool_)
    ties = np.random.Generator(np.random.Philox(key=[seed, 1 << 32])).permutation(len(names))
    for cell in np.lexsort((ties, sizes)).tolist():
        rng = np.random.Generator(np.random.Philox(key=[seed, int(names[cell])]))
        order = rng.permutation(members[cell])
        if not several:
            drawn[order[: need[cell]]] = True
            continue
        for group in order.tolist():
            if need[cell] < 1:
                break
            if not drawn[group] and (need[cells_of[group]] > 0).all():
                drawn[group] = True
                need[cells_of[group]] -= 1
    return drawn[of]


def _crossed(of: IntArray, domain_ids: IntArray, labels: IntArray) -> bool:
    """Whether every group has one class, and occurs in every one of several domains."""
    groups, domains = int(of.max()) + 1, len(np.unique(domain_ids))
    in_domains, in_classes = (len(np.unique(ids * groups + of)) for ids in (domain_ids, labels))
    return domains > 1 and in_domains == groups * domains and in_classes == groups


def _by_group(groups: IntArray, values: IntArray, count: int) -> list[IntArray]:
    """The values of each group."""
    order = np.argsort(groups, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(groups, minlength=count))[:-1])
