"""The objectives that a fine-tuning can minimise: plain cross-entropy, and those of domain generalisation.

>>> make_objective("vrex").weight
10.0
"""

from __future__ import annotations

from ...errors import UserError, one_of
from .base import Forward, Objective, StepResult
from .coral import Coral
from .erm import ERM
from .irm import IRM
from .mldg import MLDG
from .vrex import VREx

__all__ = ["OBJECTIVES", "Forward", "Objective", "StepResult", "make_objective"]


OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (ERM, Coral, VREx, IRM, MLDG)}
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
