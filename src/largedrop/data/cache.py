"""Images decoded once into a memory-mapped uint8 file, named after a digest of the image files' contents.

<cache>/images/<key>/pixels.bin    the pixels of all images, one after the other
                     index.npy     (n, 3) int64: where each image starts, its height and its width; where the cache has
                                   no room for all (<key>-part), those that start at -1 are decoded when they are used
                     checks.npy    (n,) uint32: CRC-32 of the pixels of each image that is in the cache
                     entry.json    format version, bound, which images could not be decoded and why, and checksums

The index is checked when an entry is opened, the pixels of an image when a process first reads them, so that nothing is
read for its checksum alone. An entry that turns out to be damaged is removed, and made again by the next opening.
"""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL

from ..errors import UserError
from ..files import read_bytes, read_json, write_bytes, write_stored
from .ahead import in_order
from .bits import Wide, bits_of
from .digests import File, digest_of, digested, stamp_of
from .entries import building, cache_errors, chosen_folder, discard, install
from .images import BadImage, decode, pillow_settings
from .inside import Place
from .room import room_for

if TYPE_CHECKING:
    from .dataset import Images

__all__ = ["CachedImages", "Files", "Opened", "ProgressCallback", "fetched", "open_images"]

ProgressCallback = Callable[[int, int], None]
"""Called with (images done, images in total) while images are decoded."""

_FORMAT = 1
"""Version of an entry's files and of ``decode``'s results; to be raised when either changes."""

ELSEWHERE = -1
"""Where an image starts that is not in the cache."""


class Files(NamedTuple):
    """The files of images: where each is, its stamp when it was opened, (images,), and the bits of 16-bit ones."""

    places: tuple[Place, ...] = ()
    stamps: tuple[str, ...] = ()
    bits: int = 16


