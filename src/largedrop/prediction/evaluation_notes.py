"""What is to be said of the images that a model is evaluated on: parts, unknown classes, and images that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..data.classes import named
from ..data.dataset import Dataset, IntArray
from ..models.network import Network
from ..names import names_in

__all__ = ["part_notes", "seen_notes", "unknown_notes"]


def part_notes(data: Dataset) -> list[str]:
    """A line about the images that a given split keeps for tests, which alone are scored where a domain has such."""
    if not data.for_test:
        return []
    return [f"of {named(data.for_test)} the images in the split's test are scored, and no others"]


def unknown_notes(data: Dataset, lacks: IntArray, unknown: str) -> list[str]:
    if not len(lacks):
        return []
    count = int(np.isin(data.labels, lacks).sum())
    counted = "count as wrong" if unknown == "wrong" else "are left out"
    return [
        f"not known to the model: {named([data.classes[label] for label in lacks])}; {count} of {len(data)} images "
        f"{counted}"
    ]


def seen_notes(
    models: Sequence[tuple[str, Sequence[Network]]], data: Dataset, seen: Sequence[Mapping[str, bool]]
) -> list[str]:
    """Lines about models that were trained on the very images that they are evaluated on, or on some of them.

    Of other data than a model's own, images are known by their names alone.
    """
    notes: list[str] = []
    for (name, networks), keys in zip(models, seen, strict=True):
        for network in networks:
            config = network.about.get("config")
            if not isinstance(config, dict):
                continue
            if config.get("fingerprint") != data.fingerprint:
                notes += _same_names(name, data, keys)
                continue
            unseen = {config.get("test_domain"), config.get("left_out"), *names_in(str(config.get("also_tested", "")))}
            new = [domain for domain in data.domains if domain in (*unseen, *data.for_test)]
            trained = [domain for domain in data.domains if domain not in new]
            if not trained:
                continue
            rest = f"only {named(new)} is new to it" if len(new) == 1 else f"new to it: {named(new) or 'none'}"
            notes.append(f"{name} was trained on images of {named(trained)} here; {rest}")
    return notes


def _same_names(name: str, data: Dataset, seen: Mapping[str, bool]) -> Iterator[str]:
    known, own = seen, list(data.keys)
    if len(data.domains) == 1 and not any(key in known for key in own):
        own = [f"{data.name}/{_below(key)}" for key in own]
    if len(data.domains) == 1 and not any(key in known for key in own):
        # One domain's folder by itself, whose name is not in the keys; what others have too is not told apart.
        known, own = {}, [_below(key) for key in own]
        for key, was_seen in seen.items():
            known[_below(key)] = known.get(_below(key), True) and was_seen
    if count := sum(known.get(key, False) for key in own):
        yield (
            f"{count:,} of the {len(own):,} images have the names of images that {name} was trained on or chosen by: "
            "if they are these, the accuracy is not that of new images"
        )


def _below(key: str) -> str:
    """An image's key without its domain."""
    return key.partition("/")[2]
