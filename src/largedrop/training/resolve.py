"""A complete config from a recipe and settings: digests, precision and penalty are filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch

from ..config import Config, defaults_of, make_config, problems_of
from ..data.dataset import Dataset
from ..errors import UserError, brief, check_type, plain
from ..models.pretrained import check_model, find_weights
from ..models.sizes import check_one_image, size_settings
from ..names import names_in, text_of
from .device import choose_precision
from .objectives import OBJECTIVES, make_objective

__all__ = ["resolve", "schedule_of", "with_seed"]

MOST_EPOCHS = 10**7
"""No config has more steps, and an epoch has one or more."""


def resolve(
    data: Dataset,
    device: torch.device,
    *,
    recipe: str,
    test_domain: str | Sequence[str] = (),
    digests: dict[tuple[str, str], str] | None = None,
    epochs: float | None = None,
    **settings: Any,
) -> Config:
    """A complete config: the dataset's digest, the weights' digest and the precision filled in.

    Args:
        recipe: name of the recipe for the fields that are not in ``settings``.
        test_domain: name of the test domain, or names of several, or none. One without labels is not scored, so it is
            left out of the config.
        digests: digests of initial weights by (model, weights), which take time to compute; new ones are added.
        epochs: passes over the training images instead of ``steps``; see ``schedule_of``.
        settings: fields of ``Config``; ``precision`` may be ``auto``.

    Raises:
        UserError: a setting is invalid, the cached images are smaller than ``size``, or the network takes no images of
            that size or cannot learn from one image.
    """
    digests = {} if digests is None else digests
    precision = choose_precision(settings.pop("precision", "auto"), device)
    tested = [test_domain] if isinstance(test_domain, str) else [*test_domain]
    also = settings.get("also_tested", "")
    check_type(also, str, "also_tested must be names in one text")
    tested += names_in(also)
    tested = [domain for domain in tested if not data.has_no_labels(domain)]
    # In whatever order they are named, it is one run.
    first, *others = sorted(tested, key=data.domain_index) or [""]
    given = {**settings, "test_domain": first, "also_tested": text_of(others)}
    for name in ("data", "fingerprint"):
        if name in given:
            raise UserError(f"'{name}' is no setting: the dataset says it")
    config = make_config(recipe, data=data.name, fingerprint=data.fingerprint, precision=precision, **given)
    if config.left_out:
        data.domain_index(config.left_out)
    if epochs is not None:
        schedule = schedule_of(epochs, data, [config], {**settings, "recipe": recipe})
        settings |= {"precision": precision, **schedule}
        return resolve(data, device, recipe=recipe, test_domain=test_domain, digests=digests, **settings)
    penalty = _penalty(config)
    objective = make_objective(config.objective, **penalty)
    trained = len(data.domains) - len(config.unseen)
    if config.objective != "erm":
        objective.check(trained, config.batch)
    if config.size > data.images.bound:
        raise UserError(
            f"size {config.size} is larger than the {data.images.bound} pixels of the cached images; "
            f"open them with open_dataset(…, bound={config.size * 5 // 4})"
        )
    named = [(model, config.weights) for model in config.model.split("+")]
    for pair in named:
        check_model(pair[0])
        size_settings(pair[0], config.size)
        if pair not in digests:
            digests[pair] = find_weights(*pair).digest
    learns_statistics = config.fit == "all" and config.weights == "random"
    if learns_statistics and config.batch * (1 if objective.by_domain else trained) == 1:
        check_one_image(config.model, config.size)
    digest = "+".join(digests[pair] for pair in named)
    return replace(config, penalty=penalty["weight"], penalty_after=penalty["anneal_steps"], weights_digest=digest)


def with_seed(config: Config, seed: int) -> Config:
    """The config with another seed; as ``replace``, which checks all fields anew: plans may have very many.

    Raises:
        UserError: the seed is invalid.
    """
    for problem in problems_of({"seed": plain(seed)}):
        raise UserError(problem)
    made = copy(config)
    object.__setattr__(made, "seed", plain(seed))
    return made


def schedule_of(epochs: float, data: Dataset, configs: Sequence[Config], settings: Mapping[str, Any]) -> dict[str, int]:
    """The steps in which the training images are seen ``epochs`` times, and how often a run is evaluated.

    A batch has the same number of images of each training domain, so an image of a small domain is seen more often than
    one of a large domain: a pass is as many images as there are. Where configs differ in their test domain, the steps
    are the mean over them.

    Args:
        epochs: passes over the training images, above 0.
        configs: complete but for the schedule.
        settings: what was given of ``recipe`` and the fields of the config. ``eval_every`` stays; where it is not
            given, a run is evaluated as many times as in the recipe.

    Returns:
        ``steps`` and ``eval_every``.

    Raises:
        UserError: ``epochs`` is not above 0 or too many, or steps are given as well.
    """
    if "steps" in settings:
        raise UserError("epochs say how many steps there are: leave one of them out")
    if not (isinstance(epochs, (int, float)) and 0 < epochs <= MOST_EPOCHS):
        raise UserError(f"epochs must be above 0 and {MOST_EPOCHS:,} at most, not {brief(epochs)}")
    splits = [config.split_of(data) for config in configs]
    seen = [config.batch * len(split.train) for config, split in zip(configs, splits, strict=True)]
    images = [sum(map(len, split.train)) for split in splits]
    steps = math.ceil(sum(epochs * all_ / step for all_, step in zip(images, seen, strict=True)) / len(configs))
    usual = defaults_of(**settings)
    return {
        "steps": steps,
        "eval_every": settings.get("eval_every", math.ceil(steps * usual["eval_every"] / usual["steps"])),
    }


def _penalty(config: Config) -> dict[str, Any]:
    """The objective's weight and annealing steps, arguments of ``make_objective``: its own where none were given."""
    if config.objective == "erm":  # which has none, so 0 and none are one run
        return {"weight": config.penalty or None, "anneal_steps": config.penalty_after}
    kind = OBJECTIVES[config.objective]
    weight = kind.default_weight if config.penalty is None else config.penalty
    after = config.penalty_after
    if after is None and kind.default_anneal_steps:
        after = config.steps // 10  # DomainBed's 500 of 5,000
    return {"weight": weight, "anneal_steps": after}
