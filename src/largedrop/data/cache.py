"""Images decoded once into a memory-mapped uint8 file, named after a digest of the image files' contents.

<cache>/digests/<folder>.json      contents' digests by path, size, times and inode, so no file is read twice
<cache>/images/<key>/pixels.bin    the pixels of all images, one after the other
                     index.npy     (n, 3) int64: where each image starts, its height and its width
                     entry.json    format version, bound, and which images could not be decoded and why
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from ..errors import UserError
from ..files import read_json, write_json, write_text
from .ahead import in_order
from .bits import Wide, bits_of, may_be_wide, wide
from .entries import aside, cache_errors, cache_folder, install, sweep
from .images import BadImage, decode, opened, pillow_settings
from .inside import Place

__all__ = ["CachedImages", "Opened", "ProgressCallback", "digest_of", "open_images"]

ProgressCallback = Callable[[int, int], None]
"""Called with (images done, images in total) while images are decoded."""

_FORMAT = 1
"""Version of an entry's files and of ``decode``'s results; to be raised when either changes."""

_GRANULARITY = 2.0
"""Within this many seconds a file may change twice under one modification time (FAT's resolution is 2 s)."""


class CachedImages:
    """The decoded images of one cache entry: ``images[i]`` is a read-only uint8 array (height, width, 3), RGB.

    Attributes:
        bound: largest length of an image's shorter side, in pixels.
        bad: index among the files, and reason, of each file that cannot be decoded; the images are those of the other
            files, in order.
    """

    bound: int
    bad: tuple[tuple[int, str], ...]

    def __init__(self, folder: Path) -> None:
        """Open the entry in ``folder``.

        Raises:
            ValueError: the entry is damaged or has another format.
            OSError: the entry does not exist or cannot be read.
        """
        self._folder = folder
        pixels = folder / "pixels.bin"
        try:
            header = read_json(folder / "entry.json")
            self._index = np.load(folder / "index.npy", allow_pickle=False)
            self.bound = int(header["bound"])
            self.bad = tuple((int(index), str(reason)) for index, reason in header["bad"])
            count, size = int(header["images"]), int(header["bytes"])
            whole = header["format"] == _FORMAT and _consistent(self._index, count - len(self.bad), size)
            # What one version of Pillow cannot decode, another may: only verdicts of this version count.
            whole = whole and (not self.bad or header["pillow"] == PIL.__version__)
        except (UserError, KeyError, TypeError, EOFError) as error:
            raise ValueError(f"{folder} is not a cache entry") from error
        if not whole or pixels.stat().st_size != size:
            raise ValueError(f"{folder} is damaged")
        # An empty file cannot be mapped.
        mapped = np.memmap(pixels, np.uint8, "r") if size else np.empty(0, np.uint8)
        self._pixels: npt.NDArray[np.uint8] = mapped.view(np.ndarray)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        start, height, width = self._index[index].tolist()
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the same file rather than receive a copy of all pixels.
        return CachedImages, (self._folder,)


@dataclass(frozen=True)
class Opened:
    """What ``open_images`` found.

    Attributes:
        images: the images that could be decoded, in order.
        kept: index among the files of each image, ascending, (images,).
        digests: SHA-256 of each image's file, hexadecimal, (images,).
        skipped: ``key: reason`` of each image that was skipped.
        wide: what the values of the 16-bit images are, by index among the images.
    """

    images: CachedImages
    kept: tuple[int, ...]
    digests: tuple[str, ...]
    skipped: tuple[str, ...]
    wide: Mapping[int, Wide]


@dataclass(frozen=True)
class _File:
    """A file when its contents were digested: ``settled`` unless just modified, ``bad`` where they cannot be read, and
    ``wide`` where it is a 16-bit image.
    """

    path: Place
    stamp: str
    digest: str
    settled: bool
    bad: BadImage | None = None
    wide: Wide | None = None

    @property
    def line(self) -> str:
        """What is remembered of the file: its stamp, its digest, and of a 16-bit image what its values are."""
        return " ".join([self.stamp, ":".join(map(str, (self.digest, *map(int, self.wide or ()))))])


def open_images(
    keys: Sequence[str],
    paths: Sequence[Place],
    *,
    bound: int,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Opened:
    """Open image files from the cache, decoding them into it where it does not have them yet.

    Args:
        keys: machine-independent name of each image, (n,).
        paths: where each image is, (n,).
        bound: largest length of an image's shorter side, in pixels; longer ones are shrunk to it.
        skip_bad_images: skip images that cannot be decoded, instead of raising.
        cache: folder of the cache; ``cache_folder()`` where None.
        progress: called with (images done, n) while images are decoded.

    Raises:
        UserError: images cannot be decoded (the message lists them), the cache cannot be written, or a file changed
            while it was read.
    """
    if bound < 1:
        raise UserError(f"the bound on an image's shorter side must be at least 1 pixel, not {bound}")
    if not paths:
        raise UserError("there are no images to open")
    folder = (Path(cache).absolute() if cache is not None else cache_folder()).resolve()
    files = _digested([path.absolute() for path in paths], folder / "digests")
    bits = bits_of(file.wide for file in files if file.wide)
    first = f"largedrop images {_FORMAT} bound {bound}\n" + (f"bits {bits}\n" if bits < 16 else "")
    name = digest_of(keys, [file.digest for file in files], first)[:40]
    entry = folder / "images" / name
    try:
        images = CachedImages(entry)
    except (OSError, ValueError):  # there is none, or it is damaged
        images = _build(entry, files, bound, bits, progress)
    reasons = dict(images.bad)
    if reasons and not skip_bad_images:
        raise _bad_images([f"{files[index].path}: {reason}" for index, reason in images.bad], len(files))
    kept = tuple(index for index in range(len(files)) if index not in reasons)
    return Opened(
        images=images,
        kept=kept,
        digests=tuple(files[index].digest for index in kept),
        skipped=tuple(f"{keys[index]}: {reason}" for index, reason in images.bad),
        wide={at: found for at, index in enumerate(kept) if (found := files[index].wide)},
    )


def _bad_images(lines: list[str], count: int, most: int = 10) -> UserError:
    more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    first = f"{len(lines)} of {count} images cannot be decoded; --skip-bad-images (skip_bad_images=True) skips them"
    return UserError("\n  ".join([f"{first}:", *lines[:most], *more]))


def digest_of(keys: Sequence[str], digests: Sequence[str], first: str = "") -> str:
    """SHA-256, hexadecimal, of ``first``, and of every image's key and the digest of its file's contents."""
    total = hashlib.sha256(first.encode())
    for key, digest in zip(keys, digests, strict=True):
        total.update(f"{key}\0{digest}\n".encode())
    return total.hexdigest()


def _digested(paths: Sequence[Place], folder: Path) -> list[_File]:
    """Digest every file; only files that are new or have changed since the last call are read."""
    name = hashlib.sha256(os.path.commonpath([path.parent for path in paths]).encode("utf-8", "surrogateescape"))
    store = folder / f"{name.hexdigest()[:40]}.json"
    known = _remembered(store)
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with closing(in_order(partial(_digest_all, known), chunks)) as results:
        files = [file for chunk in results for file in chunk]
    found = {str(file.path): file.line for file in files if file.settled}
    if found != known:
        # A failure costs time only; if the images cannot be written either, that raises.
        with suppress(UserError):
            # JSON in ASCII: a path may contain bytes that are not UTF-8.
            write_text(store, json.dumps({"format": 1, "files": found}))
    return files


def _remembered(store: Path) -> dict[str, str]:
    try:
        content = read_json(store)
        known = content["files"] if content["format"] == 1 else {}
        return {str(path): str(line) for path, line in known.items()}
    except (UserError, KeyError, AttributeError):
        return {}


def _digest_all(known: dict[str, str], paths: Sequence[Place]) -> list[_File]:
    return [_digest(path, known.get(str(path), "")) for path in paths]


def _digest(path: Place, remembered: str) -> _File:
    """Digest one file's contents, or take the digest from ``remembered`` where its stamp is the same."""
    try:
        now = time.time()
        stamp, modified = _stamp(path)
        if remembered.startswith(f"{stamp} "):
            known, *values = remembered.rpartition(" ")[2].split(":")
            found = Wide(int(values[0]), values[1] == "1") if values else None
            return _File(path, stamp, known, settled=True, wide=found)
        digest = hashlib.sha256()
        start = b""
        with opened(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                start = start or block[:32]
        found = wide(path) if may_be_wide(start) else None
        return _File(path, stamp, digest.hexdigest(), settled=now - modified > _GRANULARITY, wide=found)
    except BadImage as error:
        bad = error
    except OSError as error:
        bad = BadImage(path, f"cannot be read: {error.strerror or error}")
    return _File(path, "", f"unreadable: {bad.reason}", settled=False, bad=bad)


def _stamp(path: Place) -> tuple[str, float]:
    status = path.stat()
    # A file may be replaced with its size and time kept, but not with its inode or its time of change.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}", status.st_mtime


def _consistent(index: Any, count: int, size: int) -> bool:
    """Whether ``index`` describes ``count`` images, one after the other, in ``size`` bytes."""
    if index.dtype != np.int64 or index.shape != (count, 3) or (index[:, 1:] < 1).any():
        return False
    sizes = index[:, 1] * index[:, 2] * 3
    return np.array_equal(index[:, 0], np.cumsum(sizes) - sizes) and int(sizes.sum()) == size


def _build(
    entry: Path, files: Sequence[_File], bound: int, bits: int, progress: ProgressCallback | None
) -> CachedImages:
    """Decode ``files`` into a temporary folder, which is then renamed to ``entry``."""
    temporary, writing = aside(entry), partial(cache_errors, "the image cache", entry.parent.parent)
    try:
        with writing():
            entry.parent.mkdir(parents=True, exist_ok=True)
            sweep(entry.parent)
            temporary.mkdir()
            pixels = open(temporary / "pixels.bin", "wb", buffering=0)  # noqa: SIM115  # closed just below
        with pixels:
            rows, bad, size = _decode_all(files, partial(_decode, bound, bits), pixels, writing, progress)
            with writing():
                os.fsync(pixels.fileno())
        with writing():
            with open(temporary / "index.npy", "wb") as index:
                np.save(index, np.array(rows, np.int64).reshape(-1, 3), allow_pickle=False)
                index.flush()
                os.fsync(index.fileno())
            header = {"format": _FORMAT, "bound": bound, "pillow": PIL.__version__}
            write_json(temporary / "entry.json", {**header, "images": len(files), "bytes": size, "bad": bad})
            return install(temporary, entry, CachedImages)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode_all(
    files: Sequence[_File],
    decoder: Callable[[_File], npt.NDArray[np.uint8] | BadImage],
    pixels: FileIO,
    writing: Callable[[], AbstractContextManager[None]],
    progress: ProgressCallback | None,
) -> tuple[list[tuple[int, int, int]], list[tuple[int, str]], int]:
    """Append the pixels of every image to a file; return the rows of the index, the bad images, and the bytes."""
    rows: list[tuple[int, int, int]] = []
    bad: list[tuple[int, str]] = []
    size = 0
    with pillow_settings(), closing(in_order(decoder, files)) as results:
        for index, image in enumerate(results):
            if isinstance(image, BadImage):
                bad.append((index, image.reason))
            else:
                with writing():
                    _append(pixels, image)
                rows.append((size, image.shape[0], image.shape[1]))
                size += image.nbytes
            if progress is not None:
                progress(index + 1, len(files))
    return rows, bad, size


def _decode(bound: int, bits: int, file: _File) -> npt.NDArray[np.uint8] | BadImage:
    if file.bad is not None:
        return file.bad
    try:
        image: npt.NDArray[np.uint8] | BadImage = decode(file.path, bound, **({"bits": bits} if bits < 16 else {}))
    except BadImage as error:
        image = error
    # An entry is named after the digested contents, so it must not contain others.
    try:
        same = _stamp(file.path)[0] == file.stamp
    except OSError:
        same = False
    if not same:
        raise UserError(f"{file.path} changed while it was being read; open the data again")
    return image


def _append(file: FileIO, image: npt.NDArray[np.uint8]) -> None:
    rest = image.reshape(-1).data
    while rest:  # a file without a buffer may take a part
        rest = rest[file.write(rest) :]
