"""The images of a folder ``domain/class/image``."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest
from ..paths import expanded
from .dataset import check_names
from .formats import suffixes
from .levels import level_notes, level_problem
from .listing import ONE_DOMAIN, Listed, Source
from .passed_over import PassedOver, is_output, is_system_file, is_system_folder

__all__ = ["images_below", "list_images", "portable"]

_LAYOUT = "expects domain/class/image"

_NO_DOMAINS = f"domains: the folders hold images themselves, so they are classes, all of one domain, '{ONE_DOMAIN}'"

_Found = dict[tuple[str, str], list[Listed]]


@dataclass(frozen=True)
class _Entry:
    """A file or folder: its path, and its name as every machine writes it."""

    name: str
    path: Path


_INSTEAD = {
    **dict.fromkeys((".zip", ".gz", ".tgz", ".7z", ".rar"), "unpack it, and name the folder"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as .csv"),
    ".json": "write it as .jsonl, an object in each line",
}
"""What to do with a file of a kind that is not read."""


def list_images(path: str | Path) -> Source:
    """List the images of a folder ``domain/class/image`` without opening any.

    Images in folders inside a class folder belong to the class. Hidden files and folders are ignored. Files without an
    image's suffix, a system's own folders, what largedrop has written, and folders without images are passed over, with
    a line for each kind in the notes.

    Folders of classes without domains, ``class/image``, are one domain, ``ONE_DOMAIN``. A folder of images beside
    domains is a domain without labels.

    Raises:
        UserError: there is no such folder. What is wrong with its layout is in ``problems``.
    """
    root = _existing(expanded(path))
    problems: list[str] = []
    passed, everything = PassedOver(), PassedOver()
    unlabelled: dict[str, list[tuple[str, Path]]] = {}
    domains = _domains(root, problems, passed, unlabelled)
    check_names("domain", (domain.name for domain, _ in domains))
    found: _Found = {}
    missed: set[str] = set()
    problems += _repeated(root, domains)
    for domain, class_folders in domains:
        check_names("class", (folder.name for folder in class_folders))
        for folder in class_folders:
            visited = {_identity(above) for above in (root, domain.path, folder.path)}
            inside, before = PassedOver(), len(problems)
            images = list(_walk(folder.path, f"{domain.name}/{folder.name}", visited, problems, inside))
            passed.add(inside, others=bool(images))
            everything.add(inside, others=True)
            found[domain.name, folder.name] = [Listed(image.name, image.path) for image in images]
            if inside.unopened or len(problems) > before:
                missed |= {domain.name, folder.name}
    _drop_empty(found, missed, passed)
    has = {pair: images for pair, images in found.items() if images}
    if not has and not problems:
        only = "; ".join(everything.counts())
        problems.append(f"{_LAYOUT}, found no image" + (f", only {only}" if only else ""))
        found = {}
    without = any({pair[part] for pair in found} - {pair[part] for pair in has} for part in range(2))
    if has and (problems or without) and passed.unopened:
        problems.append(f"passed over: {passed.unopened}")
    if not problems and (problem := level_problem(has)):
        problems.append(problem)
        found = {}
    notes = [_NO_DOMAINS] if [domain.path for domain, _ in domains] == [root] else []
    said = (*notes, *passed.notes(), *level_notes(has))
    return Source(root, found, root.name, tuple(problems), said, unlabelled)


def _repeated(root: Path, domains: Sequence[tuple[_Entry, Sequence[_Entry]]]) -> Iterator[str]:
    """Lines about folders that are another one, or the whole, once more, as links make them."""
    named = {_identity(root): root.name}
    for domain, class_folders in domains:
        own = [(domain.name, domain.path)] if domain.path != root else []
        for name, path in (*own, *((f"{domain.name}/{folder.name}", folder.path) for folder in class_folders)):
            first = named.setdefault(_identity(path), name)
            if first != name and any(path.iterdir()):
                yield f"{name} is the same folder as {first}, so its images would be there twice: remove one of them"
                if name == domain.name:  # and so are those in it
                    break


def images_below(folder: Path, passed: PassedOver) -> list[Path]:
    """Every image in a folder and in those inside it, unlabelled: by name, a folder's own before those of its folders.

    What is ignored is what ``list_images`` ignores; what is passed over is added to ``passed``.

    Raises:
        UserError: a folder cannot be read; the message lists all such folders.
    """
    problems: list[str] = []
    found = [image.path for image in _walk(folder, str(folder), {_identity(folder)}, problems, passed)]
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
            usual = "name the folder that holds the domains, or a .csv, .jsonl or .parquet"
            raise UserError(f"{path} is a file; {_LAYOUT}: {_INSTEAD.get(absolute.suffix.lower(), usual)}")
        while not absolute.parent.exists():
            absolute = absolute.parent
        beside = [entry.name for entry in absolute.parent.iterdir() if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    missing = path if absolute.name == path.name else absolute
    close = nearest(absolute.name, [*beside, "emoji"])
    emoji = "the dataset that comes with largedrop"
    known = f", {emoji}" if close == "emoji" else ""
    hint = f"did you mean '{close}'{known}?" if close else f"'emoji' is the name of {emoji}"
    raise UserError(f"there is no folder {missing}; {hint}")


def _domains(
    root: Path, problems: list[str], passed: PassedOver, unlabelled: dict[str, list[tuple[str, Path]]]
) -> list[tuple[_Entry, list[_Entry]]]:
    """Each domain and its class folders; appends what is wrong with these two levels to ``problems``.

    Where no more than half of the folders hold images and no folders, these are domains without labels: their images
    are added to ``unlabelled``.
    """
    top = _scan(root, "", problems, passed)
    if top is None:
        return []
    folders, images = top
    if not folders:
        problems.append(f"{_LAYOUT}, " + (f"found images directly in {root.name}" if images else "found no folders"))
        return []
    second = PassedOver()
    levels = [(folder, _scan(folder.path, folder.name, problems, second)) for folder in folders]
    read = [(folder, level) for folder, level in levels if level is not None]
    passed.loose += [image.name for image in images]
    used = [(folder, level) for folder, level in read if any(level)]
    if used and all(images for _, (_, images) in used) and not all(inner for _, (inner, _) in used):
        # Not one that could be a domain: these are classes, and are walked as such.
        passed.empty += [folder.name for folder, level in read if not any(level)]
        passed.outputs += second.outputs
        return [(_Entry(ONE_DOMAIN, root), [folder for folder, _ in used])]
    passed.add(second, others=True)
    bare = [(folder, images) for folder, (class_folders, images) in read if images and not class_folders]
    few = len(bare) <= sum(bool(class_folders) for _, (class_folders, _) in read)
    for folder, (class_folders, images) in read:
        if images and not class_folders and few:
            unlabelled[folder.name] = [(image.name, image.path) for image in images]
            continue
        passed.loose += [f"{folder.name}/{image.name}" for image in images]
        if images and not class_folders:
            problems.append(f"the domain '{folder.name}' has no class folders, but images directly in it")
        elif not class_folders:
            passed.empty.append(folder.name)
    return [(folder, class_folders) for folder, (class_folders, _) in read if class_folders]


def _drop_empty(found: _Found, missed: Collection[str], passed: PassedOver) -> None:
    """Leave out of ``found`` the folders without an image, which are taken for no domains and no classes.

    Those that are called as domains and classes with images are, or that have images which cannot be listed or opened
    (``missed``: names of domains and classes), stay, so that it is an error that they have none.
    """
    domains, classes = ({pair[part] for pair, images in found.items() if images} for part in range(2))
    for domain in sorted({domain for domain, _ in found} - domains - set(missed)):
        inside = [name for each, name in found if each == domain]
        if not classes.intersection(inside):
            passed.empty.append(domain)
            for name in inside:
                del found[domain, name]
    for domain, name in sorted(found):
        if name not in classes and name not in missed and domain in domains:
            del found[domain, name]
            if f"{domain}/{name}" not in passed.outputs:
                passed.empty.append(f"{domain}/{name}")


def _walk(
    folder: Path, key: str, visited: set[tuple[int, int]], problems: list[str], passed: PassedOver
) -> Iterator[_Entry]:
    """The images in ``folder`` and below, named by their keys; a folder that a link leads back to is entered once."""
    inside = _scan(folder, key, problems, passed, count=True)
    if inside is None:
        return
    folders, images = inside
    for image in images:
        yield _Entry(f"{key}/{image.name}", image.path)
    for below in folders:
        identity = _identity(below.path)
        if identity not in visited:
            visited.add(identity)
            yield from _walk(below.path, f"{key}/{below.name}", visited, problems, passed)


def _scan(
    folder: Path, key: str, problems: list[str], passed: PassedOver, count: bool = False
) -> tuple[list[_Entry], list[_Entry]] | None:
    """The folders and the images directly in ``folder``, sorted by name; None where it is not read.

    Args:
        key: name of the folder in messages; empty for the source's own.
        count: whether files that are no images are counted.
    """
    folders: list[_Entry] = []
    images: list[_Entry] = []
    others: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or is_system_file(entry.name):
                    continue
                found = _Entry(portable(entry.name), Path(entry.path))
                if _is_folder(entry):
                    folders.append(found)
                elif found.path.suffix.lower() in suffixes():
                    images.append(found)  # also a broken link: it is reported with the images that cannot be decoded
                else:
                    others.append(entry.name)
    except OSError as error:
        problems.append(f"cannot read the folder {key or folder.name}: {error.strerror or error}")
        return None
    if key and is_output(folder, others):
        passed.outputs.append(key)
        return None
    passed.count(others, count)
    for each in (folders, images):
        each.sort(key=lambda found: found.name)
    passed.system += [f"{key}/{each.name}"[not key :] for each in folders if is_system_folder(each.name)]
    return [each for each in folders if not is_system_folder(each.name)], images


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
