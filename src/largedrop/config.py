"""The config of a run: one frozen dataclass, checked as a whole, whose digest names the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache, partial
from typing import Any, get_args, get_type_hints

from . import valid
from .errors import UserError, brief, one_of, plain
from .names import names_in, text_of
from .paths import fitting
from .recipes import FOLLOWING, RECIPES
from .schedule import Schedule
from .tested import Tested
from .valid import About, contradictions, fields_in

__all__ = ["ABOUT", "RECIPES", "About", "Config", "defaults_of", "make_config"]

OBJECTIVES = ("erm", "coral", "vrex", "irm", "mldg", "mixout", "l2sp")
"""Names of the classes in ``training/objectives``; to import these here would make ``--help`` wait for torch."""

DEFAULT_RECIPE = "robust"

FITS = ("all", "linear", "probe")

SELECTED_BY = {"iid-accuracy": "iid_accuracy", "iid-macro": "iid_macro_accuracy"}
"""Names of the scores that may select, by the values of ``select_by``."""

PROTOCOL = 3
"""Version of training and selection; to be raised when the same config would train or select differently."""

_data, _method, _schedule, _view = (fields_in(group) for group in ("data", "method", "schedule", "view"))
_extra = partial(_method, fine_tuning=True, later=True)
_beside = partial(_extra, beside=True)


@dataclass(frozen=True)
class Config(Schedule, Tested):
    """All settings that the result of a run depends on; ``ABOUT`` describes each field."""

    data: str = _data("Name of the dataset.", valid.TEXT, names="dataset", elsewhere="it is given with --data")
    fingerprint: str = _data(
        "Digest of the dataset's contents.", valid.TEXT, names="dataset", elsewhere="it follows from the data"
    )
    test_domain: str = _data(
        "Domain for the o.o.d. score: never trained on, never selected on; empty for none.",
        valid.DOMAIN,
        names="run",
        elsewhere="name the domains in test_domains",
    )
    left_out: str = _data(
        "Domain left out besides the test domain, for leave-one-domain-out selection; none by default.",
        valid.DOMAIN,
        "",
        elsewhere="say leave_out = true beside test_domains",
        later=True,
    )
    also_tested: str = _data(
        "Further test domains of the same run, in one text.",
        valid.NAMES,
        "",
        elsewhere="a preset tests on one domain at a time",
        later=True,
    )
    held_out: float = _data(
        "Share of every training domain that is held out for the i.i.d. score.", valid.SHARE, 0.2, scored=True
    )
    model: str = _data(
        "Name of the pretrained network, as in timm; 'a+b' for both side by side (linear fits).",
        valid.NAME,
        "tf_efficientnet_lite0",
        features="network",
    )
    weights: str = _data(
        "Initial weights: 'pretrained', 'random', or a safetensors file: a run's checkpoint, or timm's state dict.",
        valid.NAME,
        "pretrained",
    )
    weights_digest: str = _data(
        "Digest of the initial weights.", valid.TEXT, "", elsewhere="it follows from the weights", features="weights"
    )
    seed: int = _data(
        "Seed of the split, the head, the order of the images, their views and the dropout masks.",
        valid.SEED,
        0,
        names="run",
    )

    fit: str = _method(
        "What is trained: 'all' weights, 'linear' (weights on the last blocks' outputs, and the head: equation 1) or "
        "'probe' (the head alone).",
        valid.choice(*FITS),
        "all",
        later=True,
    )
    v_start: str = _method(
        "Where v of a linear fit starts (equation 1): 'last' (1 for the last block, 0 for the others) or 'normal' "
        "(standard normal, as in the paper's public code: the paper recipe's default).",
        valid.choice("last", "normal"),
        "last",
        later=True,
    )
    feature_views: int = _method(
        "Augmented views of each image that a linear fit or probe is trained on; 0 for the evaluation view.",
        ("a whole number from 0 to 1000", lambda value: 0 <= value <= 1000),
        0,
        later=True,
    )
    dropout: float = _method(
        "Share λ of the representation's units that are zeroed in training, in [0, 1).", valid.RATE, 0.9, names="run"
    )
    masks: int = _method(
        "Dropout masks for each image and step, whose losses are averaged; 1 where dropout is 0.",
        valid.MASKS,
        1,
        fine_tuning=True,
        later=True,
        rival=True,
    )
    head: str = _method(
        "How the new head starts: 'warm' (fitted on cached features with the same dropout), 'zero' (of zeros, from "
        "which large dropout does not collapse) or 'random'; only a warm one is handed over or gone back to.",
        valid.choice("warm", "zero", "random"),
        "warm",
    )
    head_lr_multiplier: float = _method(
        "Learning rate of the head, over that of the backbone.", valid.ABOVE_0, 1.0, fine_tuning=True
    )
    block_dropout: float = _method(
        "Share of the residual branches dropped in training (stochastic depth), in [0, 1).",
        valid.RATE,
        0.0,
        fine_tuning=True,
        rival=True,
    )
    objective: str = _method(
        f"What is minimised: {valid.choice(*OBJECTIVES)[0]}; 'erm' is cross-entropy alone.",
        valid.choice(*OBJECTIVES),
        "erm",
        fine_tuning=True,
        rival=True,
    )
    penalty: float | None = _method(
        "Weight of the objective's penalty, DomainBed's or its authors' by default; for 'mixout' the share of the "
        "filters that each step resets to the pretrained ones.",
        valid.FROM_0,
        None,
        rival=True,
    )
    penalty_after: int | None = _method(
        "Steps until 'vrex' or 'irm' has that weight instead of 1; a tenth of the steps by default.",
        valid.COUNT_FROM_0,
        None,
        unit="steps",
        rival=True,
    )
    class_weights: str = _extra(
        "Weights of the classes in the loss: 'none', or 'balanced', inverse to their shares of the training images.",
        valid.choice("none", "balanced"),
        "none",
    )
    swad: bool = _beside("Also compute SWAD's dense average of the weights (Cha et al., 2021).", valid.SWITCH, False)
    ema: float = _beside(
        "Decay, such as 0.99, of an exponential average of the weights, as a method; 0 for none.", valid.RATE, 0.0
    )
    wise_ft: bool = _beside(
        "Also evaluate between the weights at the start and at the end, and keep the best i.i.d. (WiSE-FT: Wortsman et "
        "al., 2022b).",
        valid.SWITCH,
        False,
    )
    hand_over: str = _beside(
        "The model that a run hands over: the checkpoint of 'best' i.i.d. accuracy, its 'average', 'ema', 'swad' or "
        "'wise-ft'; the start where that is better i.i.d. and its head was fitted.",
        valid.choice("best", "average", "ema", "swad", "wise-ft"),
        "best",
    )
    way_back: float = _beside(
        "Share of the way back to the weights at the start that this model is moved first, in [0, 1].", valid.PART, 0.0
    )

    select_by: str = _method(
        "What selects checkpoints, and settings in reports: 'iid-accuracy', or 'iid-macro' (the mean over classes, for "
        "when some have few images).",
        valid.choice(*SELECTED_BY),
        "iid-accuracy",
        later=True,
    )

    steps: int = _schedule("Optimiser steps.", valid.COUNT, 300, unit="steps")
    batch: int = _schedule("Images from each training domain in a batch.", valid.COUNT, 8, unit="images")
    balance: bool = _schedule(
        "Draw the classes of each training domain equally often, however many images each has.",
        valid.SWITCH,
        False,
        later=True,
    )
    optimizer: str = _schedule(
        "'sgd' or 'adamw'; for probes also 'lbfgs', until it has converged.",
        valid.choice("sgd", "adamw", "lbfgs"),
        "adamw",
    )
    lr: float = _schedule("Learning rate.", valid.ABOVE_0, 1e-4, tuned=True)
    momentum: float = _schedule("Momentum of SGD.", valid.RATE, 0.9)
    weight_decay: float = _schedule("L2 weight decay (decoupled with adamw).", valid.FROM_0, 1e-2, tuned=True)
    schedule: str = _schedule(
        "Learning rate over the steps: 'step' (a tenth from decay-at on, as in the paper) or 'cosine' (down to 0).",
        valid.choice("step", "cosine"),
        "step",
        later=True,
    )
    warmup: float = _schedule(
        "Share of the steps over which the learning rate first rises linearly.", valid.SHARE_OF_STEPS, 0.0, later=True
    )
    decay_at: float = _schedule(
        "Share of the steps after which schedule 'step' multiplies the learning rate by 0.1; 1 for never.",
        valid.MOMENT,
        0.5,
    )
    decay_again_at: float = _schedule(
        "Share of the steps after which schedule 'step' multiplies the learning rate by 0.1 again; 1 for never.",
        valid.MOMENT,
        1.0,
        later=True,
    )
    eval_every: int = _schedule(
        "Steps between two evaluations; each is a checkpoint to select, average and ensemble.",
        valid.COUNT,
        50,
        unit="steps",
    )

    size: int = _view(
        "Side of the network's square inputs, in pixels.", valid.PIXELS, 128, unit="px", features="network"
    )
    held_out_view: str = _view(
        "View of the held-out images: 'evaluation', or 'training' as the paper's public code has it.",
        valid.choice("evaluation", "training"),
        "evaluation",
        fine_tuning=True,
        scored=True,
    )
    precision: str = _view(
        "'float32' or 'bfloat16' (autocast).",
        valid.choice("float32", "bfloat16"),
        "float32",
        elsewhere="it is given with --precision",
        features="network",
    )

    def __post_init__(self) -> None:
        vars(self).update({name: plain(value) for name, value in vars(self).items()})  # of a grid in numpy
        problems = list(problems_of(vars(self))) or list(contradictions(self, ABOUT, _DEFAULTS))
        if problems:
            raise UserError("; ".join(problems))
        if self.dropout == 0:  # nothing to mask: one run, whatever the number of masks
            object.__setattr__(self, "masks", 1)
        object.__setattr__(self, "also_tested", text_of(names_in(self.also_tested)))
        for name in _FLOATS:  # 0 and 0.0 are one setting, so they must have one digest
            if isinstance(value := getattr(self, name), int):
                object.__setattr__(self, name, float(value))

    def to_json(self) -> dict[str, Any]:
        """The fields as a dictionary for JSON."""
        return {name: getattr(self, name) for name in ABOUT}  # plain values, which ``asdict`` would copy

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Config:
        """The inverse of ``to_json``.

        Raises:
            UserError: unknown or missing fields, or values out of range.
        """
        unknown = sorted(content.keys() - ABOUT.keys())
        if unknown:
            raise UserError(f"unknown setting '{unknown[0]}'; {one_of(unknown[0], sorted(ABOUT), most=60)}")
        missing = [name for name in ABOUT if name not in content and name not in _DEFAULTS]
        if missing:
            raise UserError(f"the setting{'s'[: len(missing) > 1]} {', '.join(missing)} must be given")
        return cls(**content)

    @property
    def selecting(self) -> str:
        """Name of the score that selects."""
        return SELECTED_BY[self.select_by]

    def digest(self) -> str:
        """The config's digest, twelve hexadecimal digits."""
        return digest_of(vars(self), PROTOCOL)

    @property
    def run_name(self) -> str:
        """Name of the run's folder: dataset, test domains, rate, seed and digest (which ``runs.protocol`` reads)."""
        name = "-".join((self.data, *self.test_domains))
        return fitting(name, f"-d{self.dropout:g}-s{self.seed}-{self.digest()}")

    @property
    def settings(self) -> dict[str, Any]:
        """All fields except those that identify the dataset and the run, which records have as their own fields."""
        return {name: getattr(self, name) for name in _SETTINGS}

    @property
    def family_key(self) -> tuple[object, ...]:
        """The key of runs that differ in tuned settings, test domain and seed only."""
        return self.fingerprint, self.dropout, *(getattr(self, name) for name in _SETTINGS if name not in TUNED)

    @property
    def network_key(self) -> tuple[object, ...]:
        """The key of the network's structure and precision, without the values of its weights."""
        parts = (getattr(self, name) for name, about in ABOUT.items() if about.features == "network")
        return (*parts, self.weights == "random")

    @property
    def feature_key(self) -> dict[str, Any]:
        """The fields on which features of the frozen network depend; the seed where the weights are random."""
        parts = _told({name: getattr(self, name) for name, about in ABOUT.items() if about.features})
        return {**parts, "seed": self.seed if self.weights == "random" else None}


