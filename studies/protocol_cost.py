"""What the paper's whole protocol costs: ten figures, five datasets, on 1, 8 and 64 GPUs. Writes docs/cost.md.

Nothing is trained: the runs are those of the presets, each counted once for each dataset, their lengths follow from the
pace that was measured on one GPU (docs/performance.md) and from the assumptions that the page lists.

    python studies/protocol_cost.py
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from largedrop.catalog.facts import published
from largedrop.config import Config, make_config
from largedrop.experiments.pace import LINEAR_BYTES, network_bytes, stored_bytes
from largedrop.experiments.preset import read_preset
from largedrop.training.averages import make_averages
from largedrop.training.loop import times_evaluated

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"

FOUR = ("VLCS", "PACS", "OfficeHome", "TerraIncognita")

FIGURES: Mapping[int, tuple[str, ...]] = {
    **dict.fromkeys((1, 2, 3, 6, 7, 9, 10), FOUR),
    4: ("DomainNet",),
    5: ("VLCS",),
    8: ("VLCS",),
}
"""The datasets of each of the paper's figures; figure 1's own, shifted ImageNets, are replaced (see its preset)."""

GPUS = (1, 8, 64)

TRAINED = 4690.0
"""Images a second in training: ResNet-50 at 224 px, 96 images a step, folded and recorded, on an H200."""

UNFOLDED = 20.2 / 14.9
"""Time of a step without folding over one with it: EfficientNet-Lite0 at 224 px, 96 images, there."""

EVALUATED = 3 * TRAINED
"""Images a second in evaluation."""

STARTED = 10.0
"""Seconds of a run before its first step."""

FITTED = 60.3 / 216
"""Seconds of a linear fit of 10,000 steps, trained beside many others (two processor cores)."""

CURVES = 2 * 11
"""Evaluations of a run for its two curves of figure 1."""

SAVED_EVERY = 120.0
"""Seconds between two states on disk."""


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
        seconds: time on one GPU.
        size: size of its files when it is finished, in bytes.
        written: bytes that it writes, states included.
        files: number of its files when it is finished.
    """

    seconds: float
    size: int
    written: float
    files: int


def runs_of(figure: int, dataset: str) -> Iterator[Config]:
    """The runs of a figure's preset on a dataset, each with as little of it as a config needs."""
    scale = read_preset(f"paper-figure-{figure}").full
    for run in scale.runs(tuple(published(dataset).domains)):
        yield make_config(scale.recipe, **{"data": dataset, "fingerprint": "", **run})


def cost_of(config: Config, sizes: dict[tuple[str, int], int]) -> Cost:
    """What a run costs.

    Args:
        sizes: sizes of checkpoints by model and classes, which is added to.
    """
    facts = published(config.data)
    tested = facts.domains[config.test_domain]
    trained = sum(facts.domains.values()) - tested
    scored, domains = round(config.held_out * trained) + tested, len(facts.domains) - 1
    if config.fit != "all":
        views = (1 + config.feature_views) * sum(facts.domains.values()) / EVALUATED
        # Features are computed once for all seeds, rates and test domains.
        return Cost(FITTED + views / 576, LINEAR_BYTES, LINEAR_BYTES, 6)
    factor = UNFOLDED if config.weights == "random" else 1.0
    steps = factor * config.steps * config.batch * domains / TRAINED
    evaluations = times_evaluated(config) + (CURVES if config.optimizer == "adamw" else 0)
    seconds = STARTED + steps + evaluations * scored / EVALUATED
    network = sizes.setdefault((config.model, facts.class_count), 0) or network_bytes(config.model, facts.class_count)
    sizes[config.model, facts.class_count] = network
    size = stored_bytes(config, scored * facts.class_count, network)
    moments = 2 if config.optimizer == "adamw" else 1
    state = (1 + moments + len(make_averages(config))) * network
    states = max(len(config.evaluations) + 1, seconds / SAVED_EVERY)
    return Cost(seconds, size, size + states * state, 5 + len(config.evaluations) + 1 + 3)


def makespan(seconds: Iterable[float], gpus: int) -> float:
    """Time of runs on several GPUs, one run at a time on each, the longest first."""
    busy = [0.0] * gpus
    for each in sorted(seconds, reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + each)
    return max(busy)


