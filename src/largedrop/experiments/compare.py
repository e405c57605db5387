"""A comparison: every dropout rate, test domain and seed at equal budget, and every method that their trajectories
feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import DEFAULT_RECIPE, VARIED, Config
from ..data.dataset import Dataset, check_names
from ..errors import NoMemoryError, RunError, UserError
from ..reporter import SILENT, Reporter
from ..runs.failure import forget_failure
from ..runs.folder import claim
from ..runs.record import Record
from ..runs.run import Run, remarks
from ..training.loop import cost
from ..training.resolve import resolve, schedule_of
from .runner import splits_of, train_all

__all__ = ["FILE", "Comparison", "Plan", "compare", "plan"]

FILE = "comparison.json"
"""The file in a comparison's folder with what its runs share, and the budget that chose some of it."""


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison in their order, seed by seed, so that early results are already a comparison.

    Attributes:
        configs: config of each run.
        costs: work of each run, in evaluated images.
    """

    configs: tuple[Config, ...]
    costs: tuple[float, ...]

    @property
    def test_domains(self) -> tuple[str, ...]:
        """Distinct values, in the order of the runs."""
        return tuple(dict.fromkeys(domain for config in self.configs for domain in config.test_domains))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Distinct values, in the order of the runs."""
        return tuple(dict.fromkeys(config.seed for config in self.configs))


@dataclass
class Comparison:
    """The results of a plan.

    Attributes:
        runs: the finished runs.
        failed: settings of each run that collapsed or cannot be read, with the reason under ``error``.
    """

    runs: list[Run] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """One record for each run and method."""
        return [record for run in self.runs for record in run.records]

    @property
    def remarks(self) -> list[str]:
        """Sentences about the runs, for readers."""
        return remarks(self.runs)


def plan(
    data: Dataset,
    device: torch.device,
    *,
    test_domains: Iterable[str] | None = None,
    at_once: bool = False,
    dropouts: Iterable[float] | Mapping[str, Iterable[float]] = (0.0, 0.5, 0.9),
    seeds: Iterable[int] = (0,),
    recipe: str = DEFAULT_RECIPE,
    epochs: float | None = None,
    **settings: Any,
) -> Plan:
    """The runs for every test domain (by default each domain in turn), seed and dropout rate.

    Args:
        test_domains: names of the test domains.
        at_once: whether each run is tested on all of them at once, or on none where there is none, and not on each in
            turn.
        dropouts: rates for all test domains, or a mapping from each test domain to its rates.
        epochs: those of ``resolve``; the steps are their mean over the test domains, so that all runs have the same.
        settings: further fields of the configs.

    Raises:
        UserError: a setting is invalid.
    """
    domains = tuple(test_domains) if test_domains is not None else data.domains
    if at_once:
        domains = tuple(domain for domain in domains if not data.has_no_labels(domain))
    tested = [domains] if at_once else [(domain,) for domain in domains]
    shared = () if isinstance(dropouts, Mapping) else tuple(dropouts)
    rates = [tuple(dropouts[each[0]]) if isinstance(dropouts, Mapping) else shared for each in tested]
    seeds = tuple(seeds)
    if domains or not at_once:
        _check("test domain", domains)
    for found in rates:
        _check("dropout rate", [f"{float(rate):g}" for rate in found])
    _check("seed", [str(seed) for seed in seeds])
    for domain in domains:
        data.domain_index(domain)
    # Of the largest rate, since at rate 0 a config forgets its masks.
    settings |= {"recipe": recipe, "dropout": max(rate for found in rates for rate in found), "digests": {}}
    firsts = [resolve(data, device, **settings, test_domain=each) for each in tested]
    if epochs is not None:
        settings |= schedule_of(epochs, data, firsts, settings)
        firsts = [resolve(data, device, **settings, test_domain=each) for each in tested]
    configs = [
        replace(first, dropout=rate, seed=seed)
        for seed in seeds
        for first, found in zip(firsts, rates, strict=True)
        for rate in found
    ]
    costs = [cost(config, split) for config, split in zip(configs, splits_of(configs, data), strict=True)]
    return Plan(tuple(configs), tuple(costs))


def _check(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise UserError(f"there is nothing to compare: name at least one {kind}")
    check_names(kind, names)


def compare(
    data: Dataset,
    planned: Plan,
    folder: Path,
    *,
    device: torch.device,
    jobs: int = 1,
    budget: float | None = None,
    claimed: Callable[[], None] | None = None,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Train the runs of a plan, each in its own folder under ``folder``/runs; finished runs are read.

    A run that collapsed or cannot be read is recorded with its reason, and the others are trained.

    Args:
        jobs: number of runs side by side, each in its own process; 1 trains in this process.
        budget: the time for each run that chose the steps and the size, in seconds, for ``budget.chosen_before``.
        claimed: called once the folder belongs to the comparison, before the first run.
        reporter: receives the work, each run before it is trained, and collapsed runs; see ``train``.

    Raises:
        UserError: the folder belongs to another comparison or cannot be written, or a run finds no memory.
        Interrupted: the reporter asks to stop.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {jobs}")
    # More seeds, domains and rates may join; masks, which rate 0 has none of, as well.
    shared = {name: value for name, value in planned.configs[0].to_json().items() if name not in (*VARIED, "masks")}
    claim(folder, FILE, "comparison", shared, {} if budget is None else {"budget": budget})
    if claimed is not None:
        claimed()
    tasks = [(config, folder / "runs" / config.run_name) for config in planned.configs]
    for _, path in tasks:
        forget_failure(path)
    ended: dict[Config, Run | RunError] = {}
    with closing(train_all(tasks, data, device, jobs, reporter)) as together:
        for config, outcome in together:
            if isinstance(outcome, NoMemoryError):
                raise outcome
            ended[config] = outcome
            if isinstance(outcome, RunError):
                reporter.failed(config, str(outcome))
    result = Comparison()
    for config in planned.configs:  # in the order of the plan, not of ending
        outcome = ended[config]
        if isinstance(outcome, RunError):
            result.failed.append({**{name: getattr(config, name) for name in VARIED}, "error": str(outcome)})
        else:
            result.runs.append(outcome)
    return result
