"""A list of image files with their classes and domains, and the dataset that is made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from .cache import ProgressCallback, digest_of, open_images
from .dataset import Dataset, IntArray, check_names

__all__ = ["Listing", "make_listing", "open_listing"]

Found = Mapping[tuple[str, str], Sequence[tuple[str, Path]]]
"""Key and path of every image, by domain and class."""


@dataclass(frozen=True)
class Listing:
    """Image files with their classes and domains, not opened yet.

    Attributes:
        root: the folder of the images, or the file that lists them; its name is the dataset's.
        domains: names of the domains, sorted.
        classes: names of the classes, sorted; every domain has every class.
        keys: machine-independent name of each image, ``domain/class/path``, sorted by domain, class and path, (n,).
        paths: path of each image, (n,).
        labels: index into ``classes`` of each image, (n,).
        domain_ids: index into ``domains`` of each image, (n,).
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: IntArray
    domain_ids: IntArray


def make_listing(root: Path, found: Found, problems: Sequence[str] = ()) -> Listing:
    """Sort images into a list, and check that each domain has at least two of each class.

    Args:
        root: the folder of the images, or the file that lists them.
        found: the images, at least one, in any order.
        problems: errors found before, for the same message.

    Raises:
        UserError: there are errors; the message lists all.
    """
    classes = sorted({name for _, name in found})
    domains = sorted({domain for domain, _ in found})
    problems = [*problems, *_missing_classes(found, domains, classes)]
    if not problems and len(classes) < 2:
        problems.append(f"has only the class '{classes[0]}'; at least two are needed")
    problems += _few_images({pair: len(images) for pair, images in found.items()}, "image")
    _raise(root, problems)
    rows = [
        (key, path, class_id, domain_id)
        for domain_id, domain in enumerate(domains)
        for class_id, name in enumerate(classes)
        for key, path in sorted(found[domain, name])
    ]
    check_names("image", (key for key, *_ in rows))
    return Listing(
        root=root,
        domains=tuple(domains),
        classes=tuple(classes),
        keys=tuple(key for key, *_ in rows),
        paths=tuple(path for _, path, *_ in rows),
        labels=np.array([class_id for *_, class_id, _ in rows], dtype=np.int64),
        domain_ids=np.array([domain_id for *_, domain_id in rows], dtype=np.int64),
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
    if opened.skipped:
        usable = Counter(zip(domain_ids.tolist(), labels.tolist(), strict=True))
        counts = {
            (domain, name): usable[domain_id, class_id]
            for domain_id, domain in enumerate(listing.domains)
            for class_id, name in enumerate(listing.classes)
        }
        _raise(listing.root, _few_images(counts, "usable image", skipped=len(opened.skipped)))
    return Dataset(
        name=listing.root.name,
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


def _missing_classes(found: Found, domains: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    for domain in domains:
        if missing := [name for name in classes if (domain, name) not in found]:
            names = ", ".join(f"'{name}'" for name in missing)
            yield f"the domain '{domain}' lacks the class{'es' * (len(missing) > 1)} {names} that other domains have"


def _few_images(counts: dict[tuple[str, str], int], noun: str, skipped: int = 0) -> list[str]:
    after = f" after {skipped} bad {'image was' if skipped == 1 else 'images were'} skipped" if skipped else ""
    return [
        f"{domain}/{name} has {count or 'no'} {noun}{'' if count == 1 else 's'}{after}; at least two are needed"
        for (domain, name), count in counts.items()
        if count < 2
    ]


def _raise(root: Path, problems: Sequence[str], most: int = 20) -> None:
    if len(problems) == 1:
        raise UserError(f"{root}: {problems[0]}")
    if problems:
        more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
        lines = [f"{root} has {len(problems)} problems:", *problems[:most], *more]
        raise UserError("\n  ".join(lines))