def time_text(seconds: float) -> str:
    """Hours, or days from two on.

    >>> time_text(3600), time_text(864000)
    ('1.0 h', '10.0 days')
    """
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def page() -> str:
    """docs/cost.md."""
    sizes: dict[tuple[str, int], int] = {}
    everything: dict[Config, Cost] = {}
    by_figure = []
    datasets = dict.fromkeys(name for names in FIGURES.values() for name in names)
    known: dict[str, dict[Config, Cost]] = {name: {} for name in datasets}
    for figure, names in sorted(FIGURES.items(), key=lambda item: (item[0] in (3, 6, 7, 8, 9, 10), item[0])):
        wanted, new = 0, []
        for name in names:
            for config in runs_of(figure, name):
                wanted += 1
                if config not in everything:
                    everything[config] = known[name][config] = cost_of(config, sizes)
                    new.append(everything[config])
        by_figure.append((figure, names, wanted, new))
    figures = [
        f"| {figure} | {', '.join(names)} | {wanted:,} | {len(new):,} | {sum(each.seconds for each in new) / 3600:,.1f}"
        f" | {sum(each.size for each in new) / 1e9:,.0f} |"
        for figure, names, wanted, new in sorted(by_figure)
    ]
    rows = [_row(name, list(own.values())) for name, own in known.items()]
    four = [cost for name in FOUR for cost in known[name].values()]
    rows += [_row("the four", four), _row("**all**", list(everything.values()))]
    usual = next(cost for config, cost in known["PACS"].items() if config.steps == 10_000 and config.dropout == 0.9)
    rate = usual.written / usual.seconds
    stored = sum(each.size for each in everything.values())
    files = sum(each.files for each in everything.values())
    whole = sum(each.seconds for each in everything.values())
    return TEXT.format(
        figures="\n".join(figures),
        rows="\n".join(rows),
        trained=f"{TRAINED:,.0f}",
        evaluated=f"{EVALUATED:,.0f}",
        unfolded=f"{UNFOLDED:.2f}",
        started=f"{STARTED:.0f}",
        fitted=f"{FITTED:.2f}",
        minutes=f"{usual.seconds / 60:.1f}",
        longest=f"{max(each.seconds for each in everything.values()) / 60:.0f}",
        written=f"{usual.written / 1e9:.1f}",
        kept=f"{usual.size / 1e6:.0f}",
        one=f"{rate / 1e6:.0f} MB/s",
        eight=f"{8 * rate / 1e9:.2f} GB/s",
        many=f"{64 * rate / 1e9:.1f} GB/s",
        stored=f"{stored / 1e12:.2f}",
        files=f"{files:,}",
        copied=f"{64 * stored / whole / 1e6:.0f} MB/s",
    )


def _row(name: str, costs: list[Cost]) -> str:
    seconds = [each.seconds for each in costs]
    times = " | ".join(time_text(makespan(seconds, gpus)) for gpus in GPUS)
    return f"| {name} | {len(costs):,} | {times} | {sum(each.size for each in costs) / 1e9:,.0f} |"


TEXT = """\
# What the whole protocol costs

Written by `studies/protocol_cost.py` from the presets; nothing here was trained at this scale. It answers what to
rent, and where the files go, before somebody reproduces all ten figures on all five datasets.

| dataset | runs | 1 GPU | 8 GPUs | 64 GPUs | GB on disk |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

One run at a time on each GPU, the longest first; whether several side by side on one GPU are faster at this size
was not measured. A run of figure 2 on PACS takes {minutes} minutes, the longest run {longest} minutes: below that
no number of GPUs helps.

| figure | datasets | runs | not in a figure before | GPU hours of these | GB of these |
| ---: | --- | ---: | ---: | ---: | ---: |
{figures}

Figures share runs: each is counted in the first of figures 1, 2, 4, 5, 3, 6, 7, 8, 9, 10 that has it, for each
dataset.

## Assumptions

- **Measured** on one NVIDIA H200 ([performance.md](performance.md#on-a-gpu)): {trained} images a second in training
  ResNet-50 at 224 px, 96 images a step, folded and recorded. On an H100 it is somewhat less (not measured).
- **Assumed**: the same pace at DomainNet's 160 images a step; for figure 1's ViT-B/32, whose products are about as
  many; for figure 5, whose batch norm is trained and so is not folded, {unfolded} times the time, as measured with
  EfficientNet-Lite0. Evaluation: {evaluated} images a second, three times as many as in training. {started} s a run
  before its first step. A linear fit {fitted} s, as measured on two processor cores, and its features once.
- Images lie in the GPU's memory, but for DomainNet, whose views are made on the host: 0.28 ms of a core for each
  ([performance.md](performance.md)), so 1.3 cores a GPU, and a cache of decoded images of some 225 GB on a local
  disk; without it, six cores.
- The presets' evaluations: every 300 steps, on DomainNet every 3,000. Figure 1 is on the four datasets, since its
  own are not fine-tuned on here. What comes after training across trajectories, a few evaluations for each group of
  runs, is not counted.
- Nothing fails, and nothing waits for a queue.

## Shared file system, or object store

A run that is finished keeps {kept} MB (figure 2 on PACS; most of it three checkpoints and the logits of 35
evaluations), but **writes** {written} GB: at each evaluation the state that going on needs is written whole.

| | shared file system | object store |
| --- | --- | --- |
| where runs write | into the sweep's folder | to the machine's own disk; a finished folder is copied once |
| bytes a second for 1, 8, 64 GPUs | {one}, {eight}, {many} | up to {copied} for 64 |
| at the end | {stored} TB in {files} files | the same, in as many objects and as many requests to write them |
| who trains what | runs are claimed in the folder, and a dead machine's are taken over | each machine is given \
its own runs beforehand: an object store has no claims |
| what a lost machine costs | at most 300 steps of each run it had | the unfinished run of each of its GPUs, from \
the start |
| `--status` and reports | of the folder, at any time | of what has been copied |

Up to eight GPUs on one machine, its own disk does both. At 64, a file system that takes {many} is needed for the
left column: a parallel one, or several sweeps into folders on different servers, one for each dataset.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
