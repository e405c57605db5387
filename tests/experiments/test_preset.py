"""Presets: every one that comes with largedrop, counted by hand, and what one of one's own says."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.presets import PLAIN, written

from largedrop.config import Config, make_config
from largedrop.errors import UserError
from largedrop.experiments.preset import FOLDER, Preset, Scale, preset_names, read_preset, with_weights

FOUR = ("art_painting", "cartoon", "photo", "sketch")
SIX = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
RUNS = {
    "paper-figure-1": (2 * 3 * 4, 2 * 2 * 4),
    "paper-figure-2": (2 * 2 * 3 * 3 * 4, 2 * 3 * 1 * 1 * 4),  # rates, learning rates, weight decays, seeds, domains
    "paper-figure-3": (4 * 2 * 3 * 3 * 4, 4 * 2 * 1 * 1 * 4),
    "paper-figure-4": (4 * 2 * 3 * 3 * 4, 4 * 1 * 1 * 2 * 4),
    "paper-figure-5": (4 * 2 * 3 * 3 * 4, 4 * 2 * 1 * 1 * 4),
    "paper-figure-6": (2 * 2 * 2 * 3 * 3 * 4, 2 * 2 * 2 * 1 * 1 * 4),  # multipliers and rates first
    "paper-figure-7": (1 * 2 * 3 * 3 * 4, 1 * 3 * 1 * 1 * 4),
    "paper-figure-8": (3 * 4 * 2 * 3 * 3 * 4, 3 * 4 * 2 * 1 * 1 * 4),  # fits and rates first
    "paper-figure-9": (2 * 2 * 2 * 3 * 3 * 4, 2 * 2 * 1 * 1 * 1 * 4),  # networks and methods first
    "paper-figure-10": (5 * 2 * 3 * 3 * 4, 5 * 1 * 1 * 1 * 4),
}
"""Of every figure of the paper, at full and at small scale, with four test domains."""


def header(name: str) -> str:
    """The comment at the top of a preset's file, without its marks."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), (FOLDER / f"{name}.toml").read_text().splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def configs(scale: Scale, domains: tuple[str, ...] = FOUR) -> set[Config]:
    return {make_config(scale.recipe, data="d", fingerprint="f", **run) for run in scale.runs(domains)}


def small(preset: Preset) -> Scale:
    assert preset.small is not None
    return preset.small


def test_the_figures_are_these_by_number() -> None:
    assert [name for name in preset_names() if name.startswith("paper-")] == list(RUNS)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_both_scales_and_tells_its_command_and_cost(name: str) -> None:
    assert small(read_preset(name))
    top = header(name)
    assert re.search(rf"^    largedrop sweep {name} .*--data path/to/\w+ --output sweeps/\w+$", top, re.M)
    assert "Cost with " in top


@pytest.mark.parametrize("name", list(RUNS))
def test_each_figure_has_as_many_runs_as_the_paper_all_different(name: str) -> None:
    preset = read_preset(name)
    for scale, number in ((preset.full, RUNS[name][0]), (small(preset), RUNS[name][1])):
        assert len(scale.runs(FOUR)) == number
        assert len(configs(scale)) == number
        assert scale.test_domains is None
    assert len(preset.full.runs(SIX)) == RUNS[name][0] // 4 * 6


@pytest.mark.parametrize("name", list(RUNS))
def test_each_figure_begins_with_its_number_expectation_and_cost(name: str) -> None:
    preset = read_preset(name)
    assert preset.figure == name.removeprefix("paper-").replace("-", " ")
    top = header(name)
    assert top.startswith(preset.figure.capitalize())
    for part in ("Expected: ", "At --scale small"):
        assert part in top
    domains = 6 if name == "paper-figure-4" else 4
    flowing = " ".join(top.split())
    assert f"× {domains} = {RUNS[name][0] // 4 * domains} runs" in flowing
    assert re.search(rf"\b{RUNS[name][1]} (runs of [0-9 and]+ steps |runs )?on PACS", flowing)


