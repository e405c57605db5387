"""Records averaged over seeds: what a setting is, which runs a grid should have, and which of them are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TUNED
from ..errors import UserError
from ..runs.methods import order
from ..runs.record import Record, shown

__all__ = ["Averages", "Missing", "Setting", "average", "left_out", "settings_of"]


LEFT_OUT = "left_out"
"""Name, in a record's settings, of the domain that was left out of training besides the test domain."""


FIT = "fit"
"""Name, in a record's settings, of what was trained: ``Config.fit``."""


_MOST_NAMED = 12


@dataclass(frozen=True)
class Setting:
    """All that names a run but for its seed and its domains; it can be hashed and printed.

    Attributes:
        method: one of ``METHODS``.
        dropout: rate on the representation.
        items: (name, value) of the settings that differ between the records, in alphabetical order; lists as tuples.

    >>> print(Setting("fine-tuning", 0.9, (("lr", 0.0005), ("weight_decay", 1e-05))))
    fine-tuning, dropout 0.9, lr 0.0005, weight_decay 1e-05
    """

    method: str
    dropout: float
    items: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return ", ".join(
            [self.method, f"dropout {self.dropout:g}", *(f"{name} {shown(to)}" for name, to in self.items)]
        )

    def without(self, *names: str) -> Setting:
        """The setting with the items ``names`` left out."""
        return Setting(self.method, self.dropout, tuple(item for item in self.items if item[0] not in names))

    def only(self, *names: str) -> str:
        """The items ``names`` alone, printed; ``–`` where there are none."""
        return ", ".join(f"{name} {shown(value)}" for name, value in self.items if name in names) or "–"

    def order(self) -> tuple[Any, ...]:
        """Sorts settings: by method as ``METHODS`` has them, by rate, by name and value of the others.

        Numbers are ascending and come before text. This is also how ties are broken: the first is taken.
        """
        return (order(self.method), self.dropout, tuple((name, _sortable(value)) for name, value in self.items))


@dataclass(frozen=True)
class Missing:
    """A run that the grid has and the records lack."""

    setting: Setting
    test_domain: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}; test domain {self.test_domain}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Averages:
    """Accuracies of K settings on D test domains over S seeds, as fractions.

    Attributes:
        settings: K, in ``Setting.order``.
        domains: D test domains, in the order of the records.
        seeds: S, ascending.
        values: (K, D, S, 2): i.i.d. and o.o.d. accuracy of every run, NaN where it is missing.
        means: (K, D, 2): their means over the seeds; NaN where a seed is missing, unless that was allowed.
        counts: (K, D): seeds that are there.
        missing: every run that is NaN in ``values``, by setting, test domain and seed.
    """

    settings: tuple[Setting, ...]
    domains: tuple[str, ...]
    seeds: tuple[int, ...]
    values: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    missing: tuple[Missing, ...]

    @cached_property
    def rows(self) -> dict[Setting, int]:
        """The position of each setting in the arrays."""
        return {setting: row for row, setting in enumerate(self.settings)}


def left_out(record: Record) -> str:
    """The domain that ``record`` was not trained on besides its test domain; empty where there is none."""
    return str(record.settings.get(LEFT_OUT) or "")


def settings_of(records: Iterable[Record]) -> Callable[[Record], Setting]:
    """A function that names the setting of a record by what differs between ``records``.

    A setting that only some records have differs between them. One that has one value for each fit says no more than
    the fit itself (linear fits have a schedule of their own), and is left out.
    """
    seen: dict[str, set[Any]] = {}
    have: dict[str, int] = {}
    count = 0
    last: dict[int, dict[str, Any]] = {}
    for record in records:
        count += 1
        if id(record.settings) in last:  # the methods of one run share their settings
            for name in record.settings:
                have[name] += 1
            continue
        last[id(record.settings)] = record.settings
        for name, value in record.settings.items():
            have[name] = have.get(name, 0) + 1
            seen.setdefault(name, set()).add(_frozen(value))
    varied = sorted(name for name in seen if name != LEFT_OUT and (len(seen[name]) > 1 or have[name] < count))
    if FIT in varied:
        varied = [name for name in varied if name in (FIT, *TUNED) or not _follows_fit(name, last.values())]

    made: dict[tuple[int, str, float], Setting] = {}

    def make(record: Record) -> Setting:
        key = (id(record.settings), record.method, record.dropout)
        if key in made:
            return made[key]
        items = ((name, _frozen(record.settings[name])) for name in varied if name in record.settings)
        setting = Setting(record.method, record.dropout, tuple(items))
        if key[0] in last:  # kept alive there, so that no other object gets its id
            made[key] = setting
        return setting

    return make


