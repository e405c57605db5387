"""Recipes: named changes of the defaults of ``Config``."""

from __future__ import annotations

from typing import Any

__all__ = ["LINEAR", "RECIPES"]

RECIPES: dict[str, dict[str, Any]] = {
    "short": {},
    "paper": {
        "head": "random",
        "steps": 10_000,
        "batch": 32,
        "optimizer": "sgd",
        "lr": 1e-3,
        "weight_decay": 5e-5,
        "eval_every": 300,
        "size": 224,
    },
}
"""Changed defaults by recipe. ``short`` takes minutes on a processor and starts from a head fitted on cached features;
``paper`` is the protocol of Zhang & Bottou (2024), section 4.1, with the middle of its weight decays."""

_SHORT_LINEAR = {
    "optimizer": "sgd",
    "head": "random",
    "lr": 3e-3,
    "weight_decay": 1e-4,
    "steps": 2_000,
    "batch": 32,
    "eval_every": 100,
}

LINEAR: dict[str, dict[str, dict[str, Any]]] = {
    "short": {"linear": _SHORT_LINEAR, "probe": _SHORT_LINEAR},
    "paper": {"linear": {"v_start": "normal"}},
}
"""Further changes by recipe and ``Config.fit``; linear fits are cheap and need larger learning rates."""
