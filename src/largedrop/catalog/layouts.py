"""From the files of a published dataset's archives, however they are laid out, to ``domain/class/image``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from timm.data.imagenet_info import ImageNetInfo

from ..data.formats import suffixes
from ..errors import UserError
from .facts import IMAGENET, Published

__all__ = ["Place", "Places", "annotated", "class_names", "imagenet_names", "places_of"]

WHOLE = "full"
"""The split that repeats the images of all others, in copies of VLCS."""


class Place(NamedTuple):
    """Where an image belongs."""

    domain: str
    name: str
    """Name of its class."""

    file: str

    @property
    def key(self) -> str:
        """``domain/class/file``."""
        return "/".join(self)


Places = Callable[[Sequence[str]], Sequence[Place]]
"""From the parts of a file's path in an archive to where it belongs.

To several places where it shows several classes, and to none where it is no image of the dataset.
"""


def class_names(facts: Published) -> tuple[str, ...]:
    """Names of a published dataset's class folders, sorted; ImageNet's own (n01440764, …) where it has these."""
    if facts.imagenet:
        names = imagenet_names()
        return tuple(names[index] for index in facts.imagenet)
    return facts.classes or tuple(facts.classes_of)


def imagenet_names() -> tuple[str, ...]:
    """Names of ImageNet-1k's class folders, n01440764 and so on, in the order of its classes."""
    name = ImageNetInfo("imagenet-1k").index_to_label_name
    return tuple(name(index) for index in range(IMAGENET))


def places_of(facts: Published, annotations: Iterable[bytes] = (), removed: Iterable[str] = ()) -> Places:
    """Where each file of a dataset's archives belongs.

    Args:
        facts: the dataset.
        annotations: contents of its annotation files, JSON, for the layout ``camera traps``.
        removed: keys of images that are left out.
    """
    kinds: Mapping[str, Callable[[], Places]] = {
        "folders": lambda: _by_folders(facts),
        "classes": lambda: _by_classes(facts),
        "camera traps": lambda: _by_annotations(annotated(facts, annotations)),
    }
    found, left_out = kinds[facts.layout](), frozenset(removed)

    def places(parts: Sequence[str]) -> Sequence[Place]:
        if not parts or PurePosixPath(parts[-1]).suffix.lower() not in suffixes() or parts[-1].startswith("."):
            return ()
        return [place for place in found(parts) if place.key not in left_out]

    return places


def _by_folders(facts: Published) -> Places:
    """``…/domain/class/image``, perhaps with a level of splits between domain and class."""
    domains, classes = facts.domain_names, {name.lower(): name for name in facts.classes}
    if facts.numbered:
        classes |= {str(number): name for number, name in enumerate(facts.classes)}

    def places(parts: Sequence[str]) -> Sequence[Place]:
        if len(parts) < 3:
            return ()
        *above, folder, file = parts
        split = above.pop() if len(above) > 1 and above[-1] in facts.splits and above[-1].lower() not in domains else ""
        domain, name = domains.get(above[-1].lower()), classes.get(folder.lower())
        if domain is None or name is None or split == WHOLE:
            return ()
        return [Place(domain, name, f"{split}_{file}" if split else file)]

    return places


def _by_classes(facts: Published) -> Places:
    """``…/class/image``; the class folders may be the indices of ImageNet's classes."""
    (domain,) = facts.domains
    names = {name: name for name in class_names(facts)}
    if len(facts.imagenet) == IMAGENET:
        names |= {str(index): name for index, name in enumerate(class_names(facts))}

    def places(parts: Sequence[str]) -> Sequence[Place]:
        name = names.get(parts[-2]) if len(parts) > 1 else None
        return [] if name is None else [Place(domain, name, parts[-1])]

    return places


def _by_annotations(known: Mapping[str, Sequence[tuple[str, str]]]) -> Places:
    def places(parts: Sequence[str]) -> Sequence[Place]:
        return [Place(domain, name, parts[-1]) for domain, name in known.get(parts[-1], ())]

    return places


def annotated(facts: Published, annotations: Iterable[bytes]) -> dict[str, list[tuple[str, str]]]:
    """Domain and class of each image of camera traps, by its file's name; several where it shows several classes.

    Args:
        annotations: contents of files in the form of COCO, with a ``location`` for each image.

    Raises:
        UserError: a file is not of that form.
    """
    found: dict[str, dict[tuple[str, str], None]] = {}
    for content in annotations:
        try:
            parsed: Any = json.loads(content)
            names = {each["id"]: str(each["name"]) for each in parsed["categories"]}
            images = {each["id"]: (str(each["file_name"]), str(each["location"])) for each in parsed["images"]}
            pairs = [(images.get(each["image_id"]), names[each["category_id"]]) for each in parsed["annotations"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"the annotations are not in the form of COCO with locations: {error!r}") from error
        for image, name in pairs:
            domain = facts.domain_names.get(image[1].lower()) if image else None
            if image and domain and name in facts.classes:
                found.setdefault(PurePosixPath(image[0]).name, {})[domain, name] = None
    return {file: list(pairs) for file, pairs in found.items()}
