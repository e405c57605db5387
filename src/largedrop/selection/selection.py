"""Selection over stored records: which setting to take, without a look at what it is then measured by.

Three rules, as Gulrajani & Lopez-Paz (2020, "In Search of Lost Domain Generalization", section 3) define them:
``iid`` (training-domain validation), ``leave-one-domain-out`` and ``oracle``. Accuracies are fractions throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TUNED
from ..errors import UserError, one_of
from ..runs.estimate import Estimate, estimate_json
from ..runs.methods import METHODS
from ..runs.record import Record
from .averages import Averages, Missing, Setting, average, domains_of, left_out, settings_of

__all__ = ["RULES", "Choice", "centre", "combinations", "family_cloud", "groups", "select"]


FloatArray = npt.NDArray[np.float64]


RULES = ("iid", "leave-one-domain-out", "oracle")
"""``iid`` is the paper's and the default everywhere. ``oracle`` looks at the o.o.d. accuracy that it then reports."""


MOST_COMBINATIONS = 2_000_000

_MOST_NAMED = 12


@dataclass(frozen=True)
class Choice:
    """What one group of settings reaches when a rule chooses among them for each test domain.

    Attributes:
        group: what the settings of the group have in common.
        rule: one of ``RULES``.
        chosen: by test domain the setting; a domain for which none could be chosen is absent.
        iid: i.i.d. accuracy of the chosen, averaged over the test domains within each seed, then over the seeds that
            have all of them, with its standard error over those seeds; None where no seed has all of them.
        ood: the same of the o.o.d. accuracy.
        domains: (i.i.d., o.o.d.) estimates of the chosen by test domain, over seeds.
        by_seed: seed → (i.i.d., o.o.d.) averaged over the test domains, for the seeds that have all of them.
        missing: the group's runs that the grid has and the records lack.
    """

    group: Setting
    rule: str
    chosen: Mapping[str, Setting]
    iid: Estimate | None
    ood: Estimate | None
    domains: Mapping[str, tuple[Estimate, Estimate]]
    by_seed: Mapping[int, tuple[float, float]]
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        """The choice as plain JSON types, accuracies as fractions."""
        return {
            "method": self.group.method,
            "dropout": self.group.dropout,
            "settings": dict(self.group.items),
            "selection": self.rule,
            "iid": estimate_json(self.iid),
            "ood": estimate_json(self.ood),
            "by_seed": {str(seed): {"iid": iid, "ood": ood} for seed, (iid, ood) in self.by_seed.items()},
            "domains": {
                domain: {"iid": estimate_json(iid), "ood": estimate_json(ood), "chosen": str(self.chosen[domain])}
                for domain, (iid, ood) in self.domains.items()
            },
            "missing": [str(entry) for entry in self.missing],
        }


def groups(settings: Iterable[Setting], tuned: Iterable[str] = TUNED) -> dict[Setting, list[Setting]]:
    """The settings by what they have in common once those named ``tuned`` are left out; both in order."""
    tuned = tuple(tuned)
    found: dict[Setting, list[Setting]] = {}
    for setting in sorted(settings, key=Setting.order):
        found.setdefault(setting.without(*tuned), []).append(setting)
    return {group: found[group] for group in sorted(found, key=Setting.order)}


def combinations(choices: Sequence[npt.ArrayLike]) -> FloatArray:
    """Every way to choose one setting for each test domain, averaged over the test domains (section 4.1, figure 2).

    With 6 settings for each of 4 test domains these are the paper's 6⁴ = 1,296 dots.

    Args:
        choices: for each of D test domains the (i.i.d., o.o.d.) accuracies of its K settings, (K, 2); a (D, K, 2)
            array where all have as many.

    Returns:
        (K^D, 2), or the product of the Ks where they differ; in the order of ``itertools.product(*choices)``.

    Raises:
        UserError: there is no test domain, a shape is another, or there are more than 2 million combinations.
    """
    arrays = [np.asarray(choice, dtype=np.float64) for choice in choices]
    if not arrays:
        raise UserError("no combinations: there is no test domain")
    wrong = [
        f"test domain {place} has shape {each.shape}" for place, each in enumerate(arrays) if each.shape[1:] != (2,)
    ]
    if wrong:
        raise UserError(f"combinations want an array (settings, 2) for each test domain; {'; '.join(wrong)}")
    counts = [len(each) for each in arrays]
    number = 1
    for count in counts:
        number *= count
    if number > MOST_COMBINATIONS:
        raise UserError(
            f"{' × '.join(map(str, counts))} settings make {number:,} combinations over {len(counts)} test domains, "
            f"more than {MOST_COMBINATIONS:,}; choose among fewer settings"
        )
    total = np.zeros((1, 2))
    for each in arrays:
        total = (total[:, None, :] + each[None, :, :]).reshape(-1, 2)
    return total / len(arrays)


