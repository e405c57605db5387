"""Descriptions of a config's fields: valid values, help, unit, part in digests and reports; what contradicts what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

from .names import is_names

__all__ = ["About", "Check", "choice", "contradictions", "fields_in", "is_finite"]

Check = tuple[str, Callable[[Any], bool]]
"""What a value must be, as text, and a function that checks a value of the field's type."""

TEXT: Check = ("text", lambda value: True)
NAME: Check = ("a name", lambda value: value != "")
DOMAIN: Check = ("the name of a domain", lambda value: True)
NAMES: Check = ("names separated by commas, in double quotes where they have a comma", is_names)
SWITCH: Check = ("true or false", lambda value: True)
RATE: Check = ("in [0, 1)", lambda value: 0 <= value < 1)
SHARE: Check = ("in (0, 1)", lambda value: 0 < value < 1)
PART: Check = ("in [0, 1]", lambda value: 0 <= value <= 1)
SHARE_OF_STEPS: Check = ("a share of the steps, in [0, 1)", lambda value: 0 <= value < 1)
MOMENT: Check = ("in (0, 1]", lambda value: 0 < value <= 1)
ABOVE_0: Check = ("above 0", lambda value: value > 0)
FROM_0: Check = ("0 or more", lambda value: value >= 0)
COUNT_FROM_0: Check = ("a whole number, 0 or more", lambda value: value >= 0)
COUNT: Check = ("a whole number from 1 to 10**7", lambda value: 1 <= value <= 10**7)
MASKS: Check = ("a whole number from 1 to 1024", lambda value: 1 <= value <= 1024)
SEED: Check = ("a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)
PIXELS: Check = ("a whole number of pixels from 16 to 4096", lambda value: 16 <= value <= 4096)


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float; a whole number may be larger than any."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


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
        rival: whether another value than the default is an alternative to plain fine-tuning, which gains are over.
        beside: whether the field only adds to what a run keeps, whose best, average and last weights are the same with
            every value.
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
    rival: bool = False
    beside: bool = False

    @property
    def option(self) -> bool:
        """Whether the field is an option of every command that trains."""
        return not self.names and not self.elsewhere


def fields_in(group: str) -> Callable[..., Any]:
    """The function that makes fields of a group."""

    def make(text: str, check: Check, default: Any = MISSING, **about: Any) -> Any:
        return field(default=default, metadata={"about": About(group, text, check, **about)})

    return make


def contradictions(config: Any, about: Mapping[str, About], defaults: Mapping[str, Any]) -> Iterator[str]:
    """One message for each pair of valid fields of a ``Config`` that contradict each other.

    Args:
        about: descriptions of the fields, by name.
        defaults: defaults of those that have one, by name.
    """
    if config.left_out and config.left_out in config.test_domains:
        yield f"left-out and test-domain are both '{config.left_out}'"
    domains = config.test_domains
    for name in dict.fromkeys(each for each in domains if domains.count(each) > 1):
        yield f"the test domain '{name}' is named twice"
    if config.also_tested and not config.test_domain:
        yield f"also-tested {config.also_tested!r} does not go without a test-domain"
    if config.decay_again_at < config.decay_at:
        yield f"decay-again-at ({config.decay_again_at:g}) comes before decay-at ({config.decay_at:g})"
    if config.schedule == "cosine":
        for name in ("decay_at", "decay_again_at"):
            if getattr(config, name) != defaults[name]:
                yield f"{name.replace('_', '-')} {getattr(config, name):g} does not go with schedule 'cosine'"
    elif config.warmup > config.decay_at:
        yield f"decay-at ({config.decay_at:g}) comes before the warm-up ends ({config.warmup:g})"
    if config.balance and config.class_weights != "none":
        yield f"balance and class-weights {config.class_weights!r} do the same in two ways: leave one of them out"
    if config.fit != "linear" and config.v_start != "last":
        yield f"v-start {config.v_start!r} does not go with fit '{config.fit}', which has no v"
    if config.fit == "all":
        if config.optimizer == "lbfgs":
            yield "optimizer 'lbfgs' is for probes, whose objective is convex"
        if config.feature_views:
            yield "feature-views is for linear fits and probes; fine-tuning draws new views at every step"
        if "+" in config.model:
            yield f"networks side by side ('{config.model}') are for linear fits and probes, not for fine-tuning"
        for name in ("wise_ft", "way_back"):
            if getattr(config, name) and config.head != "warm":
                yield f"{name.replace('_', '-')} needs head 'warm': a {config.head} head is nothing to go back to"
        needed = config.hand_over.replace("-", "_")
        if needed in ("ema", "swad", "wise_ft") and not getattr(config, needed):
            yield f"hand-over '{config.hand_over}' needs {config.hand_over}, which this run does not compute"
        if config.hand_over == "wise-ft" and config.way_back:
            yield f"way-back {config.way_back:g} does not go with hand-over 'wise-ft', which chooses its own share"
        return
    if config.balance and config.optimizer == "lbfgs":
        yield "balance is of batches, of which optimizer 'lbfgs' has none"
    required = {
        **{name: defaults[name] for name, entry in about.items() if entry.fine_tuning},
        "optimizer": "lbfgs" if (config.fit, config.optimizer) == ("probe", "lbfgs") else "sgd",
        "head": "random",
    }
    for name, neutral in required.items():
        if getattr(config, name) != neutral:
            yield f"{name.replace('_', '-')} {getattr(config, name)!r} does not go with fit '{config.fit}'"
