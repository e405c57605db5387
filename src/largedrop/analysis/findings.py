"""What can be wrong with a dataset, a function for each kind; ``analysis.check`` calls them.

A finding has a level. A ``problem`` is what training refuses, a ``warning`` makes a score or a model worse than it need
be, a ``note`` is worth knowing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.classes import named
from ..data.dataset import Dataset
from ..errors import UserError
from .duplicates import Looks, joined
from .neighbours import Doubts

__all__ = [
    "LEVELS",
    "Finding",
    "Item",
    "copies",
    "counts_of",
    "decoded",
    "doubted",
    "encodings",
    "groups",
    "listed",
    "shapes",
]

LEVELS = ("problem", "warning", "note")
"""What a finding means, the worst first."""

_DOUBT = 0.5
"""Margin against its label from which an image is doubted (docs/check.md)."""

_USUAL = 0.01
"""Share of images that are doubted of datasets whose labels are right, rounded up (docs/check.md)."""

_JUDGED = 10
"""Images that a class has at least where its labels are doubted: of fewer there may be no neighbours."""

_TINY = 5
"""Images of a class in a domain below which the fifth that is held out is less than an image."""

_ENLARGED = 4
"""Times that an image is enlarged at most before it is said to be small."""

_LONG = 4
"""Longer side by the shorter one from which an image is said to be long."""

_GROUPS = 100
"""Groups that are listed at most."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Item:
    """One case of a finding.

    Attributes:
        images: indices of its images in the dataset; empty for a file that cannot be opened.
        text: what there is to say of it; may be empty.
    """

    images: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        kind: what it is about, such as ``near-duplicates``.
        level: one of ``LEVELS``.
        text: a sentence without a full stop.
        items: the cases, the clearest first.
    """

    kind: str
    level: str
    text: str
    items: tuple[Item, ...] = ()


def counts_of(data: Dataset) -> dict[str, dict[str, int]]:
    """Number of images by domain and class; a class that a domain lacks has 0."""
    pairs = Counter(zip(data.domain_ids.tolist(), data.labels.tolist(), strict=True))
    return {
        domain: {name: pairs[domain_id, label] for label, name in enumerate(data.classes)}
        for domain_id, domain in enumerate(data.domains)
    }


def decoded(data: Dataset, skip_bad_images: bool) -> Iterator[Finding]:
    """Images that cannot be decoded: a problem unless they will be skipped."""
    if data.skipped:
        total = len(data) + len(data.skipped)
        text = f"{len(data.skipped):,} of {total:,} images cannot be decoded"
        ending = "and are left out" if skip_bad_images else "(--skip-bad-images leaves them out)"
        level = "warning" if skip_bad_images else "problem"
        yield Finding("unreadable", level, f"{text} {ending}", tuple(Item((), line) for line in data.skipped))


def listed(data: Dataset, seed: int) -> Iterator[Finding]:
    """What counts and names say: domains that cannot be tested on, few images of a class, and the dataset's notes."""
    if refused := _refused(data, seed):
        yield Finding("split", "problem", refused)
    elif len(data.domains) > 1:
        reasons = {domain: _refused(data, seed, domain) for domain in data.domains}
        for domain, reason in reasons.items():
            if reason:
                yield Finding("split", "warning", f"'{domain}' cannot be the test domain: {reason}")
    tiny = [
        f"{domain}/{name}: {count}"
        for domain, of_domain in counts_of(data).items()
        for name, count in of_domain.items()
        if 0 < count < _TINY
    ]
    if tiny:
        where = "1 class of a domain has" if len(tiny) == 1 else f"{len(tiny):,} classes of a domain have"
        text = f"{where} fewer than {_TINY} images: what is held out of them says little"
        yield Finding("tiny-classes", "warning", text, tuple(Item((), line) for line in tiny))
    yield from (Finding("listing", "note", line) for line in data.notes)


