"""What a source of images lists, and the dataset that is made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError, visible
from .bits import bits_notes, bits_of
from .cache import ProgressCallback, open_images
from .classes import alike_notes, check_choice, named, opening_notes
from .dataset import Dataset, IntArray, check_names
from .digests import digest_of
from .groups import by_pattern, groups_note
from .inside import Place
from .parts import PARTS, parts_note, read_split

__all__ = ["ONE_DOMAIN", "Listed", "Listing", "Source", "make_listing", "open_listing"]

ONE_DOMAIN = "all"
"""The domain of images whose source has none; not named after a folder, which may be renamed."""


class Listed(NamedTuple):
    """An image that a source lists.

    Attributes:
        key: machine-independent name, ``domain/class/path``.
        path: where it is.
        group: name of what it belongs together with, empty for nothing; None where the source has no groups.
        part: one of ``PARTS``; None where the source has no split.
    """

    key: str
    path: Place
    group: str | None = None
    part: str | None = None


@dataclass(frozen=True)
class Source:
    """What a source of images lists: all that a new one has to give.

    Attributes:
        root: the folder of the images, or what lists them, as messages name it.
        images: the images, in any order, by domain and class; a pair may be there without images.
        name: name of the dataset.
        problems: what is wrong with it, a line each.
        notes: lines for people about what was understood.
        unlabelled: the images without a label, by domain, each as messages name it and with its path; none of them is
            in ``images``.
    """

    root: Path | str
    images: Mapping[tuple[str, str], Sequence[Listed]]
    name: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unlabelled: Mapping[str, Sequence[tuple[str, Place]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Image files with their classes and domains, not opened yet.

    Attributes:
        root: the folder of the images, or what lists them, as messages name it.
        name: name of the dataset.
        domains: names of the domains, sorted.
        classes: names of the classes, sorted.
        keys: machine-independent name of each image, ``domain/class/path``, sorted by domain, class and path, (n,).
        paths: where each image is, (n,).
        labels: index into ``classes`` of each image, (n,).
        domain_ids: index into ``domains`` of each image, (n,).
        groups: number of the thing that each image shows, in the order of the images, (n,); None without groups.
        parts: index into ``PARTS`` of each image, or -1 for none, (n,); None without a given split.
        common: whether only the classes that every domain has were kept.
        notes: lines for people about what was understood, and what was not kept.
        unlabelled: names of the domains of which no image has a label; they are not in ``domains``.
    """

    root: Path | str
    name: str
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    paths: tuple[Place, ...]
    labels: IntArray
    domain_ids: IntArray
    groups: IntArray | None = None
    parts: IntArray | None = None
    common: bool = False
    notes: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


def make_listing(
    source: Source, classes: str = "union", group_pattern: str | None = None, split: str | Path | None = None
) -> Listing:
    """Sort images into a list, and check that each domain and each class has images, and that domains share classes.

    Args:
        source: the images.
        classes: ``union``: the classes of all domains; ``common``: those that every domain has, and only their images.
        group_pattern: that of ``groups.by_pattern``, where the source has no groups.
        split: path of a table for ``parts.read_split``, where the source has no split.

    Raises:
        UserError: there are errors; the message lists all.
    """
    check_choice(classes)
    found, root = _shown(source.images), source.root
    has = {pair for pair, images in found.items() if images}
    domains, names = (sorted({pair[part] for pair in found}) for part in range(2))
    problems = [*source.problems, *_empty(has, domains, names, "images")]
    if source.unlabelled and not problems and not has:
        problems.append(f"no image has a label, so there is nothing to train on; {_PREDICT}")
    unlabelled = {visible(domain): [where for where, _ in images] for domain, images in source.unlabelled.items()}
    if not problems and len(domains) > 1 and len(has) == len(names):
        told = "; ".join(
            f"'{each}' has {named([name for name in names if (each, name) in has])}" for each in domains[:3]
        )
        problems.append(f"no two domains share a class ({told}): are the domains the outer folders?")
    kept = [name for name in names if all((domain, name) in has for domain in domains)]
    labelled = Counter(domain for domain, _ in found for _ in found[domain, _])
    notes = [*source.notes, *_unlabelled_notes(unlabelled, labelled)]
    notes += [*alike_notes("domains", domains), *alike_notes("classes", names)]
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
        (image, class_id, domain_id)
        for domain_id, domain in enumerate(domains)
        for class_id, name in enumerate(names)
        for image in sorted(found.get((domain, name), ()), key=lambda image: image.key)
    ]
    keys = tuple(image.key for image, *_ in rows)
    check_names("image", keys)
    domain_ids = np.array([domain_id for *_, domain_id in rows], dtype=np.int64)
    groups = _groups(source, [image for image, *_ in rows], group_pattern)
    parts = _parts(source, [image for image, *_ in rows], split)
    if groups is not None:
        notes.append(groups_note(groups, domain_ids.tolist()))
    if parts is not None:
        notes.append(parts_note(parts, [names[class_id] for _, class_id, _ in rows], domain_ids.tolist()))
    if groups is not None and parts is not None:
        _raise(root, _astride(keys, groups, parts))
    return Listing(
        root=root,
        name=visible(source.name),
        domains=tuple(domains),
        classes=tuple(names),
        keys=keys,
        paths=tuple(image.path for image, *_ in rows),
        labels=np.array([class_id for _, class_id, _ in rows], dtype=np.int64),
        domain_ids=domain_ids,
        groups=None if groups is None else _numbered(groups),
        parts=None if parts is None else np.array([PARTS.index(part) if part else -1 for part in parts], np.int64),
        common=classes == "common",
        notes=tuple(notes),
        unlabelled=tuple(sorted(unlabelled.keys() - set(domains))),
    )


