"""What a fine-tuning is a pure function of: one frozen dataclass, checked as a whole, hashed to name the run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from .errors import UserError, one_of

__all__ = ["RECIPES", "Config", "help_of", "make_config"]


OBJECTIVES = ("erm", "coral", "vrex", "irm", "mldg")
"""Names of ``training.objectives``, which this module must not import: it would bring torch into ``--help``."""

DEFAULT_MODEL = "tf_efficientnet_lite0"

PROTOCOL = 2
"""Raised whenever the same config would train differently, so that older runs are not taken for new ones."""

OPTIMIZERS = ("sgd", "adamw", "lbfgs")

FITS = ("all", "linear", "probe")


def _doc(text: str, default: Any = MISSING) -> Any:
    return field(metadata={"help": text}) if default is MISSING else field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """All that the result of a fine-tuning depends on. The line of each field is its ``--help``."""

    # What is learned from what.
    data: str = _doc("Name of the dataset.")
    fingerprint: str = _doc("Digest of the dataset's contents.")
    test_domain: str = _doc("Domain that is kept for the o.o.d. score: never trained on, never selected on.")
    left_out: str = _doc(
        "Domain that is left out besides the test domain, for leave-one-domain-out selection; none by default.", ""
    )
    model: str = _doc(
        "Name of the pretrained network, as in timm; 'a+b' for both side by side (linear fits).", DEFAULT_MODEL
    )
    weights: str = _doc(
        "Initial weights: 'pretrained', 'random', or a safetensors file with timm's state dict.", "pretrained"
    )
    weights_digest: str = _doc("Digest of the initial weights.", "")
    seed: int = _doc("Seed of the split, the head, the order of the images, their views and the dropout masks.", 0)
    # The method.
    fit: str = _doc(
        "What is trained: 'all' weights, 'linear' (weights on the last blocks' outputs, and the head: equation 1) or "
        "'probe' (the head alone).",
        "all",
    )
    feature_views: int = _doc(
        "Augmented views of each image that a linear fit or probe is trained on; 0 for the evaluation view.", 0
    )
    dropout: float = _doc("Share λ of the representation's units that are zeroed in training, in [0, 1).", 0.9)
    head: str = _doc(
        "How the new head starts: 'warm' (first fitted on cached features with the same dropout) or 'random'.", "warm"
    )
    head_lr_multiplier: float = _doc("Learning rate of the head over that of the rest.", 1.0)
    block_dropout: float = _doc(
        "Share of the residual branches left out in training (stochastic depth), in [0, 1).", 0.0
    )
    objective: str = _doc("'erm' (cross-entropy alone), 'coral', 'vrex', 'irm' or 'mldg'.", "erm")
    penalty: float | None = _doc("Weight of the objective's penalty; where none is given, DomainBed's.", None)
    penalty_after: int | None = _doc(
        "Steps until 'vrex' or 'irm' has that weight instead of 1; where none is given, a tenth of the steps.", None
    )
    swad: bool = _doc("Keep SWAD's dense average of the weights too (Cha et al., 2021).", False)
    # The schedule.
    steps: int = _doc("Optimiser steps.", 300)
    batch: int = _doc("Images from each training domain in a batch.", 8)
    optimizer: str = _doc("'sgd' or 'adamw'; for probes also 'lbfgs', until it has converged.", "adamw")
    lr: float = _doc("Learning rate.", 1e-4)
    momentum: float = _doc("Momentum of SGD.", 0.9)
    weight_decay: float = _doc("L2 weight decay (decoupled with adamw).", 1e-2)
    decay_at: float = _doc("Share of the steps after which the learning rate is multiplied by 0.1; 1 for never.", 0.5)
    decay_again_at: float = _doc("Share of the steps after which it is multiplied by 0.1 once more; 1 for never.", 1.0)
    eval_every: int = _doc("Steps between two evaluations; each is a checkpoint to select, average and ensemble.", 50)
    # The views.
    size: int = _doc("Side of the square images that the network sees, in pixels.", 128)
    held_out: float = _doc("Share of every training domain that is held out for the i.i.d. score.", 0.2)
    held_out_view: str = _doc(
        "View of the held-out images: 'evaluation', or 'training' as the paper's public code has it.", "evaluation"
    )
    precision: str = _doc("'float32' or 'bfloat16' (autocast).", "float32")

    def __post_init__(self) -> None:
        problems = list(_problems(vars(self))) or list(_contradictions(self))
        if problems:
            raise UserError("; ".join(problems))
        # 0 and 0.0 are one setting, so they must have one digest.
        for entry in fields(self):
            if entry.type in ("float", "float | None") and getattr(self, entry.name) is not None:
                object.__setattr__(self, entry.name, float(getattr(self, entry.name)))

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Config:
        """The inverse of ``to_json``.

        Raises:
            UserError: unknown or missing fields, or values out of range.
        """
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(content) - known)
        if unknown:
            raise UserError(f"unknown setting '{unknown[0]}'; {one_of(unknown[0], sorted(known), most=40)}")
        missing = [entry.name for entry in fields(cls) if entry.name not in content and entry.default is MISSING]
        if missing:
            raise UserError(f"the setting{'s'[: len(missing) > 1]} {', '.join(missing)} must be given")
        return cls(**content)

    def digest(self) -> str:
        """Twelve hexadecimal digits that name this config; any change of a field changes them."""
        return digest_of(self.to_json(), PROTOCOL)

    @property
    def run_name(self) -> str:
        """Name of the run's folder: what a person looks for, and the digest that makes it unique."""
        return f"{self.data}-{self.test_domain}-d{self.dropout:g}-s{self.seed}-{self.digest()}"

    @property
    def milestones(self) -> tuple[int, int]:
        """Steps from which the learning rate is a tenth, and a hundredth."""
        # 100 × 0.07 is a little more than 7.
        first, second = (math.ceil(round(self.steps * share, 6)) for share in (self.decay_at, self.decay_again_at))
        return first, second

    @property
    def evaluations(self) -> tuple[int, ...]:
        """Numbers of finished steps at which the network is evaluated; the last is ``steps``."""
        return (*range(self.eval_every, self.steps, self.eval_every), self.steps)


