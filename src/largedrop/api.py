"""The call that most people want: fine-tune on a dataset and get the run back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .config import Config, make_config, with_settings
from .data.dataset import Dataset
from .errors import CollapseError, UserError
from .models.pretrained import find_weights
from .training.device import choose_device, choose_precision
from .training.features import FeatureCache
from .training.loop import train
from .training.objectives import OBJECTIVES, make_objective
from .training.run import Run
from .training.views import Views, open_views

__all__ = ["finetune", "resolve"]


def finetune(
    data: Dataset,
    test_domain: str,
    *,
    output: str | Path | None = None,
    recipe: str = "short",
    device: str = "auto",
    progress: Callable[[float], None] | None = None,
    **settings: Any,
) -> Run:
    """Fine-tune on every domain but one, and score on that one.

    Args:
        data: from ``open_dataset``.
        test_domain: name of the domain that is never trained on nor selected on.
        output: folder of the run; by default ``largedrop-runs/`` and a name made of dataset, test domain and config.
            A finished run there is returned as it is, an interrupted one goes on.
        recipe: ``short`` (minutes on a processor) or ``paper`` (its protocol); ``settings`` change single values.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: called with the work done since the last call.
        settings: fields of ``Config``: ``model``, ``dropout``, ``steps``, ``lr``, ``size``, ``seed``, …

    Returns:
        The finished run: ``run.best`` and ``run.average`` are checkpoints for ``load_model``.

    Raises:
        UserError: anything wrong with the arguments, in one line.
        CollapseError: the run has collapsed or diverged.

    Warns:
        UserWarning: the images do not fit in the GPU's memory, and their views are made on the processor.
    """
    place = choose_device(device)
    config = resolve(data, place, recipe=recipe, test_domain=test_domain, **settings)
    folder = Path(output) if output is not None else Path("largedrop-runs") / run_name(config)
    views = open_views(data, place)
    if config.fit != "all":
        return _fit_linear(config, data, folder, views, progress)
    if views.note:
        warnings.warn(views.note, stacklevel=2)
    return train(config, data, folder, features=FeatureCache(views), progress=progress)


def resolve(data: Dataset, device: torch.device, *, recipe: str, **settings: Any) -> Config:
    """A complete config: the dataset's digest, the weights' digest and the precision filled in.

    Raises:
        UserError: anything wrong with the settings, or images kept smaller than the size that is asked for.
    """
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
            f"size {config.size} is larger than the {data.images.bound} pixels that the images are kept at; "
            f"open them with open_dataset(…, bound={config.size * 5 // 4})"
        )
    digests = [find_weights(model, config.weights).digest for model in config.model.split("+")]
    return Config.from_json({**config.to_json(), "weights_digest": "+".join(digests)})


def _fit_linear(
    config: Config, data: Dataset, folder: Path, views: Views, progress: Callable[[float], None] | None
) -> Run:
    from .linear.runs import train_linear_runs

    def note(text: str) -> None:
        warnings.warn(text, stacklevel=4)

    ((_, run),) = train_linear_runs([(config, folder)], data, views, progress=progress, note=note)
    if isinstance(run, CollapseError):
        raise run
    return run


def _with_penalty(config: Config) -> Config:
    """The objective's weight and annealing steps filled in where it has some and none were given."""
    kind = OBJECTIVES.get(config.objective)
    if kind is None or config.objective == "erm":
        return config
    weight = kind.default_weight if config.penalty is None else config.penalty
    after = config.penalty_after
    if after is None and kind.default_anneal_steps:
        after = config.steps // 10  # DomainBed's 500 of 5,000
    return with_settings(config, penalty=weight, penalty_after=after)


def run_name(config: Config) -> str:
    """A folder's name for the run: what a person looks for, and the digest that makes it unique."""
    return f"{config.data}-{config.test_domain}-d{config.dropout:g}-s{config.seed}-{config.digest()}"
