"""Settings: the items in which records differ, besides seed and domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..config import RIVALS, TUNED
from ..runs.methods import METHODS, PLAIN, order
from ..runs.record import ALPHA, Record, shown

__all__ = ["FIT", "MASKS", "Setting", "candidates_of", "left_out", "settings_of"]

LEFT_OUT = "left_out"
"""Key, in a record's settings, of the left-out domain."""

FIT = "fit"
"""Key, in a record's settings, of ``Config.fit``."""

MASKS = "masks"
"""Key, in a record's settings, of the number of dropout masks, which nothing without dropout has."""


@dataclass(frozen=True)
class Setting:
    """Method, dropout rate and the other settings in which records differ.

    Attributes:
        method: name of the method, one of ``METHODS``.
        dropout: dropout rate on the representation.
        items: (name, value) of the settings that differ between the records, in alphabetical order.

    >>> print(Setting("fine-tuning", 0.9, (("lr", 0.0005), ("weight_decay", 1e-05))))
    fine-tuning, dropout 0.9, lr 0.0005, weight_decay 1e-05
    """

    method: str
    dropout: float
    items: tuple[tuple[str, Any], ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: a setting is looked up for each of its records."""
        return hash((self.method, self.dropout, self.items))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.method, f"dropout {self.dropout:g}", self.others)))

    @property
    def rival(self) -> bool:
        """Whether an item makes it an alternative to plain fine-tuning, with or without dropout (``RIVALS``)."""
        return any(_off_default(*item) for item in self.items)

    @property
    def baseline(self) -> bool:
        """Whether this is plain fine-tuning, the baseline of gains: no dropout and no rival."""
        return self.method == PLAIN.name and self.dropout == 0 and not self.rival

    @property
    def common(self) -> Setting:
        """The setting without what makes a rival: what it has in common with its baseline."""
        return self.without(*RIVALS)

    @property
    def others(self) -> str:
        """The items as text, without what makes no rival; one mask is named where others have several."""
        said = (item for item in self.items if item[0] == MASKS or item[0] not in RIVALS or _off_default(*item))
        return ", ".join(_named(said))

    def value(self, name: str) -> str:
        """The value of the item ``name`` as text; ``–`` where there is none."""
        return next((shown(value) for item, value in self.items if item == name), "–")

    @property
    def alpha(self) -> str:
        """The share of the way back as text; empty where the method has none."""
        return self.value(ALPHA).replace("–", "")

    def without(self, *names: str) -> Setting:
        """The setting without the items ``names``."""
        return Setting(self.method, self.dropout, tuple(item for item in self.items if item[0] not in names))

    def only(self, *names: str) -> str:
        """The items ``names`` as text; ``–`` without any."""
        return ", ".join(_named(item for item in self.items if item[0] in names)) or "–"

    def order(self) -> tuple[Any, ...]:
        """Sort key of settings: by method in the order of ``METHODS``, by rate, rivals last, by name and value
        of the items.

        Numbers are ascending and before text, but α is descending. In a tie of scores the first setting is chosen: the
        lower rate and the larger α stay nearer to the pretrained weights.
        """
        items = tuple((name, _sortable(-value if name == ALPHA else value)) for name, value in self.items)
        return (order(self.method), self.dropout, self.rival, items)


def left_out(record: Record) -> str:
    """The left-out domain of ``record``; empty where there is none."""
    return str(record.settings.get(LEFT_OUT) or "")


def settings_of(records: Iterable[Record]) -> Callable[[Record], Setting]:
    """A function from a record to its setting, whose items are those that differ between ``records``.

    An item that only some records have differs between them, but masks belong to dropout: records without it have no
    such item, and do not make it differ. An item with one value for each fit is implied by the fit (linear fits have
    their own schedule), and omitted. A linear probe, which comes before the training, has no item of rivals,
    and that of a fine-tuning none of the head from which this began.
    """
    # Thousands of records share few of them.
    distinct = {(id(record.settings), record.dropout > 0): record.settings for record in records}
    distinct = {key: known if key[1] else _without_masks(known) for key, known in distinct.items()}
    names = {name for settings in distinct.values() for name in settings} - {LEFT_OUT}
    varied = without_followers(sorted(name for name in names if _differs(name, distinct.values())), distinct.values())
    made: dict[tuple[int, str, float], Setting] = {}

    def setting_of(record: Record) -> Setting:
        key = (id(record.settings), record.method, record.dropout)
        if key not in made:
            settings = distinct[key[0], record.dropout > 0]
            items = tuple((name, settings[name]) for name in varied if name in settings)
            setting = Setting(record.method, record.dropout, items)
            if METHODS[record.method].fit == "probe":
                setting = setting.common if settings.get(FIT) == "probe" else setting.common.without("head")
            made[key] = setting
        return made[key]

    return setting_of


def candidates_of(settings: Iterable[Setting], tuned: Iterable[str] = TUNED) -> dict[Setting, list[Setting]]:
    """The settings by their part without the items ``tuned`` and without α; both in ``Setting.order``.

    Every run of a method that has α gives all shares, which so are candidates of one row whatever else is tuned.
    """
    tuned = (*tuned, ALPHA)
    found: dict[Setting, list[Setting]] = {}
    for setting in sorted(settings, key=Setting.order):
        found.setdefault(setting.without(*tuned), []).append(setting)
    return {setting: found[setting] for setting in sorted(found, key=Setting.order)}


def without_followers(names: Sequence[str], settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """``names`` without those that have one value for each fit, where the fits differ; tuned names are kept."""
    if FIT not in names:
        return [*names]
    of_fit: dict[Any, list[Mapping[str, Any]]] = {}
    for each in settings:
        of_fit.setdefault(each.get(FIT), []).append(each)
    return [name for name in names if name in (FIT, *TUNED) or any(_differs(name, found) for found in of_fit.values())]


_ABSENT = object()


def _without_masks(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != MASKS}


def _differs(name: str, settings: Iterable[Mapping[str, Any]]) -> bool:
    values = {each.get(name, _ABSENT) for each in settings}
    return len(values - {_ABSENT} if name == MASKS else values) > 1


def _off_default(name: str, value: Any) -> bool:
    return name in RIVALS and value != RIVALS[name]


def _named(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{name} {shown(value)}" for name, value in items]


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, shown(value))
