"""A dataset of several domains that share their classes, and its splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UserError, check_type, one_of, several
from .held_out import held_out as held_out_of
from .parts import PARTS, split_text

__all__ = ["Dataset", "Images", "Split"]

TRAIN, VALIDATION, TEST = range(len(PARTS))

IntArray = npt.NDArray[np.int64]
"""One-dimensional array of int64."""


class Images(Protocol):
    """Decoded images: ``images[i]`` is a uint8 array (height, width, 3), RGB, not to be written to.

    No access decodes anything, but where the cache has no room for all images.
    """

    bound: int
    """Largest length of an image's shorter side, in pixels; longer ones were shrunk to it when decoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Split:
    """Which images a run trains on, selects on and is tested on: indices into the dataset, ascending.

    Attributes:
        train_domains: names of the training domains.
        test_domains: names of the test domains; empty where there is no o.o.d. score.
        train: indices of the training images, one array per training domain.
        iid: indices of the held-out images of all training domains, (n_iid,).
        iid_domains: index into ``train_domains`` of each held-out image, (n_iid,).
        ood: indices of all images of the test domains, (n_ood,).
        ood_domains: index into ``test_domains`` of each of them, (n_ood,).
    """

    train_domains: tuple[str, ...]
    test_domains: tuple[str, ...]
    train: tuple[IntArray, ...]
    iid: IntArray
    iid_domains: IntArray
    ood: IntArray
    ood_domains: IntArray


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images of several domains.

    Attributes:
        name: name of the folder, or ``emoji``.
        classes: names of the classes, sorted.
        domains: names of the domains.
        labels: index into ``classes`` of each image, (n,).
        domain_ids: index into ``domains`` of each image, (n,).
        groups: number of the thing that each image shows, (n,); images with the same number stay on one side of the
            i.i.d. split. Without groups every image has its own; in ``emoji`` it is the emoji, drawn in every style.
        keys: machine-independent name of each image, ``domain/class/file``, (n,).
        images: the decoded images.
        fingerprint: hexadecimal digest of keys, labels, domains, groups and image contents.
        skipped: ``key: reason`` of each image that was skipped because it cannot be decoded.
        notes: lines for people about what was understood, and about classes that not every domain has.
        parts: index into ``PARTS`` of each image by a split that was given, -1 for an image in none, (n,); None where
            seeds split.
        unlabelled: names of the domains that the source lists without any label; the dataset has none of their images.
        bits: how many bits the values of 16-bit greyscale images have, which were scaled by a power of two to 16.
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
    notes: tuple[str, ...] = ()
    parts: IntArray | None = None
    unlabelled: tuple[str, ...] = ()
    bits: int = 16

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<Dataset {self.name!r}: {len(self):,} images, domains {self.domains}, {len(self.classes)} classes>"

    def indices(self, domain: str) -> IntArray:
        """Indices of the images of ``domain``, ascending, (n_domain,)."""
        return np.flatnonzero(self.domain_ids == self.domain_index(domain)).astype(np.int64)

    @property
    def lacking(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes that a domain lacks, by domain; domains that have every class are not in it."""
        found = {}
        for number, domain in enumerate(self.domains):
            missing = np.setdiff1d(np.arange(len(self.classes)), self.labels[self.domain_ids == number])
            if missing.size:
                found[domain] = tuple(self.classes[label] for label in missing)
        return found

    def domain_index(self, domain: str) -> int:
        """Index of ``domain`` in ``domains``.

        Raises:
            UserError: there is no such domain, or none of its images has a label.
        """
        check_type(domain, str, "a domain must be named by text")
        if self.has_no_labels(domain):
            raise UserError(
                f"no image of '{domain}' has a label, so nothing can be scored on it; `largedrop predict` takes them"
            )
        if domain not in self.domains:
            known = (*self.domains, *self.unlabelled)
            swapped = "which is a class here: are the levels class/domain/image? " if domain in self.classes else ""
            raise UserError(f"no domain '{domain}' in {self.name}; {swapped}{one_of(domain, known)}")
        return self.domains.index(domain)

    def has_no_labels(self, domain: str) -> bool:
        """Whether the source has images of ``domain``, none of which has a label, so that none is in the dataset."""
        return domain in self.unlabelled and domain not in self.domains

    def split(self, test_domains: str | Sequence[str], seed: int, held_out: float = 0.2, left_out: str = "") -> Split:
        """Split into training images, images held out for the i.i.d. score, and the test domains.

        Images are held out class by class within each domain (of two or more, at least one image is held out and one is
        trained on; a single one is trained on);
        where groups span several domains, class by class over all domains, so that no group is on both sides. Which
        images are held out depends on ``seed`` alone, not on the test domains, so that standard errors over seeds
        contain this choice; by the README of the paper's public code, all seeds share one split.

        Where a split is given (``parts``), a domain is trained on its ``train`` images, and its ``validation`` images
        are held out; where it has none, some of its ``train`` images are, by seed. Its other images are in no part. Of
        a test domain all images are tested on, or only those in ``test`` where it has such.

        Args:
            test_domains: name of the domain to test on, or names of several, or none; none of their images is in
                ``train`` or ``iid``.
            seed: seed of the choice of held-out images.
            held_out: fraction of each training domain's images to hold out.
            left_out: name of a domain whose images are in no part of the split; empty for none.

        Raises:
            UserError: a domain is unknown; no domain or fewer than two classes remain to train on; a test domain has
                none of them; or no image can be held out.
        """
        tested = several(test_domains, "test_domains must be the name of a domain, or names")
        check_type(seed, (int, np.integer), "seed must be a whole number")
        check_type(held_out, (float, int, np.floating), "held_out must be a fraction")
        unseen = (*tested, *filter(None, (left_out,)))
        for domain in unseen:
            self.domain_index(domain)
        if len(self.domains) == 1 and tested:
            raise UserError(f"{self.name} has only the domain '{tested[0]}': testing on it leaves none to train on")
        out = self._held_out(seed, held_out)
        train_domains = tuple(domain for domain in self.domains if domain not in unseen)
        if not train_domains:
            raise UserError(f"{self._without(unseen)} has no domain to train on")
        members = [self.trainable(domain) for domain in train_domains]
        train = tuple(indices[~out[indices]] for indices in members)
        if none := [domain for domain, indices in zip(train_domains, train, strict=True) if not len(indices)]:
            raise UserError(f"the split that was given has no image of '{none[0]}' to train on")
        iid = np.sort(np.concatenate([indices[out[indices]] for indices in members]))
        train_ids, test_ids = ([self.domains.index(domain) for domain in part] for part in (train_domains, tested))
        ood = np.sort(np.concatenate([np.empty(0, np.int64), *map(self.tested, tested)]))
        self._check_split(np.concatenate(train), iid, tested, unseen)
        return Split(
            train_domains=train_domains,
            test_domains=tested,
            train=train,
            iid=iid,
            iid_domains=np.searchsorted(train_ids, self.domain_ids[iid]),
            ood=ood,
            ood_domains=np.argsort(test_ids)[np.searchsorted(np.sort(test_ids), self.domain_ids[ood])],
        )

    def split_table(self, split: Split, seed: int, held_out: float) -> str:
        """A split, made with ``seed`` and ``held_out``, as a CSV table: key, part, and what it is used for.

        The column ``split`` says what an image is where its domain is trained on, so that the table can be given for
        any test domain; ``used`` says what it is in this split: ``train``, ``iid``, ``ood``, or nothing.
        """
        parts = np.zeros(len(self), dtype=np.int64) if self.parts is None else self.parts.copy()
        parts[self._held_out(seed, held_out)] = VALIDATION
        used = np.full(len(self), "", dtype="<U5")
        for name, indices in (("train", np.concatenate(split.train)), ("iid", split.iid), ("ood", split.ood)):
            used[indices] = name
        return split_text(self.keys, [(*PARTS, "")[part] for part in parts], used.tolist())

    def _check_split(self, known: IntArray, iid: IntArray, tested: Sequence[str], unseen: Sequence[str]) -> None:
        classes = np.unique(self.labels[known])
        if len(classes) < 2:
            only = self.classes[classes[0]]
            raise UserError(f"{self._without(unseen)} has only the class '{only}' to train on; two are needed")
        for domain in tested:
            if not np.isin(self.labels[self.tested(domain)], classes).any():
                raise UserError(f"'{domain}' has no class of the domains to train on: none of it could be predicted")
        if not len(iid):
            raise UserError(
                f"{self._without(unseen)} has a single {'group' if self.grouped else 'image'} of each class in "
                "each domain: none can be held out for the i.i.d. score"
            )

    def _without(self, unseen: Sequence[str]) -> str:
        names = " and ".join(f"'{domain}'" for domain in unseen)
        return f"without {names}, {self.name}" if unseen else self.name

    @property
    def grouped(self) -> bool:
        """Whether several images are one group."""
        return len(np.unique(self.groups)) < len(self.groups)

    def trainable(self, domain: str) -> IntArray:
        """Indices of the images of a training domain that are trained on or held out, ascending."""
        indices = self.indices(domain)
        return indices if self.parts is None else indices[np.isin(self.parts[indices], (TRAIN, VALIDATION))]

    @property
    def for_test(self) -> tuple[str, ...]:
        """Names of the domains of which a given split keeps images for tests."""
        if self.parts is None:
            return ()
        kept = np.unique(self.domain_ids[self.parts == TEST])
        return tuple(domain for number, domain in enumerate(self.domains) if number in kept)

    def tested(self, domain: str) -> IntArray:
        """Indices of the images of a test domain that are tested on, ascending."""
        indices = self.indices(domain)
        chosen = indices[:0] if self.parts is None else indices[self.parts[indices] == TEST]
        return chosen if len(chosen) else indices

    def _held_out(self, seed: int, share: float) -> npt.NDArray[np.bool_]:
        return held_out_of(self.groups, self.domain_ids, self.labels, self.parts, len(self.classes), seed, share)


def check_names(kind: str, names: Iterable[str]) -> None:
    """Raise UserError where two ``names`` are the same."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"the {kind} '{name}' is named twice")
        seen.add(name)
