"""Parquet files that hold the images themselves: each is copied once into the cache as Arrow, and read there.

Parquet is compressed, so no image in it can be found without decoding what lies around it; in Arrow it can.

<cache>/arrow/<path>-<stamp>.arrow    the copy; one of the file's earlier content is removed
<cache>/arrow/<path>-<stamp>.json     its checksum, and its stamp when that was last compared
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import file_crc, read_json, remove_leftovers, replacing, write_stored
from .digests import stamp_of
from .entries import cache_errors, chosen_folder

__all__ = ["as_arrow", "holds_images", "image_columns", "parquets_in"]

_BYTES = ("binary", "large_binary", "binary_view")

_ROWS = 64
"""Rows that are in memory at a time."""


def image_columns(schema: Any, features: Mapping[str, Any]) -> list[str]:
    """Names of the columns of images: by what ``datasets`` says of them, or structs of ``bytes`` and ``path``."""
    import pyarrow

    found = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    structs = [field for field in schema if pyarrow.types.is_struct(field.type)]
    return found or [field.name for field in structs if {"bytes", "path"} <= {each.name for each in field.type}]


def holds_images(file: Path, columns: Mapping[str, str]) -> bool:
    """Whether a file is Parquet in which the column of paths is one of images.

    Args:
        file: any file.
        columns: that of ``table.list_table``; without a name for the path, a column of images is one.
    """
    if file.suffix.lower() != ".parquet":
        return False
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:  # said by whoever reads it as a table, like the next
        return False
    try:
        schema = parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException):
        return False
    name = columns.get("path", "").strip()
    if not name:
        return bool(image_columns(schema, {}))
    kinds = [field.type for field in schema if field.name == name]
    return any(pyarrow.types.is_struct(kind) or str(kind) in _BYTES for kind in kinds)


def parquets_in(folder: Path) -> list[Path]:
    """The Parquet files with images directly in a folder without folders, or in its only one, which is called data."""
    inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    folders = [entry for entry in inside if entry.is_dir()]
    if [entry.name for entry in folders] == ["data"]:
        return parquets_in(folders[0])
    files = sorted(entry.absolute() for entry in inside if entry.suffix.lower() == ".parquet")
    return files if not folders and files and all(holds_images(file, {}) for file in files) else []


def as_arrow(file: Path, cache: Path | None) -> Path:
    """The copy of a Parquet file in the cache, as a stream of Arrow; made where it is not there yet, or is damaged.

    It is compared with its checksum where its stamp is not that of the last time.

    Raises:
        UserError: the file cannot be read, or the cache cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    folder = chosen_folder(cache) / "arrow"
    own = hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:40]
    stamp = hashlib.sha256(stamp_of(file)[0].encode()).hexdigest()[:12]
    copy = folder / f"{own}-{stamp}.arrow"
    if _is_intact(copy):
        return copy
    found = parquet.read_schema(file)
    schema = pyarrow.schema(map(_addressable, found), found.metadata)
    with cache_errors("a copy of Parquet's images", folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        for earlier in folder.glob(f"{own}-*"):
            earlier.unlink(missing_ok=True)
        with (
            replacing(copy) as path,
            pyarrow.OSFile(str(path), "wb") as out,
            pyarrow.ipc.new_stream(out, schema) as stream,
        ):
            for batch in _batches(file):
                stream.write_batch(batch.cast(schema))
        _remember(copy, file_crc(copy))
    return copy


def _is_intact(copy: Path) -> bool:
    """Whether a copy is there, with the content that was written."""
    try:
        known, stamp = read_json(copy.with_suffix(".json")), stamp_of(copy)[0]
        if known.get("stamp") != stamp:
            if known.get("crc32") != file_crc(copy):
                return False
            with suppress(UserError):  # the cache may be read-only: it is compared again then
                _remember(copy, known["crc32"])
    except (UserError, OSError):
        return False
    return True


def _remember(copy: Path, crc: str) -> None:
    write_stored(copy.with_suffix(".json"), {"crc32": crc, "stamp": stamp_of(copy)[0]})


def _batches(file: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        yield from parquet.ParquetFile(file, memory_map=True).iter_batches(_ROWS)
    except (pyarrow.ArrowException, OSError) as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"{file} cannot be read as Parquet: {told}") from None


def _addressable(field: Any) -> Any:
    """A column in whose buffers a value is one stretch of bytes: views, which some writers use, are not."""
    import pyarrow

    types = pyarrow.types
    if types.is_struct(field.type):
        return field.with_type(pyarrow.struct(map(_addressable, field.type)))
    if types.is_binary_view(field.type):
        return field.with_type(pyarrow.large_binary())
    return field.with_type(pyarrow.large_string()) if types.is_string_view(field.type) else field
