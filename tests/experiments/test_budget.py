"""Budgets: what fits a time by given paces, what is too short, and the paces of a tiny run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers import TINY, refusal

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews
from largedrop.experiments import budget
from largedrop.experiments.budget import Pace, chosen_before, fit_budget, fitted, measure, seconds_of
from largedrop.files import write_json

CPU = torch.device("cpu")
PACE = Pace(step=0.1, image=0.01, save=0.5, head=5.0)


@pytest.fixture
def config(data: ld.Dataset) -> Config:
    return Config(data.name, data.fingerprint, "photo", **TINY, weights_digest="random")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 0.5m ", 30)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "m", "-5m", "0m", "0", "10 m", "10min", "1h30m", "1e3s", "nan", "10m\n5", "9" * 400 + "h"]
)
def test_what_is_no_time(text: str) -> None:
    assert refusal(seconds_of, text) == f"--budget must be a time such as 90s, 10m or 1.5h, not {text!r}"


def test_a_number_needs_a_unit() -> None:
    assert refusal(seconds_of, "10") == "--budget 10 has no unit: say 10s, 10m or 10h"


def planned(config: Config, pace: Pace, images: int, scored: int) -> float:
    """The seconds of a run at a pace, part by part."""
    evaluations = 1 + len(config.evaluations) + 1 + config.swad + (9 if config.wise_ft else 0)
    features = images * pace.image
    saved = len(config.evaluations) * pace.save
    return features + pace.head + config.steps * pace.step + evaluations * scored * pace.image + saved


@pytest.mark.parametrize("seconds", [40, 100, 600, 7200])
@pytest.mark.parametrize("changes", [{}, {"swad": True, "wise_ft": True}])
@pytest.mark.parametrize("pace", [PACE, replace(PACE, step=0.02), replace(PACE, image=0.0003), replace(PACE, save=3.0)])
def test_the_whole_run_fits_and_little_is_left(
    config: Config, pace: Pace, changes: dict[str, bool], seconds: float
) -> None:
    chosen, shortest = fitted(replace(config, **changes), seconds, pace, images=1000, scored=100)  # type: ignore[arg-type]
    assert shortest < seconds
    each = 100 * pace.image + pace.save
    assert planned(chosen, pace, 1000, 100) <= 0.95 * seconds + 1e-6
    assert planned(replace(chosen, steps=chosen.steps + 1), pace, 1000, 100) > 0.95 * seconds - each
    assert 1 <= len(chosen.evaluations) <= 8
    assert len(chosen.evaluations) == 1 or (2 + len(chosen.evaluations)) * each <= 0.2 * seconds
    assert chosen.steps >= 10


def test_a_long_budget_has_eight_evaluations_and_few_where_they_are_dear(config: Config) -> None:
    steps = int((570 - 10 - 5 - 2 - 8 * 1.5) / 0.1)
    chosen, _ = fitted(config, 600, PACE, images=1000, scored=100)
    assert (chosen.steps, chosen.eval_every, len(chosen.evaluations)) == (steps, -(-steps // 8), 8)
    dear, _ = fitted(config, 600, PACE, images=10_000, scored=2000)  # 20 s each
    assert len(dear.evaluations) == 3
    assert fitted(config, 1e9, PACE, 1000, 100)[0].steps == 10**7


def test_the_shortest_budget_has_ten_steps_and_one_evaluation(config: Config) -> None:
    _, shortest = fitted(config, 1.0, PACE, images=1000, scored=100)
    assert shortest == pytest.approx((10 + 5 + 2 + 1.5 + 10 * 0.1) / 0.95)
    chosen, _ = fitted(config, shortest + 1e-6, PACE, images=1000, scored=100)
    assert (chosen.steps, chosen.evaluations) == (10, (10,))


def paced(monkeypatch: pytest.MonkeyPatch, step: float) -> list[int]:
    """Measure ``step`` seconds for a step at 64 pixels, and more by area; the sizes that are measured."""
    sizes: list[int] = []

    def pretend(config: Config, data: ld.Dataset, views: object) -> Pace:
        sizes.append(config.size)
        return Pace(step * (config.size / 64) ** 2, 1e-4, 0.0, 0.5)

    monkeypatch.setattr(budget, "measure", pretend)
    return sizes


@pytest.mark.parametrize(
    ("step", "recipe", "size", "measured"),
    [
        (0.01, 224, 224, [64, 96, 128, 160, 224]),
        (0.01, 128, 128, [64, 96, 128]),
        (0.1, 224, 128, [64, 96, 128, 160]),
        (0.5, 224, 64, [64, 96]),
        (2.0, 224, 64, [64]),  # 51 steps, which is the best there is
        (0.01, 100, 96, [64, 96]),
        (0.01, 32, 32, [32]),
    ],
)
def test_the_largest_size_that_leaves_enough_steps(
    data: ld.Dataset,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    step: float,
    recipe: int,
    size: int,
    measured: list[int],
) -> None:
    sizes = paced(monkeypatch, step)
    chosen = fit_budget(data, [replace(config, size=recipe)], 180 if step < 2 else 110, CPU)
    assert sizes == measured
    assert chosen.size == size
    assert (chosen.steps >= 300) is (step < 2)


def test_a_given_size_is_kept(data: ld.Dataset, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = paced(monkeypatch, 0.5)
    assert fit_budget(data, [replace(config, size=200)], 180, CPU, (200,)).size == 200
    assert sizes == [200]


def test_the_largest_evaluation_counts(uneven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ld.open_dataset(uneven)
    configs = [Config(data.name, data.fingerprint, name, **TINY, weights_digest="random") for name in ("oil", "photo")]
    scored: list[int] = []

    def watched(config: Config, seconds: float, pace: Pace, images: int, each: int) -> tuple[Config, float]:
        scored.append(each)
        return fitted(config, seconds, pace, images, each)

    paced(monkeypatch, 0.01)
    monkeypatch.setattr(budget, "fitted", watched)
    fit_budget(data, configs, 60, CPU, (32,))
    splits = [config.split_of(data) for config in configs]
    sizes = [len(split.iid) + len(split.ood) for split in splits]
    assert sizes[0] < sizes[1]
    assert scored == [sizes[1]]


def test_a_budget_that_is_too_short(data: ld.Dataset, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    paced(monkeypatch, 2.0)
    assert refusal(fit_budget, data, [config], 20.0, CPU, (64,)) == (
        "a budget of 20 s is too short: 10 steps and one evaluation at 64 px take 22 s here"
    )
    assert fit_budget(data, [config], 22.0, CPU, (64,)).steps == 10


def test_what_was_chosen_before_is_read(tmp_path: Path) -> None:
    assert chosen_before(tmp_path / "new", 60.0) is None
    write_json(tmp_path / "comparison.json", {"budget": 60.0, "steps": 7, "size": 64, "eval_every": 2, "lr": 1})
    assert chosen_before(tmp_path, 60.0) == {"steps": 7, "size": 64, "eval_every": 2}
    another = f"{tmp_path} belongs to a comparison with a budget of 60 s; name another --output"
    assert refusal(chosen_before, tmp_path, 90.0) == another
    write_json(tmp_path / "comparison.json", {"steps": 7})
    assert refusal(chosen_before, tmp_path, 90.0) == (
        f"{tmp_path} belongs to a comparison without a budget; name another --output"
    )


def test_what_was_chosen_before_is_that_of_the_runs_where_the_file_is_damaged(tmp_path: Path, config: Config) -> None:
    (tmp_path / "comparison.json").write_text("{")
    said = refusal(chosen_before, tmp_path, 60.0)
    assert said.startswith(f"{tmp_path / 'comparison.json'} is not JSON: ")
    assert said.endswith("; name another --output")
    write_json(tmp_path / "runs" / "a" / "config.json", config.to_json())
    expected = {"steps": config.steps, "size": config.size, "eval_every": config.eval_every}
    assert chosen_before(tmp_path, 60.0) == expected


def test_the_parts_of_a_tiny_run_are_measured_and_nothing_is_drawn(data: ld.Dataset, config: Config) -> None:
    before = torch.random.get_rng_state()
    changed = replace(config, swad=True, dropout=0.5)
    pace = measure(changed, data, HostViews(data))
    assert all(0 < seconds < 60 for seconds in vars(pace).values())
    assert pace.image < pace.step
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_time_is_the_median_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 9, 10, 11, 20, 22, 30, 33, 40, 44])  # 9 to warm up, then 1, 2, 3 and 4 s
    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: next(ticks))
        taken = budget._time_of(calls.append, warm_up=1)
    assert taken == 2  # three calls took more than 2 s
    assert calls == [0, 1, 2, 3]
