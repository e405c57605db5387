"""A row of results: what a group of settings reaches where one is chosen for each test domain, and its cloud."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..runs.estimate import Estimate
from .averages import Averages, FloatArray, Missing, mean_over_seeds
from .groups import Setting

__all__ = ["Row", "combinations"]


@dataclass(frozen=True, eq=False)
class Row:
    """What one group of settings reaches when a rule chooses among them for each test domain.

    Accuracies are first averaged over the test domains within each seed that has all of them, then over those seeds.

    Attributes:
        averages: of all settings that were chosen among.
        rule: that chose, one of ``selection.RULES``.
        group: what the settings of the group have in common.
        settings: those of the group.
        chosen: by test domain the setting; a domain for which none could be chosen is absent.
        plain: the same for plain fine-tuning with the same other settings; None where it is not there, and for plain
            fine-tuning itself.
        test_domains: D that the row is over, in the order of the grid.
    """

    averages: Averages
    rule: str
    group: Setting
    settings: tuple[Setting, ...]
    chosen: Mapping[str, Setting]
    plain: Mapping[str, Setting] | None
    test_domains: tuple[str, ...]

    @property
    def method(self) -> str:
        """One of ``METHODS``."""
        return self.group.method

    @property
    def dropout(self) -> float:
        """Rate on the representation."""
        return self.group.dropout

    @property
    def baseline(self) -> bool:
        """Whether this is plain fine-tuning, against which gains are taken."""
        return self.group.baseline

    @cached_property
    def domains(self) -> dict[str, Row]:
        """The row of each test domain by itself."""
        return {domain: replace(self, test_domains=(domain,)) for domain in self.test_domains}

    @cached_property
    def values(self) -> FloatArray:
        """(D, S, 2): i.i.d. and o.o.d. accuracy of the chosen settings' runs, NaN where there is none."""
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
    def gain(self) -> Estimate | None:
        """O.o.d. accuracy minus that of plain fine-tuning, paired by test domain and seed.

        What makes a seed's split easy or hard cancels. None for plain fine-tuning and where nothing can be paired.
        """
        if self.plain is None:
            return None
        return mean_over_seeds((self.values - self.averages.of(self.plain, self.test_domains))[:, :, 1].mean(0))

    @property
    def by_seed(self) -> dict[int, tuple[float, float]]:
        """Seed → (i.i.d., o.o.d.) averaged over the test domains, for the seeds that have all of them."""
        means = zip(self.averages.seeds, self.values.mean(0).tolist(), strict=True)
        return {seed: (iid, ood) for seed, (iid, ood) in means if not np.isnan(iid)}

    @property
    def n(self) -> int:
        """How many seeds have all test domains."""
        return self.ood.n if self.ood else 0

    @cached_property
    def missing(self) -> tuple[Missing, ...]:
        """The group's runs on the test domains that the grid has and the records lack."""
        members = set(self.settings)
        return tuple(
            run for run in self.averages.missing if run.setting in members and run.test_domain in self.test_domains
        )

    @property
    def complete(self) -> bool:
        """Whether no run is missing."""
        return not self.missing

    @property
    def dots(self) -> int:
        """How many points ``cloud`` has."""
        return math.prod(int(count) for count in self.averages.there(self.settings).sum(0))

    def cloud(self) -> FloatArray:
        """The combinations of the group's settings over all test domains, whatever was chosen; see ``combinations``.

        A setting takes part on the test domains where it has a mean; where a test domain has none there are no points,
        (0, 2).
        """
        means = self.averages.means[[self.averages.index[setting] for setting in self.settings]]
        return combinations([column[~np.isnan(column[:, 0])] for column in means.transpose(1, 0, 2)])

    @cached_property
    def centre(self) -> tuple[Estimate, Estimate] | None:
        """The centre of ``cloud``: i.i.d. and o.o.d. accuracy averaged over settings and test domains.

        The mean of all combinations is the mean over test domains of the mean over settings, so none has to be made.
        It is taken within each seed that has every run that takes part, then over those seeds. None where there is no
        such seed, or a test domain has no setting.
        """
        there = self.averages.there(self.settings)[:, :, None, None]
        if not there.any(0).all():
            return None
        values = self.averages.values[[self.averages.index[setting] for setting in self.settings]]
        by_seed = (np.where(there, values, 0.0).sum(0) / there.sum(0)).mean(0)
        iid, ood = mean_over_seeds(by_seed[:, 0]), mean_over_seeds(by_seed[:, 1])
        return None if iid is None or ood is None else (iid, ood)


def combinations(choices: Sequence[npt.ArrayLike], most: int | None = None) -> FloatArray:
    """Every way to choose one setting for each test domain, averaged over the test domains (section 4.1, figure 2).

    With 6 settings for each of 4 test domains these are the paper's 6⁴ = 1,296 dots.

    Args:
        choices: for each of D test domains the (i.i.d., o.o.d.) accuracies of its K settings, (K, 2); a (D, K, 2)
            array where all have as many.
        most: where there would be more, so many ways are drawn, always the same ones.

    Returns:
        (K^D, 2), or the product of the Ks where they differ; in the order of ``itertools.product(*choices)``.
    """
    arrays = [np.asarray(choice, dtype=np.float64) for choice in choices]
    if most is not None and math.prod(map(len, arrays)) > most:
        rng = np.random.Generator(np.random.Philox(key=0))
        return np.asarray(np.mean([each[rng.integers(len(each), size=most)] for each in arrays], axis=0))
    total = np.zeros((1, 2))
    for each in arrays:
        total = (total[:, None, :] + each[None, :, :]).reshape(-1, 2)
    return total / len(arrays)
