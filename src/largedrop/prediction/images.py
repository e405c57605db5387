"""Which images: files, folders and patterns become one list of paths."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from ..data.folder import images_below
from ..data.passed_over import PassedOver
from ..errors import UserError

__all__ = ["find_images"]


def find_images(sources: Iterable[str | Path], passed: PassedOver | None = None) -> list[str]:
    """The paths of images, each once, in the order of their sources.

    A file is taken whatever its name is; of a folder, those files in it and in the folders inside it that have an
    image's suffix and are not hidden, sorted by name. A pattern (``photos/*.jpg``, ``photos/**/front``) stands for what
    a shell would make of it, and need not be expanded by one.

    Args:
        sources: paths of files and folders, and patterns.
        passed: receives what is passed over in folders.

    Raises:
        UserError: a source does not exist or cannot be read, or there is no image in it.
    """
    found: dict[str, None] = {}
    passed = PassedOver() if passed is None else passed
    for source in sources:
        inside = [path for match in _matching(str(source)) for path in _images(match, passed)]
        if not inside:
            reason = passed.unopened or "no file with an image's suffix, such as .jpg or .png"
            raise UserError(f"there is no image in {source}: {reason}")
        found.update(dict.fromkeys(inside))
    if not found:
        raise UserError("no images are named")
    return list(found)


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


def _images(path: str, passed: PassedOver) -> list[str]:
    return [str(image) for image in images_below(Path(path), passed)] if Path(path).is_dir() else [path]
