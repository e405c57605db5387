"""Kill a process at every file event of a command, give the command again, and compare what is there with an
undisturbed one's.

    python studies/kills.py

A file event is whatever changes the disk: a file opened for writing, a piece of the image cache appended, an fsync, a
rename, a removal, a new folder. The process is killed with SIGKILL just before its n-th, for every n; at an fsync it is
killed once more with the half of the file gone that was not on the disk yet, as when power fails. Figures and pages
must be there and whole; all other files must have the same bytes, but for seconds and checksums of them.

The whole takes a quarter of an hour on a quiet processor; ``--sample 3`` takes three events of each command.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import largedrop as ld
from ending import exit_with
from largedrop.cli import main as command
from largedrop.data import cache
from largedrop.data.digests import GRANULARITY
from largedrop.files import is_leftover
from largedrop.lease import is_lease
from largedrop.training import head, setup

SETTINGS: dict[str, Any] = {
    **{"model": "test_efficientnet", "weights": "random", "size": 32, "steps": 2, "batch": 2, "eval_every": 1},
    **{"optimizer": "sgd", "precision": "float32", "lr": 1e-3, "recipe": "short", "device": "cpu"},
}

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
"""Python's audit events of calls that change the disk, beside ``open``."""

SHOWN = {".html", ".png", ".svg"}

Work = Callable[[Path], object]


