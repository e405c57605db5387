"""What is known of each published dataset: facts.toml read into ``Published``; the file says what each entry is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError, one_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["IMAGENET", "Published", "RemoteFile", "Source", "known", "named_like", "published"]

IMAGENET = 1000
"""Number of classes of ImageNet-1k."""


@dataclass(frozen=True)
class Source:
    """Where a file is had.

    Attributes:
        url: its address.
        size: its size, in bytes; None where it is not known.
        md5: its MD5, hexadecimal; empty where it is not known.
        sha256: its SHA-256, hexadecimal; empty where it is not known.
    """

    url: str
    size: int | None = None
    md5: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset.

    Attributes:
        name: name under which it is kept.
        sources: where it is had, to be tried in turn.
        use: ``images``, ``annotations``, or ``remove``: a list of images that are left out.
    """

    name: str
    sources: tuple[Source, ...]
    use: str = "images"


@dataclass(frozen=True)
class Published:
    """A published dataset; facts.toml says what each attribute is.

    Attributes:
        classes: names of the class folders; empty where they are ImageNet's.
        imagenet: indices of the classes of ImageNet-1k that it has, ascending, where its class folders are named as
            ImageNet's are.
        classes_of: for each class folder the indices of the classes of ImageNet-1k that are right for it, where its
            class folders have names of their own.
        images: number of images; None where it is not known.
    """

    name: str
    kind: str
    folder: str
    layout: str
    licence: str
    home: str
    citation: str
    domains: Mapping[str, int]
    classes: tuple[str, ...] = ()
    imagenet: tuple[int, ...] = ()
    classes_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    images: int | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    numbered: bool = False
    remark: str = ""
    by_hand: str = ""
    contents: str = ""
    files: tuple[RemoteFile, ...] = ()

    @property
    def class_count(self) -> int:
        """Number of classes (of a shifted ImageNet, of those that are scored)."""
        return len(self.classes or self.imagenet or self.classes_of)

    @property
    def domain_names(self) -> dict[str, str]:
        """Each domain's name by every name that copies have for it, in lower case."""
        names = {name.lower(): name for name in self.domains}
        return names | {other.lower(): name for name, others in self.aliases.items() for other in others}

    def to_json(self) -> dict[str, Any]:
        """All facts as plain values; those that are not known are left out."""
        return {name: value for name, value in asdict(self).items() if value or name == "domains"}


def known() -> tuple[str, ...]:
    """Names of the published datasets."""
    return tuple(_facts())


def published(name: str) -> Published:
    """The published dataset ``name``, in upper or lower case, with or without hyphens.

    Raises:
        UserError: there is none of that name.
    """
    if found := named_like(name):
        return found
    raise UserError(f"no published dataset '{name}' is known; {one_of(name, known())}")


def named_like(name: str) -> Published | None:
    """The published dataset that is called ``name``, also by its folder's name in DomainBed's layout; else None."""
    for each in _facts().values():
        if _plain(name) in (_plain(each.name), _plain(each.folder)):
            return each
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


@cache
def _facts() -> dict[str, Published]:
    content = tomllib.loads((Path(__file__).parent / "facts.toml").read_text("utf-8"))
    return {name: _read(name, dict(entry)) for name, entry in content.items()}


def _read(name: str, entry: dict[str, Any]) -> Published:
    if entry.get("imagenet") == "all":
        entry["imagenet"] = range(IMAGENET)
    for each in ("aliases", "classes_of"):
        entry[each] = {key: tuple(values) for key, values in entry.get(each, {}).items()}
    for each in ("classes", "imagenet", "splits"):
        entry[each] = tuple(entry.get(each, ()))
    entry["files"] = tuple(
        RemoteFile(**{**file, "sources": tuple(Source(**source) for source in file["sources"])})
        for file in entry.get("files", ())
    )
    return Published(name, **entry)
