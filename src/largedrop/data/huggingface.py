"""Datasets as Hugging Face stores them: saved on disk, by name, and folders of images with a table ``metadata``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json
from .classes import named
from .inside import Inside
from .listing import Source
from .parquet import as_arrow, image_columns
from .parts import is_part
from .rows import TABLES, Rows, columns_in, names_in, read_rows
from .table import Columns, list_rows

__all__ = ["HUB", "is_saved", "list_described", "list_hub", "list_parquet", "list_saved", "tables_of"]

HUB = "hf:"
"""What the name of a dataset on the hub begins with."""

_SAVED = "dataset_info.json"

_SEVERAL = "dataset_dict.json"

_LABELS = ("label", "labels")

_PARQUET = re.compile(r"(.+?)-\d+-of-\d+(-[0-9a-f]+)?")
"""The name of one of several files of a split, without its ending."""


def is_saved(folder: Path) -> bool:
    """Whether ``datasets`` has saved a dataset in a folder (``save_to_disk``)."""
    return (folder / _SEVERAL).is_file() or ((folder / _SAVED).is_file() and (folder / "state.json").is_file())


def list_saved(folder: Path, columns: Mapping[str, str]) -> Source:
    """List the images of a dataset that was saved by ``save_to_disk``, without reading them.

    Raises:
        UserError: pyarrow is missing, a file cannot be read, or a column is missing.
    """
    splits = _listed(folder / _SEVERAL, "splits") if (folder / _SEVERAL).is_file() else [""]
    files = {}
    for split in map(str, splits):
        state = folder / split / "state.json"
        if _listed(state, "_indices_data_files"):
            raise UserError(f"{state.parent} holds a selection of its rows: save what flatten_indices() gives")
        named_files = [
            each.get("filename") if isinstance(each, dict) else None for each in _listed(state, "_data_files")
        ]
        if not all(isinstance(each, str) for each in named_files):
            raise UserError(f"{state} is not as datasets writes it: a file has no name")
        files[split] = [state.parent / str(each) for each in named_files]
    return _list_arrow(folder, files, folder.name, columns)


def _listed(file: Path, name: str) -> list[Any]:
    """A list in a JSON file of ``datasets``; empty where it has none."""
    found = read_json(file).get(name) or []
    if not isinstance(found, list):
        raise UserError(f"{file} is not as datasets writes it: its '{name}' is no list")
    return found


def list_parquet(files: Sequence[Path], root: Path, columns: Mapping[str, str], cache: Path | None = None) -> Source:
    """List the images in Parquet files, which are copied into the cache where they are not there yet.

    Files called ``train-00000-of-00002.parquet`` belong to the split ``train``, others are one by themselves.

    Args:
        files: paths of the files.
        root: the file or the folder of the files, which gives the dataset its name.
        columns: that of ``table.list_table``.
        cache: folder of the cache; ``cache_folder()`` where None.

    Raises:
        UserError: a file cannot be read, a column is missing, or the cache cannot be written.
    """
    copies: dict[str, list[Path]] = {}
    sources: dict[Path, str] = {}
    for file in files:
        match = _PARQUET.fullmatch(file.stem)
        copy = as_arrow(file, cache)
        copies.setdefault(match[1] if match else file.stem, []).append(copy)
        sources[copy] = str(file)
    if len(copies) == 1:
        copies = {"": next(iter(copies.values()))}
    return _list_arrow(root, copies, root.stem if root.suffix else root.name, columns, files[0].parent, sources)


def list_hub(name: str, columns: Mapping[str, str]) -> Source:
    """List the images of a dataset on the hub, which is downloaded into Hugging Face's cache.

    Args:
        name: ``hf:owner/name``, or ``hf:owner/name/config`` where the dataset has several.
        columns: that of ``table.list_table``.

    Raises:
        UserError: datasets is missing, or the dataset cannot be loaded or has no images.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{name} is read by datasets: pip install datasets (or largedrop[huggingface])") from error
    owner, *rest = name.removeprefix(HUB).split("/")
    try:
        found = datasets.load_dataset("/".join([owner, *rest[:1]]), *rest[1:2])
    except Exception as error:  # the hub's client and builders raise anything
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{name} cannot be loaded: {told}") from error
    files = {str(split): [Path(each["filename"]) for each in data.cache_files] for split, data in found.items()}
    return _list_arrow(name, files, [owner, *rest][:2][-1], columns)


def _list_arrow(
    root: str | Path,
    files: Mapping[str, Sequence[Path]],
    name: str,
    columns: Mapping[str, str],
    folder: Path = Path(),
    sources: Mapping[Path, str] | None = None,
) -> Source:
    """The images in Arrow files, by split; paths of images that are not in them start at ``folder``.

    ``sources`` says what a file is a copy of, as messages name it.

    Splits that are called as parts of a split are (train, test, …) are one if there are several; others are domains.
    """
    parts = [split for split in files if is_part(split)]
    if parts and len(parts) < len(files):
        others = sorted(set(files) - set(parts))
        raise UserError(f"{root} has splits that are parts ({', '.join(parts)}) and others ({', '.join(others)})")
    column = ("split" if parts else "domain") if len(files) > 1 else ""
    tables = [(split, file, *_opened(file)) for split in files for file in files[split]]
    if not tables:
        raise UserError(f"{root} has no files")
    first = tables[0][2].schema
    header = list(dict.fromkeys([*first.names, *([column] if column else [])]))
    chosen = Columns(root, {**_usual(_features(tables[0][2]), first), **columns})
    names = {what: each for what, each in chosen(header).items() if each in first.names}
    copied = sources or {}
    for _, file, table, _ in tables:
        columns_in(copied.get(file, file), table.schema.names, names, "all files of a dataset need the same columns")
    rows = [
        (split, file, values)
        for split, file, table, base in tables
        for values in _values(root, file, table, base, names, _features(table))  # files may number classes differently
    ]
    images = [values["path"] for *_, values in rows]
    known = [image.name for image in images if isinstance(image, Inside) and image.name]
    numbered = len(set(known)) < len(rows)

    def each() -> Rows:
        for number, (split, _, values) in enumerate(rows):
            image = values["path"]
            if isinstance(image, Inside):
                called = f"{number:07d}" + (f"/{image.name}" if image.name else "") if numbered else image.name
                values["path"] = replace(image, name=called, source=copied.get(image.file, ""))
            yield f"row {number}" + (f" ({split})" if split else ""), {**({column: split} if column else {}), **values}

    found = list_rows(root, each(), folder, chosen, [], name)
    if column and not parts:
        used = "not used, as there is a column of domains" if column in names else "taken for domains"
        found = replace(found, notes=(*found.notes, f"the splits {named(list(files))} are {used}"))
    return found