def family_cloud(averages: Averages, settings: Sequence[Setting]) -> FloatArray:
    """The combinations of some settings over all test domains, as (i.i.d., o.o.d.); see ``combinations``.

    A setting takes part on the test domains where no seed is missing (or with ``average``'s ``allow_missing``, where
    any is there). Where a test domain has none there are no points, (0, 2).
    """
    rows = [averages.rows[setting] for setting in settings]
    means = averages.means[rows]
    return combinations([column[~np.isnan(column[:, 0])] for column in means.transpose(1, 0, 2)])


def centre(averages: Averages, settings: Sequence[Setting]) -> tuple[Estimate, Estimate] | None:
    """The centre of the cloud of some settings: i.i.d. and o.o.d. accuracy averaged over settings and test domains.

    The mean of all combinations is the mean over test domains of the mean over settings, so none has to be made. The
    standard error is that of the seeds' own centres, over the seeds that have every run; n is their number. None
    where a test domain has no setting without missing seeds.
    """
    rows = [averages.rows[setting] for setting in settings]
    means, values = averages.means[rows], averages.values[rows]
    there = ~np.isnan(means[:, :, 0])
    if not there.any(0).all():
        return None
    middle = np.nanmean(np.where(there[:, :, None], means, np.nan), axis=0).mean(0)
    found = []
    for which in range(2):
        by_seed = [
            float(np.nanmean(np.where(there, one, np.nan), axis=0).mean())
            for one in values[:, :, :, which].transpose(2, 0, 1)
            if not np.isnan(one[there]).any()
        ]
        spread = Estimate.of(by_seed)
        found.append(Estimate(round(float(middle[which]), 12), spread.error if spread else None, len(by_seed)))
    return found[0], found[1]


def select(
    records: Iterable[Record],
    rule: str = "iid",
    *,
    tuned: Iterable[str] = TUNED,
    domains: Iterable[str] = (),
    seeds: Iterable[int] = (),
    allow_missing: bool = False,
) -> list[Choice]:
    """Choose, for each group and test domain, one of the settings that differ in ``tuned`` alone.

    ``iid``: the setting of best i.i.d. accuracy, averaged over seeds. ``leave-one-domain-out``: the setting that, over
    the other domains V, does best on V when trained without V and without the test domain, averaged over V and seeds;
    those are the records with ``test_domain`` V and ``settings["left_out"]`` the test domain, so that nothing of it is
    seen. ``oracle``: the setting of best o.o.d. accuracy on the test domain itself, an upper bound and no method.

    Of settings whose scores agree to 12 digits, the first in ``Setting.order`` is chosen: the lower learning rate,
    then the lower weight decay (names in alphabetical order, numbers ascending).

    Args:
        records: with and without ``left_out``; those with one serve ``leave-one-domain-out`` only.
        rule: one of ``RULES``.
        tuned: names of the settings that are chosen among.
        domains: test domains, besides those of the records, that every setting should have.
        seeds: seeds, besides those of the records, that every setting should have.
        allow_missing: let settings with missing seeds take part, with the mean of those that are there.

    Returns:
        One choice for each group, plain fine-tuning first.

    Raises:
        UserError: an unknown rule, no records, two records of one setting, test domain, left-out domain and seed, or
            (``leave-one-domain-out``) runs that it needs are not there; they are named.
    """
    if rule not in RULES:
        raise UserError(f"unknown selection '{rule}'; {one_of(rule, RULES)}")
    records, tuned = list(records), tuple(tuned)
    averages = average(records, domains=domains, seeds=seeds, allow_missing=allow_missing)
    grouped = groups(averages.settings, tuned)
    if rule == "leave-one-domain-out":
        scores = _left_out_scores(records, averages)
    else:
        scores = averages.means[:, :, 0 if rule == "iid" else 1]
    return [_choose(group, settings, rule, scores, averages) for group, settings in grouped.items()]