_PREDICT = "`largedrop predict` takes such images"


def _unlabelled_notes(unlabelled: Mapping[str, Sequence[str]], labelled: Mapping[str, int]) -> Iterator[str]:
    """A line for each domain that has images without a label."""
    for domain, places in sorted(unlabelled.items()):
        count = len(places)
        if not labelled.get(domain):
            images = "the only image" if count == 1 else f"all {count:,} images"
            yield f"no labels: {images} of '{domain}', not trained on and not scored; {_PREDICT}"
        else:
            where = ", ".join(places) if count <= 3 else f"{', '.join(places[:3])}, …"
            yield f"no label: {count:,} of {count + labelled[domain]:,} images of '{domain}' ({where}), left out"


def _shown(images: Mapping[tuple[str, str], Sequence[Listed]]) -> Mapping[tuple[str, str], Sequence[Listed]]:
    """The images by names of domains and classes as they can be shown; keys stay, and with them fingerprints."""
    shown: dict[tuple[str, str], list[Listed]] = {}
    for (domain, name), of_pair in images.items():
        shown.setdefault((visible(domain), visible(name)), []).extend(of_pair)
    return shown


def _groups(source: Source, images: Sequence[Listed], pattern: str | None) -> list[str] | None:
    """The group of each image, empty for none; None where there are no groups."""
    given = any(image.group is not None for image in images)
    if pattern is None:
        return [image.group or "" for image in images] if given else None
    if given:
        raise UserError(
            f"{source.root} says what the groups are: leave the group pattern out, or its column (--column group=)"
        )
    return by_pattern(pattern, [image.key for image in images])


def _parts(source: Source, images: Sequence[Listed], split: str | Path | None) -> list[str] | None:
    """The part of each image, empty for none; None where no split is given."""
    given = any(image.part is not None for image in images)
    if split is None:
        return [image.part or "" for image in images] if given else None
    if given:
        raise UserError(f"{source.root} says how it is split: leave {split} out, or its column (--column split=)")
    parts = read_split(split)
    listed = {image.key for pair in source.images.values() for image in pair}
    if unknown := [key for key in parts if key not in listed]:
        raise UserError(f"{split} lists images that {source.root} has not ({len(unknown)}): {named(unknown, most=3)}")
    return [parts.get(image.key, "") for image in images]


def _astride(keys: Sequence[str], groups: Sequence[str], parts: Sequence[str]) -> Iterator[str]:
    """A line for each group that is in several parts of a given split."""
    seen: dict[str, dict[str, str]] = {}
    for key, group, part in zip(keys, groups, parts, strict=True):
        if group and part:
            seen.setdefault(group, {}).setdefault(part, key)
    for group, where in seen.items():
        if len(where) > 1:
            told = " and ".join(f"in {part} ({key})" for part, key in where.items())
            yield f"the group '{group}' is on several sides of the split: {told}"


def _numbered(groups: Sequence[str]) -> IntArray:
    """A number for each image, the same for the images of a group, in the order in which they come."""
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(group or place, len(numbers)) for place, group in enumerate(groups)], np.int64)


def open_listing(
    listing: Listing,
    *,
    bound: int = 320,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
    note: Callable[[str], None] | None = None,
) -> Dataset:
    """Decode the images of a list, once, and make a dataset of them; the options are those of ``cache.open_images``.

    Raises:
        UserError: images cannot be decoded, or the cache cannot be written; the message lists all errors.
    """
    opened = open_images(
        listing.keys,
        listing.paths,
        bound=bound,
        skip_bad_images=skip_bad_images,
        cache=cache,
        progress=progress,
        note=note,
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
    groups = np.arange(len(keys), dtype=np.int64) if listing.groups is None else _in_order(listing.groups[kept])
    parts = None if listing.parts is None else listing.parts[kept]
    bits = bits_of(opened.wide.values())
    dataset = Dataset(
        name=listing.name,
        classes=listing.classes,
        domains=listing.domains,
        labels=labels,
        domain_ids=domain_ids,
        groups=groups,
        keys=keys,
        images=opened.images,
        bits=bits,
        fingerprint=digest_of(keys, opened.digests, _given(groups, parts, bits)),
        skipped=opened.skipped,
        parts=parts,
        unlabelled=listing.unlabelled,
    )
    single = [f"{domain}/{name}" for (domain, name), count in sorted(usable.items()) if count == 1]
    notes = [*bits_notes(opened.wide, domain_ids.tolist(), listing.domains)]
    notes += opening_notes(dataset.lacking, len(dataset.classes), single)
    if opened.images.partial:
        share = f"{opened.images.share:.0%}"
        notes.append(f"in the cache: {share} of the images; the others are decoded when they are used")
    return replace(dataset, notes=(*listing.notes, *notes))


def _in_order(groups: IntArray) -> IntArray:
    """The groups numbered without gaps, in the same order."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _given(groups: IntArray, parts: IntArray | None, bits: int) -> str:
    """What a fingerprint begins with: groups of several images, a split, and scaled values, where there are such."""
    shared = f"groups {groups.tolist()}\n" if len(np.unique(groups)) < len(groups) else ""
    scaled = f"bits {bits}\n" if bits < 16 else ""
    return shared + ("" if parts is None else f"parts {parts.tolist()}\n") + scaled


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


def _raise(root: Path | str, problems: Iterable[str], most: int = 20) -> None:
    problems = list(problems)
    if len(problems) == 1:
        raise UserError(f"{root}: {problems[0]}")
    if problems:
        more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
        lines = [f"{root} has {len(problems)} problems:", *problems[:most], *more]
        raise UserError("\n  ".join(lines))
