"""Which values of a config's field are valid, and what else is known of it: its help, its unit, its part in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any

__all__ = ["About", "Check", "choice", "fields_in"]

Check = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether a value of the field's type is that."""

TEXT: Check = ("text", lambda value: True)
NAME: Check = ("a name", lambda value: value != "")
DOMAIN: Check = ("the name of a domain", lambda value: True)
SWITCH: Check = ("true or false", lambda value: True)
RATE: Check = ("in [0, 1)", lambda value: 0 <= value < 1)
SHARE: Check = ("in (0, 1)", lambda value: 0 < value < 1)
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
    """What is known of a field of ``Config`` besides its name, type and default.

    Attributes:
        group: what the field is a part of: ``data``, ``method``, ``schedule`` or ``view``.
        help: what the field is, in a line.
        check: what its values must be.
        unit: of its values, where they have one.
        names: ``dataset`` or ``run`` for a field that says what a run is of and not how it is trained: a record names
            it itself, and it is none of its settings.
        elsewhere: where it comes from, if neither a preset nor an option of its own sets it.
        features: ``network`` where the network's structure or precision depends on it and ``weights`` where its
            pretrained weights do: features of the frozen network depend on both.
        scored: accuracies of runs with other values are of other images or views, so that no report can have both.
        later: it came after the first runs; at its default it is no part of a digest, so that those runs keep theirs.
        tuned: the paper chooses among its values (section 4.1), and compares the others.
        fine_tuning: only fine-tuning uses it; with linear fits and probes it must be at its default.
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
        """Whether every command that trains has an option made from this field."""
        return not self.names and not self.elsewhere


def fields_in(group: str) -> Callable[..., Any]:
    """A function that makes the fields of a group."""

    def make(text: str, check: Check, default: Any = MISSING, **about: Any) -> Any:
        return field(default=default, metadata={"about": About(group, text, check, **about)})

    return make