def test_the_numbers_of_figures_2_and_3_are_the_published_ones() -> None:
    lines = header("paper-figure-2").splitlines()
    assert "    PACS           97.5 / 86.5    97.8 / 88.4    86.5               86.6" in lines
    assert "    VLCS           87.4 / 78.7    87.4 / 80.0    79.3               79.5" in lines
    assert "    OfficeHome     84.9 / 70.8    85.9 / 73.4    71.6               71.6" in lines
    assert "    TerraIncognita 91.3 / 51.3    87.9 / 53.7    53.1               52.7" in lines
    lines = header("paper-figure-3").splitlines()
    assert "    PACS           86.5    87.5    88.4    88.5" in lines
    assert "    TerraIncognita 51.3    53.1    53.7    52.3" in lines


def test_rivals_are_trained_equally_long_and_tuned_equally() -> None:
    preset = read_preset("rivals")
    flowing = " ".join(header("rivals").split())
    assert "= 144 runs of 10,000 steps" in flowing
    assert "96 runs of 600 steps on PACS, 120 on emoji" in flowing
    for scale, number, rates in ((preset.full, 144, {1e-3, 5e-4}), (small(preset), 96, {1e-4, 3e-4})):
        found = configs(scale)
        assert len(scale.runs(FOUR)) == len(found) == number
        rivals = {(one.objective, one.penalty, one.dropout, one.masks) for one in found}
        assert rivals == {
            *(("erm", 0.0, 0.0, 1), ("erm", 0.0, 0.9, 1), ("erm", 0.0, 0.9, 16)),
            *(("mixout", 0.8, 0.0, 1), ("mixout", 0.9, 0.0, 1), ("l2sp", 0.1, 0.0, 1)),
        }
        for one in rivals:
            own = [each for each in found if (each.objective, each.penalty, each.dropout, each.masks) == one]
            assert {each.lr for each in own} == rates
            assert len(own) == number // 6
        assert len({(one.steps, one.batch, one.schedule, one.warmup, one.weight_decay, one.head) for one in found}) == 1
        assert all(one.swad and one.ema and one.wise_ft for one in found)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "paper-figure-1"])  # that is of appendix A.1
def test_full_scale_is_the_papers_protocol(name: str) -> None:
    for config in configs(read_preset(name).full):
        assert (config.batch, config.size, config.optimizer, config.head) == (32, 224, "sgd", "random")
        assert (config.momentum, config.decay_at) == (0.9, 0.5)
        assert config.eval_every == (3_000 if name == "paper-figure-4" else 300)
        assert config.milestones == ((15_000, 25_000) if name == "paper-figure-4" else (5_000, 10_000))
        assert config.steps == (30_000 if name == "paper-figure-4" else 10_000)
        assert config.weights == ("random" if name == "paper-figure-5" else "pretrained")
        assert config.weight_decay in (1e-4, 5e-5, 1e-5)
        rates = {"paper-figure-4": (3e-3, 5e-3), "paper-figure-5": (5e-3, 1e-2)}.get(name, (1e-3, 5e-4))
        assert config.lr in rates
        if name != "paper-figure-6":
            assert config.head_lr_multiplier == (10 if name == "paper-figure-9" and config.dropout else 1)
        models = ("resnet50.tv_in1k", "resnet50.tv2_in1k")
        assert config.model in (models if name == "paper-figure-9" else models[1:])


@pytest.mark.parametrize(
    ("one", "other", "shared", "shared_small"),
    [
        ("paper-figure-2", "paper-figure-3", 144, 16),
        ("paper-figure-2", "paper-figure-6", 144, 16),
        ("paper-figure-3", "paper-figure-8", 288, 32),
        ("paper-figure-3", "paper-figure-4", 0, 16),
        ("paper-figure-2", "paper-figure-7", 72, 12),
        ("paper-figure-2", "paper-figure-9", 72, 4),
        ("paper-figure-6", "paper-figure-9", 144, 8),
        ("paper-figure-4", "paper-figure-9", 0, 4),
        ("paper-figure-2", "paper-figure-10", 144, 8),
    ],
)
def test_what_two_figures_share_is_one_run(one: str, other: str, shared: int, shared_small: int) -> None:
    first, second = read_preset(one), read_preset(other)
    assert len(configs(first.full) & configs(second.full)) == shared
    assert len(configs(small(first)) & configs(small(second))) == shared_small