LATER = ("left_out", "fit", "feature_views", "swad", "decay_again_at")
"""Fields that came after the first runs; at their defaults they are no part of a digest, so those runs keep theirs."""


_DEFAULTS = {entry.name: entry.default for entry in fields(Config)}


def digest_of(content: dict[str, Any], protocol: int) -> str:
    """The digest of a config's fields under a protocol."""
    told = {name: value for name, value in content.items() if name not in LATER or value != _DEFAULTS[name]}
    text = json.dumps({"protocol": protocol, **told}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
"""Defaults by name. ``short`` is for minutes on a processor and starts from a head fitted on cached features;
``paper`` is the protocol of Zhang & Bottou (2024), section 4.1, with the middle of its weight decays."""


LINEAR: dict[str, dict[str, Any]] = {
    "short": {
        "optimizer": "sgd",
        "head": "random",
        "lr": 3e-3,
        "weight_decay": 1e-4,
        "steps": 2_000,
        "batch": 32,
        "eval_every": 100,
    },
    "paper": {},
}
"""What changes in a recipe where a linear fit is trained, which is cheap and needs larger learning rates."""


def make_config(recipe: str = "short", **settings: Any) -> Config:
    """A config from a recipe, with some settings changed.

    Raises:
        UserError: unknown recipe or setting, a setting missing, or values out of range.
    """
    if recipe not in RECIPES:
        raise UserError(f"unknown recipe '{recipe}'; {one_of(recipe, RECIPES)}")
    linear = LINEAR[recipe] if settings.get("fit", "all") != "all" else {}
    return Config.from_json({**RECIPES[recipe], **linear, **settings})


def with_settings(config: Config, **settings: Any) -> Config:
    """``config`` with some settings changed."""
    return replace(config, **settings)


def help_of(name: str) -> str:
    """The one-line description of a field of ``Config``."""
    (entry,) = [entry for entry in fields(Config) if entry.name == name]
    return str(entry.metadata["help"])


def field_problems(name: str, value: Any) -> list[str]:
    """What is wrong with the value of a field, whatever the other fields are."""
    return list(_problems({name: value}))


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Every field that is out of range, as one message each."""
    number = (int, float)
    rules: list[tuple[str, type | tuple[type, ...], Callable[[Any], bool], str]] = [
        ("left_out", str, lambda value: True, "the name of a domain"),
        ("swad", bool, lambda value: True, "true or false"),
        ("seed", int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
        ("dropout", number, lambda value: 0 <= value < 1, "in [0, 1)"),
        ("block_dropout", number, lambda value: 0 <= value < 1, "in [0, 1)"),
        ("objective", str, lambda value: value in OBJECTIVES, "'erm', 'coral', 'vrex', 'irm' or 'mldg'"),
        ("penalty", number, lambda value: value >= 0, "0 or more"),
        ("penalty_after", int, lambda value: value >= 0, "a whole number, 0 or more"),
        ("head", str, lambda value: value in ("warm", "random"), "'warm' or 'random'"),
        ("head_lr_multiplier", number, lambda value: value > 0, "above 0"),
        ("steps", int, lambda value: value >= 1, "a whole number, 1 or more"),
        ("batch", int, lambda value: value >= 1, "a whole number, 1 or more"),
        ("optimizer", str, lambda value: value in OPTIMIZERS, "'sgd', 'adamw' or 'lbfgs'"),
        ("lr", number, lambda value: value > 0, "above 0"),
        ("momentum", number, lambda value: 0 <= value < 1, "in [0, 1)"),
        ("weight_decay", number, lambda value: value >= 0, "0 or more"),
        ("decay_at", number, lambda value: 0 < value <= 1, "in (0, 1]"),
        ("decay_again_at", number, lambda value: 0 < value <= 1, "in (0, 1]"),
        ("fit", str, lambda value: value in FITS, "'all', 'linear' or 'probe'"),
        ("feature_views", int, lambda value: 0 <= value <= 1000, "a whole number from 0 to 1000"),
        ("eval_every", int, lambda value: value >= 1, "a whole number, 1 or more"),
        ("size", int, lambda value: 16 <= value <= 4096, "a whole number of pixels from 16 to 4096"),
        ("held_out", number, lambda value: 0 < value < 1, "in (0, 1)"),
        (
            "held_out_view",
            str,
            lambda value: value in ("evaluation", "training"),
            "'evaluation' or 'training'",
        ),
        ("precision", str, lambda value: value in ("float32", "bfloat16"), "'float32' or 'bfloat16'"),
    ]
    for name, kind, holds, wanted in rules:
        value = values.get(name)
        if name not in values or (value is None and name in ("penalty", "penalty_after")):
            continue
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not right or (isinstance(value, float) and not math.isfinite(value)) or not holds(value):
            yield f"{name.replace('_', '-')} must be {wanted}, not {value!r}"


def _contradictions(config: Config) -> Iterator[str]:
    """Every pair of fields, each right by itself, that cannot be had together."""
    if config.left_out and config.left_out == config.test_domain:
        yield f"left-out and test-domain are both '{config.left_out}'"
    if config.decay_again_at < config.decay_at:
        yield f"decay-again-at ({config.decay_again_at:g}) comes before decay-at ({config.decay_at:g})"
    if config.fit == "all":
        if config.optimizer == "lbfgs":
            yield "optimizer 'lbfgs' is for probes, whose objective is convex"
        if config.feature_views:
            yield "feature-views is for linear fits and probes; fine-tuning draws new views at every step"
        if "+" in config.model:
            yield f"networks side by side ('{config.model}') are for linear fits and probes, not for fine-tuning"
        return
    wanted = {
        "objective": "erm",
        "block_dropout": 0,
        "swad": False,
        "optimizer": "lbfgs" if (config.fit, config.optimizer) == ("probe", "lbfgs") else "sgd",
        "head": "random",
        "head_lr_multiplier": 1,
        "held_out_view": "evaluation",
    }
    for name, neutral in wanted.items():
        if getattr(config, name) != neutral:
            yield f"{name.replace('_', '-')} {getattr(config, name)!r} does not go with fit '{config.fit}'"
