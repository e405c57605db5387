"""The images of a folder ``domain/class/image``."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest
from .dataset import check_names
from .images import EXTENSIONS
from .listing import Listing, make_listing

__all__ = ["images_below", "list_images", "portable"]

_LAYOUT = "expects domain/class/image"

# Folders that systems put beside anyone's files, with thumbnails and copies in them.
_IGNORED = frozenset({"__MACOSX", "@eaDir"})


@dataclass(frozen=True)
class _Entry:
    """A file or folder: its path, and its name as every machine writes it."""

    name: str
    path: Path


def list_images(path: str | Path, classes: str = "union") -> Listing:
    """List the images of a folder ``domain/class/image`` without opening any.

    Images in folders inside a class folder belong to the class. Hidden files and folders, and files without an image's
    suffix, are ignored. ``classes`` is that of ``make_listing``.

    Raises:
        UserError: there is no such folder, or its layout is another; the message lists all errors.
    """
    root = _existing(Path(path).expanduser())
    problems: list[str] = []
    domains = _domains(root, problems)
    check_names("domain", (domain.name for domain, _ in domains))
    found: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for domain, class_folders in domains:
        check_names("class", (folder.name for folder in class_folders))
        for folder in class_folders:
            visited = {_identity(above) for above in (root, domain.path, folder.path)}
            images = _walk(folder.path, f"{domain.name}/{folder.name}", visited, problems)
            found[domain.name, folder.name] = [(image.name, image.path) for image in images]
    return make_listing(root, found, problems, classes)


def images_below(folder: Path) -> list[Path]:
    """Every image in a folder and in those inside it, unlabelled: by name, a folder's own before those of its folders.

    What is ignored is what ``list_images`` ignores.

    Raises:
        UserError: a folder cannot be read; the message lists all such folders.
    """
    problems: list[str] = []
    found = [image.path for image in _walk(folder, str(folder), {_identity(folder)}, problems)]
    if problems:
        raise UserError("; ".join(problems))
    return found


def _existing(path: Path) -> Path:
    """``path`` as an absolute path of a folder; a UserError says what is there instead."""
    absolute = path.absolute()
    if ".." in absolute.parts:
        absolute = absolute.resolve()  # so that it has a name
    try:
        if absolute.is_dir():
            return absolute
        if absolute.exists():
            raise UserError(
                f"{path} is a file; {_LAYOUT}: name the folder that holds the domains, or a .csv, .jsonl or .parquet"
            )
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
    """Each domain and its class folders; appends what is wrong with these two levels to ``problems``."""
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
        advice = "put the class folders into one folder for each domain, or the domains into a table"
        problems.append(f"{_LAYOUT}, found images directly in {root.name}/{loose[0]}: {advice}")
        return []
    for folder, (class_folders, _) in read:
        if not class_folders:
            tail = ", but images directly in it" if folder.name in loose else ""
            problems.append(f"the domain '{folder.name}' has no class folders{tail}")
    return [(folder, class_folders) for folder, (class_folders, _) in read]


def _walk(folder: Path, key: str, visited: set[tuple[int, int]], problems: list[str]) -> Iterator[_Entry]:
    """The images in ``folder`` and below, named by their keys; a folder that a link leads back to is entered once."""
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
                found = _Entry(portable(entry.name), Path(entry.path))
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


def portable(name: str) -> str:
    """A file's name in one spelling: systems differ in how they compose accents, and allow bytes that are no text."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode("utf-8"))