ABOUT: Mapping[str, About] = {entry.name: entry.metadata["about"] for entry in fields(Config)}
"""Descriptions of the fields, by name."""

TUNED = tuple(name for name, about in ABOUT.items() if about.tuned)
"""Names of the tuned settings (section 4.1); the paper compares all others."""

VARIED = tuple(name for name, about in ABOUT.items() if about.names == "run")
"""Names of the fields in which the runs of a comparison differ."""

TYPES: Mapping[str, tuple[type, ...]] = {
    name: get_args(hint) or (hint,) for name, hint in get_type_hints(Config).items()
}
"""Types of the fields' values, by name; NoneType is second where None is valid."""

_SETTINGS = tuple(name for name, about in ABOUT.items() if not about.names)
_FLOATS = tuple(name for name, (kind, *_) in TYPES.items() if kind is float)

_DEFAULTS = {entry.name: entry.default for entry in fields(Config) if entry.default is not MISSING}

LATER: Mapping[str, Any] = {name: _DEFAULTS[name] for name, about in ABOUT.items() if about.later}
"""Defaults of the fields that are newer than the first runs, whose configs lack them."""

RIVALS: Mapping[str, Any] = {name: _DEFAULTS[name] for name, about in ABOUT.items() if about.rival}
"""Defaults of the fields whose other values are alternatives to plain fine-tuning."""


