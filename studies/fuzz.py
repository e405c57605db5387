"""Give every parser of bytes from outside inputs that were changed at random, and find what is no error in words.

    python studies/fuzz.py --minutes 30

A parser may read an input or raise ``UserError``; those of the cache, whose callers build anew, also OSError and
ValueError. Anything else is a fault, and so is an input that takes more than ten seconds of the processor (or two
minutes of waiting), or more than 4 GB. An input that fails, or ends at a line of the package where none has ended
before, is stored in ``--corpus`` if it is small, by parser; ``tests/studies/test_fuzz.py`` reads these again. New
inputs are made from all that are stored and from those in ``fuzz_parsers.py``: bytes are changed, removed, doubled,
swapped with another input's, or replaced by what parsers stumble over. Half of the time the checksums of a tar
archive's headers and of a PNG's parts are made right again, since nothing behind a wrong one would be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path
from types import FrameType

import torch

import largedrop
from ending import exit_with
from fuzz_parsers import Parser, parsers
from largedrop.errors import UserError

CORPUS = Path(__file__).parents[1] / "tests" / "fixtures" / "fuzz"
PACKAGE = str(Path(largedrop.__file__).parent)
LARGEST = 1500
"""Bytes of an input that is stored."""

SECONDS, WAITING, MEMORY = 10, 120, 4 << 30

TOKENS = [b"", b"\0", b"\xff" * 8, b"\n", b'"', b"{", b"[" * 3000, b"NaN", b"1e999", b"-1", b"9" * 40, b"null", b"../"]


class Late(BaseException):
    """Raised in a parser that takes too long: no Exception, which it could take for one of its own."""


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
