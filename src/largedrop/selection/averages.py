"""Accuracies of a grid of runs as one array, their means over seeds, and the missing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import RIVALS
from ..errors import UserError
from ..runs.estimate import Estimate, tested_on
from ..runs.methods import METHODS
from ..runs.record import ALPHA, Record
from .settings import Setting, left_out, settings_of

__all__ = ["Averages", "FloatArray", "Missing", "average", "cut", "mean_over_seeds"]

FloatArray = npt.NDArray[np.float64]

SCORES = ("iid_accuracy", "ood_accuracy", "iid_macro_accuracy", "ood_macro_accuracy")
"""Names of the scores of a record, in the order of the arrays."""

_scores = attrgetter(*SCORES)

MOST_NAMED = 12


@dataclass(frozen=True)
class Missing:
    """A run of the grid that the records lack; its setting has no α, of which a run gives all."""

    setting: Setting
    test_domain: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}; {tested_on([self.test_domain])}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Averages:
    """Accuracies of K settings on D test domains over S seeds, as fractions.

    Attributes:
        settings: the K settings, in ``Setting.order``.
        domains: the D test domains, in the order of the records.
        seeds: the S seeds, ascending.
        values: ``SCORES`` of every run, NaN where it is missing or has no such score, (K, D, S, 4).
        seconds: time of every run, NaN where it is missing, (K, D, S).
        means: their means over the seeds, NaN where a seed is missing unless allowed, (K, D, 4).
        missing: missing runs, by setting, test domain and seed.
        records: the averaged records.
        others: records of runs with a left-out domain, which are not averaged.
        setting_of: function from a record to its setting.
    """

    settings: tuple[Setting, ...]
    domains: tuple[str, ...]
    seeds: tuple[int, ...]
    values: FloatArray
    seconds: FloatArray
    means: FloatArray
    missing: tuple[Missing, ...]
    records: tuple[Record, ...]
    others: tuple[Record, ...]
    setting_of: Callable[[Record], Setting]

    @cached_property
    def index(self) -> dict[Setting, int]:
        """Index of each setting in the arrays."""
        return {setting: index for index, setting in enumerate(self.settings)}

    @cached_property
    def missing_of(self) -> dict[Setting, list[Missing]]:
        """The missing runs of each setting without α that has any."""
        found: dict[Setting, list[Missing]] = {}
        for run in self.missing:
            found.setdefault(run.setting, []).append(run)
        return found

    @cached_property
    def used(self) -> dict[Setting, list[Mapping[str, Any]]]:
        """The distinct full settings of the runs of each setting."""
        found: dict[Setting, dict[int, Mapping[str, Any]]] = {}
        distinct = {(id(record.settings), record.method, record.dropout): record for record in self.records}
        for record in distinct.values():
            found.setdefault(self.setting_of(record), {})[id(record.settings)] = record.settings
        return {setting: list(settings.values()) for setting, settings in found.items()}

    def of(self, chosen: Mapping[str, Setting], domains: Sequence[str]) -> FloatArray:
        """Accuracies of the chosen setting on each test domain, NaN where there is none, (domains, S, 4)."""
        values = np.full((len(domains), *self.values.shape[2:]), np.nan)
        for index, domain in enumerate(domains):
            if domain in chosen:
                values[index] = self.values[self.index[chosen[domain]], self.domains.index(domain)]
        return values

    def there(self, settings: Iterable[Setting]) -> npt.NDArray[np.bool_]:
        """Whether each setting has a mean on each test domain, and so is in choices and clouds, (settings, D)."""
        return ~np.isnan(self.means[[self.index[setting] for setting in settings], :, 0])


def average(
    records: Iterable[Record],
    *,
    domains: Iterable[str] = (),
    seeds: Iterable[int] = (),
    allow_missing: bool = False,
    with_left_out: bool = False,
) -> Averages:
    """Average over seeds, for every setting and test domain, and list the missing runs.

    The grid is every setting on every test domain with every seed, of the records and of the arguments. A setting with
    a missing seed on a test domain has no mean there (NaN), unless ``allow_missing``; its runs are listed in either
    case. Records with ``settings["left_out"]`` are for ``leave-one-domain-out`` selection and not averaged, unless
    ``with_left_out``; nor are those without a test domain, where others have one.

    Raises:
        UserError: there is no record, or there are two of one setting, test domain, left-out domain and seed.
    """
    records = tuple(records)
    records = tuple(record for record in records if record.test_domain) or records
    setting_of = settings_of(records)
    records = _probes_once(records, setting_of)
    others = () if with_left_out else tuple(record for record in records if left_out(record))
    final = tuple(record for record in records if not left_out(record)) if others else records
    if not final:
        only = f" (all {len(records)} leave out a domain besides the test domain)" if records else ""
        raise UserError(f"there is nothing to select from: no run gave a record{only}")
    _refuse_twice(records, setting_of)
    named = list(map(setting_of, final))
    settings = tuple(sorted(set(named), key=Setting.order))
    tested = tuple(dict.fromkeys([*domains, *(record.test_domain for record in final)]))
    all_seeds = tuple(sorted({*seeds, *(record.seed for record in final)}))
    rows, columns, layers = ({name: index for index, name in enumerate(axis)} for axis in (settings, tested, all_seeds))
    values = np.full((len(settings), len(tested), len(all_seeds), len(SCORES)), np.nan)
    seconds = np.full(values.shape[:3], np.nan)
    at = (
        [rows[setting] for setting in named],
        [columns[record.test_domain] for record in final],
        [layers[record.seed] for record in final],
    )
    values[at] = np.array(list(map(_scores, final)), dtype=np.float64)  # None is NaN
    seconds[at] = [record.seconds for record in final]
    there = ~np.isnan(values[..., 0])
    counts = there.sum(axis=2)
    usable = there.any(axis=2) if allow_missing else there.all(axis=2)
    totals = np.where(there[..., None], values, 0.0).sum(axis=2)
    means = np.where(usable[..., None], totals / np.maximum(counts, 1)[..., None], np.nan)
    gone = np.argwhere(~there).tolist()
    bare = [setting.without(ALPHA) for setting in settings]
    missing = tuple(dict.fromkeys(Missing(bare[k], tested[d], all_seeds[s]) for k, d, s in gone))
    return Averages(settings, tested, all_seeds, values, seconds, means, missing, final, others, setting_of)


def mean_over_seeds(values: FloatArray) -> Estimate | None:
    """Mean and standard error of ``values``, (S,), over the seeds that are not NaN; None without any."""
    there = values[~np.isnan(values)]
    return Estimate.of(there) if len(there) else None


def _probes_once(records: Iterable[Record], setting_of: Callable[[Record], Setting]) -> tuple[Record, ...]:
    """``records`` with one linear probe, the first, of runs that differ in what makes rivals only."""
    first: dict[tuple[Setting, str, str, int], list[Any]] = {}

    def kept(record: Record) -> bool:
        if METHODS[record.method].fit != "probe":
            return True
        key = (setting_of(record), record.test_domain, left_out(record), record.seed)
        rivals = [record.settings.get(name) for name in RIVALS]
        return first.setdefault(key, rivals) == rivals

    return tuple(record for record in records if kept(record))


def _refuse_twice(records: Iterable[Record], setting_of: Callable[[Record], Setting]) -> None:
    keys = [(setting_of(record), record.test_domain, left_out(record), record.seed) for record in records]
    if len(set(keys)) == len(keys):
        return
    seen: set[tuple[Setting, str, str, int]] = set()
    twice: dict[str, None] = {}
    for key in keys:
        if key in seen:
            besides = f", left out {key[2]}" if key[2] else ""
            twice[f"{key[0]}; test domain {key[1]}{besides}, seed {key[3]}"] = None
        seen.add(key)
    if twice:
        raise UserError("there are two records of the same run:\n" + "\n".join(cut(list(twice), "more like these")))


def cut(lines: Sequence[str], more: str, most: int = MOST_NAMED) -> list[str]:
    """The first ``most`` lines, and the number of further ones, which are called ``more``."""
    left = len(lines) - most
    return [*lines[:most], *([f"… and {left:,} {more}"] if left > 0 else [])]