def shapes(data: Dataset, looks: Looks, size: int) -> Iterator[Finding]:
    """Images that show nothing, and those of odd sizes.

    Args:
        size: side that images are seen at, in pixels.
    """
    shorter, longer = looks.sizes.min(1), looks.sizes.max(1)
    for kind, level, which, one, many in (
        ("blank", "warning", looks.blank, "shows nothing: one shade", "show nothing: one shade"),
        (
            "small",
            "warning",
            shorter * _ENLARGED < size,
            *_be(f"enlarged more than {_ENLARGED} times to {size} pixels"),
        ),
        (
            "long",
            "note",
            longer > _LONG * shorter,
            *_be(f"more than {_LONG} times as long as wide, or as wide as long"),
        ),
    ):
        found = np.flatnonzero(which)
        if len(found):
            sizes = [f"{looks.sizes[index, 1]} × {looks.sizes[index, 0]} pixels" for index in found]
            items = tuple(Item((int(index),), text) for index, text in zip(found, sizes, strict=True))
            yield Finding(kind, level, _counted(len(found), "image", one, many), items)


def encodings(data: Dataset, odd: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    """Files of which decoding leaves something out, or changes it.

    Args:
        odd: indices of the images of each kind in ``data.headers.ODDITIES``.
    """
    for kind, one, many in (
        ("cmyk", *_be("in colours for print (CMYK): converted, and may look off")),
        ("deep", *_be("of more than 8 bits: scaled to 8")),
        ("transparent", "has transparency: laid on white", "have transparency: laid on white"),
        ("animated", "has several frames: the first is taken", "have several frames: the first is taken"),
        ("turned", *_be("turned by an orientation in the file")),
        ("misnamed", *_be("of another format than the name says")),
    ):
        if found := odd.get(kind):
            items = tuple(Item((index,), "") for index in found)
            yield Finding(kind, "note", _counted(len(found), "image", one, many), items)


def doubted(data: Dataset, near: npt.NDArray[np.int64], doubts: Doubts) -> Iterator[Finding]:
    """Labels that an image's neighbours and a linear head that has not seen it both contradict.

    Args:
        near: indices of each image's nearest neighbours, (n, k).
        doubts: what the head says.
    """
    enough = np.bincount(data.labels, minlength=len(data.classes)) >= _JUDGED
    alone = (data.labels[near] != data.labels[:, None]).all(1) & enough[data.labels]
    margins = doubts.margins.numpy()
    found = np.flatnonzero(alone & (margins >= _DOUBT))
    found = found[np.argsort(-margins[found], kind="stable")]
    if len(found):
        others = doubts.others.numpy()
        items = tuple(
            Item(
                (int(index),), f"labelled {data.classes[data.labels[index]]}, looks like {data.classes[others[index]]}"
            )
            for index in found
        )
        one, many = "has a label that none of its", "have labels that none of their"
        text = f"{_counted(len(found), 'image', one, many)} {near.shape[1]} nearest images shares: worth a look"
        level = "warning" if len(found) > _USUAL * len(data) else "note"
        yield Finding("doubtful-labels", level, text, items)


def copies(
    data: Dataset,
    same: Sequence[tuple[int, ...]],
    near: Mapping[tuple[int, int], float],
    seed: int,
) -> Iterator[Finding]:
    """Images that are there more than once, and where that spoils a label or a score.

    Args:
        same: sets of images with the same pixels.
        near: pairs of near-duplicates with their likeness; of identical images the first only is in a pair.
        seed: seed of the split.
    """
    # Images of a group are known to belong together.
    pairs = {pair: value for pair, value in near.items() if data.groups[pair[0]] != data.groups[pair[1]]}
    close = joined(pairs)
    every = joined([*same, *close])
    for kind, sets, what in (
        ("identical", same, "have the same pixels as another"),
        (
            "near-duplicates",
            close,
            "are nearly the same as another: encoded, cropped, coloured or mirrored anew, or of a series",
        ),
    ):
        if sets:
            text = f"{sum(map(len, sets)):,} images {what} ({_counted(len(sets), 'set')})"
            yield Finding(kind, "warning", text, _items(data, _ranked(sets, pairs)))
    clash = [each for each in every if len({*data.labels[[*each]]}) > 1]
    if clash:
        one, many = ("of copies has several classes", "of copies have several classes")
        text = f"{_counted(len(clash), 'set', one, many)}: not all can be right"
        yield Finding("copies-across-classes", "warning", text, _items(data, clash))
    across = [each for each in every if len({*data.domain_ids[[*each]]}) > 1]
    if across:
        text = f"{sum(map(len, across)):,} images have copies in other domains: a test there would measure memory"
        yield Finding("copies-across-domains", "warning", text, _items(data, across))
    yield from _straddling(data, every, seed)


def _straddling(data: Dataset, sets: Sequence[tuple[int, ...]], seed: int) -> Iterator[Finding]:
    """Copies that are held out for the i.i.d. score while another is trained on."""
    trained, out = _sides(data, seed)
    found = [each for each in sets if trained[[*each]].any() and out[[*each]].any()]
    count = sum(int(out[[*each]].sum()) for each in found)
    if found:
        text = (
            f"{count:,} of the {int(out.sum()):,} images held out for the i.i.d. score (seed {seed}) "
            f"{'has a copy that is' if count == 1 else 'have copies that are'} trained on: "
            "that score chooses checkpoints and settings, so name what belongs together as a group"
        )
        yield Finding("straddling", "warning", text, _items(data, found))


def _sides(data: Dataset, seed: int) -> tuple[Bools, Bools]:
    """Which images are trained on, and which are held out, where their domain is a training domain."""
    trained, out = np.zeros(len(data), np.bool_), np.zeros(len(data), np.bool_)
    if not _refused(data, seed):
        split = data.split((), seed)
        trained[np.concatenate(split.train)] = True
        out[split.iid] = True
    return trained, out


def _refused(data: Dataset, seed: int, *tested: str) -> str:
    """Why there is no split for these test domains; empty where there is one."""
    try:
        data.split(tested, seed)
    except UserError as error:
        return str(error)
    return ""


def groups(data: Dataset) -> Iterator[Finding]:
    """Groups whose images have several classes, or are in several domains."""
    for kind, level, values, what in (
        ("groups-across-classes", "warning", data.labels, "images of several classes"),
        ("groups-across-domains", "note", data.domain_ids, "images in several domains: in training and in test"),
    ):
        pairs = np.unique(np.stack([data.groups, values]), axis=1)
        several = np.unique(pairs[0][1:][np.diff(pairs[0]) == 0])
        if len(several):
            have = "has" if len(several) == 1 else "have"
            members = [tuple(np.flatnonzero(data.groups == group).tolist()) for group in several[:_GROUPS]]
            text = f"{len(several):,} of {len(np.unique(data.groups)):,} groups {have} {what}"
            yield Finding(kind, level, text, _items(data, members))


def _ranked(sets: Sequence[tuple[int, ...]], pairs: Mapping[tuple[int, int], float]) -> list[tuple[int, ...]]:
    """The sets, those with the most alike pair first."""
    of = {index: each for each in sets for index in each}
    best: dict[tuple[int, ...], float] = dict.fromkeys(sets, 0.0)
    for (one, _), value in pairs.items():
        if one in of:
            best[of[one]] = max(best[of[one]], value)
    return sorted(sets, key=lambda each: -best[each])


def _items(data: Dataset, sets: Iterable[tuple[int, ...]]) -> tuple[Item, ...]:
    """Each set with what differs in it."""
    found = []
    for each in sets:
        parts = []
        for names, ids in ((data.classes, data.labels), (data.domains, data.domain_ids)):
            several = sorted({names[number] for number in ids[[*each]]})
            parts += [named(several)] if len(several) > 1 else []
        found.append(Item(each, ", ".join(parts)))
    return tuple(found)


def _be(what: str) -> tuple[str, str]:
    return f"is {what}", f"are {what}"


def _counted(count: int, noun: str, one: str = "", many: str = "") -> str:
    """The number of things, and what one does or many do."""
    return f"{count:,} {noun}{'s'[: count != 1]} {one if count == 1 else many}".rstrip()
