"""Datasets of several domains: open a folder or a known name, and split it."""

from __future__ import annotations

from pathlib import Path

from .cache import Progress
from .dataset import Dataset, Split
from .folder import open_folder

__all__ = ["Dataset", "Split", "open_dataset"]


def open_dataset(
    source: str | Path,
    *,
    bound: int = 320,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a dataset by name or from a folder ``domain/class/image``.

    Args:
        source: ``"emoji"``, the dataset that comes with the package, or a folder (``"./emoji"`` is one).
        bound: images whose shorter side is longer are shrunk to it, in pixels; ``emoji`` is kept as it is.
        skip_bad_images: leave out images that cannot be decoded, instead of raising.
        cache: folder of the decoded images; $LARGEDROP_CACHE, or else largedrop in ~/.cache, where None.
        progress: called with (images done, images in all) while images are decoded, which happens once.

    Raises:
        UserError: there is no such dataset, it is not laid out as expected, images cannot be decoded, or the cache
            cannot be written; all that is wrong is named at once.
    """
    if source == "emoji":
        from .emoji import load_emoji

        return load_emoji()
    return open_folder(source, bound=bound, skip_bad_images=skip_bad_images, cache=cache, progress=progress)
