"""Objectives of fine-tuning: cross-entropy, those of domain generalisation, and those that stay near the start.

To add an objective: a class in a new file here, and its name in ``config.OBJECTIVES``.

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
"""Classes by name."""


def make_objective(name: str, weight: float | None = None, anneal_steps: int | None = None) -> Objective:
    """The objective ``name``, with its default weight and annealing steps where None.

    Raises:
        UserError: there is no such objective, or it has no such weight or annealing steps.
    """
    if name not in OBJECTIVES:
        raise UserError(f"no objective '{name}'; {one_of(name, OBJECTIVES)}")
    kind = OBJECTIVES[name]
    return kind(
        kind.default_weight if weight is None else weight,
        kind.default_anneal_steps if anneal_steps is None else anneal_steps,
    )
