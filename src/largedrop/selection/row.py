"""A row of results: the accuracies of a setting whose tuned values are chosen for each test domain, and its cloud."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np
import numpy.typing as npt

from ..config import RIVALS
from ..runs.estimate import Estimate, percent, percentage_points
from ..runs.methods import PLAIN
from ..runs.record import ALPHA
from .averages import Averages, FloatArray, Missing, mean_over_seeds
from .settings import Setting

__all__ = ["Row", "combinations"]


@dataclass(frozen=True, eq=False, repr=False)
class Row:
    """The accuracies of a setting, where a rule chooses one of its candidates for each test domain.

    Accuracies are averaged over the test domains within each seed that has all test domains, then over these seeds.

    Attributes:
        averages: averages of all runs.
        rule: the rule, one of ``selection.RULES``.
        setting: the setting, without tuned items.
        candidates: settings that differ from ``setting`` in tuned items and α only.
        chosen: chosen candidate by test domain; a domain without one is absent.
        shown: candidates in the cloud by test domain: those with a mean there, α chosen for each.
        plain: chosen setting of plain fine-tuning with the same other items, by test domain; None where there is none,
            and for plain fine-tuning itself.
        test_domains: names of the D test domains of the row, in the order of the grid.
    """

    averages: Averages
    rule: str
    setting: Setting
    candidates: tuple[Setting, ...]
    chosen: Mapping[str, Setting]
    shown: Mapping[str, Sequence[Setting]]
    plain: Mapping[str, Setting] | None
    test_domains: tuple[str, ...]

    def __repr__(self) -> str:
        gain = "" if self.gain is None else f", gain {percentage_points(self.gain)}"
        return f"<Row {self.name!r}: {percent(self.iid)} % i.i.d., {percent(self.ood)} % o.o.d.{gain}>"

    @property
    def method(self) -> str:
        """Name of the method, one of ``METHODS``."""
        return self.setting.method

    @property
    def dropout(self) -> float:
        """Dropout rate on the representation."""
        return self.setting.dropout

    @property
    def baseline(self) -> bool:
        """Whether this is plain fine-tuning, the baseline of gains."""
        return self.setting.baseline

    @cached_property
    def name(self) -> str:
        """Name in sentences and figures, without the items; a baseline that shares an objective is not called plain."""
        if self.baseline:
            used = (settings for setting in self.candidates for settings in self.averages.used[setting])
            shared = any(each.get(name, usual) != usual for each in used for name, usual in RIVALS.items())
            return "fine-tuning without dropout" if shared else PLAIN.label
        if self.method == PLAIN.name:
            return f"dropout {self.dropout:g}" if self.dropout else self.method
        return f"{self.method}, dropout {self.dropout:g}" if self.dropout else self.method

    @cached_property
    def domains(self) -> dict[str, Row]:
        """The row of each test domain."""
        return {domain: replace(self, test_domains=(domain,)) for domain in self.test_domains}

    @cached_property
    def values(self) -> FloatArray:
        """Scores (``averages.SCORES``) of the chosen candidates' runs, NaN where there is none, (D, S, 4)."""
        return self.averages.of(self.chosen, self.test_domains)

    @cached_property
    def iid(self) -> Estimate | None:
        """I.i.d. accuracy; None where no seed has all test domains."""
        return mean_over_seeds(self.values[:, :, 0].mean(0))

    @cached_property
    def ood(self) -> Estimate | None:
        """O.o.d. accuracy; None where no seed has all test domains."""
        return mean_over_seeds(self.values[:, :, 1].mean(0))

    @cached_property
    def iid_macro(self) -> Estimate | None:
        """I.i.d. macro accuracy; None where no seed has all test domains, or runs of before lack it."""
        return mean_over_seeds(self.values[:, :, 2].mean(0))

    @cached_property
    def ood_macro(self) -> Estimate | None:
        """O.o.d. macro accuracy; None where no seed has all test domains, or runs of before lack it."""
        return mean_over_seeds(self.values[:, :, 3].mean(0))

    @cached_property
    def gain(self) -> Estimate | None:
        """O.o.d. accuracy less that of plain fine-tuning, paired by test domain and seed.

        Differences between the seeds' splits cancel. None for plain fine-tuning and where no runs can be paired.
        """
        if self.plain is None:
            return None
        return mean_over_seeds((self.values - self.averages.of(self.plain, self.test_domains))[:, :, 1].mean(0))

    @cached_property
    def seconds(self) -> float | None:
        """Mean time of the chosen candidates' runs, which the methods along one trajectory share; None without any."""
        known = [domain for domain in self.test_domains if domain in self.chosen]
        rows = [self.averages.index[self.chosen[domain]] for domain in known]
        times = self.averages.seconds[rows, [self.averages.domains.index(domain) for domain in known]]
        return fmean(times[~np.isnan(times)].tolist()) if known else None

    @property
    def by_seed(self) -> dict[int, tuple[float, float | None]]:
        """(i.i.d., o.o.d.) accuracy averaged over the test domains, by seed, for the seeds with all test domains."""
        means = zip(self.averages.seeds, self.values[:, :, :2].mean(0).tolist(), strict=True)
        return {seed: (iid, None if np.isnan(ood) else ood) for seed, (iid, ood) in means if not np.isnan(iid)}

    @property
    def n(self) -> int:
        """Number of seeds with all test domains."""
        return self.iid.n if self.iid else 0

    @cached_property
    def missing(self) -> tuple[Missing, ...]:
        """The candidates' missing runs on the test domains."""
        members = dict.fromkeys(setting.without(ALPHA) for setting in self.candidates)
        missing = (run for setting in members for run in self.averages.missing_of.get(setting, ()))
        return tuple(run for run in missing if run.test_domain in self.test_domains)

    @property
    def complete(self) -> bool:
        """Whether no run is missing."""
        return not self.missing

    @property
    def dots(self) -> int:
        """Number of points of ``cloud``."""
        return math.prod(len(own) for own in self.shown.values())

    def cloud(self) -> FloatArray:
        """The combinations of ``shown`` over all test domains, whatever was chosen; see ``combinations``.

        A candidate is combined on the test domains where it has a mean; where a test domain has none there are no
        points, (0, 2).
        """
        return combinations([self.averages.means[rows, column, :2] for column, rows in self._in_cloud()])

    @cached_property
    def centre(self) -> tuple[Estimate, Estimate] | None:
        """The centre of ``cloud``: i.i.d. and o.o.d. accuracy averaged over ``shown`` and the test domains.

        The mean of all combinations is the mean over test domains of the mean over candidates. It is taken within each
        seed that has every run of the cloud, then over these seeds. None where there is no such seed, or a test domain
        has no candidate.
        """
        if not self.dots:
            return None
        by_seed = np.mean([self.averages.values[rows, column].mean(0) for column, rows in self._in_cloud()], axis=0)
        iid, ood = mean_over_seeds(by_seed[:, 0]), mean_over_seeds(by_seed[:, 1])
        return None if iid is None or ood is None else (iid, ood)

    def _in_cloud(self) -> list[tuple[int, list[int]]]:
        """Each test domain's index in the arrays, with those of its ``shown``."""
        return [(column, [self.averages.index[each] for each in own]) for column, own in enumerate(self.shown.values())]


def combinations(choices: Sequence[npt.ArrayLike], most: int | None = None) -> FloatArray:
    """Every way to choose one setting for each test domain, averaged over the test domains (section 4.1, figure 2).

    With 6 settings for each of 4 test domains these are the paper's 6⁴ = 1,296 dots.

    Args:
        choices: (i.i.d., o.o.d.) accuracies of the K settings on each of D test domains, (K, 2); K may differ.
        most: largest number of combinations; where there are more, so many are drawn, always the same.

    Returns:
        (product of the Ks, 2), in the order of ``itertools.product(*choices)``.
    """
    arrays = [np.asarray(choice, dtype=np.float64) for choice in choices]
    if most is not None and math.prod(map(len, arrays)) > most:
        rng = np.random.Generator(np.random.Philox(key=0))
        return np.asarray(np.mean([each[rng.integers(len(each), size=most)] for each in arrays], axis=0))
    total = np.zeros((1, 2))
    for each in arrays:
        total = (total[:, None, :] + each[None, :, :]).reshape(-1, 2)
    return total / len(arrays)
