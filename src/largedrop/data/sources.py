"""Which kind of source a name, a path or an object is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..paths import expanded
from .cache import ProgressCallback
from .folder import list_images
from .formats import suffixes
from .huggingface import HUB, is_saved, list_described, list_hub, list_parquet, list_saved, tables_of
from .listing import Source
from .parquet import holds_images, parquets_in
from .remote import Store, folder_of, is_remote, named_in
from .shards import is_shards, list_shards, shards_in
from .table import TABLES, list_frame, list_table

__all__ = ["find_source"]


def find_source(
    source: str | Path | Any,
    columns: Mapping[str, str],
    folder: str | Path | None = None,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Source:
    """The images that a source lists.

    Args:
        source: that of ``open_dataset``.
        columns: that of ``open_dataset``.
        folder: that of ``open_dataset``.
        cache: that of ``open_dataset``, where what is elsewhere is fetched to.
        progress: called with (files done, files in total) while files are fetched.

    Raises:
        UserError: there is no such source, it cannot be read, or it has no columns and some are named.
    """
    store = Store(cache, progress)
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "columns"):
            kind = type(source).__name__
            raise UserError(f"images are opened from a path, an address or a data frame, not from a {kind}")
        return list_frame(source, folder, columns, store)
    if folder is not None:
        raise UserError(f"a folder is named for a data frame; the paths of {source} need none")
    if is_remote(str(source)):
        try:
            return _fetched(str(source), columns, store, cache)
        except UserError as error:  # in words of where it was asked for, not of where it was fetched to
            raise UserError(str(error).replace(str(store.local(str(source))), str(source))) from error
    if str(source).startswith(HUB):
        return list_hub(str(source), columns)
    path = expanded(source)
    is_folder = path.is_dir()
    if is_shards(path.name) and not is_folder:
        names = shards_in(str(path))
        return list_shards(source, _files(names), Path(names[0]).name.removesuffix(".tar"), columns)
    if str(source).lower().endswith(TABLES) and not is_folder:
        if holds_images(path, columns):
            return list_parquet([path.absolute()], path.absolute(), columns, cache)
        return list_table(path, columns, store)
    if is_folder and is_saved(path):
        return list_saved(path.absolute(), columns)
    if is_folder and (tables := tables_of(path.absolute())):
        return list_described(path.absolute(), tables, columns)
    if is_folder and (shards := _shards_of(path)):
        return _beside(list_shards(path, shards, path.absolute().resolve().name, columns), path, "tar archives")
    if is_folder and (files := parquets_in(path.absolute())):
        return _beside(list_parquet(files, path.absolute().resolve(), columns, cache), path, "Parquet files")
    if columns:
        raise UserError(f"columns are named for tables ({', '.join(TABLES)}, .tar), and {source} is none")
    return list_images(path)


def _fetched(source: str, columns: Mapping[str, str], store: Store, cache: Path | None) -> Source:
    """The images of a source that is elsewhere, which are fetched."""
    name = named_in(source)
    if is_shards(name):
        shards = shards_in(source)
        if len(files := store.fetch(shards)) < len(shards):
            raise UserError(f"{source}: {len(shards) - len(files)} of {len(shards)} archives are not there")
        return list_shards(source, files, named_in(shards[0]).removesuffix(".tar"), columns)
    note = ""
    if name.lower().endswith(TABLES):
        table = store.local(source)
        if not store.fetch([source]):
            raise UserError(f"there is no table {source}, or it cannot be fetched")
        if holds_images(table, columns):
            found = list_parquet([table], table, columns, cache)
        else:
            found = list_table(table, columns, store, folder_of(source))
    else:
        folder, note = store.fetch_folder(source)
        found = find_source(folder, columns, cache=cache)
    return replace(found, root=source, notes=(*found.notes, *([note] if note else [])))


def _files(names: list[str]) -> list[Path]:
    """Paths of archives; a UserError where some are not there."""
    if missing := [name for name in names if not Path(name).is_file()]:
        raise UserError(f"there is no file {missing[0]}" + (f", nor {len(missing) - 1} more" * (len(missing) > 1)))
    return [Path(name).absolute() for name in names]


def _shards_of(folder: Path) -> list[Path]:
    """The tar archives directly in a folder that has no folders."""
    inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() for entry in inside):
        return []
    return sorted(entry.absolute() for entry in inside if entry.suffix.lower() == ".tar")


def _beside(found: Source, folder: Path, read: str) -> Source:
    """The source, with a note of the images that lie in the folder beside what is read."""
    loose = sum(entry.suffix.lower() in suffixes() for entry in folder.iterdir())
    note = f"images of {folder} that lie beside its {read} are not read: {loose:,}"
    return replace(found, notes=(*found.notes, note)) if loose else found
