"""What a folder of images was found to hold, so that it need not be read again while nothing in it has changed.

<cache>/opened/<key>.npz    all of a ``Dataset`` but the pixels, and the stamp of its folder

To compute a folder's stamp takes one look at each file, which for DomainNet's 586,575 images is two seconds of one
processor; to list and check them one by one takes twenty.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from .._version import __version__
from ..errors import UserError
from ..files import replacing
from ..paths import expanded
from .cache import CachedImages, Files
from .dataset import Dataset
from .digests import GRANULARITY
from .entries import chosen_folder
from .formats import suffixes
from .inside import Place

__all__ = ["Remembered", "stamp_of"]

_FORMAT = 1
"""Version of the files; what another version of the package made of a folder is not taken for this one's."""

_POSIX = os.name == "posix"
"""Whether a file's ``ctime`` is when it was changed, and not when it was made."""

_SEPARATOR = "\0"
"""Between keys; no file's name has it."""


class Remembered:
    """What is remembered of a folder, opened in one way.

    Args:
        root: the folder.
        cache: folder of the cache; ``cache_folder()`` where None.
        options: how it is opened, as JSON types.
    """

    def __init__(self, root: Path, cache: Path | None, options: Mapping[str, Any]) -> None:
        root = expanded(root).absolute()
        how = [_FORMAT, __version__, os.fsencode(root).hex(), dict(options), PIL.__version__, sorted(suffixes())]
        key = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:40]
        self._file = chosen_folder(cache) / "opened" / f"{key}.npz"
        self._root = str(root)
        self._stamp = stamp_of(root) if root.is_dir() else ""

    def read(self) -> Dataset | None:
        """The dataset, if the folder is as it was and its decoded images are there; else None."""
        if not self._stamp or not self._file.is_file():
            return None
        try:
            with open(self._file, "rb") as file, np.load(file, allow_pickle=False) as content:
                header = json.loads(content["header"].tobytes())
                if header["stamp"] != self._stamp:
                    return None
                found: dict[str, Any] = {
                    name: tuple(value) if isinstance(value, list) else value for name, value in header["plain"].items()
                }
                found |= {name: content[name].astype(np.int64) for name in header["arrays"]}
                found["keys"] = tuple(_texts(content, "keys"))
                files = _files(content, header["bits"]) if "places" in content else None
            return Dataset(images=CachedImages(Path(header["images"]), files), **found)
        except Exception:  # noqa: BLE001  # at damage numpy and zipfile raise anything; or the images are gone
            return None

    def write(self, data: Dataset, places: Sequence[Place]) -> None:
        """Remember the dataset that the folder was found to be; not being able to costs time only.

        Args:
            places: where the images are; nothing is remembered where some are not in the folder, as a table in it may
                have it, since the stamp says nothing of these.
        """
        if not self._stamp or not isinstance(data.images, CachedImages) or not all(map(self._holds, places)):
            return
        files = data.images.files if data.images.partial else None
        if files is not None and not all(isinstance(place, Path) for place in files.places):
            return
        parts = {each.name: getattr(data, each.name) for each in fields(data) if each.name not in ("images", "keys")}
        arrays: dict[str, Any] = {name: _small(part) for name, part in parts.items() if isinstance(part, np.ndarray)}
        header = {
            "stamp": self._stamp,
            "images": str(data.images.folder),
            "bits": files.bits if files else 16,
            "plain": {name: part for name, part in parts.items() if name not in arrays},
            "arrays": list(arrays),
        }
        texts = {"header": json.dumps(header), "keys": _SEPARATOR.join(data.keys)}
        if files is not None:
            texts |= {"places": _SEPARATOR.join(map(str, files.places)), "stamps": _SEPARATOR.join(files.stamps)}
        arrays |= {
            name: np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8) for name, text in texts.items()
        }
        with suppress(UserError), replacing(self._file) as path, open(path, "wb") as file:
            np.savez(file, **arrays)

    def _holds(self, place: Place) -> bool:
        path = str(place)
        return path.startswith(self._root + os.sep) and f"{os.sep}..{os.sep}" not in path


def _files(content: Mapping[str, Any], bits: int) -> Files:
    return Files(tuple(map(Path, _texts(content, "places"))), tuple(_texts(content, "stamps")), bits)


def _texts(content: Mapping[str, Any], name: str) -> list[str]:
    found: bytes = content[name].tobytes()
    return found.decode("utf-8", "surrogateescape").split(_SEPARATOR)


def stamp_of(root: Path) -> str:
    """A digest of the names, sizes, inodes and times of change of all that is in a folder, at any depth.

    Empty where some of it cannot be read, or has changed so recently that a further change could go unseen. Hidden
    files are ignored, as they are by ``folder.list_images``.
    """
    total, newest = hashlib.sha256(), 0
    folders, seen = [str(root)], set()
    try:
        while folders:
            folder = folders.pop()
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:  # a link leads back to it
                continue
            seen.add((status.st_dev, status.st_ino))
            lines, below = [], []
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    if entry.is_dir():
                        below.append(entry.path)
                        continue
                    status = entry.stat()
                    changed = status.st_ctime_ns if _POSIX else status.st_mtime_ns
                    lines.append(f"{name}\0{status.st_size} {status.st_ino} {status.st_mtime_ns} {changed}")
                    if changed > newest:
                        newest = changed
            lines.sort()
            below.sort(reverse=True)
            total.update("\n".join((folder, *below, *lines)).encode("utf-8", "surrogateescape"))
            folders += below
    except OSError:
        return ""
    return total.hexdigest() if time.time() - newest / 1e9 > GRANULARITY else ""


def _small(array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same numbers in the smallest type that holds them."""
    return array.astype(np.min_scalar_type(-int(array.max(initial=0)) - 1))