def average(
    records: Iterable[Record],
    *,
    settings: Iterable[Setting] = (),
    domains: Iterable[str] = (),
    seeds: Iterable[int] = (),
    allow_missing: bool = False,
) -> Averages:
    """Average over seeds, for every setting and test domain, and name every run that the grid has and nobody did.

    The grid is every setting on every test domain with every seed: those of the records, and those given besides.
    A setting and test domain with a missing seed gets no mean (NaN), unless ``allow_missing``; its runs are listed in
    either case. Records with ``settings["left_out"]`` are for ``leave-one-domain-out`` selection and not averaged.

    Raises:
        UserError: there is no record, or there are two of one setting, test domain, left-out domain and seed.
    """
    records = list(records)
    make = settings_of(records)
    final = [(make(record), record) for record in records if not left_out(record)]
    if not final:
        only = f" (all {len(records)} leave out a domain besides the test domain)" if records else ""
        raise UserError(f"there is nothing to select from: no run gave a record{only}")
    _refuse_twice((make(record), record) for record in records)
    order = sorted({*settings, *(setting for setting, _ in final)}, key=Setting.order)
    places = {setting: place for place, setting in enumerate(order)}
    tested = domains_of(record for _, record in final)
    columns = {name: place for place, name in enumerate(dict.fromkeys([*domains, *tested]))}
    layers = {seed: place for place, seed in enumerate(sorted({*seeds, *(record.seed for _, record in final)}))}
    values = np.full((len(places), len(columns), len(layers), 2), np.nan)
    for setting, record in final:
        pair = (record.iid_accuracy, record.ood_accuracy)
        values[places[setting], columns[record.test_domain], layers[record.seed]] = pair
    there = ~np.isnan(values[..., 0])
    counts = there.sum(axis=2)
    usable = counts > 0 if allow_missing else counts == len(layers)
    means = np.full((*counts.shape, 2), np.nan)
    totals = np.where(there[..., None], values, 0.0).sum(axis=2)
    means[usable] = totals[usable] / counts[usable][:, None]
    names, ages = list(columns), list(layers)
    missing = tuple(
        Missing(order[row], names[column], ages[layer]) for row, column, layer in np.argwhere(~there).tolist()
    )
    return Averages(tuple(order), tuple(names), tuple(ages), values, means, counts.astype(np.int64), missing)


def domains_of(records: Iterable[Record]) -> list[str]:
    """The test domains of the records, in their order."""
    return list(dict.fromkeys(record.test_domain for record in records))


def _follows_fit(name: str, settings: Iterable[Mapping[str, Any]]) -> bool:
    values: dict[Any, set[Any]] = {}
    for each in settings:
        values.setdefault(_frozen(each.get(FIT)), set()).add(_frozen(each.get(name)))
    return all(len(found) == 1 for found in values.values())


def _refuse_twice(named: Iterable[tuple[Setting, Record]]) -> None:
    seen: set[tuple[Setting, str, str, int]] = set()
    twice: dict[str, None] = {}
    for setting, record in named:
        key = (setting, record.test_domain, left_out(record), record.seed)
        if key in seen:
            besides = f", left out {key[2]}" if key[2] else ""
            twice[f"{setting}; test domain {key[1]}{besides}, seed {key[3]}"] = None
        seen.add(key)
    if twice:
        more = len(twice) - _MOST_NAMED
        listed = [*list(twice)[:_MOST_NAMED], *([f"… and {more} more like these"] if more > 0 else [])]
        raise UserError("there are two records of the same run:\n" + "\n".join(listed))


def _frozen(value: Any) -> Any:
    """``value``, hashable: lists as tuples, objects as sorted tuples of their entries."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(entry) for entry in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(value[name])) for name in sorted(value))
    return value


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, shown(value))
