"""A dataset of several domains that share their classes, and its splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UserError, one_of

__all__ = ["Dataset", "Images", "Split"]


IntArray = npt.NDArray[np.int64]
"""One-dimensional array of int64."""


class Images(Protocol):
    """Decoded images: ``images[i]`` is a read-only uint8 array (height, width, 3), RGB; no access decodes anything."""

    bound: int
    """Images whose shorter side was longer than this were shrunk to it when they were decoded, in pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Split:
    """Which images a run trains on, selects on and is tested on; indices into the dataset, ascending.

    ``train`` has one array per training domain, in the order of ``train_domains``; ``iid`` is what was held out of all
    of them, and ``iid_domains`` has each one's index into ``train_domains``; ``ood`` is the whole of the test domain.
    """

    train_domains: tuple[str, ...]
    test_domain: str
    train: tuple[IntArray, ...]
    iid: IntArray
    iid_domains: IntArray
    ood: IntArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of several domains.

    Attributes:
        name: what the user called it (a folder's name, or ``emoji``).
        classes: names of the classes, sorted; labels index into them.
        domains: names of the domains; ``domain_ids`` index into them.
        labels: class of each image, (n,).
        domain_ids: domain of each image, (n,).
        groups: images with the same number show the same thing and stay on one side of the i.i.d. split, (n,).
            In a folder every image is its own group; in ``emoji`` a group is one emoji drawn in every style.
        keys: a name for each image that does not depend on the machine, ``domain/class/file``.
        images: the decoded images.
        fingerprint: hexadecimal digest of keys, labels, domains, groups and image contents.
        skipped: images left out because they could not be decoded, with the reason.
    """

    name: str
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    labels: IntArray
    domain_ids: IntArray
    groups: IntArray
    keys: tuple[str, ...]
    images: Images
    fingerprint: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def indices(self, domain: str) -> IntArray:
        """Indices of the images of ``domain``, ascending, (n_domain,)."""
        return np.flatnonzero(self.domain_ids == self.domain_index(domain)).astype(np.int64)

    def domain_index(self, domain: str) -> int:
        """Position of ``domain`` in ``domains``.

        Raises:
            UserError: there is no such domain.
        """
        if domain not in self.domains:
            raise UserError(f"no domain '{domain}' in {self.name}; {one_of(domain, self.domains)}")
        return self.domains.index(domain)

    def split(self, test_domain: str, seed: int, held_out: float = 0.2, left_out: str = "") -> Split:
        """Hold ``held_out`` of every training domain out for the i.i.d. score; the test domain is never trained on.

        The share is taken within each class of each domain (at least one image is held out and at least one is left),
        or, where a group spans several domains, within each class over all of them, so that no group is on both sides.
        Which are held out depends on ``seed`` alone, not on the test domain, so that standard errors over seeds contain
        this choice; by the README of the paper's public code, all seeds share one split. No image of ``left_out`` is
        anywhere.

        Raises:
            UserError: unknown domains, or no other domain is left to train on.
        """
        self.domain_index(test_domain)
        if left_out:
            self.domain_index(left_out)
        if len(self.domains) < 2:
            raise UserError(f"{self.name} has only the domain '{test_domain}': testing on it leaves none to train on")
        out = self._held_out(seed, held_out)
        train_domains = tuple(domain for domain in self.domains if domain not in (test_domain, left_out))
        if not train_domains:
            raise UserError(f"without '{test_domain}' and '{left_out}', {self.name} has no domain to train on")
        members = [self.indices(domain) for domain in train_domains]
        iid = np.sort(np.concatenate([indices[out[indices]] for indices in members]))
        numbers = np.full(len(self.domains), -1, dtype=np.int64)
        numbers[[self.domains.index(domain) for domain in train_domains]] = np.arange(len(train_domains))
        return Split(
            train_domains=train_domains,
            test_domain=test_domain,
            train=tuple(indices[~out[indices]] for indices in members),
            iid=iid,
            iid_domains=numbers[self.domain_ids[iid]],
            ood=self.indices(test_domain),
        )

    def _held_out(self, seed: int, share: float) -> npt.NDArray[np.bool_]:
        pairs = np.unique(np.stack([self.groups, self.domain_ids]), axis=1)
        shared = len(np.unique(pairs[0])) < pairs.shape[1]
        strata = self.labels if shared else self.domain_ids * len(self.classes) + self.labels
        out = np.zeros(len(self), dtype=np.bool_)
        for stratum in np.unique(strata):
            groups = np.unique(self.groups[strata == stratum])
            rng = np.random.Generator(np.random.Philox(key=[seed, int(stratum)]))
            count = min(max(1, round(share * len(groups))), len(groups) - 1)
            out |= np.isin(self.groups, rng.permutation(groups)[:count])
        return out


def check_names(kind: str, names: Iterable[str]) -> None:
    """Raise UserError where two ``names`` are the same."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"the {kind} '{name}' is named twice")
        seen.add(name)