@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize(("images", "domains"), [(9_991, 4), (4_155, 5)])
def test_small_scale_takes_less_than_an_hour_by_its_steps_and_evaluations(name: str, images: int, domains: int) -> None:
    """0.12 s for a step of 32 images at 96 px on two cores, 0.8 s for an evaluation of 1,000, and Lite1 takes twice."""
    total = 0.0
    for config in configs(small(read_preset(name)), tuple("abcdef"[:domains])):
        assert config.size == 96
        if config.fit != "all":
            continue  # on cached features, all of them together
        step = 0.12 * config.batch * (domains - 1) / 32
        scored = images / domains * (1 + 0.2 * (domains - 1))
        seconds = step * config.steps + 0.8e-3 * scored * (len(config.evaluations) + 1)
        total += seconds * (2 if config.model == "tf_efficientnet_lite1" else 1)
    assert total < 3600


@pytest.mark.parametrize("name", [f"paper-figure-{number}" for number in (2, 3, 4, 6, 7, 8, 9, 10)])
def test_figures_that_need_trained_networks_are_trained_like_the_default_recipe_at_small_scale(name: str) -> None:
    robust = make_config("robust", data="d", fingerprint="f", test_domain="a")
    for config in configs(small(read_preset(name))):
        if config.fit != "all":
            continue
        assert 1e-4 <= config.lr <= 1e-3
        for field in ("steps", "schedule", "warmup", "eval_every", "optimizer", "weight_decay", "batch", "head"):
            assert getattr(config, field) == getattr(robust, field), field


def test_runs_go_seed_by_seed_and_compare_first(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        PLAIN + "test_domains = ['b', 'a']\n[settings]\nsteps = 7\n"
        "[grid]\ndropout = [0.9, 0]\nweight_decay = [1, 2]\nlr = [3, 4]\nseed = [5, 0]\n",
    )
    scale = read_preset(path).full
    made = scale.runs(FOUR)
    assert all(run["steps"] == 7 for run in made)
    assert [tuple(run[name] for name in scale.varied) for run in made] == [
        (seed, lr, decay, domain, dropout)
        for seed in (5, 0)
        for lr in (3, 4)
        for decay in (1, 2)
        for domain in ("b", "a")
        for dropout in (0.9, 0)
    ]
    assert scale.varied == ("seed", "lr", "weight_decay", "test_domain", "dropout")
    assert scale.values("seed") == [5, 0]


def test_variants_change_together(tmp_path: Path) -> None:
    text = (
        PLAIN + "[grid]\nseed = [0, 1]\n"
        "[[variants]]\ndropout = 0\nhead_lr_multiplier = 1\n[[variants]]\ndropout = 0.9\nhead_lr_multiplier = 10\n"
    )
    scale = read_preset(written(tmp_path, text)).full
    assert scale.runs(["a"]) == [
        {"seed": seed, "test_domain": "a", "dropout": dropout, "head_lr_multiplier": rate}
        for seed in (0, 1)
        for dropout, rate in ((0, 1), (0.9, 10))
    ]
    assert scale.values("dropout") == [0, 0.9]
    assert scale.values("size") == [128]


def test_small_replaces_what_it_names_wherever_that_stands(tmp_path: Path) -> None:
    text = PLAIN + (
        "recipe = 'paper'\n[settings]\nbatch = 4\nsteps = 9\n[grid]\nseed = [0, 1, 2]\nlr = [1, 2]\n"
        "[small]\nrecipe = 'short'\ntest_domains = ['a']\n[small.settings]\nlr = 1\n[small.grid]\nsteps = [2, 3]\n"
    )
    preset = read_preset(written(tmp_path, text))
    scale = small(preset)
    assert (scale.recipe, scale.test_domains) == ("short", ("a",))
    assert (scale.settings, scale.grid) == ({"batch": 4, "lr": 1}, {"seed": (0, 1, 2), "steps": (2, 3)})
    assert (preset.full.recipe, preset.full.grid) == ("paper", {"seed": (0, 1, 2), "lr": (1, 2)})
    assert preset.scale("small") is scale


