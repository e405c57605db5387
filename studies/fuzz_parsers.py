"""The parsers of bytes from outside that studies/fuzz.py gives changed inputs, with inputs to begin with."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from largedrop.catalog.archives import members
from largedrop.cli import settings_file
from largedrop.config import PROTOCOL, make_config
from largedrop.data import cache, digests, headers, remembered
from largedrop.data.images import decode
from largedrop.data.parts import read_split
from largedrop.data.shards import list_shards
from largedrop.data.table import list_table
from largedrop.experiments.preset import read_preset
from largedrop.export.card import card_of
from largedrop.files import read_json
from largedrop.models.network import Spec
from largedrop.runs.checkpoint import load_model, open_tensors, write_tensors
from largedrop.runs.folder import owned
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run


@dataclass(frozen=True)
class Parser:
    """What reads a file: its name there, the function, whether it is the cache's, and inputs to begin with."""

    file: str
    read: Callable[[Path], object]
    rebuilt: bool
    seeds: tuple[bytes, ...]


def image(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small image file."""
    pixels = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    pixels = pixels.convert("L" if mode == "I;16" else "RGB").convert(mode)  # Pillow before 10.3 has no other way there
    file = io.BytesIO()
    pixels.save(file, form, **options)
    return file.getvalue()


def tar(names: dict[str, bytes], mode: Any = "w", form: int = tarfile.PAX_FORMAT, last: bytes = b"0") -> bytes:
    """A tar archive, whose last member is of the kind ``last``."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, format=form) as archive:
        for name, data in names.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(data), last if name == [*names][-1] else b"0"
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def zipped(names: dict[str, bytes]) -> bytes:
    """A zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return content.getvalue()


def parquet() -> bytes:
    """A table in Parquet."""
    import pyarrow
    from pyarrow import parquet as files

    content = io.BytesIO()
    files.write_table(pyarrow.table({"path": ["a.png"], "label": ["x"], "domain": ["ink"]}), content)
    return content.getvalue()


def tensors(home: Path, kind: str, header: dict[str, Any]) -> tuple[bytes, ...]:
    """A file of tensors, and one of before there were checksums."""
    path = home / "seed.safetensors"
    write_tensors(path, {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.int64)}, kind, header)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    own = json.loads(content[8 : 8 + size])
    about = json.loads(own["__metadata__"]["largedrop"])
    del about["crc32"]
    own["__metadata__"]["largedrop"] = json.dumps({**about, "version": 1})
    first = json.dumps(own).encode()
    return content, len(first).to_bytes(8, "little") + first + content[8 + size :]


def settings(path: Path) -> None:
    """The options in a TOML file."""
    options = [
        SimpleNamespace(name=name, is_flag=name == "plain", multiple=name == "column") for name in ("lr", "plain")
    ]
    context: Any = SimpleNamespace(command=SimpleNamespace(params=options), info_name="train", default_map=None)
    settings_file.read_settings(context, path)


def archive(path: Path) -> None:
    """The members of an archive, read."""
    for member in members(path):
        member.read()


def run(path: Path) -> None:
    """A run, opened alone and among others."""
    read_runs(path.parent)
    Run.open(path.parent)


def resumed(path: Path) -> None:
    """The tensors of a state."""
    open_tensors(path, "state").load()


def claimed(path: Path) -> None:
    """What says whose a folder is."""
    owned(path.parent, path.name, "sweep", {"a": 1})


def entry(path: Path) -> None:
    """An entry of the image cache without checksums, whose pixels are all there."""
    found = cache.CachedImages(path.parent)
    for index in range(len(found)):
        found[index]


def parsers(home: Path) -> dict[str, Parser]:
    """Every parser, with what its file needs beside it in the folder of its name in ``home``."""
    config = make_config("paper", data="toy", fingerprint="f00d" * 16, lr=1e-3, weight_decay=0.0, test_domain="ink")
    line = {"step": 300, "iid_accuracy": 0.5, "ood_accuracy": 0.5, "iid_by_domain": {"oil": 0.5}, "train_loss": 0.1}
    scores = {"iid_accuracy": 0.5, "ood_accuracy": 0.5, "steps": config.steps, "seconds": 1.0}
    methods = {"fine-tuning": scores, "ensemble": scores}
    result = {"largedrop": "0.1.0", "methods": methods, "best_step": 300, "log": [line], "model": "best.safetensors"}
    written = json.dumps({"protocol": PROTOCOL, **config.to_json()}).encode()
    stored = json.dumps(result).encode()
    spec = Spec("test_efficientnet", "random", ("a", "b"), 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.5)
    index, pixels = io.BytesIO(), np.zeros(12, np.uint8)
    np.save(index, np.array([[0, 2, 2]], np.int64))
    head = {"format": cache._FORMAT, "bound": 8, "pillow": "0", "images": 1, "bytes": 12, "bad": []}
    opened = io.BytesIO()
    known = json.dumps({"stamp": "", "images": "x", "bits": 16, "plain": {"name": "x"}, "arrays": ["labels"]})
    np.savez_compressed(
        opened, labels=np.zeros(2, np.int64), header=np.frombuffer(known.encode(), np.uint8), keys=np.zeros(3, np.uint8)
    )
    evaluation = {"models": [{"classes": ["a"], "weights": ["0"], "domains": {}}], "dataset": {"name": "x"}}
    network: Any = SimpleNamespace(spec=spec, about={}, temperature=1.0, classes=("a",), state_dict=dict)
    for name, files in {
        "config": {"result.json": stored},
        "result": {"config.json": written},
        "index": {"entry.json": json.dumps(head).encode(), "pixels.bin": pixels.tobytes()},
        "entry": {"index.npy": index.getvalue(), "pixels.bin": pixels.tobytes()},
    }.items():
        (home / name).mkdir()
        for file, content in files.items():
            (home / name / file).write_bytes(content)

    def remembered_read(path: Path) -> None:
        found = remembered.Remembered.__new__(remembered.Remembered)
        found._file, found._stamp = path, "x"
        found.read()

    table = b'path,label,domain,split\na.png,x,ink,train\n"b,c.png",y,oil,test\n'
    rows = b'{"path": "a.png", "label": "x", "domain": "ink"}\n{"path": "b.png", "label": 1, "domain": null}\n'
    tables = {"csv": (table, table.replace(b",", b";"), table.decode().encode("utf-16")), "jsonl": (rows,)}
    images = [image("PNG"), image("JPEG"), image("GIF", "P"), image("BMP"), image("TIFF"), image("WEBP"), image("PPM")]
    images += [image("PNG", "I;16"), image("PNG", "LA"), image("TIFF", "F"), image("TIFF", compression="tiff_lzw")]
    shard = tar({"a.png": images[0], "a.cls": b"1", "a.json": b'{"domain": "ink"}', "b.jpg": images[1], "b.cls": b"0"})
    small = {"x/a.txt": b"a" * 50, "x/b.txt": b"b"}
    long = {f"{'x/' * 60}{name}": content for name, content in {"a.png": images[0], "a.cls": b"1"}.items()}
    tars = (tar(long), tar(long, form=tarfile.GNU_FORMAT), tar(long, form=tarfile.GNU_FORMAT, last=b"S"))
    about = {"spec": spec.to_json(), "about": {}}
    preset = 'title = "x"\nrecipe = "short"\n[full]\nseeds = 1\n[full.settings]\nlr = [0.1, 0.2]\n'
    return {
        "model": Parser("m.safetensors", load_model, False, tensors(home, "model", about)),
        "state": Parser("s.safetensors", resumed, False, tensors(home, "state", {})),
        "config": Parser("config.json", run, False, (written,)),
        "result": Parser("result.json", run, False, (stored,)),
        "claim": Parser("sweep.json", claimed, False, (b'{"a": 1}',)),
        **{name: Parser(f"t.{name}", list_table, False, seeds) for name, seeds in tables.items()},
        "parquet": Parser("t.parquet", list_table, False, (parquet(),)),
        "split": Parser("split.csv", read_split, False, (b"key,split\na/b/c.png,train\n",)),
        "shard": Parser("a.tar", lambda path: list_shards("a.tar", [path], "a"), False, (shard, *tars)),
        "archive": Parser(
            "a.zip", archive, False, (tar(small), tar(small, "w:gz"), zipped(small), gzip.compress(b"a"), *tars)
        ),
        "settings": Parser("t.toml", settings, False, (b"lr = 0.1\nplain = true\n[a]\nb = [1, 'c']\n",)),
        "preset": Parser("p.toml", read_preset, False, (preset.encode(),)),
        "evaluation": Parser(
            "e.json",
            lambda path: card_of(network, name="x", evaluation=read_json(path)),
            False,
            (json.dumps(evaluation).encode(),),
        ),
        "image": Parser(
            "i.png", lambda path: (decode(path, 320), list(headers.oddities([path]))), False, tuple(images)
        ),
        "index": Parser("index.npy", entry, True, (index.getvalue(),)),
        "entry": Parser("entry.json", entry, True, (json.dumps(head).encode(),)),
        "digests": Parser("d.json", digests._remembered, True, (b'{"format": 1, "files": {"a": "b"}}',)),
        "opened": Parser("o.npz", remembered_read, True, (opened.getvalue(),)),
    }