class CachedImages:
    """The decoded images of one cache entry: ``images[i]`` is a uint8 array (height, width, 3), RGB.

    Attributes:
        folder: the folder of the entry.
        bound: largest length of an image's shorter side, in pixels.
        bad: index among the files, and reason, of each file that cannot be decoded; the images are those of the other
            files, in order.
    """

    bound: int
    bad: tuple[tuple[int, str], ...]

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        """Open the entry in ``folder``; one of before there were checksums is not checked.

        Args:
            files: files of the images, for an entry that has only some of them.

        Raises:
            ValueError: the entry is damaged or has another format, or it has only some images and there are no files.
            OSError: the entry does not exist or cannot be read.
        """
        self.folder, self.files = folder, files
        pixels = folder / "pixels.bin"
        try:
            header = read_json(folder / "entry.json")
            index = read_bytes(folder / "index.npy")
            checks = read_bytes(folder / "checks.npy") if "check" in header else None
            if checks is not None and (header["entry"], header["check"]) != (folder.name, _check(index, checks)):
                raise ValueError(f"{folder} is damaged")
            self._index = _array(index)
            self._checks = None if checks is None else _array(checks)
            self.bound = int(header["bound"])
            self.bad = tuple((int(index), str(reason)) for index, reason in header["bad"])
            count, size = int(header["images"]), int(header["bytes"])
            whole = header["format"] == _FORMAT and _consistent(self._index, count - len(self.bad), size)
            # What one version of Pillow cannot decode, another may: only verdicts of this version count.
            whole = whole and (not self.bad or header["pillow"] == PIL.__version__)
        except (UserError, KeyError, TypeError, EOFError, MemoryError) as error:
            raise ValueError(f"{folder} is not a cache entry") from error
        if not whole or pixels.stat().st_size != size or (self.partial and files is None):
            raise ValueError(f"{folder} is damaged")
        # An empty file cannot be mapped.
        mapped = np.memmap(pixels, np.uint8, "r") if size else np.empty(0, np.uint8)
        self._pixels: npt.NDArray[np.uint8] = mapped.view(np.ndarray)
        # Whether the pixels of each image are known to be those that were written.
        self._known = np.full(len(self._index), self._checks is None)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        """The pixels of an image.

        Raises:
            UserError: they are not those that were written, and the entry is removed, so that it is made again; or the
                image is not in the cache, and its file has changed since it was opened.
        """
        start, height, width = self._index[index].tolist()
        if start < 0:
            return self._decoded(index, (height, width, 3))
        pixels = self._pixels[start : start + height * width * 3]
        if not self._known[index]:
            if self._checks is not None and zlib.crc32(pixels.data) != self._checks[index]:
                with cache_errors("anew what is damaged", self.folder):
                    discard(self.folder)
                raise UserError(f"the image cache {self.folder} was damaged; it is removed, and made again next time")
            self._known[index] = True
        return pixels.reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the same file rather than receive a copy of all pixels.
        return CachedImages, (self.folder, self.files)

    @property
    def partial(self) -> bool:
        """Whether some images are not in the cache."""
        return bool(len(self._index)) and int(self._index[:, 0].min()) < 0

    @property
    def share(self) -> float:
        """Share of the images that are in the cache."""
        return float((self._index[:, 0] >= 0).mean()) if len(self._index) else 1.0

    def _decoded(self, index: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        """An image that is not in the cache.

        Raises:
            UserError: its file has changed since it was opened.
        """
        assert self.files is not None
        place = self.files.places[index]
        try:
            image = _pixels_of(place, self.bound, self.files.bits)
            same = image.shape == shape and stamp_of(place)[0] == self.files.stamps[index]
        except (BadImage, OSError):
            same = False
        if not same:
            raise UserError(f"{place} has changed since the data were opened")
        return image


def fetched(images: Images, indices: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
    """The images of a batch; those that are not in the cache are decoded by threads."""
    if isinstance(images, CachedImages) and images.partial:
        with pillow_settings(), closing(in_order(images.__getitem__, indices.tolist())) as found:
            return list(found)
    return [images[index] for index in indices.tolist()]


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


def open_images(
    keys: Sequence[str],
    paths: Sequence[Place],
    *,
    bound: int,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
    note: Callable[[str], None] | None = None,
) -> Opened:
    """Open image files from the cache, decoding them into it where it does not have them yet.

    Args:
        keys: machine-independent name of each image, (n,).
        paths: where each image is, (n,).
        bound: largest length of an image's shorter side, in pixels; longer ones are shrunk to it.
        skip_bad_images: skip images that cannot be decoded, instead of raising.
        cache: folder of the cache; ``cache_folder()`` where None.
        progress: called with (images done, n) while images are decoded.
        note: called with a line where the cache has no room for all images, before they are decoded; the others are
            decoded whenever they are used.

    Raises:
        UserError: images cannot be decoded (the message lists them), the cache cannot be written, or a file changed
            while it was read.
    """
    if bound < 1:
        raise UserError(f"the bound on an image's shorter side must be at least 1 pixel, not {bound}")
    if not paths:
        raise UserError("there are no images to open")
    folder = chosen_folder(cache)
    files = digested([path.absolute() for path in paths], folder / "digests")
    bits = bits_of(file.wide for file in files if file.wide)
    first = f"largedrop images {_FORMAT} bound {bound}\n" + (f"bits {bits}\n" if bits < 16 else "")
    name = digest_of(keys, [file.digest for file in files], first)[:40]
    entry = folder / "images" / name
    try:
        images = CachedImages(entry)
    except (OSError, ValueError):  # there is none, or it is damaged
        images = _part_or_all(entry, files, bound, bits, progress, note)
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


def _consistent(index: Any, count: int, size: int) -> bool:
    """Whether ``index`` describes ``count`` images, those that are there one after the other, in ``size`` bytes."""
    if index.dtype != np.int64 or index.shape != (count, 3) or (index[:, 1:] < 1).any():
        return False
    there = index[index[:, 0] != ELSEWHERE]
    sizes = there[:, 1] * there[:, 2] * 3
    return np.array_equal(there[:, 0], np.cumsum(sizes) - sizes) and int(sizes.sum()) == size


def _part_or_all(
    entry: Path,
    files: Sequence[File],
    bound: int,
    bits: int,
    progress: ProgressCallback | None,
    note: Callable[[str], None] | None,
) -> CachedImages:
    """Decode the images, or open those that an earlier call has decoded because there was no room for all."""
    part = entry.with_name(f"{entry.name}-part")
    found = room_for([file.path for file in files if file.bad is None], bound, entry.parent, part.name)
    if found.share >= 1:
        images = _build(entry, files, bound, bits, progress, 1.0)
        shutil.rmtree(part, ignore_errors=True)
        return images
    if note is not None:
        note(found.text)
    with suppress(OSError, ValueError):
        bad = {index for index, _ in CachedImages(part, Files()).bad}
        return CachedImages(part, _files(files, bad, bits))
    return _build(part, files, bound, bits, progress, found.share)


def _files(files: Sequence[File], bad: Collection[int], bits: int) -> Files:
    kept = [file for index, file in enumerate(files) if index not in bad]
    return Files(tuple(file.path for file in kept), tuple(file.stamp for file in kept), bits)


def _build(
    entry: Path, files: Sequence[File], bound: int, bits: int, progress: ProgressCallback | None, share: float
) -> CachedImages:
    """Decode ``files``, and a share of them into a temporary folder, which is then renamed to ``entry``."""
    writing, decoder = partial(cache_errors, "the image cache", entry.parent.parent), partial(_decode, bound, bits)
    with ExitStack() as held:
        with writing():
            temporary = held.enter_context(building(entry))
            pixels = open(temporary / "pixels.bin", "wb", buffering=0)  # noqa: SIM115  # closed just below
        with pixels:
            rows, checks, bad, size = _decode_all(files, decoder, share, pixels, writing, progress)
            with writing():
                os.fsync(pixels.fileno())
        with writing():
            parts = _npy(np.array(rows, np.int64).reshape(-1, 3)), _npy(np.array(checks, np.uint32))
            for name, content in zip(("index.npy", "checks.npy"), parts, strict=True):
                write_bytes(temporary / name, content)
            header = {"format": _FORMAT, "bound": bound, "pillow": PIL.__version__}
            known = {"entry": entry.name, "check": _check(*parts)}
            found = {"images": len(files), "bytes": size, "bad": bad}
            write_stored(temporary / "entry.json", {**header, **found, **known})
            kept = _files(files, {index for index, _ in bad}, bits)
            return install(temporary, entry, partial(CachedImages, files=kept))


def _npy(values: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    return content.getvalue()


def _array(content: bytes) -> npt.NDArray[Any]:
    """What ``_npy`` gave; ValueError where it is damaged."""
    try:
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except Exception as error:  # numpy evaluates the header as Python, which raises anything
        raise ValueError("this is no array") from error


def _check(index: bytes, checks: bytes) -> int:
    return zlib.crc32(checks, zlib.crc32(index))


def _decode_all(
    files: Sequence[File],
    decoder: Callable[[File], npt.NDArray[np.uint8] | BadImage],
    share: float,
    pixels: FileIO,
    writing: Callable[[], AbstractContextManager[None]],
    progress: ProgressCallback | None,
) -> tuple[list[tuple[int, int, int]], list[int], list[tuple[int, str]], int]:
    """Append the pixels of a share of the images to a file; return rows of the index, CRC-32s, bad images, and bytes.

    The share is spread evenly, so that the batches of every domain cost the same.
    """
    rows: list[tuple[int, int, int]] = []
    checks: list[int] = []
    bad: list[tuple[int, str]] = []
    size = 0
    with pillow_settings(), closing(in_order(decoder, files)) as results:
        for index, image in enumerate(results):
            if isinstance(image, BadImage):
                bad.append((index, image.reason))
            elif int((index + 1) * share) == int(index * share):
                rows.append((ELSEWHERE, image.shape[0], image.shape[1]))
                checks.append(0)
            else:
                with writing():
                    _append(pixels, image)
                rows.append((size, image.shape[0], image.shape[1]))
                checks.append(zlib.crc32(np.ascontiguousarray(image).data))
                size += image.nbytes
            if progress is not None:
                progress(index + 1, len(files))
    return rows, checks, bad, size


def _decode(bound: int, bits: int, file: File) -> npt.NDArray[np.uint8] | BadImage:
    if file.bad is not None:
        return file.bad
    try:
        image: npt.NDArray[np.uint8] | BadImage = _pixels_of(file.path, bound, bits)
    except BadImage as error:
        image = error
    # An entry is named after the digested contents, so it must not contain others.
    try:
        same = stamp_of(file.path)[0] == file.stamp
    except OSError:
        same = False
    if not same:
        raise UserError(f"{file.path} changed while it was being read; open the data again")
    return image


def _pixels_of(place: Place, bound: int, bits: int) -> npt.NDArray[np.uint8]:
    return decode(place, bound, **({"bits": bits} if bits < 16 else {}))


def _append(file: FileIO, image: npt.NDArray[np.uint8]) -> None:
    rest = image.reshape(-1).data
    while rest:  # a file without a buffer may take a part
        rest = rest[file.write(rest) :]