def test_scales_that_are_not_there(tmp_path: Path) -> None:
    preset = read_preset(written(tmp_path, PLAIN))
    assert (preset.name, preset.title, preset.figure) == ("mine", "Mine", "")
    assert preset.full.runs(["a", "b"]) == [{"test_domain": "a"}, {"test_domain": "b"}]
    assert preset.full.values("seed") == [0]
    with pytest.raises(UserError, match=r"mine\.toml has no scale 'small': add a table \[small\] to it"):
        preset.scale("small")
    with pytest.raises(UserError, match=r"unknown scale 'smal'; did you mean 'small'\?"):
        preset.scale("smal")


def test_what_leave_one_domain_out_selection_needs(tmp_path: Path) -> None:
    text = PLAIN + "test_domains = ['b']\nleave_out = true\n[grid]\nlr = [1, 2]\ndropout = [0, 0.9]\n"
    scale = read_preset(written(tmp_path, text)).full
    assert scale.varied == ("lr", "test_domain", "left_out", "dropout")
    made = [(run["lr"], run["test_domain"], run.get("left_out"), run["dropout"]) for run in scale.runs(["a", "b", "c"])]
    assert made[:4] == [(1, "b", None, 0), (1, "b", None, 0.9), (2, "b", None, 0), (2, "b", None, 0.9)]
    assert made[4:] == [(lr, other, "b", rate) for lr in (1, 2) for other in ("a", "c") for rate in (0, 0.9)]


def test_the_package_carries_the_files() -> None:
    root = Path(__file__).parents[2]
    assert '"experiments/presets/*.toml"' in (root / "pyproject.toml").read_text()
    assert {path.suffix for path in FOLDER.iterdir()} == {".toml"}


def test_weights_from_files() -> None:
    runs: list[dict[str, Any]] = [{"model": "a", "lr": 1}, {"model": "b"}, {"lr": 2}]
    assert with_weights(runs, ["a"], []) == runs
    assert with_weights(runs[::2], ["a"], ["w.safetensors"]) == [
        {"model": "a", "lr": 1, "weights": "w.safetensors"},
        {"lr": 2, "weights": "w.safetensors"},
    ]
    both = with_weights(runs[:2], ["a", "b"], ["b=B.safetensors", "a=A.safetensors"])
    assert [run["weights"] for run in both] == ["A.safetensors", "B.safetensors"]


@pytest.mark.parametrize(
    ("models", "weights", "problem"),
    [
        (["a", "b"], ["w"], "--weights w: this preset has 2 models; write --weights MODEL=w"),
        (["a"], ["c=w"], "--weights c=w: this preset has no such model; there are: a"),
        (["a"], ["a=w", "x"], "--weights names a twice"),
        (["r"], ["w"], "--weights w: the preset itself sets weights, 'random'"),
    ],
)
def test_weights_that_do_not_fit(models: list[str], weights: list[str], problem: str) -> None:
    runs = [{"model": model, **({"weights": "random"} if model == "r" else {})} for model in models]
    with pytest.raises(UserError) as caught:
        with_weights(runs, models, weights)
    assert str(caught.value) == problem


@pytest.mark.parametrize("leave_out", ["", "leave_out = true\n"])
def test_a_grid_has_a_bound(tmp_path: Path, leave_out: str) -> None:
    text = f"{PLAIN}{leave_out}[grid]\nseed = {[*range(2_000)]}\nlr = {[number / 1e6 for number in range(1, 502)]}\n"
    scale = read_preset(written(tmp_path, text)).full
    with pytest.raises(UserError, match=r"^the preset has [\d,]+ runs, and a sweep at most 1,000,000: shorten "):
        scale.runs(["a", "b"])
