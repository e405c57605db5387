"""Datasets of several domains: open a folder or a known name, and split it.

To add a source: a file of its own here that gives a ``listing.Source``, and its line in ``sources`` and ``SOURCES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from ..errors import UserError, check_type
from .dataset import Dataset, Split

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cache import ProgressCallback
    from .listing import Listing

__all__ = ["SOURCES", "Dataset", "Split", "list_dataset", "open_dataset"]

SOURCES = (
    "a folder domain/class/image, a table of images (CSV, JSON lines or Parquet), tar archives in WebDataset's layout, "
    "a dataset of Hugging Face's (saved, or hf:owner/name), the address of any of these (https://…, s3://…), or 'emoji'"
)
"""What ``open_dataset`` takes, for the command line's help."""


def open_dataset(
    source: str | Path | Any,
    *,
    bound: int = 320,
    columns: Mapping[str, str] | None = None,
    classes: str = "union",
    group_pattern: str | None = None,
    split: str | Path | None = None,
    folder: str | Path | None = None,
    skip_bad_images: bool = False,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
    note: Callable[[str], None] | None = None,
) -> Dataset:
    """Open a dataset by name, from a folder ``domain/class/image``, from a table of images or from a pandas DataFrame.

    Args:
        source: ``"emoji"``, the dataset that comes with the package, or a folder (``"./emoji"`` is one), or a table: a
            file of comma-separated values with a header (``.csv``, ``.tsv``), of JSON lines (``.jsonl``, ``.ndjson``)
            or Parquet (``.parquet``, which needs pyarrow), whose rows have a path, relative to the table, a label and,
            where there are several, a domain; or a DataFrame with such columns. A column ``group`` says what belongs
            together (``group_pattern`` is for names of files that say it), a column ``split`` what is trained on.
            Or tar archives in WebDataset's layout: one, a pattern such as ``shards-{000..009}.tar``, or a folder.
            Or a folder that Hugging Face's ``save_to_disk`` has written or that has a ``metadata.csv``, or
            ``hf:owner/name``. Or the address of any of these, such as ``https://host/images.csv``.
        bound: largest length of an image's shorter side, in pixels; longer ones are shrunk to it. ``emoji`` is not.
        columns: names of a table's columns for ``path``, ``label``, ``domain``, ``group`` and ``split`` where they are
            not these; an empty name for one of the last three has it not read.
        classes: where domains differ in their classes, ``union``: all of them, each domain scored on those it has; or
            ``common``: those that every domain has, and only their images. ``Dataset.notes`` says what differs.
        group_pattern: regular expression whose parentheses find the name of an image's group in the name of its file,
            or, where it has a ``/``, in its path below the class. A group (a burst, a video, a patient) is on one side
            of every i.i.d. split.
        split: table with the columns ``key`` (``Dataset.keys``) and ``split`` (``train``, ``validation`` or ``test``),
            such as a run's ``split.csv``, by which to split instead of by seed; see ``Dataset.split``.
        folder: where the relative paths of a DataFrame start; the current folder where None.
        skip_bad_images: skip images that cannot be decoded, instead of raising.
        cache: folder of the decoded images; where None, $LARGEDROP_CACHE, or else largedrop in ~/.cache.
        progress: called with (images done, images in total) while images are decoded, which happens once.
        note: called with a line where the cache has no room for all images, before they are decoded: those without room
            are decoded whenever they are used. The disk bounds it, and $LARGEDROP_CACHE_GB, in gigabytes.

    Raises:
        UserError: there is no such dataset, its layout is another, a row of a table is wrong, images cannot be
            decoded, or the cache cannot be written; the message lists all errors.
    """
    if isinstance(source, str) and not source:  # of a shell's variable that is not set; it would be the current folder
        raise UserError("the name of the images is empty")
    check_type(bound, int, "bound must be a whole number of pixels")
    check_type(columns, (Mapping, NoneType), "columns must be a mapping of names")
    for name, text in {"group_pattern": group_pattern, **(columns or {})}.items():
        check_type(text, str if name != "group_pattern" else (str, NoneType), f"{name} must be text")
    for name, path in {"split": split, "folder": folder, "cache": cache}.items():
        check_type(path, (str, Path, NoneType), f"{name} must be a path")
    # Imported late, since --help shows ``SOURCES`` and should not wait for decoders.
    from .emoji import load_emoji
    from .listing import open_listing
    from .remembered import Remembered

    remembered = None
    if isinstance(source, (str, Path)) and str(source) != "emoji" and not columns and folder is None and split is None:
        how = {"bound": bound, "classes": classes, "groups": group_pattern, "skip": skip_bad_images}
        remembered = Remembered(Path(source), cache, how)
        if (known := remembered.read()) is not None:
            return known

    listing = list_dataset(
        source,
        columns=columns,
        classes=classes,
        group_pattern=group_pattern,
        split=split,
        folder=folder,
        cache=cache,
        progress=progress,
    )
    if listing is None:
        return load_emoji()
    data = open_listing(
        listing, bound=bound, skip_bad_images=skip_bad_images, cache=cache, progress=progress, note=note
    )
    if remembered is not None:
        remembered.write(data, listing.paths)
    return data


def list_dataset(
    source: str | Path | Any,
    *,
    columns: Mapping[str, str] | None = None,
    classes: str = "union",
    group_pattern: str | None = None,
    split: str | Path | None = None,
    folder: str | Path | None = None,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Listing | None:
    """What ``open_dataset`` would open, by the same arguments; None for ``emoji``, whose images are no files."""
    from .classes import check_choice
    from .listing import make_listing
    from .sources import find_source

    check_choice(classes)
    if isinstance(source, str) and source == "emoji":
        if columns or folder or group_pattern is not None or split is not None:
            raise UserError("'emoji' has no columns and no folder, its groups are known, and it is split by seed")
        return None
    return make_listing(find_source(source, columns or {}, folder, cache, progress), classes, group_pattern, split)
