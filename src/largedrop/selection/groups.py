"""What tells runs apart: a setting is all that differs between records but for seed and domains, and a group is
settings that differ in what is tuned alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import TUNED
from ..runs.methods import PLAIN, method_of, order
from ..runs.record import Record, shown

__all__ = ["FIT", "Setting", "groups", "left_out", "settings_of"]

LEFT_OUT = "left_out"
"""Name, in a record's settings, of the domain that was left out of training besides the test domain."""

FIT = "fit"
"""Name, in a record's settings, of what was trained: ``Config.fit``."""


@dataclass(frozen=True)
class Setting:
    """All that names a run but for its seed and its domains; it can be hashed and printed.

    Attributes:
        method: one of ``METHODS``.
        dropout: rate on the representation.
        items: (name, value) of the settings that differ between the records, in alphabetical order.

    >>> print(Setting("fine-tuning", 0.9, (("lr", 0.0005), ("weight_decay", 1e-05))))
    fine-tuning, dropout 0.9, lr 0.0005, weight_decay 1e-05
    """

    method: str
    dropout: float
    items: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return ", ".join([self.method, f"dropout {self.dropout:g}", *_named(self.items)])

    @property
    def baseline(self) -> bool:
        """Whether this is plain fine-tuning, against which gains are taken."""
        return method_of(self.method, self.dropout) is PLAIN

    @property
    def others(self) -> str:
        """All but method and dropout rate, printed; empty where nothing else differs."""
        return ", ".join(_named(self.items))

    def value(self, name: str) -> str:
        """The value of the item ``name``, printed; ``–`` where there is none."""
        return next((shown(value) for item, value in self.items if item == name), "–")

    def without(self, *names: str) -> Setting:
        """The setting with the items ``names`` left out."""
        return Setting(self.method, self.dropout, tuple(item for item in self.items if item[0] not in names))

    def only(self, *names: str) -> str:
        """The items ``names`` alone, printed; ``–`` where there are none."""
        return ", ".join(_named(item for item in self.items if item[0] in names)) or "–"

    def order(self) -> tuple[Any, ...]:
        """Sorts settings: by method as ``METHODS`` has them, by rate, by name and value of the others.

        Numbers are ascending and come before text. This is also how ties are broken: the first is taken.
        """
        return (order(self.method), self.dropout, tuple((name, _sortable(value)) for name, value in self.items))


def left_out(record: Record) -> str:
    """The domain that ``record`` was not trained on besides its test domain; empty where there is none."""
    return str(record.settings.get(LEFT_OUT) or "")


def settings_of(records: Iterable[Record]) -> Callable[[Record], Setting]:
    """A function that names the setting of a record by what differs between ``records``.

    A setting that only some records have differs between them. One that has one value for each fit says no more than
    the fit itself (linear fits have a schedule of their own), and is left out.
    """
    distinct = {id(record.settings): record.settings for record in records}  # thousands of records share few of them
    names = {name for settings in distinct.values() for name in settings} - {LEFT_OUT}
    varied = sorted(name for name in names if len({settings.get(name, _ABSENT) for settings in distinct.values()}) > 1)
    varied = without_followers(varied, distinct.values())
    made: dict[tuple[int, str, float], Setting] = {}

    def setting_of(record: Record) -> Setting:
        key = (id(record.settings), record.method, record.dropout)
        if key not in made:
            settings = distinct[key[0]]
            items = tuple((name, settings[name]) for name in varied if name in settings)
            made[key] = Setting(record.method, record.dropout, items)
        return made[key]

    return setting_of


def groups(settings: Iterable[Setting], tuned: Iterable[str] = TUNED) -> dict[Setting, list[Setting]]:
    """The settings by what they have in common once those named ``tuned`` are left out; both in order."""
    tuned = tuple(tuned)
    found: dict[Setting, list[Setting]] = {}
    for setting in sorted(settings, key=Setting.order):
        found.setdefault(setting.without(*tuned), []).append(setting)
    return {group: found[group] for group in sorted(found, key=Setting.order)}


def without_followers(names: Sequence[str], settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """``names`` without those that have one value for each fit, where the fits differ; what is tuned stays."""
    if FIT not in names:
        return [*names]
    of_fit: dict[Any, list[Mapping[str, Any]]] = {}
    for each in settings:
        of_fit.setdefault(each.get(FIT), []).append(each)
    return [
        name
        for name in names
        if name in (FIT, *TUNED) or any(len({each.get(name) for each in found}) > 1 for found in of_fit.values())
    ]


_ABSENT = object()


def _named(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{name} {shown(value)}" for name, value in items]


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, shown(value))
