"""A complete config from a recipe and settings: digests, precision and penalty are filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..config import Config, make_config
from ..data.dataset import Dataset
from ..errors import UserError
from ..models.pretrained import find_weights
from .device import choose_precision
from .objectives import OBJECTIVES, make_objective

__all__ = ["resolve"]


def resolve(
    data: Dataset,
    device: torch.device,
    *,
    recipe: str,
    digests: dict[tuple[str, str], str] | None = None,
    **settings: Any,
) -> Config:
    """A complete config: the dataset's digest, the weights' digest and the precision filled in.

    Args:
        recipe: name of the recipe for the fields that are not in ``settings``.
        digests: digests of initial weights by (model, weights), which take time to compute; new ones are added.
        settings: fields of ``Config``; ``precision`` may be ``auto``.

    Raises:
        UserError: a setting is invalid, or the cached images are smaller than ``size``.
    """
    digests = {} if digests is None else digests
    precision = choose_precision(settings.pop("precision", "auto"), device)
    config = make_config(recipe, data=data.name, fingerprint=data.fingerprint, precision=precision, **settings)
    for name in filter(None, (config.test_domain, config.left_out)):
        data.domain_index(name)
    config = _with_penalty(config)
    objective = make_objective(config.objective, config.penalty, config.penalty_after)
    if config.objective != "erm":
        objective.check(len(data.domains) - (2 if config.left_out else 1), config.batch)
    if config.size > data.images.bound:
        raise UserError(
            f"size {config.size} is larger than the {data.images.bound} pixels of the cached images; "
            f"open them with open_dataset(…, bound={config.size * 5 // 4})"
        )
    named = [(model, config.weights) for model in config.model.split("+")]
    for pair in named:
        if pair not in digests:
            digests[pair] = find_weights(*pair).digest
    return replace(config, weights_digest="+".join(digests[pair] for pair in named))


def _with_penalty(config: Config) -> Config:
    """``config`` with the objective's default weight and annealing steps where none were given."""
    if config.objective == "erm":  # which has none, so 0 and none are one run
        return config if config.penalty else replace(config, penalty=None)
    kind = OBJECTIVES[config.objective]
    weight = kind.default_weight if config.penalty is None else config.penalty
    after = config.penalty_after
    if after is None and kind.default_anneal_steps:
        after = config.steps // 10  # DomainBed's 500 of 5,000
    return replace(config, penalty=weight, penalty_after=after)