def _choose(group: Setting, settings: Sequence[Setting], rule: str, scores: FloatArray, averages: Averages) -> Choice:
    rows = [averages.rows[setting] for setting in settings]
    picked: dict[str, int] = {}
    for column, domain in enumerate(averages.domains):
        here = np.round(scores[rows, column], 12)
        # A setting can have a score and yet lack a run on the test domain itself, and then there is nothing to report.
        here[np.isnan(averages.means[rows, column, 0])] = np.nan
        if not np.isnan(here).all():
            # The first of equals: the rows are in ``Setting.order``.
            picked[domain] = rows[int(np.nanargmax(here))]
    chosen = {domain: averages.settings[row] for domain, row in picked.items()}
    values = np.full((len(averages.domains), len(averages.seeds), 2), np.nan)
    for column, domain in enumerate(averages.domains):
        if domain in picked:
            values[column] = averages.values[picked[domain], column]
    whole = ~np.isnan(values[:, :, 0]).any(0)
    by_seed = {
        seed: (float(values[:, place, 0].mean()), float(values[:, place, 1].mean()))
        for place, seed in enumerate(averages.seeds)
        if whole[place]
    }
    members = set(settings)
    return Choice(
        group=group,
        rule=rule,
        chosen=chosen,
        iid=Estimate.of([iid for iid, _ in by_seed.values()]),
        ood=Estimate.of([ood for _, ood in by_seed.values()]),
        domains={domain: _estimates(values[averages.domains.index(domain)]) for domain in picked},
        by_seed=by_seed,
        missing=tuple(entry for entry in averages.missing if entry.setting in members),
    )


def _estimates(values: FloatArray) -> tuple[Estimate, Estimate]:
    """Estimates of i.i.d. and o.o.d. accuracy from (seeds, 2), NaN where a seed is missing; at least one is there."""
    there = values[~np.isnan(values[:, 0])]
    iid, ood = (Estimate.of([float(value) for value in column]) for column in there.T)
    if iid is None or ood is None:
        raise ValueError("no seed is there")
    return iid, ood


def _left_out_scores(records: Sequence[Record], averages: Averages) -> FloatArray:
    """The leave-one-domain-out score of every setting for every test domain, (K, D).

    Raises:
        UserError: runs that leave out both the test domain and another one are missing.
    """
    targets, seeds = averages.domains, averages.seeds
    # What is tested on in the choice for a target may be a domain that is itself no target.
    domains = list(dict.fromkeys([*targets, *domains_of(records)]))
    if len(domains) < 3:
        raise UserError(
            f"leave-one-domain-out selection needs three domains or more (one to test on, one to choose on, one to "
            f"train on); there {'is' if len(domains) == 1 else 'are'} {', '.join(domains)}"
        )
    found: dict[tuple[Setting, str, str, int], float] = {}
    make = settings_of(records)
    for record in records:
        if left_out(record):
            found[make(record), record.test_domain, left_out(record), record.seed] = record.ood_accuracy
    scores = np.full((len(averages.settings), len(targets)), np.nan)
    lacking: list[str] = []
    number = 0
    for row, setting in enumerate(averages.settings):
        if METHODS[setting.method].across:  # of all settings together, so there is nothing to choose among
            scores[row] = 0.0
            continue
        for column, target in enumerate(targets):
            keys = [(setting, other, target, seed) for other in domains if other != target for seed in seeds]
            gone = [key for key in keys if key not in found]
            if gone:
                number += len(gone)
                which = ", ".join(f"{other} (seed {seed})" for _, other, _, seed in gone)
                lacking.append(f"{setting}: left out {target}, test domain {which}")
            else:
                scores[row, column] = float(np.mean([found[key] for key in keys]))
    if lacking:
        more = len(lacking) - _MOST_NAMED
        listed = [*lacking[:_MOST_NAMED], *([f"… and {more} more settings and domains like these"] if more > 0 else [])]
        raise UserError(
            f"leave-one-domain-out selection needs runs that leave out the test domain and another one; {number} of "
            f"them {'is' if number == 1 else 'are'} not stored:\n" + "\n".join(listed)
        )
    return scores
