"""Collapse: told from a slow start and from a small network, on hand-made sequences and on a run that does collapse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import TINY

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import CollapseError
from largedrop.training.collapse import WINDOW, CollapseWatch
from largedrop.training.loop import train

CHANCE = math.log(7)
Steps = list[tuple[float, float]]

HEALTHY: Steps = [(2.5 * 0.95**step, 1.0 + 0.01 * step) for step in range(100)]
COLLAPSED: Steps = [(3.0, 1.0 * 0.8**step) for step in range(30)] + [(CHANCE, 0.001)] * 30
NOT_COLLAPSED: dict[str, Steps] = {
    "healthy": HEALTHY,
    "cold start": [(CHANCE, 1.0)] * 200,
    "high loss, size kept": [(40.0, 1.0)] * 100,
    "small and learned": [(0.1, 0.01)] * 5 + [(0.1, 0.0001)] * 100,
    "shrunk and learned": [(CHANCE, 1.0)] * 10 + [(0.89 * CHANCE, 0.01)] * 100,
    "shrunk, not to nothing": [(CHANCE, 1.0)] + [(CHANCE, 0.11)] * 100,
    "a few bad steps": [(0.5, 1.0)] * 30 + [(CHANCE, 0.0)] * 5 + [(0.5, 1.0)] * 30,
    "from nothing": [(CHANCE, 0.0)] + [(CHANCE, 1.0)] * 60,
}
DIVERGED = [(math.nan, 1.0), (math.inf, 1.0), (-math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]


def follow(watch: CollapseWatch, steps: Steps, start: int = 1) -> tuple[int, str] | None:
    """The step at which ``watch`` raises, and what it says."""
    for number, (loss, size) in enumerate(steps, start):
        try:
            watch.see(number, loss, size)
        except CollapseError as error:
            return number, str(error)
    return None


def watch(dropout: float = 0.9, lr: float = 5e-3) -> CollapseWatch:
    return CollapseWatch(7, dropout, lr, warm=False)


def test_a_collapse_is_said_with_its_numbers_and_what_to_do() -> None:
    assert follow(watch(), [(2.0, 2.0), *[(2.0, 0.12)] * 60]) == (
        21,
        "the run collapsed at step 21: its representation has shrunk to 6.0% of its first size and its loss is 2.00, "
        "that of guessing (log of the classes: 1.95). With dropout 0.9, start from --head warm, lower --lr (it is "
        "0.005) or lower --dropout.",
    )


def test_a_huge_loss_is_not_that_of_guessing() -> None:
    assert follow(watch(), [(2.0, 2.0), *[(4e27, 0.0)] * 60]) == (
        20,
        "the run diverged at step 20: the loss is 3.8e+27. With dropout 0.9, start from --head warm, lower --lr (it is "
        "0.005) or lower --dropout.",
    )


def test_a_gradual_collapse_is_seen_within_a_window() -> None:
    found = follow(watch(), COLLAPSED)
    assert found is not None
    assert found[0] == 25  # 0.8ⁿ averaged over 20 steps, and the loss is above that of guessing all along


@pytest.mark.parametrize("name", NOT_COLLAPSED)
def test_what_is_no_collapse(name: str) -> None:
    assert follow(watch(), NOT_COLLAPSED[name]) is None


def test_the_first_steps_are_not_judged() -> None:
    steps = [(CHANCE, 1.0), *[(CHANCE, 0.0)] * 40]
    found = follow(watch(), steps)
    assert found is not None
    assert found[0] == WINDOW  # 19 of 20 sizes are 0, and 1/20 is less than a tenth


@pytest.mark.parametrize(("loss", "size"), DIVERGED)
def test_a_run_that_diverges_says_so_at_once(loss: float, size: float) -> None:
    assert follow(watch(0.0, 1.0), [(1.0, 1.0)] * 3 + [(loss, size)]) == (
        4,
        f"the run diverged at step 4: the loss is {loss}. "
        "Plain fine-tuning too fails at this rate: lower --lr (it is 1).",
    )


@pytest.mark.parametrize("stop", [0, 1, 5, WINDOW - 1, WINDOW, 24])
def test_a_watch_taken_up_again_gives_the_same_verdict(stop: int) -> None:
    first, second = watch(), watch()
    assert follow(first, COLLAPSED[:stop]) is None
    second.load(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert follow(second, COLLAPSED[stop:], stop + 1) == follow(watch(), COLLAPSED) is not None


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        {"first": "one", "losses": [], "sizes": []},
        {"first": 1.0, "losses": None, "sizes": []},
        {"first": 1.0, "losses": ["?"], "sizes": []},
    ],
)
def test_a_state_of_something_else(state: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        watch().load(state)


SHRINKING: dict[str, Any] = {"lr": 0.1, "weight_decay": 1.0}
EXPLODING: dict[str, Any] = {"lr": 10.0}
LONG: dict[str, Any] = {"dropout": 0.9, "head": "random", "steps": 120, "eval_every": 120, "decay_at": 1.0}
COLLAPSES = (
    r"^the run collapsed at step \d+: its representation has shrunk to \d\.\d% of its first size and its loss is "
    r"(0\.99|1\.\d\d), that of guessing \(log of the classes: 1\.10\)\. With dropout 0\.9, start from --head warm, "
    r"lower --lr \(it is 0\.1\) or lower --dropout\.$"
)
DIVERGES = (
    r"^the run diverged at step \d+: the loss is (nan|inf|\d.*)\. With dropout 0\.9, start from --head warm, "
    r"lower --lr \(it is 10\) or lower --dropout\.$"
)


@pytest.mark.parametrize(("settings", "text"), [(SHRINKING, COLLAPSES), (EXPLODING, DIVERGES)])
def test_a_real_run_fails_and_leaves_no_result(
    data: ld.Dataset, config: Config, tmp_path: Path, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(CollapseError, match=text) as first:
        train(replace(config, **LONG, **settings), data, tmp_path)
    assert not (tmp_path / "result.json").exists()
    with pytest.raises(CollapseError) as again:
        ld.finetune(data, "photo", output=tmp_path, recipe="short", device="cpu", **{**TINY, **LONG, **settings})
    assert str(again.value) == str(first.value)


def test_the_same_run_at_a_sane_rate_goes_well(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    sane = replace(config, **{**LONG, "steps": 30, "eval_every": 30})
    _, entry = train(sane, data, tmp_path).result["log"]
    assert entry["representation_rms"] > 0.3
