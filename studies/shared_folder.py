"""Whether leases and caches keep what they promise on a file system that machines share: NFS, Lustre, a cloud's.

    python studies/shared_folder.py /shared/empty --machines 2        on each of two machines, within ten minutes
    python studies/shared_folder.py /mount/empty /other/mount/empty   one folder by two mounts of one machine

Each machine starts processes that take the same leases, work on the same small tasks and build the same entries of a
cache at once; some are killed. What two holders at a time would do is looked for: a mark that is there already, a byte
that is lost, a result that is not that of a task, an entry that is not what was built. The last line is the verdict;
the exit code is 1 where anything was wrong.

While the tasks are worked on (``--parts tasks``, ``--tasks`` and ``--seconds`` for how long) the network of a machine
may be cut, the server be started again, and clocks be set. docs/guide/machines.md says what was tried on NFS: its
machines were user-mode Linux (Debian's package user-mode-linux, one root file system for all) on a bridge in a network
namespace; a network was cut by taking its tap device off the bridge, a server stopped by ``rpc.nfsd 0``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path

from ending import exit_with
from largedrop import lease as leases
from largedrop.files import is_leftover
from shared_folder_parts import (
    WAIT,
    Holds,
    Part,
    Work,
    entries,
    held,
    judge_rounds,
    judge_tasks,
    rounds,
    taken,
    tasks,
    write_patiently,
)

PATIENCE = 600.0
"""Seconds to wait for the other machines at the start."""


def process(part: Part, work: Work, foreign: bool) -> None:
    """Do a part, and write down what happened."""
    if foreign:  # processes that use another mount stand for those of another machine
        leases._system = lambda: "another machine"  # type: ignore[assignment]
    random.seed(work.report.name)
    part(work)
    work.write()


class Machine:
    """The processes of one machine, or one mount, and what it knows of the others.

    Args:
        folder: the shared folder, by this mount.
        machines: number of machines or mounts.
        processes: number of processes on each.
        foreign: whether its processes say that they are another machine's.
    """

    def __init__(self, folder: Path, machines: int, processes: int, foreign: bool) -> None:
        self.folder, self.machines, self.processes, self.foreign = folder, machines, processes, foreign
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.started = 0

    def meet(self, what: str, patience: float = float("inf")) -> None:
        """Wait until all machines are here."""
        end = time.monotonic() + patience
        (self.folder / f"{what}-{self.name}").touch(exist_ok=False)
        while len(list(self.folder.glob(f"{what}-*"))) < self.machines:
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for the other machines in {self.folder}")
            time.sleep(0.2)

    def do(self, name: str, part: Part, kills: float = 0.0) -> Counter[str]:
        """Do a part in processes, and kill one ``kills`` times a second, for which another begins.

        Returns:
            What all machines say.
        """
        place = self.folder / name
        (place / "said").mkdir(parents=True, exist_ok=True)
        self.meet(f"begins-{name}")
        began, killed = time.monotonic(), 0
        running = [self.start(part, place, began) for _ in range(self.processes)]
        while running:
            time.sleep(0.1)
            if random.random() < kills * 0.1:
                random.choice(running).kill()
                killed += 1
            for each in [each for each in running if not each.is_alive()]:
                running.remove(each)
                if each.exitcode == -signal.SIGKILL:
                    running.append(self.start(part, place, began))
                elif each.exitcode:
                    write_patiently(place / "said" / f"{self.name}-{each.name}", {"wrong: a process failed": 1})
        write_patiently(place / "said" / f"{self.name}-kills", {"killed": killed})
        self.meet(f"ended-{name}")
        said = Counter[str]()
        for path in (place / "said").iterdir():
            for what, count in json.loads(path.read_text()).items():
                said[what] = max(said[what], count) if what == WAIT else said[what] + count
        return said

    def start(self, part: Part, place: Path, began: float) -> ForkProcess:
        """Start a process."""
        self.started += 1
        work = Work(place, place / "said" / f"{self.name}-{self.started}", began)
        made = multiprocessing.get_context("fork").Process(target=process, args=(part, work, self.foreign))
        made.start()
        return made


def left(folder: Path) -> list[str]:
    """What should have been removed."""
    starts = (".nfs", ".building-", ".pieces-")
    found = [path for path in folder.rglob(".*") if path.name.startswith(starts) or is_leftover(path)]
    return sorted(str(path.relative_to(folder)) for path in found if path.parent.name != "said")


def say(name: str, said: Counter[str]) -> bool:
    """Print what happened in a part; whether nothing was wrong."""
    print(f"{name}: {', '.join(f'{count} {what}' for what, count in sorted(said.items()) if count)}", flush=True)
    return not any(count for what, count in said.items() if what.startswith("wrong"))


def participate(options: argparse.Namespace, folder: Path, first: bool) -> bool:
    """All parts on one machine or mount; whether nothing was wrong."""
    machine = Machine(folder, max(options.machines, len(options.folders)), options.processes, not first)
    machine.meet("here", PATIENCE)
    fine = True
    ways: dict[str, Holds] = {"holding": held, "take": taken}
    for name in options.parts:
        if name in ways:
            said = machine.do(name, partial(rounds, ways[name], options.rounds))
            judge_rounds(folder / name, said)
        elif name == "tasks":
            said = machine.do(name, partial(tasks, options.tasks, options.seconds), options.kills)
            judge_tasks(folder / name, options.tasks, said)
        else:
            said = machine.do(name, partial(entries, options.entries))
        fine = (not first or say(name, said)) and fine
    machine.meet("done")
    if first and (rest := left(folder)):
        print(f"left: {len(rest)} that should have been removed, {', '.join(rest[:5])}")
    return fine


def main() -> None:
    """Read the options, do the parts, and give the verdict."""
    parts = ["holding", "take", "tasks", "entries"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="an empty folder on the shared file system")
    parser.add_argument("--machines", type=int, default=1, help="on which this command is given")
    parser.add_argument("--processes", type=int, default=3, help="on each")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=float, default=20.0, help="seconds that leases are passed round")
    parser.add_argument("--tasks", type=int, default=40, help="number of tasks")
    parser.add_argument("--seconds", type=float, default=1.0, help="of work in a task")
    parser.add_argument("--kills", type=float, default=0.2, help="processes that are killed in a second, on each")
    parser.add_argument("--entries", type=int, default=24, help="entries of the cache")
    options = parser.parse_args()
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    others = [
        multiprocessing.get_context("fork").Process(target=participate, args=(options, folder, False))
        for folder in options.folders[1:]
    ]
    for other in others:
        other.start()
    fine = participate(options, options.folders[0], True)
    for other in others:
        other.join()
    print("this folder can be shared" if fine else "WRONG: this folder must not be shared")
    sys.exit(not fine)


if __name__ == "__main__":
    exit_with(main)
