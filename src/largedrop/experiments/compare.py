"""A comparison: every dropout rate, test domain and seed at equal budget, and every method that their trajectories
feed; of several learning rates each dropout rate takes one on each test domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import DEFAULT_RECIPE, VARIED, Config, problems_of
from ..data.dataset import Dataset, check_names
from ..errors import CollapseError, InTheWayError, NoMemoryError, RunError, UserError
from ..paths import fitting
from ..reporter import SILENT, Reporter
from ..runs.content import is_finished
from ..runs.estimate import duration
from ..runs.failure import forget_failure
from ..runs.folder import claim
from ..runs.record import Record
from ..runs.run import Run, remarks
from ..training.loop import cost
from ..training.resolve import resolve, schedule_of, with_seed
from .learning_rates import Choice, arm_of, choices_of, rate_lines
from .measured import spread
from .pace import Paces, time_told
from .runner import splits_of, train_all

__all__ = ["FILE", "Comparison", "Plan", "compare", "plan", "time_left"]

FILE = "comparison.json"
"""The file in a comparison's folder with what its runs share, and the budget that chose some of it."""


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison in their order, seed by seed, so that early results are already a comparison.

    Attributes:
        configs: config of each run; of several learning rates, before one is chosen.
        costs: work of each run, in evaluated images, of the first seed's split.
        learning_rates: several to choose among, or none.
    """

    configs: tuple[Config, ...]
    costs: tuple[float, ...]
    learning_rates: tuple[float, ...] = ()

    @property
    def tried(self) -> tuple[Config, ...]:
        """The runs that learning rates are chosen by: those with the first seed, at each; none where there is one."""
        first = [config for config in self.configs if config.seed == self.configs[0].seed]
        return tuple(replace(config, lr=rate) for config in first for rate in self.learning_rates)

    @property
    def then(self) -> tuple[Config, ...]:
        """The other runs, each at the learning rate that is chosen."""
        first = self.configs[0].seed
        return tuple(each for each in self.configs if each.seed != first) if self.learning_rates else self.configs

    @property
    def count(self) -> int:
        """Number of runs that are trained."""
        return len(self.tried) + len(self.then)

    @property
    def work(self) -> float:
        """Work of all of them, in evaluated images; a learning rate changes none."""
        first = self.configs[0].seed
        tried = sum(cost for config, cost in zip(self.configs, self.costs, strict=True) if config.seed == first)
        return sum(self.costs) + max(0, len(self.learning_rates) - 1) * tried

    @property
    def test_domains(self) -> tuple[str, ...]:
        """Distinct values, in the order of the runs."""
        return tuple(dict.fromkeys(domain for config in self.configs for domain in config.test_domains))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Distinct values, in the order of the runs."""
        return tuple(dict.fromkeys(config.seed for config in self.configs))

    def folder_name(self, *further: str) -> str:
        """A folder's name: the data, what every run is tested on, further words, and a digest of the settings."""
        first = max(self.configs, key=lambda config: config.masks)
        together = {config.test_domains for config in self.configs}
        domains = first.test_domains if len(together) == 1 else ()
        # The same for all rates; at rate 0 a config has no masks.
        shared = replace(first, dropout=0.0 if first.masks == 1 else 0.5, test_domain="", also_tested="", seed=0)
        return fitting("-".join([first.data, *domains, *further]), f"-{shared.digest()}")


@dataclass
class Comparison:
    """The results of a plan.

    Attributes:
        planned: the plan.
        runs: the finished runs; of several learning rates, those at the chosen ones.
        failed: settings of each run that collapsed or cannot be read, with the reason under ``error``; without those
            that collapsed where another learning rate was chosen.
        choices: which learning rate each dropout rate takes on each test domain, where there are several.
    """

    planned: Plan
    runs: list[Run] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """One record for each run and method."""
        return [record for run in self.runs for record in run.records]

    @property
    def remarks(self) -> list[str]:
        """Sentences about the learning rates and the runs, for readers."""
        return [*rate_lines(self.choices), *remarks(self.runs)]


def plan(
    data: Dataset,
    device: torch.device,
    *,
    test_domains: Iterable[str] | None = None,
    at_once: bool = False,
    dropouts: Iterable[float] | Mapping[str, Iterable[float]] = (0.0, 0.5, 0.9),
    seeds: Iterable[int] = (0,),
    learning_rates: Iterable[float] = (),
    recipe: str = DEFAULT_RECIPE,
    epochs: float | None = None,
    **settings: Any,
) -> Plan:
    """The runs for every test domain (by default each domain in turn), seed and dropout rate.

    Args:
        test_domains: names of the test domains; of a dataset with one domain there is none.
        at_once: whether each run is tested on all of them at once, or on none where there is none, and not on each in
            turn.
        dropouts: rates for all test domains, or a mapping from each test domain to its rates.
        learning_rates: of several, each dropout rate takes one on each test domain: that of best i.i.d. accuracy with
            the first seed; the other seeds are trained with that alone. One is the same as ``lr``.
        epochs: those of ``resolve``; the steps are their mean over the test domains, so that all runs have the same.
        settings: further fields of the configs.

    Raises:
        UserError: a setting is invalid.
    """
    if test_domains is None and len(data.domains) == 1:  # nothing to be tested on
        test_domains, at_once = (), True
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
    learning_rates = _several(learning_rates, settings)
    for domain in domains:
        data.domain_index(domain)
    # Of the largest rate, since at rate 0 a config forgets its masks.
    settings |= {"recipe": recipe, "dropout": max(rate for found in rates for rate in found), "digests": {}}
    firsts = [resolve(data, device, **settings, test_domain=each) for each in tested]
    if epochs is not None:
        settings |= schedule_of(epochs, data, firsts, settings)
        firsts = [resolve(data, device, **settings, test_domain=each) for each in tested]
    arms = [replace(first, dropout=rate) for first, found in zip(firsts, rates, strict=True) for rate in found]
    configs = tuple(with_seed(arm, seed) for seed in seeds for arm in arms)
    # Of one seed, as a split of each takes minutes where there are very many; only groups make the others differ.
    costs = [cost(config, split) for config, split in zip(arms, splits_of(configs[: len(arms)], data), strict=True)]
    return Plan(configs, tuple(costs) * len(seeds), learning_rates)


