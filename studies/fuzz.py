"""Give every parser of bytes from outside inputs that were changed at random, and find what is no error in words.

    python studies/fuzz.py --minutes 30

A parser may read an input or raise ``UserError``; those of the cache, whose callers build anew, also OSError and
ValueError. Anything else is a fault, and so is an input that takes more than ten seconds of the processor (or two
minutes of waiting), or more than 4 GB. An input
that fails, or ends at a line of the package where none has ended before, is stored in ``--corpus`` if it is small, by
parser; ``tests/studies/test_fuzz.py`` reads these again. New inputs are made from all that are stored and from those
that are written here: bytes are changed, removed, doubled, swapped with another input's, or replaced by what parsers
stumble over. Half of the time the checksums of a tar archive's headers and of a PNG's parts are made right again, since
nothing behind a wrong one would be read.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

import largedrop
from ending import exit_with
from largedrop.catalog.archives import members
from largedrop.cli import settings_file
from largedrop.config import PROTOCOL, make_config
from largedrop.data import cache, digests, headers, remembered
from largedrop.data.images import decode
from largedrop.data.parts import read_split
from largedrop.data.shards import list_shards
from largedrop.data.table import list_table
from largedrop.errors import UserError
from largedrop.experiments.preset import read_preset
from largedrop.export.card import card_of
from largedrop.files import read_json
from largedrop.models.network import Spec
from largedrop.runs.checkpoint import load_model, open_tensors, write_tensors
from largedrop.runs.folder import owned
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run

CORPUS = Path(__file__).parents[1] / "tests" / "fixtures" / "fuzz"
PACKAGE = str(Path(largedrop.__file__).parent)
LARGEST = 1500
"""Bytes of an input that is stored."""

SECONDS, WAITING, MEMORY = 10, 120, 4 << 30

TOKENS = [b"", b"\0", b"\xff" * 8, b"\n", b'"', b"{", b"[" * 3000, b"NaN", b"1e999", b"-1", b"9" * 40, b"null", b"../"]


class Late(BaseException):
    """Raised in a parser that takes too long: no Exception, which it could take for one of its own."""


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


def tried(parser: Parser, folder: Path, content: bytes) -> tuple[str, str]:
    """Have a parser read ``content``: where it ended in the package, and its traceback where that is a fault."""
    folder.mkdir(exist_ok=True)
    path = folder / parser.file
    path.write_bytes(content)
    allowed: tuple[type[Exception], ...] = (UserError, OSError, ValueError) if parser.rebuilt else (UserError,)
    try:
        parser.read(path)
    except allowed as error:
        return _ended(error), ""
    except (Exception, Late) as error:  # noqa: BLE001  # which is what is looked for
        return _ended(error), traceback.format_exc()
    return "read", ""


def _ended(error: BaseException) -> str:
    lines = [
        f"{type(error).__name__}:{frame.f_code.co_filename.removeprefix(PACKAGE)}:{number}"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(PACKAGE)
    ]
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{lines[-1] if lines else '?'} < {type(error).__name__}"


def changed(chance: random.Random, one: bytes, other: bytes) -> bytes:
    """``one`` after a few changes."""
    content = bytearray(one)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at, more = chance.randrange(len(content) + 1), chance.randrange(1, 9)
        match chance.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(content):
                content[at] = chance.randrange(256)
            case 2:
                del content[at : at + more**2]
            case 3:
                content[at:at] = content[at : at + more**2]
            case 4:
                start = chance.randrange(len(other) + 1)
                content[at : at + more**2] = other[start : start + more**2]
            case _:
                content[at : at + chance.choice((0, more))] = chance.choice(TOKENS)
    return bytes(content)


def mended(content: bytes) -> bytes:
    """``content`` with right checksums, where it is a PNG or a tar archive."""
    made = bytearray(content)
    if made.startswith(b"\x89PNG"):
        at = 8
        while (end := at + 8 + int.from_bytes(made[at : at + 4], "big")) + 4 <= len(made):
            made[end : end + 4] = zlib.crc32(made[at + 4 : end]).to_bytes(4, "big")
            at = end + 4
    for at in range(0, len(made) - 511, 512):
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def fuzz(minutes: float, seed: int, corpus: Path, only: list[str]) -> dict[str, dict[str, int]]:
    """Change inputs for so many minutes of processor time.

    Returns:
        Of each parser, how many ``inputs`` were tried, how many ended where none had (``ends``), how many of these are
        ``faults``, by how many MiB the process had ``grown`` after them, and how many it had at the ``most`` where
        that was in one of these.
    """
    chance = random.Random(seed)
    resource.setrlimit(resource.RLIMIT_AS, (_pages(0) + MEMORY, resource.RLIM_INFINITY))

    def late(number: int, frame: FrameType | None) -> None:
        raise Late(f"longer than {SECONDS} s, or {WAITING} s of waiting")

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    counts: dict[str, dict[str, int]] = {}
    grown: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as home:
        known = {name: each for name, each in parsers(Path(home)).items() if not only or name in only}
        pool = {name: list(each.seeds) for name, each in known.items()}
        seen: dict[str, set[str]] = {name: set() for name in known}
        for name in known:
            counts[name] = {"inputs": 0, "ends": 0, "faults": 0, "grown": 0, "most": 0}
            for path in sorted((corpus / name).glob("*")):
                pool[name].append(path.read_bytes())
            seen[name] = {tried(known[name], Path(home) / name, each)[0] for each in pool[name]}
        began = time.process_time()
        while time.process_time() - began < 60 * minutes:
            name = chance.choice(list(known))
            content = changed(chance, chance.choice(pool[name]), chance.choice(pool[name]))
            content = mended(content) if chance.random() < 0.5 else content
            before, most = _pages(1), _most()
            signal.alarm(WAITING)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            where, fault = tried(known[name], Path(home) / name, content)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            grown[name] += _pages(1) - before
            counts[name] |= {"inputs": counts[name]["inputs"] + 1, "grown": grown[name] >> 20}
            counts[name] |= {"most": _most()} if _most() > most else {}
            if where in seen[name]:
                continue
            seen[name].add(where)
            counts[name]["ends"] += 1
            counts[name]["faults"] += bool(fault)
            pool[name].append(content)
            if fault:
                print(f"{name}: {fault}", file=sys.stderr, flush=True)
            if len(content) <= LARGEST:
                (corpus / name).mkdir(parents=True, exist_ok=True)
                (corpus / name / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)
        shutil.rmtree(home, ignore_errors=True)
        Path(home).mkdir()
    return counts


def _pages(column: int) -> int:
    """Bytes of this process: all that is mapped (0), or what is resident (1)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[column]) * resource.getpagesize()


def _most() -> int:
    """MiB that this process has had in memory at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> int:
    """Fuzz, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of processor time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--only", nargs="*", default=[], help="names of parsers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = fuzz(arguments.minutes, arguments.seed, arguments.corpus, arguments.only)
    print(json.dumps(counts, indent=2))
    return int(any(each["faults"] for each in counts.values()))


if __name__ == "__main__":
    exit_with(main)
