"""The methods that a result can be of."""

from __future__ import annotations

__all__ = ["ACROSS", "METHODS", "METHOD_OF"]


METHOD_OF = {"linear": "linear-fine-tuning", "probe": "linear-probe"}
"""By ``Config.fit``, the record of its checkpoint of best i.i.d. accuracy."""


METHODS = (
    *("fine-tuning", "ensemble", "weight-average", "swad"),
    *("ensemble-across", "weight-average-across", "greedy-soup"),
    *("linear-fine-tuning", "linear-probe"),
)
"""Names of the methods, in the order of every table. A new method is added here (and gets a marker in figures)."""


ACROSS = ("ensemble-across", "weight-average-across", "greedy-soup")
"""Methods over the final checkpoints of several trajectories (section 4.1, "all trajectories")."""
