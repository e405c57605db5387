"""The objectives that a fine-tuning can minimise: plain cross-entropy, and those of domain generalisation.

To add one: a class in a file of its own here, and its name in ``config.OBJECTIVES``.

>>> make_objective("vrex").weight
10.0
"""

from __future__ import annotations

from ...config import OBJECTIVES as NAMES
from ...errors import UserError, one_of
from ..kinds import classes_in
from .base import Forward, Objective, StepResult

__all__ = ["OBJECTIVES", "Forward", "Objective", "StepResult", "make_objective"]

_FOUND = {kind.name: kind for kind in classes_in(__name__) if issubclass(kind, Objective)}

OBJECTIVES: dict[str, type[Objective]] = {name: _FOUND[name] for name in NAMES}
"""By name. A class's ``default_weight`` and ``default_anneal_steps`` are those of DomainBed."""


def make_objective(name: str, weight: float | None = None, anneal_steps: int | None = None) -> Objective:
    """Make the objective of that name, with DomainBed's weight and annealing steps where none are given.

    Raises:
        UserError: there is no such objective, or it has no use for the weight or the annealing steps.
    """
    if name not in OBJECTIVES:
        raise UserError(f"no objective '{name}'; {one_of(name, OBJECTIVES)}")
    kind = OBJECTIVES[name]
    return kind(
        kind.default_weight if weight is None else weight,
        kind.default_anneal_steps if anneal_steps is None else anneal_steps,
    )
