"""Which images: files, folders, patterns, tables and archives become one list."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..data.folder import images_below
from ..data.formats import suffixes
from ..data.huggingface import HUB, is_saved
from ..data.inside import Inside, Place
from ..data.parquet import holds_images, parquets_in
from ..data.passed_over import PassedOver
from ..data.remote import Store, address, folder_of, is_remote, named_in
from ..data.rows import TABLES, columns_in, read_rows, usual_name
from ..data.shards import is_shards
from ..data.sources import find_source
from ..errors import UserError, check_type

__all__ = ["Fetched", "Image", "find_images", "place_of"]

_USUAL = ("path", "file_name")
"""Names of a table's column of paths where none is given."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image that is elsewhere: its address, and where it is in the cache, if it is."""

    url: str
    path: Path

    def __str__(self) -> str:
        return self.url


Image: TypeAlias = "str | Inside | Fetched"
"""Path of an image's file, where it is in a larger file, or what was fetched."""


def place_of(image: Image) -> Place:
    """Where an image can be read."""
    return image.path if isinstance(image, Fetched) else Path(image) if isinstance(image, str) else image


def find_images(
    sources: Iterable[str | Path], passed: PassedOver | None = None, columns: Mapping[str, str] | None = None
) -> list[Image]:
    """Where images are, in the order of their sources.

    What is named itself, as a file or in a table's row, is there as often as it is named; what is in a folder or fits a
    pattern is left out where it was there before.

    A file is taken whatever its name is, but for tables and archives; of a folder, those files in it and in the folders
    inside it that have an image's suffix and are not hidden, sorted by name. A pattern (``photos/*.jpg``,
    ``photos/**/front``) stands for what a shell would make of it, and need not be expanded by one. Of a table the paths
    are taken in the order of its rows, and no other column; of archives and saved datasets all images.

    Args:
        sources: paths of files, folders, tables, tar archives and saved datasets; patterns; names of datasets on a hub;
            addresses of images, folders, tables and archives.
        passed: receives what is passed over in folders.
        columns: ``{"path": name}`` where a table's column of paths is not named ``path`` or ``file_name``.

    Raises:
        UserError: a source does not exist or cannot be read, or there is no image in it.
    """
    for what in columns or {}:
        if what != "path":
            raise UserError(f"of a table only the paths are read, so no column can be named for the {what}")
    check_type(sources, Iterable, "images must be paths of files and folders")
    found: list[Image] = []
    known: set[Image] = set()
    passed = PassedOver() if passed is None else passed
    for source in map(str, sources):
        if not source:  # of a shell's variable that is not set; it would be the current folder
            raise UserError("the name of a file or folder is empty")
        if is_remote(source):
            inside = _elsewhere(source, passed, columns or {})
        elif source.startswith(HUB) or (is_shards(Path(source).name) and not Path(source).is_dir()):
            inside = _listed(source, columns or {})
        else:
            matches = _matching(source)
            inside = [image for match in matches for image in _images(match, passed, columns or {})]
            if matches != [source] or Path(source).is_dir():  # a folder or a pattern, not a file or a table
                fresh = [image for image in dict.fromkeys(inside) if image not in known]
                if inside and not fresh:
                    continue
                inside = fresh
        if not inside:
            reason = passed.unopened or "no file with an image's suffix, such as .jpg or .png"
            raise UserError(f"there is no image in {source}: {reason}")
        found += inside
        known.update(inside)
    if not found:
        raise UserError("no images are named")
    return found


def _matching(source: str) -> list[str]:
    """``source`` where it exists (a link that leads nowhere is an image that cannot be read), else what it matches."""
    try:
        if Path(source).exists() or Path(source).is_symlink():
            return [source]
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}") from error
    if not glob.has_magic(source):
        raise UserError(f"there is no file or folder {source}")
    matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207  # pathlib's takes no absolute pattern
    if not matches:
        raise UserError(f"nothing matches {source}")
    return matches


def _images(path: str, passed: PassedOver, columns: Mapping[str, str]) -> Sequence[Image]:
    place = Path(path)
    if not place.is_dir():
        if holds_images(place, columns):
            return _listed(path, columns)
        return _of_table(path, columns) if path.lower().endswith(TABLES) else [path]
    inside = PassedOver()
    found = [str(image) for image in images_below(place, inside)]
    if not found and (is_saved(place) or parquets_in(place) or any(is_shards(each.name) for each in place.iterdir())):
        return _listed(path, columns)
    passed.add(inside, others=True)
    return found


def _listed(source: str, columns: Mapping[str, str]) -> list[Image]:
    """The images of archives and of datasets, labelled or not, in the order in which they are there."""
    nothing_else = dict.fromkeys(("label", "domain", "group", "split"), "")
    found = find_source(source, {**nothing_else, **columns})
    if found.problems:
        raise UserError(f"{source}: {found.problems[0]}")
    listed = [place for images in found.unlabelled.values() for _, place in images]
    return [str(place) if isinstance(place, Path) else place for place in listed]


def _elsewhere(source: str, passed: PassedOver, columns: Mapping[str, str]) -> Sequence[Image]:
    """The images of a table, of archives or of a folder at an address, or the image there."""
    name, store = named_in(source), Store()
    if is_shards(name):
        return _listed(source, columns)
    if name.lower().endswith(TABLES):
        if not (there := store.fetch([source])):
            raise UserError(f"there is no table {source}, or it cannot be fetched")
        if holds_images(there[0], columns):
            return _listed(source, columns)
        return _of_table(str(there[0]), columns, folder_of(source))
    if Path(name).suffix.lower() in suffixes() or "?" in source:
        store.fetch([source])
        return [Fetched(source, store.local(source))]
    folder, base = store.fetch_folder(source)[0], source.rstrip("/") + "/"
    return [Fetched(base + path.relative_to(folder).as_posix(), path) for path in images_below(folder, passed)]


def _of_table(path: str, columns: Mapping[str, str], base: str = "") -> list[Image]:
    """The paths in a table, relative to its folder, or to ``base``, the address of the folder it was fetched from.

    Raises:
        UserError: it cannot be read, it has no column of paths, or a row has no path.
    """

    def choose(header: Sequence[str]) -> Mapping[str, str]:
        name = columns.get("path") or usual_name(_USUAL, header) or _USUAL[0]
        columns_in(path, header, {"path": name}, "--column WHAT=NAME says which it is")
        return {"path": name}

    problems: list[str] = []
    found: list[str] = []
    for place, values in read_rows(Path(path), choose, problems):
        value = values["path"]
        if isinstance(value, str) and (text := value.strip()):
            found.append(text if is_remote(text) else address(base, text) if base else _beside(Path(path).parent, text))
        else:
            problems.append(f"{place} has no path")
    if problems:
        more = [f"… and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UserError("\n  ".join([f"{path}: {problems[0]}", *problems[1:10], *more]))
    if not found:
        raise UserError(f"{path} has no rows")
    if not (urls := [each for each in found if is_remote(each)]):
        return list(found)
    store = Store()
    store.fetch(urls)
    return [Fetched(each, store.local(each)) if is_remote(each) else each for each in found]


def _beside(folder: Path, text: str) -> str:
    """The file that a table names, whose folders are separated as on Windows where there is none otherwise."""
    path = folder / text
    other = folder / text.replace("\\", "/")
    return str(other if "\\" in text and not path.exists() and other.exists() else path)
