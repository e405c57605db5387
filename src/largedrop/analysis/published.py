"""A dataset against the published one that it seems to be."""

from __future__ import annotations

from collections.abc import Iterator

from ..catalog.facts import Published, known, named_like, published
from ..catalog.layouts import class_names
from ..data.classes import named
from ..data.dataset import Dataset
from .findings import Finding, Item, counts_of

__all__ = ["against_published", "recognised"]


def recognised(data: Dataset) -> Published | None:
    """The published dataset of the same name, or with the same domains; None where there is none."""
    names = {domain.lower() for domain in data.domains}
    for facts in map(published, known()):
        several = len(data.domains) > 1 and len(facts.domains) > 1
        if several and names <= facts.domain_names.keys() and {*data.classes} & {*class_names(facts)}:
            return facts
    return named_like(data.name)


def against_published(data: Dataset) -> Iterator[Finding]:
    """Whether domains, classes and numbers of images are the published ones, where the dataset is a known one."""
    facts = recognised(data)
    if facts is None:
        return
    differs = [*_differences(data, facts)]
    if differs:
        text = f"this seems to be {facts.name}, but differs from it as published"
        yield Finding("published", "warning", text, tuple(Item((), line) for line in differs))
        return
    whole = ", each with its published bytes" if facts.contents and facts.contents == data.fingerprint else ""
    yield Finding(
        "published",
        "note",
        f"this is {facts.name} with its published counts: {len(data):,} images{whole} ({facts.citation})",
    )


def _differences(data: Dataset, facts: Published) -> Iterator[str]:
    counts = {domain: sum(of_domain.values()) for domain, of_domain in counts_of(data).items()}
    if len(facts.domains) > 1:
        names = {domain: facts.domain_names.get(domain.lower(), "") for domain in counts}
        if others := [domain for domain, name in names.items() if not name]:
            yield f"domains that it has not: {named(others)}"
        if missing := sorted({*facts.domains} - {*names.values()}):
            yield f"domains that are missing: {named(missing)}"
        for domain, count in counts.items():
            expected = facts.domains.get(names[domain], 0)
            if expected and expected != count:
                yield f"'{domain}' has {count:,} images instead of {expected:,}"
    if facts.images and len(data) != facts.images:
        yield f"{len(data):,} images instead of {facts.images:,}"
    classes = class_names(facts)
    if classes and not (facts.numbered and all(name.isdecimal() for name in data.classes)):
        if others := sorted({*data.classes} - {*classes}):
            yield f"classes that it has not: {named(others)}"
        if missing := sorted({*classes} - {*data.classes}):
            yield f"classes that are missing: {named(missing)}"