def digest_of(content: Mapping[str, Any], protocol: int) -> str:
    """The digest of a config's fields and a protocol."""
    text = json.dumps({"protocol": protocol, **_told(content)}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _told(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` without newer fields at their defaults."""
    return {name: value for name, value in content.items() if name not in LATER or value != LATER[name]}


def defaults_of(recipe: str, **settings: Any) -> dict[str, Any]:
    """The default of every field that has one, in a recipe, where ``settings`` are given.

    Raises:
        UserError: unknown recipe.
    """
    if recipe not in tuple(RECIPES):  # a tuple, for what has no hash
        raise UserError(f"unknown recipe '{recipe}'; {one_of(str(recipe), RECIPES)}")
    following = (new for (name, value), new in FOLLOWING[recipe].items() if settings.get(name) == value)
    return {**_DEFAULTS, **RECIPES[recipe], **{name: value for new in following for name, value in new.items()}}


def make_config(recipe: str = "short", **settings: Any) -> Config:
    """A config from a recipe and settings that replace its defaults.

    Raises:
        UserError: unknown recipe or setting, missing settings, or values out of range.
    """
    return Config.from_json({**defaults_of(recipe, **settings), **settings})


def problems_of(values: Mapping[str, Any]) -> Iterator[str]:
    """One message for each field whose value is invalid."""
    for name, value in values.items():
        try:
            valid = _is_valid(name, value)
        except TypeError:  # a list or the like, which has no hash
            valid = False
        if not valid:
            yield f"{name.replace('_', '-')} must be {ABOUT[name].check[0]}, not {brief(value)}"


@lru_cache(1 << 14, typed=True)  # the configs of a sweep differ in few values
def _is_valid(name: str, value: Any) -> bool:
    (kind, *none), (_, is_valid) = TYPES[name], ABOUT[name].check
    if none and value is None:
        return True
    right = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    return right and (kind is not float or valid.is_finite(value)) and is_valid(value)
