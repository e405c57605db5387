"""A sweep on a real cluster whose parts are killed: every run ends once, with the bits of a sweep that was left alone.

    python studies/launchers.py ray       three nodes of Ray's on this machine; workers, a node and the head are killed
    python studies/launchers.py slurm     slurmctld and slurmd on this machine; jobs are cut by their time limit

``slurm`` needs root and Debian's packages slurmctld, slurmd, slurm-client and munge; it starts and ends the daemons
itself. Each line that is printed, with what was found at the end, is kept in launchers.json beside this file, from
which the table in docs/guide/machines.md is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ending import exit_with
from largedrop.files import json_text, write_text

RECORD = Path(__file__).with_suffix(".json")

PRESET = """
title = "Runs on a cluster"
test_domains = ["photo"]
[settings]
model = "test_efficientnet"
weights = "random"
size = 32
batch = 4
optimizer = "sgd"
steps = {steps}
eval_every = {every}
[grid]
dropout = [0.0, 0.9]
seed = [{seeds}]
"""

DAEMONS = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=requeue_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmdSpoolDir={root}/spool
StateSaveLocation={root}/state
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

PATIENCE = 3600.0
"""Seconds after which a sweep that has not ended is taken for stuck."""


def draw(root: Path) -> None:
    """A dataset of three domains and three classes of noise, told apart by their colour."""
    rng = np.random.default_rng(0)
    for shade, domain in enumerate(("ink", "oil", "photo")):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 60, (32, 32, 3))
                pixels[..., channel] += 120
                pixels += 30 * shade
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


def command(root: Path, output: str, *further: str) -> list[str]:
    """The command of a sweep into ``root / output``."""
    given = ["sweep", str(root / "preset.toml"), "--data", str(root / "photos"), "--output", str(root / output)]
    return [sys.executable, "-m", "largedrop", *given, "--device", "cpu", "--precision", "float32", *further]


def finished(folder: Path) -> dict[str, int]:
    """When each finished run was finished, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


def different(one: Path, other: Path) -> list[str]:
    """The files of runs that differ, but for the seconds and the memory in results."""
    wrong = []
    for path in sorted(one.glob("runs/*/**/*")):
        if path.is_dir():
            continue
        pair = [path, other / path.relative_to(one)]
        if not pair[1].is_file():
            wrong.append(str(path.relative_to(one)))
            continue
        contents: list[Any] = [each.read_bytes() for each in pair]
        if path.name == "result.json":
            contents = [_timeless(json.loads(each)) for each in contents]
        if contents[0] != contents[1]:
            wrong.append(str(path.relative_to(one)))
    return wrong


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            name: _timeless(value) for name, value in content.items() if name not in ("seconds", "memory", "checksum")
        }
    return [_timeless(each) for each in content] if isinstance(content, list) else content


class Watched:
    """A sweep's command, and what its folder shows of it."""

    def __init__(self, root: Path, output: str, *further: str) -> None:
        self.folder, self.log = root / output, root / f"{output}.log"
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command(root, output, *further), stdout=self.log.open("a"), stderr=subprocess.STDOUT
        )

    def wait(self, text: str, ready: Any) -> None:
        """Wait until ``ready`` is true."""
        while not ready():
            if time.monotonic() - self.began > PATIENCE:
                raise SystemExit(f"waited in vain: {text}; see {self.log}")
            if self.process.poll() is not None:
                raise SystemExit(f"the command has ended before: {text}; see {self.log}")
            time.sleep(0.2)
        say(f"{time.monotonic() - self.began:.0f} s: {text}, {len(finished(self.folder))} runs finished")

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(PATIENCE)


said: list[str] = []
"""The lines that were printed."""


def say(text: str) -> None:
    """Print a line, and keep it."""
    print(text, flush=True)
    said.append(text)


def keep(kind: str, found: dict[str, Any]) -> None:
    """Write what was found into the record, in place of what was found before."""
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    write_text(RECORD, json_text({**known, kind: found}))


def judge(root: Path, runs: int) -> dict[str, Any]:
    """Compare the folders ``cluster`` and ``here``; returns what was found."""
    done = finished(root / "cluster")
    say(f"{len(done)} of {runs} runs finished")
    here = Watched(root, "here")
    say(f"the same sweep on this machine, left alone: exit code {here.end()}")
    wrong = different(root / "here", root / "cluster")
    say(f"files of runs that differ: {wrong or 'none'}")
    again = Watched(root, "cluster")
    code = again.end()
    same = finished(root / "cluster") == done
    say(f"the command once more: exit code {code}, {'no run was touched' if same else 'RUNS WERE TRAINED AGAIN'}")
    return {"runs": runs, "finished": len(done), "files that differ": wrong, "trained again": not same}


def holders(folder: Path) -> dict[int, str]:
    """The processes that hold runs, and their runs."""
    found = {}
    for path in folder.glob("runs/*/.lease-*"):
        try:
            found[int(json.loads(path.read_text())["process"])] = path.parent.name
        except (ValueError, KeyError, OSError):
            continue
    return found