class Events:
    """Counts the file events of this process, and kills it before the ``last``.

    Args:
        root: folder whose files count.
        last: number of the event; 0 for none.
        torn: count fsyncs alone, and cut the file in half first.
    """

    def __init__(self, root: Path, last: int, torn: bool) -> None:
        self.root, self.last, self.torn, self.count = str(root), last, torn, 0
        sync, append = os.fsync, cache._append

        def fsync(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self.happens(lambda: os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2), sync=True)
            sync(descriptor)

        def appended(*arguments: Any) -> None:
            append(*arguments)
            self.happens()

        os.fsync = fsync  # type: ignore[assignment]
        cache._append = appended  # type: ignore[assignment]
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook; it is called before the event."""
        writes = event in CHANGES
        if event == "open":
            mode, flags = arguments[1:]
            writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
        if writes and isinstance(arguments[0], (str, os.PathLike)):
            path = os.fspath(arguments[0])
            if path.startswith(self.root) or not path.startswith(os.sep):  # those are in a folder that is removed
                self.happens()

    def happens(self, tear: Callable[[], object] | None = None, sync: bool = False) -> None:
        """An event; with ``tear`` what a failing power would do to its file."""
        if self.torn and not sync:
            return
        self.count += 1
        if self.count == self.last:
            if self.torn and tear is not None:
                tear()
            os.kill(os.getpid(), signal.SIGKILL)


def count(work: Work, root: Path, last: int = 0, torn: bool = False) -> int:
    """Do ``work`` in a process, killed at its ``last`` event if that is not 0; returns the number of events.

    Raises:
        RuntimeError: the process failed, or was not killed though it should have been.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            events = Events(root, last, torn)
            work(root)
            os.write(write, str(events.count).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with open(read) as answer:
        said = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != (-signal.SIGKILL if last else 0):
        raise RuntimeError(f"the process ended with {status} at event {last}")
    return int(said or 0)


def content(root: Path) -> dict[str, Any]:
    """What is in a folder, by path, without locks and leases; temporary files count in runs, whose next start removes
    them, and nowhere else.
    """
    files = (
        path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock") and not is_lease(path)
    )
    found = {path.relative_to(root).as_posix(): path for path in files}
    kept = {name: path for name, path in found.items() if name.startswith("run/") or not is_leftover(path)}
    return {name: _content(path) for name, path in kept.items()}


def _content(path: Path) -> Any:
    if path.parent.name == "opened":  # which says when it was opened
        return True
    if path.suffix in SHOWN:
        return path.read_bytes()[-8:]
    return timeless(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def timeless(found: Any) -> Any:
    """JSON without seconds and memory, and checksums of them."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name not in ("seconds", "memory", "checksum")}
    return [timeless(value) for value in found] if isinstance(found, list) else found


def images(folder: Path) -> Path:
    """Three domains of two classes of four images."""
    rng = np.random.default_rng(0)
    for domain in ("ink", "oil", "photo"):
        for name in ("red", "green"):
            (folder / domain / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / domain / name / f"{number}.png")
    return folder


def called(*arguments: object) -> None:
    """The command line, which must end well."""
    if code := command([str(each) for each in arguments]):
        raise RuntimeError(f"{arguments} ended with {code}")


def export(model: Path, root: Path) -> None:
    """A folder for timm; one that was begun is replaced."""
    os.chdir(root)  # the model card says where the folder is
    called("export", model, "--output", "timm", "--overwrite")


def written(made: Path, *arguments: object) -> None:
    """A command that refuses to replace the file ``made``, which is then whole."""
    if not made.exists():
        called(*arguments)


def jobs(home: Path) -> dict[str, tuple[Work, Path | None]]:
    """Each command by name, and a folder that it starts from."""
    toy = images(home / "toy")
    time.sleep(GRANULARITY + 0.1)  # of younger files no digests are kept, so that runs would differ by their time
    data = ld.open_dataset(toy, cache=home / "cache")
    options = [text for name, value in SETTINGS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    compare = ["compare", toy, "--test-domains", "photo", "--dropout", "0,0.5", *options, "--output"]
    count(lambda root: called(*compare, root / "out"), home / "compared")
    run = next((home / "compared" / "out" / "runs").iterdir())
    compared, published = home / "compared" / "trained", ("report.html", "figure*", "results.json")
    shutil.copytree(home / "compared" / "out", compared / "out", ignore=shutil.ignore_patterns(*published))

    def trained(root: Path, **more: Any) -> None:
        ld.finetune(data, "photo", output=root / "run", **{**SETTINGS, **more})

    def predicted(root: Path) -> None:
        written(root / "found.csv", "predict", run, toy, "--output", root / "found.csv", "--device", "cpu")

    def evaluated(root: Path) -> None:
        called("evaluate", run, toy, "--output", root / "found", "--overwrite", "--device", "cpu")

    return {
        "open": (lambda root: ld.open_dataset(toy, cache=root / "cache"), None),
        "train": (trained, None),
        "train, back to the start": (partial(trained, wise_ft=True, ema=0.5, lr=0.01), None),
        "fit a probe": (partial(trained, fit="probe"), None),
        "publish": (lambda root: called(*compare, root / "out"), compared),
        "predict": (predicted, None),
        "evaluate": (evaluated, None),
        "export": (partial(export, run), None),
    }


def tried(work: Work, before: Path | None, home: Path, sample: int) -> dict[str, int]:
    """Kill ``work`` at its events; returns how many there were, and after how many the rest was the same.

    Args:
        before: folder that it starts from; an empty one where None.
        sample: number of events; all where 0.
    """

    def fresh(name: str) -> Path:
        root = home / name
        shutil.rmtree(root, ignore_errors=True)
        if before is None:
            root.mkdir()
        else:
            shutil.copytree(before, root)
        return root

    count(work, fresh("whole"))  # which leaves in the cache what the next finds there
    found = {"events": 0, "same": 0}
    for torn in (False, True):
        root = fresh("whole")
        total = count(work, root, 0, torn)
        expected = content(root)
        chosen: Sequence[int] = range(1, total + 1)
        if sample:
            chosen = sorted({round(each) for each in np.linspace(1, total, sample)})
        for last in chosen:
            root = fresh("cut")
            count(work, root, last, torn)
            count(work, root)
            found["events"] += 1
            if content(root) == expected:
                found["same"] += 1
            else:
                now = content(root)
                apart = sorted(name for name in {*now, *expected} if now.get(name) != expected.get(name))
                print(f"  event {last} of {total}{', torn' * torn}: {apart} differ", file=sys.stderr)
    return found


def main() -> int:
    """Kill every command at every event, and print and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="number of events of each command; all where 0")
    parser.add_argument("--only", nargs="*", default=[], help="names of commands")
    parser.add_argument("--output", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setup.fit_head = partial(head.fit_head, round_steps=5)  # type: ignore[attr-defined]
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["LARGEDROP_CACHE"] = str(Path(home) / "cache")
        for name, (work, before) in jobs(Path(home)).items():
            if not arguments.only or name in arguments.only:
                counts[name] = tried(work, before, Path(home), arguments.sample)
                print(f"{name}: {counts[name]['same']} of {counts[name]['events']} the same", flush=True)
                if arguments.output:
                    arguments.output.write_text(json.dumps(counts, indent=2) + "\n")
    return int(any(each["same"] < each["events"] for each in counts.values()))


if __name__ == "__main__":
    exit_with(main)