def _usual(features: Mapping[str, Any], schema: Any) -> dict[str, str]:
    """Names of columns by the kinds of their values, where that is clear."""
    images = image_columns(schema, features)
    classes = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel" and name != "domain"]
    labels = [name for name in _LABELS if name in schema.names] or (classes if len(classes) == 1 else [])
    return {**({"path": images[0]} if len(images) == 1 else {}), **({"label": labels[0]} if labels else {})}


def _opened(file: Path) -> tuple[Any, int]:
    """An Arrow file's table, mapped into memory, and the address at which the file begins there."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{file} is read by pyarrow: pip install pyarrow (or largedrop[parquet])") from error
    try:
        mapped = pyarrow.memory_map(str(file))
        base = mapped.read_buffer().address
        mapped.seek(0)
        return pyarrow.ipc.open_stream(mapped).read_all(), base
    except (pyarrow.ArrowException, OSError) as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"{file} cannot be read as Arrow: {told}") from error


def _features(table: Any) -> dict[str, Any]:
    """What ``datasets`` says of each column."""
    try:
        found = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, RecursionError, LookupError, TypeError):  # written by something else
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, dict)} if isinstance(found, dict) else {}


def _values(
    root: str | Path, file: Path, table: Any, base: int, names: Mapping[str, str], features: Mapping[str, Any]
) -> Iterator[dict[str, object]]:
    """The values of each row by what they say; a path is where the image is in the file."""
    columns: dict[str, Sequence[object]] = {}
    for what, name in names.items():
        if what == "path":
            columns[what] = [image for chunk in table[name].chunks for image in _images(root, file, chunk, base, name)]
            continue
        classes = features.get(name, {}).get("names") or ()
        columns[what] = [_class_named(classes, value) if classes else value for value in table[name].to_pylist()]
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _class_named(classes: Sequence[str], value: object) -> object:
    """The class of a number; None for -1, which ``datasets`` writes where there is no label."""
    if value == -1:
        return None
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value


def _images(root: str | Path, file: Path, chunk: Any, base: int, name: str) -> Iterator[Inside | str | None]:
    """Where each image of a column is: in its Arrow file, or a path; None for neither."""
    import pyarrow

    if pyarrow.types.is_binary(chunk.type) or pyarrow.types.is_large_binary(chunk.type):
        stored, paths = chunk, [None] * len(chunk)
    elif pyarrow.types.is_struct(chunk.type) and {"bytes", "path"} <= {field.name for field in chunk.type}:
        stored, paths = chunk.field("bytes"), chunk.field("path").to_pylist()
    else:
        raise UserError(f"{root}: the column '{name}' has no images but {chunk.type}; --column path=NAME names another")
    _, offsets, data = stored.buffers()
    wide = pyarrow.types.is_large_binary(stored.type)
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)[stored.offset :][: len(stored) + 1].tolist()
    start = data.address - base if data is not None else 0
    for number, (path, there) in enumerate(zip(paths, stored.is_valid().to_pylist(), strict=True)):
        if there:
            inside = Path(path).name if path else ""
            yield Inside(file, inside, start + ends[number], ends[number + 1] - ends[number])
        else:
            yield path


def tables_of(folder: Path) -> dict[str, Path]:
    """The tables ``metadata`` that describe a folder's images, with a column ``file_name``, by the folder they are in.

    It is the folder itself (the name is empty), or each of its folders that is called as a part of a split is.
    """
    if own := _metadata(folder):
        return {"": own}
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and is_part(entry.name))
    return {entry.name: table for entry in inside if (table := _metadata(entry))}


def _metadata(folder: Path) -> Path | None:
    for suffix in TABLES:
        table = folder / f"metadata{suffix}"
        try:
            if table.is_file() and "file_name" in names_in(table):
                return table
        except UserError:  # a table that cannot be read is someone else's, and is counted with the other files
            continue
    return None


def list_described(folder: Path, tables: Mapping[str, Path], columns: Mapping[str, str]) -> Source:
    """List the images that the tables of ``tables_of`` describe; folders of several tables are parts of a split.

    Raises:
        UserError: a table cannot be read, or has no label.
    """
    chosen = Columns(" and ".join(str(table) for table in tables.values()), {"path": "file_name", **columns})
    problems: list[str] = []

    def rows() -> Rows:
        for part, table in tables.items():
            for place, values in read_rows(table, chosen, problems):
                path = values["path"]
                where = f"{part}/{path}" if part and isinstance(path, str) else path
                given = {"split": part} if len(tables) > 1 else {}
                yield f"{part} {place}".strip(), {**given, **values, "path": where}

    return list_rows(folder, rows(), folder, chosen, problems, folder.name)