def ray(root: Path, runs: int) -> str:
    """Kill two workers, a node, and at last the head; then a new cluster finishes. Returns Ray's version."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray.cluster_utils import Cluster

    def nodes() -> Any:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        return made, made.add_node(num_cpus=1)

    cluster, last = nodes()
    options = ("--launcher", "ray", "--address", cluster.address)
    sweep = Watched(root, "cluster", *options)
    killed: set[str] = set()
    for _ in range(2):
        sweep.wait("a run is in a worker's hands", lambda: set(holders(sweep.folder).values()) - killed)
        process, name = random.choice([item for item in holders(sweep.folder).items() if item[1] not in killed])
        killed.add(name)
        os.kill(process, signal.SIGKILL)
        say(f"  killed worker {process}, which trained {name}")
    known = len(finished(sweep.folder))
    sweep.wait("another run is finished", lambda: len(finished(sweep.folder)) > known)
    cluster.remove_node(last, allow_graceful=False)
    say("  killed a node with its workers")
    known = len(finished(sweep.folder))
    sweep.wait("another run is finished", lambda: len(finished(sweep.folder)) > known)
    cluster.head_node.kill_gcs_server(check_alive=False)
    cluster.head_node.kill_raylet(check_alive=False)
    say("  killed the head")
    began = time.monotonic()
    code = sweep.end()
    words = sweep.log.read_text("utf-8", "replace").strip().splitlines()[-1]
    say(f"{time.monotonic() - began:.0f} s later the command has ended with {code}: {words}")
    say(f"{len(finished(sweep.folder))} of {runs} runs finished")
    cluster.shutdown()
    cluster, _ = nodes()
    code = Watched(root, "cluster", "--launcher", "ray", "--address", cluster.address).end()
    say(f"the same command on a new cluster: exit code {code}")
    cluster.shutdown()
    return f"Ray {ray.__version__}"


@contextmanager
def daemons(root: Path) -> Iterator[None]:
    """Slurm on this machine within the block."""
    root.mkdir()
    host = socket.gethostname().split(".")[0]
    config = root / "slurm.conf"
    config.write_text(DAEMONS.format(host=host, root=root, cores=os.cpu_count()))
    for name in ("spool", "state"):
        (root / name).mkdir()
    os.environ["SLURM_CONF"] = str(config)
    if subprocess.run("munge -n | unmunge", shell=True, capture_output=True, check=False).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["munged", "--force"], check=True)
    started = [
        subprocess.Popen([name, "-D", "-f", str(config)], stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")
    ]
    try:
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True, check=False).stdout:
            if time.monotonic() > deadline:
                raise SystemExit(f"no node of Slurm is idle; see {root}/*.log")
            time.sleep(0.5)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)


def slurm(root: Path, runs: int, limit: str) -> str:
    """Let jobs be cut by their time limit, and kill one. Returns Slurm's version."""
    with daemons(root / "slurm"):
        version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        say(f"{version} on {os.cpu_count()} cores")
        sweep = Watched(root, "cluster", "--launcher", "slurm", "--jobs", "2", "--time-limit", limit)
        sweep.wait("a run is in a job's hands", lambda: holders(sweep.folder))
        process, name = random.choice(list(holders(sweep.folder).items()))
        os.kill(process, signal.SIGKILL)
        say(f"  killed job process {process}, which trained {name}")
        logs = root / "cluster" / "workers" / "slurm"

        def queued_again() -> int:
            return sum(path.read_text("utf-8", "replace").count("Exiting gracefully") for path in logs.glob("*.out"))

        sweep.wait("a job reached its time limit and was queued again", queued_again)
        code = sweep.end()
        say(
            f"{time.monotonic() - sweep.began:.0f} s: exit code {code}; jobs were queued again {queued_again()} times, "
            f"{len(finished(sweep.folder))} of {runs} runs finished"
        )
        return version


def main() -> None:
    """Read the options, and do one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["ray", "slurm"])
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps of a run")
    parser.add_argument("--seeds", type=int, default=4, help="two runs each")
    parser.add_argument("--time-limit", default="5m", help="of a job of Slurm's")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix=f"largedrop-{options.kind}-"))
    os.environ |= {"LARGEDROP_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    say(f"in {root}")
    draw(root / "photos")
    seeds = ", ".join(map(str, range(options.seeds)))
    (root / "preset.toml").write_text(PRESET.format(steps=options.steps, every=options.steps // 4, seeds=seeds))
    runs = 2 * options.seeds
    version = ray(root, runs) if options.kind == "ray" else slurm(root, runs, options.time_limit)
    found = judge(root, runs)
    lines = [line.replace(str(root), "FOLDER") for line in said]
    keep(options.kind, {"version": version, "steps": options.steps, **found, "said": lines})
    if found["files that differ"] or found["trained again"] or found["finished"] != runs:
        raise SystemExit(1)


if __name__ == "__main__":
    exit_with(main)
