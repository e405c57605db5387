"""A doctor for datasets: what is in one, what is wrong with it, and whether it can be trained on.

docs/check.md says what it looks for, and how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import ABOUT, Config
from ..data import list_dataset, open_dataset
from ..data.cache import ProgressCallback
from ..data.dataset import Dataset
from ..data.headers import oddities
from ..data.inside import Place
from ..data.listing import open_listing
from ..data.views.batches import open_views
from ..errors import UserError
from ..linear.features import FeatureStore
from ..reporter import SILENT, Relay, Reporter
from ..training.device import choose_device
from ..training.resolve import resolve
from . import findings as find
from .duplicates import identical, look_at, proposed, same_pictures
from .findings import LEVELS, Finding, counts_of
from .neighbours import doubts, nearest, principal_axes, projected
from .published import against_published

__all__ = ["Diagnosis", "check", "open_all", "work"]

_NEIGHBOURS = 5
"""Nearest images by features that may be copies, and that must all have another label before one is doubted."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is in a dataset, and what is wrong with it.

    Attributes:
        data: the dataset, without images that cannot be decoded.
        findings: what was found, the worst level first.
        about: how it was looked at, as JSON types.
    """

    data: Dataset
    findings: tuple[Finding, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether it can be trained on: there is no problem."""
        return not self.of("problem")

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images by domain and class."""
        return counts_of(self.data)

    def of(self, level: str) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(finding for finding in self.findings if finding.level == level)


def open_all(
    source: Any,
    *,
    skip_bad_images: bool = False,
    bound: int = 320,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> tuple[Dataset, tuple[Place, ...]]:
    """The images of a source that can be decoded, and where they are; ``Dataset.skipped`` has the others.

    Args:
        source: as for ``open_dataset``, with its arguments.
        skip_bad_images: whether training would skip images that cannot be decoded.
        options: arguments of ``list_dataset``.

    Raises:
        UserError: what ``open_dataset`` says, where nothing can be checked.
    """
    listing = list_dataset(source, cache=cache, progress=progress, **options)
    if listing is None:
        return open_dataset(source), ()
    opening: dict[str, Any] = {"bound": bound, "cache": cache, "progress": progress}
    try:
        data = open_listing(listing, skip_bad_images=True, **opening)
    except UserError:
        # Where no image of a class is left, this says which cannot be decoded.
        data = open_listing(listing, skip_bad_images=skip_bad_images, **opening)
    places = dict(zip(listing.keys, listing.paths, strict=True))
    return data, tuple(places[key] for key in data.keys)


def work(data: Dataset, quick: bool) -> int:
    """The work of ``check``, in images looked at."""
    return len(data) * (1 if quick else 3)


def check(
    source: Any,
    *,
    places: Sequence[Place] = (),
    skip_bad_images: bool = False,
    quick: bool = False,
    seed: int = 0,
    model: str = Config.model,
    size: int = 128,
    weights: str = "pretrained",
    precision: str = "auto",
    device: str = "auto",
    reporter: Reporter = SILENT,
    **options: Any,
) -> Diagnosis:
    """Check a dataset: what is in it, what is wrong with it, and whether it can be trained on.

    Args:
        source: a ``Dataset``, or what ``open_dataset`` takes.
        places: where the images of a ``Dataset`` are, from ``open_all``; without, nothing is said of files' encodings.
        skip_bad_images: training will skip images that cannot be decoded; else one of them is a problem.
        quick: look at the pixels only, without a network: no label is doubted, and some copies are missed.
        seed: seed of the i.i.d. split whose sides are compared.
        model: name of the network whose features are used, or several as ``a+b``.
        size: side of its images, in pixels.
        weights: its weights, as in ``Config.weights``.
        precision: its precision, as in ``Config.precision``, or ``auto``.
        device: device that computes: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        reporter: receives the work, ``work(data, quick)`` in total, and notes.
        options: further options of ``open_dataset``, where ``source`` is not opened yet.

    Raises:
        UserError: the source cannot be opened at all, or an option is wrong.
    """
    if isinstance(source, Dataset):
        data = source
    else:
        data, places = open_all(source, skip_bad_images=skip_bad_images, **options)
    settings: dict[str, Any] = {"model": model, "size": size, "weights": weights, "precision": precision, "seed": seed}
    on = choose_device(device)
    config = None if quick else resolve(data, on, recipe="short", fit="probe", **settings)
    found = [
        *find.decoded(data, skip_bad_images),
        *against_published(data),
        *find.listed(data, seed),
        *find.groups(data),
    ]
    found += find.encodings(data, _odd(places))
    looks = look_at(data.images, reporter)
    found += find.shapes(data, looks, size)
    near, doubted = None, None
    if config is not None:
        seen = Relay(reporter)
        features = FeatureStore(data, open_views(data, on, reporter), reporter=seen).features(config, count=1)
        reporter.skip(len(data) - seen.done)  # the features that were on disk
        axes = principal_axes(features.representation)
        near = nearest(projected(features.representation, axes).to(on), _NEIGHBOURS, reporter=reporter)
        doubted = doubts(features.representation, data.labels, len(data.classes), axes)
    alike = same_pictures(data.images, proposed(looks, near, on))
    found += find.copies(data, identical(looks), alike, seed)
    if near is not None and doubted is not None:
        found += find.doubted(data, near.indices.numpy(), doubted)
    about = {"data": data.name, "fingerprint": data.fingerprint, "seed": seed, "size": size, "quick": quick}
    if config is not None:
        about |= {name: getattr(config, name) for name, each in ABOUT.items() if each.features and name != "seed"}
    return Diagnosis(data, tuple(sorted(found, key=lambda each: LEVELS.index(each.level))), about)


def _odd(places: Sequence[Place]) -> dict[str, list[int]]:
    """Indices of the images whose files have each oddity."""
    found: dict[str, list[int]] = {}
    for index, names in enumerate(oddities(places)):
        for name in names:
            found.setdefault(name, []).append(index)
    return found
