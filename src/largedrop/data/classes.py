"""Classes that not every domain has: which of them are used, and what is said about them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from ..errors import UserError

__all__ = ["CLASSES", "Lacking", "alike_notes", "check_choice", "named", "ood_notes", "opening_notes", "unlearnable"]

CLASSES = ("union", "common")
"""Which classes a dataset has: those of any domain, or those of every domain."""

_WHOLE = re.compile(r"\d+\.0")

Lacking = Mapping[str, Sequence[str]]
"""Names of the classes that a domain lacks, by domain; domains that have every class are not in it."""


def check_choice(classes: str) -> None:
    """Raise UserError where ``classes`` is none of ``CLASSES``."""
    if classes not in CLASSES:
        raise UserError(f"classes must be {' or '.join(map(repr, CLASSES))}, not {classes!r}")


def named(names: Sequence[str], most: int = 5) -> str:
    """Quoted names in a line, of many the first.

    >>> named(["cat", "dog"]), named(["a", "b", "c", "d"], most=2)
    ("'cat', 'dog'", "'a', 'b' and 2 more")
    """
    listed = ", ".join(f"'{name}'" for name in names[:most])
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed


def alike_notes(kind: str, names: Sequence[str]) -> Iterator[str]:
    """A line about names that differ in their spelling alone, such as by case; ``kind`` is what they are called.

    >>> list(alike_notes("classes", ["Red fox", "hare", "red_fox"]))
    ["classes: 'Red fox', 'red_fox' are taken for different ones; are they the same, written differently?"]
    """
    same: dict[str, list[str]] = {}
    for name in names:
        folded = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold())
        same.setdefault(folded.removesuffix(".0") if _WHOLE.fullmatch(folded) else folded, []).append(name)
    if alike := [name for of_one in same.values() if len(of_one) > 1 for name in of_one]:
        yield f"{kind}: {named(alike)} are taken for different ones; are they the same, written differently?"


def unlearnable(lacking: Lacking, domains: Sequence[str], test_domain: str, *unseen: str) -> tuple[str, ...]:
    """Names of the classes that the test domain has and no training domain: none of the test domain and ``unseen``."""
    train = [set(lacking.get(domain, ())) for domain in domains if domain not in (test_domain, *unseen)]
    return tuple(sorted(set.intersection(*train) - set(lacking.get(test_domain, ())))) if train else ()


def opening_notes(lacking: Lacking, classes: int, single: Sequence[str]) -> Iterator[str]:
    """Lines for people about a dataset whose domains differ in their classes.

    Args:
        classes: number of classes.
        single: domain and class, ``domain/class``, where there is only one image.
    """
    if lacking:
        told = [f"'{domain}' lacks {named(names)}" for domain, names in list(lacking.items())[:5]]
        more = [f"and {len(lacking) - 5} more domains lack some"] if len(lacking) > 5 else []
        yield (
            f"classes: the {classes} of all domains, each domain scored on those it has; {'; '.join([*told, *more])} "
            "(--classes common leaves these out)"
        )
    if single:
        yield f"a single image, never held out where it is trained on: {named(single)}"


def ood_notes(
    lacking: Lacking, domains: Sequence[str], test_domains: Sequence[str], unseen: Sequence[str]
) -> Iterator[str]:
    """Sentences for people about the classes that an o.o.d. accuracy is over.

    Args:
        domains: names of all domains.
        unseen: names of those that are not trained on.
    """
    for tested in test_domains:
        if lacking.get(tested):
            yield f"'{tested}' lacks {named(lacking[tested])}: o.o.d. accuracy there is over the classes it has."
        if alone := unlearnable(lacking, domains, tested, *unseen):
            images = "its images count" if len(alone) == 1 else "their images count"
            yield f"No domain trained on has {named(alone)} of '{tested}': {images} as wrong there."
