"""``download``: a published dataset's files, and of them a folder ``domain/class/image``, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..data.digests import digest_of
from ..errors import BusyError, UserError
from ..lease import settle, take
from .archives import members
from .facts import Published, RemoteFile
from .layouts import Places, class_names, places_of
from .transfer import Watcher, check, fetch

__all__ = ["Downloaded", "download"]

_UNPACKED = "unpacked"


@dataclass(frozen=True)
class Downloaded:
    """What ``download`` has laid out.

    Attributes:
        folder: the folder ``domain/class/image``.
        images: number of images of each domain.
        notes: lines about what is not as published.
    """

    folder: Path
    images: dict[str, int]
    notes: tuple[str, ...] = ()


def download(facts: Published, folder: Path, have: Path | None = None, watch: Watcher | None = None) -> Downloaded:
    """Download a dataset and lay it out as ``domain/class/image``.

    Archives and what is unpacked of them stand beside ``folder`` in ``.FOLDER.download`` until all is there; then they
    are removed. After an interruption or an error what was received stays there, and the next call goes on with it.

    Args:
        facts: the dataset.
        folder: folder to make; must not exist.
        have: folder with some or all of its files, as they were downloaded by other means; they are left there.
        watch: is told what happens.

    Raises:
        UserError: the folder exists or cannot be written, a file cannot be had from any source, an archive is refused
            or damaged, images of a domain or class are missing, or a person has to get the dataset.
    """
    watch = watch or Watcher()
    if not facts.files:
        raise UserError(f"{facts.name} cannot be downloaded by a program: {facts.by_hand}")
    if have is not None and not have.is_dir():
        raise UserError(f"there is no folder {have}")
    if folder.exists():
        raise UserError(f"{folder} is there already; name another folder with --output, or remove it")
    with _working(folder, watch) as work:
        paths = _obtain_all(facts.files, work, have, watch)
        try:
            found = _unpack(facts, paths, work / _UNPACKED, watch)
        except UserError as error:
            raise _discarded(error, paths, work) from error
        (work / _UNPACKED).replace(folder)
        for path in paths:
            if path.parent == work:
                path.unlink()
    images = dict(Counter(key.split("/")[0] for key in found))
    return Downloaded(folder, {name: images[name] for name in facts.domains}, tuple(_differences(facts, images)))


@contextmanager
def _working(folder: Path, watch: Watcher) -> Iterator[Path]:
    """The folder beside ``folder`` that a download works in, this process's alone within the block."""
    work = folder.absolute().with_name(f".{folder.absolute().name}.download")
    try:
        work.mkdir(parents=True, exist_ok=True)
        settle(work, lambda: False, watch.note)
        lease = take(work)
    except BusyError as error:
        raise UserError(f"another process is downloading to {folder}") from error
    except OSError as error:
        raise UserError(f"cannot write {work}: {error.strerror or error}") from error
    try:
        yield work
    except OSError as error:
        raise UserError(f"cannot write {error.filename or work}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work / _UNPACKED, ignore_errors=True)
        lease.give_back(ended=True)
        with suppress(OSError):  # what was received waits for the next call
            work.rmdir()


def _obtain_all(files: Sequence[RemoteFile], work: Path, have: Path | None, watch: Watcher) -> list[Path]:
    """The path of each file; a UserError where one cannot be had names the others that are missing as well."""
    missing = [file.name for file in files if not (have is not None and (have / file.name).is_file())]
    if have is not None and missing:
        watch.note(f"{have} has no {', '.join(missing)}: to be downloaded")
    paths: list[Path] = []
    for file in files:
        try:
            paths.append(_obtain(file, work, have, watch))
        except UserError as error:
            others = [other.name for other in files[len(paths) + 1 :] if other.name in missing]
            also = [name for name in others if not (work / name).is_file()]
            raise UserError(f"{error}\n  also missing: {', '.join(also)}" if also else str(error)) from error
    return paths


def _obtain(file: RemoteFile, work: Path, have: Path | None, watch: Watcher) -> Path:
    """The path of a file: one of ``have``'s that is right, what an earlier call has received, or from its sources."""
    path = work / file.name
    if have is not None and (have / file.name).is_file():
        _check_any(file, have / file.name)
        return have / file.name
    if path.is_file():
        return path
    reasons = []
    for source in file.sources:
        try:
            fetch(source, path, watch)
        except UserError as error:
            reasons.append(f"{source.url}: {error}")
            watch.note(f"{file.name}: {reasons[-1]}")
        else:
            return path
    advice = f"download {file.name} by hand into a folder, and name it with --from"
    raise UserError("\n  ".join([f"{file.name} cannot be had:", *reasons, advice]))


def _check_any(file: RemoteFile, path: Path) -> None:
    """Raise UserError unless ``path`` is what one of the file's sources has, as far as is known."""
    reasons = []
    for source in file.sources:
        try:
            return check(source, path)
        except UserError as error:
            reasons.append(str(error))
    raise UserError(f"{path}: {reasons[0]}")


def _discarded(error: UserError, paths: list[Path], work: Path) -> UserError:
    """What was downloaded and cannot be unpacked is removed, so that the next call gets it anew."""
    mine = [path for path in paths if path.parent == work and path.name in str(error)]
    for path in mine:
        path.unlink(missing_ok=True)
    return UserError(f"{error}; it is removed, and the next call downloads it again") if mine else error


def _unpack(facts: Published, paths: list[Path], target: Path, watch: Watcher) -> list[str]:
    """Lay out the images of the archives below ``target``; return their keys, ``domain/class/file``."""
    if target.exists():
        shutil.rmtree(target)
    uses = dict(zip(paths, facts.files, strict=True))
    annotations = [
        content for path, file in uses.items() if file.use == "annotations" for content in _annotations(path)
    ]
    removed = [line for path, file in uses.items() if file.use == "remove" for line in path.read_text().split()]
    places = places_of(facts, annotations, removed)
    found: list[str] = []
    watch.unpack(facts.images)
    for path, file in uses.items():
        if file.use == "images":
            found += _lay_out(path, places, target, watch)
    _check_complete(facts, found)
    if facts.contents and _contents(found, target) != facts.contents:
        raise UserError(f"the images of {paths[0].name} are not those of {facts.name} as published")
    return found


def _annotations(path: Path) -> Iterator[bytes]:
    for member in members(path):
        if member.parts and member.parts[-1].endswith(".json") and not member.parts[-1].startswith("."):
            yield member.read()


def _lay_out(archive: Path, places: Places, target: Path, watch: Watcher) -> list[str]:
    keys = []
    for member in members(archive):
        first: Path | None = None
        for place in places(member.parts):
            path = target.joinpath(*place)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise UserError(f"{archive.name} has two files for {place.key}")
            if first is None:
                member.write(path)
                first = path
            else:
                shutil.copyfile(first, path)
            keys.append(place.key)
            watch.unpacked()
    return keys


def _check_complete(facts: Published, keys: list[str]) -> None:
    """Raise UserError where a domain or a class has no image."""
    pairs = {tuple(key.split("/")[:2]) for key in keys}
    missing = [f"the domain {name}" for name in facts.domains if not any(domain == name for domain, _ in pairs)]
    missing += [f"the class {name}" for name in class_names(facts) if not any(each == name for _, each in pairs)]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        files = ", ".join(file.name for file in facts.files if file.use == "images")
        raise UserError(f"{files}: no image of {', '.join(missing[:5])}{more}")


def _contents(keys: list[str], root: Path) -> str:
    ordered = sorted(keys)
    return digest_of(ordered, [hashlib.sha256((root / key).read_bytes()).hexdigest() for key in ordered])


def _differences(facts: Published, images: Counter[str] | dict[str, int]) -> Iterator[str]:
    for name, count in facts.domains.items():
        if count and images.get(name) != count:
            yield f"{name} has {images.get(name, 0):,} images, and {count:,} are published"