def _several(rates: Iterable[float], settings: dict[str, Any]) -> tuple[float, ...]:
    """The learning rates, where there are several; a single one is added to ``settings``.

    Raises:
        UserError: one is invalid or named twice, or nothing depends on them.
    """
    rates = tuple(rates)
    for rate in rates:
        for problem in problems_of({"lr": rate}):
            raise UserError(problem)
    check_names("learning rate", [f"{rate:g}" for rate in rates])
    if len(rates) == 1:
        settings["lr"] = rates[0]
    if len(rates) < 2:
        return ()
    if settings.get("optimizer") == "lbfgs":
        raise UserError("optimizer 'lbfgs' has no learning rate: name one at most")
    return tuple(sorted(map(float, rates)))


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

    A run that collapsed or cannot be read is recorded with its reason, and the others are trained. Of several learning
    rates, those with the first seed come first, at each rate, and say at which the others are trained.

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
    varied = (*VARIED, "masks", *(["lr"] if planned.learning_rates else []))
    shared = {name: value for name, value in planned.configs[0].to_json().items() if name not in varied}
    about = {} if budget is None else {"budget": budget}
    claim(folder, FILE, "comparison", shared, {**about, "lr": "several"} if planned.learning_rates else about)
    if claimed is not None:
        claimed()
    ended: dict[Config, Run | RunError] = {}

    def train(configs: Iterable[Config]) -> None:
        tasks = [(config, folder / "runs" / config.run_name) for config in configs]
        for _, path in tasks:
            with suppress(InTheWayError):  # which training it says
                forget_failure(path)
        with closing(train_all(tasks, data, device, jobs, reporter)) as together:
            for config, outcome in together:
                if isinstance(outcome, NoMemoryError):
                    raise outcome
                ended[config] = outcome
                if isinstance(outcome, RunError):
                    reporter.failed(config, str(outcome))

    result, configs = Comparison(planned), list(planned.configs)
    if planned.learning_rates:
        train(planned.tried)
        choices = choices_of({config: ended[config] for config in planned.tried})
        result.choices = list(choices.values())
        rates = {arm: choice.chosen for arm, choice in choices.items()}
        result.failed = [
            _failed(config, outcome, "lr")
            for config in planned.tried
            if isinstance(outcome := ended[config], RunError)
            and (rates[arm_of(config)] is None or not isinstance(outcome, CollapseError))
        ]
        configs = [replace(config, lr=rate) for config in configs if (rate := rates[arm_of(config)]) is not None]
    train(config for config in configs if config not in ended)
    for config in configs:  # in the order of the plan, not of ending
        outcome = ended[config]
        if isinstance(outcome, RunError):
            result.failed.append(_failed(config, outcome, *(["lr"] if planned.learning_rates else [])))
        else:
            result.runs.append(outcome)
    return result


def time_left(planned: Plan, data: Dataset, folder: Path, *, device: torch.device, budget: float | None = None) -> str:
    """How long the runs of a plan take that are not finished in ``folder``, for people.

    Args:
        budget: the time of each run in seconds, where it was given.
    """
    runs = folder / "runs"
    finished = {path.name: path for path in runs.iterdir() if is_finished(path)} if runs.is_dir() else {}
    paces = Paces(data, device, spread(list(finished.values())))
    seconds, left = 0.0, 0
    for config, work in zip(planned.configs, planned.costs, strict=True):
        rates = planned.learning_rates or (config.lr,)
        there = [bool(finished) and replace(config, lr=rate).run_name in finished for rate in rates]
        # With the first seed at each rate, with another at whichever is chosen.
        lacking = there.count(False) if config.seed == planned.configs[0].seed else int(not any(there))
        left += lacking
        seconds += lacking * (budget or work * paces.of(config)) if lacking else 0.0
    done = "" if left == planned.count else f"{planned.count - left} of {planned.count} finished; "
    told = time_told(seconds, paces.rough) if budget is None else f"{duration(seconds)} one after the other"
    return done + (told if left else "nothing to train")


def _failed(config: Config, error: RunError, *further: str) -> dict[str, Any]:
    return {**{name: getattr(config, name) for name in (*VARIED, *further)}, "error": str(error)}
