"""Folders whose levels are not domain/class/image: a level of splits, or one too many, or domains inside classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .classes import named

__all__ = ["level_notes", "level_problem"]

Found = Mapping[tuple[str, str], Sequence[tuple[Any, ...]]]
"""Key of every image and more, by domain and class; of each, images directly in the class folder come first."""

_TABLE = "or list the images in a table with the columns path, label and domain"

_SPLIT = re.compile(
    r"(train|training|trainval|test|testing|val|valid|validation|dev|eval|evaluation|cross-?val|crossvalidation|"
    r"hold-?out|held-?out|full)([-_ ]?(set|split|data|images))?"
)

_KNOWN = re.compile(
    "artpainting|cartoon|photo|sketch|art|clipart|product|realworld|infograph|painting|quickdraw|real|caltech|caltech101|"
    "labelme|sun|sun09|voc|voc2007|pascal|amazon|dslr|webcam|mnist|mnistm|svhn|usps|syn|synth"
)
"""Names of domains in datasets that many use, without spaces and hyphens."""

_NUMBERED = re.compile(
    r"(d|dom|domain|env|environment|site|cam|camera|hospital|centre|center|clinic|loc|location|source|style|scanner|"
    r"device|station|year)[-_ ]?\d+|(19|20)\d\d"
)
"""Names that number domains, and seldom classes."""


def level_problem(found: Found) -> str:
    """Why the levels of folders cannot be domains and classes, and the way out, in one line; empty where they can.

    Args:
        found: images by the names of the outer two levels of folders, each with at least one.
    """
    outer, inner = ({pair[part] for pair in found} for part in range(2))
    below = {pair: _folders(images) for pair, images in found.items()}
    for domain in sorted(outer):
        classes = {name for each, name in found if each == domain}
        splits = sorted(name for name in classes if _is_split(name))
        folders = set().union(*(below[domain, name] for name in splits))
        all_of_it = len(splits) == len(classes) and any(name.casefold().startswith(("t", "v")) for name in splits)
        if all_of_it or folders & inner:
            where = f"put what is in them into {domain}/{min(folders)} …" if folders else "it is domain/class/image"
            return f"the folders {named(splits)} in '{domain}' are splits, not classes: {where}, {_TABLE}"
    if all(map(_is_split, outer)) and all(below.values()):
        return (
            f"the outer folders {named(sorted(outer))} are splits, and the classes lie a level deeper: put what is in "
            f"them into a folder for each domain, {_TABLE}"
        )
    if len(inner) == 1 and all(len(folders) > 1 for folders in below.values()):
        (only,) = inner
        some = sorted(set.union(*below.values()))
        return (
            f"between domains and classes is a further level, '{only}': put its folders ({named(some)}) directly into "
            f"each domain, {_TABLE}"
        )
    if len(inner) > 1 and all(map(_is_known_domain, inner)) and not all(map(_is_known_domain, outer)):
        return (
            f"the levels are swapped: the outer folders are the domains, and the inner ones here are called "
            f"{named(sorted(inner))}: make it domain/class/image, {_TABLE}"
        )
    return ""


def level_notes(found: Found) -> Iterator[str]:
    """Lines for people about levels that may be meant otherwise; the arguments are those of ``level_problem``."""
    outer, inner = (sorted({pair[part] for pair in found}) for part in range(2))
    below = [_folders(images) for images in found.values()]
    if len(outer) > 1 and all(map(_is_split, outer)):
        yield f"the domains are called {named(outer)}: splits of one domain are no domains"
    within = sorted(set().union(*below))
    if within and all(map(_is_split, within)):
        yield f"the folders {named(within)} inside the classes are taken together, as one class each"
    elif len(below) > 1 and all(below) and len(set.intersection(*below)) > 1:
        common = sorted(set.intersection(*below))
        yield f"every class has the same folders inside ({named(common)}): if these are classes, a level is too much"
    if len(outer) == 1 and (parts := _product(inner)):
        first, second = (named(sorted(each)) for each in parts)
        yield f"the classes are every pair of {first} and {second}: if one is a domain, make it domain/class/image"
    many = len(outer) > 5 and 2 * len(outer) >= 3 * len(inner)
    if not all(map(_is_domain, outer)) and (many or all(map(_is_domain, inner))):
        yield (
            f"the {len(outer)} outer folders are taken for domains and the {len(inner)} inner ones for classes "
            f"({named(inner)}): if it is class/domain/image, make it domain/class/image, {_TABLE}"
        )


def _product(names: Sequence[str]) -> tuple[set[str], set[str]] | None:
    """The first and the second parts of names that are every pair of them, as ``d1_cat``, ``d1_dog``, ``d2_cat`` …"""
    for separator in "_- .":
        for split in (str.partition, str.rpartition):
            pairs = {(first, second) for first, _, second in (split(name, separator) for name in names)}
            parts = {first for first, _ in pairs}, {second for _, second in pairs}
            if min(map(len, parts)) > 1 and len(pairs) == len(parts[0]) * len(parts[1]) and all(map(all, pairs)):
                return parts
    return None


def _folders(images: Sequence[tuple[str, Any]]) -> set[str]:
    """Names of the folders in a class folder with all its images; empty where some lie directly in it."""
    if images[0][0].count("/") < 3:
        return set()
    return {key.split("/", 3)[2] for key, *_ in images}


def _is_split(name: str) -> bool:
    return _SPLIT.fullmatch(name.casefold()) is not None


def _is_known_domain(name: str) -> bool:
    return _KNOWN.fullmatch(re.sub("[-_ ]", "", name.casefold())) is not None


def _is_domain(name: str) -> bool:
    return _is_known_domain(name) or _NUMBERED.fullmatch(name.casefold()) is not None
