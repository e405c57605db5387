"""Configs: all problems at once, one digest for one meaning, and the paper's protocol."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest

from largedrop.config import LATER, RECIPES, Config, field_problems, help_of, make_config, with_settings
from largedrop.errors import UserError

WHAT = {"data": "PACS", "fingerprint": "f00d", "test_domain": "sketch"}
CHANGED: dict[str, Any] = {
    "data": "VLCS",
    "fingerprint": "beef",
    "test_domain": "photo",
    "model": "resnet50",
    "weights": "random",
    "weights_digest": "abc",
    "seed": 1,
    "dropout": 0.5,
    "head": "random",
    "head_lr_multiplier": 10.0,
    "block_dropout": 0.1,
    "objective": "irm",
    "penalty": 2.0,
    "penalty_after": 5,
    "steps": 301,
    "batch": 17,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "decay_at": 1.0,
    "eval_every": 51,
    "size": 224,
    "held_out": 0.1,
    "held_out_view": "training",
    "precision": "bfloat16",
}
CHANGED_LATER: dict[str, Any] = {
    "left_out": "cartoon",
    "fit": "linear",
    "feature_views": 3,
    "swad": True,
    "decay_again_at": 0.9,
}
"""Of the fields that came after the first runs; some only go with others."""
WRONG: list[tuple[str, Any, str]] = [
    ("seed", -1, "seed must be a whole number from 0 to 2**32 - 1, not -1"),
    ("seed", 1.0, "seed must be a whole number from 0 to 2**32 - 1, not 1.0"),
    ("seed", True, "seed must be a whole number from 0 to 2**32 - 1, not True"),
    ("dropout", 1, "dropout must be in [0, 1), not 1"),
    ("dropout", -0.1, "dropout must be in [0, 1), not -0.1"),
    ("dropout", math.nan, "dropout must be in [0, 1), not nan"),
    ("dropout", "0.9", "dropout must be in [0, 1), not '0.9'"),
    ("block_dropout", 1.0, "block-dropout must be in [0, 1), not 1.0"),
    ("objective", "dann", "objective must be 'erm', 'coral', 'vrex', 'irm' or 'mldg', not 'dann'"),
    ("penalty", -1.0, "penalty must be 0 or more, not -1.0"),
    ("penalty_after", 0.5, "penalty-after must be a whole number, 0 or more, not 0.5"),
    ("head", "hot", "head must be 'warm' or 'random', not 'hot'"),
    ("head_lr_multiplier", 0, "head-lr-multiplier must be above 0, not 0"),
    ("left_out", None, "left-out must be the name of a domain, not None"),
    ("swad", 1, "swad must be true or false, not 1"),
    ("fit", "head", "fit must be 'all', 'linear' or 'probe', not 'head'"),
    ("feature_views", -1, "feature-views must be a whole number from 0 to 1000, not -1"),
    ("decay_again_at", 1.5, "decay-again-at must be in (0, 1], not 1.5"),
    ("steps", 0, "steps must be a whole number, 1 or more, not 0"),
    ("steps", 1e4, "steps must be a whole number, 1 or more, not 10000.0"),
    ("batch", 0, "batch must be a whole number, 1 or more, not 0"),
    ("optimizer", "adam", "optimizer must be 'sgd', 'adamw' or 'lbfgs', not 'adam'"),
    ("lr", 0.0, "lr must be above 0, not 0.0"),
    ("lr", math.inf, "lr must be above 0, not inf"),
    ("lr", None, "lr must be above 0, not None"),
    ("momentum", 1.0, "momentum must be in [0, 1), not 1.0"),
    ("weight_decay", -1e-4, "weight-decay must be 0 or more, not -0.0001"),
    ("decay_at", 0, "decay-at must be in (0, 1], not 0"),
    ("decay_at", 1.1, "decay-at must be in (0, 1], not 1.1"),
    ("eval_every", 0, "eval-every must be a whole number, 1 or more, not 0"),
    ("size", 15, "size must be a whole number of pixels from 16 to 4096, not 15"),
    ("size", 4097, "size must be a whole number of pixels from 16 to 4096, not 4097"),
    ("held_out", 0.0, "held-out must be in (0, 1), not 0.0"),
    ("held_out", 1, "held-out must be in (0, 1), not 1"),
    ("held_out_view", "train", "held-out-view must be 'evaluation' or 'training', not 'train'"),
    ("precision", "auto", "precision must be 'float32' or 'bfloat16', not 'auto'"),
]


def config(**settings: Any) -> Config:
    return make_config(**{**WHAT, **settings})


def refusal(**settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        config(**settings)
    return str(caught.value)


@pytest.mark.parametrize(("name", "value", "text"), WRONG)
def test_values_out_of_range(name: str, value: Any, text: str) -> None:
    assert refusal(**{name: value}) == text


def test_all_problems_at_once() -> None:
    wrong = {name: (value, text) for name, value, text in WRONG}
    told = refusal(**{name: value for name, (value, _) in wrong.items()}).split("; ")
    assert sorted(told) == sorted(text for _, text in wrong.values())
    assert len(told) == 25


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"left_out": "sketch"}, "left-out and test-domain are both 'sketch'"),
        ({"decay_again_at": 0.4}, "decay-again-at (0.4) comes before decay-at (0.5)"),
        (
            {"feature_views": 1},
            "feature-views is for linear fits and probes; fine-tuning draws new views at every step",
        ),
        (
            {"model": "a+b"},
            "networks side by side ('a+b') are for linear fits and probes, not for fine-tuning",
        ),
        (
            {"fit": "probe", "objective": "irm", "block_dropout": 0.1, "swad": True, "optimizer": "adamw"},
            "objective 'irm' does not go with fit 'probe'; block-dropout 0.1 does not go with fit 'probe'; "
            "swad True does not go with fit 'probe'; optimizer 'adamw' does not go with fit 'probe'",
        ),
    ],
)
def test_fields_that_contradict_each_other(settings: dict[str, Any], text: str) -> None:
    assert refusal(**settings) == text


def test_a_field_is_checked_by_itself() -> None:
    assert field_problems("fit", "linear") == []
    assert field_problems("dropout", 1.0) == ["dropout must be in [0, 1), not 1.0"]


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0},
        {"dropout": 0.999},
        {"decay_at": 1},
        {"size": 16},
        {"size": 4096},
        {"weight_decay": 0},
        {"momentum": 0},
    ],
)
def test_the_ends_of_the_ranges_are_valid(settings: dict[str, Any]) -> None:
    assert config(**settings) == with_settings(config(), **settings)


def test_unknown_settings_name_the_nearest() -> None:
    known = ", ".join(sorted(entry.name for entry in fields(Config)))
    assert refusal(drop_out=0.5) == f"unknown setting 'drop_out'; did you mean 'dropout'? (there are: {known})"
    assert refusal(zzz=1) == f"unknown setting 'zzz'; there are: {known}"


def test_missing_settings_are_all_named() -> None:
    with pytest.raises(UserError, match=r"^the settings fingerprint, test_domain must be given$"):
        make_config(data="PACS")
    with pytest.raises(UserError, match=r"^the setting test_domain must be given$"):
        make_config(data="PACS", fingerprint="f00d")


def test_unknown_recipes_name_the_nearest() -> None:
    assert refusal(recipe="papre") == "unknown recipe 'papre'; did you mean 'paper'? (there are: short, paper)"


def test_the_paper_recipe_is_the_protocol() -> None:
    paper = config(recipe="paper").to_json()
    wanted = {
        "seed": 0,
        "dropout": 0.9,
        "head": "random",
        "head_lr_multiplier": 1.0,
        "steps": 10_000,
        "batch": 32,
        "optimizer": "sgd",
        "momentum": 0.9,
        "decay_at": 0.5,
        "eval_every": 300,
        "size": 224,
        "held_out": 0.2,
        "precision": "float32",
    }
    assert {name: paper[name] for name in wanted} == wanted
    assert paper["lr"] in (1e-3, 5e-4)
    assert paper["weight_decay"] in (1e-4, 5e-5, 1e-5)
    assert config(recipe="paper").milestones == (5_000, 10_000)


def test_the_short_recipe_is_the_defaults_and_settings_win_over_recipes() -> None:
    assert config() == Config(**WHAT)
    assert set(RECIPES) == {"short", "paper"}
    assert config(recipe="paper", steps=7, lr=5e-4).to_json() == {
        **config(recipe="paper").to_json(),
        "steps": 7,
        "lr": 5e-4,
    }


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (6, 2, (2, 4, 6)),
        (7, 2, (2, 4, 6, 7)),
        (5, 10, (5,)),
        (5, 5, (5,)),
        (1, 1, (1,)),
        (3, 1, (1, 2, 3)),
    ],
)
def test_evaluations_end_with_the_last_step(steps: int, every: int, expected: tuple[int, ...]) -> None:
    assert config(steps=steps, eval_every=every).evaluations == expected


def test_the_papers_evaluations() -> None:
    steps = config(recipe="paper").evaluations
    assert (len(steps), steps[0], steps[-2:]) == (34, 300, (9_900, 10_000))


@pytest.mark.parametrize(
    ("steps", "share", "milestone"),
    [(300, 0.5, 150), (7, 0.5, 4), (1, 0.5, 1), (10, 1, 10), (10, 0.01, 1), (100, 0.07, 7), (100, 0.55, 55)],
)
def test_the_milestone_is_the_first_step_of_the_lower_rate(steps: int, share: float, milestone: int) -> None:
    assert config(steps=steps, decay_at=share).milestones == (milestone, steps)


def test_the_milestones_of_figure_4() -> None:
    assert config(steps=30_000, decay_at=0.5, decay_again_at=5 / 6).milestones == (15_000, 25_000)


@pytest.mark.parametrize("name", [entry.name for entry in fields(Config)])
def test_the_digest_changes_with_every_field(name: str) -> None:
    base = config(fit="probe", optimizer="sgd") if name in ("fit", "feature_views") else config()
    changed = with_settings(base, **{name: {**CHANGED, **CHANGED_LATER}[name]})
    assert changed != base
    assert changed.digest() != base.digest()


def test_the_digest_of_a_literal_config() -> None:
    assert Config(**{**WHAT, **CHANGED}).digest() == "95732b68feda"
    assert Config(**{**WHAT, **CHANGED, **{name: getattr(config(), name) for name in LATER}}).digest() == "95732b68feda"


@pytest.mark.parametrize(
    ("name", "whole"), [("dropout", 0), ("lr", 1), ("weight_decay", 0), ("momentum", 0), ("decay_at", 1)]
)
def test_whole_numbers_are_the_same_setting(name: str, whole: int) -> None:
    one, other = config(**{name: whole}), config(**{name: float(whole)})
    assert one.digest() == other.digest()
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())


def test_a_config_comes_back_from_json() -> None:
    one = Config(**{**WHAT, **CHANGED})
    again = Config.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    assert again.digest() == one.digest()
    assert list(one.to_json()) == [entry.name for entry in fields(Config)]
    assert {entry.name for entry in fields(Config)} == {*CHANGED, *CHANGED_LATER}
    assert set(CHANGED_LATER) == set(LATER)


def test_every_field_has_a_line_of_help() -> None:
    assert help_of("lr") == "Learning rate."
    for entry in fields(Config):
        assert help_of(entry.name).endswith(".")
        assert "\n" not in help_of(entry.name)
