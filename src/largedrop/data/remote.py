"""Files in any file system that fsspec reaches (https, s3, …): fetched once into the cache, and read there.

<cache>/remote/https/host/folder/image.jpg      a file, under its address
                                 .stamps.json   by which a file that has changed is noticed, for those fetched together
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from ..errors import UserError
from ..files import read_json, write_text
from .cache import ProgressCallback
from .entries import aside, cache_errors, cache_folder
from .formats import suffixes
from .rows import TABLES

__all__ = ["Store", "address", "folder_of", "is_remote", "named_in"]

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_AT_ONCE = 16
"""Files that are fetched at the same time."""

_STAMPS = ".stamps.json"

_VALIDATORS = (
    "size",
    "ETag",
    "etag",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)
"""What file systems say of a file that changes when it does."""

_WANTED = (*TABLES, ".tar", ".arrow", ".json")


def is_remote(source: str) -> bool:
    """Whether a source is an address, such as ``https://host/images.csv``."""
    return _ADDRESS.match(source) is not None


def named_in(url: str) -> str:
    """The last part of an address, without what may follow a ``?``."""
    return _path(url).rstrip("/").rpartition("/")[2]


def folder_of(url: str) -> str:
    """The address of the folder in which a file is, with the ``/`` at its end."""
    return _path(url).rstrip("/").rpartition("/")[0] + "/"


def address(folder: str, path: str) -> str:
    """The address of a file by its path from a folder's."""
    return folder + (quote(path) if folder.lower().startswith("http") else path)


class Store:
    """Fetches files into the cache, each once until it changes.

    Args:
        cache: folder of the cache; ``cache_folder()`` where None.
        progress: called with (files done, files in total) while files are fetched.
    """

    def __init__(self, cache: Path | None = None, progress: ProgressCallback | None = None) -> None:
        self.folder = (Path(cache).absolute() if cache is not None else cache_folder()).resolve() / "remote"
        self.progress = progress

    def local(self, url: str) -> Path:
        """Where the file at an address is, or would be, in the cache.

        What follows a ``?`` is part of its name only where the name before it is not one of a file (``get?id=7``):
        else it may be a signature, which is another one each time.

        Raises:
            UserError: the address leaves its host.
        """
        scheme, _, rest = _path(url).partition("://")
        path = posixpath.normpath(unquote(rest) if scheme.lower().startswith("http") else rest)
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or "\0" in path:
            raise UserError(f"{url} is no address of a file")
        if (query := url[len(_path(url)) :]) and PurePosixPath(path).suffix.lower() not in {*suffixes(), *_WANTED}:
            parts = (*parts[:-1], f"{parts[-1]}-{hashlib.sha256(query.encode()).hexdigest()[:16]}")
        return self.folder.joinpath(scheme.lower(), *(part.replace(":", "_") for part in parts if part != "/"))

    def fetch(self, urls: Sequence[str]) -> list[Path]:
        """Fetch files that are new or have changed, and return where they are; one that is not there is left out.

        Raises:
            UserError: fsspec or what it needs is missing, a file cannot be fetched, or the cache cannot be written; or
                addresses differ in what follows a ``?`` alone and would be one file.
        """
        found = []
        places: dict[Path, str] = {}
        for url in urls:
            first = places.setdefault(self.local(url), url)
            if first != url and _path(first) == _path(url):
                raise UserError(
                    f"{first} and {url} would be one file in the cache: fetch them under names of their own"
                )
        for base in dict.fromkeys(map(folder_of, urls)):
            system, _ = _system(base)
            found += self._fetch(system, {url: None for url in urls if folder_of(url) == base})
        return found

    def fetch_folder(self, url: str) -> tuple[Path, str]:
        """Fetch what may belong to a dataset in a folder and below, and return where it is and a line about the rest.

        Files that are no longer there are removed from the cache.

        Raises:
            UserError: there is nothing, or as for ``fetch``.
        """
        system, path = _system(url)
        base = url.rstrip("/") + "/"
        try:
            listed = system.find(path, detail=True)
        except Exception as error:  # file systems raise anything
            raise _failed(url, error) from error
        start = path.rstrip("/") + "/"
        inside = {name.removeprefix(start).removeprefix("/"): info for name, info in listed.items()}
        kept, others = {}, Counter[str]()
        for name, info in inside.items():
            suffix = PurePosixPath(_path(name)).suffix.lower()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if suffix in suffixes() or suffix in _WANTED:
                kept[base + name] = info if info.get("size") is not None else None
            else:
                others[suffix or "without an ending"] += 1
        if not kept:
            raise UserError(f"there are no images at {url}")
        there = set(self._fetch(system, kept))
        folder = self.local(base)
        for parent, _, files in os.walk(folder):
            for file in files:
                if file != _STAMPS and Path(parent, file) not in there:
                    Path(parent, file).unlink()
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
        return folder, f"not fetched: {told}" if told else ""

    def _fetch(self, system: Any, urls: Mapping[str, Mapping[str, Any] | None]) -> list[Path]:
        """Fetch files, with what is known of each, and remember their stamps beside the first."""
        store = self.local(next(iter(urls))).parent / _STAMPS
        stamps = _remembered(store)
        before = dict(stamps)

        def one(item: tuple[str, Mapping[str, Any] | None]) -> Path | None:
            url, info = item
            path = self.local(url)
            try:
                stamp = _stamp(info or system.info(url))
                if stamps.get(url) != stamp or not path.is_file():
                    self._get(system, url, path)
                    stamps[url] = stamp
            except FileNotFoundError:
                stamps.pop(url, None)
                path.unlink(missing_ok=True)
                return None
            except UserError:
                raise
            except Exception as error:  # file systems raise anything
                raise _failed(url, error) from error
            return path

        found = []
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="largedrop-fetch")
        try:
            for number, path in enumerate(pool.map(one, urls.items()), 1):
                found += [] if path is None else [path]
                if self.progress is not None:
                    self.progress(number, len(urls))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if stamps != before:
                with suppress(UserError):  # costs time only: the files are fetched again
                    write_text(store, json.dumps({"format": 1, "stamps": stamps}))
        return found

    def _get(self, system: Any, url: str, path: Path) -> None:
        """Fetch one file, which is whole or not there."""
        with cache_errors("what was fetched", self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = aside(path)
        try:
            system.get_file(url, str(temporary))
            with cache_errors("what was fetched", self.folder):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _path(url: str) -> str:
    """An address without what follows a ``?``, where that is no part of a name."""
    return url.partition("?")[0] if url.lower().startswith("http") else url


def _system(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UserError(f"{url} is read by fsspec: pip install fsspec (or largedrop[remote])") from error
    try:
        system, path = url_to_fs(url)
    except ImportError as error:  # says what to install
        hint = " (or largedrop[remote])" if url.lower().startswith("http") else ""
        raise UserError(f"{url} cannot be read: {_told(error)}{hint}") from error
    except Exception as error:  # file systems raise anything, also when they are made
        raise UserError(f"{url} cannot be read: {_told(error)}") from error
    return system, str(path)


def _stamp(info: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={info[name]}" for name in _VALIDATORS if info.get(name) is not None)


def _remembered(store: Path) -> dict[str, str]:
    try:
        content = read_json(store)
        return {str(url): str(stamp) for url, stamp in content["stamps"].items()} if content["format"] == 1 else {}
    except (UserError, KeyError, AttributeError):
        return {}


def _failed(url: str, error: Exception) -> UserError:
    return UserError(f"{url} cannot be fetched: {_told(error)}")


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__
