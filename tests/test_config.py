"""Configs: all problems at once, one digest for one meaning, and the paper's protocol."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from largedrop.config import ABOUT, FITS, OBJECTIVES, RECIPES, Config, defaults_of, digest_of, make_config, problems_of
from largedrop.errors import UserError
from largedrop.valid import choice

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
    "also_tested": "art",
    "fit": "linear",
    "v_start": "normal",
    "feature_views": 3,
    "masks": 16,
    "swad": True,
    "wise_ft": True,
    "hand_over": "average",
    "way_back": 0.3,
    "ema": 0.99,
    "schedule": "cosine",
    "warmup": 0.1,
    "decay_again_at": 0.9,
    "select_by": "iid-macro",
    "balance": True,
    "class_weights": "balanced",
}
"""Of the fields that came after the first runs; some only go with others."""
WRONG: list[tuple[str, Any, str]] = [
    ("data", None, "data must be text, not None"),
    ("fingerprint", 7, "fingerprint must be text, not 7"),
    ("test_domain", ["photo"], "test-domain must be the name of a domain, not ['photo']"),
    ("model", "", "model must be a name, not ''"),
    ("weights", None, "weights must be a name, not None"),
    ("weights_digest", 1, "weights-digest must be text, not 1"),
    ("seed", -1, "seed must be a whole number from 0 to 2**32 - 1, not -1"),
    ("seed", 1.0, "seed must be a whole number from 0 to 2**32 - 1, not 1.0"),
    ("seed", True, "seed must be a whole number from 0 to 2**32 - 1, not True"),
    ("lr", 10**400, "lr must be above 0, not a number of 1,329 bits"),
    ("dropout", 1, "dropout must be in [0, 1), not 1"),
    ("dropout", -0.1, "dropout must be in [0, 1), not -0.1"),
    ("dropout", math.nan, "dropout must be in [0, 1), not nan"),
    ("dropout", "0.9", "dropout must be in [0, 1), not '0.9'"),
    ("block_dropout", 1.0, "block-dropout must be in [0, 1), not 1.0"),
    ("objective", "dann", f"objective must be {choice(*OBJECTIVES)[0]}, not 'dann'"),
    ("penalty", -1.0, "penalty must be 0 or more, not -1.0"),
    ("penalty_after", 0.5, "penalty-after must be a whole number, 0 or more, not 0.5"),
    ("head", "hot", "head must be 'warm', 'zero' or 'random', not 'hot'"),
    ("head_lr_multiplier", 0, "head-lr-multiplier must be above 0, not 0"),
    ("left_out", None, "left-out must be the name of a domain, not None"),
    ("masks", 0, "masks must be a whole number from 1 to 1024, not 0"),
    ("masks", 1.5, "masks must be a whole number from 1 to 1024, not 1.5"),
    ("ema", 1.0, "ema must be in [0, 1), not 1.0"),
    ("swad", 1, "swad must be true or false, not 1"),
    ("hand_over", "last", "hand-over must be 'best', 'average', 'ema', 'swad' or 'wise-ft', not 'last'"),
    ("way_back", 1.1, "way-back must be in [0, 1], not 1.1"),
    ("fit", "head", "fit must be 'all', 'linear' or 'probe', not 'head'"),
    ("feature_views", -1, "feature-views must be a whole number from 0 to 1000, not -1"),
    ("schedule", "linear", "schedule must be 'step' or 'cosine', not 'linear'"),
    ("warmup", 50, "warmup must be a share of the steps, in [0, 1), not 50"),
    ("decay_again_at", 1.5, "decay-again-at must be in (0, 1], not 1.5"),
    ("steps", 0, "steps must be a whole number from 1 to 10**7, not 0"),
    ("steps", 1e4, "steps must be a whole number from 1 to 10**7, not 10000.0"),
    ("steps", 10**23, f"steps must be a whole number from 1 to 10**7, not {10**23}"),
    ("batch", 0, "batch must be a whole number from 1 to 10**7, not 0"),
    ("class_weights", "yes", "class-weights must be 'none' or 'balanced', not 'yes'"),
    ("optimizer", "adam", "optimizer must be 'sgd', 'adamw' or 'lbfgs', not 'adam'"),
    ("lr", 0.0, "lr must be above 0, not 0.0"),
    ("lr", math.inf, "lr must be above 0, not inf"),
    ("lr", None, "lr must be above 0, not None"),
    ("momentum", 1.0, "momentum must be in [0, 1), not 1.0"),
    ("weight_decay", -1e-4, "weight-decay must be 0 or more, not -0.0001"),
    ("decay_at", 0, "decay-at must be in (0, 1], not 0"),
    ("decay_at", 1.1, "decay-at must be in (0, 1], not 1.1"),
    ("eval_every", 0, "eval-every must be a whole number from 1 to 10**7, not 0"),
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


def test_a_number_that_python_does_not_write() -> None:
    said = "seed must be a whole number from 0 to 2**32 - 1, not a number of 16,610 bits"
    assert list(problems_of({"seed": 10**5000})) == [said]


@pytest.mark.parametrize(("name", "value", "text"), WRONG)
def test_values_out_of_range(name: str, value: Any, text: str) -> None:
    assert refusal(**{name: value}) == text


def test_all_problems_at_once() -> None:
    wrong = {name: (value, text) for name, value, text in WRONG}
    told = refusal(**{name: value for name, (value, _) in wrong.items()}).split("; ")
    assert sorted(told) == sorted(text for _, text in wrong.values())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"left_out": "sketch"}, "left-out and test-domain are both 'sketch'"),
        (
            {"balance": True, "class_weights": "balanced"},
            "balance and class-weights 'balanced' do the same in two ways: leave one of them out",
        ),
        (
            {"fit": "probe", "optimizer": "lbfgs", "head": "random", "balance": True},
            "balance is of batches, of which optimizer 'lbfgs' has none",
        ),
        (
            {"fit": "probe", "optimizer": "sgd", "head": "random", "class_weights": "balanced"},
            "class-weights 'balanced' does not go with fit 'probe'",
        ),
        ({"decay_again_at": 0.4}, "decay-again-at (0.4) comes before decay-at (0.5)"),
        (
            {"wise_ft": True, "head": "random"},
            "wise-ft needs head 'warm': a random head is nothing to go back to",
        ),
        ({"way_back": 0.3, "head": "random"}, "way-back needs head 'warm': a random head is nothing to go back to"),
        ({"wise_ft": True, "head": "zero"}, "wise-ft needs head 'warm': a zero head is nothing to go back to"),
        ({"hand_over": "ema"}, "hand-over 'ema' needs ema, which this run does not compute"),
        ({"hand_over": "swad"}, "hand-over 'swad' needs swad, which this run does not compute"),
        ({"hand_over": "wise-ft"}, "hand-over 'wise-ft' needs wise-ft, which this run does not compute"),
        (
            {"hand_over": "wise-ft", "wise_ft": True, "way_back": 0.3},
            "way-back 0.3 does not go with hand-over 'wise-ft', which chooses its own share",
        ),
        ({"wise_ft": True, "fit": "probe"}, "wise-ft True does not go with fit 'probe'"),
        ({"warmup": 0.6}, "decay-at (0.5) comes before the warm-up ends (0.6)"),
        (
            {"schedule": "cosine", "decay_at": 0.4, "decay_again_at": 0.8},
            "decay-at 0.4 does not go with schedule 'cosine'; decay-again-at 0.8 does not go with schedule 'cosine'",
        ),
        (
            {"feature_views": 1},
            "feature-views is for linear fits and probes; fine-tuning draws new views at every step",
        ),
        ({"model": "a+b"}, "networks side by side ('a+b') are for linear fits and probes, not for fine-tuning"),
        (
            {"fit": "probe", "objective": "irm", "block_dropout": 0.1, "swad": True, "optimizer": "adamw"},
            "block-dropout 0.1 does not go with fit 'probe'; objective 'irm' does not go with fit 'probe'; "
            "swad True does not go with fit 'probe'; optimizer 'adamw' does not go with fit 'probe'",
        ),
        ({"fit": "probe", "v_start": "normal"}, "v-start 'normal' does not go with fit 'probe', which has no v"),
    ],
)
def test_fields_that_contradict_each_other(settings: dict[str, Any], text: str) -> None:
    assert refusal(**settings) == text


def test_at_rate_0_there_is_one_run_whatever_the_masks() -> None:
    assert config(dropout=0, masks=16) == config(dropout=0.0)
    assert config(dropout=0.5, masks=16).masks == 16


def test_a_field_is_checked_by_itself() -> None:
    assert [*problems_of({"fit": "linear"})] == []
    assert [*problems_of({"dropout": 1.0})] == ["dropout must be in [0, 1), not 1.0"]


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0},
        {"dropout": 0.999},
        {"decay_at": 1},
        {"warmup": 0.5},
        {"warmup": 0.99, "schedule": "cosine"},
        {"size": 16},
        {"size": 4096},
        {"weight_decay": 0},
        {"momentum": 0},
    ],
)
def test_the_ends_of_the_ranges_are_valid(settings: dict[str, Any]) -> None:
    assert config(**settings) == replace(config(), **settings)


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
    assert refusal(recipe="papre") == "unknown recipe 'papre'; did you mean 'paper'? (there are: robust, short, paper)"
    assert refusal(recipe=[0]) == "unknown recipe '[0]'; there are: robust, short, paper"
    assert refusal(fit=["probe"]) == "fit must be 'all', 'linear' or 'probe', not ['probe']"


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
    assert config() == Config(**WHAT)  # type: ignore[arg-type]
    assert set(RECIPES) == {"robust", "short", "paper"}
    assert config(recipe="paper", steps=7, lr=5e-4).to_json() == {
        **config(recipe="paper").to_json(),
        "steps": 7,
        "lr": 5e-4,
    }


def test_defaults_of_the_robust_recipe_follow_from_what_is_set() -> None:
    robust = config(recipe="robust")
    assert (robust.masks, robust.hand_over, robust.way_back) == (16, "ema", 0)
    assert config(recipe="robust", ema=0).hand_over == "average"
    for fit in ("linear", "probe"):
        assert config(recipe="robust", fit=fit) == config(recipe="short", fit=fit)
        assert config(recipe="robust", ema=0, fit=fit).hand_over == "best"
    assert config(recipe="robust", hand_over="best", masks=4).masks == 4


def test_v_starts_as_in_the_public_code_under_the_papers_recipe() -> None:
    starts = {(recipe, fit): config(recipe=recipe, fit=fit).v_start for recipe in RECIPES for fit in FITS}
    assert {pair for pair, start in starts.items() if start == "normal"} == {("paper", "linear")}
    assert config(recipe="paper", fit="linear", v_start="last").v_start == "last"


@pytest.mark.parametrize("name", [entry.name for entry in fields(Config)])
def test_the_digest_changes_with_every_field(name: str) -> None:
    fit = {"fit": "probe", "feature_views": "probe", "v_start": "linear"}.get(name, "all")
    base = config(fit=fit)
    changed = replace(base, **{name: {**CHANGED, **CHANGED_LATER}[name]})
    assert changed != base
    assert changed.digest() != base.digest()


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        (CHANGED, "95732b68feda"),
        ({**CHANGED, **{name: defaults_of("short")[name] for name in CHANGED_LATER}}, "95732b68feda"),
        ({}, "c4a9f31707d2"),
        ({"recipe": "paper"}, "645e009c88e2"),
        ({"fit": "probe"}, "3f58af75de0a"),
        ({"recipe": "paper", "fit": "linear", "v_start": "last"}, "c5539939e77b"),
        ({"fit": "probe", "optimizer": "lbfgs", "feature_views": 2}, "2c837d9f9fb9"),
        ({"left_out": "photo", "seed": 7}, "e768d230b99f"),
        ({"dropout": 0, "weight_decay": 0, "lr": 1}, "51133110d7fe"),
        ({"objective": "vrex", "penalty": 1, "penalty_after": 30}, "4627bceccbe1"),
        ({"swad": True, "decay_again_at": 0.9, "precision": "bfloat16"}, "0eff60705f12"),
    ],
)
def test_digests_name_the_runs_of_older_versions(settings: dict[str, Any], digest: str) -> None:
    assert digest_of(config(**settings).to_json(), 2) == digest


@pytest.mark.parametrize(
    ("name", "whole"), [("dropout", 0), ("lr", 1), ("weight_decay", 0), ("momentum", 0), ("decay_at", 1)]
)
def test_whole_numbers_are_the_same_setting(name: str, whole: int) -> None:
    one, other = config(**{name: whole}), config(**{name: float(whole)})
    assert one.digest() == other.digest()
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())


def test_numbers_of_numpys_are_the_same_setting() -> None:
    plain = config(steps=20, lr=0.5, swad=True)
    numpys = config(steps=np.int64(20), lr=np.float32(0.5), swad=np.bool_(True))
    assert (numpys, numpys.digest(), json.dumps(numpys.to_json())) == (
        plain,
        plain.digest(),
        json.dumps(plain.to_json()),
    )


def test_a_config_comes_back_from_json() -> None:
    one = Config(**{**WHAT, **CHANGED})
    again = Config.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    assert again.digest() == one.digest()
    assert list(one.to_json()) == [entry.name for entry in fields(Config)]
    assert set(ABOUT) == {*CHANGED, *CHANGED_LATER}
    assert {name for name, about in ABOUT.items() if about.later} == set(CHANGED_LATER)


@pytest.mark.parametrize("name", ABOUT)
def test_every_field_has_a_line_of_help_a_group_and_a_range(name: str) -> None:
    about = ABOUT[name]
    assert about.help.endswith(".")
    assert "\n" not in about.help
    assert about.group in ("data", "method", "schedule", "view")
    assert [*problems_of({name: []})] == [f"{name.replace('_', '-')} must be {about.check[0]}, not []"]


def test_fields_stand_group_by_group() -> None:
    groups = [about.group for about in ABOUT.values()]
    assert groups == sorted(groups, key=["data", "method", "schedule", "view"].index)


def test_what_a_record_names_itself_is_no_setting() -> None:
    assert ABOUT.keys() - config().settings.keys() == {"data", "fingerprint", "test_domain", "seed", "dropout"}


def test_what_features_depend_on() -> None:
    pretrained = config(weights_digest="abc")
    assert pretrained.network_key == ("tf_efficientnet_lite0", 128, "float32", False)
    key = {"model": "tf_efficientnet_lite0", "size": 128, "precision": "float32", "weights_digest": "abc", "seed": None}
    assert pretrained.feature_key == key
    assert replace(pretrained, seed=1, dropout=0.0, lr=1.0, steps=9).feature_key == pretrained.feature_key
    assert replace(pretrained, weights="random", seed=1).feature_key == {**key, "seed": 1}
