"""Descriptions of a config's fields: valid values, help, unit, and part in digests, features and reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any

__all__ = ["About", "Check", "choice", "fields_in"]

Check = tuple[str, Callable[[Any], bool]]
"""What a value must be, as text, and a function that checks a value of the field's type."""

TEXT: Check = ("text", lambda value: True)
NAME: Check = ("a name", lambda value: value != "")
DOMAIN: Check = ("the name of a domain", lambda value: True)
SWITCH: Check = ("true or false", lambda value: True)
RATE: Check = ("in [0, 1)", lambda value: 0 <= value < 1)
SHARE: Check = ("in (0, 1)", lambda value: 0 < value < 1)
SHARE_OF_STEPS: Check = ("a share of the steps, in [0, 1)", lambda value: 0 <= value < 1)
MOMENT: Check = ("in (0, 1]", lambda value: 0 < value <= 1)
ABOVE_0: Check = ("above 0", lambda value: value > 0)
FROM_0: Check = ("0 or more", lambda value: value >= 0)
COUNT_FROM_0: Check = ("a whole number, 0 or more", lambda value: value >= 0)
COUNT: Check = ("a whole number from 1 to 10**7", lambda value: 1 <= value <= 10**7)
SEED: Check = ("a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)
PIXELS: Check = ("a whole number of pixels from 16 to 4096", lambda value: 16 <= value <= 4096)


def choice(*names: str) -> Check:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}", lambda value: value in names


@dataclass(frozen=True)
class About:
    """The description of a field of ``Config``, besides name, type and default.

    Attributes:
        group: group of fields in ``--help``: ``data``, ``method``, ``schedule`` or ``view``.
        help: one line for ``--help``.
        check: condition on the values.
        unit: unit of the values; empty for none.
        names: ``dataset`` or ``run`` where the field identifies the dataset or the run: it is not one of a record's
            ``settings``, but a field of its own.
        elsewhere: origin of the field, where neither a preset nor an option sets it.
        features: ``network`` where the network's structure or precision depends on the field, ``weights`` where its
            pretrained weights do: features of the frozen network depend on both.
        scored: whether accuracies depend on its value by images or views, so that a report cannot mix values.
        later: whether the field is newer than the first runs: at its default it is not in digests, which so stay.
        tuned: whether the field is tuned (section 4.1); the paper compares the others.
        fine_tuning: whether only fine-tuning uses the field, so that other fits need its default.
    """

    group: str
    help: str
    check: Check
    unit: str = ""
    names: str = ""
    elsewhere: str = ""
    features: str = ""
    scored: bool = False
    later: bool = False
    tuned: bool = False
    fine_tuning: bool = False

    @property
    def option(self) -> bool:
        """Whether the field is an option of every command that trains."""
        return not self.names and not self.elsewhere


def fields_in(group: str) -> Callable[..., Any]:
    """The function that makes fields of a group."""

    def make(text: str, check: Check, default: Any = MISSING, **about: Any) -> Any:
        return field(default=default, metadata={"about": About(group, text, check, **about)})

    return make
