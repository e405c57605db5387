"""Recipes: named changes of the defaults of ``Config``."""

from __future__ import annotations

from typing import Any

__all__ = ["FOLLOWING", "RECIPES"]

RECIPES: dict[str, dict[str, Any]] = {
    "robust": {
        "masks": 16,
        "ema": 0.99,
        "hand_over": "ema",
        "steps": 600,
        "lr": 3e-4,
        "schedule": "cosine",
        "warmup": 0.1,
        "eval_every": 100,
    },
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
"""Changed defaults by recipe. ``robust`` is the best that was found for a shift nobody has seen (docs/recipe.md);
``short`` is the paper's method in minutes on a processor, from a head fitted on cached features; ``paper`` is the
protocol of Zhang & Bottou (2024), section 4.1, with the middle of its weight decays."""

_SHORT_LINEAR = {
    "optimizer": "sgd",
    "head": "random",
    "lr": 3e-3,
    "weight_decay": 1e-4,
    "steps": 2_000,
    "batch": 32,
    "eval_every": 100,
}

_ROBUST_LINEAR = {
    **{"masks": 1, "ema": 0.0, "hand_over": "best", "schedule": "step", "warmup": 0.0},
    **_SHORT_LINEAR,
}

FOLLOWING: dict[str, dict[tuple[str, Any], dict[str, Any]]] = {
    "robust": {
        ("ema", 0): {"hand_over": "average"},
        ("fit", "linear"): _ROBUST_LINEAR,
        ("fit", "probe"): _ROBUST_LINEAR,
    },
    "short": {("fit", "linear"): _SHORT_LINEAR, ("fit", "probe"): _SHORT_LINEAR},
    "paper": {("fit", "linear"): {"v_start": "normal"}},
}
"""Further changed defaults by recipe and by a setting (field and value) that they follow from, such as a linear fit,
which is cheap and needs larger learning rates. Of two that are given the later one here holds."""
