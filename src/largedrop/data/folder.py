"""A folder ``domain/class/image`` as a dataset."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
from .cache import Progress, open_images
from .dataset import Dataset, IntArray, check_names
from .images import EXTENSIONS

__all__ = ["Listing", "fingerprint", "list_images", "open_folder"]


_LAYOUT = "expects domain/class/image"


# Folders that systems put beside anyone's files, with thumbnails and copies in them.
_IGNORED = frozenset({"__MACOSX", "@eaDir"})


@dataclass(frozen=True)
class Listing:
    """The image files of a folder ``domain/class/image``, none of them opened yet.

    Attributes:
        root: the folder.
        domains: names of the domains, sorted.
        classes: names of the classes, sorted; every domain has all of them.
        keys: ``domain/class/path``, sorted by domain, class and path, (n,).
        paths: the files, (n,).
        labels: class of each image, (n,).
        domain_ids: domain of each image, (n,).
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: IntArray
    domain_ids: IntArray


@dataclass(frozen=True)
class _Entry:
    """A file or folder: its path, and its name as every machine writes it."""

    name: str
    path: Path


def open_folder(
    path: str | Path,
    *,
    bound: int = 320,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a folder ``domain/class/image`` as a dataset; images in folders inside a class folder belong to the class.

    Args:
        path: the folder. Hidden files and folders, and files that are not named like an image, are ignored.
        bound: images whose shorter side is longer are shrunk to it, in pixels.
        skip_bad_images: leave out images that cannot be decoded, instead of raising.
        cache: folder of the decoded images; ``entries.cache_folder()`` where None.
        progress: called with (done, n) while images are decoded, which happens once.

    Raises:
        UserError: the folder is not laid out so, images cannot be decoded, or the cache cannot be written; all that
            is wrong is named at once.
    """
    listing = list_images(path)
    opened = open_images(
        listing.keys, listing.paths, bound=bound, skip_bad_images=skip_bad_images, cache=cache, progress=progress
    )
    kept = np.array(opened.kept, dtype=np.int64)
    keys = tuple(listing.keys[position] for position in opened.kept)
    labels, domain_ids = listing.labels[kept], listing.domain_ids[kept]
    if opened.skipped:
        counts = _counts(listing.domains, listing.classes, labels, domain_ids)
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
        fingerprint=fingerprint(keys, opened.digests),
        skipped=opened.skipped,
    )


def fingerprint(keys: Sequence[str], digests: Sequence[str]) -> str:
    """SHA-256, hexadecimal, of every image's key and of the digest of its file's contents."""
    total = hashlib.sha256()
    for key, digest in zip(keys, digests, strict=True):
        total.update(f"{key}\0{digest}\n".encode())
    return total.hexdigest()


def list_images(path: str | Path) -> Listing:
    """List the images of a folder ``domain/class/image`` without opening any.

    Raises:
        UserError: there is no such folder, or it is not laid out so; all that is wrong is named at once.
    """
    root = _existing(Path(path).expanduser())
    problems: list[str] = []
    domains = _domains(root, problems)
    check_names("domain", (domain.name for domain, _ in domains))
    found: dict[tuple[str, str], list[_Entry]] = {}
    for domain, class_folders in domains:
        check_names("class", (folder.name for folder in class_folders))
        for folder in class_folders:
            visited = {_identity(above) for above in (root, domain.path, folder.path)}
            images = _walk(folder.path, f"{domain.name}/{folder.name}", visited, problems)
            found[domain.name, folder.name] = sorted(images, key=lambda image: image.name)
    classes = sorted({name for _, name in found})
    problems += _missing_classes([domain.name for domain, folders in domains if folders], classes, found)
    if not problems and len(classes) < 2:
        problems.append(f"has only the class '{classes[0]}'; at least two are needed")
    problems += _few_images({key: len(images) for key, images in found.items()}, "image")
    _raise(root, problems)
    rows = [
        (image, class_id, domain_id)
        for domain_id, (domain, _) in enumerate(domains)
        for class_id, name in enumerate(classes)
        for image in found[domain.name, name]
    ]
    check_names("image", (image.name for image, _, _ in rows))
    return Listing(
        root=root,
        domains=tuple(domain.name for domain, _ in domains),
        classes=tuple(classes),
        keys=tuple(image.name for image, _, _ in rows),
        paths=tuple(image.path for image, _, _ in rows),
        labels=np.array([class_id for _, class_id, _ in rows], dtype=np.int64),
        domain_ids=np.array([domain_id for _, _, domain_id in rows], dtype=np.int64),
    )


def _existing(path: Path) -> Path:
    """``path`` as an absolute folder, or a UserError that says what is there instead."""
    absolute = path.absolute()
    if ".." in absolute.parts:
        absolute = absolute.resolve()  # so that it has a name
    try:
        if absolute.is_dir():
            return absolute
        if absolute.exists():
            raise UserError(f"{path} is a file; {_LAYOUT}: name the folder that holds the domains")
        while not absolute.parent.exists():
            absolute = absolute.parent
        beside = [entry.name for entry in absolute.parent.iterdir() if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    missing = path if absolute.name == path.name else absolute
    close = nearest(absolute.name, [*beside, "emoji"])
    hint = f"did you mean '{close}'? " if close else ""
    raise UserError(f"there is no folder {missing}; {hint}('emoji' names the dataset that comes with largedrop)")


def _domains(root: Path, problems: list[str]) -> list[tuple[_Entry, list[_Entry]]]:
    """Each domain and its class folders; ``problems`` says what is wrong with the upper two levels."""
    top = _scan(root, root.name, problems)
    if top is None:
        return []
    folders, images = top
    if not folders:
        problems.append(f"{_LAYOUT}, " + (f"found images directly in {root.name}" if images else "found no folders"))
        return []
    levels = [(folder, _scan(folder.path, folder.name, problems)) for folder in folders]
    read = [(folder, level) for folder, level in levels if level is not None]
    loose = [folder.name for folder, (_, images) in read if images]
    if loose and not any(class_folders for _, (class_folders, _) in read):
        advice = "put the class folders into one folder for each domain"
        problems.append(f"{_LAYOUT}, found images directly in {root.name}/{loose[0]}: {advice}")
        return []
    for folder, (class_folders, _) in read:
        if not class_folders:
            tail = ", but images directly in it" if folder.name in loose else ""
            problems.append(f"the domain '{folder.name}' has no class folders{tail}")
    return [(folder, class_folders) for folder, (class_folders, _) in read]


def _missing_classes(
    domains: Sequence[str], classes: Sequence[str], found: dict[tuple[str, str], list[_Entry]]
) -> Iterator[str]:
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


def _counts(
    domains: Sequence[str], classes: Sequence[str], labels: IntArray, domain_ids: IntArray
) -> dict[tuple[str, str], int]:
    table = np.bincount(domain_ids * len(classes) + labels, minlength=len(domains) * len(classes))
    pairs = [(domain, name) for domain in domains for name in classes]
    return dict(zip(pairs, table.tolist(), strict=True))


def _raise(root: Path, problems: Sequence[str], most: int = 20) -> None:
    if len(problems) == 1:
        raise UserError(f"{root}: {problems[0]}")
    if problems:
        more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
        lines = [f"{root} has {len(problems)} problems:", *problems[:most], *more]
        raise UserError("\n  ".join(lines))


def _walk(folder: Path, key: str, visited: set[tuple[int, int]], problems: list[str]) -> Iterator[_Entry]:
    """The images in ``folder`` and below, each named by its key; a folder that links lead back to is entered once."""
    inside = _scan(folder, key, problems)
    if inside is None:
        return
    folders, images = inside
    for image in images:
        yield _Entry(f"{key}/{image.name}", image.path)
    for below in folders:
        identity = _identity(below.path)
        if identity not in visited:
            visited.add(identity)
            yield from _walk(below.path, f"{key}/{below.name}", visited, problems)


def _scan(folder: Path, key: str, problems: list[str]) -> tuple[list[_Entry], list[_Entry]] | None:
    """The folders and the images directly in ``folder``, sorted by name; None where it cannot be read."""
    folders: list[_Entry] = []
    images: list[_Entry] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _IGNORED:
                    continue
                found = _Entry(_portable(entry.name), Path(entry.path))
                if _is_folder(entry):
                    folders.append(found)
                elif found.path.suffix.lower() in EXTENSIONS:
                    images.append(found)  # also a broken link: it is reported with the images that cannot be decoded
    except OSError as error:
        problems.append(f"cannot read the folder {key}: {error.strerror or error}")
        return None
    return sorted(folders, key=lambda found: found.name), sorted(images, key=lambda found: found.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _portable(name: str) -> str:
    """A file's name in one spelling: systems differ in how they compose accents, and allow bytes that are no text."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode("utf-8"))
