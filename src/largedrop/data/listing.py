"""A list of image files with their classes and domains, and the dataset that is made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from .cache import ProgressCallback, digest_of, open_images
from .classes import check_choice, named, opening_notes
from .dataset import Dataset, IntArray, check_names

__all__ = ["Listing", "make_listing", "open_listing"]

Found = Mapping[tuple[str, str], Sequence[tuple[str, Path]]]
"""Key and path of every image, by domain and class."""


@dataclass(frozen=True)
class Listing:
    """Image files with their classes and domains, not opened yet.

    Attributes:
        root: the folder of the images, or the file that lists them.
        name: name of the dataset.
        domains: names of the domains, sorted.
        classes: names of the classes, sorted.
        keys: machine-independent name of each image, ``domain/class/path``, sorted by domain, class and path, (n,).
        paths: path of each image, (n,).
        labels: index into ``classes`` of each image, (n,).
        domain_ids: index into ``domains`` of each image, (n,).
        common: whether only the classes that every domain has were kept.
        notes: lines for people about classes that were not kept.
    """

    root: Path
    name: str
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: IntArray
    domain_ids: IntArray
    common: bool = False
    notes: tuple[str, ...] = ()


def make_listing(
    root: Path, found: Found, problems: Sequence[str] = (), classes: str = "union", name: str | None = None
) -> Listing:
    """Sort images into a list, and check that each domain and each class has images, and that domains share classes.

    Args:
        root: the folder of the images, or the file that lists them.
        found: the images, in any order.
        problems: errors found before, for the same message.
        classes: ``union``: the classes of all domains; ``common``: those that every domain has, and only their images.
        name: name of the dataset; where None, that of ``root``.

    Raises:
        UserError: there are errors; the message lists all.
    """
    check_choice(classes)
    has = {pair for pair, images in found.items() if images}
    domains, names = (sorted({pair[part] for pair in found}) for part in range(2))
    problems = [*problems, *_empty(has, domains, names, "images")]
    if not problems and len(names) < 2:
        problems.append(f"has only the class '{names[0]}'; at least two are needed")
    if not problems and len(domains) > 1 and len(has) == len(names):
        told = "; ".join(
            f"'{each}' has {named([name for name in names if (each, name) in has])}" for each in domains[:3]
        )
        problems.append(f"no two domains share a class ({told}): are the domains the outer folders?")
    kept = [name for name in names if all((domain, name) in has for domain in domains)]
    notes = []
    if classes == "common" and not problems:
        if len(kept) < 2:
            had = f"only the class '{kept[0]}'" if kept else "no class"
            problems.append(f"every domain has {had} in common; --classes common needs two")
        if alone := [name for name in names if name not in kept]:
            count = sum(len(of_pair) for (_, name), of_pair in found.items() if name in alone)
            images = f"{count} image{'s' * (count > 1)}"
            notes.append(f"classes: the {len(kept)} that every domain has; without {named(alone)} ({images})")
            names = kept
    _raise(root, problems)
    rows = [
        (key, path, class_id, domain_id)
        for domain_id, domain in enumerate(domains)
        for class_id, name in enumerate(names)
        for key, path in sorted(found.get((domain, name), ()))
    ]
    check_names("image", (key for key, *_ in rows))
    return Listing(
        root=root,
        name=root.name if name is None else name,
        domains=tuple(domains),
        classes=tuple(names),
        keys=tuple(key for key, *_ in rows),
        paths=tuple(path for _, path, *_ in rows),
        labels=np.array([class_id for *_, class_id, _ in rows], dtype=np.int64),
        domain_ids=np.array([domain_id for *_, domain_id in rows], dtype=np.int64),
        common=classes == "common",
        notes=tuple(notes),
    )


def open_listing(
    listing: Listing,
    *,
    bound: int = 320,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Dataset:
    """Decode the images of a list, once, and make a dataset of them; the options are those of ``cache.open_images``.

    Raises:
        UserError: images cannot be decoded, or the cache cannot be written; the message lists all errors.
    """
    opened = open_images(
        listing.keys, listing.paths, bound=bound, skip_bad_images=skip_bad_images, cache=cache, progress=progress
    )
    kept = np.array(opened.kept, dtype=np.int64)
    keys = tuple(listing.keys[index] for index in opened.kept)
    labels, domain_ids = listing.labels[kept], listing.domain_ids[kept]
    counts = Counter(zip(domain_ids.tolist(), labels.tolist(), strict=True))
    usable = {(listing.domains[domain], listing.classes[label]): count for (domain, label), count in counts.items()}
    if opened.skipped:
        bad = len(opened.skipped)
        what = f"usable images after {bad} bad {'image was' if bad == 1 else 'images were'} skipped"
        _raise(listing.root, list(_empty(set(usable), listing.domains, listing.classes, what, listing.common)))
    dataset = Dataset(
        name=listing.name,
        classes=listing.classes,
        domains=listing.domains,
        labels=labels,
        domain_ids=domain_ids,
        groups=np.arange(len(keys), dtype=np.int64),
        keys=keys,
        images=opened.images,
        fingerprint=digest_of(keys, opened.digests),
        skipped=opened.skipped,
    )
    single = [f"{domain}/{name}" for (domain, name), count in sorted(usable.items()) if count == 1]
    return replace(dataset, notes=(*listing.notes, *opening_notes(dataset.lacking, len(dataset.classes), single)))


def _empty(
    has: Collection[tuple[str, str]], domains: Sequence[str], classes: Sequence[str], what: str, every: bool = False
) -> Iterator[str]:
    """A line for each domain and each class without images; ``every``: for each class of a domain.

    Args:
        has: domain and class of the images.
        what: what there is none of.
    """
    for kind, part, names in (("domain", 0, domains), ("class", 1, classes)):
        present = {pair[part] for pair in has}
        yield from (f"the {kind} '{name}' has no {what}" for name in names if name not in present)
    if every:
        pairs = ((domain, name) for domain in domains for name in classes)
        yield from (f"{domain}/{name} has no {what}" for domain, name in pairs if (domain, name) not in has)


def _raise(root: Path, problems: Sequence[str], most: int = 20) -> None:
    if len(problems) == 1:
        raise UserError(f"{root}: {problems[0]}")
    if problems:
        more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
        lines = [f"{root} has {len(problems)} problems:", *problems[:most], *more]
        raise UserError("\n  ".join(lines))
